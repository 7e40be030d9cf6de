"""Each codec against another implementation of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kallglot_ari.audio.codecs import g711, opus, registry
from kallglot_ari.audio.codecs.slin import SlinDecoder, SlinEncoder
from kallglot_ari.errors import MediaError
from tests.audio.conftest import run_tool
from tests.audio.signals import best_snr, snr, speech_like, tone

EVERY_SAMPLE = np.arange(-32768, 32768, dtype=np.int32).astype(np.int16)
EVERY_BYTE = np.arange(256, dtype=np.uint8)
LAWS: dict[str, tuple[str, str, NDArray[np.uint8], NDArray[np.int16]]] = {}
LAWS["ulaw"] = ("u-law", "mulaw", g711.PCM_TO_ULAW, g711.ULAW_TO_PCM)
LAWS["alaw"] = ("a-law", "alaw", g711.PCM_TO_ALAW, g711.ALAW_TO_PCM)


@pytest.mark.parametrize("law", LAWS)
def test_g711_decodes_as_sox_and_ffmpeg_do(law: str) -> None:
    sox, ffmpeg, _, decode = LAWS[law]
    ours = decode[EVERY_BYTE].astype("<i2").tobytes()
    args = ("-D", "-t", "raw", "-e", sox, "-b", "8", "-r", "8000", "-c", "1", "-", "-t", "s16", "-")
    assert ours == run_tool("sox", *args, data=EVERY_BYTE.tobytes())
    others = ("-v", "error", "-f", ffmpeg, "-ar", "8000", "-i", "-", "-f", "s16le", "-")
    assert ours == run_tool("ffmpeg", *others, data=EVERY_BYTE.tobytes())


@pytest.mark.parametrize("tool", ["sox", "ffmpeg"])
@pytest.mark.parametrize("law", LAWS)
def test_g711_encodes_as_the_reference_does_but_for_samples_on_a_threshold(law: str, tool: str) -> None:
    """The tools disagree with each other (and with the ITU's G.191) on which side of a decision value the value itself falls."""
    sox, ffmpeg, encode, decode = LAWS[law]
    data = EVERY_SAMPLE.astype("<i2").tobytes()
    if tool == "sox":
        theirs = run_tool(
            "sox", "-D", "-t", "s16", "-r", "8000", "-c", "1", "-", "-t", "raw", "-e", sox, "-", data=data
        )
    else:
        theirs = run_tool(
            "ffmpeg", "-v", "error", "-f", "s16le", "-ar", "8000", "-i", "-", "-f", ffmpeg, "-", data=data
        )
    ours = encode[EVERY_SAMPLE.view(np.uint16)]
    reference = np.frombuffer(theirs, dtype=np.uint8)
    differ = np.flatnonzero(ours != reference)
    assert differ.size < 0.016 * EVERY_SAMPLE.size
    order = np.argsort(np.argsort(decode[EVERY_BYTE], kind="stable"))  # codes by the size of what they stand for
    assert np.abs(order[ours[differ]] - order[reference[differ]]).max(initial=0) == 1
    speech = np.random.default_rng(1).normal(0, 3000, 80000).clip(-32768, 32767).astype(np.int16)
    codes = speech.view(np.uint16)
    theirs_of = np.zeros(65536, dtype=np.uint8)
    theirs_of[EVERY_SAMPLE.view(np.uint16)] = reference
    assert abs(snr(speech, decode[encode[codes]]) - snr(speech, decode[theirs_of[codes]])) < 0.1


def test_g711_round_trip_is_the_identity_on_codes() -> None:
    for law in LAWS:
        _, _, encode, decode = LAWS[law]
        again = encode[decode[EVERY_BYTE].view(np.uint16)]
        # mu-law has two zeros; the negative one becomes the positive one
        assert [code for code in range(256) if again[code] != code] == ([0x7F] if law == "ulaw" else [])


def test_direct_tables_are_decode_then_encode() -> None:
    args = ("-D", "-t", "raw", "-e", "u-law", "-b", "8", "-r", "8000", "-c", "1", "-", "-t", "raw", "-e", "a-law", "-")
    theirs = np.frombuffer(run_tool("sox", *args, data=EVERY_BYTE.tobytes()), dtype=np.uint8)
    ours = g711.ULAW_TO_ALAW[EVERY_BYTE]
    assert np.abs(g711.ALAW_TO_PCM[ours].astype(int) - g711.ALAW_TO_PCM[theirs]).max() <= 1024
    assert (ours == theirs).mean() > 0.8
    assert snr(g711.ULAW_TO_PCM, g711.ALAW_TO_PCM[g711.ULAW_TO_ALAW]) > 35
    assert snr(g711.ALAW_TO_PCM, g711.ULAW_TO_PCM[g711.ALAW_TO_ULAW]) > 35


@given(st.binary(max_size=400))
def test_g711_takes_any_bytes(payload: bytes) -> None:
    for name in LAWS:
        codec = registry.get(name)
        pcm = codec.decoder().decode(payload)
        assert pcm.size == len(payload)
        assert len(codec.encoder().encode(pcm)) == len(payload)


def test_silence_bytes() -> None:
    assert g711.PCM_TO_ULAW[0] == g711.ULAW_SILENCE
    assert g711.PCM_TO_ALAW[0] == g711.ALAW_SILENCE


def test_g722_against_ffmpeg_both_ways() -> None:
    pcm = speech_like(16000, 2.0)
    codec = registry.get("g722")
    encoder, decoder = codec.encoder(), codec.decoder()
    ours = b"".join(encoder.encode(pcm[i : i + 320]) for i in range(0, pcm.size, 320))
    args = ("-v", "error", "-f", "g722", "-i", "-", "-f", "s16le", "-ar", "16000", "-")
    theirs = np.frombuffer(run_tool("ffmpeg", *args, data=ours), dtype="<i2")
    own = np.concatenate([decoder.decode(ours[i : i + 160]) for i in range(0, len(ours), 160)])
    assert best_snr(pcm, theirs, 64) > 15
    assert best_snr(pcm, own, 64) > 15
    args = ("-v", "error", "-f", "s16le", "-ar", "16000", "-i", "-", "-f", "g722", "-")
    encoded = run_tool("ffmpeg", *args, data=pcm.astype("<i2").tobytes())
    assert best_snr(pcm, codec.decoder().decode(encoded), 64) > 15


def test_g722_in_pieces_is_g722_in_one() -> None:
    pcm = speech_like(16000, 0.4)
    codec = registry.get("g722")
    encoder, whole = codec.encoder(), codec.encoder()
    assert b"".join(encoder.encode(pcm[i : i + 320]) for i in range(0, pcm.size, 320)) == whole.encode(pcm)
    assert codec.encoder().encode(pcm[:0]) == b""
    assert codec.decoder().decode(b"").size == 0
    with pytest.raises(MediaError, match="even number of samples, found 3"):
        codec.encoder().encode(pcm[:3])


def test_slin_is_big_endian() -> None:
    assert SlinEncoder().encode(np.array([1, -2], dtype=np.int16)) == b"\x00\x01\xff\xfe"
    assert SlinDecoder().decode(b"\x00\x01\xff\xfe").tolist() == [1, -2]
    assert SlinDecoder().lost(160) is None
    with pytest.raises(MediaError, match="L16: expected an even number of bytes, found 3"):
        SlinDecoder().decode(b"abc")


def test_slin_against_sox() -> None:
    pcm = speech_like(16000, 0.2)
    args = ("-D", "-t", "s16", "-r", "16000", "-c", "1", "-", "-t", "raw", "-e", "signed", "-b", "16", "-B", "-")
    assert SlinEncoder().encode(pcm) == run_tool("sox", *args, data=pcm.astype("<i2").tobytes())


def test_opus_round_trip_concealment_and_errors() -> None:
    if not opus.available():
        pytest.skip("libopus is not installed")
    codec = registry.get("opus")
    encoder, decoder = codec.encoder(), codec.decoder()
    pcm = tone(16000, 1.0, 500)
    packets = [encoder.encode(pcm[i : i + 320]) for i in range(0, pcm.size, 320)]
    out = [decoder.decode(packet) for packet in packets[:25]]
    assert all(part.size == 320 for part in out)
    assert best_snr(pcm[4800:8000], np.concatenate(out)[4800:8000], 300) > 12
    substitute = decoder.lost(320)
    assert substitute is not None
    assert substitute.size == 320
    assert np.abs(substitute).max() > 1000
    recovered = decoder.lost(320, packets[27])
    assert recovered is not None
    assert recovered.size == 320
    with pytest.raises(MediaError, match="opus: expected a payload, found none"):
        decoder.decode(b"")
    with pytest.raises(MediaError, match="found 3 bytes that are none"):
        decoder.decode(b"\xff\xff\xff")
    with pytest.raises(MediaError, match="expected a frame of 320 samples, found 100"):
        encoder.encode(pcm[:100])
    with pytest.raises(MediaError, match="complexity of 0 to 10, found 11"):
        opus.OpusEncoder(complexity=11)


@pytest.mark.parametrize(("config", "ticks"), list(enumerate([480, 960, 1920, 2880] * 3 + [480, 960] * 2 + [120, 240, 480, 960] * 4)))  # fmt: skip
def test_opus_packets_say_how_long_they_last(config: int, ticks: int) -> None:
    """RFC 6716: the table of §3.1, and the four kinds of §3.2."""
    codec = registry.get("opus")
    kinds = {
        b"": ticks,
        b"\1": 2 * ticks,
        b"\2": 2 * ticks,
        b"\3\3": 3 * ticks,
        b"\3\xc1": ticks,
        b"\3": 960,
        b"\3\0": 960,
    }
    for kind, expected in kinds.items():
        payload = bytes([config << 3 | (kind[0] if kind else 0)]) + kind[1:] + b"x"[: 0 if kind == b"\3" else 1]
        assert codec.ticks(payload) == (expected if expected <= 5760 else 960), payload
    assert codec.ticks(b"") == 960


@given(st.binary(min_size=1, max_size=40))
@settings(max_examples=500, deadline=None)
def test_an_opus_packet_lasts_as_long_as_what_its_decoder_makes_of_it(payload: bytes) -> None:
    """Whatever it says; one that the decoder refuses has some length from 2.5 to 120 ms."""
    if not opus.available():
        pytest.skip("libopus is not installed")
    ticks = registry.get("opus").ticks(payload)
    assert 120 <= ticks <= 5760
    try:
        pcm = opus.OpusDecoder().decode(payload)
    except MediaError:
        return
    assert pcm.size * 3 == ticks


def test_opus_fills_a_loss_from_the_next_packet_better_than_from_what_came_before() -> None:
    """In-band FEC (RFC 6716 §2.1.7): a voice whose pitch moves is where repetition fails."""
    if not opus.available():
        pytest.skip("libopus is not installed")
    rate, frame = opus.SAMPLE_RATE, opus.SAMPLE_RATE // 50
    at = np.arange(4 * rate) / rate
    pitch = 2 * np.pi * np.cumsum(140 + 60 * np.sin(2 * np.pi * 1.7 * at)) / rate
    voice = sum(np.sin(n * pitch) / n for n in range(1, 15)) * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * at)) * 5000
    pcm = voice.astype(np.int16)
    encoder = registry.get("opus").encoder()
    packets = [encoder.encode(pcm[i : i + frame]) for i in range(0, pcm.size, frame)]
    whole, concealed, recovered = (registry.get("opus").decoder() for _ in range(3))
    errors: dict[str, float] = {"concealed": 0.0, "recovered": 0.0}
    for number, packet in enumerate(packets):
        expected = whole.decode(packet).astype(float)
        if number % 10 == 9 and number + 1 < len(packets):
            for name, found in (
                ("concealed", concealed.lost(frame)), ("recovered", recovered.lost(frame, packets[number + 1])),
            ):  # fmt: skip
                assert found is not None
                errors[name] += float(np.sum((found - expected) ** 2))
        else:
            concealed.decode(packet)
            recovered.decode(packet)
    assert errors["recovered"] < errors["concealed"] / 2, errors


def test_opus_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    real = builtins.__import__

    def refuse(name: str, *args: object, **kwargs: object) -> object:
        if name.startswith("opuslib_next"):
            raise Exception("no library")
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert not opus.available()
    with pytest.raises(MediaError, match="libopus"):
        opus.OpusDecoder()


@pytest.mark.parametrize(
    ("name", "step", "samples", "size"),
    [("ulaw", 160, 160, 160), ("alaw", 160, 160, 160), ("g722", 160, 320, 160), ("slin", 160, 160, 320), ("slin16", 320, 320, 640), ("opus", 960, 320, 0)],
)  # fmt: skip
def test_registry_figures(name: str, step: int, samples: int, size: int) -> None:
    codec = registry.get(name)
    assert (codec.timestamp_step, codec.frame_samples, codec.frame_bytes) == (step, samples, size)
    if size:
        assert codec.ticks(bytes(size)) == step
        assert len(codec.encoder().encode(np.zeros(samples, dtype=np.int16))) == size
        assert codec.decoder().lost(samples) is None


def test_registry_names_what_it_has() -> None:
    with pytest.raises(MediaError, match=r"codec: expected one of ulaw, alaw, .* found 'gsm'"):
        registry.get("gsm")


@pytest.mark.parametrize("encoding", registry.STREAM_ENCODINGS)
def test_the_share_of_loud_samples(encoding: str) -> None:
    rng = np.random.default_rng(1)
    for rms in (20.0, 180.0, 3000.0):
        pcm = rng.normal(0, rms, 8000).astype(np.int16)
        share = registry.loud_share(encoding, registry.pcm_to_stream(encoding, pcm))
        exact = np.count_nonzero(
            np.abs(registry.stream_to_pcm(encoding, registry.pcm_to_stream(encoding, pcm)).astype(int)) >= 256
        )
        assert share == pytest.approx(exact / 8000, abs=0.01)
    assert registry.loud_share(encoding, b"") == 0.0


def test_stream_encodings() -> None:
    pcm = speech_like(8000, 0.1)
    for encoding, least in (("mulaw", 30), ("alaw", 30), ("pcm_16", 199), ("pcm_8", 20)):
        data = registry.pcm_to_stream(encoding, pcm)
        assert len(data) == pcm.size * registry.stream_sample_bytes(encoding)
        assert snr(pcm, registry.stream_to_pcm(encoding, data)) > least
    with pytest.raises(MediaError, match="16-bit PCM: expected an even number of bytes, found 5"):
        registry.stream_to_pcm("pcm_16", b"12345")
    for call in (
        lambda: registry.stream_to_pcm("mp3", b""),
        lambda: registry.pcm_to_stream("mp3", pcm),
        lambda: registry.stream_sample_bytes("mp3"),
    ):
        with pytest.raises(MediaError, match=r"stream encoding: expected one of mulaw, .* found 'mp3'"):
            call()


def test_opus_over_a_websocket_has_frames_of_one_length_and_over_rtp_as_long_as_the_sound_needs() -> None:
    """Asterisk cuts what a websocket brings by length alone; over RTP, silence is not paid for with bandwidth."""
    if not opus.available():
        pytest.skip("libopus is not installed")
    hiss = np.random.default_rng(1).normal(0, 5000, 320).astype(np.int16)
    frames = [np.zeros(320, dtype=np.int16), hiss, tone(16000, 0.02)] * 5
    constant, variable = registry.get("opus_cbr").encoder(), registry.get("opus").encoder()
    assert {len(constant.encode(frame)) for frame in frames} == {opus.CBR_BYTES} == {120}
    lengths = [len(variable.encode(frame)) for frame in [frames[0]] * 20 + [hiss] * 20]
    assert max(lengths[10:20]) < min(lengths[30:])
    assert sum(lengths[30:]) / 10 * 8 / 0.02 == pytest.approx(24000, rel=0.4)


def test_unsigned_8_bit_sound_has_its_silence_at_128() -> None:
    """As WAV has it; half a step to the side, silence is a hum and full scale turns round."""
    assert registry.stream_to_pcm("pcm_8", bytes([0, 127, 128, 129, 255])).tolist() == [-32768, -256, 0, 256, 32512]
    every = bytes(range(256))
    assert registry.pcm_to_stream("pcm_8", registry.stream_to_pcm("pcm_8", every)) == every
    assert registry.pcm_to_stream("pcm_8", np.array([-32768, -1, 0, 255, 32767], dtype=np.int16)) == bytes(
        [0, 127, 128, 128, 255]
    )
