"""The event socket: opened again for as long as the client lives, events handed on strictly in order.

One attempt is: ask who is there (this tells a wrong password or address apart from a dead Asterisk), open the socket, take a
snapshot, hand on `Connected`, then every event. Nothing is read from the socket while the snapshot is taken, so events that come
meanwhile wait in the socket's own bounded buffers and are handed on after it. The sink is called directly: there is no queue to
overflow, and a slow sink slows Asterisk down instead.

Another service with our application's name takes it from us (`ApplicationReplaced`). We do not fight for it: it is asked for again
after 30 s, then after 60, 120, 240 and 300 s, or as soon as Asterisk no longer knows the name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import aiohttp

from kallglot_ari import log
from kallglot_ari.ari.backoff import Backoff
from kallglot_ari.ari.decode import AnyEvent, GenericEvent, decode_event
from kallglot_ari.ari.models import ApplicationReplaced, AsteriskInfo
from kallglot_ari.ari.operations import Applications, Asterisk, Channels
from kallglot_ari.ari.rest import Rest
from kallglot_ari.ari.snapshot import Connected, Disconnected, take
from kallglot_ari.ari.versions import UNKNOWN, parse_version
from kallglot_ari.clock import Clock
from kallglot_ari.errors import AriError, AriNotFound, AriUnavailable
from kallglot_ari.metrics import Metrics

HEARTBEAT = 10.0
"""Seconds between pings; without a pong for half as long the socket counts as dead."""
SNAPSHOT_TIMEOUT = 8.0
STABLE = 5.0
"""Seconds after which a connection has held, and the waits begin again with the shortest."""
FAIR = 16
"""Events handed on in a row: when a trunk goes down hundreds come at once."""
CLOSED_BY_US = "cancelled"
REPLACED_FIRST, REPLACED_LONGEST, REPLACED_LOOK = 30.0, 300.0, 5.0
"""Seconds before a taken name is asked for again, at first and at most, and between looks whether it is free."""

SocketEvent = AnyEvent | Connected | Disconnected
EventSink = Callable[[SocketEvent], None]
"""Called on the event loop, in order; must not block."""

_log = log.get(__name__)


class EventSocket:
    """Keeps one event socket open. `run` is its only task."""

    def __init__(self, rest: Rest, app: str, sink: EventSink, metrics: Metrics, clock: Clock) -> None:
        self._rest, self._app, self._sink, self._metrics, self._clock = rest, app, sink, metrics, clock
        self._backoff = Backoff()
        self._replaced_backoff = Backoff(REPLACED_FIRST, REPLACED_LONGEST, jitter=lambda: 1.0)
        self._been_connected = False
        self.error: AriError | None = AriUnavailable("not connected yet")
        """Why there is no connection; None when there is one."""
        self.info: AsteriskInfo | None = None
        self.changed = asyncio.Event()
        """Set whenever `error` changes."""

    async def run(self) -> None:
        """Connect, hand on, connect again; ends by cancellation only."""
        while True:
            replaced = False
            try:
                replaced = await self._connection()
            except AriError as error:
                self._fail(error)
            except TimeoutError:
                self._fail(AriUnavailable(f"the snapshot took longer than {SNAPSHOT_TIMEOUT:g} s"))
            if replaced:
                await self._wait_for_the_name()
            else:
                await asyncio.sleep(self._backoff.next())

    async def _connection(self) -> bool:
        """One connection's life; True when another service took the name. :raises AriError: when it does not come about."""
        info = await Asterisk(self._rest).get_info()
        text = info.system.version if info.system else ""
        self._rest.version = version = parse_version(text)
        if version == UNKNOWN:
            _log.warning("ari_version_unreadable", version=text, effect="optional features are off")
        await self._may_write()
        socket = await self._rest.event_socket(self._app, heartbeat=HEARTBEAT)
        try:
            async with asyncio.timeout(SNAPSHOT_TIMEOUT):
                snapshot = await take(self._rest, self._app, info, version)
            again, self._been_connected = self._been_connected, True
            if again:
                self._metrics.ari_reconnects.inc()
            self.info = info
            self._set_error(None)
            _log.info("ari_connected", version=text, again=again, channels=len(snapshot.channels))
            self._deliver(Connected(snapshot, again))
            since = self._clock.now()
            replaced, reason = False, CLOSED_BY_US
            try:
                replaced, reason = await self._hand_on(socket)
            finally:
                self._lost(replaced, reason)
            held = self._clock.now() - since
            if held >= STABLE:
                self._backoff.reset()
            if held > REPLACED_LONGEST:
                self._replaced_backoff.reset()
            return replaced
        finally:
            await socket.close()

    async def _may_write(self) -> None:
        """A read-only user can watch but not act; hanging up nothing tells. :raises AriUnauthorized:"""
        try:
            await Channels(self._rest).hangup("kallglot-nobody")
        except AriNotFound:
            return

    async def _hand_on(self, socket: aiohttp.ClientWebSocketResponse) -> tuple[bool, str]:
        handed = 0
        while True:
            message = await socket.receive()
            if message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                event = decode_event(message.data)
                self._count(event)
                self._deliver(event)
                handed += 1
                if handed % FAIR == 0:
                    # Events that are there already are handed over without a pause: leave others a turn.
                    await asyncio.sleep(0)
                if isinstance(event, ApplicationReplaced) and event.application in ("", self._app):
                    return True, "another service took the application's name"
            elif message.type is aiohttp.WSMsgType.ERROR:
                return False, f"the socket failed: {message.data!r}"
            else:
                return False, f"Asterisk closed the socket (code {socket.close_code})"

    def _count(self, event: AnyEvent) -> None:
        if not isinstance(event, GenericEvent):
            return
        if event.problem:
            self._metrics.ari_malformed_events.inc()
            _log.warning("ari_event_malformed", type=event.type, problem=event.problem)
        else:
            self._metrics.ari_unknown_events.inc()
            _log.debug("ari_event_unknown", type=event.type)

    def _deliver(self, event: SocketEvent) -> None:
        try:
            self._sink(event)
        except Exception:  # noqa: BLE001 - the boundary between the socket and whoever listens: one bad event must not end it
            self._metrics.ari_sink_errors.inc()
            _log.exception("ari_sink_failed", type=getattr(event, "type", type(event).__name__))

    def _lost(self, replaced: bool, reason: str) -> None:
        if replaced:
            message = (
                f"another service took the application name {self._app!r}; give every service its own ari.app, "
                "or stop the other one"
            )
            _log.error("ari_application_replaced", app=self._app, problem=message)
        else:
            message = f"the event socket was lost: {reason}"
            if reason != CLOSED_BY_US:
                _log.warning("ari_disconnected", reason=reason)
        self._set_error(AriUnavailable(message))
        self._deliver(Disconnected(reason))

    def _fail(self, error: AriError) -> None:
        if self.error is None or str(self.error) != str(error):
            _log.warning("ari_not_connected", problem=str(error))
        self._set_error(error)

    def _set_error(self, error: AriError | None) -> None:
        self.error = error
        self.changed.set()

    async def _wait_for_the_name(self) -> None:
        until = self._clock.now() + self._replaced_backoff.next()
        while (left := until - self._clock.now()) > 0:
            await asyncio.sleep(min(REPLACED_LOOK, left))
            try:
                await Applications(self._rest).get(self._app)
            except AriNotFound:
                return
            except AriError:
                continue
