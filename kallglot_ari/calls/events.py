"""What can happen to a call. The shell translates Asterisk, Kallglot, timers and people into these."""

from __future__ import annotations

from dataclasses import dataclass

from kallglot_ari.calls.commands import Command
from kallglot_ari.calls.legs import Role
from kallglot_ari.calls.model import Session


@dataclass(frozen=True, slots=True)
class Event:
    """Root of all events."""


# --- Asterisk --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ChannelEntered(Event):
    """`StasisStart`: for a dialled channel, it answered; for an external-media channel, it may be bridged."""

    channel_id: str
    name: str = ""
    screened: str = ""
    """What the dialplan found out: HUMAN, MACHINE, NOTSURE or HANGUP; empty: it was not asked."""


@dataclass(frozen=True, slots=True)
class ChannelLeft(Event):
    """`StasisEnd`: hung up, or taken elsewhere by a transfer or redirect."""

    channel_id: str


@dataclass(frozen=True, slots=True)
class ChannelGone(Event):
    """`ChannelDestroyed`, or missing from a snapshot; `cause` is the Q.850 cause."""

    channel_id: str
    cause: int = 16


@dataclass(frozen=True, slots=True)
class HangupRequested(Event):
    """`ChannelHangupRequest`: this party hung up."""

    channel_id: str
    cause: int = 16


@dataclass(frozen=True, slots=True)
class CandidateLost(Event):
    """One who was being dialled is gone, and nobody heard why: perhaps it answered, which Asterisk ends when nobody is there."""

    channel_id: str


@dataclass(frozen=True, slots=True)
class CandidateForwarded(Event):
    """A dialled phone sent its call on (302): Asterisk dials there for it, on a channel of its own making, and lets go of the first."""

    channel_id: str
    forwarded: str


@dataclass(frozen=True, slots=True)
class ChannelRinging(Event):
    """A dialled channel rings."""

    channel_id: str


@dataclass(frozen=True, slots=True)
class BridgeGone(Event):
    """A bridge of ours was destroyed by somebody else, or is missing from a snapshot."""

    bridge_id: str


@dataclass(frozen=True, slots=True)
class AsteriskLost(Event):
    """Nothing of the call is in Asterisk any more, no channel and no bridge, or nothing is heard of Asterisk."""

    problem: str = "Asterisk was started anew"


@dataclass(frozen=True, slots=True)
class DtmfReceived(Event):
    """A party pressed a key."""

    channel_id: str
    digit: str
    duration_ms: int = 100
    ended_at: float = 0.0
    """By Asterisk's clock, in seconds; 0: not known."""


@dataclass(frozen=True, slots=True)
class HoldChanged(Event):
    """A party put the call on hold, or took it back."""

    channel_id: str
    held: bool


# --- outcomes of our own commands ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Done(Event):
    """A command was carried out."""

    command: Command


@dataclass(frozen=True, slots=True)
class Failed(Event):
    """A command was not carried out. `gone`: because what it names does not exist any more."""

    command: Command
    error: str
    gone: bool = False


@dataclass(frozen=True, slots=True)
class SessionCreated(Event):
    """The answer to `CreateSession`."""

    command: Command
    session: Session


@dataclass(frozen=True, slots=True)
class StreamUp(Event):
    """The stream of this session is ready for audio."""

    session_id: str


@dataclass(frozen=True, slots=True)
class StreamDown(Event):
    """The stream did not open, or was lost. `final`: trying the same session again is of no use. `ended`: why the session is over,
    in Kallglot's word, where Kallglot says that it is."""

    session_id: str
    reason: str
    final: bool = False
    ended: str | None = None


@dataclass(frozen=True, slots=True)
class TimerFired(Event):
    """A timer set by `SetTimer` ran out."""

    name: str


# --- people and other systems ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HangupAsked(Event):
    """The call shall end: by the API, or by a drain."""

    by: str = "api"


@dataclass(frozen=True, slots=True)
class TransferAsked(Event):
    """Replace `speaker`'s party by `endpoint` once that answers; until then, and if it does not, all stays as it is."""

    speaker: str
    endpoint: str
    timeout: float = 30.0
    language: str = ""
    """The new party's; empty: that of the one it replaces."""
    consult: bool = False
    """First the two talk to each other while the others wait; the new party takes over when the old one leaves."""
    referrer: str = ""
    """The channel whose phone asked for it."""


@dataclass(frozen=True, slots=True)
class FetchAsked(Event):
    """An attended transfer to a party that the dialplan has: it is brought here and replaces the phone that asked."""

    referrer: str
    channel_id: str
    name: str
    helper_id: str = ""


@dataclass(frozen=True, slots=True)
class PartyReplaced(Event):
    """Asterisk itself, or an attended transfer between two of our calls, put `channel_id` in the place of `old`."""

    old: str
    channel_id: str
    name: str = ""
    language: str = ""
    """Its own, if known."""
    referrer: bool = False
    """`old`'s phone asked for it and is told."""
    held: bool = False
    """It is on hold."""


@dataclass(frozen=True, slots=True)
class PartyGiven(Event):
    """This party belongs to another call from now on."""

    channel_id: str


@dataclass(frozen=True, slots=True)
class DialplanAsked(Event):
    """Send `speaker`'s party to a place in the dialplan; it is no longer of this call."""

    speaker: str
    context: str
    extension: str
    priority: str = "1"


@dataclass(frozen=True, slots=True)
class PartyDropped(Event):
    """Let one party go; the others go on if they are two or more."""

    speaker: str


@dataclass(frozen=True, slots=True)
class SuperviseAsked(Event):
    """Dial a supervisor."""

    endpoint: str
    role: Role
    hears_whom: str = "both"
    translated: bool = False
    language: str = ""
    speaker: str = ""
    timeout: float = 30.0


@dataclass(frozen=True, slots=True)
class SuperviseChanged(Event):
    """A supervisor goes on in another role."""

    speaker: str
    role: Role
    hears_whom: str = "both"
    translated: bool = False


@dataclass(frozen=True, slots=True)
class OriginalAsked(Event):
    """How loud a party hears the others' own voices under the translation, in dB; None: not at all."""

    speaker: str
    gain_db: float | None


@dataclass(frozen=True, slots=True)
class DtmfAsked(Event):
    """Send digits to a party."""

    speaker: str
    digits: str


@dataclass(frozen=True, slots=True)
class PartyJoined(Event):
    """A channel entered Stasis with `join=SESSION`."""

    channel_id: str
    name: str = ""
    speaker: str = ""
    language: str = ""


@dataclass(frozen=True, slots=True)
class PartyAsked(Event):
    """Dial one more party into the call."""

    endpoint: str
    speaker: str = ""
    language: str = ""
    timeout: float = 30.0
