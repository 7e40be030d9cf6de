"""Barge-in: what waits is dropped when the party begins to speak, and only then."""

from __future__ import annotations

import time

import numpy as np
import pytest

from kallglot_ari.audio.codecs import g711, registry
from kallglot_ari.audio.frame import Pcm, silence
from kallglot_ari.calls.model import StreamAudio
from kallglot_ari.media.barge import BargeIn
from kallglot_ari.media.legs import Legs
from kallglot_ari.media.native import LIBRARY, Native
from tests.audio.signals import tone
from tests.media.conftest import Running
from tests.media.peer import Peer
from tests.media.simulated import Simulation

pytestmark = pytest.mark.real_time

ULAW = registry.get("ulaw")
FRAME = 160
LOUD, QUIET = tone(8000, 0.02, 440.0), silence(FRAME)


def ulaw(pcm: Pcm) -> bytes:
    return g711.PCM_TO_ULAW[pcm.view(np.uint16)].tobytes()


class Line:
    """A leg's uplink of mu-law, 100 ms chunks."""

    def __init__(self) -> None:
        self.legs = Legs(uplink_bytes=1600, frame_bytes=FRAME, silence=bytes([255]) * FRAME, payload_type=0)
        self.legs.open(0, 1, ssrc=1, sequence=1, timestamp=1, phase=0)
        self.ear = BargeIn("mulaw", FRAME)
        self.ear.watch(self.legs, 0, True)

    def says(self, *frames: Pcm) -> bool:
        """Whether somebody begins to speak in these frames, looked at one by one."""
        return True in [self._says(frame) for frame in frames]

    def _says(self, frame: Pcm) -> bool:
        legs, fill = self.legs, int(self.legs.fill[0])
        legs.uplink[0, fill : fill + FRAME] = np.frombuffer(ulaw(frame), np.uint8)
        legs.fill[0] = (fill + FRAME) % legs.uplink.shape[1]
        legs.clock[0] += FRAME
        return self.ear.begun(legs) == [0]


def test_two_loud_frames_after_rest_are_speech() -> None:
    line = Line()
    assert not line.says(*[QUIET] * 20)
    assert not line.says(LOUD)
    assert line.says(LOUD)
    assert not line.says(*[LOUD] * 100), "told once"
    assert not line.says(*[QUIET] * 3, *[LOUD] * 10), "a pause within a word is none"
    assert line.says(*[QUIET] * 10, LOUD, LOUD)


def test_a_click_is_no_speech() -> None:
    line = Line()
    assert not line.says(*[QUIET, LOUD, QUIET] * 20)


@pytest.mark.parametrize(("dbfs", "speech"), [(-50.0, False), (-39.0, False), (-33.0, True), (-12.0, True)])
def test_what_a_line_hisses_is_no_speech(dbfs: float, speech: bool) -> None:
    """Else whoever has a fan in the room, or an old line, would never hear an answer to its end."""
    line = Line()
    hiss = np.random.default_rng(1).normal(0, 32768 * 10 ** (dbfs / 20), 40 * FRAME)
    frames = np.rint(hiss.clip(-32768, 32767)).astype(np.int16).reshape(-1, FRAME)
    assert not line.says(*[QUIET] * 20)
    assert line.says(*frames) is speech


def test_neither_on_hold_nor_when_not_watched() -> None:
    line = Line()
    line.legs.paused[0] = True
    assert not line.says(LOUD, LOUD, LOUD)
    line.legs.paused[0] = False
    line.ear.watch(line.legs, 0, False)
    assert not line.says(*[QUIET] * 20, LOUD, LOUD, LOUD)


@pytest.mark.parametrize("interruptible", [True, False])
async def test_what_waits_is_silent_at_once(running: Running, interruptible: bool) -> None:
    told: list[float] = []
    async with running() as engine, Peer(ULAW) as peer:
        flow = engine.open("a", lambda _: None)
        flow.connect(peer.address)
        if interruptible:
            flow.interruptible(lambda: told.append(time.monotonic()))
        flow.play("agent", StreamAudio("mulaw", 8000, ulaw(tone(8000, 4.0, 700.0))))
        rest = [ulaw(QUIET)] * 30
        await peer.say(engine.address, [*rest, *[ulaw(LOUD)] * 25])
    loud = [
        at for at, packet in peer.heard if np.abs(g711.ULAW_TO_PCM[np.frombuffer(packet.payload, np.uint8)]).max() > 500
    ]
    if interruptible:
        assert len(told) == 1
        assert sum(at > told[0] for at in loud) <= 5, "those that were on their way"
    else:
        assert told == []
        assert len(loud) > 40, "all the while"


@pytest.mark.parametrize("begins", [1.50 + step / 100 for step in range(12)])
@pytest.mark.parametrize("library", [pytest.param(LIBRARY, id="native"), pytest.param(None, id="numpy")])
def test_an_answer_that_comes_just_in_time_is_interrupted_also_when_nothing_of_it_waits(
    library: Native | None, begins: float
) -> None:
    simulation = Simulation(1, library=library)
    simulation.command("interruptible", 0, True)
    for number in range(130):
        at = 0.1 + number * 0.02
        simulation.arrives(at, 0, number, ulaw(LOUD if at >= begins else QUIET))
    for piece in range(20):
        simulation.run(1.0 + piece * 0.1 + (0.03 if piece % 2 else 0.0))  # each second one is 30 ms late
        audio = StreamAudio("mulaw", 8000, ulaw(tone(8000, 0.1, 700.0)))
        simulation.command("play", 0, "agent", audio, simulation.now)
    assert simulation.interrupted == [(0, 1)]
