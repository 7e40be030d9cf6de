"""One party of a call, and the things in Asterisk that belong to it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum, StrEnum, auto

from kallglot_ari.calls.model import LegState

MEDIA_TRIES = 3
"""External-media channels of a leg that may fail, one after the other, before it counts as without."""
MEDIA_STABLE = 10.0
"""Seconds after which one that is in its bridge is taken as good: only then does the count begin again."""
MEDIA_HEAL_FIRST, MEDIA_HEAL_LAST = 15.0, 300.0
"""Seconds until one that counts as without is given another try; doubled each time."""


class Thing(Enum):
    """Life of a channel or bridge that we make: it only moves down, until another is made in its place."""

    NONE = auto()
    ASKED = auto()
    """The command is under way."""
    LIVE = auto()
    GONE = auto()


class Role(StrEnum):
    """What a leg is to its call."""

    PARTY = "barge"
    LISTEN = "listen"
    WHISPER = "whisper"


@dataclass(slots=True)
class Leg:
    """A party: its channel, a mixing bridge of its own, and an external-media channel in that bridge."""

    id: str
    speaker: str
    language: str = ""
    role: Role = Role.PARTY
    supervises: bool = False
    """It came as a supervisor, and may change its role."""
    hears_whom: str = ""
    """Of a supervisor: a speaker, or `both`."""
    hears_translated: bool = False
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
    vacant: bool = False
    """Its party has left, and who shall come instead is being dialled."""
    bridge_id: str = ""
    bridge: Thing = Thing.NONE
    media_id: str = ""
    media: Thing = Thing.NONE
    media_entered: bool = False
    media_addressed: bool = False
    media_bridged: bool = False
    media_tries: int = 0
    """External-media channels that were asked for."""
    media_failures: int = 0
    """Those of them that were not good, one after the other; and the one that is asked for or there."""
    media_given_up: bool = False
    """It is without, until another one is in its bridge."""
    media_waits: bool = False
    """Another one is made when the timer says so."""
    media_heal: float = MEDIA_HEAL_FIRST
    media_since: float | None = None
    """When it was put into its bridge."""
    in_bridge: str = ""
    """The bridge we last asked for."""
    in_bridge_done: str = ""
    """The bridge that Asterisk confirmed."""
    uplink_on: bool = True
    interruptible: bool = False
    digits: str = ""
    """Dialled, and perhaps the beginning of a code."""
    last_digit: tuple[str, float] = ("", 0.0)
    """The digit, and when it ended by Asterisk's clock."""
    original_db: float | None = None
    """How loud it hears others' own voices; None: as the call was set up, `features.OFF`: not at all."""
    music_on: bool = False
    """Asked for, be it on or off; `music_done`: Asterisk confirmed it."""
    music_done: bool = True
    originals: dict[str, tuple[float, float]] = field(default_factory=dict)

    def takes(self, channel_id: str, name: str, language: str = "") -> None:
        """This channel, which we hang up in the end, is the party from now on."""
        self.channel_id, self.channel_name = channel_id, name
        self.up = self.ours = self.answered = True
        self.held = self.hung_up = self.music_on = self.vacant = False
        self.music_done = True
        self.in_bridge = self.in_bridge_done = ""
        self.language = language or self.language

    def speaking(self, language: str) -> Leg:
        """The same leg with a party of another language, to think ahead with."""
        return replace(self, language=language)

    @property
    def media_usable(self) -> bool:
        """The external-media channel can be bridged: it entered our application and we know its address."""
        return self.media is Thing.LIVE and self.media_entered and self.media_addressed

    @property
    def media_there(self) -> bool:
        """Asterisk has the external-media channel, as far as we know."""
        return self.media is Thing.LIVE or (self.media is Thing.ASKED and self.media_entered)

    @property
    def lacks_media(self) -> bool:
        """It cannot be translated: three channels in a row were not good, and no other one is in its bridge yet."""
        return self.media_given_up or (self.media is Thing.GONE and self.media_failures >= MEDIA_TRIES)

    @property
    def connected(self) -> bool:
        """Audio can flow: party and media are in the same bridge, confirmed."""
        return self.up and self.media_bridged and self.in_bridge_done == self.bridge_id != ""

    @property
    def state(self) -> LegState:
        """What the API shows."""
        if self.up:
            return LegState.HELD if self.held else LegState.UP
        return LegState.DIALLING if self.channel_id == "" or self.vacant else LegState.GONE


@dataclass(slots=True)
class Candidate:
    """A channel that is being dialled and may become a leg's party."""

    channel_id: str
    endpoint: str
    leg: str
    replaces: bool = False
    """A transfer: when it answers, the leg's present party is let go."""
    placed: bool = False
    """Asterisk has the call."""
    ringing: bool = False
    language: str = ""
    """Of who is dialled; empty: the leg's."""
    referrer: str = ""
    """The channel whose phone asked for the transfer and is told how it goes."""
    screened: bool = True
    """It need not be found out any more whether a person answers."""
    fetched: bool = False
    """It is not dialled but brought here from the dialplan."""
