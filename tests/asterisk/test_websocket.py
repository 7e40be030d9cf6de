"""Calls whose audio goes over Asterisk's chan_websocket: we connect, Asterisk connects, with TLS and without."""

from __future__ import annotations

import asyncio
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from kallglot_ari.lab.asterisk import LabAsterisk
from kallglot_ari.lab.conf import make_certificate
from tests.asterisk.conftest import PhoneFactory
from tests.asterisk.running import long_form, nothing_left, running, settings_for, until
from tests.audio_checks import dominant_frequency, tone, tone_presence
from tests.double.server import KallglotDouble

CUSTOMER_HZ, AGENT_HZ = 453.0, 613.0
FOR_AGENT_HZ, FOR_CUSTOMER_HZ = 787.0, 1013.0
SECONDS = 4.0

pytestmark = [pytest.mark.asterisk, pytest.mark.phones]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def dialled_by_asterisk(asterisk: LabAsterisk, folder: Path, *, tls: bool) -> dict[str, Any]:
    """The settings of a service that Asterisk's websocket_client connects to; it is told of it."""
    port = free_port()
    media = {"websocket_client": "kallglot-media", "port": port, "websocket_username": "asterisk", "websocket_password": "s3cret"}  # fmt: skip
    lines = [
        "[kallglot-media]", "type = websocket_client", "connection_type = per_call_config", "protocols = media",
        f"uri = {'wss://localhost' if tls else 'ws://127.0.0.1'}:{port}/media", "username = asterisk", "password = s3cret",
    ]  # fmt: skip
    if tls:
        keys = folder / "keys"
        assert make_certificate(keys)
        media |= {"websocket_certificate": str(keys / "asterisk.crt"), "websocket_key": str(keys / "asterisk.key")}
        ca = asterisk.folder / "etc/media-ca.crt"
        ca.write_bytes((keys / "asterisk.crt").read_bytes())
        lines += ["tls_enabled = yes", f"ca_list_file = {asterisk.inside}/etc/media-ca.crt"]
    (asterisk.folder / "etc/websocket_client.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")
    await asterisk.cli("module reload res_websocket_client.so")
    return media


@pytest.mark.parametrize(
    ("how", "contract", "form"),
    [
        ("we connect", "routing", "auto"),
        pytest.param("we connect", "provider", "auto", marks=long_form),
        ("we connect", "provider", "opus"),
        pytest.param("asterisk connects", "routing", "auto", marks=long_form),
        ("asterisk connects by TLS", "provider", "auto"),
    ],
)
async def test_both_parties_are_heard_and_hear(
    asterisk22: LabAsterisk, phones: PhoneFactory, tmp_path: Path, how: str, contract: str, form: str
) -> None:
    media: dict[str, Any] = {"transport": "websocket", "format": form}
    if how.startswith("asterisk"):
        media |= await dialled_by_asterisk(asterisk22, tmp_path, tls=how.endswith("TLS"))
    codecs = ("PCMU",) if contract == "routing" else ("G722",)
    rate = 8000 if contract == "routing" else 16000
    async with (
        KallglotDouble(contract, chunk_ms=None) as double,  # type: ignore[arg-type]
        running(settings_for(asterisk22, tmp_path, double, media=media)) as service,
    ):
        customer = await phones(asterisk22, "customer", codecs=codecs)
        agent = await phones(asterisk22, "agent", on_call=0.3, codecs=codecs)
        await customer.tone(CUSTOMER_HZ)
        await agent.tone(AGENT_HZ)
        await customer.call("101")
        session = await double.wait_session()
        await session.wait_audio("customer", 1.0)
        await session.wait_audio("agent", 1.0)
        await asyncio.gather(
            session.speak("customer", tone(FOR_AGENT_HZ, SECONDS, rate)),
            session.speak("agent", tone(FOR_CUSTOMER_HZ, SECONDS, rate)),
        )
        await asyncio.sleep(0.3)
        (call,) = service.calls()
        names = [str(channel.name) for channel in await service.ari.channels.list()]
        await customer.hangup()
        await nothing_left(service, asterisk22)
        await session.wait_ended()
    assert sum(name.startswith("WebSocket/") for name in names) == 2
    for leg in call.legs:
        assert leg.quality.packets_received > 50
        assert leg.quality.packets_lost == leg.quality.packets_late == 0
    for speaker, own in (("customer", CUSTOMER_HZ), ("agent", AGENT_HZ)):
        assert abs(dominant_frequency(session.audio[speaker].pcm[-rate:], rate) - own) < 3, speaker
    for phone, wanted, never in ((agent, FOR_AGENT_HZ, AGENT_HZ), (customer, FOR_CUSTOMER_HZ, CUSTOMER_HZ)):
        heard = phone.recording
        there = tone_presence(heard.samples, heard.rate, wanted) > 0.8
        assert there.sum() * 0.02 > SECONDS - 0.5, f"{there.sum() * 0.02:.2f} s of {wanted} Hz"
        assert not (tone_presence(heard.samples, heard.rate, never) > 0.5).any()
    assert double.violations == []


@pytest.mark.asterisk16
async def test_an_asterisk_that_is_too_old_is_told_of_and_the_call_goes_on(
    asterisk16: LabAsterisk, phones: PhoneFactory, tmp_path: Path
) -> None:
    async with (
        KallglotDouble("routing", chunk_ms=None) as double,
        running(settings_for(asterisk16, tmp_path, double, media={"transport": "websocket"})) as service,
    ):
        reasons = await service.ready()
        assert any(re.search(r"websocket.*20\.16", reason) for reason in reasons), reasons
        customer = await phones(asterisk16, "customer", codecs=("PCMU",))
        await customer.call("101")
        await until(lambda: not service.calls(), 20, "the call left us")
        await nothing_left(service, asterisk16)


async def test_digits_are_passed_on_kept_and_published_and_are_no_loss(
    asterisk22: LabAsterisk, phones: PhoneFactory, tmp_path: Path
) -> None:
    """As telephone events of a phone, which leave a hole in its sound, and by SIP INFO, which leaves none."""
    async with (
        KallglotDouble("routing", chunk_ms=None) as double,
        running(settings_for(asterisk22, tmp_path, double, media={"transport": "websocket"})) as service,
    ):
        customer = await phones(asterisk22, "customer", codecs=("PCMU",))
        agent = await phones(asterisk22, "agent", on_call=0.2, codecs=("PCMU",))
        await customer.call("101")
        await until(lambda: [c.state for c in service.calls()] == ["active"], what="the call is up")
        events = service.hub.subscribe()
        await customer.dtmf("78")
        await agent.wait_dtmf("78")
        await agent.dtmf("9", by_info=True)
        await customer.wait_dtmf("9")
        events.close()
        published = [event["data"] async for event in events if event["type"] == "dtmf"]
        await service.dtmf(service.calls()[0].id, party="customer", digits="12")
        await customer.wait_dtmf("12")
        await asyncio.sleep(1.2)
        (call,) = service.calls()
        session = await double.wait_session()
        await customer.hangup()
        await nothing_left(service, asterisk22)
        await session.wait_ended()
    pressed = [("customer", "7"), ("customer", "8"), ("agent", "9")]
    assert [(digit["speaker"], digit["digit"]) for digit in call.dtmf] == pressed
    assert [(digit["speaker"], digit["digit"]) for digit in published] == pressed
    for leg in call.legs:
        assert leg.quality.packets_lost == leg.quality.packets_late == 0, leg.speaker
        assert leg.quality.packets_received > 50
    assert double.violations == []
