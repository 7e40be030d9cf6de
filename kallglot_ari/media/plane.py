"""The tick: every 10 ms what has come is taken in for all legs, and half of them are sent their packet. Owned by one thread or process."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kallglot_ari.audio.codecs import registry
from kallglot_ari.audio.level import FLOOR_DBFS
from kallglot_ari.calls.interfaces import FlowFormat
from kallglot_ari.calls.model import StreamAudio
from kallglot_ari.errors import MediaError
from kallglot_ari.media import drift
from kallglot_ari.media.barge import BargeIn
from kallglot_ari.media.capture import Capture, Pcap, Track
from kallglot_ari.media.chunks import Chunk
from kallglot_ari.media.digits import Digits
from kallglot_ari.media.legs import NO_STATS, STATS, Legs
from kallglot_ari.media.listen import Listen
from kallglot_ari.media.native import LIBRARY, Native
from kallglot_ari.media.originals import Originals
from kallglot_ari.media.pcap import Address
from kallglot_ari.media.speak import Speak
from kallglot_ari.media.stored import Stored
from kallglot_ari.media.udp import Block, Socket, unpack_address
from kallglot_ari.media.uplink import silence_byte
from kallglot_ari.settings import MediaSettings

log = logging.getLogger(__name__)

TICK = 0.010
"""Seconds between two ticks."""
PHASES = 2
"""Ticks in a packet time: each leg is sent its packet on one of them, so that the load is even and nobody waits long."""
_RECEIVE_MOST = 0.006
"""Seconds a tick may spend on taking in; what is left waits in the socket."""
_LONG_MOST = 4
"""Pieces of long speech that a tick converts, each of half a second: those take their time, and no other leg's packets shall wait for them."""
_PUBLISH = 10
"""Ticks between two publications of the figures."""
_LEVELS = 30
"""Ticks between two looks at the level."""
_MANY = 8
"""Commands that wait, from which on they are looked at together first."""
_RETIRED = 10.0
"""Seconds for which packets of a closed leg's source are still known to be the last call's."""

Command: TypeAlias = tuple[str, tuple[Any, ...]]
"""Name of a method of `Plane`, and its arguments: row and generation of a leg, and what the method needs."""


@dataclass(slots=True)
class Report:
    """What happened in a tick, for the event loop."""

    chunks: list[Chunk] = field(default_factory=list)
    discarded: Counter[str] = field(default_factory=Counter)
    packets_in: int = 0
    packets_out: int = 0
    downlink: list[float] = field(default_factory=list)
    """Latencies of talkspurts that began, in seconds."""
    lags: list[float] = field(default_factory=list)
    """The most that talkspurts which ended were behind, in seconds."""
    lateness: list[float] = field(default_factory=list)
    """How late the ticks were, in seconds."""
    closed: list[tuple[int, int, tuple[float, ...]]] = field(default_factory=list)
    """Legs that ended: row, generation, last figures."""
    at: float = 0.0
    """Monotonic seconds at which it was handed over."""
    interrupted: list[tuple[int, int]] = field(default_factory=list)
    """Legs whose party spoke into what was said to them: row, generation."""


_NAME = itemgetter(0)


class _Later:
    """Long speech beyond what a tick converts, and whatever follows it of the same rows, in order."""

    def __init__(self) -> None:
        self.commands: list[Command] = []
        self._rows: set[object] = set()
        self._room = _LONG_MOST

    def sift(self, batch: list[Command]) -> list[Command]:
        """Those of `batch` that are not put off."""
        if not self._rows and "play_long" not in map(_NAME, batch):
            return batch
        return [command for command in batch if not self._put_off(*command)]

    def _put_off(self, name: str, args: tuple[Any, ...]) -> bool:
        if args[0] not in self._rows:
            if name != "play_long":
                return False
            self._room -= 1
            if self._room >= 0:
                return False
            self._rows.add(args[0])
        self.commands.append((name, args))
        return True


class Plane:
    """All legs, one socket. Every method runs on the owner's thread."""

    def __init__(
        self,
        socket: Socket,
        form: FlowFormat,
        settings: MediaSettings,
        *,
        encoding: str,
        sample_rate: int,
        chunk_ms: int,
        capture: Capture,
        library: Native | None = LIBRARY,
    ) -> None:
        receive, send = registry.get(form.receive), registry.get(form.send, opus_complexity=settings.opus_complexity)
        assert send.send_type is not None
        self._socket = socket
        self._block = Block()
        self._originals = Originals(receive, send, Stored.of(send), library)
        self._listen = Listen(
            receive, encoding, sample_rate, chunk_ms,
            jitter_min_ms=settings.jitter_min_ms, jitter_max_ms=settings.jitter_max_ms,
            originals=self._originals, library=library,
        )  # fmt: skip
        self._speak = Speak(send, settings.backlog_max_ms, settings.lag_max_ms, self._originals, library)
        self._capture = capture
        self.legs = Legs(
            uplink_bytes=self._listen.chunks.uplink_bytes,
            frame_bytes=send.frame_bytes,
            silence=self._speak.silence,
            payload_type=send.send_type,
            quiet=silence_byte(encoding),
            stored_bytes=self._speak.form.unit,
        )
        self._encoding = encoding
        self._barge_in = BargeIn(encoding, self._listen.frame_bytes)
        self._digits = Digits()
        self._retired: dict[bytes, tuple[int, float]] = {}
        self._current: dict[int, int] = {}
        """The generation of each row in use."""
        self._due: list[NDArray[np.int64]] = [np.zeros(0, dtype=np.int64)] * PHASES
        self._beat = 0
        self._now = 0.0
        self._dropped = 0
        self._commands: dict[str, Callable[..., None]] = {
            name.removeprefix("do_"): getattr(self, name) for name in dir(self) if name.startswith("do_")
        }
        self.report = Report()
        self.stats: NDArray[np.float64] = np.zeros((self.legs.capacity, len(STATS)))
        """Figures of every row, columns as in `legs.STATS`; replaced when more rows are needed."""

    @property
    def idle(self) -> bool:
        """Whether there is no leg at all."""
        return not self._speak.speech

    # --- the tick ---------------------------------------------------------------------------------------------------

    def tick(self, now: float, *, skipped: int = 0) -> None:
        """One beat: receive, let time go on, send. `skipped` beats before this one were given up after a stall."""
        self._now = now
        if self.receive(now):  # what has come and is not yet read must not count as missing
            self._listen.overdue(self.legs, now)
        for row in self._barge_in.begun(self.legs):
            self._interrupt(row)
        for beat in range(self._beat, self._beat + skipped):
            self._speak.skip(self.legs, self._due[beat % PHASES], 1)
        self._beat += skipped
        due = self._due[self._beat % PHASES]
        begun = time.perf_counter()
        self.report.packets_out += self._speak.send(self.legs, self._socket, due, now)
        if self._speak.latencies:
            took = time.perf_counter() - begun
            self.report.downlink += [latency + took for latency in self._speak.latencies]
            self._speak.latencies.clear()
        if self._speak.lags:
            self.report.lags += self._speak.lags
            self._speak.lags.clear()
        if self._capture.on:
            self._capture.sent(due, self.legs.outbox, now)
        self._beat += 1
        if self._beat % _PUBLISH == 0:
            drift.measure(self.legs, now)
            self._digits.settle(self.legs, now)
            self._digits.note(self.legs)
            self.publish()
        if self._beat % _LEVELS == 0:
            self._levels()

    def receive(self, now: float) -> bool:
        """Take in what has come; whether that was everything."""
        begun = time.perf_counter()
        while time.perf_counter() - begun < _RECEIVE_MOST:  # a flood must not keep the rest waiting
            count = self._socket.receive(self._block, now)
            if count:
                self.report.packets_in += count
                rows = self._listen.block(self.legs, self._block, count, now)
                if self._capture.on:
                    self._capture.received(rows, self._block)
            if count < len(self._block.length):
                break
        else:
            return False
        if self._socket.dropped != self._dropped:
            self.report.discarded["socket_full"] += (self._socket.dropped - self._dropped) & 0xFFFFFFFF
            self._dropped = self._socket.dropped
        return True

    def take(self, *, everything: bool = False) -> Report | None:
        """What happened since the last call, or None where nothing did that cannot wait; `everything` does not wait."""
        report = self.report
        report.chunks = self._listen.chunks.take()
        if self._capture.on:
            self._capture.chunks(report.chunks)
        self._capture.hand_over()
        if self._listen.discarded:
            report.discarded.update(self._listen.discarded)
            self._listen.discarded.clear()
        if not (
            report.chunks
            or report.closed
            or report.interrupted
            or report.downlink
            or everything
            or self._beat % _PUBLISH == 0
        ):
            return None
        self.report = Report()
        return report

    # --- commands ---------------------------------------------------------------------------------------------------

    def execute(self, commands: deque[Command], now: float) -> None:
        """Run these and what is added meanwhile; one that makes no sense any more (its leg is gone) is dropped.

        What is left there is long speech that this tick has no time for, and what follows it of the same leg.
        """
        self._now = now
        methods, current, next_one = self._commands, self._current, commands.popleft
        later = _Later()
        while commands:
            left = self._left(later.sift([next_one() for _ in range(len(commands))]), now)
            try:
                for name, args in left:
                    if current.get(args[0]) == args[1] or name == "open":
                        methods[name](*args)
            except Exception:
                commands.extendleft(reversed([*left, *later.commands]))  # one that fails takes no other with it
                raise
        commands.extendleft(reversed(later.commands))  # before what has come since

    def _left(self, batch: list[Command], now: float) -> Iterator[Command]:
        """Those of `batch` that are to be run one after the other. Speech alone, of many legs, goes by without that where it can."""
        if len(batch) >= _MANY:
            names, args = zip(*batch, strict=True)
            if names.count("play") == len(batch):
                return (batch[place] for place in self._speak.pass_by(self.legs, args, now))
        return iter(batch)

    def do_open(self, row: int, generation: int, ssrc: int, sequence: int, timestamp: int) -> None:
        counts = [rows.size for rows in self._due]
        self.legs.open(
            row, generation, ssrc=ssrc, sequence=sequence, timestamp=timestamp, phase=counts.index(min(counts))
        )
        self._current[row] = generation
        self._speak.open(self.legs, row)
        if len(self.stats) < self.legs.capacity:
            grown = np.zeros((self.legs.capacity, len(STATS)))
            grown[: len(self.stats)] = self.stats
            self.stats = grown
        self.stats[row] = NO_STATS
        self._schedule()

    def do_connect(self, row: int, generation: int, name: bytes) -> None:
        retired = self._retired.pop(name, None)
        if retired is not None and retired[1] > self._now:
            self.legs.barred[row] = retired[0]
        self.legs.connect(row, name)
        self._capture.address(row, unpack_address(name))
        self._schedule()

    def do_play(self, row: int, generation: int, source: str, audio: StreamAudio, received_at: float) -> None:
        try:
            dropped = self._speak.play(self.legs, row, source, audio, self._now, received_at)
        except (MediaError, ValueError):
            self.report.discarded["speech_unusable"] += 1
            return
        if dropped:
            self.report.discarded["speech_backlog"] += dropped

    do_play_long = do_play
    """A piece of a message of more than half a second."""

    def do_watch(self, row: int, generation: int, pcap: Pcap | None, track: Track | None) -> None:
        """Note the leg's packets and sound down, or no longer."""
        self._capture.watch(row, self._remote(row), pcap=pcap, track=track)

    def _remote(self, row: int) -> Address:
        return unpack_address(self.legs.name_of(row)) if self.legs.connected[row] else ("", 0)

    def do_flush(self, row: int, generation: int, source: str | None) -> None:
        self._speak.flush(self.legs, row, source)

    def do_interruptible(self, row: int, generation: int, on: bool) -> None:
        self._barge_in.watch(self.legs, row, on)
        self._speak.speech[row].hurries = not on  # an answer is no translation: nobody waits for its end

    def _interrupt(self, row: int) -> None:
        """Drop what waits for a leg, and what would follow: an answer that comes just in time has nothing waiting now and then."""
        if self._speak.speech[row].under_way:
            self._speak.flush(self.legs, row, None)
            self.report.interrupted.append((row, int(self.legs.generation[row])))

    def do_pause(self, row: int, generation: int) -> None:
        self._listen.pause(self.legs, row, self._now)

    def do_resume(self, row: int, generation: int) -> None:
        self._listen.resume(self.legs, row)

    def do_pressed(self, row: int, generation: int, seconds: float) -> None:
        self._digits.pressed(row, seconds, self._now)

    def do_hear(self, row: int, generation: int, other: int, gain: float, duck: float = 1.0) -> None:
        """`other` is a row; `gain` a factor, 0 for no longer, `duck` another while speech is played."""
        self._originals.hear(self.legs, row, other, gain, duck)

    def do_close(self, row: int, generation: int) -> None:
        legs = self.legs
        if legs.connected[row]:
            ssrc = int(legs.ssrc[row])
            if ssrc >= 0:
                self._retired[legs.name_of(row)] = (ssrc, self._now + _RETIRED)
        self._retired = {name: kept for name, kept in self._retired.items() if kept[1] > self._now}
        self._digits.settle(legs, self._now, row)
        self.publish(row)
        figures = tuple(self.stats[row].tolist())
        self.stats[row] = NO_STATS  # whoever has the row next is asked about before it is opened here
        self._listen.close(row)
        self._barge_in.forget(row)
        self._speak.close(row)
        self._originals.close(legs, row)
        del self._current[row]
        self._capture.watch(row, ("", 0), pcap=None, track=None)
        legs.close(row)
        self._schedule()
        self.report.closed.append((row, generation, figures))

    def _schedule(self) -> None:
        legs = self.legs
        self._due = [np.flatnonzero(legs.connected & (legs.phase == phase)) for phase in range(PHASES)]

    # --- figures ----------------------------------------------------------------------------------------------------

    def publish(self, row: int | None = None) -> None:
        """Write the figures of every leg, or of one, to `stats`."""
        legs = self.legs
        rows = np.flatnonzero(legs.used) if row is None else np.array([row])
        if not rows.size:
            return
        stats = self.stats
        target = np.maximum(legs.spread[rows], 0.0)
        columns: dict[str, NDArray[np.float64] | NDArray[np.int64]] = {
            "received": legs.received[rows],
            "sent": legs.sent[rows],
            "lost": np.maximum(legs.expected[rows] - legs.received[rows], 0),
            "late": legs.late[rows],
            "reordered": legs.reordered[rows],
            "jitter": legs.jitter[rows],
            "buffer": target,
            "concealed": legs.concealed[rows],
            "drift": legs.drift[rows],
            "backlog": (legs.queued[rows] + legs.count[rows]) * (TICK * PHASES),
            "lag": legs.lag[rows],
        }
        for name, values in columns.items():
            stats[rows, STATS.index(name)] = values

    def _levels(self) -> None:
        """The level of each leg's last 20 ms in dBFS."""
        legs = self.legs
        rows = np.flatnonzero(legs.started)
        if not rows.size:
            return
        step = self._listen.frame_bytes
        frames = legs.uplink.reshape(legs.capacity, -1, step)
        last = frames[rows, (legs.fill[rows] // step - 1) % frames.shape[1]]
        pcm = registry.stream_to_pcm(self._encoding, last.tobytes()).astype(np.float32).reshape(rows.size, -1)
        power = np.einsum("ij,ij->i", pcm, pcm) / pcm.shape[1] / 32768.0**2
        power[legs.paused[rows]] = 0.0  # what lies there was said before the hold
        legs.power[rows] += (power - legs.power[rows]) * 0.5
        self.stats[rows, STATS.index("level")] = np.maximum(
            FLOOR_DBFS, 10 * np.log10(np.maximum(legs.power[rows], 1e-12))
        )
