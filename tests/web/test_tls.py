"""The web server over TLS, and the commands that ask it."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import aiohttp
import pytest
from pydantic import SecretStr

from kallglot_ari.clock import SystemClock
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
