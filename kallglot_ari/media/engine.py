"""The media engine: opens flows, passes commands to the tick, and brings its chunks and figures to the event loop."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from kallglot_ari.audio.codecs import registry
from kallglot_ari.calls.interfaces import ExternalMedia, FlowFormat, UplinkSink
from kallglot_ari.clock import Clock
from kallglot_ari.errors import ConfigError, MediaError
from kallglot_ari.media import formats
from kallglot_ari.media.capture import Capture, CaptureFile, Pcap, Scribe, Track
from kallglot_ari.media.flow import MediaFlow
from kallglot_ari.media.legs import NO_STATS
from kallglot_ari.media.native import LIBRARY, Native
from kallglot_ari.media.plane import Plane, Report
from kallglot_ari.media.recording import Form
from kallglot_ari.media.stored import silent_payload
from kallglot_ari.media.strain import Strain, Waits
from kallglot_ari.media.udp import EVERY_IPV6, Socket, family_of, is_ipv4, open_socket, pack_address
from kallglot_ari.media.websocket import WebSocketMedia
from kallglot_ari.media.worker import Worker
from kallglot_ari.metrics import Metrics
from kallglot_ari.settings import MediaSettings

log = logging.getLogger(__name__)

_AT_ONCE = 64
"""Chunks delivered before the event loop gets its turn."""
_PENDING_MAX = 4096
"""Chunks that wait for the event loop at most; beyond, the oldest go."""


def _unheard(name: str, args: tuple[object, ...]) -> None:
    """A command while there is no tick."""


class MediaEngine:
    """Implements `calls.interfaces.Media`. Construct it anywhere, `start` it and call the rest on the event loop.

    `encoding`, `sample_rate` and `chunk_ms` are the stream's. `batched` forces the kind of socket; None takes the best there is.
    `library` is the machine code to use, None for numpy.

    :raises ConfigError: when the format cannot work in both directions on this machine.
    """

    def __init__(
        self,
        settings: MediaSettings,
        *,
        encoding: str,
        sample_rate: int,
        chunk_ms: int,
        metrics: Metrics,
        clock: Clock,
        batched: bool | None = None,
        library: Native | None = LIBRARY,
        asterisk_url: str = "",
        asterisk_ca: str = "",
    ) -> None:
        if chunk_ms < 20 or chunk_ms % 20:
            raise ConfigError(f"kallglot.chunk_ms: expected a multiple of 20, found {chunk_ms}")
        self._settings = settings
        self._encoding = encoding
        self._sample_rate = sample_rate
        self._chunk_ms = chunk_ms
        self._metrics = metrics
        self._clock = clock
        self._batched = batched
        self._library = library
        self._format = formats.choose(settings, encoding)
        self._asterisk = (asterisk_url, asterisk_ca)
        self._websocket: WebSocketMedia | None = None
        self._family = family_of(settings.bind)
        self._flows: dict[str, MediaFlow] = {}
        self._by_row: dict[int, MediaFlow] = {}
        self._sinks: dict[int, UplinkSink] = {}
        """Of open flows by their generation, which no two flows share: all that is looked at for each chunk."""
        self._addresses: dict[bytes, MediaFlow] = {}
        self._wanted: dict[tuple[str, str], tuple[float, float]] = {}
        self._free: list[int] = []
        self._scribe = Scribe(self._capture_lost)
        self._rows = 0
        self._generation = 0
        self._pending: deque[Report] = deque()
        self._called = False
        """Whether `_deliver` is going to run: the tick need not wake the event loop again."""
        self._packets = [metrics.rtp_packets.labels(direction=direction) for direction in ("in", "out")]
        self._loop: asyncio.AbstractEventLoop | None = None
        self._strain = Strain()
        self._waits = Waits()
        self._delivered = 0.0
        self._beat = 0.0
        self._worker: Worker | None = None
        self.command: Callable[[str, tuple[object, ...]], None] = _unheard
        """The worker's, while there is one."""
        self._socket_port = 0

    @property
    def address(self) -> tuple[str, int]:
        """Host and port for `external_host`. :raises MediaError: before the start."""
        if self._worker is None:
            raise MediaError("media engine: expected it started, found it stopped")
        return self._settings.advertise or self._settings.bind, self._socket_port

    @property
    def late(self) -> float:
        """Seconds by which a tenth of the ticks of the last moments was late, or more; or that the event loop is behind."""
        now = self._clock.now()
        return max(self._strain.late(now), self._waits.mean(now))

    @property
    def silent(self) -> float:
        """Seconds since the last tick, while there is a flow."""
        return self._clock.now() - self._beat if self._flows else 0.0

    @property
    def external(self) -> ExternalMedia:
        return formats.external(self._settings, self.address[1])

    @property
    def format(self) -> FlowFormat:
        return self._format

    async def start(self) -> None:
        """Bind the socket and start the tick. :raises ListenError: when the address cannot be had."""
        self._loop = asyncio.get_running_loop()
        sock = await self._open_socket()
        self._socket_port = sock.port
        plane = Plane(
            sock, self._format, self._settings,
            encoding=self._encoding, sample_rate=self._sample_rate, chunk_ms=self._chunk_ms,
            capture=Capture(self._scribe, (self._settings.bind, sock.port)), library=self._library,
        )  # fmt: skip
        self._socket = sock
        self._worker = Worker(plane, self._clock, self._post)
        self.command = self._worker.command
        self._worker.start()
        log.info(
            "media_started",
            extra={
                "bind": self._settings.bind, "port": sock.port, "format": self._format.asterisk,
                "native": self._library is not None,
            },
        )  # fmt: skip

    async def _open_socket(self) -> Socket:
        if self._settings.transport == "rtp":
            return open_socket(self._settings.bind, self._settings.port, batched=self._batched, library=self._library)
        url, ca = self._asterisk
        silence = silent_payload(registry.get(self._format.send, opus_complexity=self._settings.opus_complexity))
        media = WebSocketMedia(
            self._settings, registry.get(self._format.receive), silence, asterisk_url=url, asterisk_ca=ca
        )
        await media.start()
        self._websocket = media
        return media

    async def stop(self) -> None:
        """Close every flow, end the tick, free the port. Harmless when stopped already."""
        worker = self._worker
        if worker is None:
            return
        for flow in list(self._flows.values()):
            flow.close()
        await asyncio.to_thread(worker.stop)
        await asyncio.to_thread(self._scribe.stop)
        self._worker, self.command = None, _unheard
        self._socket.close()
        if self._websocket is not None:
            await self._websocket.stop()
        self._deliver()

    def open(
        self, flow_id: str, sink: UplinkSink, *, sequence: int | None = None, timestamp: int | None = None
    ) -> MediaFlow:
        """A new flow; its first sequence number and timestamp are random unless given.

        :raises MediaError: when the engine does not run, or has a flow of this id.
        """
        if self._worker is None:
            raise MediaError("media engine: expected it started, found it stopped")
        if flow_id in self._flows:
            raise MediaError(f"flow: expected a new id, found {flow_id!r} open already")
        row = self._free.pop() if self._free else self._rows
        self._rows = max(self._rows, row + 1)
        self._generation += 1
        flow = MediaFlow(self, flow_id, row, self._generation)
        self._sinks[flow.generation] = sink
        if not self._flows:
            self._beat = self._clock.now()
        self._flows[flow_id] = self._by_row[row] = flow
        first = random.getrandbits(16) if sequence is None else sequence
        begin = random.getrandbits(32) if timestamp is None else timestamp
        self.command("open", (row, flow.generation, random.getrandbits(32), first, begin))
        for (listener, other), level in self._wanted.items():
            if other == flow_id and listener in self._flows:
                self.hear(self._flows[listener], other, *level)
        return flow

    def capture_file(self, path: Path) -> CaptureFile:
        return CaptureFile(Pcap(path), self._scribe)

    # --- for flows --------------------------------------------------------------------------------------------------

    def now(self) -> float:
        return self._clock.now()

    def track(self, path: Path, form: Form) -> Track:
        return Track(path, form, registry.get(self._format.send), self._encoding, self._sample_rate)

    def end_track(self, track: Track) -> None:
        self._scribe.close(track)

    def address_of(self, flow: MediaFlow, address: tuple[str, int]) -> bytes:
        """`address` packed, and taken by `flow` from now on."""
        host, port = address
        if self._settings.bind == EVERY_IPV6 and is_ipv4(host):
            host = f"::ffff:{host}"  # as a socket of both families has it (RFC 4291 §2.5.5.2)
        try:
            name = pack_address(self._family, host, port)
        except ConfigError as error:
            raise MediaError(str(error)) from None
        other = self._addresses.get(name)
        if other is not None and other is not flow:
            raise MediaError(
                f"flow: expected an address of its own, found {address[0]}:{address[1]} in use by {other.id}"
            )
        self._release_address(flow)
        self._addresses[name] = flow
        return name

    async def attach(self, flow: MediaFlow, channelvars: Mapping[str, object]) -> bytes:
        """The name that the tick knows a channel's packets by."""
        if self._websocket is not None:
            return await self._websocket.attach(flow.id, str(channelvars.get("MEDIA_WEBSOCKET_CONNECTION_ID", "")))
        host, port = channelvars.get("UNICASTRTP_LOCAL_ADDRESS"), str(channelvars.get("UNICASTRTP_LOCAL_PORT", ""))
        if not isinstance(host, str) or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise MediaError(
                f"flow: expected UNICASTRTP_LOCAL_ADDRESS and _PORT of {flow.id}, found {host!r} and {port!r}"
            )
        return self.address_of(flow, (host, int(port)))

    def flush(self, name: bytes) -> None:
        if self._websocket is not None:
            self._websocket.flush(name)

    def detach(self, name: bytes) -> None:
        if self._websocket is not None:
            self._websocket.detach(name)

    def figures(self, row: int) -> tuple[float, ...]:
        """The last figures the tick published of a row."""
        stats = self._worker.plane.stats if self._worker is not None else None
        if stats is None or row >= len(stats):
            return NO_STATS
        return tuple(stats[row].tolist())

    def hear(self, flow: MediaFlow, other: str, gain: float, duck: float) -> None:
        """Now, or when `other` opens."""
        if gain:
            self._wanted[flow.id, other] = (gain, duck)
        else:
            self._wanted.pop((flow.id, other), None)
        heard = self._flows.get(other)
        if heard is not None:
            self.command("hear", (flow.row, flow.generation, heard.row, gain, duck))

    def closed(self, flow: MediaFlow) -> None:
        """`flow` is closed: nothing of it is delivered any more."""
        del self._flows[flow.id], self._sinks[flow.generation]
        self._release_address(flow)
        for listener, other in [pair for pair in self._wanted if flow.id in pair]:
            level = self._wanted.pop((listener, other))
            if other == flow.id and listener in self._flows:
                hearing = self._flows[listener]
                self.command("hear", (hearing.row, hearing.generation, flow.row, 0.0))
                self._wanted[listener, other] = level

    def _release_address(self, flow: MediaFlow) -> None:
        for name in [name for name, owner in self._addresses.items() if owner is flow]:
            del self._addresses[name]

    # --- from the tick ----------------------------------------------------------------------------------------------

    def _capture_lost(self, reason: str, count: int) -> None:
        self._metrics.capture_lost.labels(reason=reason).inc(count)

    def _post(self, report: Report) -> None:
        """Called on the tick's thread."""
        assert self._loop is not None
        report.at = self._clock.now()
        self._pending.append(report)
        if self._called:  # it looks for reports after it has taken this back
            return
        self._called = True
        try:
            self._loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:  # the loop is closed: the service is going down
            log.debug("media_report_after_close")

    def _deliver(self) -> None:
        """Bring what the tick reported to sinks and metrics, oldest first, a bounded share at a time."""
        self._called = False
        if self._pending:
            now = self._clock.now()
            self._waits.seen(now - max(self._pending[0].at, self._delivered), now)
            self._delivered = now
        done = 0
        sink_of = self._sinks.get
        while self._pending and done < _AT_ONCE:
            report = self._pending[0]
            chunks = report.chunks[:_AT_ONCE]
            del report.chunks[:_AT_ONCE]
            done += len(chunks)
            for row, generation, sound in chunks:
                sink = sink_of(generation)
                if sink is None:
                    continue
                try:
                    sink(sound)
                except Exception:  # the boundary to whoever listens: one that fails must not silence the other legs
                    log.exception("uplink_sink_failed", extra={"flow": self._by_row[row].id})
                    self._metrics.stream_dropped.inc()
            if not report.chunks:
                self._pending.popleft()
                self._observe(report)
        if self._pending and self._loop is not None:
            self._drop_old()
            if not self._called:
                self._called = True
                self._loop.call_soon(self._deliver)

    def _drop_old(self) -> None:
        waiting = sum(len(report.chunks) for report in tuple(self._pending))  # the tick goes on adding to it
        while waiting > _PENDING_MAX and self._pending:
            oldest = self._pending.popleft()
            waiting -= len(oldest.chunks)
            self._metrics.stream_dropped.inc(len(oldest.chunks))
            self._observe(oldest)

    def _observe(self, report: Report) -> None:
        metrics = self._metrics
        for counter, count in zip(self._packets, (report.packets_in, report.packets_out), strict=True):
            if count:
                counter.inc(count)
        for reason, count in report.discarded.items():
            metrics.rtp_discarded.labels(reason=reason).inc(count)
        self._beat = self._clock.now()
        self._strain.seen(report.lateness, self._beat)
        for seconds in report.lateness:
            metrics.tick_lateness.observe(seconds)
        for seconds in report.downlink:
            metrics.downlink_latency.observe(seconds)
        for seconds in report.lags:
            metrics.translation_lag.observe(seconds)
        for row, generation in report.interrupted:
            flow = self._by_row.get(row)
            if flow is not None and flow.generation == generation and flow.on_interrupted is not None:
                flow.on_interrupted()
        for row, generation, figures in report.closed:
            flow = self._by_row.get(row)
            if flow is None or flow.generation != generation:
                continue
            del self._by_row[row]
            self._free.append(row)
            quality = flow.finished(figures)
            if quality.packets_received:
                metrics.rtp_lost.inc(quality.packets_lost + quality.packets_late)
                metrics.rtp_reordered.inc(quality.packets_reordered)
                metrics.rtp_concealed.inc(quality.concealed_ms / 1000)
                metrics.rtp_jitter.observe(quality.jitter_ms / 1000)
                metrics.rtp_buffer.observe(quality.buffer_ms / 1000)
                metrics.rtp_drift.observe(abs(quality.drift_ppm) * 1e-6)
                metrics.mos.observe(quality.mos)
