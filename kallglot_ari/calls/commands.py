"""What a call wants done. Each names the ids it is about; commands with the same `lane` are carried out in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from kallglot_ari.calls.model import DialplanStatus, EndReason, Session


@dataclass(frozen=True, slots=True)
class Command:
    """Root of all commands."""

    @property
    def lane(self) -> str:
        """Commands of one lane run one after the other, those of different lanes side by side."""
        return ""


# --- Asterisk --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ChannelCommand(Command):
    """Something about one channel."""

    channel_id: str

    @property
    def lane(self) -> str:
        return self.channel_id


@dataclass(frozen=True, slots=True)
class Dial(ChannelCommand):
    """Originate `endpoint` as `channel_id` into our application."""

    endpoint: str
    timeout: float
    originator: str = ""
    """Channel on whose behalf it is dialled: caller id and language come from it."""
    caller_id: str = ""


@dataclass(frozen=True, slots=True)
class Answer(ChannelCommand):
    """Answer the caller."""


@dataclass(frozen=True, slots=True)
class Ring(ChannelCommand):
    """Tell the caller that it rings, or (`on=False`) no longer."""

    on: bool = True


@dataclass(frozen=True, slots=True)
class Hangup(ChannelCommand):
    """Hang up; gone already is success."""

    cause: int = 16


@dataclass(frozen=True, slots=True)
class ContinueInDialplan(ChannelCommand):
    """Give a party to the dialplan: back at the next priority, or to the place named."""

    context: str = ""
    extension: str = ""
    priority: str = ""
    """A number or a label."""


@dataclass(frozen=True, slots=True)
class SetVariable(ChannelCommand):
    """Set a channel variable."""

    name: str
    value: str


TransferState = Literal["channel_progress", "channel_answered", "channel_unavailable", "channel_declined"]
"""How a transfer goes, in Asterisk's words."""


@dataclass(frozen=True, slots=True)
class TransferProgress(ChannelCommand):
    """Tell a phone how the transfer it asked for goes."""

    state: TransferState


@dataclass(frozen=True, slots=True)
class Fetch(ChannelCommand):
    """Bring a channel that the dialplan has into our application."""

    name: str
    helper_id: str
    """Id for the channel that does it."""


@dataclass(frozen=True, slots=True)
class SendDtmf(ChannelCommand):
    """Play digits to a party."""

    digits: str


@dataclass(frozen=True, slots=True)
class MusicOnHold(ChannelCommand):
    """Start or stop music on hold for a party that waits."""

    on: bool


@dataclass(frozen=True, slots=True)
class CreateBridge(Command):
    """A mixing bridge with an id of ours."""

    bridge_id: str

    @property
    def lane(self) -> str:
        return self.bridge_id


@dataclass(frozen=True, slots=True)
class DestroyBridge(Command):
    """Remove it; gone already is success."""

    bridge_id: str

    @property
    def lane(self) -> str:
        return self.bridge_id


@dataclass(frozen=True, slots=True)
class AddToBridge(Command):
    """Put a channel into a bridge, out of the one it is in."""

    bridge_id: str
    channel_id: str

    @property
    def lane(self) -> str:
        return self.channel_id


# --- media -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CreateMedia(ChannelCommand):
    """Open the leg's flow and create its external-media channel; the flow is connected to the address in the reply."""

    leg: str


@dataclass(frozen=True, slots=True)
class RemoveMedia(ChannelCommand):
    """Close the leg's flow and hang up its external-media channel."""

    leg: str


@dataclass(frozen=True, slots=True)
class Uplink(Command):
    """Let a leg's audio go to Kallglot, or (`on=False`) not."""

    leg: str
    on: bool


@dataclass(frozen=True, slots=True)
class Interruptible(Command):
    """Let a leg's party interrupt what is played to it by speaking, or (`on=False`) not."""

    leg: str
    on: bool


@dataclass(frozen=True, slots=True)
class Pressed(Command):
    """A leg's party pressed a key for so long; there was no sound meanwhile."""

    leg: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Repeat(Command):
    """Say the last translation to a leg again."""

    leg: str


@dataclass(frozen=True, slots=True)
class Tone(Command):
    """Play the short tone of a direct connection into the bridge of a leg."""

    leg: str


@dataclass(frozen=True, slots=True)
class Hear(Command):
    """Let `leg` hear `other`'s own voice at `gain_db`, lower by `duck_db` while translated speech is heard; or (None) not."""

    leg: str
    other: str
    gain_db: float | None
    duck_db: float = 0.0


@dataclass(frozen=True, slots=True)
class Route(Command):
    """Whose voice goes where, and who hears whose translation; what is absent is not streamed, or not heard."""

    speaks: tuple[tuple[str, str, str], ...]
    """(leg, link, its speaker label there)."""
    hears: tuple[tuple[str, str, tuple[str, ...]], ...]
    """(leg, link, labels it does not hear there)."""


# --- Kallglot --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CreateSession(Command):
    """Create a session under an idempotency key of ours."""

    key: str
    link: str = ""
    source: str = ""
    target: str = ""
    mode: str = ""
    """Empty: as the call was asked for."""

    @property
    def lane(self) -> str:
        return f"session.{self.link}"


@dataclass(frozen=True, slots=True)
class EndSession(Command):
    """End it. If Kallglot cannot be reached, the outbox goes on trying; to the call that is done."""

    key: str
    session_id: str
    reason: EndReason

    @property
    def lane(self) -> str:
        return f"session.{self.session_id}"


@dataclass(frozen=True, slots=True)
class OpenStream(Command):
    """Connect the session's stream; its outcome is `StreamUp` or `StreamDown`."""

    session: Session
    link: str = ""

    @property
    def lane(self) -> str:
        return f"stream.{self.session.id}"


@dataclass(frozen=True, slots=True)
class CloseStream(Command):
    """Close it; an attempt to open it that is still under way is given up."""

    session_id: str

    @property
    def lane(self) -> str:
        return f"stream.{self.session_id}"


# --- the shell -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SetTimer(Command):
    """Send `TimerFired(name)` after `delay` seconds; a timer of that name that runs is replaced."""

    name: str
    delay: float


@dataclass(frozen=True, slots=True)
class CancelTimer(Command):
    """Stop it; not set is harmless."""

    name: str


@dataclass(frozen=True, slots=True)
class Publish(Command):
    """Tell whoever listens; also the log."""

    event: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Finish(Command):
    """The call is over and nothing of it is left."""

    reason: EndReason
    status: DialplanStatus


RELEASING = (Hangup, RemoveMedia, DestroyBridge, EndSession, CloseStream, ContinueInDialplan)
"""Commands of a teardown: they count as done when what they name is gone already."""
