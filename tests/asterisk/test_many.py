"""Many calls: how fast they are up, and that nothing of them is left. `KALLGLOT_SOAK_CALLS=500` for the long form."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import statistics
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from kallglot_ari.app import Service
from kallglot_ari.lab.asterisk import LabAsterisk
from kallglot_ari.lab.phones import Phone
from tests.asterisk.conftest import PhoneFactory
from tests.asterisk.running import nothing_left, running, settings_for, until
from tests.double.server import KallglotDouble

pytestmark = [pytest.mark.asterisk, pytest.mark.phones, pytest.mark.slow, pytest.mark.timeout(1800)]

CALLS = int(os.environ.get("KALLGLOT_SOAK_CALLS", "20"))


POOLED = 16
"""TCP connections more or fewer: pools grow with what was asked at once, and the double's ends are ours too."""


class Left(NamedTuple):
    """What this process holds."""

    tasks: int
    """But those that serve a connection which is kept open: one for each at the double's end."""
    connections: int
    descriptors: int
    """But those of TCP connections."""
    kilobytes: int
    """Resident."""


def left_over() -> Left:
    process = psutil.Process()
    connections = len(process.net_connections("tcp"))
    serving = [t for t in asyncio.all_tasks() if getattr(t.get_coro(), "__qualname__", "") == "RequestHandler.start"]
    return Left(
        len(asyncio.all_tasks()) - len(serving),
        connections,
        process.num_fds() - connections,
        process.memory_info().rss // 1024,
    )


def at_work() -> list[str]:
    """What each task is doing."""
    return sorted(f"{task.get_name()} {getattr(task.get_coro(), '__qualname__', task)}" for task in asyncio.all_tasks())


async def one_call(customer: Phone, agent: Phone, rng: random.Random, longest: float) -> None:
    """A call that either side ends at a random moment, perhaps before it is up."""
    before = len(agent.calls)
    call = await customer.call("101")
    await asyncio.sleep(rng.uniform(0, longest))
    who = rng.choice((customer, agent))
    # the call before may not be over at the agent's phone yet
    if who is agent and len(agent.calls) > before and not agent.calls[-1].ended:
        await agent.hangup()
    elif not call.ended:
        await customer.hangup()
    await until(lambda: call.ended, 10, "the customer's phone is free")


async def test_from_answer_to_audio_both_ways(asterisk22: LabAsterisk, phones: PhoneFactory, tmp_path: Path) -> None:
    async with (
        KallglotDouble("routing", chunk_ms=None) as double,
        running(settings_for(asterisk22, tmp_path, double)) as service,
    ):
        setups: list[float] = []
        events = service.hub.subscribe()
        customer = await phones(asterisk22, "customer", codecs=("PCMU",))
        await phones(asterisk22, "agent", on_call=0.2, codecs=("PCMU",))
        for _ in range(20):
            await customer.call("101")
            while (event := await asyncio.wait_for(anext(events), 10))["type"] != "call.active":
                pass
            setups.append(event["data"]["setup_seconds"])
            session = double.open_sessions[-1]
            await session.wait_audio("agent", 0.1, timeout=2)
            await session.wait_audio("customer", 0.1, timeout=2)
            await customer.hangup()
            await nothing_left(service, asterisk22)
        print(f"setup: median {statistics.median(setups) * 1000:.1f} ms, max {max(setups) * 1000:.1f} ms")
        assert statistics.median(setups) < 0.150
        assert double.violations == []


async def test_calls_one_after_another_leave_nothing(
    asterisk22: LabAsterisk, phones: PhoneFactory, tmp_path: Path
) -> None:
    rng = random.Random(22)
    async with (
        KallglotDouble("routing", chunk_ms=None) as double,
        running(settings_for(asterisk22, tmp_path, double)) as service,
    ):
        customer = await phones(asterisk22, "customer", codecs=("PCMU",))
        agent = await phones(asterisk22, "agent", on_call=0.05, codecs=("PCMU",))
        before = Left(0, 0, 0, 0)
        for number in range(CALLS):
            await one_call(customer, agent, rng, 0.8)
            if number == CALLS // 3:
                before = await settled(service, asterisk22)
        after = await settled(service, asterisk22)
        print(f"{CALLS} calls: before {before}, after {after}")
        await no_more_tasks(before)
        assert after.connections <= before.connections + POOLED
        assert after.descriptors <= before.descriptors + 2
        # the double keeps every session's audio; ours must not
        heard = sum(audio.seconds for s in double.sessions.values() for audio in s.audio.values())
        assert after.kilobytes - before.kilobytes < 20_000 + heard * 64
        assert all(len(s.ends) == 1 for s in double.sessions.values())
        assert double.open_sessions == []


async def no_more_tasks(before: Left) -> None:
    with contextlib.suppress(AssertionError):  # one that comes and goes by itself may just be there
        await until(lambda: left_over().tasks <= before.tasks, 10)
    assert left_over().tasks <= before.tasks, at_work()


async def settled(service: Service, asterisk: LabAsterisk) -> Left:
    await nothing_left(service, asterisk)
    await asyncio.sleep(1.0)
    return left_over()


async def test_calls_at_once_with_random_hangups_leave_nothing(
    asterisk22: LabAsterisk, phones: PhoneFactory, tmp_path: Path
) -> None:
    rng = random.Random(7)
    pairs = 20 if CALLS >= 500 else 4
    async with (
        KallglotDouble("routing", chunk_ms=None) as double,
        running(settings_for(asterisk22, tmp_path, double)) as service,
    ):
        for pair in range(pairs):
            agent = f"phone{pair * 2 + 2:02d}"
            steps = f"1,Stasis(kallglot,source=de,target=en,agent=PJSIP/{agent})", "2,Hangup()"
            for step in steps:
                said = await asterisk22.cli(f'dialplan add extension "9{pair:02d},{step}" into kallglot-phones replace')
                assert "Extension" in said, said

        async def run(customer: Phone, agent: Phone, number: str) -> None:
            for _ in range(max(2, CALLS // 10 // pairs)):
                before = len(agent.calls)
                call = await customer.call(number)
                await asyncio.sleep(rng.uniform(0, 2))
                who = rng.choice((customer, agent))
                if who is agent and len(agent.calls) > before and not agent.calls[-1].ended:
                    await agent.hangup()
                elif not call.ended:
                    await customer.hangup()
                await until(lambda call=call: call.ended, 10)

        both = [
            (
                await phones(asterisk22, f"phone{pair * 2 + 1:02d}", codecs=("PCMU",)),
                await phones(asterisk22, f"phone{pair * 2 + 2:02d}", on_call=0.1, codecs=("PCMU",), rate=8000),
            )
            for pair in range(pairs)
        ]
        before = await settled(service, asterisk22)
        await asyncio.gather(*(run(*pair, f"9{number:02d}") for number, pair in enumerate(both)))
        after = await settled(service, asterisk22)
        print(f"{len(double.sessions)} calls, {pairs} at once: before {before}, after {after}")
        await no_more_tasks(before)
        assert after.connections <= before.connections + POOLED + 4 * pairs
        assert after.descriptors <= before.descriptors + 2
        assert double.open_sessions == []
        assert all(len(s.ends) == 1 for s in double.sessions.values())
        assert service.media.format.asterisk == "ulaw"


async def test_junk_on_the_rtp_socket_and_the_stream_does_not_hurt_a_call(
    asterisk22: LabAsterisk, phones: PhoneFactory, tmp_path: Path
) -> None:
    import socket

    rng = random.Random(5)
    async with (
        KallglotDouble("routing", chunk_ms=None) as double,
        running(settings_for(asterisk22, tmp_path, double)) as service,
    ):
        customer = await phones(asterisk22, "customer", codecs=("PCMU",))
        await phones(asterisk22, "agent", on_call=0.05, codecs=("PCMU",))
        await customer.tone(453)
        await customer.call("101")
        session = await double.wait_session()
        await session.wait_audio("customer", 0.5)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            for number in range(100_000):
                stranger.sendto(rng.randbytes(rng.randrange(0, 200)), service.media.address)
                if number % 200 == 0:
                    await asyncio.sleep(0.002)
        for _ in range(2_000):
            text = rng.choice(('{"type":"%s"}', '{"type":5%s}', "[%s", '{"type":"audio.output","audio":"%s"}'))
            await session.send_text(text % rng.randbytes(4).hex())
        seconds = session.audio["customer"].seconds
        await session.wait_audio("customer", seconds + 1.0)
        assert [call.state for call in service.calls()] == ["active"]
        told = service.metrics.render().decode()
        assert 'kallglot_rtp_discarded_total{reason="' in told
        assert "kallglot_stream_messages_total{" in told
        await customer.hangup()
        await nothing_left(service, asterisk22)
