"""Messages of one kind of a WebSocket as they come in, without aiohttp's queue and the task that has to wake for each of them.

Sits between the transport and aiohttp's own protocol. Whole frames of that kind go straight to whoever listens; all else is
aiohttp's, untouched and in order: control frames, the other kind, fragments, what is malformed, what comes while aiohttp still
has messages that nobody has received, and what comes too thick to be heard in one go.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from kallglot_ari.portions import Portions
from kallglot_ari.websocket.frames import BINARY, MASKED, PING, PONG, TEXT, header, mask

_CONTROL_MAX = 125
_HOLD_MAX = 1 << 16
"""Bytes of a frame whose rest is waited for here; a longer one is aiohttp's from its beginning."""
_IN_A_ROW = 16
"""Messages heard in one go; others have a turn before the rest, which takes the way by the queue."""
_FRAMES = 256
"""Frames looked at in one go, whoever has them; others have a turn before the rest."""
_PORTION = 8192
"""Bytes for aiohttp in one go when all is its own."""
_NOTED = 1.0
"""Seconds after which aiohttp's heartbeat, if there is one, is shown that something comes."""


class Shortcut(asyncio.Protocol):
    """In the place of `inner`, which is shown everything that is not heard here.

    :param seen: what `inner` has of the WebSocket already. :param heartbeat: whether aiohttp looks for signs of life.
    :param masked: whether what comes is masked: it is a client that sends it.
    :param transport: where it comes from, and is held up while there is more than can be looked at in one go; None: all is looked at.
    """

    __slots__ = (
        "_begun", "_first", "_hear", "_heartbeat", "_held", "_in_fragments", "_inner", "_left", "_masked", "_noted_at", "_over", "_portions",
        "owed",
    )  # fmt: skip

    def __init__(
        self,
        inner: asyncio.Protocol,
        seen: bytes,
        *,
        heartbeat: bool = False,
        masked: bool = False,
        transport: asyncio.Transport | None = None,
    ) -> None:
        self._portions: Portions | None = None
        self._hear: Callable[[Any], None] | None = None
        self._first = TEXT
        """First byte of what is heard."""
        self._masked = MASKED if masked else 0
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
        self._begun = False
        self._inner = asyncio.Protocol()
        self._walk(seen)
        self._inner, self._begun = inner, True
        if self._held:  # aiohttp has part of a header: where the next frame begins is not known here
            self._give_up()
        if transport is not None:
            self._portions = Portions(transport, self._walk, inner)

    def listen(self, hear: Callable[[str], None]) -> None:
        """Tell `hear` each text message that can be told at once; the others are to be received of aiohttp."""
        self._begin(TEXT, hear)

    def listen_binary(self, hear: Callable[[bytes], None]) -> None:
        """As `listen` does, of binary messages."""
        self._begin(BINARY, hear)

    def _begin(self, first: int, hear: Callable[[Any], None]) -> None:
        if not self._over:
            self._first, self._hear = first, hear

    # --- as the transport's protocol --------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._portions:
            self._portions.hold(data)
            return
        hear = self._hear
        if hear is None or self._held or self._left or self.owed or self._in_fragments or self._heartbeat:
            self._walk(data)
            return
        size = len(data)
        # nearly always it is this: one message of 126 to 65,535 bytes
        begin = 8 if self._masked else 4
        if (
            size >= begin
            and data[0] == self._first
            and data[1] == self._masked | 126
            and size == begin + (data[2] << 8 | data[3])
        ):
            message = self._message(data, begin, size)
            if message is not None:
                hear(message)
                return
        self._walk(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._give_up()
        if self._portions is not None:
            self._portions.drop()
        self._inner.connection_lost(exc)

    # --- frame by frame ---------------------------------------------------------------------------------------------

    def _walk(self, data: bytes) -> None:
        if self._over:
            if self._portions is None:
                self._inner.data_received(data)
            else:
                self._inner.data_received(data[:_PORTION])
                self._portions.hold(data[_PORTION:])
            return
        if self._held:
            data, self._held = self._held + data, b""
        size = len(data)
        shown = 0
        """Up to where aiohttp has it, or does not need it."""
        at = min(self._left, size)
        self._left -= at
        heard = frames = 0
        later = b""
        while at < size:
            if frames == _FRAMES:
                if self._portions is not None:
                    later = data[at:]
                    break
                if not self._begun:  # they came together with the answer to the upgrade, and aiohttp has them
                    self._give_up()
                    return
            frames += 1
            begin, length = header(data, at)
            if begin > size:
                self._held = data[at:]
                break
            end = begin + length
            if (
                data[at] == self._first
                and heard < _IN_A_ROW
                and data[at + 1] & MASKED == self._masked
                and self._may_hear()
            ):
                if end > size and end - at <= _HOLD_MAX:
                    self._held = data[at:]
                    break
                message = self._message(data, begin, end) if end <= size else None
                if message is not None:
                    if shown < at:
                        self._inner.data_received(data[shown:at])
                    at = shown = end
                    heard += 1
                    if self._hear is not None:
                        self._hear(message)
                    continue
            if not data[at] & 0x08:
                self._in_fragments = not data[at] & 0x80
                self.owed += not self._in_fragments
            elif data[at] not in (PING, PONG) or length > _CONTROL_MAX:
                self._give_up()  # the end, or a fault: aiohttp hears nothing after either
                at = size
                break
            at = min(end, size)
            self._left = end - at
        if shown < at:
            self._inner.data_received(data[shown:at] if shown or at < size else data)
        if later and self._portions is not None:
            self._portions.hold(later)

    def _give_up(self) -> None:
        self._over = True
        self._hear = None

    def _may_hear(self) -> bool:
        """Whether a whole message that comes now is for `hear`."""
        if self._hear is None or self.owed or self._in_fragments:
            return False
        if self._heartbeat:
            now = time.monotonic()
            if now - self._noted_at >= _NOTED:
                self._noted_at = now
                return False
        return True

    def _message(self, data: bytes, begin: int, end: int) -> str | bytes | None:
        """The message of a whole frame, whose payload is from `begin` to `end`; None when it is text that is no UTF-8."""
        payload: bytes | bytearray = data[begin:end]
        if self._masked:
            payload = bytearray(payload)
            mask(data[begin - 4 : begin], payload)
        if self._first == BINARY:
            return bytes(payload)
        try:
            return payload.decode()
        except UnicodeDecodeError:
            return None
