"""A service that is killed and started again: its calls go on. What the fault table shows is not repeated here."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from pathlib import Path

import pytest

from kallglot_ari.lab.asterisk import LabAsterisk
from kallglot_ari.lab.phones import Phone
from tests.asterisk.conftest import PhoneFactory
from tests.audio_checks import tone, tone_presence
from tests.double.server import KallglotDouble
from tests.double.session import DoubleSession
from tests.faults.served import Served, nothing_left

FOR_AGENT_HZ, CUSTOMER_HZ = 787.0, 453.0
pytestmark = [pytest.mark.asterisk, pytest.mark.phones]


async def heard(phone: Phone, hertz: float, since: float, timeout: float) -> float:
    """When the phone heard `hertz` for 200 ms, in seconds after `since`."""
    deadline = time.monotonic() + timeout
    while True:
        recording = phone.recording.since(since)
        there = tone_presence(recording.samples, recording.rate, hertz) > 0.8
        for begin in range(len(there) - 10):
            if there[begin : begin + 10].all():
                return recording.start + begin * 0.02 - since
        assert time.monotonic() < deadline, f"{phone.name} heard no {hertz} Hz within {timeout} s"
        await asyncio.sleep(0.1)


async def talking(
    asterisk: LabAsterisk, phones: PhoneFactory, double: KallglotDouble
) -> tuple[Phone, Phone, DoubleSession]:
    customer = await phones(asterisk, "customer", codecs=("PCMU",))
    agent = await phones(asterisk, "agent", on_call=0.2, codecs=("PCMU",))
    await customer.tone(CUSTOMER_HZ)
    await customer.call("101")
    await customer.wait_state("CONFIRMED")
    session = await double.wait_session()
    await session.wait_audio("customer", 0.5)
    return customer, agent, session


@pytest.mark.asterisk16
async def test_killed_while_talking(asterisk16: LabAsterisk, phones: PhoneFactory, tmp_path: Path) -> None:
    asterisk = asterisk16
    async with KallglotDouble("routing", chunk_ms=None) as double, Served(asterisk, tmp_path, double) as served:
        customer, agent, session = await talking(asterisk, phones, double)
        served.kill()
        before = session.audio["customer"].seconds
        await served.start(wait=False)
        await session.wait_connected(2, timeout=30)
        since = time.monotonic()
        await asyncio.gather(
            session.speak("customer", tone(FOR_AGENT_HZ, 2, 8000)), heard(agent, FOR_AGENT_HZ, since, 5)
        )
        await session.wait_audio("customer", before + 1)
        await served.wait_ready()
        assert double.created == 1, "the session went on"
        assert [call["state"] for call in await served.calls()] == ["active"]
        await customer.hangup()
        await nothing_left(served, asterisk)
        assert session.end_reason == "customer_hangup"
        assert len(session.ends) == 1
        assert double.violations == []


async def test_killed_while_the_session_is_made_and_answered_when_nobody_was_there(
    asterisk22: LabAsterisk, phones: PhoneFactory, tmp_path: Path
) -> None:
    async with KallglotDouble("routing", chunk_ms=None) as double, Served(asterisk22, tmp_path, double) as served:
        double.work_seconds = 1.0
        customer = await phones(asterisk22, "customer", codecs=("PCMU",))
        agent = await phones(asterisk22, "agent", on_call="ring", codecs=("PCMU",))
        await customer.call("101")
        await agent.wait_incoming()
        await asyncio.sleep(0.3)
        served.kill()
        await agent.answer()
        await agent.on_call(0.2)
        await served.start()
        await customer.wait_state("CONFIRMED", timeout=20)
        session = await double.wait_session()
        await session.wait_connected()
        await customer.hangup()
        await nothing_left(served, asterisk22)
        assert double.created == double.ended == 1, "asked again under the same key"
        assert double.violations == []


async def test_who_hangs_up_meanwhile_is_not_missed(
    asterisk22: LabAsterisk, phones: PhoneFactory, tmp_path: Path
) -> None:
    async with KallglotDouble("routing", chunk_ms=None) as double, Served(asterisk22, tmp_path, double) as served:
        customer, agent, session = await talking(asterisk22, phones, double)
        await asyncio.sleep(0.3)
        served.kill()
        call = agent.calls[-1]
        await customer.hangup()
        await asyncio.sleep(0.3)
        await served.start()
        await nothing_left(served, asterisk22)
        assert call.ended
        assert len(session.ends) == 1


async def test_a_port_that_was_taken_meanwhile_and_sessions_that_died_with_the_process(
    asterisk22: LabAsterisk, phones: PhoneFactory, tmp_path: Path
) -> None:
    """The embedded Kallglot says everything back: to the other party, who hears the speaker's own tone."""
    async with Served(asterisk22, tmp_path) as served:
        customer = await phones(asterisk22, "customer", codecs=("PCMU",))
        agent = await phones(asterisk22, "agent", on_call=0.2, codecs=("PCMU",))
        await customer.tone(CUSTOMER_HZ)
        await customer.call("101")
        await customer.wait_state("CONFIRMED")
        await heard(agent, CUSTOMER_HZ, time.monotonic(), 15)
        (old,) = await served.calls()
        rtp = served.events("started")[-1]["rtp"]
        served.kill()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as thief:
            thief.bind(("127.0.0.1", int(rtp.rpartition(":")[2])))
            await served.start()
            await heard(agent, CUSTOMER_HZ, time.monotonic(), 15)
        (new,) = await served.calls()
        assert new["id"] == old["id"]
        assert new["session_id"] != old["session_id"]
        await customer.hangup()
        await nothing_left(served, asterisk22)


async def test_another_run_takes_over_and_the_last_leaves_its_calls(
    asterisk22: LabAsterisk, phones: PhoneFactory, tmp_path: Path
) -> None:
    async with KallglotDouble("routing", chunk_ms=None) as double, Served(asterisk22, tmp_path, double) as first:
        customer, agent, session = await talking(asterisk22, phones, double)
        await asyncio.sleep(0.3)
        async with Served(asterisk22, tmp_path, double, instead_of=first) as second:
            assert first.process is not None
            assert second.process is not None
            assert await asyncio.to_thread(first.process.wait, 10) == 0
            for number in (2, 3):
                await session.wait_connected(number)
                since = time.monotonic()
                await asyncio.gather(
                    session.speak("customer", tone(FOR_AGENT_HZ, 1, 8000)), heard(agent, FOR_AGENT_HZ, since, 5)
                )
                if number == 2:
                    second.process.send_signal(signal.SIGUSR1)
                    assert await asyncio.to_thread(second.process.wait, 10) == 0
                    await second.start()
            await customer.hangup()
            await nothing_left(second, asterisk22)
        assert double.created == 1
        assert len(session.ends) == 1
        assert double.violations == []


async def test_a_second_sigterm_hangs_up_who_talks_and_ends_the_session(
    asterisk22: LabAsterisk, phones: PhoneFactory, tmp_path: Path
) -> None:
    """Whoever stops the service twice does not leave two people to silence, and to a session that nobody ends."""
    async with (
        KallglotDouble("routing", chunk_ms=None) as double,
        Served(asterisk22, tmp_path, double, SERVICE__DRAIN_SECONDS=600) as served,
    ):
        customer, agent, session = await talking(asterisk22, phones, double)
        assert served.process is not None
        served.process.send_signal(signal.SIGTERM)
        while '"draining"' not in served.log(50):
            await asyncio.sleep(0.02)
        served.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(served.process.wait, 20) == 0
        await customer.wait_state("DISCONNECTED")
        await agent.wait_state("DISCONNECTED")
        assert session.end_reason == "completed"
        assert await asyncio.to_thread(asterisk22.ari, "GET", "/channels") == []
