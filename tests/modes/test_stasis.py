"""Media mode's own book of channels."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import cast

import orjson
import pytest

from kallglot_ari.ari.decode import read_one
from kallglot_ari.ari.models import AsteriskInfo, Channel, ChannelDestroyed, Dial, StasisEnd, StasisStart
from kallglot_ari.ari.snapshot import Connected, Snapshot
from kallglot_ari.calls import events as e
from kallglot_ari.calls.interfaces import StreamEnd
from kallglot_ari.calls.model import SessionRequest
from kallglot_ari.modes.load import Load
from kallglot_ari.modes.stasis import StasisMode
from kallglot_ari.settings import Settings
from tests.ari.fake import channel, event
from tests.calls.script import CALLER, plan
from tests.modes.test_again import Calls
from tests.modes.test_registry import Bench
from tests.modes.trunk_fakes import FakeHub


async def test_channels_that_went_while_nobody_listened_are_forgotten() -> None:
    bench, s = Bench(), Settings()
    load = Load(bench.plant.metrics)
    mode = StasisMode(
        bench.plant, s.service, s.kallglot, s.media, s.conference, s.features, "kg-t", bench.journal, load
    )
    mode._contexts.update({"1.1": "phones", "1.2": "phones"})
    still = read_one(Channel, orjson.dumps(channel("1.2")))
    mode.on_event(Connected(Snapshot((22, 0, 0), cast(AsteriskInfo, None), None, (still,), ()), again=True))
    assert mode._contexts == {"1.2": "phones"}
    await mode.close()


async def test_a_caller_who_goes_on_in_the_dialplan_is_forgotten() -> None:
    """Asterisk tells no more of that channel, not even its end."""
    bench = Bench()
    mode = _mode(bench)
    mode._contexts.update({"1.1": "phones", "1.2": "phones"})
    mode.on_event(read_one(StasisEnd, orjson.dumps(event("StasisEnd", channel=channel("1.1")))))
    assert mode._contexts == {"1.2": "phones"}
    await mode.close()


async def test_digits_are_told_and_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench()
    await bench.up("kg-t-1")
    told = cast(FakeHub, bench.plant.hub).events
    bench.post(CALLER, e.DtmfReceived(CALLER, "7"))
    assert ("dtmf", "kg-t-1", {"speaker": "customer", "digit": "7"}) in told
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "dtmf" in line)
    assert "customer" in line
    assert "digit" not in line
    await bench.gone()
    await bench.outbox.stop(1)


async def test_a_channel_in_a_party_s_place_has_its_transfers_handed_to_us_as_well() -> None:
    bench, s = Bench(), Settings()
    set_: list[tuple[str, str, str]] = []

    async def set_channel_var(channel_id: str, *, variable: str, value: str) -> None:
        set_.append((channel_id, variable, value))

    ari = SimpleNamespace(
        supports={"transfer_progress"}.__contains__, channels=SimpleNamespace(set_channel_var=set_channel_var)
    )
    object.__setattr__(bench.plant, "ari", ari)
    mode = StasisMode(
        bench.plant,
        s.service,
        s.kallglot,
        s.media,
        s.conference,
        s.features,
        "kg-t",
        bench.journal,
        Load(bench.plant.metrics),
    )
    mode.calls.owner = {"1.1": SimpleNamespace(id="kg-t-1", post=lambda event: None)}.get  # type: ignore[assignment]
    started = event("StasisStart", args=[], channel=channel("1.2"), replace_channel=channel("1.1"))
    mode.on_event(read_one(StasisStart, orjson.dumps(started)))
    await asyncio.sleep(0)
    assert set_ == [("1.2", "PJSIP_TRANSFER_HANDLING()", "ari-only")]
    await mode.close()


@pytest.mark.parametrize(("status", "cause", "told"), [("BUSY", 0, 17), ("BUSY", 21, 21), ("CONGESTION", 0, 0)])
async def test_a_dialled_channel_that_is_busy_is_told_so_when_its_end_has_no_cause(
    status: str, cause: int, told: int
) -> None:
    bench, s = Bench(), Settings()
    load = Load(bench.plant.metrics)
    mode = StasisMode(
        bench.plant, s.service, s.kallglot, s.media, s.conference, s.features, "kg-t", bench.journal, load
    )
    heard: list[e.Event] = []
    mode.calls.owner = {"kg-t-1.d1": SimpleNamespace(id="kg-t-1", post=heard.append)}.get  # type: ignore[assignment]
    for peer in ("kg-t-1.d1", "somebody.else"):
        dialled = event("Dial", dialstatus=status, dialstring="700", forward="", peer=channel(peer))
        mode.on_event(read_one(Dial, orjson.dumps(dialled)))
    gone = event("ChannelDestroyed", cause=cause, cause_txt="Unknown", channel=channel("kg-t-1.d1"))
    mode.on_event(read_one(ChannelDestroyed, orjson.dumps(gone)))
    assert heard == [e.ChannelGone("kg-t-1.d1", told)]
    assert mode._busy == set(), "of others nothing is kept"
    await mode.close()


async def test_a_phone_that_sends_its_call_on_is_followed() -> None:
    """What Asterisk dials for it has an id of its own making, and enters our application when it answers."""
    calls = Calls()
    calls.kallglot.set()
    calls.asterisk.silent = {"PJSIP/agent"}
    calls.asterisk.enters(CALLER, "source=de", "target=en", "agent=PJSIP/agent")
    runner = await calls.state(0, "ringing")
    await calls.until(lambda: calls.asterisk.dialled, "the agent is dialled")
    (dialled,) = calls.asterisk.dialled
    told = event(
        "Dial", dialstatus="CANCEL", dialstring="", forward="777", peer=channel(dialled), forwarded=channel("9.1")
    )
    calls.mode.on_event(read_one(Dial, orjson.dumps(told)))
    calls.asterisk.hangs_up(dialled)
    await calls.until(
        lambda: any(candidate.ringing for candidate in runner.machine.candidates.values()), "it rings there"
    )
    calls.asterisk.enters("9.1", "dialled")
    await calls.until(lambda: runner.machine.state == "active", "they talk")
    assert runner.machine.legs["agent"].channel_id == "9.1"
    assert "subscribe" in calls.asterisk.asked["kallglot"]
    calls.asterisk.enters("9.1", "dialled")  # told again after a connect, which had shown it already
    assert [call.machine.state for call in calls.runners] == ["active"]
    assert runner.machine.legs["agent"].channel_id == "9.1"
    await calls.close()


def _mode(bench: Bench) -> StasisMode:
    s = Settings()
    load = Load(bench.plant.metrics)
    mode = StasisMode(
        bench.plant, s.service, s.kallglot, s.media, s.conference, s.features, "kg-t", bench.journal, load
    )
    mode.calls = bench.calls
    return mode


async def test_parties_whose_session_kallglot_ends_go_on_with_another() -> None:
    """It may end all of them at once, with its own restart, or one that it takes for idle, as during a long hold."""
    bench = Bench()
    await bench.up("kg-t-1")
    mode, machine = _mode(bench), bench.calls.get("kg-t-1").machine
    assert machine.link.session is not None
    first = machine.link.session.id
    assert not mode.session_ended("sess_of_others", "completed")
    assert mode.session_ended(first, "completed")
    async with asyncio.timeout(5):
        while len(bench.kallglot.streams) < 2 or machine.translation != "up":
            await asyncio.sleep(0)
    assert machine.state == "active"
    assert machine.link.session.id != first
    assert not mode.session_ended(first, "completed"), "told again, it is nobody's"
    await bench.gone()
    assert [session for session, _ in bench.kallglot.ended] == [first, machine.last_session]
    await mode.close()
    await bench.outbox.stop(1)


@pytest.mark.parametrize("told", ["webhook", "stream"])
@pytest.mark.parametrize(
    ("reason", "state"),
    [("completed", "ended"), ("explicit_end", "ended"), ("error", "active"), ("timeout", "active"), ("new", "active")],
)
async def test_a_caller_alone_is_hung_up_by_a_kallglot_that_has_done_its_part(
    told: str, reason: str, state: str
) -> None:
    """Whichever comes first. A new session would begin the conversation again, and cost a credit."""
    bench = Bench()
    alone = plan(agents=(), answer_now=True, request=SessionRequest(mode="ai_agent", source_language="de"))
    mode, machine = _mode(bench), bench.calls.start(alone).machine
    async with asyncio.timeout(5):
        while machine.state != "active":
            await asyncio.sleep(0)
        assert machine.link.session is not None
        if told == "webhook":
            assert mode.session_ended(machine.link.session.id, reason)
        else:
            bench.kallglot.streams[0].ends(StreamEnd(True, reason))
        for _ in range(50):
            await asyncio.sleep(0)
    assert machine.state == state
    if state == "active":
        assert machine.translation == "up"
        await bench.gone()
    await mode.close()
    await bench.outbox.stop(1)
