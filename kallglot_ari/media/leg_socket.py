"""One leg's WebSocket of Asterisk's chan_websocket: its messages as packets, packets as its messages, and how much of them it has not played yet."""

from __future__ import annotations

import asyncio
import logging
import math
import struct
from collections import deque
from collections.abc import Iterator
from typing import Any

import orjson

from kallglot_ari.audio.codecs.base import Codec
from kallglot_ari.rtp.jitter import CREEP
from kallglot_ari.rtp.playout import PACKET
from kallglot_ari.websocket.frames import BINARY, TEXT
from kallglot_ari.websocket.socket import Direct

log = logging.getLogger(__name__)

_OUTGOING = 50
"""Frames that may wait for one connection; beyond it the oldest goes."""
_BACKLOG = 16_384
"""Bytes that may lie in the transport, where they can no longer be dropped."""
_AHEAD = 2.0
"""Frames that Asterisk may have ahead of it before silence is left out: its queue does not get shorter by itself."""
_ASK = 1.0
"""Seconds after an answer until Asterisk is asked again how long its queue is: what the network held up lies there, and we cannot know of it."""
_LEFT_OUT = 0.2
"""Seconds from one frame to the next past which Asterisk has left time out."""
_LATE = 10
"""Frames in a row that must all be a frame late or more: then as many are missing before them. Fewer are only late."""
_MISSING = 0.75
"""Part of a frame from which it counts as one."""

_HEADER = struct.Struct("!BBHII").pack
"""Of an RTP packet (RFC 3550 §5.1): version, payload type, sequence number, timestamp, SSRC."""


def parse_event(text: str) -> dict[str, Any]:
    """A control message of Asterisk's, JSON or the older ``NAME key:value key:value``; `event` is its name."""
    if text.lstrip().startswith("{"):
        try:
            message = orjson.loads(text)
        except ValueError:
            return {"event": ""}
        return message if isinstance(message, dict) else {"event": ""}
    name, _, rest = text.strip().partition(" ")
    pairs = (word.partition(":") for word in rest.split())
    return {"event": name, **{key: value for key, _, value in pairs}}


class Connection:
    """One leg's WebSocket, once its `MEDIA_START` has come."""

    def __init__(self, channel_id: str, socket: Any, codec: Codec, *, as_json: bool) -> None:
        self.channel_id = channel_id
        self.socket = socket
        self.name = b""
        self.dropped = 0
        self._plain = socket.plain if isinstance(socket, Direct) else None
        self._codec = codec
        self._passthrough = codec.duration is not None
        """Whether to Asterisk, too, a message is a frame that cannot be cut up: it then refuses `FLUSH_MEDIA`."""
        self._json = as_json
        self._sequence = 0
        self._position = 0
        """Ticks of the RTP clock since the first frame."""
        self._began = math.inf
        """When position 0 would have come with the least delay, as `rtp.jitter.Timing.base`."""
        self._seen = 0.0
        self._transits: deque[float] = deque(maxlen=_LATE)
        """Of the last frames: arrival less position, in seconds."""
        self._waiting: deque[bytes] = deque(maxlen=_OUTGOING)
        self._commands: deque[str] = deque(maxlen=16)
        self._ready = asyncio.Event()
        self._held = False
        self._ahead = 0.0
        self._counted = 0.0
        self._ask_at: float | None = None
        """When Asterisk is asked next how much that is: never while an answer is awaited."""
        self._since = 0
        """Frames that follow the last question."""

    def packets(self, payload: bytes, now: float) -> Iterator[bytes]:
        """A message of Asterisk's as packets of 20 ms, as far as it can be cut up."""
        size = len(payload) if self._passthrough else self._codec.frame_bytes
        for at in range(0, len(payload), size):
            yield self.packet(payload[at : at + size], now)

    def packet(self, payload: bytes, now: float) -> bytes:
        """A frame of Asterisk's as the packet it would have been."""
        self._move_on(now)
        header = _HEADER(0x80, self._codec.receive_type, self._sequence & 0xFFFF, self._position & 0xFFFFFFFF, 1)
        self._sequence += 1
        self._position += self._codec.ticks(payload)
        return header + payload

    def _move_on(self, now: float) -> None:
        """Pass over what is missing before a frame that came at `now`: nothing tells, but that frames come later than their number says."""
        rate, step = self._codec.clock_rate, self._codec.timestamp_step
        elapsed, self._seen = now - self._seen, now
        transit = now - self._position / rate
        self._began = min(self._began + CREEP * elapsed, transit)
        self._transits.append(transit)
        silence = elapsed > _LEFT_OUT
        if (not silence and len(self._transits) < _LATE) or (transit - self._began) * rate < _MISSING * step:
            return
        late = transit if silence else min(self._transits)
        missing = int((late - self._began) * rate / step + 1 - _MISSING)
        if missing:
            self._position += missing * step
            if not silence:  # lost, and concealed as other losses are
                self._sequence += missing
            self._began = min(self._began, now - self._position / rate)
            self._transits.clear()

    def event(self, event: dict[str, Any]) -> None:
        """A control message."""
        match event.get("event"):
            case "MEDIA_XOFF":
                self._held = True
            case "MEDIA_XON":
                self._held = False
                self._push()
            case "STATUS":
                self._answered(event.get("queue_length"))
            case "ERROR":
                log.warning("media_websocket_error", extra={"channel": self.channel_id, "error": str(event)[:200]})

    def _answered(self, queue_length: object) -> None:
        """Asterisk's queue, when it came upon the question."""
        try:
            self._ahead = float(int(str(queue_length)) + self._since)
        except (ValueError, OverflowError):
            return
        self._ask_at = self._counted + _ASK

    def put(self, payload: bytes, now: float, *, silent: bool) -> None:
        """Send a frame, unless it is silence and Asterisk has enough to play."""
        self._ahead = max(0.0, self._ahead - (now - self._counted) / PACKET)
        self._counted = now
        if self._ask_at is None:
            self._ask_at = now + _ASK
        elif now >= self._ask_at:
            self._ask_at = math.inf
            self._since = len(self._waiting)
            self._command("GET_STATUS")
        if silent and self._ahead > _AHEAD:
            return
        self._ahead += 1.0
        self._since += 1
        if len(self._waiting) == _OUTGOING:
            self.dropped += 1
        self._waiting.append(payload)
        self._push()

    def flush(self) -> None:
        """What Asterisk has not played yet, it shall not; where it refuses that, it plays what it has."""
        if self._passthrough:
            self._ahead = max(0.0, self._ahead - len(self._waiting))
            self._waiting.clear()
            return
        self._waiting.clear()
        self._ahead = 0.0
        self._command("FLUSH_MEDIA")

    def _command(self, name: str) -> None:
        self._commands.append(f'{{"command":"{name}"}}' if self._json else name)
        self._push()

    @property
    def _may_send(self) -> bool:
        return bool(self._commands or (self._waiting and not self._held))

    def _push(self) -> None:
        """Send what waits as far as the transport takes it at once, and leave the rest to `write`."""
        transport = self._plain
        if transport is not None:
            frame = self.socket.frame
            while self._may_send and transport.get_write_buffer_size() <= _BACKLOG and not transport.is_closing():
                if self._commands:
                    transport.write(frame(TEXT, self._commands.popleft().encode()))
                else:
                    transport.write(frame(BINARY, self._waiting.popleft()))
        if self._may_send:
            self._ready.set()

    async def write(self) -> None:
        """Send what could not be sent at once, for ever."""
        while True:
            await self._ready.wait()
            self._ready.clear()
            while self._may_send:
                if self._plain is not None and self._plain.get_write_buffer_size() > _BACKLOG:
                    await asyncio.sleep(PACKET)  # aiohttp would take far more before it waits
                elif self._commands:
                    await self.socket.send_str(self._commands.popleft())
                else:
                    await self.socket.send_bytes(self._waiting.popleft())
