"""The connection to the manager interface: kept up, and told what happens.

panoramisk reads and writes the protocol. Its own reconnecting is not used: it cannot be stopped while it waits, and asks a wrong
password again every two seconds. The password itself never crosses the line: the log-in is by MD5 challenge.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from panoramisk.ami_protocol import AMIProtocol
from panoramisk.manager import Manager

from kallglot_ari import log
from kallglot_ari.ami import protocol
from kallglot_ari.errors import AmiError, AmiUnauthorized, AmiUnavailable, cannot_connect
from kallglot_ari.metrics import Metrics
from kallglot_ari.portions import Portions
from kallglot_ari.settings import AmiSettings
from kallglot_ari.tasks import Tasks, happens

_log = log.get(__name__)

CLASSES = "system,call,dtmf,reporting"
"""Event classes asked for; manager.conf must permit them in `read`."""
ACTION_SECONDS = 5.0
PING_SECONDS = 10.0
BACK_OFF = (0.5, 15.0)
"""First and longest pause before the next try, in seconds."""
REFUSED_SECONDS = 60.0
"""Pause after a wrong password, which time does not cure."""
MAX_BUFFER = 1 << 20
PORTION = 8192
"""Octets looked at before everybody else has a turn: 90 events or so."""


@dataclass(frozen=True, slots=True)
class ChannelInfo:
    """A live channel."""

    uniqueid: str
    channel: str
    linkedid: str
    up: bool


class _Connection(Manager):  # type: ignore[misc]  # panoramisk has no types
    """One connection and no more: reconnecting is ours."""

    def __init__(self, lost: asyncio.Event, event: Callable[[protocol.Fields], None]) -> None:
        loop = asyncio.get_running_loop()
        # latin-1 keeps every octet apart, also where a read cuts a UTF-8 sequence in two
        super().__init__(encoding="latin-1", loop=loop, ping_delay=86400, log=_Quiet(), forgetable_actions=())
        self._lost = lost
        self._event = event

    def connection_lost(self, _: object) -> None:
        if self.pinger:
            self.pinger.cancel()
        self._lost.set()

    def dispatch(self, event: Any) -> list[str]:
        self._event(_fields(event))
        return []


class _Protocol(AMIProtocol):  # type: ignore[misc]  # panoramisk has no types
    """panoramisk's protocol with a bound, and without the repetition of actions on the next connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._portions = Portions(transport, self._look_at, self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._portions.drop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._portions.take(data)

    def _look_at(self, data: bytes) -> None:
        super().data_received(data[:PORTION])
        self._portions.hold(data[PORTION:])
        if sum(map(len, self.queue)) > MAX_BUFFER:
            _log.error("ami_flood", expected=f"events below {MAX_BUFFER} octets")
            self.transport.abort()

    def close(self) -> None:
        for action in list(self.responses.values()):
            if not action.future.done():
                action.future.set_exception(AmiUnavailable("AMI: the connection closed before the answer"))
                action.future.exception()
        self.responses.clear()
        super().close()


class _Quiet:
    """panoramisk's own log holds the actions' texts; ours is enough."""

    def __getattr__(self, _: str) -> Callable[..., None]:
        return lambda *_args, **_kwargs: None


def _fields(message: Any) -> dict[str, str]:
    found = {}
    for key, value in message.items():
        text = value[-1] if isinstance(value, list) else value
        found[key.lower()] = str(text).encode("latin-1", "replace").decode("utf-8", "replace")
    return found


def _octets(value: str) -> str:
    return protocol.plain(value).encode("utf-8").decode("latin-1")


class AmiClient:
    """Keeps one log-in up.

    :param on_event: called on the event loop for each event of `protocol`; must not block.
    :param on_connected: awaited after each log-in with the channels that are up: the time to reconcile.
    """

    def __init__(
        self,
        settings: AmiSettings,
        metrics: Metrics,
        *,
        on_event: Callable[[protocol.Event], None],
        on_connected: Callable[[list[ChannelInfo]], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._on_event = on_event
        self._on_connected = on_connected
        self._tasks = Tasks("ami")
        self._manager: _Connection | None = None
        self._up = asyncio.Event()
        self._problem = "not connected yet"
        self._down = log.Lasting(_log, "ami_down")

    @property
    def connected(self) -> bool:
        return self._manager is not None

    @property
    def problem(self) -> str:
        """Why it is not connected; empty when it is."""
        return "" if self.connected else self._problem

    async def start(self) -> None:
        """Begin to connect; returns at once, for Asterisk may come later."""
        self._tasks.spawn(self._run(), name="connection")

    async def stop(self) -> None:
        await self._tasks.close()

    async def wait_connected(self, timeout: float) -> bool:
        """True as soon as it is logged in, False after `timeout` seconds."""
        return await happens(self._up, timeout)

    async def _run(self) -> None:
        pause, connects = BACK_OFF[0], 0
        while True:
            lost = asyncio.Event()
            try:
                manager = await self._connect(lost)
                connects += 1
                pause = BACK_OFF[0]
                if connects > 1:
                    self._metrics.ami_reconnects.inc()
                await self._serve(manager, lost)
                self._problem = "connection lost"
            except AmiUnauthorized as error:
                self._problem, pause = str(error), REFUSED_SECONDS
            except (AmiError, OSError, TimeoutError) as error:
                self._problem = str(error) or type(error).__name__
            finally:
                self._manager = None
            self._down.failed(self._problem)
            await asyncio.sleep(pause * random.uniform(0.75, 1.25))
            pause = min(pause * 2, BACK_OFF[1])

    async def _connect(self, lost: asyncio.Event) -> _Connection:
        manager = _Connection(lost, self._received)
        loop = asyncio.get_running_loop()
        s = self._settings
        # Not wait_for, here and below: up to Python 3.11 it forgets a cancellation that comes together with what it waits for
        # (CPython issue 86296), and `stop` would wait for ever.
        try:
            async with asyncio.timeout(ACTION_SECONDS):
                pair = await loop.create_connection(_Protocol, s.host, s.port)
        except OSError as error:
            why = cannot_connect(error)
            raise AmiUnavailable(
                f"ami.host, ami.port: no connection to {s.host}:{s.port} ({why}); "
                "is the manager enabled and bound there in manager.conf?"
            ) from None
        ready: asyncio.Future[Any] = loop.create_future()
        ready.set_result(pair)
        manager.connection_made(ready)
        try:
            challenge = await self._ask(manager, {"Action": "Challenge", "AuthType": "MD5"})
            password = s.password.get_secret_value()
            key = hashlib.md5((challenge["challenge"] + password).encode(), usedforsecurity=False).hexdigest()
            login = {"Action": "Login", "AuthType": "MD5", "Username": s.username, "Key": key, "Events": CLASSES}
            await self._ask(manager, login)
        except KeyError:
            manager.close()
            raise AmiError(f"AMI {s.host}:{s.port}: expected a challenge, found none") from None
        except AmiUnavailable:
            manager.close()
            raise
        except AmiError as error:
            manager.close()
            raise AmiUnauthorized(f"ami.username, ami.password: {s.host}:{s.port} says: {error}") from None
        return manager

    async def _serve(self, manager: _Connection, lost: asyncio.Event) -> None:
        self._manager = manager
        try:
            channels = await self.channels()
            self._down.worked()
            _log.info("ami_up", host=self._settings.host, channels=len(channels))
            self._up.set()
            await self._on_connected(channels)
            while not lost.is_set():
                if not await happens(lost, PING_SECONDS):
                    await self.action("Ping")
        finally:
            self._manager = None
            self._up.clear()
            manager.close()

    def _received(self, fields: protocol.Fields) -> None:
        event = protocol.parse(fields)
        if event is None:
            return
        try:
            self._on_event(event)
        except Exception:  # noqa: BLE001 - boundary: one event's fault must not end the connection
            _log.exception("ami_event_fault", kind=type(event).__name__)

    async def _ask(self, manager: _Connection, action: dict[str, Any]) -> dict[str, str]:
        return (await self._send(manager, action))[0]

    async def _send(self, manager: _Connection, action: dict[str, Any]) -> list[dict[str, str]]:
        """The answer, and the events of a list behind it."""
        ready = {
            key: [_octets(item) for item in value] if isinstance(value, list) else _octets(value)
            for key, value in action.items()
        }
        try:
            # without as_list panoramisk holds back an Originate's answer until the call is over
            as_list = False if action["Action"] == "Originate" else None
            async with asyncio.timeout(ACTION_SECONDS):
                answer = await manager.send_action(ready, as_list=as_list)
        except TimeoutError:
            manager.protocol.transport.abort()
            raise AmiUnavailable(
                f"AMI {action['Action']}: expected an answer within {ACTION_SECONDS:g} s, found none"
            ) from None
        messages = [_fields(item) for item in (answer if isinstance(answer, list) else [answer])]
        if messages[0].get("response", "").lower() not in ("success", "follows", "goodbye"):
            raise AmiError(messages[0].get("message", "refused without a message"))
        return messages

    async def action(self, name: str, **fields: str | list[str]) -> list[dict[str, str]]:
        """Send an action; the names of `fields` are its headers.

        :returns: the answer's headers, then those of each event of a list.
        :raises AmiUnavailable: not connected, or no answer. :raises AmiError: Asterisk refused.
        """
        if self._manager is None:
            raise AmiUnavailable(f"AMI {name}: not connected: {self._problem}")
        return await self._send(self._manager, {"Action": name, **fields})

    async def channels(self) -> list[ChannelInfo]:
        """The channels that are there now."""
        messages = await self.action("CoreShowChannels")
        return [
            ChannelInfo(
                m.get("uniqueid", ""), m.get("channel", ""), m.get("linkedid", ""), m.get("channelstate") == "6"
            )
            for m in messages[1:]
            if m.get("event", "").lower() == "coreshowchannel"
        ]

    async def variable(self, channel: str, name: str) -> str:
        """A channel's variable, or what a dialplan function of that name says of it. :raises AmiError:"""
        return (await self.action("Getvar", Channel=channel, Variable=name))[0].get("value", "")

    async def hangup(self, channel: str, cause: int = 16) -> bool:
        """Hang a channel up; False when it is gone already."""
        try:
            await self.action("Hangup", Channel=channel, Cause=str(cause))
        except AmiUnavailable:
            raise
        except AmiError:
            return False
        return True

    async def originate(
        self,
        dial: str,
        *,
        context: str,
        exten: str,
        caller_id: str,
        timeout: float,
        channel_id: str,
        variables: list[str],
    ) -> None:
        """Dial `dial`, and send whoever answers to the dialplan. The result comes as `OriginateDone` with `channel_id`.

        :raises AmiError: Asterisk did not take it.
        """
        await self.action(
            "Originate", ActionID=channel_id, Channel=dial, Context=context, Exten=exten, Priority="1", Async="true",
            CallerID=caller_id, Timeout=str(int(timeout * 1000)), ChannelId=channel_id, Variable=variables,
        )  # fmt: skip
