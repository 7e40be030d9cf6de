"""Audio over a websocket, with a stand-in for Asterisk at the other end; a real one is in tests/asterisk."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from kallglot_ari.audio.codecs import opus, registry
from kallglot_ari.audio.frame import Pcm
from kallglot_ari.calls.model import StreamAudio, UplinkChunk
from kallglot_ari.clock import SystemClock
from kallglot_ari.errors import ConfigError, ListenError, MediaError
from kallglot_ari.lab.conf import make_certificate
from kallglot_ari.media import websocket
from kallglot_ari.media.engine import MediaEngine
from kallglot_ari.media.websocket import ATTACH_SECONDS
from kallglot_ari.metrics import Metrics
from kallglot_ari.settings import MediaSettings
from tests.audio.signals import tone
from tests.media.conftest import START, ulaw, value
from tests.media.simulated import Simulation
from tests.turns import BOMB, MOST_PIECES, unpacked

pytestmark = pytest.mark.real_time

ULAW = registry.get("ulaw")


@asynccontextmanager
async def engine_with(**settings: Any) -> AsyncIterator[MediaEngine]:
    url, ca, metrics = settings.pop("url", ""), settings.pop("ca", ""), settings.pop("metrics", None) or Metrics()
    engine = MediaEngine(
        MediaSettings.model_validate({"transport": "websocket", **settings}), encoding="mulaw", sample_rate=8000,
        chunk_ms=100, metrics=metrics, clock=SystemClock(), asterisk_url=url, asterisk_ca=ca,
    )  # fmt: skip
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


@asynccontextmanager
async def asterisk(handler: Any, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/media/{id}", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def talk(socket: Any, sound: bytes) -> list[bytes | str]:
    """Asterisk's side: says `sound` at its pace; what it heard meanwhile and a little after."""
    heard: list[bytes | str] = []

    async def listen() -> None:
        async for message in socket:
            heard.append(message.data)

    listening = asyncio.get_running_loop().create_task(listen())
    start = asyncio.get_running_loop().time()
    for i in range(0, len(sound), 160):
        await socket.send_bytes(sound[i : i + 160])
        await asyncio.sleep(max(0.0, start + (i / 160 + 1) * 0.02 - asyncio.get_running_loop().time()))
    await asyncio.sleep(0.2)
    listening.cancel()
    return heard


@pytest.mark.parametrize(("form", "size", "discarded"), [("slin16", 1920, 0), ("opus", 1600, 10)])
async def test_long_frames_are_cut_up_and_what_is_too_long_all_the_same_is_counted(
    metrics: Metrics, form: str, size: int, discarded: int
) -> None:
    if form == "opus" and not opus.available():
        pytest.skip("libopus is not installed")

    async def media(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=("media",))
        await socket.prepare(request)
        await socket.send_str(START)
        for _ in range(10):
            await socket.send_bytes(size * b"\1")
            await asyncio.sleep(0.06)
        all_sent.set()
        return socket

    def cut() -> float:
        return value(metrics, "kallglot_rtp_discarded_total", reason="truncated")

    all_sent = asyncio.Event()
    got: list[UplinkChunk] = []
    async with asterisk(media) as url, engine_with(url=url, format=form, metrics=metrics) as engine:
        flow = engine.open("leg", got.append)
        await flow.attach({"MEDIA_WEBSOCKET_CONNECTION_ID": "c1"})
        async with asyncio.timeout(10):
            await all_sent.wait()
            while (discarded and cut() < discarded) or (not discarded and flow.quality().packets_received < 30):
                await asyncio.sleep(0.01)
        quality = flow.quality()
    assert cut() == discarded
    assert quality.packets_received == (0 if discarded else 30)
    assert discarded or len(got) >= 5


async def test_we_connect_and_sound_goes_both_ways() -> None:
    sound, translated = ulaw(1.0), ulaw(0.6, 900)
    results: list[list[bytes | str]] = []
    done = asyncio.Event()

    async def media(request: web.Request) -> web.WebSocketResponse:
        assert request.match_info["id"] == "c1"
        socket = web.WebSocketResponse(protocols=("media",))
        await socket.prepare(request)
        await socket.send_str(START)
        results.append(await talk(socket, sound))
        done.set()
        return socket

    got: list[UplinkChunk] = []
    async with asterisk(media) as url, engine_with(url=url) as engine:
        assert (engine.external.external_host, engine.external.connection_type) == ("INCOMING", "server")
        flow = engine.open("leg", got.append)
        await flow.attach({"MEDIA_WEBSOCKET_CONNECTION_ID": "c1"})
        flow.play("agent", StreamAudio("mulaw", 8000, translated))
        await asyncio.wait_for(done.wait(), 10)
        quality = flow.quality()
    # on a machine that stands still for a moment a frame may be concealed, so most of the sound is asked for, not all
    assert b"".join(chunk.audio.payload for chunk in got).count(sound[:160]) >= 45
    heard = b"".join(part for part in results[0] if isinstance(part, bytes))
    assert heard.count(translated[:160]) >= 25
    assert (quality.packets_received, quality.packets_lost, quality.packets_late) == (50, 0, 0)


async def test_certificates_are_read_once_and_not_for_each_leg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not make_certificate(tmp_path):
        pytest.skip("openssl is not installed")
    certificate = tmp_path / "asterisk.crt"
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate, tmp_path / "asterisk.key")

    async def media(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=("media",))
        await socket.prepare(request)
        await socket.send_str(START)
        await socket.receive()
        return socket

    made: list[ssl.SSLContext] = []
    create = ssl.create_default_context

    def counted(**how: Any) -> ssl.SSLContext:
        made.append(create(**how))
        return made[-1]

    monkeypatch.setattr(ssl, "create_default_context", counted)
    async with asterisk(media, server) as url, engine_with(url=url, ca=str(certificate)) as engine:
        for leg in ("a", "b", "c"):
            await engine.open(leg, lambda _: None).attach({"MEDIA_WEBSOCKET_CONNECTION_ID": "c1"})
    assert len(made) == 1


@pytest.mark.parametrize("early", [True, False])
async def test_asterisk_connects_before_or_after_it_has_answered_us(early: bool) -> None:
    sound = ulaw(0.5)
    got: list[UplinkChunk] = []
    settings = {"websocket_client": "kallglot", "websocket_username": "u", "websocket_password": "p"}
    async with engine_with(**settings) as engine, aiohttp.ClientSession() as session:
        external = engine.external
        assert (external.external_host, external.connection_type) == ("kallglot", "client")
        url = f"http://127.0.0.1:{engine.address[1]}/media"
        flow = engine.open("leg", got.append)
        if not early:
            attaching = asyncio.get_running_loop().create_task(flow.attach({}))
            await asyncio.sleep(0.05)
        headers = {"Authorization": "Basic dTpw"}
        async with session.ws_connect(url, protocols=("media",), headers=headers) as socket:
            await socket.send_str(START)
            await asyncio.sleep(0.05)
            await (flow.attach({}) if early else attaching)
            heard = await talk(socket, sound)
            flow.flush()
            await asyncio.sleep(0.1)
            commands = [message.data async for message in _now(socket)]
    assert b"".join(chunk.audio.payload for chunk in got).count(sound[:160]) >= 20
    assert len(heard) > 20
    assert "FLUSH_MEDIA" in commands


async def _now(socket: aiohttp.ClientWebSocketResponse) -> AsyncIterator[aiohttp.WSMessage]:
    """What lies there already; sound goes on coming."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.3):
            while True:
                yield await socket.receive()


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Basic eDp5"}, {"Authorization": "ü"}])
async def test_who_does_not_know_the_password_is_no_asterisk(headers: dict[str, str]) -> None:
    settings = {"websocket_client": "kallglot", "websocket_username": "u", "websocket_password": "p"}
    async with engine_with(**settings) as engine, aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(f"http://127.0.0.1:{engine.address[1]}/", headers=headers)
    assert refused.value.status == 401


async def test_what_nobody_reads_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = unpacked(monkeypatch)
    settings = {"websocket_client": "kallglot", "websocket_username": "u", "websocket_password": "p"}
    async with engine_with(**settings) as engine:
        reader, writer = await asyncio.open_connection("127.0.0.1", engine.address[1])
        head = b"GET / HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
        writer.write(head % len(BOMB) + BOMB)
        with contextlib.suppress(ConnectionError):
            assert b" 401 " in await asyncio.wait_for(reader.read(), 5)
        writer.close()
    assert len(pieces) < MOST_PIECES


async def test_who_does_not_begin_as_asterisk_does_is_hung_up_on() -> None:
    async with engine_with(websocket_client="kallglot") as engine, aiohttp.ClientSession() as session:
        for first in ("hello", "{}", '{"event":"MEDIA_START"}', '{"event":"MEDIA_START","channel_id":7}'):
            async with session.ws_connect(f"http://127.0.0.1:{engine.address[1]}/") as socket:
                await socket.send_str(first)
                assert (await socket.receive(timeout=2)).type is aiohttp.WSMsgType.CLOSE


async def test_connections_that_do_not_come_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kallglot_ari.media.websocket.ATTACH_SECONDS", 0.2)
    assert ATTACH_SECONDS > 1
    async with engine_with(websocket_client="kallglot") as engine:
        with pytest.raises(MediaError, match="within"):
            await engine.open("leg", lambda _: None).attach({})
    async with engine_with(url="http://127.0.0.1:9") as engine:
        flow = engine.open("leg", lambda _: None)
        with pytest.raises(MediaError, match="cannot connect"):
            await flow.attach({"MEDIA_WEBSOCKET_CONNECTION_ID": "c1"})
        with pytest.raises(MediaError, match="MEDIA_WEBSOCKET_CONNECTION_ID"):
            await flow.attach({})
        flow.close()


async def test_an_encrypted_key_is_refused_and_its_password_is_asked_of_nobody(tmp_path: Path) -> None:
    if not make_certificate(tmp_path):
        pytest.skip("openssl is not installed")
    certificate, key = tmp_path / "asterisk.crt", tmp_path / "encrypted.key"
    encrypt = ["openssl", "pkey", "-aes256", "-passout", "pass:word", "-out", str(key)]
    subprocess.run([*encrypt, "-in", str(tmp_path / "asterisk.key")], check=True, capture_output=True)
    with pytest.raises(ConfigError, match=r"media\.websocket_certificate, media\.websocket_key: .*its unencrypted key"):
        async with engine_with(
            websocket_client="kallglot", websocket_certificate=str(certificate), websocket_key=str(key)
        ):
            pass


async def test_settings_that_cannot_work() -> None:
    with pytest.raises(ConfigError, match=r"media\.websocket_certificate, media\.websocket_key: /nonexistent.pem"):
        async with engine_with(websocket_client="kallglot", websocket_certificate="/nonexistent.pem"):
            pass
    with pytest.raises(ConfigError, match=r"ari\.ca_file"):
        async with engine_with(url="https://127.0.0.1:9", ca="/nonexistent.pem"):
            pass
    async with engine_with(websocket_client="kallglot") as engine:
        with pytest.raises(ListenError, match=r"media\.port: cannot listen on 127\.0\.0\.1:\d+: the port is taken"):
            async with engine_with(websocket_client="kallglot", port=engine.address[1]):
                pass


async def test_a_connection_for_a_leg_that_never_comes_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "ATTACH_SECONDS", 0.3)
    async with engine_with(websocket_client="kallglot") as engine, aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{engine.address[1]}/media"
        async with session.ws_connect(url) as nobodys:
            await nobodys.send_str("MEDIA_START channel:x channel_id:nobodys")
            message = await asyncio.wait_for(nobodys.receive(), 5)
        assert message.type is aiohttp.WSMsgType.CLOSE


async def test_a_second_connection_for_a_leg_takes_nothing_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "ATTACH_SECONDS", 0.5)
    got: list[UplinkChunk] = []
    sound = ulaw(0.5)
    async with engine_with(websocket_client="kallglot") as engine, aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{engine.address[1]}/media"
        flow = engine.open("leg", got.append)
        async with (
            session.ws_connect(url) as first,
            session.ws_connect(url) as second,
            session.ws_connect(url) as third,
        ):
            await first.send_str(START)
            await asyncio.sleep(0.05)
            await flow.attach({})
            for other in (second, third):
                await other.send_str(START)
                await other.send_bytes(b"\x00" * 160)
            heard = await talk(first, sound)
            for other in (second, third):
                assert (await asyncio.wait_for(other.receive(), 5)).type is aiohttp.WSMsgType.CLOSE
            assert not first.closed
    assert len(heard) > 20
    assert b"".join(chunk.audio.payload for chunk in got).count(sound[:160]) >= 20


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: x\r\nX-Half: ", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"])
async def test_who_does_not_say_whose_it_is_is_dropped(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(websocket, "ASK_WITHIN", 0.3)
    async with engine_with(websocket_client="kallglot") as engine:
        reader, writer = await asyncio.open_connection("127.0.0.1", engine.address[1])
        writer.write(sent)
        with contextlib.suppress(ConnectionError):
            await asyncio.wait_for(reader.read(), 5)
        writer.close()


async def test_of_many_who_say_nothing_the_oldest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "_SILENT_MAX", 3)
    async with engine_with(websocket_client="kallglot") as engine, contextlib.AsyncExitStack() as stack:
        readers = []
        for _ in range(4):
            reader, writer = await asyncio.open_connection("127.0.0.1", engine.address[1])
            stack.callback(writer.close)
            readers.append(reader)
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(readers[0].read(), 5) == b""
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(readers[1].read(), 0.1)


async def test_what_asterisk_holds_back_for_too_long_is_counted(metrics: Metrics) -> None:
    async def media(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=("media",))
        await socket.prepare(request)
        await socket.send_str(START)
        await socket.send_str("MEDIA_XOFF")
        await asyncio.sleep(5)
        return socket

    def lost() -> float:
        return value(metrics, "kallglot_rtp_discarded_total", reason="socket_full")

    async with asyncio.timeout(10), asterisk(media) as url, engine_with(url=url, metrics=metrics) as engine:
        flow = engine.open("leg", lambda _: None)
        await flow.attach({"MEDIA_WEBSOCKET_CONNECTION_ID": "c1"})
        await asyncio.sleep(0.1)
        flow.play("agent", StreamAudio("mulaw", 8000, ulaw(3.0)))
        await asyncio.sleep(0.5)
        assert lost() == 0
        while lost() < 10:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("complexity", [None, 0, 10])
def test_opus_is_encoded_as_hard_as_the_setting_says(monkeypatch: pytest.MonkeyPatch, complexity: int | None) -> None:
    if not opus.available():
        pytest.skip("libopus is not installed")
    used: set[int] = set()

    class Encoder(opus.CbrOpusEncoder):
        def encode(self, pcm: Pcm) -> bytes:
            used.add(self._codec.complexity)
            return super().encode(pcm)

    monkeypatch.setattr(opus, "CbrOpusEncoder", Encoder)
    asked: dict[str, Any] = {} if complexity is None else {"opus_complexity": complexity}
    simulation = Simulation(1, encoding="pcm_16", rate=16000, transport="websocket", format="opus", **asked)
    simulation.command("play", 0, "agent", StreamAudio("pcm_16", 16000, tone(16000, 0.2).tobytes()), 0.0)
    simulation.run(0.3)
    assert len(simulation.wire.sent[0]) == 15
    assert used == {5 if complexity is None else complexity}
