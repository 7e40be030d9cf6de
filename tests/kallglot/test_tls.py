"""Certificates are always verified: a server with a certificate of our own CA, and what happens without that CA."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop
from aiohttp import web

from kallglot_ari.calls.interfaces import StreamSpeech
from kallglot_ari.calls.model import SessionRequest
from kallglot_ari.clock import SystemClock
from kallglot_ari.errors import ApiUnavailable, ConfigError, StreamRefused
from kallglot_ari.kallglot import warm
from kallglot_ari.kallglot.breaker import RetryPolicy
from kallglot_ari.kallglot.client import KallglotClient
from kallglot_ari.metrics import Metrics
from kallglot_ari.settings import KallglotSettings, TrunkSettings
from tests.kallglot.servers import Heard, chunk, client, created, ok, session

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make certificates")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate of 127.0.0.1 and its key, in one PEM file."""
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test"
    command += f" -addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {cert}"
    subprocess.run(command.split(), check=True, capture_output=True)
    return cert


@contextlib.asynccontextmanager
async def secure(certificate: Path) -> AsyncIterator[tuple[str, list[str]]]:
    """An https server; yields its base URL and the paths it was asked for, handshakes for streams included."""
    asked: list[str] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        asked.append(f"{request.method} {request.path} {'key' if 'Authorization' in request.headers else 'no key'}")
        if request.path.endswith("/connect"):
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            await socket.send_str('{"type":"session.ready"}')
            async for message in socket:
                if "audio.input" in message.data:
                    await socket.send_str(message.data.replace("audio.input", "audio.output", 1))
            return socket
        return ok(created(url=f"wss://{request.host}/v1/sessions/sess_1/connect?token=kst_t"))

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    try:
        yield f"https://127.0.0.1:{runner.addresses[0][1]}/v1", asked
    finally:
        await runner.cleanup()


async def test_our_own_ca_is_trusted_for_requests_and_streams(certificate: Path) -> None:
    async with secure(certificate) as (url, asked), client(url, ca_file=str(certificate)) as api:
        made = await api.create_session(SessionRequest(), idempotency_key="k")
        await (await api.open_stream(made, Heard())).close()
    assert "POST /v1/sessions key" in asked
    assert "GET /v1/sessions/sess_1/connect no key" in asked, "the key is not for the stream"


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_stream_over_tls_goes_both_ways_in_order(certificate: Path, loop: Callable[[], Any]) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(_said_and_said_back(certificate))


async def _said_and_said_back(certificate: Path) -> None:
    heard = Heard()
    sound = [bytes([number]) * (20_000 if number % 7 == 0 else 800) for number in range(1, 60)]
    async with (
        secure(certificate) as (url, _),
        client(url, ca_file=str(certificate), failover_timeout_ms=3000) as api,
    ):
        stream = await api.open_stream(session(f"{url.replace('https', 'wss')}/sessions/sess_1/connect"), heard)
        for number, payload in enumerate(sound):
            stream.send("customer", chunk(number * 100, payload=payload))
            if number % 5 == 0:
                await asyncio.sleep(0.01)
        speech = await heard.until(len(sound), StreamSpeech)
        await stream.close()
    assert [event.audio.payload for event in speech] == sound


async def test_without_it_nothing_is_sent(certificate: Path) -> None:
    async with secure(certificate) as (url, asked), client(url, policy=RetryPolicy(deadline=0.1)) as api:
        with pytest.raises(ApiUnavailable, match="certificate is not accepted"):
            await api.end_session("sess_1", "completed", base_url=url)
        with pytest.raises(StreamRefused, match="certificate is not accepted"):
            await api.open_stream(session(url.replace("https", "wss") + "/sessions/sess_1/connect"), Heard())
    assert asked == []


async def test_a_stream_host_of_its_own_is_kept_warm_without_the_key(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm, "_LOOK_EVERY", 0.05)
    monkeypatch.setattr(warm, "_SOON", 0.2)
    async with (
        secure(certificate) as (url, _),
        secure(certificate) as (other, asked),
        client(url, ca_file=str(certificate)) as api,
    ):
        stream = await api.open_stream(session(other.replace("https", "wss") + "/sessions/x/connect"), Heard())
        async with asyncio.timeout(3):
            while len(asked) < 5:
                await asyncio.sleep(0.01)
        await stream.close()
    assert asked[1:5] == ["GET / no key"] * 4


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "cannot be read"),
        ("no certificate", "expected certificates in PEM"),
        ("", "expected certificates in PEM"),
    ],
)
async def test_a_ca_file_that_is_none_is_told_at_the_start(tmp_path: Path, content: str | None, why: str) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    settings = KallglotSettings(url="https://127.0.0.1:1/v1", ca_file=str(file))
    with pytest.raises(ConfigError, match=f"kallglot.ca_file: .*{why}"):
        await KallglotClient(settings, TrunkSettings(), Metrics(), SystemClock()).start()
