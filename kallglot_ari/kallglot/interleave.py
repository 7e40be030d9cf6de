"""Two speakers' chunks as one two-channel signal, aligned in time. Pure."""

from __future__ import annotations

from kallglot_ari.calls.model import StreamAudio

_SILENCE = {"mulaw": b"\xff", "alaw": b"\xd5", "pcm_16": b"\x00\x00", "pcm_8": b"\x80"}
_MAX_GAP_MS = 2000


class _Side:
    """One channel: samples waiting to be sent, and where they lie on the common time line."""

    def __init__(self) -> None:
        self.shift: int | None = None
        """What has to be added to this side's own time, in samples; None until its first chunk."""
        self.samples = bytearray()
        self.end = 0
        """Where the next sample would lie, in samples."""


class Interleaver:
    """Puts `left` and `right` side by side in pieces of `chunk_ms`.

    Each side's own time starts anywhere; its first chunk is set beside what is being sent at that moment, and from then on its
    `timestamp_ms` counts. What one side does not say is silence: a side that is behind by more than a piece is not waited for.
    """

    def __init__(self, left: str, right: str, *, chunk_ms: int) -> None:
        self._sides = {left: _Side(), right: _Side()}
        self._chunk_ms = chunk_ms
        self._format: tuple[str, int] | None = None
        self._cursor = 0

    def push(self, speaker: str, audio: StreamAudio, timestamp_ms: int) -> list[tuple[int, StreamAudio]]:
        """Take a chunk; returns what can be sent now as (timestamp in ms, two-channel audio).

        :raises KeyError: for a speaker who has no side. :raises ValueError: when the format changes in mid-stream.
        """
        side = self._sides[speaker]
        if self._format is None:
            self._format = (audio.encoding, audio.sample_rate)
        elif self._format != (audio.encoding, audio.sample_rate):
            raise ValueError(
                f"expected {self._format[0]} at {self._format[1]} Hz, found {audio.encoding} at {audio.sample_rate} Hz"
            )
        self._place(side, audio, timestamp_ms * audio.sample_rate // 1000)
        return self._ready(audio)

    def _place(self, side: _Side, audio: StreamAudio, own: int) -> None:
        silence = _SILENCE[audio.encoding]
        width = len(silence)
        far = _MAX_GAP_MS * audio.sample_rate // 1000
        side.end = max(side.end, self._cursor)
        start = None if side.shift is None else own + side.shift
        too_late = start is not None and start < self._cursor and side.end == self._cursor
        if start is None or too_late or not side.end - far <= start <= side.end + far:
            # Its first chunk, a jump, or a side that is always late: from here on it is set beside what is being sent.
            start = side.end
            side.shift = start - own
        payload = audio.payload
        if start > side.end:
            side.samples += silence * (start - side.end)
            side.end = start
        elif start < side.end:
            payload = payload[(side.end - start) * width :]
        side.samples += payload
        side.end += len(payload) // width

    def _ready(self, audio: StreamAudio) -> list[tuple[int, StreamAudio]]:
        rate = audio.sample_rate
        silence = _SILENCE[audio.encoding]
        width = len(silence)
        step = self._chunk_ms * rate // 1000
        out = []
        left, right = self._sides.values()
        while min(left.end, right.end) >= self._cursor + step or max(left.end, right.end) >= self._cursor + 2 * step:
            pieces = []
            for side in (left, right):
                piece = bytes(side.samples[: step * width])
                del side.samples[: step * width]
                pieces.append(piece + silence * (step - len(piece) // width))
            joined = bytearray(2 * step * width)
            for offset in range(width):
                joined[offset :: 2 * width] = pieces[0][offset::width]
                joined[width + offset :: 2 * width] = pieces[1][offset::width]
            out.append((self._cursor * 1000 // rate, StreamAudio(audio.encoding, rate, bytes(joined))))
            self._cursor += step
        return out


def split(audio: StreamAudio) -> tuple[StreamAudio, StreamAudio]:
    """Left and right of two-channel audio. :raises ValueError: when it does not divide into frames."""
    width = len(_SILENCE[audio.encoding])
    if len(audio.payload) % (2 * width):
        raise ValueError(f"expected whole frames of {2 * width} bytes, found {len(audio.payload)} bytes")
    sides = []
    for side in (0, width):
        out = bytearray(len(audio.payload) // 2)
        for offset in range(width):
            out[offset::width] = audio.payload[side + offset :: 2 * width]
        sides.append(StreamAudio(audio.encoding, audio.sample_rate, bytes(out)))
    return sides[0], sides[1]


def silent(audio: StreamAudio) -> bool:
    """Whether `audio` is digital silence, so that an unused side is not taken for speech."""
    silence = _SILENCE[audio.encoding]
    if audio.payload == silence * (len(audio.payload) // len(silence)):
        return True
    return audio.encoding == "mulaw" and not audio.payload.strip(b"\xff\x7f")
