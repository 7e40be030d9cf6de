"""The servers that `bench` measures: our engine, and the peers of `bench_peers`.

Each takes what a leg says in chunks of 100 ms and plays it to the leg's partner, paced at 20 ms, as a translated call would.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import numpy as np

from kallglot_ari.calls.interfaces import StreamEvent, StreamSpeech
from kallglot_ari.calls.model import Session, UplinkChunk
from kallglot_ari.clock import SystemClock
from kallglot_ari.kallglot.http import tls_context
from kallglot_ari.kallglot.socket import connect
from kallglot_ari.kallglot.stream import Stream
from kallglot_ari.lab.bench_load import leg_host, partner, stay_on
from kallglot_ari.lab.bench_peers import QUIET, AiortpServer, EchoServer, SocketServer
from kallglot_ari.media.engine import MediaEngine
from kallglot_ari.metrics import Metrics
from kallglot_ari.settings import KallglotSettings, MediaSettings
from kallglot_ari.websocket.socket import Socket

SPEAKERS = ("customer", "agent")


class Samples(list[float]):
    """Stands in for a histogram and keeps every value."""

    def observe(self, value: float) -> None:
        self.append(value)


class Server(Protocol):
    async def start(self, legs: int, port: int) -> list[int]:
        """Serve; the port of each leg."""
        ...

    def reset(self) -> None: ...
    def figures(self) -> Mapping[str, float | None]: ...
    async def stop(self) -> None: ...


class OurServer:
    """`MediaEngine`, with everything on. `form` is a `media.format`, `encoding` the stream's, which PCM is 16 kHz of."""

    def __init__(self, form: str = "ulaw", encoding: str = "mulaw") -> None:
        self.metrics = Metrics()
        self.lateness = self.metrics.tick_lateness = Samples()  # type: ignore[assignment]
        self.downlink = self.metrics.downlink_latency = Samples()  # type: ignore[assignment]
        self.uplink = Samples()
        self.engine = MediaEngine(
            MediaSettings.model_validate({"format": form}),
            encoding=encoding, sample_rate=8000 if encoding == "mulaw" else 16000, chunk_ms=100,
            metrics=self.metrics, clock=SystemClock(),
        )  # fmt: skip
        self.flows: list[Any] = []
        self._lost_before = 0

    async def start(self, legs: int, port: int) -> list[int]:
        await self.engine.start()
        for leg in range(legs):
            flow = self.engine.open(f"leg-{leg}", self._to(partner(leg)))
            self.flows.append(flow)
        for leg, flow in enumerate(self.flows):
            flow.connect((leg_host(leg), port))
        return [self.engine.address[1]] * legs

    def _to(self, other: int) -> Callable[[UplinkChunk], None]:
        flows, took, clock = self.flows, self.uplink.append, time.monotonic

        def heard(chunk: UplinkChunk) -> None:
            now = clock()
            audio, _, received_at = chunk
            took(now - received_at)
            if other < len(flows) and audio.payload != QUIET:
                flows[other].play("other", audio, now)

        return heard

    def reset(self) -> None:
        self.lateness.clear()
        self.downlink.clear()
        self.uplink.clear()
        self._lost_before = self._lost()

    def _lost(self) -> int:
        qualities = [flow.quality() for flow in self.flows]
        return sum(quality.packets_lost + quality.packets_late for quality in qualities)

    def figures(self) -> dict[str, float | None]:
        """What nothing was measured of is None."""
        result: dict[str, float | None] = {}
        for name, values in (("lateness", self.lateness), ("uplink", self.uplink), ("downlink", self.downlink)):
            array = np.array(values) * 1000
            result[f"{name}_n"] = len(values)
            for label, share in (("p50", 50), ("p99", 99), ("max", 100)):
                result[f"{name}_ms_{label}"] = float(np.percentile(array, share)) if values else None
        return result | {"uplink_lost": self._lost() - self._lost_before}

    async def stop(self) -> None:
        await self.engine.stop()


class StreamServer(OurServer):
    """`MediaEngine` and, for each call, a `Stream` to a Kallglot that says back what it hears."""

    def __init__(self, form: str = "ulaw") -> None:
        super().__init__(form)
        self.sent = self.metrics.uplink_latency = Samples()  # type: ignore[assignment]
        self.settings = KallglotSettings.model_validate(
            {"url": os.environ["BENCH_ECHO"], "ca_file": os.environ.get("BENCH_CA", ""), "api_key": "sk_test_bench"}
        )
        self.http: aiohttp.ClientSession | None = None
        self.streams: list[Stream] = []

    async def start(self, legs: int, port: int) -> list[int]:
        connector = aiohttp.TCPConnector(limit=0, ssl=tls_context(self.settings.ca_file))
        self.http = aiohttp.ClientSession(connector=connector, ws_response_class=Socket)
        for call in range(legs // 2):
            session = Session(f"bench-{call}", "", f"{self.settings.urls[0].replace('http', 'ws', 1)}/{call}", "", None)
            socket = await connect(self.http, session, self.settings, timeout=10)
            stream = Stream(
                socket, session, self.settings, partial(self._said, call),
                metrics=self.metrics, clock=SystemClock(), stream_id=str(call),
            )  # fmt: skip
            await stream.open(timeout=10)
            self.streams.append(stream)
        return await super().start(legs, port)

    def _to(self, other: int) -> Callable[[UplinkChunk], None]:
        return partial(self.streams[other // 2].send, SPEAKERS[partner(other) % 2])

    def _said(self, call: int, event: StreamEvent) -> None:
        if isinstance(event, StreamSpeech) and self.flows:
            leg = 2 * call + 1 - SPEAKERS.index(event.speaker)
            self.flows[leg].play(event.speaker, event.audio, received_at=event.received_at)

    def reset(self) -> None:
        super().reset()
        self.sent.clear()

    def figures(self) -> dict[str, float | None]:
        self.uplink = self.sent
        return super().figures() | {
            "dropped_chunks": self.metrics.registry.get_sample_value("kallglot_stream_dropped_chunks_total") or 0.0
        }

    async def stop(self) -> None:
        for stream in self.streams:
            await stream.close()
        await super().stop()
        if self.http is not None:
            await self.http.close()


SERVERS: dict[str, type[Any]] = {
    "ours": OurServer, "stream": StreamServer,
    "uvloop": SocketServer, "asyncio": SocketServer, "aiortp": AiortpServer,
    "uvloop-echo-only": EchoServer, "asyncio-echo-only": EchoServer,
}  # fmt: skip


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _rss() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGESIZE")


async def serve(kind: str, legs: int, port: int, *of: str) -> None:
    """Serve until told: a line on stdin begins the measurement, the next ends it. `of` is given to the server."""
    loop = asyncio.get_running_loop()
    server: Server = SERVERS[kind](*of)
    before = _rss()
    ports = await server.start(legs, port)
    print(json.dumps({"ports": ports}), flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)
    cpu, wall = _cpu(), time.monotonic()
    server.reset()
    await loop.run_in_executor(None, sys.stdin.readline)
    cpu, wall = _cpu() - cpu, time.monotonic() - wall
    result = {"cpu": cpu / wall, "kb_per_leg": (_rss() - before) / 1024 / legs, **server.figures()}
    print(json.dumps(result), flush=True)
    await server.stop()


def main(argv: list[str]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C is for `bench`; a traceback of ours would say nothing
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, hard), hard))
    kind, legs, port, of = argv[0], int(argv[1]), int(argv[2]), argv[3:]
    stay_on(0)
    if not kind.startswith(("asyncio", "aiortp")):
        import uvloop

        uvloop.run(serve(kind, legs, port, *of))
    else:
        asyncio.run(serve(kind, legs, port, *of))


if __name__ == "__main__":
    main(sys.argv[1:])
