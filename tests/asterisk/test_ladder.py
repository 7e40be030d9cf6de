"""Kallglot fails in mid-call, rung after rung, on a real Asterisk: what was said is sent again, what is done is told and counted."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from kallglot_ari.app import Service
from kallglot_ari.calls import link
from kallglot_ari.lab.asterisk import LabAsterisk
from kallglot_ari.modes.tone import HERTZ
from tests.asterisk.conftest import PhoneFactory
from tests.asterisk.events import Events
from tests.asterisk.running import until
from tests.asterisk.stage import HZ, staged
from tests.asterisk.tones import hears
from tests.audio_checks import tone_presence
from tests.double.g711 import Pcm

pytestmark = [pytest.mark.asterisk, pytest.mark.phones]

WORD_HZ = 1330.0


def steps(service: Service, step: str) -> float:
    return service.metrics.registry.get_sample_value("kallglot_ladder_steps_total", {"reason": step}) or 0.0


def seconds(pcm: Pcm, rate: int, hertz: float, last: float = 0.0) -> float:
    """How long a tone was there (in the `last` seconds)."""
    return 0.02 * float((tone_presence(pcm[-round(last * rate) :], rate, hertz) > 0.8).sum())


async def test_the_ladder(
    asterisk22: LabAsterisk, phones: PhoneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "HEAL_FIRST", 3.0)
    monkeypatch.setattr(link, "STABLE", 0.2)
    async with (
        staged(asterisk22, phones, tmp_path, kallglot={"failover_timeout_ms": 500}) as stage,
        Events(stage.service.web_url) as events,
    ):
        double, service = stage.double, stage.service
        customer, agent = await stage.call()
        session = await double.wait_session()
        await session.wait_audio("customer", 0.5)
        (call,) = service.calls()
        assert call.translation == "up"

        # the stream is lost, a word is said while nobody listens, and the stream that comes next is told it
        await double.stop()
        await until(lambda: service.calls()[0].translation == "reconnecting", what="the loss noticed")
        await customer.hush()
        await customer.wait_spoken(await customer.tone(WORD_HZ, seconds=0.6))
        await customer.tone(HZ["customer"])
        await double.start()
        await session.wait_connected(2)
        heard = session.audio["customer"]
        await until(lambda: seconds(heard.pcm, heard.sample_rate, HZ["customer"], last=1.0) > 0.8)
        assert 0.4 <= seconds(heard.pcm, heard.sample_rate, WORD_HZ) <= 0.7, "the word, once"
        assert steps(service, "reconnect") >= 1
        replayed = service.metrics.registry.get_sample_value("kallglot_stream_replayed_chunks_total", {})
        assert (replayed or 0) >= 10
        assert service.calls()[0].translation == "up"

        # the session is over: a new one with the same parties
        await session.ended_by_server()
        second = await double.wait_session(1)
        await second.wait_audio("agent", 0.5)
        await asyncio.sleep(0.5)  # some of that was replayed: it holds for longer than `STABLE`
        assert second.request["source_language"] == session.request["source_language"]
        assert steps(service, "new_session") == 1

        # no session can be had: a tone, and the parties hear each other
        double.refuse("create", 402, times=None)
        await second.ended_by_server()
        await until(lambda: service.calls()[0].translation == "direct", what="connected directly")
        await asyncio.gather(*(hears(*pair) for pair in ((customer, {HZ["agent"]}), (agent, {HZ["customer"]}))))
        await asyncio.sleep(0.5)  # the tone is over
        for phone in (customer, agent):
            # -20 dBFS beside a voice of -10 dBFS is a tenth of the power
            beeps = tone_presence(phone.recording.samples, phone.recording.rate, HERTZ) > 0.03
            assert 0.2 <= 0.02 * beeps.sum() <= 0.45, f"{phone.name} heard two beeps"
        assert service.calls()[0].degraded

        # it heals
        double.heal()
        third = await double.wait_session(2, timeout=15)
        await third.wait_audio("agent", 0.5)
        await until(lambda: service.calls()[0].translation == "up", what="translated again")
        told = [event["data"]["step"] for _, event in events.seen if event["type"] == "ladder"]
        assert list(dict.fromkeys(told)) == ["reconnect", "new_session", "direct", "restored"]
        assert [steps(service, step) for step in ("new_session", "direct", "restored")] == [2, 1, 1]
        await stage.over(customer)
