"""Trunk mode on real Asterisks: one is the PBX with the files we write, the other plays Kallglot's SIP endpoint."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest
from pydantic import SecretStr

from kallglot_ari.ari.client import AriClient
from kallglot_ari.clock import SystemClock
from kallglot_ari.errors import SipProbeError
from kallglot_ari.lab import edge as sip_edge
from kallglot_ari.modes import trunk_doctor
from kallglot_ari.pbx.probe import probe
from kallglot_ari.settings import AriSettings, KallglotSettings
from tests.asterisk.conftest import PhoneFactory
from tests.asterisk.trunk_lab import Trunk, TrunkLab, hears_itself, kill
from tests.modes.trunk_fakes import FakeTranslator

pytestmark = [pytest.mark.asterisk, pytest.mark.timeout(180)]


@pytest.mark.phones
async def test_a_call_over_tls_and_srtp(build: TrunkLab, phones: PhoneFactory) -> None:
    trunk = await build()
    phone = await phones(trunk.pbx, "customer")
    call = await phone.call("300")
    await phone.wait_state("CONFIRMED", 10, call)
    assert await hears_itself(phone)
    assert (await trunk.edge_global("SIGNALLING"), await trunk.edge_global("MEDIA")) == ("1", "1")
    await trunk.until(lambda: any(view.state == "active" for view in trunk.mode.calls()))
    await phone.dtmf("5")
    await trunk.until(lambda: bool(trunk.mode.calls()[0].dtmf))
    await phone.hangup()
    assert await trunk.ended() == [("sess_1", "customer_hangup")]
    assert trunk.metrics.registry.get_sample_value("kallglot_agi_requests_total", {"reason": "ok"}) is not None
    assert trunk.pbx.complaints() == []


@pytest.mark.phones
async def test_kallglot_ends_the_session(build: TrunkLab, phones: PhoneFactory) -> None:
    trunk = await build()
    phone = await phones(trunk.pbx, "customer")
    call = await phone.call("300")
    await phone.wait_state("CONFIRMED", 10, call)
    await trunk.active()
    assert await trunk.mode.session_ended("sess_1", {"reason": "timeout"})
    await phone.wait_state("DISCONNECTED", 5, call)
    assert await trunk.ended() == [("sess_1", "timeout")]


@pytest.mark.phones
@pytest.mark.parametrize("how", ["refused", "silent", "no TLS"])
async def test_the_next_endpoint_is_tried_when_the_first_is_dead(
    build: TrunkLab, phones: PhoneFactory, how: str
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        if how == "no TLS":
            server = await asyncio.start_server(lambda _, writer: writer.write(b"SSH-2.0-x\r\n"), "127.0.0.1", 0)
            stack.callback(server.close)
            port = server.sockets[0].getsockname()[1]
        else:
            silent = stack.enter_context(socket.socket())
            silent.bind(("127.0.0.1", 0))
            if how == "silent":
                silent.listen(16)
            port = silent.getsockname()[1]
        trunk = await build(dead_first=f"127.0.0.1:{port}")
        phone = await phones(trunk.pbx, "customer")
        started = asyncio.get_running_loop().time()
        call = await phone.call("300")
        await phone.wait_state("CONFIRMED", 10, call)
        assert asyncio.get_running_loop().time() - started < 1.5 + 1
        assert await hears_itself(phone)
        await phone.hangup()
        assert await trunk.ended() == [("sess_1", "customer_hangup")]


@pytest.mark.phones
async def test_an_endpoint_that_is_full_then_all_are_and_the_call_goes_on_all_the_same(
    build: TrunkLab, phones: PhoneFactory
) -> None:
    full = "[edge]\nexten = _sess.,1,Hangup(42)\n"  # 503 Service Unavailable
    trunk = await build(edge_dialplans=(full, sip_edge.ECHO))
    phone, fallback = await phones(trunk.pbx, "customer"), await phones(trunk.pbx, "agent2", on_call=0.1)
    call = await phone.call("302")
    await phone.wait_state("CONFIRMED", 10, call)
    assert (trunk.dialled(), trunk.dialled(trunk.edges[1])) == (1, 1)
    assert fallback.calls == []
    await phone.hangup()
    assert await trunk.ended() == [("sess_1", "customer_hangup")]
    kill(trunk.edges[1])
    call = await phone.call("302")
    await phone.wait_state("CONFIRMED", 10, call)
    await fallback.wait_state("CONFIRMED", 10)
    assert (await trunk.ended())[1:] == [("sess_2", "error")], "nobody pays for a session that is not used"
    await phone.hangup()


EXPLAINED = {
    "password": ("the log-in is refused", "trunk.username and trunk.password"),
    "certificate": ("its certificate is refused", "set trunk.ca_file"),
    "no CA file": ("No such file", "run doctor there"),
    "old TLS": ("protocol version", "lower trunk.tls_min_version"),
    "no srtp": ("it takes nothing of what is offered", "trunk.srtp"),
    "address": ("not allowed", "Allowed IPs"),
}
"""What doctor finds, and what it advises."""


async def doctors_call(trunk: Trunk) -> str:
    """`doctor --call`."""
    pbx = trunk.pbx
    ari = AriSettings(url=pbx.ari_url, username=pbx.ari_user, password=SecretStr(pbx.ari_password))
    return await trunk_doctor.test_call(ari, FakeTranslator(), KallglotSettings(), trunk.settings.trunk, SystemClock())


async def diagnosis(trunk: Trunk) -> tuple[str, str] | str:
    """The words of `EXPLAINED` that doctor's finding has, else the finding itself."""
    settings = trunk.settings.trunk
    outside = str(trunk.edge.root.outside(settings.ca_file))
    try:
        await probe(settings.endpoints[0], settings.model_copy(update={"ca_file": outside}))
        return await doctors_call(trunk)
    except SipProbeError as error:
        words = [pair for pair in EXPLAINED.values() if pair[0] in str(error) and pair[1] in error.advice]
        return words[0] if words else f"{error} -> {error.advice}"


@pytest.mark.phones
@pytest.mark.parametrize(
    "what",
    [
        "password",
        "certificate",
        "no CA file",
        "old TLS",
        "no srtp",
        "address",
    ],
)
async def test_what_is_not_secure_is_refused(build: TrunkLab, phones: PhoneFactory, what: str) -> None:
    wrong: dict[str, object] = {
        "password": {"password": SecretStr("wrong")},
        "certificate": {"ca_file": "other"},
        "no CA file": {"ca_file": "/etc/nowhere.pem"},
        "old TLS": {"tls_min_version": "TLSv1.3"},
        "address": {"edge_allows": "192.0.2.0/255.255.255.0"},
        "no srtp": {"srtp": False},
    }
    options = wrong[what]
    assert isinstance(options, dict)
    trunk = await build(**options)
    phone = await phones(trunk.pbx, "customer")
    call = await phone.call("300")
    await phone.wait_state("DISCONNECTED", 15, call)
    assert "CONFIRMED" not in call.states
    assert trunk.dialled() == 0
    assert await diagnosis(trunk) == EXPLAINED[what]
    # without its transport the PBX asks for no session at all
    assert await trunk.ended() == ([] if what == "no CA file" else [("sess_1", "error")])


@pytest.mark.phones
async def test_an_agent_is_rung_and_meets_the_caller(build: TrunkLab, phones: PhoneFactory) -> None:
    trunk = await build()
    customer, agent = await phones(trunk.pbx, "customer"), await phones(trunk.pbx, "agent", on_call=0.3)
    call = await customer.call("301")
    await customer.wait_state("CONFIRMED", 10, call)
    await agent.wait_state("CONFIRMED", 10)
    await trunk.until(lambda: [leg.state for view in trunk.mode.calls() for leg in view.legs] == ["up", "up"])
    assert sorted(leg.speaker for leg in trunk.mode.calls()[0].legs) == ["agent", "customer"]
    await agent.hangup()
    await customer.wait_state("DISCONNECTED", 10, call)
    assert await trunk.ended() == [("sess_1", "agent_hangup")]


@pytest.mark.phones
async def test_a_caller_who_gives_up_while_the_agent_rings(build: TrunkLab, phones: PhoneFactory) -> None:
    trunk = await build()
    customer, agent = await phones(trunk.pbx, "customer"), await phones(trunk.pbx, "agent", on_call="ring")
    await customer.call("301")
    ringing = await agent.wait_incoming(10)
    await customer.hangup()
    await agent.wait_state("DISCONNECTED", 5, ringing)
    assert await trunk.ended() == [("sess_1", "customer_hangup")]


async def test_doctor_finds_all_well(build: TrunkLab) -> None:
    trunk = await build(codecs=("G722", "opus"))
    settings, pbx = trunk.settings.trunk, trunk.pbx
    outside = settings.model_copy(update={"ca_file": str(trunk.edge.root.outside(settings.ca_file))})
    found = await probe(settings.endpoints[0], outside)
    assert found.tls.startswith("TLSv1.2, certificate good until 20")
    assert found.invite == "404 Not Found", "all is well with it but the session"
    assert await trunk_doctor.pbx_side(trunk.settings.ami, settings) == (
        "Asterisk has 1 endpoint(s) and the transport kallglot-tls"
    )
    said = await doctors_call(trunk)
    assert "answered with (g722)" in said
    assert "RTP packets came back" in said
    ari = AriSettings(url=pbx.ari_url, username=pbx.ari_user, password=SecretStr(pbx.ari_password))
    client = AriClient(ari, trunk.metrics, SystemClock())
    await client.start(lambda _: None)
    await client.wait_connected(5)
    assert await trunk_doctor.codecs(client, settings) == "Asterisk can translate G722, opus"
    await client.close()


async def test_doctor_finds_what_asterisk_did_not_load(build: TrunkLab) -> None:
    trunk = await build(ca_file="/etc/nowhere.pem")
    with pytest.raises(SipProbeError, match="no transport kallglot-tls") as caught:
        await trunk_doctor.pbx_side(trunk.settings.ami, trunk.settings.trunk)
    assert "ca_list_file" in caught.value.advice
    await trunk.until(lambda: any("no transport kallglot-tls" in problem for problem in trunk.mode.problems()))


@pytest.mark.phones
async def test_calls_that_end_while_ami_is_away(build: TrunkLab, phones: PhoneFactory) -> None:
    trunk = await build()
    phone = await phones(trunk.pbx, "customer")
    call = await phone.call("300")
    await phone.wait_state("CONFIRMED", 10, call)
    await trunk.until(lambda: any(view.state == "active" for view in trunk.mode.calls()))
    await trunk.pbx.restart(gracefully=False)
    assert await trunk.ended(15) == [("sess_1", "error")]
    assert (trunk.metrics.registry.get_sample_value("kallglot_ami_reconnects_total") or 0) >= 1
