"""An Asterisk, as its ARI shows it: channels, bridges, one application, and what its dialplan and phones do by themselves."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from enum import StrEnum, auto

from kallglot_ari.errors import AriBadRequest, AriConflict, AriNotFound, AriNotInStasis, AriUnavailable
from tests.ari.fake import channel as channel_document
from tests.ari.fake import event as event_document
from tests.stories.clock import some
from tests.stories.line import Line
from tests.stories.world import World

NORMAL, BUSY, NO_ANSWER = 16, 17, 19
"""Causes by Q.850."""
FORWARDED_TO = ("Local/good@phones", "Local/good@phones", "Local/nobody@phones", "Local/busy@phones")
CALLER = "17."
"""What the channel of every caller from the dialplan begins with."""


class Where(StrEnum):
    """Who has a channel."""

    DIALPLAN = auto()
    DIALLED = auto()
    STASIS = auto()


@dataclass
class Channel:
    """A channel; of a Local one that we dial, the half that is ours."""

    id: str
    name: str
    state: str = "Up"
    where: Where = Where.DIALPLAN
    bridge: str = ""
    music: bool = False
    held: bool = False
    subscribed: bool = False
    """The application hears of it wherever it is."""
    phone: str = ""
    """Behind a Local channel: the channel of the phone that answered."""
    screened: bool = False
    """The dialplan has it to find out whether a person answered."""
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def is_party(self) -> bool:
        return not self.name.startswith("UnicastRTP/")

    @property
    def other_half(self) -> str:
        return f"{self.id};2"

    def document(self) -> dict[str, object]:
        """ARI's `Channel`."""
        app = {Where.DIALPLAN: "Wait", Where.DIALLED: "AppDial2", Where.STASIS: "Stasis"}[self.where]
        place = {"context": "phones", "exten": "s", "priority": 1, "app_name": app}
        return channel_document(self.id, name=self.name, state=self.state, dialplan=place)


class Asterisk:
    """What goes on in it. Requests (`requests`) and the script call its methods."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.channels: dict[str, Channel] = {}
        self.bridges: dict[str, None] = {}
        """Those of the application."""
        self.line: Line | None = None
        """The socket that the application is registered by."""
        self.sent_away: set[str] = set()
        """Parties that somebody has asked us to let go."""
        self.left: set[str] = set()
        """Those that hung up, or that Asterisk lost."""
        self.served: set[str] = set()
        """Those whose call ended in such a way that they are to be hung up."""

    # --- what can be seen --------------------------------------------------------------------------------------------

    @property
    def listens(self) -> bool:
        """Whether the application is registered: `Stasis()` takes a channel."""
        return self.line is not None

    def parties(self) -> list[Channel]:
        """In the application."""
        return [one for one in self.channels.values() if one.where is Where.STASIS and one.is_party]

    def members(self, bridge: str) -> list[str]:
        return [one.id for one in self.channels.values() if one.bridge == bridge]

    def channel(self, channel_id: str) -> Channel:
        """:raises AriNotFound:"""
        if (found := self.channels.get(channel_id)) is None:
            raise AriNotFound(f"no channel {channel_id}", status=404)
        return found

    def in_stasis(self, channel_id: str) -> Channel:
        """:raises AriError:"""
        if (found := self.channel(channel_id)).where is not Where.STASIS:
            raise AriNotInStasis(f"{channel_id} is not in the application", status=409)
        return found

    def subscriptions(self) -> list[str]:
        """The channels that the application hears of."""
        return [one.id for one in self.channels.values() if one.where is Where.STASIS or one.subscribed]

    # --- events ------------------------------------------------------------------------------------------------------

    def tells(self, kind: str, **more: object) -> None:
        """An event for who is connected; it is lost when nobody is."""
        if self.line is not None:
            self.line.put(event_document(kind, **more) | {"timestamp": self.world.clock.wall().isoformat()})

    def cut(self, line: Line | None = None) -> None:
        """The connection (this one) is gone, on both sides."""
        if self.line is not None and line in (None, self.line):
            self.world.tell("the event socket is closed")
            self.line.broken.set()
            self.line = None

    def tells_of(self, kind: str, channel: Channel, **more: object) -> None:
        self.tells(kind, channel=channel.document(), **more)

    # --- channels ----------------------------------------------------------------------------------------------------

    def add(self, channel: Channel) -> Channel:
        """:raises AriConflict:"""
        if channel.id in self.channels:
            raise AriConflict(f"{channel.id} exists", status=409)
        self.channels[channel.id] = channel
        return channel

    def enter(self, channel: Channel, *arguments: str, **more: object) -> None:
        """`Stasis(kallglot,…)`; the application must be registered."""
        channel.where = Where.STASIS
        channel.screened = False
        self.served.discard(channel.id)
        self.world.tell("asterisk", channel.id, "enters:", ",".join(arguments))
        self.tells_of("StasisStart", channel, args=list(arguments), **more)

    def destroy(self, channel_id: str, cause: int, *, asked: bool = False, by_us: bool = False) -> None:
        """A channel is gone. :param asked: its party hung up."""
        if (channel := self.channels.pop(channel_id, None)) is None:
            return
        if not by_us:
            self.left.add(channel_id)
        if channel.phone:
            self.channels.pop(channel.phone, None)
            self.channels.pop(channel.other_half, None)
        if asked:
            self.tells_of("ChannelHangupRequest", channel, cause=NORMAL)
        if channel.where is Where.STASIS:
            self.tells_of("StasisEnd", channel)
        if channel.where is Where.STASIS or channel.subscribed:
            self.tells_of("ChannelDestroyed", channel, cause=cause, cause_txt="")

    def hung_up_by_us(self, channel_id: str) -> None:
        """:raises AriNotFound:"""
        channel = self.channel(channel_id)
        if channel_id.startswith(CALLER):
            self._may_be_hung_up(channel)
        self.destroy(channel_id, NORMAL, by_us=True)

    def _may_be_hung_up(self, caller: Channel) -> None:
        if caller.where is Where.DIALPLAN:
            self.world.breaks(f"Who is in the dialplan is not hung up by us: {caller.id}")
        elif caller.id not in self.sent_away | self.served:
            status = caller.variables.get("KALLGLOT_STATUS", "")
            self.world.breaks(f"A caller is hung up only when the call was completed: {caller.id} {status!r}")

    def to_dialplan(self, channel_id: str, context: str | None) -> None:
        """The application lets go of a channel. :raises AriError:"""
        channel = self.in_stasis(channel_id)
        if channel.music and "unstopped" not in channel.variables:
            self.world.breaks(f"Who goes on elsewhere takes no music along: {channel_id}")
        if context is None and "KALLGLOT_STATUS" not in channel.variables and "untold" not in channel.variables:
            self.world.breaks(f"Who goes on in the dialplan is told why: {channel_id}")
        channel.where, channel.bridge, channel.music = Where.DIALPLAN, "", False
        channel.screened = context == "kallglot-screening"
        channel.held = False  # whoever comes back does not hold: of a hold that began elsewhere a call hears nothing
        self.world.tell("asterisk", channel_id, "goes on in the dialplan", context or "")
        self.tells_of("StasisEnd", channel)
        self.world.does(self._goes_on(channel))

    async def _goes_on(self, channel: Channel) -> None:
        """What a dialplan does with who comes out of `Stasis()`."""
        chance = self.world.dice.of("dialplan", channel.id)
        failed = channel.variables.get("KALLGLOT_STATUS") == "FAILED"  # then something else comes first
        await asyncio.sleep(some(chance, 0.0, 0.1, 2.0) + failed)
        if channel.screened:
            found = chance.choice(["HUMAN", "HUMAN", "MACHINE", ""])
            if not self._is_in_dialplan(channel):
                return
            if found and self.listens:
                self.enter(channel, f"screened={found}")
            else:
                self.destroy(channel.id, NORMAL)
        elif chance.random() < 0.4 and not self.world.weather.fair and self.listens:
            if self._is_in_dialplan(channel):
                self.enter(channel, "source=de", "target=en", "agent=PJSIP/good")
        else:
            await asyncio.sleep(some(chance, 0.5, 5.0, 60.0))
            if self._is_in_dialplan(channel):
                self.destroy(channel.id, NORMAL)

    def _is_in_dialplan(self, channel: Channel) -> bool:
        return self._is_there(channel) and channel.where is Where.DIALPLAN

    def make_media(self, channel_id: str) -> None:
        """An external-media channel; it enters at once, or is gone where nobody listens. :raises AriConflict:"""
        media = self.add(Channel(channel_id, f"UnicastRTP/{channel_id}", subscribed=True))
        if self.listens:
            self.enter(media)
        else:
            self.destroy(channel_id, NORMAL)

    def hold(self, channel: Channel, held: bool) -> None:
        """Its phone holds, or no longer. That of a phone behind a Local channel is told to nobody (22.10)."""
        if channel.name.startswith("PJSIP/"):
            channel.held = held
            self.tells_of("ChannelHold" if held else "ChannelUnhold", channel)

    # --- bridges -----------------------------------------------------------------------------------------------------

    def end_bridge(self, bridge_id: str) -> None:
        del self.bridges[bridge_id]
        for channel in self.channels.values():
            if channel.bridge == bridge_id:
                channel.bridge = ""
        bridge = {
            "id": bridge_id, "technology": "softmix", "bridge_type": "mixing", "bridge_class": "stasis",
            "creator": "Stasis", "name": bridge_id, "channels": [], "video_mode": "none",
            "creationtime": self.world.clock.wall().isoformat(),
        }  # fmt: skip
        self.tells("BridgeDestroyed", bridge=bridge)

    # --- phones ------------------------------------------------------------------------------------------------------

    def dial(self, channel_id: str, endpoint: str, timeout: float) -> None:
        """Originate into the application; what the endpoint does is in its name. :raises AriError:"""
        if "unregistered" in endpoint:
            raise AriUnavailable("Allocation failed", status=500)
        name = f"{endpoint.partition('/n')[0]}-{self.world.number():08x}"
        local = endpoint.startswith("Local/")
        dialled = Channel(channel_id, f"{name};1" if local else name, "Down", Where.DIALLED, subscribed=True)
        self.add(dialled)
        self.world.does(self._rings(dialled, endpoint, timeout))

    async def _rings(self, dialled: Channel, endpoint: str, timeout: float) -> None:
        chance = self.world.dice.of("rings", dialled.id)
        await asyncio.sleep(some(chance, 0.01, 0.2))
        if not self._is_there(dialled):
            return
        if "busy" in endpoint:
            self.destroy(dialled.id, BUSY)
            return
        if "forwards" in endpoint:
            self._forwards(dialled, timeout)
            return
        dialled.state = "Ringing"
        if dialled.subscribed:
            self.tells_of("ChannelStateChange", dialled)
        if "nobody" in endpoint:
            await asyncio.sleep(min(timeout, 25 if chance.random() < 0.3 else timeout))
            if self._is_there(dialled):
                self.destroy(dialled.id, NO_ANSWER)
            return
        await asyncio.sleep(some(chance, 0.1, 1.0, 3.0) + (15 if "late" in endpoint else 0))
        if self._is_there(dialled):
            self._answers(dialled)
        if "flaky" in endpoint:
            await asyncio.sleep(some(chance, 0.0, 0.01, 0.5, 2.0))
            if self._is_there(dialled):
                self.destroy(dialled.id, NORMAL, asked=True)

    def _is_there(self, channel: Channel) -> bool:
        """Another one may have its id by now."""
        return self.channels.get(channel.id) is channel

    def _forwards(self, dialled: Channel, timeout: float) -> None:
        """Its phone sends the call on (302): Asterisk dials there, on a channel that the application has not named and hears nothing of."""
        number = self.world.number()
        there = self.add(Channel(f"22.{number}", f"Local/good@phones-{number:08x};1", "Down", Where.DIALLED))
        self.tells(
            "Dial",
            peer=dialled.document(), forwarded=there.document(), forward="good", dialstatus="CANCEL", dialstring="",
        )  # fmt: skip
        self.destroy(dialled.id, NORMAL, by_us=True)
        self.world.does(self._rings(there, self.world.dice.of("forwards", number).choice(FORWARDED_TO), timeout))

    def subscribe(self, channel_id: str) -> None:
        """:raises AriBadRequest:"""
        if channel_id not in self.channels:
            raise AriBadRequest("EventSource does not exist", status=422)
        self.channels[channel_id].subscribed = True

    def _answers(self, dialled: Channel) -> None:
        dialled.state = "Up"
        if not self.listens:  # Stasis() fails, and there is no dialplan behind it
            self.destroy(dialled.id, NORMAL)
            return
        if dialled.name.startswith("Local/"):
            dialled.phone = f"18.{self.world.number()}"
            self.add(Channel(dialled.other_half, f"{dialled.name[:-1]}2", bridge=f"dial-{dialled.id}"))
            self.add(Channel(dialled.phone, f"PJSIP/behind-{self.world.number():08x}", bridge=f"dial-{dialled.id}"))
        self.enter(dialled, "dialled")

    def fetch(self, name: str) -> None:
        """The dialplan's `kallglot-fetch`: a channel of the dialplan is brought into the application."""
        found = next((one for one in self.channels.values() if one.name == name), None)
        if found is not None:
            self.world.does(self._fetched(found))

    async def _fetched(self, channel: Channel) -> None:
        await asyncio.sleep(some(self.world.dice.of("fetch", channel.id), 0.01, 0.05, 0.5, 6.0))
        if not self._is_in_dialplan(channel):
            return
        if self.listens:
            self.enter(channel, "join=fetched")
        else:  # Stasis() fails, and Hangup() is next
            self.destroy(channel.id, NORMAL)
