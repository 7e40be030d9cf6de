"""What a network between Asterisk and the phones does is seen in the call's figures and in the metrics while the call is up."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from kallglot_ari.calls.model import CallView
from kallglot_ari.lab.asterisk import LabAsterisk
from kallglot_ari.modes import sip_quality
from tests.asterisk.conftest import PhoneFactory
from tests.asterisk.running import nothing_left, running, settings_for, until
from tests.double.server import KallglotDouble

pytestmark = [pytest.mark.asterisk, pytest.mark.phones]


async def test_what_is_lost_between_asterisk_and_a_phone_is_told_from_which_way(
    asterisk22: LabAsterisk, phones: PhoneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sip_quality, "EVERY", 0.5)
    async with (
        KallglotDouble("routing", chunk_ms=None) as double,
        running(settings_for(asterisk22, tmp_path, double)) as service,
    ):

        def sample(name: str, **labels: str) -> float:
            return service.metrics.registry.get_sample_value(name, labels) or 0.0

        customer = await phones(asterisk22, "customer", codecs=("PCMU",), lose_sent=20)
        await phones(asterisk22, "agent", on_call=0.1, codecs=("PCMU",), lose_received=20)
        await customer.tone(453.0)
        await customer.call("101")
        await until(lambda: sample("kallglot_sip_lost_total", direction="in") > 20, 20, "loss on its way to Asterisk")
        await until(lambda: sample("kallglot_sip_lost_total", direction="out") > 10, 20, "the phone's report of loss")
        call = service.calls()[0]
        await customer.hangup()
        await nothing_left(service, asterisk22)
        await asyncio.sleep(0.1)
        kept = await service.store.get_call(call.id)
    assert kept is not None
    for view in (call, kept):
        _told_apart(view)
    assert sample("kallglot_sip_mos_count") == sample("kallglot_sip_jitter_seconds_count") > 10
    # Asterisk has a round trip only once a phone has answered a report of its own.
    assert sample("kallglot_sip_round_trip_seconds_sum") <= 0.2 * sample("kallglot_sip_round_trip_seconds_count")


def _told_apart(call: CallView) -> None:
    customer, agent = (leg["sip"] for leg in call.as_json()["legs"])
    share = customer["packets_lost"] / (customer["packets_lost"] + customer["packets_received"])
    assert 0.1 < share < 0.3
    assert customer["mos"] < 3.5 < 4.3 < agent["mos"], "what Asterisk hears of them"
    assert agent["packets_lost"] <= 2
    assert customer["packets_lost_there"] <= 2
    assert agent["packets_lost_there"] > 10
    assert all(0 < leg["jitter_ms"] < 20 and leg["packets_sent"] > 100 for leg in (customer, agent))
