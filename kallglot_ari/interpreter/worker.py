"""A worker process: `python -m kallglot_ari.interpreter.worker`. It holds one model and does what the service asks over its pipes.

Models live in processes of their own, niced, so that neither the GIL nor the scheduler lets them touch the audio.
The first message names the engine and its configuration; the answer says `ready` or what is wrong.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, Protocol

from kallglot_ari.errors import InterpreterError
from kallglot_ari.interpreter import wire

NICENESS = 10


class Host(Protocol):
    """A loaded model."""

    lanes: int
    """Requests it takes at once."""

    def handle(self, header: dict[str, Any], blob: bytes, cancelled: Callable[[], bool]) -> dict[str, Any]:
        """Answer a request; bytes go in `blob`. :raises InterpreterError:"""
        ...


def load(config: dict[str, Any]) -> Host:
    """Import and load the engine that `config` names. :raises InterpreterError: saying what is missing."""
    engine = config.get("engine")
    if engine == "whisper":
        from kallglot_ari.interpreter.whisper import WhisperHost

        return WhisperHost(config)
    if engine == "gguf":
        from kallglot_ari.interpreter.gguf import GgufHost

        return GgufHost(config)
    if engine == "opus-mt":
        from kallglot_ari.interpreter.opus import OpusHost

        return OpusHost(config)
    if engine == "pico":
        from kallglot_ari.interpreter.pico import PicoHost

        return PicoHost(config)
    raise InterpreterError(f"worker: expected engine whisper, gguf, opus-mt or pico, found {engine!r}")


class Server:
    """Reads requests, runs them on the host's lanes, writes answers; a cancelled one is not begun, or stopped."""

    def __init__(self, host: Host, out: BinaryIO) -> None:
        self._host = host
        self._out = out
        self._lock = threading.Lock()
        self._cancelled: set[int] = set()
        self._pending: set[int] = set()

    def run(self, source: BinaryIO) -> None:
        with ThreadPoolExecutor(self._host.lanes) as pool:
            while (message := wire.read(source)) is not None:
                header, blob = message
                number = int(header["id"])
                if header.get("cancel"):
                    with self._lock:
                        if number in self._pending:
                            self._cancelled.add(number)
                    continue
                with self._lock:
                    self._pending.add(number)
                pool.submit(self._one, number, header, blob)

    def _one(self, number: int, header: dict[str, Any], blob: bytes) -> None:
        def cancelled() -> bool:
            return number in self._cancelled

        try:
            answer = {"error": "cancelled"} if cancelled() else self._host.handle(header, blob, cancelled)
        except InterpreterError as error:
            answer = {"error": str(error)}
        except Exception as error:  # noqa: BLE001 - the boundary of the process: the service logs and counts it
            answer = {"error": f"{type(error).__name__}: {error}"}
        with self._lock:
            self._pending.discard(number)
            self._cancelled.discard(number)
            self.write({**answer, "id": number}, locked=True)

    def write(self, header: dict[str, Any], *, locked: bool = False) -> None:
        """One whole message at a time."""
        with contextlib.nullcontext() if locked else self._lock:
            self._out.write(
                wire.pack({key: value for key, value in header.items() if key != "blob"}, header.get("blob", b""))
            )
            self._out.flush()


def main() -> int:
    """Serve until the pipe closes. What native libraries print goes to stderr, not between the messages."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    first = wire.read(sys.stdin.buffer)
    if first is None:
        return 1
    try:
        host = load(first[0])
    except InterpreterError as error:
        out.write(wire.pack({"id": 0, "error": str(error)}))
        out.flush()
        return 1
    server = Server(host, out)
    server.write({"id": 0, "ready": True})
    with contextlib.suppress(BrokenPipeError):
        server.run(sys.stdin.buffer)
    out.flush()
    os._exit(0)  # native threads of the model may not want to end


if __name__ == "__main__":
    sys.exit(main())
