"""Every codec by its name, and the encodings the stream carries.

Payload types are Asterisk's own, measured on 16.28 and 22.10: it sends dynamic types (slin16 118, opus 107) and takes none of them back
over RTP. `slin16le` and `opus_cbr` are what goes over a websocket, where frames of ours have one length.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial

import numpy as np

from kallglot_ari.audio.codecs import g711, g722, opus, slin
from kallglot_ari.audio.codecs.base import Codec
from kallglot_ari.audio.frame import Pcm, from_little_endian, to_little_endian
from kallglot_ari.errors import MediaError

CODECS: dict[str, Codec] = {
    codec.name: codec
    for codec in (
        Codec("ulaw", 0, 0, 8000, 8000, 8000, g711.ulaw_encoder, g711.ulaw_decoder),
        Codec("alaw", 8, 8, 8000, 8000, 8000, g711.alaw_encoder, g711.alaw_decoder),
        Codec("g722", 9, 9, 16000, 8000, 8000, g722.G722Encoder, g722.G722Decoder, adaptive=True),
        Codec("slin", 10, 10, 8000, 8000, 16000, slin.SlinEncoder, slin.SlinDecoder),
        Codec("slin16", 118, None, 16000, 16000, 32000, slin.SlinEncoder, slin.SlinDecoder),
        Codec("slin16le", 118, 118, 16000, 16000, 32000, slin.LittleSlinEncoder, slin.LittleSlinDecoder),
        Codec(
            "opus_cbr",
            107,
            107,
            16000,
            48000,
            opus.CBR_BYTES * 50,
            opus.CbrOpusEncoder,
            opus.OpusDecoder,
            duration=opus.duration,
        ),
        Codec("opus", 107, None, 16000, 48000, 0, opus.OpusEncoder, opus.OpusDecoder, duration=opus.duration),
    )
}

LOUD = 256
"""The magnitude of a 16-bit sample from which it counts as loud: a sine of -45 dBFS just reaches it."""
STREAM_ENCODINGS = ("mulaw", "alaw", "pcm_16", "pcm_8")
SAME_BYTES = {"ulaw": "mulaw", "alaw": "alaw"}
"""Codecs whose payloads the stream carries as they are, and what it calls them."""


def get(name: str, *, opus_complexity: int | None = None) -> Codec:
    """`opus_complexity` is that of `opus_cbr`'s encoders, if not their own. :raises MediaError: for a name that is none."""
    try:
        codec = CODECS[name]
    except KeyError:
        raise MediaError(f"codec: expected one of {', '.join(CODECS)}, found {name!r}") from None
    if opus_complexity is not None and name == "opus_cbr":
        return replace(codec, encoder=partial(opus.CbrOpusEncoder, opus_complexity))
    return codec


def stream_sample_bytes(encoding: str) -> int:
    """Bytes of one sample on the stream. :raises MediaError: for an unknown encoding."""
    if encoding not in STREAM_ENCODINGS:
        raise MediaError(f"stream encoding: expected one of {', '.join(STREAM_ENCODINGS)}, found {encoding!r}")
    return 2 if encoding == "pcm_16" else 1


def stream_to_pcm(encoding: str, payload: bytes) -> Pcm:
    """Sound as the stream carries it: mu-law, A-law, little-endian 16-bit or unsigned 8-bit PCM.

    :raises MediaError: for an unknown encoding or half a sample.
    """
    if encoding == "pcm_16":
        return from_little_endian(payload)
    data = np.frombuffer(payload, dtype=np.uint8)
    if encoding == "mulaw":
        return g711.ULAW_TO_PCM[data]
    if encoding == "alaw":
        return g711.ALAW_TO_PCM[data]
    if encoding == "pcm_8":
        return (data.astype(np.int16) - 128) * np.int16(256)
    raise MediaError(f"stream encoding: expected one of {', '.join(STREAM_ENCODINGS)}, found {encoding!r}")


def pcm_to_stream(encoding: str, pcm: Pcm) -> bytes:
    """The opposite of `stream_to_pcm`."""
    if encoding == "pcm_16":
        return to_little_endian(pcm)
    if encoding == "mulaw":
        return g711.PCM_TO_ULAW[pcm.view(np.uint16)].tobytes()
    if encoding == "alaw":
        return g711.PCM_TO_ALAW[pcm.view(np.uint16)].tobytes()
    if encoding == "pcm_8":
        return ((pcm.astype(np.int32) >> 8) + 128).astype(np.uint8).tobytes()
    raise MediaError(f"stream encoding: expected one of {', '.join(STREAM_ENCODINGS)}, found {encoding!r}")


def loud_share(encoding: str, payload: bytes) -> float:
    """The share of samples that are `LOUD` or more, 0 to 1, of stream bytes. :raises MediaError: for an unknown encoding.

    For the event loop, where numpy on 100 ms costs several times as much and waits for the interpreter's lock afterwards.
    """
    faint = _faint(encoding)
    data = payload[1::2] if encoding == "pcm_16" else payload
    return len(data.translate(None, faint)) / len(data) if data else 0.0


@cache
def _faint(encoding: str) -> bytes:
    """The codes of less than `LOUD`; of 16-bit PCM the high bytes."""
    if encoding == "pcm_16":
        return b"\x00\xff"
    samples = stream_to_pcm(encoding, bytes(range(256))).astype(np.int32)
    return np.flatnonzero(np.abs(samples) < LOUD).astype(np.uint8).tobytes()
