"""The load of `bench`: many phones' worth of RTP from one process, batched, each leg from an address of its own.

Leg i is 127.1.(i/256).(i%256), all on one socket: the source address of each datagram is set, and the destination read, by IP_PKTINFO (ip(7)).
Each leg says a tone of its own; what comes back is counted by sequence number and its tone measured. One frame a second carries a mark, by which
the way through is timed.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import sys
import time

import numpy as np
from numpy.typing import NDArray

from kallglot_ari.audio.codecs import g711, registry
from kallglot_ari.audio.codecs.base import Codec
from kallglot_ari.media.udp import BLOCK, BatchedSocket, Block, Outbox, bind, pack_address
from kallglot_ari.rtp.pacer import Deadlines

TICK = 0.005
PHASES = 4
SPREAD = 5
"""Packet times over which the legs begin: a chunk's."""
TONES = 16
MARK_EVERY = 50
CYCLE = 500
"""Frames that a leg says over and over."""
PAUSE_EVERY, PAUSE_FRAMES, PAUSE_SHIFT = 200, 50, 7
"""With pauses: of 4 s the first is silence, for each leg at another time."""
_SO_RXQ_OVFL, _SO_MEMINFO = 40, 55
_GAPS_MOST = 4000
"""Blocks of which the times between packets are kept."""
_BLOCKS_MOST = 8
"""Blocks received before it is looked at the clock: whoever sends too much does not keep the load from sending."""
_NICE = -10
"""As the tick: a load that is late makes the server look bad."""
_IP_PKTINFO = 8
_DECODED = 8
"""Legs whose sound is looked at where it takes a decoder with memory, which must see every packet."""
_MARK = np.array([1, 2, 3, 4, 5, 6, 7, 8], dtype=np.uint8)
_HEADER = 12


def leg_host(leg: int) -> str:
    """The address a leg has on the loopback network."""
    return f"127.1.{leg >> 8}.{leg & 255}"


def stay_on(core: int) -> None:
    """Keep this process on one core, where there are two or more: 0 for the server, 1 for what loads it."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) > 1:
            os.sched_setaffinity(0, {cores[core]})


def partner(leg: int) -> int:
    """The other party of the call."""
    return leg ^ 1


def tone_hertz(leg: int) -> int:
    return 400 + 50 * (leg % TONES)


def tone_frames(leg: int, codec: Codec) -> NDArray[np.uint8]:
    """Ten seconds of the leg's tone as payloads, shape (`CYCLE`, bytes): it repeats without a seam where the codec has no memory."""
    rate, size = codec.sample_rate, codec.frame_samples
    wave = np.rint(8000 * np.sin(2 * np.pi * tone_hertz(leg) * np.arange(size) / rate)).astype(np.int16)
    encoder = codec.encoder()
    sound = [encoder.encode(wave) for _ in range(CYCLE + 50)][50:]
    return np.frombuffer(b"".join(sound), dtype=np.uint8).reshape(CYCLE, -1)


class _Socket(BatchedSocket):
    """Also tells, for each datagram, which of our addresses it came to."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        sock.setsockopt(
            socket.SOL_SOCKET, _SO_RXQ_OVFL, 0
        )  # it would stand before the address, from the first packet dropped on
        self._udp = sock
        self.leg = np.zeros(BLOCK, dtype=np.int64)

    def fell(self) -> int:
        """Packets the kernel dropped, because the load did not fetch them in time."""
        return int(np.frombuffer(self._udp.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36), dtype=np.uint32)[8])

    def _times(self, block: Block, control: NDArray[np.uint8], got: int, now: float) -> None:
        super()._times(block, control, got, now)
        # timestamp: 32 bytes; then pktinfo: header 16, interface 4, local address 4, destination 4
        destination = control[:got, 56:60].astype(np.int64)
        self.leg[:got] = destination[:, 2] * 256 + destination[:, 3]


def _outbox(legs: int, ports: list[int], host: str, codec: Codec) -> tuple[Outbox, NDArray[np.uint8]]:
    outbox = Outbox(legs, _HEADER + codec.frame_bytes)
    control = np.zeros((legs, 32), dtype=np.uint8)
    words = control.view(np.uint64)
    words[:, 0] = 28
    control[:, 8:16] = np.array([socket.IPPROTO_IP, _IP_PKTINFO], dtype=np.uint32).view(np.uint8)
    outbox.headers["control"] = control.ctypes.data + np.arange(legs, dtype=np.uint64) * 32
    outbox.headers["control_len"] = 32
    for leg in range(legs):
        control[leg, 20:24] = np.frombuffer(socket.inet_aton(leg_host(leg)), dtype=np.uint8)
        outbox.address(leg, pack_address(socket.AF_INET, host, ports[leg]))
        outbox.data[leg, 0] = 0x80
        outbox.data[leg, 1] = codec.receive_type
        outbox.data[leg, 8:12] = np.frombuffer((leg + 1).to_bytes(4, "big"), dtype=np.uint8)
    return outbox, control


class Load:
    """Sends and listens for `legs` legs; call `run`. `says` and `hears` are codecs of `registry`."""

    def __init__(
        self, legs: int, port: int, host: str, ports: list[int], *, pauses: bool = False,
        says: str = "ulaw", hears: str = "ulaw",
    ) -> None:  # fmt: skip
        self.legs = legs
        self._pauses = pauses
        self._says, self._hears = registry.get(says), registry.get(hears)
        self._marks = says == hears == "ulaw" and not pauses
        """Whether a payload comes back as it was sent."""
        self._tone_frames = np.stack([tone_frames(leg, self._says) for leg in range(TONES)])
        self._decoders = {leg: self._hears.decoder() for leg in range(_DECODED)} if self._hears.adaptive else {}
        self.socket = _Socket(bind("0.0.0.0", port))
        self.outbox, self._control = _outbox(legs, ports, host, self._says)
        self.outbox.data[:, _HEADER:] = self._tone_frames[np.arange(legs) % TONES, 0]
        self.block = Block()
        self.sequence = 0
        self.received = np.zeros(legs, dtype=np.int64)
        self.first = np.full(legs, -1, dtype=np.int64)
        self.last = np.zeros(legs, dtype=np.int64)
        self.sent = 0
        self.marked_at = np.zeros(legs)
        self.latencies: list[float] = []
        self.tones_good = self.tones_seen = 0
        self.gaps: list[NDArray[np.float64]] = []
        self._seen_at = np.zeros(legs)
        self.lateness: list[float] = []
        self._cpu = 0.0
        angle = 2 * np.pi * np.arange(self._hears.frame_samples) / self._hears.sample_rate
        hertz = np.array([tone_hertz(leg) for leg in range(TONES)])
        self._basis = np.exp(-1j * hertz[:, None] * angle[None, :])

    def run(self, seconds: float, warm_up: float) -> dict[str, object]:
        """Load for `warm_up` and then `seconds`; the figures are of the latter."""
        start = time.monotonic()
        deadlines = Deadlines(TICK, start, catch_up=64)
        beat = 0
        counting = False
        while True:
            now = time.monotonic()
            if now >= start + warm_up + seconds:
                return self._result(seconds)
            if not counting and now >= start + warm_up:
                counting = True
                self._reset()
            self.lateness.append(now - deadlines.next)
            beats, skipped = deadlines.due(now)
            beat += skipped
            for _ in range(beats):
                self._send(beat, now)
                beat += 1
            self._receive(counting)
            time.sleep(max(0.0, deadlines.next - time.monotonic()))

    def _reset(self) -> None:
        self.received[:] = 0
        self.first[:] = -1
        self.sent = 0
        self.latencies.clear()
        self.gaps.clear()
        self.lateness.clear()
        self._cpu = _cpu()
        self.tones_good = self.tones_seen = 0

    def _send(self, beat: int, now: float) -> None:
        rows = np.arange(beat % PHASES, self.legs, PHASES)
        if not rows.size:
            return
        frame = beat // PHASES
        if frame < SPREAD:  # calls do not begin all at once, or their chunks would all be due at once for ever
            rows = rows[rows // PHASES % SPREAD <= frame]
        data = self.outbox.data
        header = np.empty((rows.size, 6), dtype=np.uint8)
        header[:, :2] = np.frombuffer((frame & 0xFFFF).to_bytes(2, "big"), dtype=np.uint8)
        header[:, 2:] = np.frombuffer(
            (frame * self._says.timestamp_step & 0xFFFFFFFF).to_bytes(4, "big"), dtype=np.uint8
        )
        data[rows, 2:8] = header
        if self._pauses:
            quiet = (frame + PAUSE_SHIFT * rows) % PAUSE_EVERY < PAUSE_FRAMES
            tones = self._tone_frames[rows % TONES, frame % CYCLE]
            data[rows, _HEADER:] = np.where(quiet[:, None], g711.ULAW_SILENCE, tones)
        elif self._says.adaptive:
            data[rows, _HEADER:] = self._tone_frames[rows % TONES, frame % CYCLE]
        marked = rows[(frame + rows) % MARK_EVERY == 0] if self._marks else rows[:0]
        kept = data[marked, _HEADER : _HEADER + 8]
        data[marked, _HEADER : _HEADER + 8] = _MARK
        self.marked_at[marked] = now
        self.sent += self.socket.send(self.outbox, rows)
        data[marked, _HEADER : _HEADER + 8] = kept

    def _receive(self, counting: bool) -> None:
        for _ in range(_BLOCKS_MOST):
            now = time.monotonic()
            count = self.socket.receive(self.block, now)
            if count:
                self._take(count, counting)
            if count < BLOCK:
                return

    def _take(self, count: int, counting: bool) -> None:
        legs = self.socket.leg[:count]
        size = _HEADER + self._hears.frame_bytes
        good = (legs >= 0) & (legs < self.legs) & (self.block.length[:count] == size)
        rows, legs = np.flatnonzero(good), legs[good]
        data = self.block.data[:, :size]
        header = data[rows, : _HEADER + 8]
        sequence = header[:, 2].astype(np.int64) << 8 | header[:, 3]
        self.received += np.bincount(legs, minlength=self.legs)
        fresh = self.first[legs] < 0
        self.first[legs[fresh][::-1]] = sequence[fresh][::-1]
        self.last[legs] = sequence
        arrival = self.block.arrival[rows]
        if not counting:
            self._seen_at[legs] = arrival
            if self._decoders:
                few = np.flatnonzero(legs < _DECODED)
                self._tones(data[rows[few], _HEADER:], legs[few])  # decoders with memory must be in step by then
            return
        if len(self.gaps) < _GAPS_MOST:
            self.gaps.append(arrival - self._seen_at[legs])
        self._seen_at[legs] = arrival
        few = np.arange(min(32, legs.size))
        if self._marks:
            marked = np.ascontiguousarray(header[:, _HEADER:]).view(np.uint64)[:, 0] == _MARK.view(np.uint64)[0]
            self.latencies.extend((arrival[marked] - self.marked_at[legs[marked] ^ 1]).tolist())
            few = np.flatnonzero(~marked)[:32]
        elif self._decoders:
            few = np.flatnonzero(legs < _DECODED)
        self._tones(data[rows[few], _HEADER:], legs[few])

    def _tones(self, payload: NDArray[np.uint8], legs: NDArray[np.int64]) -> None:
        """How many of these frames are the partner's tone and little else."""
        if not legs.size:
            return
        wave = self._wave(payload, legs)
        energy = np.einsum("ij,ij->i", wave, wave)
        if self._pauses:  # in and around pauses there is no tone, or half of one
            whole = energy > 0.9 * np.max(energy, initial=0.0)
            wave, energy, legs = wave[whole], energy[whole], legs[whole]
        strength = np.abs(np.einsum("ij,ij->i", wave, self._basis[(legs ^ 1) % TONES]))
        half = self._hears.frame_samples / 2
        self.tones_good += int(np.count_nonzero(strength**2 / half > 0.98 * np.maximum(energy, 1e6)))
        self.tones_seen += int(legs.size)

    def _wave(self, payload: NDArray[np.uint8], legs: NDArray[np.int64]) -> NDArray[np.float64]:
        """Payloads as samples."""
        if self._hears.name == "ulaw":
            return g711.ULAW_TO_PCM[payload].astype(np.float64)
        if self._decoders:
            each = [self._decoders[leg].decode(one.tobytes()) for leg, one in zip(legs.tolist(), payload, strict=True)]
            return np.stack(each).astype(np.float64)
        return self._hears.decoder().decode(payload.tobytes()).reshape(len(payload), -1).astype(np.float64)

    def _result(self, seconds: float) -> dict[str, object]:
        span = np.where(self.first >= 0, ((self.last - self.first) & 0xFFFF) + 1, 0)
        lost = int(np.maximum(span - self.received, 0).sum())
        gaps = np.concatenate(self.gaps or [np.zeros(1)]) * 1000
        way = np.array(self.latencies) * 1000
        late = np.maximum(self.lateness, 0.0) * 1000
        return {
            "sent": self.sent,
            "received": int(self.received.sum()),
            "lost": lost,
            "silent_legs": int(np.count_nonzero(self.first < 0)),
            "kernel_dropped": self.socket.fell(),
            "tone_share": self.tones_good / self.tones_seen if self.tones_seen else 0.0,
            "gap_ms_p99": float(np.percentile(gaps, 99)),
            "way_ms_p50": float(np.percentile(way, 50)) if way.size else None,
            "way_ms_p99": float(np.percentile(way, 99)) if way.size else None,
            "load_late_ms_p99": float(np.percentile(late, 99)),
            "load_late_ms_max": float(late.max()),
            "load_cpu": (_cpu() - self._cpu) / seconds,
        }


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Read the task as JSON from stdin, write the figures as JSON to stdout."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # as in `bench_serve`
    stay_on(1)
    with contextlib.suppress(OSError):  # only root may
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)
    task = json.loads(sys.stdin.readline())
    load = Load(
        task["legs"], task["port"], task["host"], task["ports"], pauses=task["pauses"],
        says=task.get("says", "ulaw"), hears=task.get("hears", "ulaw"),
    )  # fmt: skip
    print(json.dumps(load.run(task["seconds"], task["warm_up"])), flush=True)


if __name__ == "__main__":
    main()
