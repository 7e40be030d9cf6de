"""The tick's loops as machine code (`tick.c`), where the package was built with a C compiler; numpy and ctypes do the same without.

A call holds the interpreter's lock, like a numpy operation, for none of them waits; but for sending, which is most of the tick's work and its last, and for
G.722: the event loop goes on meanwhile.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

_VERSION = 6
INBOUND_BYTES, OUTBOUND_BYTES, WAY_BYTES = 144, 48, 32
"""Of a leg's records, as tick.c has them."""
ENCODER_BYTES, DECODER_BYTES = 224, 220
"""Of G.722."""
EAR_BYTES, VOICE_BYTES = 32, 72
"""Of `originals`."""
_int, _double, _pointer = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p


_VOID = ("stage", "reset", "pack", "decode", "forget")


class Native:
    """The library's functions. :raises OSError: when it cannot be used here."""

    def __init__(self, path: Path) -> None:
        library, unlocked = ctypes.PyDLL(str(path)), ctypes.CDLL(str(path))
        expected = [INBOUND_BYTES, OUTBOUND_BYTES, WAY_BYTES, ENCODER_BYTES, DECODER_BYTES, EAR_BYTES, VOICE_BYTES]
        sizes = [ctypes.c_int64() for _ in expected]
        if library.kallglot_sizes(*map(ctypes.byref, sizes)) != _VERSION:
            raise OSError(f"{path.name}: expected version {_VERSION}")
        if [size.value for size in sizes] != expected:
            raise OSError(f"{path.name}: another layout of a leg's figures")
        self.take = self._function(library, "take", _pointer, *[_pointer] * 4, _int, _int)
        self.take_long = self._function(unlocked, "take", _pointer, *[_pointer] * 4, _int, _int)
        """`take`, where it decodes."""
        self.decode = self._function(library, "decode", _pointer, _pointer, _int, _pointer, _int, _pointer)
        self.forget = self._function(library, "forget", _pointer, _int)
        self.overdue = self._function(library, "overdue", _pointer, _pointer, _int, *[_double] * 7, _pointer)
        self.dry = self._function(library, "dry", _pointer, _pointer, _int, _pointer)
        self.stage = self._function(library, "stage", _pointer, _pointer, _int, _pointer, _int)
        self.pass_by = self._function(
            library, "pass", _pointer, _pointer, _int, _int, _pointer, _pointer, _double, _pointer
        )
        self.mix = self._function(library, "mix", _pointer, _pointer, _int, _pointer)
        self.reset = self._function(library, "reset", _pointer, _int)
        self.pack = self._function(library, "pack", _pointer, _pointer, _int)
        self.encode = self._function(unlocked, "pack", _pointer, _pointer, _int)
        """`pack`, where it takes long."""
        self.hurry = self._function(library, "hurry", _pointer, _pointer, _pointer, _int, _int, _double)
        self.receive = self._function(
            library, "receive", ctypes.c_int, _pointer, *[_int] * 4, _double, _double, *[_pointer] * 3
        )
        self.send = self._function(unlocked, "send", ctypes.c_int, _pointer, _pointer, _int, _pointer, _int)

    @staticmethod
    def _function(library: ctypes.CDLL, name: str, *arguments: Any) -> Callable[..., int]:
        function: Any = getattr(library, f"kallglot_{name}")
        function.argtypes, function.restype = arguments, None if name in _VOID else _int
        return function  # type: ignore[no-any-return]


def _load() -> Native | None:
    path = Path(__file__).with_name("_tick.so")
    if not path.exists():
        return None
    try:
        return Native(path)
    except (OSError, AttributeError) as error:  # of another machine or version, or without recvmmsg
        log.warning("native_media_unusable", extra={"error": str(error)})
        return None


LIBRARY = _load()
"""None where it was not built."""
