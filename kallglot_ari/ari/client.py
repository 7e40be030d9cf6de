"""The ARI client: operations by resource, and one event socket that comes back by itself."""

from __future__ import annotations

import asyncio

from kallglot_ari import log
from kallglot_ari.ari import operations
from kallglot_ari.ari.resources import CallBridges, CallChannels
from kallglot_ari.ari.rest import Rest
from kallglot_ari.ari.snapshot import Connected
from kallglot_ari.ari.socket import EventSink, EventSocket, SocketEvent
from kallglot_ari.ari.versions import FEATURES, UNKNOWN, Version, has, written
from kallglot_ari.clock import Clock
from kallglot_ari.errors import AriError, AriUnauthorized, AriUnavailable, AriUnsupported
from kallglot_ari.metrics import Metrics
from kallglot_ari.settings import AriSettings
from kallglot_ari.tasks import Tasks

WARM_CONNECTIONS = 4
WARM_EVERY = 5.0
"""Connections kept open, and seconds between the requests that keep them."""

_log = log.get(__name__)


class AriClient:
    """ARI of one Asterisk.

    ::

        client = AriClient(settings.ari, metrics, clock)
        await client.start(sink)
        await client.wait_connected(10)
        await client.channels.answer(channel_id)
    """

    def __init__(self, settings: AriSettings, metrics: Metrics, clock: Clock) -> None:
        """Make it on the event loop. :raises ConfigError: when `ari.ca_file` cannot be used."""
        self._settings, self._metrics, self._clock = settings, metrics, clock
        self._rest = rest = Rest(settings)
        self._tasks = Tasks("ari")
        self._socket: EventSocket | None = None
        self._events: asyncio.Task[None] | None = None
        self._told: Version | None = None
        self.channels = CallChannels(rest, settings.app)
        self.bridges = CallBridges(rest)
        self.applications = operations.Applications(rest)
        self.asterisk = operations.Asterisk(rest)
        self.device_states = operations.DeviceStates(rest)
        self.endpoints = operations.Endpoints(rest)
        self.events = operations.Events(rest)
        self.mailboxes = operations.Mailboxes(rest)
        self.playbacks = operations.Playbacks(rest)
        self.recordings = operations.Recordings(rest)
        self.sounds = operations.Sounds(rest)

    @property
    def connected(self) -> bool:
        """The event socket is open, and its snapshot was handed on."""
        return self._socket is not None and self._socket.error is None

    @property
    def version(self) -> Version:
        """Of the Asterisk connected to, now or last; `UNKNOWN`, (0, 0, 0), before."""
        return self._rest.version

    @property
    def problem(self) -> str:
        """Why there is no connection and what to do about it, in one line; empty when there is one."""
        if self._socket is None:
            return "ARI: not started"
        return "" if self._socket.error is None else f"ARI: {self._socket.error}"

    def supports(self, feature: str) -> bool:
        """Whether this Asterisk has a feature of `FEATURES`. :raises KeyError: for one that is not there."""
        return has(self.version, FEATURES[feature])

    def require(self, feature: str, wanted_by: str) -> None:
        """:raises AriUnsupported: when this Asterisk, as far as it is known, lacks a feature that `wanted_by` needs."""
        if self.version != UNKNOWN and not self.supports(feature):
            raise AriUnsupported(
                f"{wanted_by}: expected Asterisk {written(FEATURES[feature])} or later, "
                f"found {'.'.join(map(str, self.version))}"
            )

    async def start(self, sink: EventSink) -> None:
        """Begin to connect; returns at once, whether Asterisk is there or not. `sink` gets every event, in order."""
        if self._socket is not None:
            raise RuntimeError("an AriClient starts once")

        def told(event: SocketEvent) -> None:
            if isinstance(event, Connected):
                self._tell_features()
            sink(event)

        self._socket = EventSocket(self._rest, self._settings.app, told, self._metrics, self._clock)
        self._events = self._tasks.spawn(self._socket.run(), name="events")
        self._tasks.spawn(self._keep_warm(), name="warm")

    def reconnect(self) -> None:
        """Close the event socket, which outlives its user's password, and ask again. Meanwhile Asterisk gives `Stasis()` no channel."""
        if self._socket is not None and self._events is not None:
            self._events.cancel()
            self._events = self._tasks.spawn(self._socket.run(), name="events")

    async def wait_connected(self, timeout: float) -> None:
        """Wait until connected, up to `timeout` seconds.

        :raises AriUnauthorized: at once, when Asterisk does not take the user.
        :raises AriError: the last problem, when the time is over.
        """
        if (socket := self._socket) is None:
            raise AriUnavailable("not started")
        deadline = asyncio.get_running_loop().time() + timeout
        while (error := socket.error) is not None:
            if isinstance(error, AriUnauthorized):
                raise error
            socket.changed.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await socket.changed.wait()
            except TimeoutError:
                raise socket.error or error from None

    async def close(self) -> None:
        """Close the socket and the connections. Closing twice is harmless."""
        await self._tasks.close()
        if self._socket is not None and self._socket.error is None:
            self._socket.error = AriError("the client is closed")
        await self._rest.close()

    def _tell_features(self) -> None:
        if self.version in (self._told, UNKNOWN):
            return
        self._told = self.version
        missing = {name: written(since) for name, since in FEATURES.items() if not self.supports(name)}
        _log.info(
            "ari_features",
            version=".".join(map(str, self.version)),
            available=[name for name in FEATURES if name not in missing],
            missing={name: f"needs {since}" for name, since in missing.items()},
        )

    async def _keep_warm(self) -> None:
        while True:
            if self.connected:
                await self._rest.warm(WARM_CONNECTIONS)
            await asyncio.sleep(WARM_EVERY)
