"""Text messages of a WebSocket as they come in, without aiohttp's queue and the task that has to wake for each of them.

Sits between the transport and aiohttp's own protocol. Whole text frames go straight to whoever listens; all else is aiohttp's,
untouched and in order: control frames, binary, fragments, what is malformed, what comes while aiohttp still has messages that
nobody has received, and what comes too thick to be heard in one go.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

_TEXT = 0x81
"""First byte of a text message in one frame, not compressed."""
_PING, _PONG = 0x89, 0x8A
_CONTROL_MAX = 125
_HOLD_MAX = 1 << 16
"""Bytes of a frame whose rest is waited for here; a longer one is aiohttp's from its beginning."""
_IN_A_ROW = 16
"""Messages heard in one go; others have a turn before the rest, which takes the way by the queue."""
_NOTED = 1.0
"""Seconds after which aiohttp's heartbeat, if there is one, is shown that something comes."""


class Shortcut(asyncio.Protocol):
    """In the place of `inner`, which is shown everything that is not heard here.

    :param seen: what `inner` has of the WebSocket already. :param heartbeat: whether aiohttp looks for signs of life.
    """

    __slots__ = ("_hear", "_heartbeat", "_held", "_in_fragments", "_inner", "_left", "_noted_at", "_over", "owed")

    def __init__(self, inner: asyncio.Protocol, seen: bytes, *, heartbeat: bool = False) -> None:
        self._hear: Callable[[str], None] | None = None
        self.owed = 0
        """Messages that aiohttp has and that are yet to be received of it."""
        self._held = b""
        self._left = 0
        """Bytes yet to come of a frame that aiohttp has begun with."""
        self._in_fragments = False
        self._heartbeat = heartbeat
        self._noted_at = 0.0
        self._over = False
        """Whether everything is aiohttp's from now on."""
        self._inner = asyncio.Protocol()
        self._walk(seen)
        self._inner = inner
        if self._held:  # aiohttp has part of a header: where the next frame begins is not known here
            self._give_up()

    def listen(self, hear: Callable[[str], None]) -> None:
        """Tell `hear` each text message that can be told at once; the others are to be received of aiohttp."""
        if not self._over:
            self._hear = hear

    # --- as the transport's protocol --------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        hear = self._hear
        if hear is None or self._held or self._left or self.owed or self._in_fragments or self._heartbeat:
            self._walk(data)
            return
        size = len(data)
        # nearly always it is this: one message of 126 to 65,535 bytes
        if size > 4 and data[0] == _TEXT and data[1] == 126 and size == 4 + (data[2] << 8 | data[3]):
            try:
                text = data[4:].decode()
            except UnicodeDecodeError:
                self._walk(data)
                return
            hear(text)
        else:
            self._walk(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._give_up()
        self._inner.connection_lost(exc)

    # --- frame by frame ---------------------------------------------------------------------------------------------

    def _walk(self, data: bytes) -> None:
        if self._over:
            self._inner.data_received(data)
            return
        if self._held:
            data, self._held = self._held + data, b""
        size = len(data)
        shown = 0
        """Up to where aiohttp has it, or does not need it."""
        at = min(self._left, size)
        self._left -= at
        heard = 0
        while at < size:
            begin, length = _header(data, at)
            if begin > size:
                self._held = data[at:]
                break
            end = begin + length
            if data[at] == _TEXT and heard < _IN_A_ROW and not data[at + 1] & 0x80 and self._may_hear():
                if end > size and end - at <= _HOLD_MAX:
                    self._held = data[at:]
                    break
                text = _text(data[begin:end]) if end <= size else None
                if text is not None:
                    if shown < at:
                        self._inner.data_received(data[shown:at])
                    at = shown = end
                    heard += 1
                    if self._hear is not None:
                        self._hear(text)
                    continue
            if not data[at] & 0x08:
                self._in_fragments = not data[at] & 0x80
                self.owed += not self._in_fragments
            elif data[at] not in (_PING, _PONG) or length > _CONTROL_MAX:
                self._give_up()  # the end, or a fault: aiohttp hears nothing after either
                at = size
                break
            at = min(end, size)
            self._left = end - at
        if shown < at:
            self._inner.data_received(data[shown:at] if shown or at < size else data)

    def _give_up(self) -> None:
        self._over = True
        self._hear = None

    def _may_hear(self) -> bool:
        """Whether a whole text message that comes now is for `hear`."""
        if self._hear is None or self.owed or self._in_fragments:
            return False
        if self._heartbeat:
            now = time.monotonic()
            if now - self._noted_at >= _NOTED:
                self._noted_at = now
                return False
        return True


def _header(data: bytes, at: int) -> tuple[int, int]:
    """Where the payload of the frame at `at` begins, and its length; past the end of `data` when the header is not all there."""
    if len(data) < at + 2:
        return len(data) + 1, 0
    second = data[at + 1]
    begin, length = at + 2, second & 0x7F
    if length >= 126:
        begin += 2 if length == 126 else 8
        length = int.from_bytes(data[at + 2 : begin], "big")
    return begin + (4 if second & 0x80 else 0), length


def _text(payload: bytes) -> str | None:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return None
