"""What a leg hears of speech that begins and ends, as its codec sends it."""

from __future__ import annotations

import itertools
import socket
from collections import deque
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kallglot_ari.audio.codecs import g711, opus, registry
from kallglot_ari.audio.codecs.g722 import G722Decoder, G722Encoder
from kallglot_ari.audio.frame import Pcm
from kallglot_ari.calls.model import StreamAudio
from kallglot_ari.kallglot.downlink import Encoding
from kallglot_ari.media import flow, plane
from kallglot_ari.media.fast import Decoders, Sending
from kallglot_ari.media.legs import RTP_HEADER, Legs
from kallglot_ari.media.native import Native
from kallglot_ari.media.speech import SPEAKERS_MAX
from kallglot_ari.media.stored import SETTLE_FRAMES, Stored
from kallglot_ari.media.udp import pack_address
from tests.audio_checks import assert_steady_tone, tone
from tests.media.simulated import Simulation

PAUSE, SPOKEN = 1.0, 2.0
CHOSEN: dict[str, dict[str, Any]] = {
    "ulaw": {"format": "ulaw"},
    "g722": {"format": "slin16"},
    "slin16le": {"format": "slin16", "transport": "websocket"},
    "opus_cbr": {"format": "opus", "transport": "websocket"},
}
"""Settings with which each codec is sent."""
IDLE = bytes([0xFD]) * 160
"""What stands for silence of G.722."""


@pytest.mark.parametrize("hertz", [823.0, 1019.0, 1733.0, 3019.0])
@pytest.mark.parametrize("library_too", [True, False])
@pytest.mark.parametrize("name", CHOSEN)
def test_tones_between_silences_are_steady_and_no_louder_than_they_were(
    library: Native, name: str, hertz: float, library_too: bool
) -> None:
    """One payload stands for all silence: an encoder with memory must not stumble over that when speech begins again."""
    if name == "opus_cbr" and not opus.available():
        pytest.skip("libopus is not installed")
    codec = registry.get(name)
    rate = codec.sample_rate
    simulation = Simulation(
        1, library=library if library_too else None, encoding="pcm_16", rate=rate, **CHOSEN[name]
    )  # fmt: skip
    sound = tone(hertz, SPOKEN, rate)
    chunk = rate // 10
    for turn in range(3):
        begins = turn * (PAUSE + SPOKEN) + PAUSE
        for at in range(0, sound.size, chunk):
            simulation.run(begins + at / rate)
            piece = StreamAudio("pcm_16", rate, sound[at : at + chunk].tobytes())
            simulation.command("play", 0, "a", piece, simulation.now)
    simulation.run(3 * (PAUSE + SPOKEN))
    decoder = codec.decoder()
    whole = np.concatenate([decoder.decode(packet[RTP_HEADER:]) for packet in simulation.wire.sent[0]])
    assert np.abs(whole.astype(np.int32)).max() < 1.25 * np.abs(sound).max()
    for turn in range(3):
        begin = round((turn * (PAUSE + SPOKEN) + PAUSE + 0.25) * rate)
        assert_steady_tone(whole[begin : begin + round((SPOKEN - 0.3) * rate)], rate, hertz, min_seconds=SPOKEN - 0.4)


# --- no clicks ---------------------------------------------------------------------------------------------------------

PIECE = 800
"""Samples of 100 ms."""


def ulaw(pcm: Pcm) -> StreamAudio:
    return StreamAudio("mulaw", 8000, g711.PCM_TO_ULAW[pcm.view(np.uint16)].tobytes())


def bend(pcm: Pcm) -> int:
    """The largest change of slope: of a tone that is cut off it is as large as the tone."""
    return int(np.abs(np.diff(pcm.astype(np.int32), 2)).max())


SUNG = tone(317.0, 4.0, 8000)
SMOOTH = bend(SUNG) + 2.5 * 512
"""Mu-law has steps of 512 at this level."""


@pytest.mark.parametrize("library_too", [True, False])
@pytest.mark.parametrize("after_ms", range(0, 100, 10))
def test_a_flush_at_any_time_fades_out(library: Native, library_too: bool, after_ms: int) -> None:
    """Also when the last of what came has just been sent, and while a gap is carried over."""
    simulation = Simulation(1, library=library if library_too else None)
    for at in range(0, 5 * PIECE, PIECE):
        simulation.run(0.5 + at / 8000)
        simulation.command("play", 0, "a", ulaw(SUNG[at : at + PIECE]), simulation.now)
    begun = int(np.flatnonzero(simulation.heard(0))[0])
    simulation.run(begun / 8000 + 5 * PIECE / 8000 - 0.03 + after_ms / 1000)
    simulation.command("flush", 0, None)
    simulation.run(simulation.now + 0.3)
    heard = simulation.heard(0)
    assert bend(heard[begun + 80 :]) < SMOOTH
    assert not heard[-1600:].any()


def test_speech_that_is_dropped_because_too_much_waits_is_cut_without_a_click() -> None:
    simulation = Simulation(1, backlog_max_ms=1000, lag_max_ms=60000)
    for at in range(0, 3 * 8000, 2390):  # the tone does not come round when this much is left out
        simulation.run(0.5 + at / 24000)
        simulation.command("play", 0, "a", ulaw(SUNG[at : at + 2390]), simulation.now)
    simulation.run(5.0)
    heard = simulation.heard(0)
    spoken = np.flatnonzero(heard)
    assert spoken.size < 2.5 * 8000, "nothing was dropped"
    assert bend(heard[spoken[0] + 80 : spoken[-1] - 400]) < SMOOTH


def test_what_is_said_after_two_voices_at_once_begins_as_loud_as_it_is() -> None:
    simulation = Simulation(1)
    simulation.run(0.5)
    for name, hertz in (("a", 300.0), ("b", 310.0)):
        simulation.command("play", 0, name, ulaw(tone(hertz, 1.0, 8000, level_dbfs=-1)), simulation.now)
    simulation.run(4.0)
    before = simulation.heard(0).size
    simulation.command("play", 0, "a", ulaw(SUNG), simulation.now)
    simulation.run(5.0)
    heard = simulation.heard(0)[before:]
    begins = int(np.flatnonzero(heard)[0])
    assert np.abs(heard[begins : begins + 800].astype(np.int32)).max() > 0.95 * np.abs(SUNG).max()


# --- G.722 by machine code ---------------------------------------------------------------------------------------------


class Leg:
    """One leg of G.722, without a plane."""

    def __init__(self, library: Native) -> None:
        codec = registry.get("g722")
        form = Stored.of(codec)
        self.legs = Legs(
            uplink_bytes=800, frame_bytes=160, stored_bytes=form.unit, silence=bytes(160), payload_type=9
        )  # fmt: skip
        self.sending = Sending(library, codec, form, np.zeros(160, dtype=np.uint8))
        self.rows = np.array([0])
        self.legs.open(0, 1, ssrc=1, sequence=0, timestamp=0, phase=0)
        self.legs.connect(0, pack_address(socket.AF_INET, "127.0.0.1", 20000))
        self.sending.open(self.legs, 0)

    def says(self, frame: Pcm | None) -> bytes:
        if frame is not None:
            self.sending.stage(self.legs, self.rows, frame.tobytes(), 1)
        self.sending.pack(self.legs, self.rows)
        return self.legs.outbox.data[0, RTP_HEADER:].tobytes()


sounds = st.tuples(
    st.sampled_from(["noise", "tone", "steps"]), st.sampled_from([1, 7, 90, 2500, 12000, 32767]), st.integers(0, 9999)
)


def made(kind: str, peak: int, seed: int) -> Pcm:
    """20 ms."""
    rng = np.random.default_rng(seed)
    match kind:
        case "noise":
            wave = rng.normal(0, peak / 3, 320)
        case "tone":
            wave = peak * np.sin(2 * np.pi * rng.uniform(50, 7900) * np.arange(320) / 16000)
        case _:
            wave = np.repeat(rng.choice([-peak - 1.0, peak], 20), 16)
    return np.clip(wave, -32768, 32767).astype(np.int16)


@given(heard=st.lists(sounds, min_size=1, max_size=40))
@settings(max_examples=150, deadline=None)
def test_g722_is_what_the_library_of_that_name_makes(library: Native, heard: list[tuple[str, int, int]]) -> None:
    """To the bit, with no pause between."""
    leg, theirs = Leg(library), G722Encoder()
    for kind, peak, seed in heard:
        frame = made(kind, peak, seed)
        assert leg.says(frame) == theirs.encode(frame)


@given(
    payloads=st.lists(st.one_of(st.binary(min_size=1, max_size=400), st.integers(0, 255).map(lambda code: bytes([code]) * 160)), min_size=1, max_size=30),
    rows=st.lists(st.integers(0, 3), min_size=30, max_size=30),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_g722_is_heard_as_the_library_of_that_name_hears_it(
    library: Native, payloads: list[bytes], rows: list[int]
) -> None:
    """To the bit, whatever comes, of legs in turn; one that is used again begins anew."""
    ours, theirs = Decoders(library), [G722Decoder() for _ in range(4)]
    for row, payload in zip(rows, payloads, strict=False):
        assert ours.of(row).decode(payload).tolist() == theirs[row].decode(payload).tolist()
    ours.forget(0)
    ours.need(500)
    theirs[0] = G722Decoder()
    for row in range(4):
        assert ours.of(row).decode(payloads[0]).tolist() == theirs[row].decode(payloads[0]).tolist()


@given(heard=st.lists(sounds, min_size=5, max_size=20), pauses=st.lists(st.integers(0, 120), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_decoders_stay_in_step_over_silence_which_ends_in_nothing(
    library: Native, heard: list[tuple[str, int, int]], pauses: list[int]
) -> None:
    """Nothing is heard of the change from what the encoder makes of silence to the fixed payload, nor after it."""
    leg, decoder = Leg(library), registry.get("g722").decoder()
    for pause in [*pauses, 400]:
        for kind, peak, seed in heard:
            decoder.decode(leg.says(made(kind, peak, seed)))
        quiet = [leg.says(None) for _ in range(pause)]
        sound = [decoder.decode(payload) for payload in quiet]
        assert all(np.abs(frame.astype(np.int32)).max() <= 64 for frame in sound[SETTLE_FRAMES:])
        fixed = [payload == IDLE for payload in quiet]
        assert not any(before and not after for before, after in itertools.pairwise(fixed[SETTLE_FRAMES:]))
    assert quiet[-1] == IDLE, "no more work, 8 s after the last word"
    assert not sound[-1].any()


def test_speech_after_long_silence_begins_as_in_a_new_call(library: Native) -> None:
    """The signal-to-noise ratio of the first 100 ms is that of the first words of all."""
    codec = registry.get("g722")
    sound = tone(440.0, 0.5, 16000).reshape(-1, 320)
    leg, decoder = Leg(library), codec.decoder()
    heard = []
    for _ in range(3):
        heard.append(np.concatenate([decoder.decode(leg.says(frame)) for frame in sound]))
        for _ in range(300):
            decoder.decode(leg.says(None))
    for later in heard[1:]:
        difference = (later[:1600].astype(np.float64) - heard[0][:1600]) ** 2
        assert 10 * np.log10(np.mean(heard[0][:1600].astype(np.float64) ** 2) / np.mean(difference)) > 25


def test_a_row_that_is_used_again_begins_anew(library: Native) -> None:
    leg = Leg(library)
    first = [leg.says(made("noise", 9000, seed)) for seed in range(20)]
    leg.legs.need(300)
    assert leg.says(made("noise", 9000, 99)) != first[0], "more rows: the state is kept"
    leg.sending.open(leg.legs, 0)
    assert [leg.says(made("noise", 9000, seed)) for seed in range(20)] == first


def test_long_speech_is_put_off_and_nothing_else_waits_for_it(library: Native, monkeypatch: pytest.MonkeyPatch) -> None:
    simulation = Simulation(20, library=library)
    done: list[tuple[str, int]] = []
    for name in ("play", "play_long", "flush"):
        monkeypatch.setitem(simulation.plane._commands, name, lambda row, _, what: done.append((what, row)))
    several = [("play_long", 0, f"long {n}") for n in range(6)] + [("flush", 0, "flush")]
    several += [("play_long", 1, f"long {n}") for n in range(2)] + [("flush", 1, "flush")]
    several += [("flush", leg, "flush") for leg in range(2, 20)]
    commands: deque[plane.Command] = deque((name, (leg, leg + 1, what)) for name, leg, what in several)
    simulation.plane.execute(commands, 0.0)
    assert done == [(f"long {n}", 0) for n in range(4)] + [("flush", leg) for leg in range(2, 20)]
    commands.append(("play", (0, 1, "came since")))
    done.clear()
    simulation.plane.execute(commands, 0.01)
    assert done == [
        ("long 4", 0), ("long 5", 0), ("flush", 0), ("long 0", 1), ("long 1", 1), ("flush", 1), ("came since", 0),
    ]  # fmt: skip
    assert not commands


def test_one_that_fails_takes_nothing_along_that_is_put_off(monkeypatch: pytest.MonkeyPatch) -> None:
    simulation = Simulation(3)
    done: list[int] = []

    def one(row: int, _: int, number: int) -> None:
        if number == 5:
            raise RuntimeError
        done.append(number)

    monkeypatch.setitem(simulation.plane._commands, "play_long", one)
    monkeypatch.setitem(simulation.plane._commands, "play", one)
    several = [("play_long", 0, n) for n in range(5)] + [("play", 1, 5), ("play", 0, 6), ("play", 1, 7), ("play", 2, 8)]
    commands: deque[plane.Command] = deque((name, (leg, leg + 1, n)) for name, leg, n in several)
    with pytest.raises(RuntimeError):
        simulation.plane.execute(commands, 0.0)
    while commands:
        simulation.plane.execute(commands, 0.01)
    assert sorted(done) == [0, 1, 2, 3, 4, 6, 7, 8]
    assert done.index(4) < done.index(6)


@pytest.mark.parametrize(("encoding", "width"), [("pcm_16", 2), ("mulaw", 1)])
@pytest.mark.parametrize("rate", [8000, 24000, 48000])
def test_speech_of_many_seconds_is_handed_over_in_pieces(encoding: Encoding, width: int, rate: int) -> None:
    payload = np.arange(10 * rate * width + width, dtype=np.uint8).tobytes()
    pieces = list(flow._pieces(StreamAudio(encoding, rate, payload)))
    assert b"".join(piece.payload for piece in pieces) == payload
    assert [len(piece.payload) for piece in pieces] == [rate * width // 2] * 20 + [width]
    short = StreamAudio(encoding, rate, payload[: rate * width // 2])
    assert list(flow._pieces(short)) == [short]


@pytest.mark.parametrize(("seconds", "name", "count"), [(0.1, "play", 1), (0.5, "play", 1), (1.2, "play_long", 3)])
def test_what_is_long_is_named_so(seconds: float, name: str, count: int) -> None:
    told: list[str] = []
    owner: Any = SimpleNamespace(command=lambda command, _: told.append(command))
    flow.MediaFlow(owner, "leg", 0, 1).play("a", StreamAudio("mulaw", 8000, bytes(int(8000 * seconds))), 0.0)
    assert told == [name] * count


def test_in_pieces_it_sounds_as_in_one() -> None:
    audio = StreamAudio("pcm_16", 24000, tone(700.0, 3.0, 24000).tobytes())
    heard = []
    for pieces in ([audio], list(flow._pieces(audio))):
        simulation = Simulation(1)
        simulation.commands([("play", 0, "a", piece, 0.0) for piece in pieces])
        simulation.run(3.3)
        heard.append(simulation.heard(0))
    assert np.array_equal(heard[0], heard[1])


def test_more_speakers_than_can_be_mixed_are_refused_and_their_places_come_free_again(library: Native) -> None:
    simulation = Simulation(1, library=library)
    simulation.run(0.1)
    audio = StreamAudio("mulaw", 8000, bytes([0x10]) * 800)
    simulation.commands([("play", 0, f"x:{n}", audio, simulation.now) for n in range(200)])
    assert len(simulation.plane._speak.speech[0]._sources) == SPEAKERS_MAX
    assert simulation.plane.report.discarded["speech_unusable"] == 200 - SPEAKERS_MAX
    simulation.run(1.0)
    simulation.commands([("play", 0, f"y:{n}", audio, simulation.now) for n in range(SPEAKERS_MAX)])
    names = simulation.plane._speak.speech[0]._sources
    assert sum(name.startswith("y:") for name in names) == len(names) == SPEAKERS_MAX
