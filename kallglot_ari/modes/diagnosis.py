"""A call's captures and recordings: files in `[debug] dir`, for whoever has to find out what was on the line."""

from __future__ import annotations

import asyncio
import contextlib
import re
import tempfile
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from kallglot_ari import log
from kallglot_ari.calls.interfaces import CaptureFile, Flow, Media
from kallglot_ari.errors import ConfigError, UsageError
from kallglot_ari.media.capture import free, leave_room
from kallglot_ari.settings import DebugSettings, Settings
from kallglot_ari.tasks import aside

_log = log.get(__name__)
_SUFFIX = {"wav": "wav", "opus": "ogg"}
_LEAST = 4096
"""Bytes that a disk takes which is not full."""
_PATIENCE = 5.0
"""Seconds that the disk has to answer."""
_ASKING = threading.BoundedSemaphore(4)
"""Those who may wait for the disk at once: on a network disk that hangs each keeps its thread, for ever perhaps."""

T = TypeVar("T")


def _plain(name: str) -> str:
    """`name` as a harmless part of a file's name."""
    return re.sub(r"[^A-Za-z0-9_.+-]", "_", name).lstrip(".")[:100] or "_"


def captures(folder: str, call_id: str) -> list[Path]:
    """The capture files there are of a call, the oldest first."""
    name = _plain(call_id)
    found = [*Path(folder).glob(f"{name}.pcap"), *Path(folder).glob(f"{name}-[0-9]*.pcap")]
    return sorted(found, key=lambda path: path.stat().st_mtime)


def in_use(settings: Settings) -> bool:
    """Whether files go to `debug.dir` without anybody's asking for one."""
    return settings.debug.pcap or settings.debug.record != "off" or settings.trunk.sip_trace


def check(folder: str) -> None:
    """Whether `debug.dir` can be made, and files in it; nothing is left there. :raises ConfigError: it cannot."""
    path = Path(folder).absolute()
    made: list[Path] = []
    try:
        for each in (*reversed(path.parents), path):
            if not each.exists():
                each.mkdir(mode=0o700)
                made.append(each)
        with tempfile.TemporaryFile(dir=path, buffering=0) as file:
            file.write(bytes(_LEAST))
        leave_room(path)
    except OSError as error:
        raise ConfigError(f"debug.dir: {path}: no file can be written there: {error.strerror}") from None
    finally:
        for each in reversed(made):
            with contextlib.suppress(OSError):
                each.rmdir()


async def ask(folder: str, question: Callable[[], T]) -> T:
    """What `question` finds out about `debug.dir`; nobody else waits for that disk. :raises ConfigError: it does not answer."""
    if not _ASKING.acquire(blocking=False):
        raise _hangs(folder)

    def answer() -> T:
        try:
            return question()
        finally:
            _ASKING.release()

    try:
        async with asyncio.timeout(_PATIENCE):
            return await aside(answer, name="debug-dir")
    except TimeoutError:
        raise _hangs(folder) from None


def _hangs(folder: str) -> ConfigError:
    return ConfigError(f"debug.dir: {Path(folder).absolute()}: the disk has not answered for {_PATIENCE:g} s")


async def warn(settings: Settings) -> None:
    """Say at the start that nothing will be written. Calls go on all the same."""
    if in_use(settings):
        folder = settings.debug.dir
        try:
            await ask(folder, lambda: check(folder))
        except ConfigError as error:
            _log.warning("debug_dir_cannot_be_written", error=str(error))


class Diagnosis:
    """What is written down of one call."""

    def __init__(self, call_id: str, settings: DebugSettings, media: Media) -> None:
        self._name = _plain(call_id)
        self._settings = settings
        self._folder = Path(settings.dir).absolute()  # who asks for a file is in another one
        self._media = media
        self._running: CaptureFile | None = None
        self._last: CaptureFile | None = None

    def begins(self, flow: Flow, speaker: str) -> None:
        """A leg's flow is new."""
        settings = self._settings
        if settings.record != "off":
            name = f"{self._name}-{_plain(speaker)}.{_SUFFIX[settings.record]}"
            flow.record(self._folder / name, settings.record)
        if settings.pcap and self._last is None:
            self._begin([flow], self._wished)
        elif self._running is not None:
            flow.capture(self._running)

    async def capture(self, flows: Iterable[Flow], *, on: bool) -> Path:
        """Write the RTP of `flows` to a file from now on, or no longer; the file.

        :raises UsageError: there never was one. :raises ConfigError: it cannot be written.
        """
        if on:
            path = await ask(self._settings.dir, self._place)
            if self._running is None or self._running.over:
                self._begin(flows, path)
        else:
            self.end(flows)
        if self._last is None:
            raise UsageError("capture: expected one that runs, found none")
        return self._last.path

    @property
    def _wished(self) -> Path:
        return self._folder / f"{self._name}.pcap"

    def _place(self) -> Path:
        check(self._settings.dir)
        return free(self._wished)

    def _begin(self, flows: Iterable[Flow], path: Path) -> None:
        self._running = self._last = self._media.capture_file(path)
        for flow in flows:
            flow.capture(self._running)

    def end(self, flows: Iterable[Flow]) -> None:
        """End the capture that runs, if one does."""
        if self._running is not None:
            for flow in flows:
                flow.capture(None)
            self._running.close()
            self._running = None
