"""The service as a whole, without an Asterisk: it starts, says what is missing, and stops without leaving a session."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import aiohttp
import pytest
from structlog.testing import capture_logs

from kallglot_ari.app import Service
from kallglot_ari.calls.model import EndReason
from kallglot_ari.cli import main
from kallglot_ari.errors import ApiUnavailable, KallglotAriError, StoreError
from kallglot_ari.modes import outbox
from kallglot_ari.modes.instance import earlier_name, instance_name
from kallglot_ari.modes.journal import Journal
from kallglot_ari.sandbox.echo import Echo
from kallglot_ari.sandbox.server import Sandbox
from kallglot_ari.settings import Settings
from tests.modes.trunk_fakes import AgiChannel

pytestmark = pytest.mark.real_time


def settings(folder: Path, **sections: dict[str, object]) -> Settings:
    base: dict[str, dict[str, object]] = {
        "service": {"drain_seconds": 0},
        "ari": {"url": "http://127.0.0.1:9"},
        "web": {"port": 0},
        "agi": {"port": 0},
        "store": {"url": f"sqlite:///{folder / 'calls.db'}"},
        "interpreter": {"engine": "echo"},
    }
    return Settings.model_validate({**base, **sections})


async def test_without_asterisk_it_is_alive_but_not_ready_and_says_why(tmp_path: Path) -> None:
    service = Service(settings(tmp_path))
    await service.start()
    try:
        async with aiohttp.ClientSession() as http:
            async with http.get(f"{service.web_url}/healthz") as answer:
                assert answer.status == 200
            async with http.get(f"{service.web_url}/readyz") as answer:
                assert answer.status == 503
                assert "ARI" in await answer.text()
            async with http.get(f"{service.web_url}/metrics") as answer:
                assert "kallglot_calls_active 0.0" in await answer.text()
    finally:
        await service.stop()


async def test_an_api_that_goes_away_is_told_soon_and_is_no_fault_of_ours(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    api = Sandbox(Echo(), api_key="sk_test_1")
    await api.start()
    service = Service(settings(tmp_path, kallglot={"url": api.url, "api_key": "sk_test_1"}))
    await service.start()
    try:
        async with asyncio.timeout(5):
            while any(reason.startswith("Kallglot API") for reason in await service.ready()):
                await asyncio.sleep(0.05)
        await api.stop()
        async with asyncio.timeout(6):
            while not any(reason.startswith("Kallglot API") for reason in await service.ready()):
                await asyncio.sleep(0.05)
        answered = await AgiChannel(service.trunk.agi_port, "1.1").agi("session")
        assert (answered["SESSION_ID"], answered["KALLGLOT_STATUS"]) == ("", "UNAVAILABLE")
    finally:
        await service.stop()
    assert "task_failed" not in caplog.text


async def test_a_draining_service_is_alive_but_not_ready_and_takes_no_call(tmp_path: Path) -> None:
    service = Service(settings(tmp_path))
    await service.start()
    try:
        service.stasis.refuse_new()
        service.pbx.drain()
        assert "draining: no new calls are taken" in await service.ready()
        async with aiohttp.ClientSession() as http:
            for path, body in (
                ("/api/v1/calls", {"customer": "PJSIP/a", "agent": "PJSIP/b"}),
                ("/pbx/incoming", {"callId": "1", "from": "2", "to": "3"}),
            ):
                async with http.post(f"{service.web_url}{path}", json=body) as answer:
                    assert answer.status == 503, path
                    assert (await answer.json())["error"]["code"] == "unavailable"
                    assert answer.headers["Retry-After"]
    finally:
        await service.stop()


async def test_any_pbx_is_told_where_to_route_and_its_session_is_ended(tmp_path: Path) -> None:
    service = Service(settings(tmp_path))
    await service.start()
    try:
        async with aiohttp.ClientSession() as http:
            call = {"callId": "a-1", "from": "+49301234", "to": "100"}
            async with http.post(f"{service.web_url}/pbx/incoming", json=call) as answer:
                routed = await answer.json()
                assert (answer.status, routed["action"]) == (200, "route")
                assert routed["destination"] == f"sip:{routed['session_id']}@sip.kallglot.com"
            async with http.post(f"{service.web_url}/pbx/incoming", json=call) as answer:
                assert (await answer.json())["session_id"] == routed["session_id"], "once per call id"
            async with http.get(f"{service.web_url}/api/v1/calls") as answer:
                (shown,) = (await answer.json())["calls"]
            path = f"{service.web_url}/api/v1/calls/{shown['id']}"
            async with http.get(path) as answer:
                assert (await answer.json())["session_id"] == routed["session_id"]
            for what, body in (("legs", {"endpoint": "PJSIP/1"}), ("transfer", {"party": "agent", "target": "100"})):
                async with http.post(f"{path}/{what}", json=body) as answer:
                    assert (answer.status, "which its PBX controls" in await answer.text()) == (400, True)
            async with http.post(f"{path}/hangup") as answer:
                assert answer.status == 202
            for _ in range(2):
                async with http.post(f"{service.web_url}/pbx/hangup", json={"callId": "a-1"}) as answer:
                    assert answer.status == 200
        assert service.embedded is not None
        deadline = service.clock.now() + 5
        while service.embedded.sessions.live() and service.clock.now() < deadline:
            await asyncio.sleep(0.02)
        assert service.embedded.sessions.live() == []
    finally:
        await service.stop()


async def test_a_port_that_is_taken_is_one_clear_error_and_leaves_nothing_running(tmp_path: Path) -> None:
    first = Service(settings(tmp_path))
    await first.start()
    try:
        port = int(first.web_url.rpartition(":")[2])
        second = Service(settings(tmp_path, web={"port": port}, store={"url": f"sqlite:///{tmp_path / 'b.db'}"}))
        with pytest.raises(KallglotAriError, match=str(port)):
            await second.start()
    finally:
        await first.stop()


async def test_a_second_one_that_cannot_start_leaves_where_the_calls_of_the_first_send_their_sound(
    tmp_path: Path,
) -> None:
    first = Service(settings(tmp_path))
    await first.start()
    address = first.media.address
    second = Service(settings(tmp_path, agi={"port": first.trunk.agi_port}))
    with pytest.raises(KallglotAriError, match=r"agi\.port"):
        await second.start()
    await first.hand_over()
    third = Service(settings(tmp_path))
    await third.start()
    assert third.media.address == address
    await third.stop()


@pytest.mark.parametrize(
    ("web", "said"),
    [
        ({}, r"web\.port: cannot listen"),
        ({"port": 0, "tls_certificate": "/nowhere.pem"}, r"web\.tls_certificate.*cannot be read"),
    ],
)
async def test_a_second_one_without_its_web_server_takes_nothing_from_the_first(
    tmp_path: Path, web: dict[str, object], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it is connected to Asterisk it has the application's name, and the first gets that back half a minute later."""
    first = Service(settings(tmp_path))
    await first.start()
    second = Service(settings(tmp_path, web={"port": int(first.web_url.rpartition(":")[2]), **web}))
    asked = AsyncMock()
    monkeypatch.setattr(second.ari, "start", asked)
    with pytest.raises(KallglotAriError, match=said):
        await second.start()
    asked.assert_not_awaited()
    await first.stop()


@pytest.mark.parametrize(
    ("web", "said"),
    [
        ({"tls_certificate": "/nowhere.pem"}, r"web\.tls_certificate.*cannot be read"),
        ({"bind": "203.0.113.9", "token": "t"}, r"web\.bind: cannot listen on 203\.0\.113\.9"),
    ],
)
async def test_who_cannot_have_a_web_server_does_not_ask_another_run_to_let_go(
    tmp_path: Path, web: dict[str, object], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The calls would be nobody's."""
    asked = AsyncMock(return_value=True)
    monkeypatch.setattr(Journal, "take_over", asked)
    with pytest.raises(KallglotAriError, match=said):
        await Service(settings(tmp_path, web=web), take_over=True).start()
    asked.assert_not_awaited()


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        ("[media]\ntransprot = 'rtp'\n", 2, "transprot"),
        ("[kallglot]\nurl = 'https://api.kallglot.com/v1'\n", 2, "kallglot.api_key"),
        ("nonsense", 2, "not TOML"),
    ],
)
def test_bad_configuration_is_one_line_and_exit_status_2(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    status: int,
    said: str,
) -> None:
    monkeypatch.delenv("KALLGLOT_API_KEY", raising=False)
    file = tmp_path / "c.toml"
    file.write_text(text)
    assert main(["serve", "--config", str(file)]) == status
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert said in lines[0]


async def test_the_embedded_kallglot_and_the_service_share_a_secret_of_their_own(tmp_path: Path) -> None:
    service = Service(settings(tmp_path))
    await service.start()
    try:
        async with aiohttp.ClientSession() as http:
            call = {"callId": "a-1", "from": "+49301234", "to": "100"}
            async with http.post(f"{service.web_url}/pbx/incoming", json=call) as answer:
                session_id = (await answer.json())["session_id"]
        embedded = service.embedded
        assert embedded is not None
        (record,) = embedded.sessions.live()
        assert record.id == session_id
        await embedded.end(record, EndReason.COMPLETED)
        async with asyncio.timeout(10):
            while service.calls():
                await asyncio.sleep(0.02)
        assert service.metrics.registry.get_sample_value("kallglot_webhooks_total", {"reason": "accepted"})
    finally:
        await service.stop()


async def test_sessions_that_trunk_mode_left_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The API fails just when they shall end; the sweeper of the service ends them, though trunk mode wrote them down."""
    monkeypatch.setattr(outbox, "SWEEP_SECONDS", 0.05)
    monkeypatch.setattr(outbox, "WATCH_SECONDS", 0.1)
    service = Service(settings(tmp_path))
    await service.start()
    try:
        embedded = service.embedded
        assert embedded is not None
        end_session = service.translator.end_session
        fails = True

        async def failing(*args: Any, **kwargs: Any) -> dict[str, Any]:
            if fails:
                raise ApiUnavailable("away")
            return await end_session(*args, **kwargs)

        monkeypatch.setattr(service.translator, "end_session", failing)
        await service.pbx.incoming("c-1", "1", "2")
        live = (await service.pbx.incoming("c-2", "1", "2"))["session_id"]
        await service.pbx.hangup("c-1")
        async with asyncio.timeout(10):
            while not service.outbox.pending:
                await asyncio.sleep(0.02)
        assert service.metrics.registry.get_sample_value("kallglot_sessions_pending_end") == 1
        fails = False
        async with asyncio.timeout(20):
            while service.outbox.pending:
                await asyncio.sleep(0.02)
        assert [record.id for record in embedded.sessions.live()] == [live], "a live one is let alone"
    finally:
        await service.stop()


@pytest.fixture
async def kallglot() -> AsyncIterator[Sandbox]:
    """A Kallglot of its own, that outlives the service."""
    server = Sandbox(Echo())
    await server.start()
    yield server
    await server.stop()


def beside(kallglot: Sandbox, folder: Path, **sections: dict[str, object]) -> Settings:
    return settings(folder, kallglot={"url": kallglot.url, "api_key": kallglot.api_key}, **sections)


def live(kallglot: Sandbox) -> list[str]:
    return [record.id for record in kallglot.sessions.live()]


async def test_a_stop_lets_trunk_calls_end_by_themselves(tmp_path: Path, kallglot: Sandbox) -> None:
    service = Service(beside(kallglot, tmp_path, service={"drain_seconds": 20}))
    await service.start()
    port = service.trunk.agi_port
    caller = AgiChannel(port, "1.1")
    session_id = (await caller.agi("session"))["SESSION_ID"]
    with capture_logs() as logged:
        stopping = asyncio.get_running_loop().create_task(service.stop())
        async with asyncio.timeout(5):
            while not logged:
                await asyncio.sleep(0.01)
    assert live(kallglot) == [session_id]
    assert [line["calls"] for line in logged if line["event"] == "draining"] == [1]
    assert (await AgiChannel(port, "2.1").agi("session"))["KALLGLOT_STATUS"] == "UNAVAILABLE"
    await caller.agi("end")
    async with asyncio.timeout(5):
        await stopping
    assert live(kallglot) == []


async def test_after_drain_seconds_trunk_calls_are_ended(tmp_path: Path, kallglot: Sandbox) -> None:
    service = Service(beside(kallglot, tmp_path, service={"drain_seconds": 0.1}))
    await service.start()
    await AgiChannel(service.trunk.agi_port, "1.1").agi("session")
    async with asyncio.timeout(5):
        await service.stop()
    assert live(kallglot) == []


async def test_the_next_run_goes_on_with_trunk_calls(tmp_path: Path, kallglot: Sandbox) -> None:
    first = Service(beside(kallglot, tmp_path))
    await first.start()
    session_id = (await AgiChannel(first.trunk.agi_port, "1.1").agi("session"))["SESSION_ID"]
    (call,) = first.trunk.calls()
    await first.hand_over()
    assert live(kallglot) == [session_id]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        cannot = Service(beside(kallglot, tmp_path, web={"port": taken.getsockname()[1]}))
        with pytest.raises(KallglotAriError):
            await cannot.start()
    assert live(kallglot) == [session_id], "a run that cannot start leaves them as they are"
    second = Service(beside(kallglot, tmp_path))
    await second.start()
    try:
        assert [(view.id, view.session_id) for view in second.trunk.calls()] == [(call.id, session_id)]
        await AgiChannel(second.trunk.agi_port, "1.1").agi("end")
        async with asyncio.timeout(5):
            while live(kallglot) or second.trunk.calls():
                await asyncio.sleep(0.02)
    finally:
        await second.stop()


async def test_trunk_calls_of_an_embedded_kallglot_end_with_it(tmp_path: Path) -> None:
    first = Service(settings(tmp_path))
    await first.start()
    await AgiChannel(first.trunk.agi_port, "1.1").agi("session")
    await first.hand_over()
    second = Service(settings(tmp_path))
    await second.start()
    try:
        assert second.trunk.calls() == []
    finally:
        await second.stop()


def test_services_of_hosts_and_applications_with_like_names_do_not_share_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = set()
    for host in ("pbx-frankfurt-asterisk-01", "pbx-frankfurt-asterisk-02", "pbx-frankfurt-asterisk-01.example"):
        monkeypatch.setattr("socket.gethostname", lambda host=host: host)
        for app in ("kallglot", "staging"):
            s = settings(tmp_path, ari={"url": "http://127.0.0.1:9", "app": app})
            names.add(instance_name(s))
            assert earlier_name(s) == "pbxfrankfurtaste"
            assert instance_name(s).startswith("pbxfrank")
            assert len(instance_name(s)) == 16
    assert len(names) == 6
    named = settings(tmp_path, service={"instance": "Main1"})
    assert (instance_name(named), earlier_name(named)) == ("main1", "")


async def test_while_the_database_is_away_the_log_says_so_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour of it had 3,600 lines of one kind, and 720 of another."""
    for name, seconds in (
        ("app.CLAIM_EVERY", 0.02),
        ("modes.pbx.SWEEP_SECONDS", 0.02),
        ("modes.outbox.SWEEP_SECONDS", 0.02),
    ):
        monkeypatch.setattr(f"kallglot_ari.{name}", seconds)
    service = Service(settings(tmp_path, ami={"username": "u", "port": 9}))
    monkeypatch.setattr("kallglot_ari.ami.client.BACK_OFF", (0.02, 0.02))
    await service.start()
    try:
        await service.pbx.incoming("c1", "1", "2")

        async def away(*_: object, **__: object) -> None:
            raise StoreError("store.url: the database cannot be reached")

        for name in ("mappings", "expired_mappings", "get_mapping", "write_mappings", "pending_sessions"):
            monkeypatch.setattr(service.store, name, away)
        with capture_logs() as logged:
            await asyncio.sleep(0.5)
    finally:
        monkeypatch.undo()
        await service.stop()
    told = [line["event"] for line in logged if line["log_level"] != "debug"]
    assert {"claim_unreadable", "pbx_sweep_postponed"} <= set(told)
    assert max(Counter(told).values()) <= 2, Counter(told)
