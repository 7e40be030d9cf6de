"""One leg as the rest of the service holds it: commands go to the tick, figures come from where the tick publishes them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from kallglot_ari.audio.level import gain as factor
from kallglot_ari.calls import interfaces
from kallglot_ari.calls.model import LegQuality, StreamAudio
from kallglot_ari.errors import MediaError
from kallglot_ari.media.capture import CaptureFile, Pcap, Track
from kallglot_ari.media.legs import STATS
from kallglot_ari.media.recording import Form
from kallglot_ari.rtp import quality

_GAIN_LIMIT_DB = 12.0
_OWN_DELAY_MS = 20.0
"""Packet time, which every leg adds before anything else."""


class Owner(Protocol):
    """What a flow needs of its engine."""

    @property
    def command(self) -> Callable[[str, tuple[object, ...]], None]: ...
    def now(self) -> float: ...
    def address_of(self, flow: MediaFlow, address: tuple[str, int]) -> bytes: ...
    async def attach(self, flow: MediaFlow, channelvars: Mapping[str, object]) -> bytes: ...
    def flush(self, name: bytes) -> None: ...
    def detach(self, name: bytes) -> None: ...
    def figures(self, row: int) -> tuple[float, ...]: ...
    def track(self, path: Path, form: Form) -> Track: ...
    def end_track(self, track: Track) -> None: ...
    def hear(self, flow: MediaFlow, other: str, gain: float, duck: float) -> None: ...
    def closed(self, flow: MediaFlow) -> None: ...


def leg_quality(figures: tuple[float, ...]) -> LegQuality:
    """The figures of `legs.STATS`, with R and MOS by the E-model (ITU-T G.107) for the received direction."""
    f = dict(zip(STATS, figures, strict=True))
    expected = f["received"] + f["lost"]
    loss = 100.0 * (f["lost"] + f["late"]) / expected if expected else 0.0
    r, mos = quality.rate(min(100.0, loss), _OWN_DELAY_MS + f["buffer"] * 1000)
    return LegQuality(
        packets_received=int(f["received"]),
        packets_sent=int(f["sent"]),
        packets_lost=int(f["lost"]),
        packets_late=int(f["late"]),
        packets_reordered=int(f["reordered"]),
        jitter_ms=f["jitter"] * 1000,
        buffer_ms=f["buffer"] * 1000,
        concealed_ms=f["concealed"] * 1000,
        drift_ppm=f["drift"],
        level_dbfs=f["level"],
        r_factor=r,
        mos=mos,
        backlog_ms=f["backlog"] * 1000,
        lag_ms=f["lag"] * 1000,
    )


def _pieces(audio: StreamAudio) -> Iterator[StreamAudio]:
    """Speech of many seconds in pieces of half a second that are converted in a moment each: no other leg's packets shall wait for all of it."""
    encoding, rate, payload = audio
    most = _piece_bytes(audio)
    for at in range(0, len(payload), most):
        yield StreamAudio(encoding, rate, payload[at : at + most])


def _piece_bytes(audio: StreamAudio) -> int:
    return max(2, audio.sample_rate // 2 * (2 if audio.encoding == "pcm_16" else 1))


class MediaFlow:
    """Implements `calls.interfaces.Flow`. Every method after `close` is harmless and does nothing."""

    __slots__ = ("_id", "_last", "_name", "_owner", "_pcap", "_track", "generation", "on_interrupted", "row")

    def __init__(self, owner: Owner, flow_id: str, row: int, generation: int) -> None:
        self._owner = owner
        self._id = flow_id
        self.row = row
        self.generation = generation
        self.on_interrupted: Callable[[], None] | None = None
        self._last: LegQuality | None = None
        self._name = b""
        """Of a leg over a websocket."""
        self._pcap: Pcap | None = None
        self._track: Track | None = None

    def __repr__(self) -> str:
        return f"<MediaFlow {self._id} row {self.row}>"

    @property
    def id(self) -> str:
        return self._id

    def connect(self, address: tuple[str, int]) -> None:
        """Send to `address` from the next tick on, and take packets from nowhere else.

        :raises MediaError: when it is no address, or another flow's.
        """
        if self._last is None:
            self._command("connect", self._owner.address_of(self, address))

    async def attach(self, channelvars: Mapping[str, object]) -> None:
        """By the variables of the channel's creation. :raises MediaError: when they do not say enough, or nobody is there."""
        name = await self._owner.attach(self, channelvars)
        if self._last is None:
            self._name = name
            self._command("connect", name)
        else:
            self._owner.detach(name)

    def play(self, source: str, audio: StreamAudio, received_at: float | None = None) -> None:
        """Queue speech of `source`. `received_at`: when it came in (monotonic seconds), for the latency figure; None: now."""
        at = self._owner.now() if received_at is None else received_at
        if self._last is not None:
            return
        if len(audio.payload) <= _piece_bytes(audio):
            self._owner.command("play", (self.row, self.generation, source, audio, at))
            return
        for piece in _pieces(audio):
            self._owner.command("play_long", (self.row, self.generation, source, piece, at))

    def flush(self, source: str | None = None) -> None:
        self._command("flush", source)
        if self._name:
            self._owner.flush(self._name)

    def pause(self) -> None:
        self._command("pause")

    def resume(self) -> None:
        self._command("resume")

    def pressed(self, seconds: float) -> None:
        self._command("pressed", seconds)

    def interruptible(self, then: Callable[[], None] | None) -> None:
        """Drop what waits to be played as soon as the party begins to speak, and call `then`; None: no longer."""
        self.on_interrupted = then
        self._command("interruptible", then is not None)

    def hear(self, other: str, gain_db: float | None, duck_db: float = 0.0) -> None:
        """Hear flow `other`, now or as soon as it is there; lower by `duck_db` while speech is played. :raises MediaError: for a gain past 12 dB, or for oneself."""
        if other == self._id:
            raise MediaError(f"hear: expected another flow, found the leg's own {other!r}")
        if gain_db is not None and not (math.isfinite(gain_db) and gain_db <= _GAIN_LIMIT_DB):
            raise MediaError(f"hear: expected a gain of at most {_GAIN_LIMIT_DB} dB, found {gain_db}")
        if self._last is None:
            self._owner.hear(self, other, 0.0 if gain_db is None else factor(gain_db), factor(-duck_db))

    def capture(self, file: interfaces.CaptureFile | None) -> None:
        if file is not None and not isinstance(file, CaptureFile):
            raise TypeError(f"expected a file of MediaEngine.capture_file, found {type(file).__name__}")
        self._pcap = file.pcap if file is not None else None
        self._command("watch", self._pcap, self._track)

    def record(self, path: Path, form: Form) -> None:
        if self._last is None and self._track is None:
            self._track = self._owner.track(path, form)
            self._command("watch", self._pcap, self._track)

    def quality(self) -> LegQuality:
        if self._last is not None:
            return self._last
        return leg_quality(self._owner.figures(self.row))

    def close(self) -> LegQuality:
        if self._last is None:
            self._last = leg_quality(self._owner.figures(self.row))
            self._command("close")
            self._owner.closed(self)
            if self._name:
                self._owner.detach(self._name)
        return self._last

    def finished(self, figures: tuple[float, ...]) -> LegQuality:
        """The tick is through with this leg: its last figures."""
        self._last = leg_quality(figures)
        if self._track is not None:
            self._owner.end_track(self._track)
        return self._last

    def _command(self, name: str, *args: object) -> None:
        if self._last is None or name == "close":
            self._owner.command(name, (self.row, self.generation, *args))
