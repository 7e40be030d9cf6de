"""Who may ask what: every route is tried, so that a new one cannot be forgotten."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest
from pydantic import SecretStr

from kallglot_ari.settings import WebSettings
from kallglot_ari.web.guard import Access, Guard
from kallglot_ari.web.problem import Problem
from tests.web.conftest import TOKEN, Make, Site

AWAY = {"X-Forwarded-For": "203.0.113.9"}
"""What a reverse proxy on this machine adds: the request is then one from elsewhere."""


def every_route(site: Site) -> list[tuple[str, str, Access]]:
    """All that the router knows, with ids filled in; the declared rule of each."""
    declared = {(route.method, route.path): route.access for route in site.server.routes()}
    found = []
    for route in site.server.application().router.routes():
        assert route.resource is not None
        path = route.resource.canonical
        rule = declared.get((route.method, path)) or declared["GET" if route.method == "HEAD" else route.method, path]
        found.append(
            (
                route.method,
                path.replace("{id}", "c1").replace("{name}", "dashboard.js").replace("{speaker}", "agent"),
                rule,
            )
        )
    return found


async def test_without_a_token_set_nothing_but_healthz_answers_from_elsewhere(make_site: Make) -> None:
    site = await make_site()
    for method, path, rule in every_route(site):
        status, body, _ = await site.ask(method, path, json={}, headers=AWAY)
        if path == "/healthz":
            assert status == 200
        elif rule is Access.SIGNED:
            assert (status, body["error"]["code"]) == (401, "bad_signature"), path
        else:
            assert status == 403, f"{method} {path}"
    assert site.control.asked == site.pbx.asked == []


async def test_without_the_token_sent_nothing_but_healthz_answers_from_elsewhere(make_site: Make) -> None:
    site = await make_site(token=TOKEN)
    for method, path, rule in every_route(site):
        status, body, _ = await site.ask(method, path, json={}, headers=AWAY)
        if path == "/healthz":
            assert status == 200
        elif rule is Access.SUPERVISOR:
            assert status == 403, f"{path}: no supervisor_token is set"
        elif path == "/static/dashboard.js":
            assert status == 200
            assert rule is Access.SHELL, "the page that asks for the token; it holds no data"
        else:
            assert status == 401, f"{method} {path}"
            assert (
                method == "HEAD"
                or path in ("/", "/subtitles")
                or body["error"]["code"] in ("unauthorized", "bad_signature")
            )
    assert site.control.asked == site.pbx.asked == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": TOKEN},
        {"Authorization": f"Token {TOKEN}"},
        {"Authorization": "Basic ???"},
        {"Authorization": "Basic " + base64.b64encode(b"kallglot:wrong").decode()},
        {"Authorization": "Basic " + base64.b64encode(b"\xff\xfe").decode()},
        {"Authorization": "Bearer ünïcode"},
        {"Authorization": "Basic ünïcode"},
        {"X-API-Key": TOKEN},
        {"Cookie": f"token={TOKEN}"},
    ],
)
async def test_a_wrong_token_opens_nothing(make_site: Make, headers: dict[str, str]) -> None:
    site = await make_site(token=TOKEN)
    for method, path, rule in every_route(site):
        if rule is Access.TOKEN:
            status, _, response = await site.ask(method, path, json={}, headers=headers)
            assert status == 401, f"{method} {path}"
            assert response.headers["WWW-Authenticate"].startswith("Bearer")
    assert site.control.asked == site.pbx.asked == []


async def test_the_token_opens_everything(make_site: Make) -> None:
    site = await make_site(token=TOKEN)
    for headers in (
        {"Authorization": f"Bearer {TOKEN}", **AWAY},
        {"authorization": f"bearer {TOKEN}"},
        {"Authorization": "Basic " + base64.b64encode(f"any:{TOKEN}".encode()).decode()},
    ):
        for method, path, rule in every_route(site):
            if rule not in (Access.SIGNED, Access.SUPERVISOR) and not path.endswith("/events"):
                status, _, _ = await site.ask(method, path, json={}, headers=headers)
                assert status not in (401, 403), f"{method} {path}"


async def test_with_a_token_this_machine_may_probe_without(make_site: Make) -> None:
    site = await make_site(token=TOKEN)
    assert [(await site.ask("GET", path))[0] for path in ("/readyz", "/metrics", "/healthz")] == [200, 200, 200]
    assert (await site.ask("GET", "/api/v1/calls"))[0] == 401


async def test_the_token_in_the_query_only_where_no_header_can_be_sent(make_site: Make) -> None:
    site = await make_site(token=TOKEN)
    for method, path, rule in every_route(site):
        if rule is Access.TOKEN:
            status, _, _ = await site.ask(method, f"{path}?token={TOKEN}", json={})
            assert (status == 401) is (path != "/pbx/curri"), f"{method} {path}"


async def test_a_path_that_does_not_exist_tells_nothing(make_site: Make) -> None:
    site = await make_site(token=TOKEN)
    for path in (
        "/api/v1/secret",
        "/static/../server.py",
        "/static/%2e%2e/server.py",
        "/api",
        "//healthz",
        "/healthz/",
    ):
        assert (await site.ask("GET", path))[0] == 401, path


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8090", "127.0.0.1.evil.example", "", "[::2]", "10.0.0.1"]
)
async def test_dns_rebinding(site: Site, host: str) -> None:
    for path in ("/api/v1/calls", "/", "/metrics"):
        assert (await site.ask("GET", path, headers={"Host": host}))[0] == 403
    assert (await site.ask("GET", "/healthz", headers={"Host": host}))[0] == 200


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:8090", "127.8.9.1", "[::1]:8090"])
async def test_names_of_this_machine(site: Site, host: str) -> None:
    assert (await site.ask("GET", "/api/v1/calls", headers={"Host": host}))[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://[::1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
async def test_another_web_site_can_change_nothing(site: Site, headers: dict[str, str]) -> None:
    for method, path, rule in every_route(site):
        if method == "POST":
            assert (await site.ask(method, path, json={}, headers=headers))[0] == 403, path
        elif rule is Access.TOKEN:
            assert (await site.ask(method, path, headers=headers))[0] == 403, path
    assert site.control.asked == []


async def test_the_dashboard_itself_may(site: Site) -> None:
    own = {"Origin": site.server.url, "Sec-Fetch-Site": "same-origin"}
    assert (await site.ask("POST", "/api/v1/calls/c1/hangup", json={}, headers=own))[0] == 202


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None]
)
async def test_a_form_is_not_json(site: Site, content_type: str | None) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    for method, path, rule in every_route(site):
        if (
            rule is not Access.SUPERVISOR
            and method == "POST"
            and path.startswith(("/api", "/pbx/incoming", "/pbx/hangup", "/pbx/prepare"))
        ):
            body = b'{"callId": "x"}'
            status, answer, _ = await site.ask(
                method, path, data=body, headers=headers, skip_auto_headers=["Content-Type"]
            )
            assert (status, answer["error"]["code"]) == (415, "unsupported_media_type"), path
    assert site.control.asked == site.pbx.asked == []


@pytest.mark.parametrize(
    ("allowed", "status"),
    [((), 200), (("127.0.0.1",), 200), (("127.0.0.0/8", "10.0.0.0/8"), 200), (("10.0.0.0/8",), 403), (("::1",), 403)],
)
async def test_allowed_ips(make_site: Make, allowed: tuple[str, ...], status: int) -> None:
    site = await make_site(allowed_ips=allowed)
    assert (await site.ask("GET", "/api/v1/calls"))[0] == status
    assert (await site.ask("GET", "/nothing"))[0] == (404 if status == 200 else 403)


@pytest.mark.parametrize("peer", ["10.1.2.3", "::ffff:10.1.2.3", "fe80::1%eth0", "2001:db8::5"])
def test_peers_in_any_spelling(peer: str) -> None:
    guard = Guard(WebSettings(token=SecretStr(TOKEN), allowed_ips=("10.1.2.7/24", "fe80::/10", "2001:db8::/32")))
    guard.admit(Access.TOKEN, peer, {"Authorization": f"Bearer {TOKEN}"})


@pytest.mark.parametrize("peer", ["10.1.3.3", "::ffff:11.1.2.3", "nonsense", ""])
def test_peers_that_are_not_allowed(peer: str) -> None:
    guard = Guard(WebSettings(token=SecretStr(TOKEN), allowed_ips=("10.1.2.0/24",)))
    with pytest.raises(Problem, match=r"web\.allowed_ips"):
        guard.admit(Access.OPEN, peer, {})


def test_from_elsewhere_without_a_token() -> None:
    guard = Guard(WebSettings())
    headers: dict[str, Any] = {"Host": "localhost"}
    guard.admit(Access.TOKEN, "127.0.0.1", headers)
    for access in (Access.TOKEN, Access.SHELL, Access.PROBE):
        with pytest.raises(Problem, match="only this machine may ask"):
            guard.admit(access, "192.0.2.1", headers)
    guard.admit(Access.OPEN, "192.0.2.1", headers)


async def test_rate_limit_of_pbx_and_webhooks(make_site: Make) -> None:
    site = await make_site(rate=1.0, burst=3)
    statuses = [(await site.ask("POST", "/pbx/hangup", json={"callId": "x"}))[0] for _ in range(5)]
    assert statuses == [200, 200, 200, 429, 429]
    hooks = [await site.ask("POST", "/webhooks/kallglot", data=b"{}") for _ in range(4)]
    assert [status for status, _, _ in hooks] == [401, 401, 401, 429], "one does not take from the other"
    status, answer, response = hooks[-1]
    assert (status, answer["error"]["code"], response.headers["Retry-After"]) == (429, "rate_limited", "2")
    assert (await site.ask("GET", "/api/v1/calls"))[0] == 200, "the API has no such limit"
    site.clock.advance(2)
    assert [(await site.ask("POST", "/pbx/hangup", json={"callId": "x"}))[0] for _ in range(3)] == [200, 200, 429]


async def test_what_is_no_http_is_counted_and_leaves_the_log_alone(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    port = int(site.server.url.rpartition(":")[2])
    junk = (b"\x16\x03\x01 hello\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nA\x0cb: 1\r\n\r\n")
    for data in junk:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(data)
        assert b" 400 " in await reader.readline()
        writer.close()
    assert site.metrics.registry.get_sample_value("kallglot_http_malformed_total") == len(junk)
    assert not [record for record in caplog.records if record.name.startswith("aiohttp")]
