"""A web server on a free port, with stand-ins behind it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr

from kallglot_ari.calls.hub import Hub
from kallglot_ari.clock import ManualClock
from kallglot_ari.kallglot.webhooks import sign
from kallglot_ari.metrics import Metrics
from kallglot_ari.settings import StoreSettings, WebSettings
from kallglot_ari.store import Store, open_store
from kallglot_ari.web import WebServer
from tests.web.fakes import FakeControl, FakeHealth, FakePbx, a_call

TOKEN = "correct-horse"
SECRET = "whsec_battery-staple"


@dataclass
class Site:
    """A running server, the stand-ins behind it, and a client."""

    server: WebServer
    control: FakeControl
    store: Store
    hub: Hub
    metrics: Metrics
    health: FakeHealth
    pbx: FakePbx
    clock: ManualClock
    http: aiohttp.ClientSession
    ended: list[tuple[str, str]] = field(default_factory=list)
    """Sessions that Kallglot said have ended, and why."""

    async def ask(self, method: str, path: str, **kwargs: Any) -> tuple[int, Any, aiohttp.ClientResponse]:
        """Status, JSON (or text) and the response."""
        async with self.http.request(method, self.server.url + path, **kwargs) as response:
            if response.content_type == "application/json" and method != "HEAD":
                return response.status, await response.json(), response
            return response.status, await response.text(), response

    async def webhook(self, body: bytes, path: str = "/webhooks/kallglot", **headers: str) -> tuple[int, Any]:
        signed = {"Kallglot-Signature": sign(body, SECRET, at=int(self.clock.wall().timestamp())), **headers}
        status, answer, _ = await self.ask("POST", path, data=body, headers=signed)
        return status, answer

    def counted(self, reason: str) -> float:
        return self.metrics.registry.get_sample_value("kallglot_webhooks_total", {"reason": reason}) or 0.0


Make = Callable[..., Awaitable[Site]]


def _tls(certificate: Path | None) -> dict[str, Any]:
    if certificate is None:
        return {}
    return {"tls_certificate": str(certificate), "tls_key": str(certificate.with_suffix(".key"))}


@pytest.fixture
async def make_site() -> AsyncIterator[Make]:
    sites: list[Site] = []

    async def make(*, token: str = "", secret: str = SECRET, pbx: bool = True, **options: Any) -> Site:
        clock = ManualClock()
        clock.advance(time.time() % 1000)
        store = open_store(StoreSettings(url="sqlite:///:memory:"), clock, retention_days=0)
        await store.start()
        control, hub, metrics, health, service = FakeControl(), Hub(clock), Metrics(), FakeHealth(), FakePbx()
        control.live["c1"] = a_call()
        ended: list[tuple[str, str]] = []
        settings = WebSettings(
            port=0,
            token=SecretStr(token),
            supervisor_token=SecretStr(options.pop("supervisor_token", "")),
            webhook_secret=SecretStr(secret),
            allowed_ips=options.pop("allowed_ips", ()),
            bind=options.pop("bind", "127.0.0.1"),
            **_tls(options.pop("tls", None)),
        )
        server = WebServer(
            settings,
            control=control, store=store, hub=hub, metrics=metrics, health=health, clock=clock,
            pbx=service if pbx else None, on_session_ended=lambda *told: ended.append(told), **options,
        )  # fmt: skip
        await server.start()
        http = aiohttp.ClientSession()
        site = Site(server, control, store, hub, metrics, health, service, clock, http, ended)
        sites.append(site)
        return site

    yield make
    for site in sites:
        await site.http.close()
        await site.server.stop()
        await site.store.close()


@pytest.fixture
async def site(make_site: Make) -> Site:
    """One without a token, for this machine only."""
    return await make_site()
