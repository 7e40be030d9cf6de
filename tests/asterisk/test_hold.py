"""Hold on a real Asterisk: who is held hears music, nobody is streamed, and it all comes back."""

from __future__ import annotations

import asyncio
import time
from statistics import median

import pytest

from kallglot_ari.audio.codecs import g711
from kallglot_ari.lab.asterisk import LabAsterisk
from kallglot_ari.lab.phones import Phone
from kallglot_ari.modes.holds import Holds
from tests.asterisk.running import LONG, long_form, until
from tests.asterisk.stage import Stage
from tests.asterisk.tones import hears
from tests.audio_checks import tone
from tests.double.session import DoubleSession

pytestmark = [pytest.mark.asterisk, pytest.mark.phones]

MUSIC_HZ = 1650.0


async def music(asterisk: LabAsterisk) -> None:
    """A class of music on hold that is a tone."""
    folder = asterisk.folder / "lib/tone"
    folder.mkdir(exist_ok=True)
    pcm = tone(MUSIC_HZ, 30, 8000)
    (folder / "tone.ulaw").write_bytes(g711.PCM_TO_ULAW[pcm.view("u2")].tobytes())
    local = asterisk.folder / "etc/local/musiconhold.conf"
    local.write_text(f"[default](+)\ndirectory = {asterisk.inside}/lib/tone\n")
    await asterisk.cli("moh reload")


def counts(session: DoubleSession) -> dict[str, int]:
    return {name: len(audio.arrivals) for name, audio in session.audio.items()}


async def resumed(holder: Phone, session: DoubleSession, before: dict[str, int]) -> float:
    """Seconds from the phone's wish until Kallglot hears both."""
    began = time.monotonic()
    await holder.unhold()
    await until(lambda: all(now > before[name] for name, now in counts(session).items()), what="both are heard")
    return max(session.audio[name].arrivals[count].at for name, count in before.items()) - began


@pytest.mark.parametrize("who", ["agent", pytest.param("customer", marks=long_form)])
async def test_hold_and_resume_again_and_again(stage: Stage, who: str) -> None:
    await music(stage.asterisk)
    customer, agent = await stage.call()
    holder, held = (agent, customer) if who == "agent" else (customer, agent)
    session = await stage.double.wait_session()
    await session.wait_audio("customer", 0.3)
    await session.wait_audio("agent", 0.3)
    took: list[float] = []
    for round_ in range(50 if LONG else 5):
        await holder.hold()
        await until(lambda: "held" in [leg.state for leg in stage.service.calls()[0].legs], what="held")
        await asyncio.sleep(0.15)  # what was begun is on its way
        before = counts(session)
        await hears(held, {MUSIC_HZ}) if round_ == 0 else await asyncio.sleep(0.3)
        assert counts(session) == before, "nothing is streamed"
        took.append(await resumed(holder, session, before))
    print(f"resumed after {median(took) * 1000:.0f} ms (median), {max(took) * 1000:.0f} ms at most, re-INVITE included")
    assert median(took) < 0.4
    assert max(took) < 1.0, "0.2 s, and what a loaded machine adds"
    await stage.talk(customer, agent)
    await stage.over(customer)


async def test_holds_that_nobody_heard_of_are_asked_for(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    customer, agent = await stage.call()
    mode = stage.service.stasis
    holds = Holds(mode._plant, mode.calls, mode._tasks)

    def states() -> list[str]:
        return [leg.state for leg in stage.service.calls()[0].legs]

    with monkeypatch.context() as deaf:
        deaf.setattr(mode, "_post", lambda *_: None)
        await agent.hold()
        await asyncio.sleep(0.3)
    assert states() == ["up", "up"]
    holds.connected()
    await until(lambda: states() == ["up", "held"], what="the hold is known")
    with monkeypatch.context() as deaf:
        deaf.setattr(mode, "_post", lambda *_: None)
        await agent.unhold()
        await asyncio.sleep(0.3)
    assert states() == ["up", "held"]
    holds.connected()
    await until(lambda: states() == ["up", "up"], what="the unhold is known")
    await stage.talk(customer, agent)
    await stage.over(customer)
