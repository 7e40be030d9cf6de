"""One party of a call, and the things in Asterisk that belong to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from kallglot_ari.calls.model import LegState

MEDIA_TRIES = 3
"""External-media channels of a leg that may fail before it counts as without."""


class Thing(Enum):
    """Life of a channel or bridge that we make: it only moves down."""

    NONE = auto()
    ASKED = auto()
    """The command is under way."""
    LIVE = auto()
    GONE = auto()


@dataclass(slots=True)
class Leg:
    """A party: its channel, a mixing bridge of its own, and an external-media channel in that bridge."""

    id: str
    speaker: str
    language: str = ""
    channel_id: str = ""
    channel_name: str = ""
    up: bool = False
    """The channel is in our application and may be bridged."""
    ours: bool = False
    """We dialled it, so we hang it up; otherwise it came from the dialplan."""
    answered: bool = False
    hung_up: bool = False
    """Asterisk said that this party hung up."""
    held: bool = False
    bridge_id: str = ""
    bridge: Thing = Thing.NONE
    media_id: str = ""
    media: Thing = Thing.NONE
    media_entered: bool = False
    media_addressed: bool = False
    media_bridged: bool = False
    media_tries: int = 0
    in_bridge: str = ""
    """The bridge we last asked for."""
    in_bridge_done: str = ""
    """The bridge that Asterisk confirmed."""
    uplink_on: bool = True
    music_on: bool = False
    originals: dict[str, float] = field(default_factory=dict)

    @property
    def media_usable(self) -> bool:
        """The external-media channel can be bridged: it entered our application and we know its address."""
        return self.media is Thing.LIVE and self.media_entered and self.media_addressed

    @property
    def connected(self) -> bool:
        """Audio can flow: party and media are in the same bridge, confirmed."""
        return self.up and self.media_bridged and self.in_bridge_done == self.bridge_id != ""

    @property
    def state(self) -> LegState:
        """What the API shows."""
        if self.up:
            return LegState.HELD if self.held else LegState.UP
        return LegState.DIALLING if self.channel_id == "" else LegState.GONE


@dataclass(slots=True)
class Candidate:
    """A channel that is being dialled and may become a leg's party."""

    channel_id: str
    endpoint: str
    leg: str
    replaces: bool = False
    """A transfer: when it answers, the leg's present party is let go."""
    ringing: bool = False
