"""Another party's own voice under the translation: how loud, and how it steps back. In made-up time."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kallglot_ari.audio.codecs import g711, registry
from kallglot_ari.audio.frame import Pcm, silence
from kallglot_ari.audio.level import gain
from kallglot_ari.calls.model import StreamAudio
from kallglot_ari.media.legs import Legs
from kallglot_ari.media.native import LIBRARY, Native
from kallglot_ari.media.originals import Originals
from kallglot_ari.media.stored import Stored
from tests.audio_checks import goertzel, tone
from tests.media.simulated import Simulation

VOICE_HZ, SPEECH_HZ = 450.0, 1250.0
"""Whole periods in 20 ms, so that neither is seen in the other."""
DUCK_DB = 6.0


def ulaw(pcm: Pcm) -> bytes:
    return g711.PCM_TO_ULAW[pcm.view(np.uint16)].tobytes()


def levels(pcm: Pcm, hertz: float) -> list[float]:
    """Of each 20 ms, in dB full scale."""
    return [20 * np.log10(max(1e-6, goertzel(pcm[at : at + 160], 8000, hertz))) for at in range(0, pcm.size - 159, 160)]


def talked_over(duck_db: float) -> tuple[list[float], list[float]]:
    """Leg 0 speaks for 4 s; from 1 s to 2 s leg 1 is told something. Levels of the voice and of what is told."""
    simulation = Simulation(2)
    simulation.command("hear", 1, 0, 1.0, gain(-duck_db))
    said = ulaw(tone(VOICE_HZ, 4.0, 8000))
    for number in range(200):
        simulation.arrives(0.02 * number + 0.005, 0, number, said[number * 160 :][:160])
    simulation.run(1.0)
    simulation.command("play", 1, "x", StreamAudio("mulaw", 8000, ulaw(tone(SPEECH_HZ, 1.0, 8000))), simulation.now)
    simulation.run(4.0)
    heard = simulation.heard(1)
    return levels(heard, VOICE_HZ), levels(heard, SPEECH_HZ)


def test_it_steps_back_while_the_translation_speaks_and_comes_back_slowly() -> None:
    voice, speech = talked_over(DUCK_DB)
    loud = [number for number, level in enumerate(speech) if level > -20]
    first, last = loud[0], loud[-1]
    assert len(loud) in (50, 51)
    assert all(abs(level + 12) < 0.5 for level in voice[10 : first - 1]), "as loud as wished before"
    assert all(abs(level + 12 + DUCK_DB) < 0.5 for level in voice[first + 3 : last]), "and quieter after 60 ms"
    rising = voice[last + 1 : last + 30]
    assert all(0 <= later - earlier < 0.5 for earlier, later in itertools.pairwise(rising)), "no jump"
    assert all(abs(level + 12) < 0.5 for level in voice[last + 30 : -5]), "back within 600 ms"


def test_without_ducking_it_stays_as_loud() -> None:
    voice, speech = talked_over(0.0)
    assert max(speech) > -13
    assert all(abs(level + 12) < 0.5 for level in voice[10:-5])


@pytest.mark.parametrize("silent", [0.0, 0.1, 0.3, 0.6])
@pytest.mark.parametrize("wait", [0.0, 2.0])
def test_whoever_has_the_place_of_a_party_that_left_is_heard(silent: float, wait: float) -> None:
    """Also when the one before had said nothing for a while, or is still fading out."""
    simulation = Simulation(2)
    simulation.command("hear", 0, 1, 0.5)
    sound = ulaw(tone(VOICE_HZ, 1.0, 8000))
    for number in range(50):
        simulation.arrives(0.02 * number + 0.005, 1, number, sound[number * 160 :][:160])
    simulation.run(1.0 + silent)
    left, begins = simulation.now, simulation.now + wait
    simulation.commands([("close", 1)])
    simulation.command("hear", 0, 1, 0.0)
    simulation.run(begins)
    assert wait == 0.0 or not simulation.plane._originals
    simulation.again(1)
    simulation.command("hear", 0, 1, 0.5)
    before = len(simulation.heard(0))
    for number in range(50):
        simulation.arrives(begins + 0.02 * number + 0.005, 1, 5000 + number, sound[number * 160 :][:160], ssrc=77)
    simulation.run(begins + 1.0)
    assert begins >= left
    heard = levels(simulation.heard(0)[before:], VOICE_HZ)
    assert all(abs(level + 12 + 6) < 0.5 for level in heard[12:-2])


def test_voices_switched_on_and_off_leave_nothing() -> None:
    simulation = Simulation(2)
    sound = ulaw(tone(VOICE_HZ, 1.0, 8000))
    for number in range(500):
        simulation.arrives(0.02 * number + 0.005, 1, number, sound[number % 50 * 160 :][:160])
    for turn in range(9):
        simulation.command("hear", 0, 1, 0.5 * (turn % 2 == 0))
        simulation.run(0.2 * turn + 0.2)
        hears = turn % 2 == 0
        assert [bool(simulation.plane._originals), simulation.plane.legs.tapped[1]] == [hears, hears]
    simulation.commands([("close", 0)])
    simulation.run(3.0)
    assert not simulation.plane._originals
    assert not simulation.plane.legs.tapped[1]


class Voice:
    """Leg 0 hears leg 1 at full gain, a frame at a time."""

    def __init__(self, gain: float = 1.0, duck: float = 1.0, library: Native | None = None) -> None:
        codec = registry.get("slin16le")
        self.originals = Originals(codec, codec, Stored.of(codec), library)
        self.legs = Legs(uplink_bytes=640, frame_bytes=640, silence=bytes(640), payload_type=0, stored_bytes=640)
        for row in range(2):
            self.legs.open(row, row + 1, ssrc=1, sequence=0, timestamp=0, phase=0)
        self.originals.hear(self.legs, 0, 1, gain, duck)
        self.now = 0.0

    def put(self, pcm: Pcm) -> None:
        self.originals.put(1, pcm)

    def next(self, *, under: bool = False) -> Pcm | None:
        """What leg 0 hears; `under` speech that is silence."""
        legs = self.legs
        legs.count[0], legs.staged[0] = int(under), 0
        self.now += 0.02
        self.originals.mix(legs, np.array([0]), self.now)
        found = legs.mix[0].view(np.int16).copy() if legs.ears["mixed"][0] else None
        legs.ears["mixed"][0] = False
        return found


FRAME = 320


def played(samples_a_frame: int, frames: int = 200) -> tuple[Voice, Pcm]:
    """A tone at full gain whose sender says it has `samples_a_frame` where we play 320."""
    voice = Voice()
    said = tone(431.0, samples_a_frame * frames / 16000, 16000)
    heard = []
    for number in range(frames):
        voice.put(said[number * samples_a_frame : (number + 1) * samples_a_frame])
        frame = voice.next()
        if frame is not None:
            heard.append(frame)
    return voice, np.concatenate(heard)


@pytest.mark.parametrize("samples_a_frame", [314, 326, 340])
def test_a_clock_that_goes_differently_makes_no_click(samples_a_frame: int) -> None:
    """What is too much is overlapped, what is missing is made up; nothing is cut."""
    _, heard = played(samples_a_frame)
    usual = np.abs(np.diff(tone(431.0, 0.1, 16000).astype(int))).max()
    assert heard.size > 190 * FRAME
    assert np.abs(np.diff(heard[2 * FRAME :].astype(int))).max() < 1.3 * usual


def test_a_voice_that_is_too_fast_never_lags_far_behind() -> None:
    voice, _ = played(340)
    left = 0
    while (frame := voice.next()) is not None and frame.any():
        left += 1
    assert left <= 5 + 3, "at most five frames wait; the rest is the fade of what is made up"


def test_after_a_pause_two_frames_are_waited_for_again_so_that_the_first_word_does_not_stumble() -> None:
    voice = Voice()
    frame = tone(431.0, 0.02, 16000)
    voice.put(frame)
    assert voice.next() is None
    voice.put(frame)
    assert voice.next() is not None
    assert voice.next() is not None, "once begun, one frame is enough"
    while (made_up := voice.next()) is not None:
        assert made_up.size == FRAME
    voice.put(frame)
    assert voice.next() is None
    voice.put(frame)
    again = voice.next()
    assert again is not None
    assert abs(int(again[0])) < 10 < np.abs(again[-40:]).max(), "it comes up from silence"


def test_ducking_takes_some_frames_down_and_many_up() -> None:
    """A voice that is pulled away at once, or comes back in each short pause, is heard as a fault."""
    voice = Voice(duck=0.25)
    loud = np.full(FRAME, 10000, dtype=np.int16)

    def ducked(frames: int, *, under: bool) -> list[float]:
        found = []
        for _ in range(frames):
            voice.put(loud)
            frame = voice.next(under=under)
            found.append(0.0 if frame is None else round(float(frame[-1]) / 10000, 2))
        return found

    assert ducked(4, under=False)[-1] == 1.0
    assert ducked(4, under=True) == [0.75, 0.5, 0.25, 0.25]
    assert ducked(3, under=False) == [0.27, 0.29, 0.31]
    assert ducked(60, under=False)[-1] == 1.0


@pytest.mark.parametrize("library", [pytest.param(LIBRARY, id="native"), pytest.param(None, id="numpy")])
def test_voices_that_are_too_loud_together_step_back_and_come_back(library: Native | None) -> None:
    voice = Voice(library=library)
    for row in range(2, 4):
        voice.legs.open(row, row + 1, ssrc=1, sequence=0, timestamp=0, phase=0)
        voice.originals.hear(voice.legs, 0, row, 1.0, 1.0)
    said = tone(431.0, 2.0, 16000).astype(float) / 8192 * 15000
    heard = []
    for number in range(100):
        frame = said[number * FRAME :][:FRAME].astype(np.int16)
        for row in range(1, 4 if number < 20 else 2):
            voice.originals.put(row, frame)
        found = voice.next()
        heard.append(silence(FRAME) if found is None else found)
    levels_of = [int(np.abs(frame).max()) for frame in heard]
    assert max(levels_of) <= 32767
    assert all(25000 < level < 27000 for level in levels_of[3:18]), "as loud as may be, without clipping"
    assert levels_of[24] < 0.75 * 15000, "one is left, and still quieter than it is"
    assert levels_of[-1] in range(15000, 15100), "and louder again, as loud as it is"
    rising = levels_of[28:]
    assert all(later - earlier < 700 for earlier, later in itertools.pairwise(rising))


@pytest.mark.parametrize("library", [pytest.param(LIBRARY, id="native"), pytest.param(None, id="numpy")])
def test_a_stumble_of_the_whole_network_fades_most_voices_out_and_makes_few_up(
    library: Native | None, made_up: list[int]
) -> None:
    """Making up is dear: were it done for all at once, all would be late. None clicks, and all are back when sound comes again."""
    simulation = Simulation(80, library=library)
    simulation.commands([("hear", leg, leg + 40, 1.0) for leg in range(40)])
    sound = ulaw(tone(VOICE_HZ, 1.0, 8000))
    for number in (*range(40), *range(60, 100)):
        for leg in range(40, 80):
            simulation.arrives(0.02 * number + 0.005, leg, number, sound[number % 50 * 160 :][:160])
    most = 0
    for tick in range(200):
        made_up.clear()
        simulation.run(0.01 * (tick + 1))
        most = max(most, len(made_up))
    assert 0 < most <= 12 + 12, "those of the way up, and those of the way down"
    usual = np.abs(np.diff(tone(VOICE_HZ, 0.1, 8000).astype(int))).max()
    for leg in range(40):
        heard = simulation.heard(leg)
        assert np.abs(np.diff(heard[800:].astype(int))).max() < 1.5 * usual + 300
        assert not heard[8000:9200].any()
        assert all(abs(level + 12) < 0.5 for level in levels(heard[13600:15200], VOICE_HZ))


CODINGS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "ulaw": ("mulaw", 8000, {}),
    "alaw": ("alaw", 8000, {}),
    "slin16": ("pcm_16", 16000, {"format": "slin16"}),
    "slin16le": ("pcm_16", 16000, {"format": "slin16", "transport": "websocket"}),
    "g722": ("pcm_16", 16000, {"format": "g722"}),
}
HEARD = 5
order = st.one_of(
    st.tuples(
        st.just("hear"), st.integers(0, HEARD - 1), st.integers(0, HEARD - 1),
        st.sampled_from([0.0, 0.3, 1.0, 1.0, 1.8]), st.sampled_from([0.0, 0.5, 1.0]),
    ),
    st.tuples(st.just("play"), st.integers(0, HEARD - 1), st.integers(1, 15)),
    st.tuples(st.just("close"), st.integers(0, HEARD - 1)),
    st.tuples(st.just("again"), st.integers(0, HEARD - 1)),
    st.tuples(st.just("quiet"), st.integers(0, HEARD - 1)),
)  # fmt: skip


@pytest.mark.parametrize("coding", CODINGS)
@given(
    turns=st.lists(st.tuples(st.lists(order, max_size=4), st.integers(1, 6)), max_size=12), seed=st.integers(0, 2**16)
)
@settings(max_examples=25, deadline=None)
def test_machine_code_mixes_the_same(
    library: Native, coding: str, turns: list[tuple[list[tuple[Any, ...]], int]], seed: int
) -> None:
    """All that is kept and all that is mixed, whoever hears whom, however loud, with packets lost."""
    encoding, rate, chosen = CODINGS[coding]
    others = library if coding == "g722" else None  # its decoders and encoders are machine code in both
    both = [Simulation(HEARD, library=used, encoding=encoding, rate=rate, **chosen) for used in (library, others)]
    both[1].plane._listen._taking = both[1].plane._originals._library = None
    rng = random.Random(seed)
    there, quiet, sequence = set(range(HEARD)), set[int](), [0] * HEARD
    begun = 0.0
    for simulation in both:
        simulation.commands([("hear", leg, (leg + 1) % HEARD, 1.0, 0.5) for leg in range(HEARD)])
    for orders, frames in turns:
        for name, leg, *rest in orders:
            if name == "quiet":
                quiet ^= {leg}
            elif (name == "again") == (leg in there):
                continue
            elif name in ("close", "again"):
                there ^= {leg}
            sound = (
                rng.randbytes(rest[0] * 20 * rate // 1000 * (2 if encoding == "pcm_16" else 1))
                if name == "play"
                else b""
            )
            for simulation in both:
                match name:
                    case "hear":
                        simulation.command("hear", leg, *rest)
                    case "play":
                        audio = StreamAudio(encoding, rate, sound)  # type: ignore[arg-type]  # one of its own
                        simulation.command("play", leg, "x", audio, begun)
                    case "close":
                        simulation.command("close", leg)
                    case "again":
                        simulation.again(leg)
        for frame in range(frames):
            for leg in range(HEARD):
                sequence[leg] += 1
                payload = rng.randbytes(both[0].codec.frame_bytes)
                if rng.random() < 0.05 or leg in quiet:
                    continue
                for simulation in both:
                    simulation.arrives(begun + 0.02 * frame + 0.004, leg, sequence[leg], payload)
        begun += 0.02 * frames
        for simulation in both:
            simulation.run(begun)
        one, other = (simulation.plane for simulation in both)
        assert one._originals._of == other._originals._of
        for kept in ("_voices", "_sound"):
            np.testing.assert_array_equal(getattr(one._originals, kept), getattr(other._originals, kept))
        np.testing.assert_array_equal(one.legs.ears, other.legs.ears)
        np.testing.assert_array_equal(one.legs.mix, other.legs.mix)
    if coding != "slin16":  # answered with G.722
        assert both[0].wire.sent == both[1].wire.sent
