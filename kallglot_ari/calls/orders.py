"""What people ask for over the API, the command line and the dashboard."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Outbound:
    """Dial the customer, then the agents, and translate."""

    customer: str
    agent: str
    source: str = ""
    """Empty: as configured."""
    target: str = ""
    caller_id: str = ""
    timeout: float = 30
    """Seconds for each to answer."""
    only_humans: bool = False
    """An answering machine is let go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """Put `target` in a party's place once that answers, or send the party to a place in the dialplan."""

    party: str
    target: str
    """An extension, a dial string, or ``context,extension,priority``."""
    mode: str = "cold"
    """`warm`: the two talk first, and the others wait, until the party leaves."""
    language: str = ""
    """The new party's; empty: as the party's before."""
    timeout: float = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """Dial one more party into a call."""

    endpoint: str
    language: str = ""
    speaker: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Supervision:
    """What a supervisor does in a call."""

    mode: str
    """`listen`, `whisper` or `barge`."""
    hear: str = "both"
    """A speaker, or both."""
    translated: bool = False
    """Hears the translations instead of the originals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Supervisor(Supervision):
    """Dial a supervisor into a call."""

    endpoint: str
    language: str = ""
    speaker: str = ""
