"""The API: what it answers, what it asks of the calls, and every way to ask it wrongly."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import orjson
import pytest

from kallglot_ari.calls.model import TranscriptTurn
from kallglot_ari.errors import AriConflict, AriUnavailable, ConfigError, ListenError, StoreError, UsageError
from tests.web.conftest import Make, Site
from tests.web.fakes import STARTED, a_call

pytestmark = pytest.mark.real_time

JSON = {"Content-Type": "application/json"}


async def error(site: Site, method: str, path: str, status: int, **kwargs: Any) -> dict[str, str]:
    """The error of a request that must fail with `status`, in the one form."""
    found, body, response = await site.ask(method, path, **kwargs)
    assert found == status, body
    assert response.content_type == "application/json"
    assert set(body) == {"error"}
    assert {"code", "message"} <= set(body["error"]) <= {"code", "message", "param"}
    detail: dict[str, str] = body["error"]
    return detail


class TestReading:
    async def test_live_and_kept_calls_the_newest_first(self, site: Site) -> None:
        await site.store.save_call(a_call("old", "ended", started_at=STARTED.replace(hour=9)))
        await site.store.save_call(a_call("c1", "setup"))
        for query, expected in (
            ("", ["c1", "old"]), ("?active=true", ["c1"]), ("?active=false", ["old"]), ("?limit=1", ["c1"]),
        ):  # fmt: skip
            _, body, _ = await site.ask("GET", f"/api/v1/calls{query}")
            assert [call["id"] for call in body["calls"]] == expected, query
        _, body, _ = await site.ask("GET", "/api/v1/calls")
        assert body["calls"][0]["state"] == "active", "what is up counts, not what was written last"

    async def test_a_call_that_ended_but_is_still_known_is_not_live(self, site: Site) -> None:
        site.control.live["c1"].state = "ended"
        assert (await site.ask("GET", "/api/v1/calls?active=true"))[1] == {"calls": []}
        assert len((await site.ask("GET", "/api/v1/calls?active=false"))[1]["calls"]) == 1

    async def test_live_calls_are_told_even_without_a_database(self, site: Site) -> None:
        await site.store.close()
        status, body, _ = await site.ask("GET", "/api/v1/calls?active=true")
        assert (status, len(body["calls"])) == (200, 1)
        detail = await error(site, "GET", "/api/v1/calls", 503)
        assert detail["code"] == "unavailable"

    async def test_one_call_live_and_kept(self, site: Site) -> None:
        await site.store.save_call(a_call("old", "ended"))
        assert (await site.ask("GET", "/api/v1/calls/c1"))[1] == site.control.live["c1"].as_json()
        assert (await site.ask("GET", "/api/v1/calls/old"))[1]["state"] == "ended"

    async def test_the_transcript(self, site: Site) -> None:
        await site.store.add_turn("c1", TranscriptTurn("t", "customer", "de", "ja", True, "en", "yes"), 5.0)
        _, body, _ = await site.ask("GET", "/api/v1/calls/c1/transcript")
        assert (body["id"], body["session_id"], body["status"]) == ("c1", "sess_c1", "in_progress")
        assert [turn["text"] for turn in body["turns"]] == ["ja"]
        site.control.live["c1"].state = "ended"
        assert (await site.ask("GET", "/api/v1/calls/c1/transcript"))[1]["status"] == "completed"

    @pytest.mark.parametrize("call", ["nobody", "%00", "a%0d%0ab", "ü", "x" * 5000, "'%20OR%201=1"])
    async def test_unknown_calls(self, site: Site, call: str) -> None:
        for method, path in (("GET", ""), ("GET", "/transcript"), ("POST", "/hangup")):
            detail = await error(
                site, method, f"/api/v1/calls/{call}{path}", 404, **({} if method == "GET" else {"json": {}})
            )
            assert detail["code"] == "call_not_found"

    @pytest.mark.parametrize(
        ("query", "param"),
        [("limit=0", "limit"), ("limit=x", "limit"), ("limit=-1", "limit"), ("limit=1001", "limit"), ("limit=٣", "limit"),
         ("limit=" + "9" * 5000, "limit"), ("active=yes", "active"), ("active=", "active")],
    )  # fmt: skip
    async def test_queries_that_cannot_be_used(self, site: Site, query: str, param: str) -> None:
        assert (await error(site, "GET", f"/api/v1/calls?{query}", 400))["param"] == param


class TestControl:
    async def test_originate(self, site: Site) -> None:
        body = {"customer": "PJSIP/+4930@carrier", "agent": "PJSIP/1001&PJSIP/1002", "source": "de", "target": "pt-BR",
                "caller_id": "Zoë <+4930>", "timeout": 20}  # fmt: skip
        status, answer, response = await site.ask("POST", "/api/v1/calls", json=body)
        assert (status, answer["id"], response.headers["Location"]) == (201, "c9", "/api/v1/calls/c9")
        assert site.control.asked == [("originate", {**body, "timeout": 20.0, "only_humans": False})]

    async def test_originate_with_the_settings_languages(self, make_site: Make) -> None:
        site = await make_site(languages=("tr", "de"))
        await site.ask("POST", "/api/v1/calls", json={"customer": "PJSIP/1", "agent": "PJSIP/2"})
        (_, asked) = site.control.asked[0]
        assert (asked["source"], asked["target"], asked["timeout"]) == ("tr", "de", 30)

    async def test_hangup_with_and_without_a_body(self, site: Site) -> None:
        assert (await site.ask("POST", "/api/v1/calls/c1/hangup"))[0] == 202
        status, body, _ = await site.ask("POST", "/api/v1/calls/c1/hangup", json={})
        assert (status, body["state"]) == (202, "ending")
        assert site.control.asked == [("hangup", {"call_id": "c1"})] * 2

    async def test_a_capture_begins_is_fetched_and_ends(self, site: Site, tmp_path: Path) -> None:
        path = "/api/v1/calls/c1/pcap"
        assert (await error(site, "GET", path, 404))["code"] == "not_found"
        status, body, _ = await site.ask("POST", path)
        assert (status, body) == (201, {"path": "captures/c1.pcap", "running": True})
        site.control.captures["c1"] = tmp_path / "c1.pcap"
        site.control.captures["c1"].write_bytes(b"packets")
        async with site.http.get(f"{site.server.url}{path}") as response:
            assert (response.status, await response.read()) == (200, b"packets")
            assert response.content_type == "application/vnd.tcpdump.pcap"
        assert (await site.ask("DELETE", path))[1]["running"] is False
        assert site.control.asked == [
            ("capture", {"call_id": "c1", "on": True}),
            ("capture", {"call_id": "c1", "on": False}),
        ]

    async def test_transfer_dtmf_and_another_party(self, site: Site) -> None:
        path = "/api/v1/calls/c1"
        assert (await site.ask("POST", f"{path}/transfer", json={"party": "customer", "target": "default,1002,1"}))[
            0
        ] == 202
        assert (await site.ask("POST", f"{path}/dtmf", json={"party": "agent", "digits": "12a#"}))[0] == 202
        status, body, _ = await site.ask("POST", f"{path}/legs", json={"endpoint": "PJSIP/1003", "language": "fr"})
        assert (status, len(body["legs"])) == (201, 3)
        assert site.control.asked == [
            (
                "transfer",
                {
                    "call_id": "c1",
                    "party": "customer",
                    "target": "default,1002,1",
                    "mode": "cold",
                    "language": "",
                    "timeout": 30,
                },
            ),
            ("dtmf", {"call_id": "c1", "party": "agent", "digits": "12A#"}),
            ("add_leg", {"call_id": "c1", "endpoint": "PJSIP/1003", "language": "fr", "speaker": ""}),
        ]

    async def test_a_warm_transfer_and_letting_one_party_go(self, site: Site) -> None:
        body = {"party": "agent", "target": "1002", "mode": "warm", "language": "fr", "timeout": 20}
        assert (await site.ask("POST", "/api/v1/calls/c1/transfer", json=body))[0] == 202
        assert (await site.ask("DELETE", "/api/v1/calls/c1/legs/agent"))[0] == 202
        assert site.control.asked == [
            ("transfer", {"call_id": "c1", **body}),
            ("drop", {"call_id": "c1", "party": "agent"}),
        ]
        wrong = await error(site, "POST", "/api/v1/calls/c1/transfer", 400, json={**body, "mode": "lukewarm"})
        assert wrong["param"] == "mode"
        assert (await error(site, "DELETE", "/api/v1/calls/c1/legs/nobody", 400))["param"] == "party"

    async def test_how_loud_a_party_hears_the_others_own_voices(self, site: Site) -> None:
        path = "/api/v1/calls/c1/legs"
        for asked in (-18, "off"):
            assert (await site.ask("POST", f"{path}/agent", json={"original_gain_db": asked}))[0] == 202
        assert site.control.asked == [
            ("original", {"call_id": "c1", "party": "agent", "gain_db": -18.0}),
            ("original", {"call_id": "c1", "party": "agent", "gain_db": None}),
        ]
        assert (await error(site, "POST", f"{path}/nobody", 400, json={"original_gain_db": 0}))["param"] == "party"
        for wrong in (7, -61, True, "loud", None):
            problem = await error(site, "POST", f"{path}/agent", 400, json={"original_gain_db": wrong})
            assert problem["param"] == "original_gain_db"

    async def test_supervision_has_a_permission_of_its_own(self, make_site: Make) -> None:
        path, body = "/api/v1/calls/c1/supervise", {"endpoint": "PJSIP/9", "mode": "listen"}
        closed = await make_site(token="correct-horse")
        bearer = {"Authorization": "Bearer correct-horse"}
        status, answer, _ = await closed.ask("POST", path, json=body, headers=bearer)
        assert (status, answer["error"]["code"]) == (403, "forbidden"), "nobody, while no supervisor_token is set"
        site = await make_site(token="correct-horse", supervisor_token="over-shoulder")
        assert (await site.ask("POST", path, json=body, headers=bearer))[0] == 401, "web.token does not open it"
        own = {"Authorization": "Bearer over-shoulder"}
        assert (await site.ask("POST", path, json=body, headers=own))[0] == 201
        assert (await site.ask("POST", f"{path}/supervisor", json={"mode": "whisper"}, headers=own))[0] == 202
        assert (await site.ask("GET", "/api/v1/calls", headers=own))[0] == 401, "and opens nothing else"
        assert [what for what, _ in site.control.asked] == ["supervise", "change_supervision"]

    async def test_of_a_call_without_legs_its_mode_says_what_is_wrong(self, site: Site) -> None:
        site.control.live["c1"].legs = []
        site.control.fails = UsageError("transfer: expected a call in media mode, found c1, which its PBX controls")
        body = {"party": "agent", "target": "1002"}
        detail = await error(site, "POST", "/api/v1/calls/c1/transfer", 400, json=body)
        assert (detail["param"], detail["message"]) == ("transfer", str(site.control.fails))

    async def test_a_party_that_is_not_there(self, site: Site) -> None:
        site.control.live["c1"].legs[1].state = "gone"
        for action, extra in (("transfer", {"target": "1002"}), ("dtmf", {"digits": "1"})):
            detail = await error(site, "POST", f"/api/v1/calls/c1/{action}", 400, json={"party": "agent", **extra})
            assert (detail["param"], "expected one of customer, found" in detail["message"]) == ("party", True)

    async def test_a_label_that_is_taken(self, site: Site) -> None:
        body = {"endpoint": "PJSIP/3", "speaker": "agent"}
        assert (await error(site, "POST", "/api/v1/calls/c1/legs", 409, json=body))["code"] == "speaker_taken"

    async def test_an_ended_call_cannot_be_controlled(self, site: Site) -> None:
        site.control.live["c1"].state = "ended"
        assert (await error(site, "POST", "/api/v1/calls/c1/hangup", 409))["code"] == "call_ended"
        # Also when only the store still has it, as GET does.
        ended = site.control.live.pop("c1")
        await site.store.save_call(ended)
        assert (await error(site, "POST", "/api/v1/calls/c1/hangup", 409))["code"] == "call_ended"

    @pytest.mark.parametrize(
        ("failure", "status", "code"),
        [
            (UsageError("agent: no such endpoint"), 400, "invalid_request"),
            (LookupError("c1"), 404, "call_not_found"),
            (AriConflict("leaving", status=409), 409, "call_changed"),
            (AriUnavailable("no connection"), 503, "unavailable"),
            (StoreError("disk full"), 503, "unavailable"),
            (ConfigError("x"), 500, "misconfigured"),
            (RuntimeError("secret detail"), 500, "internal"),
        ],
    )
    async def test_failures_of_the_service(self, site: Site, failure: Exception, status: int, code: str) -> None:
        site.control.fails = failure
        detail = await error(site, "POST", "/api/v1/calls/c1/hangup", status)
        assert detail["code"] == code
        assert detail.get("param") == ("agent" if status == 400 else None)
        assert "secret detail" not in detail["message"]


class TestWrongBodies:
    @pytest.mark.parametrize(
        ("path", "body", "param"),
        [
            ("", {}, "customer"),
            ("", {"customer": "PJSIP/1"}, "agent"),
            ("", {"customer": 5, "agent": "PJSIP/2"}, "customer"),
            ("", {"customer": "PJSIP/1", "agent": ["PJSIP/2"]}, "agent"),
            ("", {"customer": "PJSIP/1", "agent": "PJSIP/2", "source": "german"}, "source"),
            ("", {"customer": "PJSIP/1", "agent": "PJSIP/2", "target": "de_DE"}, "target"),
            ("", {"customer": "PJSIP/1", "agent": "PJSIP/2", "timeout": 0}, "timeout"),
            ("", {"customer": "PJSIP/1", "agent": "PJSIP/2", "timeout": True}, "timeout"),
            ("", {"customer": "PJSIP/1", "agent": "PJSIP/2", "timeout": "30"}, "timeout"),
            ("", {"customer": "PJSIP/1", "agent": "PJSIP/2", "caller_id": "a\r\nX: y"}, "caller_id"),
            ("", {"customer": "PJSIP/1", "agent": "PJSIP/2", "colour": "red"}, "colour"),
            ("/c1/transfer", {"target": "1002"}, "party"),
            ("/c1/transfer", {"party": "agent"}, "target"),
            ("/c1/transfer", {"party": "a b", "target": "1002"}, "party"),
            ("/c1/dtmf", {"party": "agent", "digits": ""}, "digits"),
            ("/c1/dtmf", {"party": "agent", "digits": "12x"}, "digits"),
            ("/c1/dtmf", {"party": "agent", "digits": "1" * 65}, "digits"),
            ("/c1/dtmf", {"party": "agent", "digits": 12}, "digits"),
            ("/c1/dtmf", {"party": "agent", "digits": "١"}, "digits"),
            ("/c1/legs", {}, "endpoint"),
            ("/c1/legs", {"endpoint": "PJSIP/1", "language": ""}, "language"),
            ("/c1/hangup", {"reason": "x"}, "reason"),
        ],
    )
    async def test_the_field_is_named(self, site: Site, path: str, body: dict[str, Any], param: str) -> None:
        detail = await error(site, "POST", f"/api/v1/calls{path}", 400, json=body)
        assert detail["param"] == param
        assert detail["message"]
        assert site.control.asked == []

    @pytest.mark.parametrize(
        ("body", "code"),
        [(b"", "invalid_json"), (b"{", "invalid_json"), (b"[]", "invalid_request"), (b'"x"', "invalid_request"),
         (b"\xff\xfe", "invalid_json"), (b"null", "invalid_request"), (b"{}" * 2, "invalid_json"), (b"[" * 5000, "invalid_json"),
         (b'{"a":NaN}', "invalid_json")],
    )  # fmt: skip
    async def test_bodies_that_are_no_object(self, site: Site, body: bytes, code: str) -> None:
        assert (await error(site, "POST", "/api/v1/calls", 400, data=body, headers=JSON))["code"] == code

    async def test_too_large(self, site: Site) -> None:
        detail = await error(site, "POST", "/api/v1/calls", 413, data=b" " * 65537, headers=JSON)
        assert detail["code"] == "too_large"

        async def endless() -> Any:
            for _ in range(100):
                yield b" " * 1024

        assert (await error(site, "POST", "/api/v1/calls", 413, data=endless(), headers=JSON))["code"] == "too_large"

    @pytest.mark.parametrize("path", ["/api/v1/calls", "/pbx/hangup", "/webhooks/kallglot"])
    async def test_a_body_that_is_not_in_its_encoding(
        self, site: Site, path: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        headers = {**JSON, "Content-Encoding": "gzip", "Connection": "close"}
        signed = {**headers, "Kallglot-Signature": "t=1,v1=00"}
        detail = await error(site, "POST", path, 400, data=b"{}", headers=signed)
        assert detail["code"] == "bad_request"
        await error(site, "POST", "/webhooks/kallglot", 401, data=b"{}", headers=headers)
        assert caplog.records == []

    async def test_a_body_that_never_comes(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("kallglot_ari.web.requests.BODY_SECONDS", 0.05)
        host, port = site.server.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"POST /api/v1/calls HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
        )
        assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 408 ")
        writer.close()


class TestTheRest:
    @pytest.mark.parametrize(
        "path", ["/nothing", "/api", "/api/v1", "/api/v1/calls/", "/api/v2/calls", "/pbx", "/static/x"]
    )
    async def test_not_found(self, site: Site, path: str) -> None:
        assert (await error(site, "GET", path, 404))["code"] == "not_found"

    async def test_wrong_method(self, site: Site) -> None:
        for method, path in (("DELETE", "/api/v1/calls"), ("PUT", "/"), ("GET", "/pbx/incoming"), ("POST", "/healthz")):
            status, body, response = await site.ask(method, path, json={})
            assert (status, body["error"]["code"]) == (405, "method_not_allowed")
            assert response.headers["Allow"]

    async def test_health_and_readiness(self, site: Site) -> None:
        assert (await site.ask("GET", "/healthz"))[:2] == (200, {"status": "alive"})
        assert (await site.ask("GET", "/readyz"))[:2] == (200, {"status": "ready"})
        site.health.alive, site.health.not_ready = ["stuck"], ["ARI is not connected", "store: disk full"]
        assert (await site.ask("GET", "/healthz"))[:2] == (503, {"status": "failing", "reasons": ["stuck"]})
        status, body, _ = await site.ask("GET", "/readyz")
        assert (status, body["reasons"]) == (503, ["ARI is not connected", "store: disk full"])

    async def test_readiness_that_hangs(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("kallglot_ari.web.server.CHECK_SECONDS", 0.02)

        async def hang() -> list[str]:
            await asyncio.Event().wait()
            return []

        monkeypatch.setattr(site.health, "ready", hang)
        status, body, _ = await site.ask("GET", "/readyz")
        assert (status, body["reasons"]) == (503, ["the service did not answer within 0.02 s"])

    async def test_metrics(self, site: Site) -> None:
        status, body, response = await site.ask("GET", "/metrics")
        assert (status, response.headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
        for name in ("kallglot_calls_active", "kallglot_mos_bucket", "kallglot_sessions_pending_end"):
            assert name in body

    async def test_security_headers_on_everything(self, site: Site) -> None:
        for method, path in (("GET", "/"), ("GET", "/nothing"), ("GET", "/api/v1/calls"), ("GET", "/static/dashboard.css"),
                             ("GET", "/metrics"), ("POST", "/api/v1/calls")):  # fmt: skip
            _, _, response = await site.ask(method, path)
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["X-Frame-Options"] == "DENY"
            assert response.headers["Server"] == "kallglot-ari"
            assert "Access-Control-Allow-Origin" not in response.headers
            policy = response.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy

    async def test_the_page_asks_nobody_else(self, make_site: Make) -> None:
        site = await make_site(token="secret-token")
        status, page, response = await site.ask("GET", "/")
        assert (status, response.content_type) == (401, "text/html")
        assert response.headers["WWW-Authenticate"] == 'Bearer realm="kallglot-ari"'
        _, script, _ = await site.ask("GET", "/static/dashboard.js")
        _, style, _ = await site.ask("GET", "/static/dashboard.css")
        assert "http:" not in page + script + style
        assert "https:" not in page + script + style
        assert "<script>" not in page
        assert "style=" not in page
        assert "onclick" not in page
        assert "innerHTML" not in script
        assert "secret-token" not in page + script

    @pytest.mark.parametrize("name", ["dashboard", "subtitles"])
    async def test_the_pages_find_every_part_that_their_scripts_name(self, site: Site, name: str) -> None:
        _, page, response = await site.ask("GET", "/" if name == "dashboard" else "/subtitles")
        _, script, _ = await site.ask("GET", f"/static/{name}.js")
        _, style, _ = await site.ask("GET", f"/static/{name}.css")
        parts = set(re.findall(r' id="([\w-]+)"', page))
        assert parts
        assert set(re.findall(r"\$\(\"([\w-]+)\"\)", script)) <= parts
        assert "[hidden] { display: none !important; }" in style, "a rule for display shows what is hidden"
        assert "script-src 'self'" in response.headers["Content-Security-Policy"]
        for text in (page, script, style):
            assert not re.search(r"https?:|<script>|style=|onclick|innerHTML", text)

    async def test_a_taken_port_is_one_clear_line(self, site: Site, make_site: Make) -> None:
        port = int(site.server.url.rsplit(":", 1)[1])
        site.server._settings = site.server._settings.model_copy(update={"port": port})
        with pytest.raises(ListenError, match=f"web.port: cannot listen on 127.0.0.1:{port}: the port is taken"):
            await site.server.start()

    @pytest.mark.parametrize(
        ("request_line", "field", "status", "code"),
        [
            ("GET /" + "x" * 8200, "", 400, "bad_request"),
            ("GET /", "X: " + "x" * 8200, 400, "bad_request"),
            ("POST /api/v1/calls", "Content-Length: x", 400, "bad_request"),
            ("POST /api/v1/calls", "Content-Length: -1", 400, "bad_request"),
            ("POST /api/v1/calls", "Content-Encoding: br\r\nContent-Length: 2", 400, "bad_request"),
            ("POST /api/v1/calls", "Transfer-Encoding: nonsense", 400, "bad_request"),
            ("GET /api/v1/calls", "Expect: nonsense", 417, "expectation_failed"),
            ("GET /nothing", "Expect: nonsense", 417, "expectation_failed"),
        ],
    )
    async def test_what_no_handler_sees_is_refused_in_the_one_form(
        self, site: Site, request_line: str, field: str, status: int, code: str
    ) -> None:
        host, port = site.server.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        given = [f"{request_line} HTTP/1.1", "Host: localhost", "Connection: close", *([field] if field else [])]
        writer.write("\r\n".join([*given, "", "{}" if request_line.startswith("POST") else ""]).encode())
        head, _, body = (await asyncio.wait_for(reader.read(), 5)).partition(b"\r\n\r\n")
        writer.close()
        assert head.split()[1] == str(status).encode()
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
        assert fields["Content-Type"] == "application/json"
        assert fields["Server"] == "kallglot-ari"
        assert fields["X-Content-Type-Options"] == "nosniff"
        assert orjson.loads(body)["error"]["code"] == code

    async def test_garbage_on_the_port_leaves_others_alone(self, site: Site) -> None:
        host, port = site.server.url.removeprefix("http://").split(":")
        for rubbish in (
            b"\x16\x03\x01\x02\x00",
            b"GET\r\n\r\n",
            b"\x00" * 5000,
            b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 99999,
        ):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(rubbish)
            writer.write_eof()
            await asyncio.wait_for(reader.read(), 5)
            writer.close()
        assert (await site.ask("GET", "/healthz"))[0] == 200
