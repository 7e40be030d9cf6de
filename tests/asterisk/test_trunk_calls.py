"""What happens to trunk calls on real Asterisks: transfers, endpoints and lines that die, older Asterisks, what is on the wire."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

import pytest

from kallglot_ari.app import Service
from kallglot_ari.clock import SystemClock
from kallglot_ari.kallglot.client import KallglotClient
from kallglot_ari.lab import edge as sip_edge
from kallglot_ari.lab.asterisk import LabAsterisk
from kallglot_ari.lab.roots import Version
from kallglot_ari.metrics import Metrics
from kallglot_ari.modes.pbx_lost import Api
from kallglot_ari.modes.trunk_book import YOUNG_SECONDS
from kallglot_ari.settings import KallglotSettings, TrunkSettings
from tests.asterisk.conftest import PhoneFactory
from tests.asterisk.redirecting import redirecting
from tests.asterisk.running import running, settings_for
from tests.asterisk.sniffing import Seen, tone_share
from tests.asterisk.trunk_lab import Transport, TrunkLab, free_udp_port, hears, hears_itself, kill
from tests.asterisk.wire import captured_by_tshark, rtp_in
from tests.double.server import KallglotDouble

pytestmark = [pytest.mark.asterisk, pytest.mark.phones, pytest.mark.timeout(180)]

SLOW_EDGE = "[edge]\nexten = _sess.,1,Wait(20)\n"
CUT_SECONDS = 30.0 if os.environ.get("KALLGLOT_LONG") else 1.0
"""How long the manager interface is away."""


@pytest.mark.asterisk16
@pytest.mark.parametrize("tech", ["PJSIP", "SIP"])
async def test_asterisk_16(build: TrunkLab, phones: PhoneFactory, tech: str) -> None:
    trunk = await build(version="16", tech=tech, codecs=("G722", "PCMU", "PCMA"), edge_codecs="g722,ulaw,alaw")
    phone = await phones(trunk.pbx, "customer")
    call = await phone.call("300")
    await phone.wait_state("CONFIRMED", 10, call)
    assert await hears_itself(phone)
    assert "g722" in await trunk.edge_global("CODEC")
    assert (await trunk.edge_global("SIGNALLING"), await trunk.edge_global("MEDIA")) == ("1", "1")
    await trunk.active()
    await phone.hangup()
    assert await trunk.ended() == [("sess_1", "customer_hangup")]
    # of chan_sip itself: that it is old, and that it does not know of stream topologies
    its_own = ("Module 'chan_sip' has been loaded but", "Don't know how to indicate condition 36")
    assert [line for line in trunk.pbx.complaints() if not any(text in line for text in its_own)] == []


@pytest.mark.parametrize("transport", ["tcp", "udp"])
async def test_without_tls(build: TrunkLab, phones: PhoneFactory, transport: Transport) -> None:
    trunk = await build(transport=transport, srtp=False)
    phone = await phones(trunk.pbx, "customer")
    call = await phone.call("300")
    await phone.wait_state("CONFIRMED", 10, call)
    assert await hears_itself(phone)
    assert (await trunk.edge_global("SIGNALLING"), await trunk.edge_global("MEDIA")) == ("0", "0")
    await phone.hangup()
    assert await trunk.ended() == [("sess_1", "customer_hangup")]
    assert trunk.pbx.complaints() == []


@pytest.mark.parametrize("version", ["22", pytest.param("16", marks=pytest.mark.asterisk16)])
async def test_sip_trace(build: TrunkLab, phones: PhoneFactory, tmp_path: Path, version: Version) -> None:
    port = free_udp_port()
    codecs = ("G722", "PCMU")
    trunk = await build(version=version, folder=tmp_path, sip_trace=True, sip_trace_port=port, codecs=codecs)
    phone = await phones(trunk.pbx, "customer")
    call = await phone.call("300")
    await phone.wait_state("CONFIRMED", 10, call)
    await trunk.active()
    (view,) = trunk.mode.calls()
    await phone.hangup()
    await trunk.ended()
    file = tmp_path / f"{view.id}.sip.txt"
    await trunk.until(lambda: file.exists() and file.read_text().count("CSeq") >= 12)
    text = file.read_text()
    assert "INVITE sip:300@" in text, "the phone's side, also what came before the call was known"
    assert "INVITE sip:sess_1@" in text
    assert "BYE sip:" in text
    assert "SIP/2.0 401" in text
    assert "AES_CM_128_HMAC_SHA1_80 inline:[hidden]" in text
    assert "response=" not in text
    assert trunk.pbx.complaints() == []


async def test_tshark_sees_that_the_audio_is_encrypted(build: TrunkLab, phones: PhoneFactory, tmp_path: Path) -> None:
    trunk = await build(codecs=("PCMU",), edge_codecs="ulaw")
    phone = await phones(trunk.pbx, "customer", codecs=("PCMU",))
    file = tmp_path / "trunk.pcapng"
    async with captured_by_tshark(file, trunk.pbx.rtp_range, trunk.edge.rtp_range):
        call = await phone.call("300")
        await phone.wait_state("CONFIRMED", 10, call)
        assert await hears_itself(phone)
    first, last = trunk.edge.rtp_range
    encrypted: list[Seen] = []
    plain: list[Seen] = []
    for packet in await rtp_in(file):
        on_the_trunk = first <= packet.source <= last or first <= packet.destination <= last
        (encrypted if on_the_trunk else plain).append(packet)
    assert {packet.kind for packet in (*plain, *encrypted)} == {0}, "PCMU on both sides"
    assert {len(packet.payload) for packet in plain} == {160}
    assert {len(packet.payload) for packet in encrypted} == {170}, "with a tag of 80 bits"
    assert {packet.source in range(first, last + 1) for packet in encrypted} == {True, False}, "both ways"
    assert min(len(plain), len(encrypted)) > 100
    assert tone_share(plain, 1000) > 0.5
    assert tone_share(encrypted, 1000) < 0.05


@pytest.mark.parametrize("kind", ["blind", "attended"])
async def test_a_phone_transfers_its_call(build: TrunkLab, phones: PhoneFactory, kind: str) -> None:
    trunk = await build()
    customer = await phones(trunk.pbx, "customer")
    other = await phones(trunk.pbx, "agent2", on_call=0.1)
    call = await customer.call("300")
    await customer.wait_state("CONFIRMED", 10, call)
    await trunk.active()
    if kind == "blind":
        await customer.transfer("agent2", call)
    else:
        await customer.hold(call)
        await trunk.until(lambda: "hold" in trunk.hub.types())
        consultation = await customer.call("agent2")
        await customer.wait_state("CONFIRMED", 10, consultation)
        await customer.transfer_attended(call, consultation)
    await other.wait_state("CONFIRMED", 10)
    await trunk.until(lambda: any(final for _, final in call.transfers))
    await customer.hangup(call)
    assert await hears_itself(other), "the session goes on with the phone it was transferred to"
    assert [view.session_id for view in trunk.mode.calls()] == ["sess_1"]
    assert trunk.api.ended == []
    assert ("call.transferred", kind) in [(event, data.get("kind")) for event, _, data in trunk.hub.events]
    await other.hangup()
    assert [session for session, _ in await trunk.ended()] == ["sess_1"]


async def test_a_transfer_that_fails(build: TrunkLab, phones: PhoneFactory) -> None:
    trunk = await build()
    customer = await phones(trunk.pbx, "customer")
    call = await customer.call("300")
    await customer.wait_state("CONFIRMED", 10, call)
    await trunk.active()
    await customer.transfer("999", call)  # there is no such number: nothing changes
    await trunk.until(lambda: any(final for _, final in call.transfers))
    assert await hears_itself(customer)
    assert trunk.api.ended == []
    await customer.transfer("303", call)  # nobody answers there: nobody is left
    assert [session for session, _ in await trunk.ended()] == ["sess_1"]


async def test_an_agent_transfers_to_another(build: TrunkLab, phones: PhoneFactory) -> None:
    trunk = await build()
    customer, agent = await phones(trunk.pbx, "customer"), await phones(trunk.pbx, "agent", on_call=0.1)
    second = await phones(trunk.pbx, "agent2", on_call=0.1)
    call = await customer.call("301")
    await customer.wait_state("CONFIRMED", 10, call)
    await agent.wait_state("CONFIRMED", 10)
    await trunk.until(lambda: [leg.state for view in trunk.mode.calls() for leg in view.legs] == ["up", "up"])
    await agent.transfer("agent2")
    await second.wait_state("CONFIRMED", 10)
    await agent.hangup()
    assert await hears_itself(second)
    assert trunk.api.ended == []
    await second.hangup()
    await customer.wait_state("DISCONNECTED", 10, call)
    assert [session for session, _ in await trunk.ended()] == ["sess_1"]


@pytest.mark.parametrize("version", ["22", pytest.param("16", marks=pytest.mark.asterisk16)])
async def test_who_answers_where_the_agents_phone_sends_the_call_is_the_agent(
    build: TrunkLab, phones: PhoneFactory, version: Version
) -> None:
    codecs = ("G722", "PCMU")
    trunk = await build(version=version, codecs=codecs, edge_codecs="g722,ulaw")
    customer, other = await phones(trunk.pbx, "customer"), await phones(trunk.pbx, "agent2", on_call=0.2)
    async with redirecting(trunk.pbx, "agent", "agent2") as phone:
        call = await customer.call("301")
        await customer.wait_state("CONFIRMED", 10, call)
        await other.wait_state("CONFIRMED", 10)
        assert phone.asked == 1
    await trunk.until(lambda: [leg.state for view in trunk.mode.calls() for leg in view.legs] == ["up", "up"])
    assert await hears_itself(other)
    await other.hangup()
    await customer.wait_state("DISCONNECTED", 10, call)
    assert await trunk.ended() == [("sess_1", "agent_hangup")]


SENDS_ON = "[edge]\nexten = _sess.,1,Transfer(PJSIP/sip:300@127.0.0.1)\n same = n,Hangup()\n"


async def test_an_endpoint_of_kallglots_that_sends_the_call_on_is_left_for_the_next(
    build: TrunkLab, phones: PhoneFactory
) -> None:
    """A 302 names a number, which the PBX would dial in the trunk's own context: there is none, so nobody outside dials through it."""
    trunk = await build(edge_dialplans=(SENDS_ON, sip_edge.ECHO))
    phone = await phones(trunk.pbx, "customer")
    call = await phone.call("300")
    await phone.wait_state("CONFIRMED", 10, call)
    assert (trunk.dialled(), trunk.dialled(trunk.edges[1])) == (1, 1)
    assert await hears_itself(phone)
    await phone.hangup()
    assert await trunk.ended() == [("sess_1", "customer_hangup")]


async def test_who_is_hung_up_by_the_api_while_kallglot_rings_does_not_go_on(
    build: TrunkLab, phones: PhoneFactory
) -> None:
    trunk = await build(edge_dialplans=(SLOW_EDGE,), failover_timeout_ms=20000)
    phone, fallback = await phones(trunk.pbx, "customer"), await phones(trunk.pbx, "agent2", on_call=0.1)
    call = await phone.call("302")
    await trunk.until(lambda: [view.state for view in trunk.mode.calls()] == ["ringing"])
    await trunk.mode.hangup(trunk.mode.calls()[0].id)
    await phone.wait_state("DISCONNECTED", 5, call)
    assert await trunk.ended() == [("sess_1", "completed")]
    assert fallback.calls == []


@pytest.mark.parametrize("when", ["before", "during"])
async def test_the_first_endpoint_is_killed(build: TrunkLab, phones: PhoneFactory, when: str) -> None:
    trunk = await build(edge_dialplans=(SLOW_EDGE, sip_edge.ECHO))
    phone = await phones(trunk.pbx, "customer")
    if when == "before":
        kill(trunk.edge)
    started = asyncio.get_running_loop().time()
    call = await phone.call("300")
    if when == "during":
        await trunk.until(lambda: trunk.dialled() > 0)
        kill(trunk.edge)
    await phone.wait_state("CONFIRMED", 10, call)
    assert asyncio.get_running_loop().time() - started < trunk.settings.trunk.failover_timeout_ms / 1000 + 1
    assert trunk.dialled(trunk.edges[1]) == 1
    assert await hears_itself(phone)
    await phone.hangup()
    assert await trunk.ended() == [("sess_1", "customer_hangup")]


async def test_the_manager_line_is_cut_while_calls_end(build: TrunkLab, phones: PhoneFactory) -> None:
    """Nobody says goodbye either: the FastAGI server is not there while the calls end."""
    trunk = await build()
    customer, other = await phones(trunk.pbx, "customer"), await phones(trunk.pbx, "agent2")
    calls = [await phone.call("300") for phone in (customer, other)]
    for phone, call in zip((customer, other), calls, strict=True):
        await phone.wait_state("CONFIRMED", 10, call)
    await trunk.until(lambda: [view.state for view in trunk.mode.calls()] == ["active", "active"])
    trunk.manager_line.reset(refuse=True)
    await trunk.pbx.cli("dialplan set global KALLGLOT_AGI agi://127.0.0.1:9")
    await customer.hangup()
    await asyncio.sleep(CUT_SECONDS)
    assert trunk.api.ended == [], "nobody could tell"
    trunk.manager_line.heal()
    await trunk.until(lambda: [view.caller for view in trunk.mode.calls()] == ["agent2"], 20)
    assert [session for session, _ in trunk.api.ended] == ["sess_1"]
    await other.hangup()
    assert [session for session, _ in await trunk.ended()] == ["sess_1", "sess_2"]


@pytest.mark.parametrize(("codec", "native"), [("opus", "opus"), ("G722", "g722"), ("PCMU", "ulaw"), ("PCMA", "alaw")])
async def test_a_translated_call(
    build: TrunkLab, phones: PhoneFactory, tmp_path: Path, codec: str, native: str
) -> None:
    """The edge's calls run through our own media mode into the embedded Kallglot, which holds the trunk's sessions too."""
    services: list[Service] = []
    async with contextlib.AsyncExitStack() as stack:

        async def make_api(edge: LabAsterisk) -> Api:
            service = await stack.enter_async_context(running(settings_for(edge, tmp_path, None)))
            services.append(service)
            assert service.embedded is not None
            client = KallglotClient(
                KallglotSettings(), TrunkSettings(), Metrics(), SystemClock(),
                urls=(service.embedded.url,), api_key=service.embedded.api_key,
            )  # fmt: skip
            await client.start()
            stack.push_async_callback(client.close)
            return client

        rest = [c for c in ("opus", "G722", "PCMU", "PCMA") if c != codec]
        trunk = await build(codecs=(codec, *rest), edge_dialplans=(sip_edge.MEDIA_MODE,), make_api=make_api)
        phone = await phones(trunk.pbx, "customer")
        call = await phone.call("300")
        await phone.wait_state("CONFIRMED", 10, call)
        await trunk.active()
        (trunk_call,), (media_call,) = trunk.mode.calls(), services[0].calls()
        assert media_call.metadata["trunk_session"] == trunk_call.session_id
        await phone.tone(1000, seconds=1.5)
        await trunk.until(lambda: hears(phone, 1000, 0.5))
        assert native in await trunk.edge_global("CODEC")
        await phone.hangup()
        await trunk.until(lambda: not trunk.mode.calls() and not services[0].calls())
        assert (await trunk.edge_global("SIGNALLING"), await trunk.edge_global("MEDIA")) == ("1", "1")
        embedded = services[0].embedded
        assert embedded is not None
        await trunk.until(lambda: not embedded.sessions.live())


async def test_the_managers_list_ends_no_call_of_a_second_pbx(build: TrunkLab, phones: PhoneFactory) -> None:
    trunk = await build()
    other = await build.second_pbx(trunk)
    phone = await phones(other, "customer")
    call = await phone.call("300")
    await phone.wait_state("CONFIRMED", 10, call)
    await asyncio.sleep(YOUNG_SECONDS)
    follower = trunk.mode._follower
    assert follower is not None
    assert follower.reconcile(await follower.client.channels()) == 0
    assert await hears_itself(phone)
    await phone.hangup()
    assert await trunk.ended() == [("sess_1", "customer_hangup")]


@pytest.mark.parametrize("then", ["Wait(60)", "Dial(PJSIP/agent)"])
@pytest.mark.parametrize("who", ["caller", "nobody"])
async def test_without_the_manager_a_channel_that_vanishes_ends_its_session(
    asterisk22: LabAsterisk, phones: PhoneFactory, tmp_path: Path, then: str, who: str
) -> None:
    """The two lines of a dialplan of one's own, without a hangup handler and without `/end`; ARI tells."""
    async with (
        KallglotDouble("routing") as double,
        running(settings_for(asterisk22, tmp_path, double)) as service,
    ):
        steps = f"1,AGI(agi://127.0.0.1:{service.trunk.agi_port}/session,source=de,target=en)", f"2,{then}"
        for step in steps:
            said = await asterisk22.cli(f'dialplan add extension "310,{step}" into kallglot-phones replace')
            assert "Extension" in said, said
        await phones(asterisk22, "agent", on_call=0.1)
        customer = await phones(asterisk22, "customer")
        call = await customer.call("310")
        session = await double.wait_session()
        await asyncio.sleep(1.5)
        assert [view.session_id for view in service.trunk.calls()] == [session.id]
        if who == "caller":
            await customer.hangup()
        else:
            await asterisk22.cli("channel request hangup all")
        async with asyncio.timeout(3):
            while double.open_sessions or service.trunk.calls():
                await asyncio.sleep(0.02)
        assert call.ended or who == "caller"
        assert len(session.ends) == 1
        assert double.violations == []
        assert service.calls() == []
