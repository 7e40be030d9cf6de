from __future__ import annotations

import asyncio
import itertools
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from kallglot_ari.ari import AriClient, Connected, Disconnected, GenericEvent, models, socket
from kallglot_ari.ari.socket import SocketEvent
from kallglot_ari.clock import SystemClock
from kallglot_ari.errors import AriError, AriUnauthorized, AriUnavailable, AriUnsupported
from kallglot_ari.metrics import Metrics
from kallglot_ari.settings import AriSettings
from tests.ari.fake import PASSWORD, FakeAsterisk, Heard, channel, event

pytestmark = pytest.mark.real_time


def value(metrics: Metrics, name: str) -> float:
    return metrics.registry.get_sample_value(f"kallglot_ari_{name}_total") or 0.0


def digits(events: list[SocketEvent]) -> list[str]:
    return [one.digit for one in events if isinstance(one, models.ChannelDtmfReceived)]


def dtmf(digit: str) -> dict[str, object]:
    return event("ChannelDtmfReceived", digit=digit, duration_ms=100, channel=channel("one"))


async def test_connects_with_a_snapshot_first(fake: FakeAsterisk, client: AriClient) -> None:
    heard = Heard()
    assert client.problem == "ARI: not started"
    assert client.version == (0, 0, 0)
    await client.start(heard)
    await client.wait_connected(5)
    assert client.connected
    assert client.problem == ""
    assert client.version == (22, 10, 1)
    first = heard.events[0]
    assert isinstance(first, Connected)
    assert not first.again
    assert first.snapshot.application is not None
    assert first.snapshot.application.channel_ids == ("one",)
    assert [one.id for one in first.snapshot.channels] == ["one"]
    assert first.snapshot.bridges == ()
    assert first.snapshot.info.system is not None
    opened = next(one for one in fake.seen if one.url.startswith("/ari/events"))
    assert opened.url == "/ari/events?app=kallglot&subscribeAll=false"
    assert opened.headers["Authorization"].startswith("Basic ")
    with pytest.raises(RuntimeError):
        await client.start(heard)


async def test_events_during_the_snapshot_come_after_it_in_order(fake: FakeAsterisk, client: AriClient) -> None:
    fake.greeting = [dtmf(str(n % 10)) for n in range(500)]
    release = asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        await release.wait()
        return web.json_response([channel("late")])

    fake.answers["GET", "/channels"] = slow
    heard = Heard()
    await client.start(heard)
    while not fake.sockets:
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.05)
    assert heard.events == []
    release.set()
    events = await heard.until(501)
    assert isinstance(events[0], Connected)
    assert [one.id for one in events[0].snapshot.channels] == ["late"]
    assert digits(events) == [str(n % 10) for n in range(500)]


async def test_a_flood_of_events_leaves_others_their_turn(fake: FakeAsterisk, client: AriClient) -> None:
    """A trunk that goes down: all of it is there at once, and calls go on meanwhile."""
    fake.greeting = [dtmf(str(n % 10)) for n in range(500)]
    release = asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        await release.wait()
        return web.json_response([])

    fake.answers["GET", "/channels"] = slow
    turns: list[int] = []
    turn = 0
    heard = Heard()

    def sink(given: SocketEvent) -> None:
        heard(given)
        turns.append(turn)

    await client.start(sink)
    while not fake.sockets:
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.1)
    release.set()
    while len(heard.events) < 501:
        turn += 1
        await asyncio.sleep(0)
    assert max(turns.count(one) for one in set(turns)) <= socket.FAIR + 1
    assert digits(heard.events) == [str(n % 10) for n in range(500)]


async def test_comes_back_after_a_drop(fake: FakeAsterisk, client: AriClient, metrics: Metrics) -> None:
    heard = Heard()
    await client.start(heard)
    await heard.until(1)
    await fake.send(dtmf("1"))
    await heard.until(2)
    await fake.sockets[-1].close()
    events = await heard.until(4)
    assert [type(one) for one in events] == [Connected, models.ChannelDtmfReceived, Disconnected, Connected]
    assert isinstance(events[3], Connected)
    assert events[3].again
    assert value(metrics, "reconnects") == 1
    await fake.send(dtmf("2"))
    assert digits(await heard.until(5)) == ["1", "2"]


async def test_starts_before_asterisk_does(fake: FakeAsterisk, client: AriClient) -> None:
    await fake.stop()
    heard = Heard()
    await client.start(heard)
    with pytest.raises(AriUnavailable, match="no connection to"):
        await client.wait_connected(0.15)
    assert "is Asterisk running" in client.problem
    assert not client.connected
    async with FakeAsterisk(port=fake.port):
        await client.wait_connected(5)
        assert client.problem == ""
        await client.close()


async def test_wrong_password_is_told_at_once(fake: FakeAsterisk) -> None:
    client = AriClient(fake.settings("wrong"), Metrics(), SystemClock())
    await client.start(lambda event: None)
    with pytest.raises(AriUnauthorized, match="user 'kallglot'"):
        await client.wait_connected(60)
    await client.close()


async def test_a_password_that_is_changed_meanwhile_is_told_once_the_connection_is_begun_anew(
    fake: FakeAsterisk, client: AriClient
) -> None:
    await client.start(lambda event: None)
    await client.wait_connected(5)
    refused = 401, {"message": "Authentication required"}
    fake.answers["GET", "/asterisk/info"] = refused
    client.reconnect()
    client.reconnect()
    async with asyncio.timeout(5):
        while "ari.password" not in client.problem or not all(socket.closed for socket in fake.sockets):
            await asyncio.sleep(0.01)
    del fake.answers["GET", "/asterisk/info"]
    async with asyncio.timeout(10):
        while not client.connected:
            await asyncio.sleep(0.01)
    assert sum(not socket.closed for socket in fake.sockets) == 1


async def test_a_read_only_user_is_told(fake: FakeAsterisk, client: AriClient) -> None:
    fake.answers["DELETE", "/channels/kallglot-nobody"] = (403, {"message": "Write access denied"})
    await client.start(lambda event: None)
    with pytest.raises(AriUnauthorized, match="read_only = no"):
        await client.wait_connected(60)
    assert fake.sockets == []


async def test_no_ari_there(fake: FakeAsterisk, client: AriClient) -> None:
    fake.answers["GET", "/asterisk/info"] = (404, b"<html>Not Found</html>")
    await client.start(lambda event: None)
    with pytest.raises(AriError, match="there is no ARI at"):
        await client.wait_connected(0.2)
    assert "enabled = yes in ari.conf" in client.problem


async def test_nonsense_is_counted_and_survived(fake: FakeAsterisk, client: AriClient, metrics: Metrics) -> None:
    heard = Heard()
    await client.start(heard)
    await heard.until(1)
    await fake.send("{", "[]", '{"type": "StasisStart"}', event("ChannelSneezed"), dtmf("7"))
    events = await heard.until(6)
    assert [type(one) for one in events[1:5]] == [GenericEvent] * 4
    assert digits(events) == ["7"]
    assert value(metrics, "unknown_events") == 1
    assert value(metrics, "malformed_events") == 3


async def test_a_sink_that_fails_loses_its_event_only(fake: FakeAsterisk, client: AriClient, metrics: Metrics) -> None:
    heard = Heard()

    def sink(event: SocketEvent) -> None:
        heard(event)
        if isinstance(event, models.ChannelDtmfReceived) and event.digit == "1":
            raise KeyError("bug")

    await client.start(sink)
    await heard.until(1)
    await fake.send(dtmf("1"), dtmf("2"))
    assert digits(await heard.until(3)) == ["1", "2"]
    assert value(metrics, "sink_errors") == 1
    assert client.connected


async def test_a_failed_snapshot_is_tried_again(fake: FakeAsterisk, client: AriClient) -> None:
    fake.answers["GET", "/bridges"] = (500, {"message": "no"})
    heard = Heard()
    await client.start(heard)
    with pytest.raises(AriUnavailable):
        await client.wait_connected(0.3)
    assert heard.events == []
    del fake.answers["GET", "/bridges"]
    await client.wait_connected(5)
    assert isinstance(heard.events[0], Connected)


async def test_a_snapshot_that_hangs_is_tried_again(
    fake: FakeAsterisk, client: AriClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "SNAPSHOT_TIMEOUT", 0.1)
    attempts = itertools.count(1)

    async def hangs_once(request: web.Request) -> web.Response:
        if next(attempts) == 1:
            await asyncio.sleep(1)
        return web.json_response([])

    fake.answers["GET", "/bridges"] = hangs_once
    await client.start(lambda event: None)
    await client.wait_connected(5)
    assert len(fake.sockets) == 2


async def test_an_old_asterisk(fake: FakeAsterisk, client: AriClient) -> None:
    fake.version = "16.28.0~dfsg-0+deb11u4"
    await client.start(lambda event: None)
    await client.wait_connected(5)
    assert client.supports("external_media")
    assert not client.supports("transfer_progress")
    with pytest.raises(KeyError):
        client.supports("teleport")
    before = len(fake.seen)
    with pytest.raises(AriUnsupported, match=r"needs Asterisk 20\.13, 21\.8, 22\.3, found 16\.28\.0"):
        await client.channels.transfer_progress("one", states="channel_answered")
    assert len(fake.seen) == before


async def test_an_unreadable_version_gates_nothing_but_features(fake: FakeAsterisk, client: AriClient) -> None:
    fake.version = "homemade"
    fake.answers["POST", "/channels/one/transfer_progress"] = (204, None)
    await client.start(lambda event: None)
    await client.wait_connected(5)
    assert not client.supports("external_media")
    await client.channels.transfer_progress("one", states="channel_answered")


async def test_a_taken_name_is_not_fought_for(
    fake: FakeAsterisk, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "REPLACED_LOOK", 0.02)
    client = AriClient(fake.settings(), metrics, SystemClock())
    heard = Heard()
    await client.start(heard)
    await heard.until(1)
    await fake.send(event("ApplicationReplaced"))
    events = await heard.until(3)
    assert [type(one) for one in events] == [Connected, models.ApplicationReplaced, Disconnected]
    await asyncio.sleep(0.5)
    assert len(fake.sockets) == 1, "the first wait is 30 s while the name is in use"
    assert "another service took the application name 'kallglot'" in client.problem
    fake.answers["GET", "/applications/kallglot"] = (404, {"message": "Application not found"})
    events = await heard.until(4)
    assert isinstance(events[3], Connected)
    assert events[3].again
    assert events[3].snapshot.application is None
    await client.close()


async def test_a_taken_name_is_asked_for_again_in_the_end(
    fake: FakeAsterisk, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "REPLACED_FIRST", 0.2)
    monkeypatch.setattr(socket, "REPLACED_LOOK", 0.05)
    client = AriClient(fake.settings(), metrics, SystemClock())
    heard = Heard()
    await client.start(heard)
    await heard.until(1)
    await fake.send(event("ApplicationReplaced"))
    assert isinstance((await heard.until(4))[3], Connected)
    await client.close()


async def test_a_socket_without_pong_is_dead(
    fake: FakeAsterisk, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "HEARTBEAT", 0.2)

    async def deaf(request: web.Request) -> web.StreamResponse:
        made = web.WebSocketResponse(autoping=False)
        await made.prepare(request)
        await asyncio.sleep(5)
        return made

    fake.answers["GET", "/events"] = deaf
    client = AriClient(fake.settings(), metrics, SystemClock())
    heard = Heard()
    await client.start(heard)
    events = await heard.until(2)
    assert isinstance(events[1], Disconnected)
    await client.close()


async def test_close_leaves_nothing(fake: FakeAsterisk, metrics: Metrics) -> None:
    before = asyncio.all_tasks()
    client = AriClient(fake.settings(), metrics, SystemClock())
    heard = Heard()
    await client.start(heard)
    await client.wait_connected(5)
    with capture_logs() as logged:
        await client.close()
        await client.close()
    assert logged == [], "that we go ourselves is no fault of the connection's"
    assert isinstance(heard.events[-1], Disconnected)
    assert not client.connected
    await asyncio.sleep(0.05)
    ours = {task.get_name() for task in asyncio.all_tasks() - before if task.get_name().startswith("ari.")}
    assert ours == set()


@pytest.mark.parametrize("status", [503, 404])
async def test_a_refused_socket_is_tried_again(fake: FakeAsterisk, client: AriClient, status: int) -> None:
    fake.answers["GET", "/events"] = (status, {"message": "not now"})
    await client.start(lambda event: None)
    with pytest.raises(AriError, match=r"^events\.eventWebsocket: "):
        await client.wait_connected(0.2)
    del fake.answers["GET", "/events"]
    await client.wait_connected(5)


async def test_https_needs_a_certificate_it_can_trust(tmp_path: Path, metrics: Metrics) -> None:
    if not shutil.which("openssl"):
        pytest.skip("NOT TESTED: no openssl to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    made = f"openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=lab -addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {certificate}"
    subprocess.run(made.split(), check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    async with FakeAsterisk(tls=tls) as fake:
        given = {"url": f"https://127.0.0.1:{fake.port}", "password": PASSWORD}
        distrusts = AriClient(AriSettings.model_validate(given), metrics, SystemClock())
        await distrusts.start(lambda event: None)
        with pytest.raises(AriUnavailable, match=r"not trusted .*set ari\.ca_file"):
            await distrusts.wait_connected(0.5)
        await distrusts.close()
        trusts = AriClient(AriSettings.model_validate({**given, "ca_file": str(certificate)}), metrics, SystemClock())
        await trusts.start(lambda event: None)
        await trusts.wait_connected(5)
        assert [one.id for one in await trusts.channels.list()] == ["one"]
        await trusts.close()
