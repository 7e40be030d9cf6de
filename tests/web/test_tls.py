"""The web server over TLS, and the commands that ask it."""

from __future__ import annotations

import asyncio
import errno
import shutil
import socket
import ssl
import subprocess
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr

from kallglot_ari.clock import SystemClock
from kallglot_ari.door import Port
from kallglot_ari.errors import ConfigError
from kallglot_ari.sandbox.hooks import Hooks
from kallglot_ari.settings import Settings, WebSettings
from kallglot_ari.web import tls
from kallglot_ari.web.client import Client, ClientError
from tests.web.conftest import SECRET, TOKEN, Make

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make certificates")


def certificate(folder: Path, name: str) -> Path:
    """A self-signed certificate of another name than 127.0.0.1, and its key beside it."""
    key, cert = folder / f"{name}.key", folder / f"{name}.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=pbx.example"
    subprocess.run([*command.split(), "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert


async def test_https_and_the_commands_know_the_certificate(make_site: Make, tmp_path: Path) -> None:
    cert, other = certificate(tmp_path, "ours"), certificate(tmp_path, "other")
    site = await make_site(token=TOKEN, tls=cert)
    assert site.server.url.startswith("https://")
    port = int(site.server.url.rpartition(":")[2])

    def client(trusted: Path) -> Client:
        web = WebSettings(port=port, token=SecretStr(TOKEN), tls_certificate=str(trusted))
        return Client(Settings(web=web))

    async with client(cert) as asking:
        assert [call["id"] for call in (await asking.get("/api/v1/calls"))["calls"]] == ["c1"]
    async with client(other) as asking:
        with pytest.raises(ClientError):
            await asking.get("/api/v1/calls")
    status, _, response = await site.ask("GET", "/healthz", ssl=False)
    assert status == 200
    assert response.headers["Strict-Transport-Security"].startswith("max-age=")
    with pytest.raises(aiohttp.ClientError):
        await site.http.get(site.server.url.replace("https", "http") + "/healthz")


async def test_handshakes_that_do_not_end_are_dropped_the_oldest_first(
    make_site: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kallglot_ari.web.server.Port", partial(Port, handshakes=3))
    site = await make_site(token=TOKEN, tls=certificate(tmp_path, "ours"))
    async with AsyncExitStack() as stack:
        readers = []
        for sent in (b"", b"\x16\x03\x01\x02\x00\x01", b"", b"", b""):
            reader, writer = await asyncio.open_connection("127.0.0.1", site.server._port)
            stack.callback(writer.close)
            writer.write(sent)
            readers.append(reader)
        async with asyncio.timeout(5):
            assert await readers[0].read() == b""
            await readers[1].read()
        for reader in readers[2:]:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.read(), 0.05)
        assert (await site.ask("GET", "/healthz", ssl=False))[0] == 200


async def test_what_is_no_tls_and_what_takes_too_long_is_hung_up_on(
    make_site: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kallglot_ari.door.ASK_WITHIN", 0.2)
    site = await make_site(token=TOKEN, tls=certificate(tmp_path, "ours"))
    for sent in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b""):
        reader, writer = await asyncio.open_connection("127.0.0.1", site.server._port)
        writer.write(sent)
        with suppress(ConnectionError):
            await asyncio.wait_for(reader.read(), 5)
        writer.close()
    assert (await site.ask("GET", "/healthz", ssl=False))[0] == 200


async def test_without_descriptors_it_waits_and_goes_on(
    make_site: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kallglot_ari.door._AGAIN", 0.01)
    loop = asyncio.get_running_loop()
    failed: list[OSError] = []
    accept = loop.sock_accept

    async def refused(sock: socket.socket) -> Any:
        if len(failed) < 3:
            failed.append(OSError(errno.EMFILE, "Too many open files"))
            raise failed[-1]
        return await accept(sock)

    monkeypatch.setattr(loop, "sock_accept", refused)
    site = await make_site(token=TOKEN, tls=certificate(tmp_path, "ours"))
    assert (await site.ask("GET", "/healthz", ssl=False))[0] == 200
    assert len(failed) == 3


async def test_nothing_older_than_tls_1_2(make_site: Make, tmp_path: Path) -> None:
    site = await make_site(tls=certificate(tmp_path, "ours"))
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with pytest.raises(aiohttp.ClientError):
        await site.http.get(site.server.url + "/healthz", ssl=old)


def test_certificates_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("-----BEGIN CERTIFICATE-----\nno\n")
    cert, other = certificate(tmp_path, "ours"), certificate(tmp_path, "other")
    for settings, words in (
        (WebSettings(tls_certificate=str(tmp_path / "gone")), "gone cannot be read"),
        (WebSettings(tls_certificate=str(nonsense)), "expected a PEM certificate"),
        (WebSettings(tls_certificate=str(cert), tls_key=str(other.with_suffix(".key"))), "expected a PEM certificate"),
    ):
        with pytest.raises(ConfigError, match=words):
            tls.serving(settings)
    with pytest.raises(ConfigError, match="cannot be used"):
        tls.asking(WebSettings(tls_certificate=str(nonsense)))


async def test_the_embedded_kallglots_webhooks_come_by_a_certificate_of_any_name(
    make_site: Make, tmp_path: Path
) -> None:
    site = await make_site(tls=certificate(tmp_path, "ours"))
    site.clock.advance(SystemClock().wall().timestamp() - site.clock.wall().timestamp())
    hooks = Hooks("", "", SystemClock(), schedule=())
    hooks.aim(f"{site.server.url}/webhooks/kallglot", SECRET, ("session.ended",), tls.asking(site.server._settings))
    hooks.post("session.ended", {"session_id": "sess_1", "reason": "timeout"})
    await hooks.close()
    assert (hooks.counts["delivered"], site.ended) == (1, [("sess_1", "timeout")])
