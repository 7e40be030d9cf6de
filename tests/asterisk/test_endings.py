"""Every way a call can end, on a real Asterisk: the session's reason, the dialplan's status, and where the caller goes on."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kallglot_ari.app import Service
from kallglot_ari.calls.orders import Transfer
from kallglot_ari.lab.asterisk import LabAsterisk
from kallglot_ari.media.engine import MediaEngine
from tests.asterisk.conftest import PhoneFactory
from tests.asterisk.running import in_long_form, manager, nothing_left, running, settings_for, until
from tests.audio_checks import dominant_frequency
from tests.double.server import KallglotDouble

pytestmark = [pytest.mark.asterisk, pytest.mark.phones]

AGENT = "agent=PJSIP/agent"


@pytest.fixture
async def double() -> AsyncIterator[KallglotDouble]:
    async with KallglotDouble("routing", chunk_ms=None) as double:
        yield double
        assert double.violations == []


ALSO_ON_16 = {
    "test_a_party_hangs_up", "test_a_party_is_redirected_out_of_the_application", "test_agent_is_busy",
    "test_agent_is_not_registered", "test_dtmf_is_passed_on_kept_and_published", "test_hangup_by_the_api", "test_transfer_by_the_api",
}  # fmt: skip
"""Where Asterisk has the greater part in it; the others run there in the long form."""


@pytest.fixture
async def service(
    asterisk: LabAsterisk, double: KallglotDouble, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Service]:
    if asterisk.major < 22 and request.node.originalname not in ALSO_ON_16:
        in_long_form()
    async with running(settings_for(asterisk, tmp_path, double)) as service:
        yield service


async def extension(asterisk: LabAsterisk, arguments: str, number: str = "900") -> None:
    """`number` hands calls over with these arguments; afterwards the dialplan logs the status and plays a tone."""
    steps = (
        f"1,Stasis(kallglot,{arguments})",
        "2,Log(NOTICE,went-on ${CHANNEL(uniqueid)} ${KALLGLOT_STATUS} ${KALLGLOT_SESSION_ID})",
        "3,Answer()",
        "4,Milliwatt()",
    )
    await asterisk.cli(f"dialplan remove extension {number}@kallglot-phones")
    for step in steps:
        said = await asterisk.cli(f'dialplan add extension "{number},{step}" into kallglot-phones replace')
        assert "Extension" in said, said


def went_on(asterisk: LabAsterisk, log_before: int) -> list[tuple[str, str]]:
    """(status, session) of every caller whose dialplan went on."""
    lines = re.findall(r"NOTICE.*went-on (\S+) (\w+) ?(\S*)", asterisk.log()[log_before:])
    return list({channel: (status, session) for channel, status, session in lines}.values())


class Scene:
    """A customer's phone that calls 900, and what came of it."""

    def __init__(self, asterisk: LabAsterisk, double: KallglotDouble, service: Service, phones: PhoneFactory) -> None:
        self.asterisk, self.double, self.service, self.phones = asterisk, double, service, phones
        self.log_before = len(asterisk.log())

    async def dial(self, arguments: str) -> None:
        await extension(self.asterisk, arguments)
        self.customer = await self.phones(self.asterisk, "customer", codecs=("PCMU",))
        await self.customer.call("900")

    async def ended(self, reason: str | None, status: str | None) -> None:
        """The session ended once with `reason` (None: there was none), and the dialplan went on with `status` (None: not)."""
        if status is not None:
            await until(lambda: went_on(self.asterisk, self.log_before), 15, "dialplan goes on")
            assert [s for s, _ in went_on(self.asterisk, self.log_before)] == [status]
            await self.customer.wait_state("CONFIRMED")
            await asyncio.sleep(0.6)
            heard = self.customer.recording
            assert abs(dominant_frequency(heard.samples[-heard.rate // 4 :], heard.rate) - 1004) < 5, (
                "the dialplan's tone"
            )
            await self.customer.hangup()
        await nothing_left(self.service, self.asterisk)
        if status is None:
            assert went_on(self.asterisk, self.log_before) == []
        assert self.double.open_sessions == []
        for session in self.double.sessions.values():
            assert len(session.ends) == 1, "ended exactly once"
            assert session.end_reason == reason
        assert bool(self.double.sessions) == (reason is not None)


@pytest.fixture
def scene(asterisk: LabAsterisk, double: KallglotDouble, service: Service, phones: PhoneFactory) -> Scene:
    return Scene(asterisk, double, service, phones)


async def test_agent_does_not_answer(scene: Scene) -> None:
    await scene.phones(scene.asterisk, "agent", on_call="ring")
    await scene.dial(f"{AGENT},timeout=2")
    await scene.ended("timeout", "NOANSWER")


@pytest.mark.parametrize("how", ["busy", "reject"])
async def test_agent_is_busy(scene: Scene, how: str) -> None:
    await scene.phones(scene.asterisk, "agent", on_call=how)
    await scene.dial(AGENT)
    await scene.ended("agent_hangup", "AGENTBUSY")


async def test_an_extension_that_says_busy_is_a_busy_agent(scene: Scene) -> None:
    """Asterisk destroys the channel of such an extension without a cause."""
    await scene.asterisk.extension("700", "Busy(5)")
    await scene.dial("agent=Local/700@kallglot-phones")
    await scene.ended("agent_hangup", "AGENTBUSY")


async def test_agent_is_not_registered(scene: Scene) -> None:
    await scene.dial("agent=PJSIP/agent3")
    await scene.ended("error", "UNAVAILABLE")


async def test_agent_does_not_exist(scene: Scene) -> None:
    await scene.dial("agent=PJSIP/nobody")
    await scene.ended("error", "UNAVAILABLE")


async def test_first_of_several_agents_wins_and_the_others_are_cancelled(scene: Scene) -> None:
    slow = await scene.phones(scene.asterisk, "agent", on_call="ring")
    fast = await scene.phones(scene.asterisk, "agent2", on_call=0.5)
    await scene.dial("agent=PJSIP/agent&PJSIP/agent2&PJSIP/nobody")
    await fast.wait_state("CONFIRMED")
    await until(lambda: slow.calls, what="the slow one rang")
    ringing = slow.calls[-1]
    await until(lambda: ringing.ended, what="the slow one is cancelled")
    await until(lambda: scene.service.calls()[0].state == "active")
    await fast.hangup()
    await scene.ended("agent_hangup", None)


async def test_a_stop_gives_a_caller_who_waits_for_an_agent_back_to_the_dialplan(scene: Scene) -> None:
    agent = await scene.phones(scene.asterisk, "agent", on_call="ring")
    await scene.dial(AGENT)
    await until(lambda: agent.calls, what="it rings")
    await scene.service.stasis.drain(0)
    await scene.ended("error", "UNAVAILABLE")


async def test_caller_hangs_up_while_it_rings(scene: Scene) -> None:
    agent = await scene.phones(scene.asterisk, "agent", on_call="ring")
    await scene.dial(AGENT)
    call = await agent.wait_incoming()
    await scene.double.wait_session()
    await scene.customer.hangup()
    await until(lambda: call.ended)
    await scene.ended("customer_hangup", None)


async def test_caller_hangs_up_before_the_session_is_there(scene: Scene) -> None:
    scene.double.work_seconds = 1.0
    await scene.phones(scene.asterisk, "agent", on_call="ring")
    await scene.dial(AGENT)
    await scene.customer.wait_state("EARLY")
    await scene.customer.hangup()
    await until(lambda: scene.double.created == scene.double.ended == 1, 15)
    await scene.ended("customer_hangup", None)


@pytest.mark.parametrize("who", ["customer", "agent"])
async def test_a_party_hangs_up(scene: Scene, who: str) -> None:
    agent = await scene.phones(scene.asterisk, "agent", on_call=0.2)
    await scene.dial(AGENT)
    await until(lambda: [c.state for c in scene.service.calls()] == ["active"])
    await (scene.customer if who == "customer" else agent).hangup()
    await scene.ended(f"{who}_hangup", None)
    other = agent if who == "customer" else scene.customer
    assert other.calls[-1].ended


@pytest.mark.parametrize(
    ("status", "code"), [(402, "insufficient_api_credits"), (422, "invalid_mode"), (401, "invalid_api_key")]
)
async def test_session_is_refused(scene: Scene, status: int, code: str) -> None:
    scene.double.refuse("create", status, code=code, times=None)
    await scene.phones(scene.asterisk, "agent", on_call="ring")
    await scene.dial(AGENT)
    await scene.ended(None, "UNAVAILABLE")


async def test_stream_is_refused(scene: Scene) -> None:
    scene.double.refuse("connect", 403, times=None)
    await scene.phones(scene.asterisk, "agent", on_call="ring")
    await scene.dial(AGENT)
    await scene.ended("error", "UNAVAILABLE")


async def test_a_party_is_redirected_out_of_the_application(scene: Scene) -> None:
    await scene.phones(scene.asterisk, "agent", on_call=0.2, codecs=("PCMU",))
    await scene.dial(AGENT)
    await until(lambda: [c.state for c in scene.service.calls()] == ["active"])
    channel = scene.service.calls()[0].legs[0].channel_name
    said = await manager(
        scene.asterisk, "Redirect", Channel=channel, Context="kallglot-phones", Exten="201", Priority="1"
    )
    assert "Success" in said, said
    await until(lambda: not scene.service.calls(), what="the call ends")
    await asyncio.sleep(0.7)
    heard = scene.customer.recording
    assert abs(dominant_frequency(heard.samples[-heard.rate // 4 :], heard.rate) - 1004) < 5, (
        "the caller is where it was sent"
    )
    await scene.customer.hangup()
    await scene.ended("completed", None)


async def test_hangup_by_the_api(scene: Scene) -> None:
    await scene.phones(scene.asterisk, "agent", on_call=0.2)
    await scene.dial(AGENT)
    await until(lambda: [c.state for c in scene.service.calls()] == ["active"])
    await scene.service.hangup(scene.service.calls()[0].id)
    await scene.ended("completed", None)


@pytest.mark.parametrize(
    "arguments",
    [
        "colour=red",
        "source=german!",
        "agent=PJSIP/a b",
        "timeout=soon",
        "mode=dance",
        "agent",
        "join=x y",
        "answer=agent",
    ],
)
async def test_bad_arguments_give_the_caller_back(scene: Scene, arguments: str) -> None:
    await scene.dial(arguments)
    await scene.ended(None, "FAILED")


async def test_joining_an_unknown_session(scene: Scene) -> None:
    await scene.dial("join=sess_unknown")
    await scene.ended(None, "FAILED")


async def test_beyond_max_calls_the_dialplan_goes_on(
    asterisk: LabAsterisk, double: KallglotDouble, phones: PhoneFactory, tmp_path: Path
) -> None:
    async with running(settings_for(asterisk, tmp_path, double, service={"max_calls": 1})) as service:
        await extension(asterisk, AGENT)
        await phones(asterisk, "agent", on_call="ring")
        first = await phones(asterisk, "agent2")
        await first.call("900")
        await until(lambda: service.calls(), what="the first call")
        scene = Scene(asterisk, double, service, phones)
        await scene.dial(AGENT)
        await until(lambda: went_on(asterisk, scene.log_before), what="the second goes on")
        assert [s for s, _ in went_on(asterisk, scene.log_before)] == ["BUSY"]
        await scene.customer.hangup()
        await first.hangup()
        await nothing_left(service, asterisk)


async def test_while_the_media_is_late_the_dialplan_goes_on(
    asterisk22: LabAsterisk,
    double: KallglotDouble,
    phones: PhoneFactory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A call that is up stays, a new one goes on with BUSY, and the next is taken when the media keeps up again."""
    async with running(settings_for(asterisk22, tmp_path, double, service={"shed_late_ms": 60})) as service:
        await extension(asterisk22, AGENT)
        await phones(asterisk22, "agent", on_call=0.1)
        first = await phones(asterisk22, "agent2")
        await first.call("900")
        await until(lambda: [c.state for c in service.calls()] == ["active"], what="the first call")
        with monkeypatch.context() as late:
            late.setattr(MediaEngine, "late", property(lambda _: 0.061))
            scene = Scene(asterisk22, double, service, phones)
            await scene.dial(AGENT)
            await until(lambda: went_on(asterisk22, scene.log_before), what="the second goes on")
            assert [s for s, _ in went_on(asterisk22, scene.log_before)] == ["BUSY"]
            assert [c.state for c in service.calls()] == ["active"]
            await scene.customer.hangup()
        await first.hangup()
        await nothing_left(service, asterisk22)
        await scene.customer.call("900")
        await until(lambda: [c.state for c in service.calls()] == ["active"], what="the third call")
        await scene.customer.hangup()
        await nothing_left(service, asterisk22)


async def test_dtmf_is_passed_on_kept_and_published(scene: Scene) -> None:
    agent = await scene.phones(scene.asterisk, "agent", on_call=0.2)
    await scene.dial(AGENT)
    await until(lambda: [c.state for c in scene.service.calls()] == ["active"])
    events = scene.service.hub.subscribe()
    await scene.customer.dtmf("7")
    await agent.wait_dtmf("7")
    await until(lambda: scene.service.calls()[0].dtmf)
    seen = await anext(events)
    while seen["type"] != "dtmf":
        seen = await anext(events)
    assert seen["data"] == {"speaker": "customer", "digit": "7"}
    await scene.customer.dtmf("89")
    await agent.wait_dtmf("789")
    await asyncio.sleep(1.5)
    (call,) = scene.service.calls()
    assert [leg.quality.packets_lost for leg in call.legs] == [0, 0], "a digit is no loss"
    await scene.service.dtmf(scene.service.calls()[0].id, party="customer", digits="12")
    await scene.customer.wait_dtmf("12")
    await scene.customer.hangup()
    await scene.ended("customer_hangup", None)


async def test_hold_pauses_the_uplink(scene: Scene) -> None:
    agent = await scene.phones(scene.asterisk, "agent", on_call=0.2)
    await agent.tone(613)
    await scene.dial(AGENT)
    session = await scene.double.wait_session()
    await session.wait_audio("agent", 0.5)
    await agent.hold()
    await until(lambda: any(leg.held for leg in scene.service.calls()[0].legs), what="held")
    await asyncio.sleep(0.3)
    before = {speaker: audio.seconds for speaker, audio in session.audio.items()}
    await asyncio.sleep(1.0)
    after = {speaker: audio.seconds for speaker, audio in session.audio.items()}
    assert after == before, "nothing is streamed while held"
    await agent.unhold()
    await session.wait_audio("agent", after["agent"] + 0.5)
    await scene.customer.hangup()
    await scene.ended("customer_hangup", None)


async def test_transfer_by_the_api(scene: Scene) -> None:
    first = await scene.phones(scene.asterisk, "agent", on_call=0.2)
    second = await scene.phones(scene.asterisk, "agent2", on_call=0.2)
    await scene.dial(AGENT)
    await until(lambda: [c.state for c in scene.service.calls()] == ["active"])
    call = scene.service.calls()[0].id
    await scene.service.transfer(call, Transfer(party="agent", target="PJSIP/agent2"))
    await second.wait_state("CONFIRMED")
    await until(lambda: first.calls[-1].ended, what="the first agent is let go")
    assert [c.state for c in scene.service.calls()] == ["active"]
    await second.hangup()
    await scene.ended("agent_hangup", None)


async def test_alone_with_the_session(scene: Scene) -> None:
    await scene.dial("mode=ai_agent,source=de")
    session = await scene.double.wait_session()
    assert session.request["mode"] == "ai_agent"
    await session.wait_audio("customer", 0.5)
    await scene.customer.hangup()
    await scene.ended("customer_hangup", None)


async def test_a_third_party_joins(scene: Scene) -> None:
    agent = await scene.phones(scene.asterisk, "agent", on_call=0.2)
    await scene.dial(f"{AGENT},source=de")
    session = await scene.double.wait_session()
    await until(lambda: [c.state for c in scene.service.calls()] == ["active"])
    await extension(scene.asterisk, f"join={session.id},speaker=expert,source=de", "901")
    third = await scene.phones(scene.asterisk, "agent2", codecs=("PCMU",))
    await third.tone(853)
    await third.call("901")
    await third.wait_state("CONFIRMED")
    await session.wait_audio("customer-expert", 0.5)
    await scene.customer.hangup()
    await asyncio.sleep(0.5)
    assert [len(c.legs) for c in scene.service.calls()] == [2], "the two who remain go on"
    await agent.hangup()
    await nothing_left(scene.service, scene.asterisk)
    assert [s.end_reason for s in scene.double.sessions.values()] == ["agent_hangup"]
    await until(lambda: third.calls[-1].ended, what="the last one is let go")
