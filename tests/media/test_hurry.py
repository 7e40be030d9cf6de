"""Catching up with what all legs say at once: machine code and numpy to the bit, and no more of it in a tick than there is time for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kallglot_ari.audio.codecs import registry
from kallglot_ari.audio.codecs.base import Codec
from kallglot_ari.audio.frame import Pcm, silence
from kallglot_ari.calls.model import StreamAudio
from kallglot_ari.media import hurry
from kallglot_ari.media.hurry import Hurry
from kallglot_ari.media.legs import OUTBOUND
from kallglot_ari.media.native import LIBRARY, Native
from tests.audio.signals import speech_like
from tests.audio_checks import tone
from tests.media.simulated import Simulation
from tests.media.test_lag import loudest, tunes, ulaw

WAYS = pytest.mark.parametrize("library", [pytest.param(LIBRARY, id="native"), pytest.param(None, id="numpy")])
CODECS = {
    "ulaw": registry.get("ulaw"),
    "alaw": registry.get("alaw"),
    **{f"samples at {rate}": replace(registry.get("slin16le"), sample_rate=rate) for rate in (8000, 16000, 48000)},
}


# --- one speaker -------------------------------------------------------------------------------------------------------


def sound(kind: str, samples: int, rate: int, seed: int) -> Pcm:
    rng = np.random.default_rng(seed)
    match kind:
        case "speech":
            return speech_like(rate, samples / rate, seed)
        case "tone":
            return tone(80.0 + seed % 400, samples / rate, rate)
        case "pause":
            return rng.normal(0, 20, samples).astype(np.int16)
        case "rumble":
            return tone(31.0, samples / rate, rate, level_dbfs=-50.0)
        case "noise":
            return rng.integers(-32768, 32768, samples).astype(np.int16)
        case "edges":
            return rng.choice(np.array([-32768, 32767], dtype=np.int16), samples)
        case _:
            return silence(samples)


@pytest.mark.parametrize("name", CODECS)
@given(
    kinds=st.lists(
        st.tuples(
            st.sampled_from(["speech", "speech", "tone", "pause", "pause", "rumble", "noise", "edges", "silence"]),
            st.integers(1, 14),
        ),
        min_size=2,
        max_size=8,
    ),
    turns=st.lists(
        st.tuples(st.one_of(st.floats(1.0, 1.15), st.floats(1.0, 1.15), st.sampled_from([1.0, 1.5])), st.integers(0, 60), st.booleans()),
        min_size=1,
        max_size=8,
    ),
    seed=st.integers(0, 2**16),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_machine_code_leaves_out_the_same(
    library: Native, name: str, kinds: list[tuple[str, int]], turns: list[tuple[float, int, bool]], seed: int
) -> None:
    """Of any sound, at any speed, however much waits."""
    codec: Codec = CODECS[name]
    parts = [sound(kind, frames * codec.frame_samples, codec.sample_rate, seed + n) for n, (kind, frames) in enumerate(kinds)]  # fmt: skip
    data = codec.encoder().encode(np.concatenate(parts))
    both = [Hurry(codec, library).begin(), Hurry(codec, None).begin()]
    unit = len(data) // sum(frames for _, frames in kinds)
    width = unit // codec.frame_samples
    at = turn = 0
    while len(data) - at > unit:
        speed, waits, rests = turns[turn % len(turns)]
        turn += 1
        if rests:
            for one in both:
                one.rest()
        assert both[0].ahead == both[1].ahead
        here = both[0].ahead if waits % 3 else min(unit + waits * 13 * width, both[0].ahead)
        fast, slow = (one.next(data, at, min(here, len(data) - at), speed) for one in both)
        assert fast == slow
        at += fast[1]


def test_what_was_compared_above_is_left_out_indeed(library: Native) -> None:
    """Pauses and periods, by both."""
    said = np.concatenate([tone(200, 1.0, 8000), silence(4000), tone(200, 1.0, 8000)])
    data = ulaw(said)
    for one in Hurry(CODECS["ulaw"], library).begin(), Hurry(CODECS["ulaw"], None).begin():
        used: Counter[str] = Counter()
        at = 0
        while len(data) - at > 160:
            _, took = one.next(data, at, min(one.ahead, len(data) - at), 1.15)
            used["pause" if took > 320 else "cut" if took > 160 else "frame"] += 1
            at += took
        assert used["pause"] == 1
        assert used["cut"] > 10


# --- many --------------------------------------------------------------------------------------------------------------


PIECE = 800
"""Samples."""


class Crowd:
    """Legs that all hear as much at the same time."""

    def __init__(
        self, legs: int, library: Native | None, monkeypatch: pytest.MonkeyPatch, speakers: tuple[str, ...] = ("x",)
    ) -> None:
        self.legs, self.speakers = legs, speakers
        self.simulation = Simulation(legs, library=library, lag_max_ms=2000)
        self.hurried: Counter[float] = Counter()
        """Frames, by tick."""
        for kind in (hurry._ByMachine, hurry._ByNumpy):
            monkeypatch.setattr(kind, "next", self._counting(kind.next))

    def _counting(self, real: Callable[..., tuple[bytes | None, int]]) -> Callable[..., tuple[bytes | None, int]]:
        def counted(*args: object) -> tuple[bytes | None, int]:
            self.hurried[self.simulation.now] += 1
            return real(*args)

        return counted

    def says(self, pcm: Pcm) -> None:
        """To each leg, in pieces of 100 ms at the pace of speech."""
        for at in range(0, pcm.size, PIECE):
            self.play(pcm[at : at + PIECE], self.simulation.now)
            self.simulation.run(self.simulation.now + 0.1)

    def play(self, piece: Pcm, at: float) -> None:
        audio = StreamAudio("mulaw", 8000, ulaw(piece))
        self.simulation.commands([("play", leg, name, audio, at) for leg in range(self.legs) for name in self.speakers])

    def says_while_nothing_is_sent(self, pcm: Pcm) -> None:
        began = self.simulation.now
        self.simulation.stall(pcm.size / 8000)
        for at in range(0, pcm.size, PIECE):
            self.play(pcm[at : at + PIECE], began + at / 8000)

    @property
    def lags(self) -> NDArray[np.float64]:
        return self.simulation.plane.legs.lag[: self.legs].copy()

    def rest(self) -> None:
        """Until nothing waits."""
        while self.simulation.plane.legs.queued.any():
            self.simulation.run(self.simulation.now + 0.5)

    def heard(self, leg: int) -> Pcm:
        return self.simulation.heard(leg)

    def sent(self, leg: int) -> bytes:
        return b"".join(packet[12:] for packet in self.simulation.wire.sent[leg])


def few(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more frames are hurried in a tick."""
    monkeypatch.setattr(hurry, "MOST", most)
    monkeypatch.setattr(hurry, "MOST_NUMPY", most)


@WAYS
def test_when_all_are_behind_no_tick_hurries_more_than_it_has_time_for(
    library: Native | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everybody gets back within the bound, at the same pace, and hears all that was said."""
    few(10, monkeypatch)
    said, order = tunes(14.0)
    crowd = Crowd(64, library, monkeypatch)
    crowd.says(said[:8000])
    crowd.says_while_nothing_is_sent(said[8000:27200])
    crowd.says(said[27200:31200])
    worst, apart = crowd.lags, []
    assert worst.min() > 2.3, "all are behind by more than their bound"
    for at in range(31200, said.size, 4000):
        crowd.says(said[at : at + 4000])
        apart.append(np.ptp(crowd.lags))
    print(f"behind {worst.min():.2f} to {worst.max():.2f} s, then {crowd.lags.min():.2f} to {crowd.lags.max():.2f}")
    assert crowd.lags.max() < 2.0
    assert max(apart) < 0.3
    assert max(crowd.hurried.values()) == 10
    crowd.rest()
    for leg in (0, 31, 63):
        assert [hz for hz, run in groupby(loudest(crowd.heard(leg))) if hz and len(list(run)) > 3] == order


@WAYS
def test_where_each_leg_hears_several_at_once_nobody_s_turn_never_comes(
    library: Native | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A conference: fewer legs than may be hurried in a tick, but more speakers."""
    few(3, monkeypatch)
    crowd = Crowd(4, library, monkeypatch, ("x", "y"))
    said = speech_like(8000, 5.0)
    crowd.says(said[:4000])
    crowd.says_while_nothing_is_sent(said[4000:24000])
    crowd.says(said[24000:26000])
    worst = crowd.lags
    crowd.says(said[26000:])
    assert crowd.lags.max() < worst.min() - 0.1
    assert np.ptp(crowd.lags) < 0.1


@WAYS
def test_who_is_not_hurried_hears_what_was_said_bit_for_bit(
    library: Native | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    few(0, monkeypatch)
    said = speech_like(8000, 4.0)
    crowd = Crowd(3, library, monkeypatch)
    crowd.says(said[:4000])
    crowd.says_while_nothing_is_sent(said[4000:20000])
    crowd.says(said[20000:])
    assert crowd.lags.min() > 1.9
    crowd.rest()
    assert all(ulaw(said[8000:]) in crowd.sent(leg) for leg in range(3))
    assert not crowd.hurried


def test_pauses_are_shortened_in_turns_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """And words stay as they are where that is enough."""
    few(1, monkeypatch)
    said = np.concatenate([tone(601.0, 0.3, 8000), silence(4000)] * 8)
    crowd = Crowd(4, LIBRARY, monkeypatch)
    crowd.says(said[:4000])
    crowd.says_while_nothing_is_sent(said[4000:16000])
    crowd.says(said[16000:])
    assert crowd.lags.max() < 1.0
    crowd.rest()
    for leg in range(4):
        words = [len(list(run)) for loud, run in groupby(loudest(crowd.heard(leg))) if loud]
        assert len(words) == 8
        assert all(14 <= frames <= 17 for frames in words)


def test_turns_are_the_same_by_machine_code_and_numpy(library: Native, monkeypatch: pytest.MonkeyPatch) -> None:
    few(3, monkeypatch)
    rng = np.random.default_rng(1)
    words = [np.concatenate([speech_like(8000, 0.5, n), silence(int(rng.integers(0, 4000)))]) for n in range(10)]
    said = np.concatenate(words)
    both = [Crowd(20, way, monkeypatch) for way in (library, None)]
    for crowd in both:
        crowd.says(said[:4000])
        crowd.says_while_nothing_is_sent(said[4000:24000])
        crowd.says(said[24000:])
    assert both[0].simulation.wire.sent == both[1].simulation.wire.sent
    np.testing.assert_array_equal(both[0].lags, both[1].lags)
    for name in OUTBOUND.names or ():
        fast, slow = (crowd.simulation.plane.legs.outbound[name] for crowd in both)
        np.testing.assert_array_equal(fast, slow, name)
    assert sum(both[0].hurried.values()) > 500
