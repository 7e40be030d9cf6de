from __future__ import annotations

import base64
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kallglot_ari.calls.model import StreamAudio, UplinkChunk
from kallglot_ari.kallglot.interleave import Interleaver, silent, split
from kallglot_ari.kallglot.protocol import encoder
from kallglot_ari.settings import KallglotSettings


def chunk(
    payload: bytes = b"\x10" * 800, at: int = 0, received: float = 0.0, kind: str = "mulaw", rate: int = 8000
) -> UplinkChunk:
    return UplinkChunk(StreamAudio(kind, rate, payload), at, received)  # type: ignore[arg-type]


def loads(messages: list[bytes]) -> list[dict[str, Any]]:
    return [orjson.loads(message) for message in messages]


def test_routing_audio_is_byte_for_byte_the_reference() -> None:
    made = encoder(KallglotSettings()).audio("customer", chunk(b"\xff\x7f", at=40))
    assert made == [
        b'{"type":"audio.input","sequence":0,"timestamp_ms":0,"speaker":"customer",'
        b'"audio":{"encoding":"mulaw","sample_rate_hz":8000,"payload":"/38="}}'
    ]


@pytest.mark.parametrize("speaker", ['so "called" \\', "100 %d %b", "Zoë"])
def test_a_speakers_name_is_not_taken_for_anything_else(speaker: str) -> None:
    (message,) = loads(encoder(KallglotSettings()).audio(speaker, chunk(b"\xff\x7f")))
    assert message["speaker"] == speaker
    assert message["audio"] == {"encoding": "mulaw", "sample_rate_hz": 8000, "payload": "/38="}


def test_routing_sequence_counts_the_stream_and_times_lie_on_one_line() -> None:
    routing = encoder(KallglotSettings())
    made = [
        *loads(routing.audio("customer", chunk(at=0, received=50.0))),
        *loads(routing.audio("customer", chunk(at=100, received=50.1))),
        *loads(routing.audio("agent", chunk(at=0, received=50.15))),
        *loads(routing.audio("agent", chunk(at=1100, received=51.3))),
        *loads(routing.audio("customer", chunk(at=200, received=50.2))),
    ]
    assert [message["sequence"] for message in made] == [0, 1, 2, 3, 4]
    assert [message["timestamp_ms"] for message in made] == [0, 100, 150, 1250, 200]


@given(st.lists(st.tuples(st.booleans(), st.floats(-1, 1)), min_size=1, max_size=40), st.floats(-0.3, 0.3))
def test_a_speakers_chunks_never_overlap_whoever_began_first(order: list[tuple[bool, float]], apart: float) -> None:
    routing = encoder(KallglotSettings())
    reached, own = {"customer": 0, "agent": 0}, {"customer": 0, "agent": 0}
    for customer, late in order:
        speaker = "customer" if customer else "agent"
        received = 50.0 + own[speaker] / 1000 + late + (0.0 if customer else apart)
        (message,) = loads(routing.audio(speaker, chunk(at=own[speaker], received=received)))
        assert message["timestamp_ms"] >= reached[speaker]
        reached[speaker] = message["timestamp_ms"] + 100
        own[speaker] += 100


@pytest.mark.parametrize(("kind", "rate", "width"), [("mulaw", 8000, 1), ("pcm_16", 8000, 2), ("pcm_16", 16000, 2)])
def test_a_leg_that_begins_anew_goes_on_after_what_it_has_said(kind: str, rate: int, width: int) -> None:
    routing = encoder(KallglotSettings())
    sound = bytes(rate * width // 10)
    made = [
        *loads(routing.audio("agent", chunk(sound, 0, 50.0, kind, rate))),
        *loads(routing.audio("agent", chunk(sound, 100, 50.1, kind, rate))),
        *loads(routing.audio("agent", chunk(sound, 0, 50.15, kind, rate))),
        *loads(routing.audio("agent", chunk(sound, 100, 50.25, kind, rate))),
    ]
    assert [message["timestamp_ms"] for message in made] == [0, 100, 200, 300]


def test_a_leg_that_changes_its_form_says_so_and_goes_on_in_time() -> None:
    """A re-INVITE with another codec: read at the old rate, speech is a growl."""
    routing = encoder(KallglotSettings())
    forms = [("mulaw", 8000), ("pcm_16", 8000), ("pcm_16", 16000), ("pcm_16", 16000), ("mulaw", 16000)]
    made = [
        message
        for number, (kind, rate) in enumerate(forms)
        for message in loads(routing.audio("agent", chunk(at=number * 100, received=50.0, kind=kind, rate=rate)))
    ]
    assert [(m["audio"]["encoding"], m["audio"]["sample_rate_hz"]) for m in made] == forms
    assert [message["timestamp_ms"] for message in made] == [0, 100, 200, 300, 400]


def test_control_messages() -> None:
    routing, provider = encoder(KallglotSettings()), encoder(KallglotSettings(contract="provider"))
    assert (routing.ping(), routing.end()) == ('{"type":"ping"}', '{"type":"session.end"}')
    assert (provider.ping(), provider.end()) == (None, '{"type":"end"}')


def test_provider_audio_with_a_speaker_field() -> None:
    made = encoder(KallglotSettings(contract="provider")).audio(
        "party-3", chunk(b"\x01\x02", kind="pcm_16", rate=16000)
    )
    assert made == [
        b'{"type":"audio","data":"AQI=","encoding":"pcm_16","sample_rate":16000,"channels":1,"speaker":"party-3"}'
    ]


def channels(chunk_ms: int = 100) -> Any:
    return encoder(KallglotSettings(contract="provider", provider_speakers="channels", chunk_ms=chunk_ms))


def test_channels_carry_the_customer_left_and_the_agent_right() -> None:
    stereo = channels()
    left, right = np.full(1600, 7, "<i2").tobytes(), np.full(1600, -9, "<i2").tobytes()
    assert stereo.audio("customer", chunk(left, kind="pcm_16", rate=16000)) == []
    (message,) = loads(stereo.audio("agent", chunk(right, kind="pcm_16", rate=16000)))
    assert (message["channels"], message["sample_rate"], "speaker" in message) == (2, 16000, False)
    frames = np.frombuffer(base64.b64decode(message["data"]), "<i2").reshape(-1, 2)
    assert frames.shape == (1600, 2)
    assert (frames[:, 0] == 7).all()
    assert (frames[:, 1] == -9).all()


def test_a_third_party_has_no_channel() -> None:
    assert channels().audio("party-3", chunk()) == []


def feed(
    mixer: Interleaver, script: list[tuple[str, int, int]], length: int = 800
) -> tuple[list[int], np.ndarray[Any, Any]]:
    """(speaker, value, timestamp_ms) each; returns the pieces' times and all frames."""
    times, data = [], b""
    for speaker, value, at in script:
        for when, audio in mixer.push(speaker, StreamAudio("mulaw", 8000, bytes([value]) * length), at):
            times.append(when)
            data += audio.payload
    return times, np.frombuffer(data, np.uint8).reshape(-1, 2)


@pytest.mark.parametrize("who", ["l", "r"])
def test_a_side_alone_is_sent_with_silence_beside_it(who: str) -> None:
    times, frames = feed(Interleaver("l", "r", chunk_ms=100), [(who, 1, at) for at in range(0, 500, 100)])
    assert times == [0, 100, 200, 300]
    assert (frames == ([1, 0xFF] if who == "l" else [0xFF, 1])).all()


def test_a_side_that_joins_later_starts_beside_what_is_being_sent() -> None:
    mixer = Interleaver("l", "r", chunk_ms=100)
    feed(mixer, [("l", 1, at) for at in range(0, 500, 100)])
    _, frames = feed(mixer, [("r", 2, 0), ("l", 1, 500), ("r", 2, 100)])
    assert (frames == [1, 2]).all()


def test_a_gap_in_a_sides_time_is_silence_of_that_length() -> None:
    mixer = Interleaver("l", "r", chunk_ms=100)
    _, frames = feed(
        mixer, [("l", 1, 0), ("r", 2, 0), ("l", 1, 100), ("l", 1, 200), ("r", 2, 200), ("l", 1, 300), ("r", 2, 300)]
    )
    right = frames[:, 1].reshape(-1, 800)
    assert [set(block) for block in right.tolist()] == [{2}, {0xFF}, {2}, {2}]


def test_a_jump_in_time_does_not_become_minutes_of_silence() -> None:
    mixer = Interleaver("l", "r", chunk_ms=100)
    _, frames = feed(mixer, [("l", 1, 0), ("r", 2, 0), ("l", 1, 600_000), ("r", 2, 100)])
    assert len(frames) == 1600
    assert (frames == [1, 2]).all()


def test_a_pause_of_one_side_stays_where_it_was_beside_what_the_other_says() -> None:
    """Chunks that were lost, or a leg that was on hold: what comes after belongs to what the other says by then."""
    mixer = Interleaver("l", "r", chunk_ms=100)
    script = [("l", 1, 0), ("r", 2, 0), ("r", 2, 100), ("r", 2, 200), ("l", 3, 300), ("r", 2, 300)]
    times, frames = feed(mixer, script)
    assert times == [0, 100, 200, 300]
    assert frames[::800].tolist() == [[1, 2], [0xFF, 2], [0xFF, 2], [3, 2]]


def test_a_chunk_that_overlaps_the_one_before_is_heard_from_its_end_on() -> None:
    mixer = Interleaver("l", "r", chunk_ms=100)
    _, frames = feed(mixer, [("l", 1, 0), ("l", 3, 50), ("r", 2, 0), ("l", 3, 150), ("r", 2, 100)])
    assert (frames[:800] == [1, 2]).all()
    assert (frames[800:] == [3, 2]).all()
    assert len(frames) == 1600


def test_a_side_that_is_always_late_is_heard_all_the_same() -> None:
    mixer = Interleaver("l", "r", chunk_ms=100)
    feed(mixer, [("r", 2, 0), ("l", 1, 0)])
    script = [step for at in range(100, 2000, 100) for step in (("l", 1, at + 200), ("r", 2, at))]
    _, frames = feed(mixer, script)
    assert (frames[1600:] == [1, 2]).all()


def test_a_chunk_that_comes_twice_is_sent_once() -> None:
    mixer = Interleaver("l", "r", chunk_ms=100)
    _, frames = feed(mixer, [("l", 1, 0), ("l", 1, 0), ("r", 2, 0)])
    assert len(frames) == 800


def test_the_format_may_not_change() -> None:
    mixer = Interleaver("l", "r", chunk_ms=100)
    mixer.push("l", StreamAudio("mulaw", 8000, b"\x00" * 800), 0)
    with pytest.raises(ValueError, match="expected mulaw at 8000 Hz, found pcm_16 at 16000 Hz"):
        mixer.push("l", StreamAudio("pcm_16", 16000, b"\x00" * 3200), 100)


@given(st.lists(st.tuples(st.sampled_from(["l", "r"]), st.integers(-(10**6), 10**6), st.integers(0, 300)), max_size=40))
def test_any_times_and_lengths_give_whole_pieces_in_order(script: list[tuple[str, int, int]]) -> None:
    mixer = Interleaver("l", "r", chunk_ms=20)
    times: list[int] = []
    held = 0
    for speaker, at, length in script:
        held += length
        for when, audio in mixer.push(speaker, StreamAudio("pcm_8", 8000, b"\x01" * length), at):
            times.append(when)
            assert len(audio.payload) == 320
    assert times == [20 * n for n in range(len(times))]
    assert len(times) * 160 <= held + len(script) * 16000


@given(st.sampled_from(["mulaw", "alaw", "pcm_8", "pcm_16"]), st.integers(0, 50), st.randoms())
def test_split_undoes_interleaving(kind: Any, count: int, rng: Any) -> None:
    width = 2 if kind == "pcm_16" else 1
    left, right = rng.randbytes(count * width), rng.randbytes(count * width)
    joined = b"".join(left[i : i + width] + right[i : i + width] for i in range(0, count * width, width))
    sides = split(StreamAudio(kind, 8000, joined))
    assert [side.payload for side in sides] == [left, right]


def test_split_refuses_half_a_frame() -> None:
    with pytest.raises(ValueError, match="whole frames of 4 bytes, found 6"):
        split(StreamAudio("pcm_16", 16000, b"\x00" * 6))


def test_silence() -> None:
    assert silent(StreamAudio("mulaw", 8000, b"\xff\x7f\xff"))
    assert silent(StreamAudio("pcm_16", 8000, bytes(8)))
    assert not silent(StreamAudio("mulaw", 8000, b"\xff\x10\xff"))
    assert not silent(StreamAudio("alaw", 8000, b"\xd5\x55"))
