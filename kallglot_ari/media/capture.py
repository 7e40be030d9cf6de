"""Captures and recordings: the tick notes what it sees of the legs asked for, a thread of its own writes it down.

The tick never waits for the disk. What the disk cannot keep up with is dropped and counted; a file that fails is given up, and the call goes on.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from io import RawIOBase
from math import inf
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kallglot_ari.audio.codecs.base import Codec
from kallglot_ari.media.chunks import Chunk
from kallglot_ari.media.legs import RTP_HEADER
from kallglot_ari.media.pcap import Address, PcapWriter
from kallglot_ari.media.recording import Form, Recording
from kallglot_ari.media.udp import Block, Outbox

log = logging.getLogger(__name__)

_BATCHES = 1000
"""Ticks' worth of notes that may wait for the disk: 10 s."""
_STOP_SECONDS = 10.0
"""What the disk has to take what still waits, at the end."""
_SPARE = 500_000_000
"""Bytes that are left to others on the disk, or a twentieth of one that is small: the database is often on the same one."""
_LOOK_SECONDS = 5.0
"""Between two looks at how much room there is."""

Reason = Literal["slow", "failed"]
Lost = Callable[[Reason, int], None]
"""Told how many notes were lost, and why; called on either thread."""
Note: TypeAlias = Callable[[], None]


def free(path: Path) -> Path:
    """`path`, with a number where there is such a file already. It asks the disk."""
    number = 1
    found = path
    while found.exists():
        number += 1
        found = path.with_stem(f"{path.stem}-{number}")
    return found


def leave_room(folder: Path) -> None:
    """:raises OSError: the disk has no room but what is left to others, or does not say."""
    disk = os.statvfs(folder)
    spare = min(_SPARE, disk.f_blocks * disk.f_frsize // 20)
    if disk.f_bavail * disk.f_frsize < spare:
        raise OSError(errno.ENOSPC, f"its disk has less than {spare / 1e6:.0f} MB left, which are not for captures")


def _create(path: Path) -> RawIOBase:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb", buffering=0)


class CaptureFile:
    """Implements `calls.interfaces.CaptureFile`."""

    def __init__(self, pcap: Pcap, scribe: Scribe) -> None:
        self.pcap = pcap
        self._scribe = scribe

    @property
    def path(self) -> Path:
        return self.pcap.path

    @property
    def over(self) -> bool:
        return self.pcap.over

    def close(self) -> None:
        self._scribe.close(self.pcap)


class Pcap:
    """One capture file, for any number of legs. It is opened, and has its name for good, when the first packet is written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.over = False
        self._file: PcapWriter | None = None
        self._raw: RawIOBase | None = None

    def write(self, at: float, source: Address, destination: Address, payload: bytes) -> None:
        if self._file is None:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path = free(self.path)
            self._raw = _create(self.path)
            self._file = PcapWriter(self._raw)
        self._file.write(at, source, destination, payload)

    def flush(self) -> None:
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        raw, self._raw, self._file = self._raw, None, None
        if raw is not None:
            raw.close()


class Track:
    """One leg's recording. The file is opened, and has its name for good, when there is something to write."""

    def __init__(self, path: Path, form: Form, codec: Codec, encoding: str, rate: int) -> None:
        self.path = path
        self.over = False
        self._make: Callable[[Path], Recording] = partial(
            Recording, form=form, codec=codec, encoding=encoding, stream_rate=rate
        )
        self._recording: Recording | None = None

    def said(self, at: float, timestamp_ms: int, payload: bytes) -> None:
        self._opened().said(at, timestamp_ms, payload)

    def heard(self, at: float, payload: bytes) -> None:
        self._opened().heard(at, payload)

    def _opened(self) -> Recording:
        if self._recording is None:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path = free(self.path)
            self._recording = self._make(self.path)
        return self._recording

    def flush(self) -> None:
        """Written in blocks, when they are full."""

    def close(self) -> None:
        recording, self._recording = self._recording, None
        if recording is not None:
            if self.over:
                recording.abandon()
            else:
                recording.close()


Target: TypeAlias = Pcap | Track


class Scribe:
    """The thread that writes. Started by the first note, ended by `stop`."""

    def __init__(self, lost: Lost) -> None:
        self._lost = lost
        self._queue: queue.Queue[list[tuple[Target, Note]] | None] = queue.Queue(_BATCHES)
        self._closing: deque[Target] = deque()
        self._rooms: dict[Path, tuple[float, OSError | None]] = {}
        """By folder: when it was looked at (monotonic seconds), and what is wrong."""
        self._thread: threading.Thread | None = None

    def put(self, notes: list[tuple[Target, Note]]) -> None:
        """Write `notes` in their order, some time; from any thread, without waiting."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="kallglot-scribe", daemon=True)
            self._thread.start()
        try:
            self._queue.put_nowait(notes)
        except queue.Full:
            self._lost("slow", len(notes))

    def close(self, target: Target) -> None:
        """End a file when what waits is written; from any thread, without waiting."""
        self._closing.append(target)
        with contextlib.suppress(queue.Full):  # full: it looks there by itself
            self._queue.put_nowait([])

    def stop(self) -> None:
        """Write what waits, and end; returns when that is done, or when the disk has not taken it in time."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        until = time.monotonic() + _STOP_SECONDS
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=_STOP_SECONDS)
            thread.join(max(0.0, until - time.monotonic()))
        if thread.is_alive():
            log.warning("capture_not_finished", extra={"seconds": _STOP_SECONDS})

    def _run(self) -> None:
        while (notes := self._queue.get()) is not None:
            targets = {target for target, _ in notes}
            for target in targets:
                self._attempt(target, partial(self._look_for_room, target.path.parent))
            for target, note in notes:
                self._attempt(target, note)
            for target in targets:
                self._attempt(target, target.flush)
            if self._queue.empty():
                self._end()
        self._end()

    def _end(self) -> None:
        while self._closing:
            target = self._closing.popleft()
            self._attempt(target, target.close)
            target.over = True

    def _look_for_room(self, folder: Path) -> None:
        """:raises OSError: there is none."""
        now = time.monotonic()
        at, problem = self._rooms.get(folder, (-inf, None))
        if now - at >= _LOOK_SECONDS:
            problem = None
            try:
                leave_room(folder)
            except FileNotFoundError:  # made with its first file
                pass
            except OSError as error:
                problem = error
            self._rooms[folder] = now, problem
        if problem is not None:
            raise problem

    def _attempt(self, target: Target, note: Note) -> None:
        if target.over:
            return
        try:
            note()
        except Exception as error:  # noqa: BLE001 - boundary: one file's fault must not end those of all other calls
            target.over = True
            log.warning("capture_given_up", extra={"path": str(target.path), "error": str(error) or repr(error)})
            self._lost("failed", 1)
            with contextlib.suppress(Exception):
                target.close()


@dataclass(slots=True)
class _Watched:
    remote: Address
    pcap: Pcap | None = None
    track: Track | None = None


class Capture:
    """What is noted, of which legs. Owned by the tick's thread, but for the scribe."""

    def __init__(self, scribe: Scribe, local: Address) -> None:
        self._scribe = scribe
        self._local = local
        self._watched: dict[int, _Watched] = {}
        self._rows: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._notes: list[tuple[Target, Note]] = []

    @property
    def on(self) -> bool:
        return bool(self._watched)

    def address(self, row: int, remote: Address) -> None:
        """The far end of a row that is watched."""
        if row in self._watched:
            self._watched[row].remote = remote

    def watch(self, row: int, remote: Address, *, pcap: Pcap | None, track: Track | None) -> None:
        """Note this of `row` from now on; neither: nothing more."""
        if pcap is None and track is None:
            self._watched.pop(row, None)
        else:
            self._watched[row] = _Watched(remote, pcap, track)
        self._rows = np.array(sorted(self._watched), dtype=np.int64)

    def kept(self, row: int) -> tuple[Pcap | None, Track | None]:
        watched = self._watched.get(row)
        return (watched.pcap, watched.track) if watched else (None, None)

    def received(self, rows: NDArray[np.int64], block: Block) -> None:
        """Datagrams as they came: `rows` says whose each row of `block` is."""
        offset = time.time() - time.monotonic()
        for at in np.flatnonzero(np.isin(rows, self._rows)).tolist():
            watched = self._watched[int(rows[at])]
            if watched.pcap is not None:
                data = block.data[at, : block.length[at]].tobytes()
                self._packet(watched.pcap, float(block.arrival[at]) + offset, watched.remote, self._local, data)

    def sent(self, rows: NDArray[np.int64], outbox: Outbox, now: float) -> None:
        """Packets that leave now."""
        wall = time.time()
        for row in rows[np.isin(rows, self._rows)].tolist():
            watched = self._watched[row]
            data = outbox.data[row].tobytes()
            if watched.pcap is not None:
                self._packet(watched.pcap, wall, self._local, watched.remote, data)
            if (track := watched.track) is not None:
                self._notes.append((track, partial(track.heard, now, data[RTP_HEADER:])))

    def chunks(self, chunks: Iterable[Chunk]) -> None:
        """What goes up."""
        for row, _, (audio, timestamp_ms, received_at) in chunks:
            watched = self._watched.get(row)
            if watched is not None and (track := watched.track) is not None:
                self._notes.append((track, partial(track.said, received_at, timestamp_ms, audio.payload)))

    def hand_over(self) -> None:
        """Give the writer what was noted."""
        if self._notes:
            notes, self._notes = self._notes, []
            self._scribe.put(notes)

    def _packet(self, pcap: Pcap, at: float, source: Address, destination: Address, data: bytes) -> None:
        self._notes.append((pcap, partial(pcap.write, at, source, destination, data)))
