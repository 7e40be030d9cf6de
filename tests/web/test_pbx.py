"""The routes any PBX asks, and the signed notifications."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kallglot_ari.errors import ApiCreditsExhausted, ApiUnavailable, StoreError
from kallglot_ari.kallglot.webhooks import sign
from tests.web.conftest import SECRET, Make, Site


class TestPbx:
    async def test_incoming(self, site: Site) -> None:
        body = {"callId": "abc@1.2.3.4", "from": "sip:+49@x", "to": "1001", "source": "de", "metadata": {"k": "v"},
                "unknown": [1]}  # fmt: skip
        status, answer, _ = await site.ask("POST", "/pbx/incoming", json=body)
        assert (status, answer["action"], answer["session_id"]) == (200, "route", "sess_1")
        assert site.pbx.asked == [
            (
                "incoming",
                {"call_id": "abc@1.2.3.4", "from_": "sip:+49@x", "to": "1001", "source": "de", "metadata": {"k": "v"}},
            )
        ]

    async def test_a_withheld_number_and_ids_that_are_numbers(self, site: Site) -> None:
        assert (await site.ask("POST", "/pbx/incoming", json={"callId": 17, "from": "", "to": 1001}))[0] == 200
        assert site.pbx.asked == [("incoming", {"call_id": "17", "from_": "", "to": "1001"})]

    @pytest.mark.parametrize("stays", [True, False])
    async def test_a_pbx_that_gives_up_is_known_to_have_done_so(self, site: Site, stays: bool) -> None:
        site.pbx.gate = asyncio.Event()
        port = site.server.url.rpartition(":")[2]
        reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
        body = b'{"callId": "c1", "from": "1", "to": "2"}'
        head = f"Host: 127.0.0.1:{port}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(b"POST /pbx/incoming HTTP/1.1\r\n" + head.encode() + body)
        while not site.pbx.asked:
            await asyncio.sleep(0.005)
        if not stays:
            writer.close()
            await asyncio.sleep(0.05)
        site.pbx.gate.set()
        if stays:
            assert b"200 OK" in await reader.readline()
        while not site.pbx.waited:
            await asyncio.sleep(0.005)
        assert site.pbx.waited == [stays]
        writer.close()

    async def test_hangup_known_late_and_unknown(self, site: Site) -> None:
        assert (await site.ask("POST", "/pbx/hangup", json={"callId": "known"}))[:2] == (200, {"ended": True})
        assert (await site.ask("POST", "/pbx/hangup", json={"callId": "other"}))[:2] == (200, {"ended": False})

    async def test_prepare(self, site: Site) -> None:
        assert (await site.ask("POST", "/pbx/prepare"))[0] == 201
        await site.ask("POST", "/pbx/prepare", json={"from": "1", "target": "en", "expires_in": 60})
        assert site.pbx.asked[1] == ("prepare", {"from_": "1", "target": "en", "expires_in": 60.0})

    @pytest.mark.parametrize(
        ("path", "body", "param"),
        [
            ("incoming", {"from": "a", "to": "b"}, "callId"),
            ("incoming", {"callId": "", "from": "a", "to": "b"}, "callId"),
            ("incoming", {"callId": "a b", "from": "a", "to": "b"}, "callId"),
            ("incoming", {"callId": "x" * 129, "from": "a", "to": "b"}, "callId"),
            ("incoming", {"callId": True, "from": "a", "to": "b"}, "callId"),
            ("incoming", {"callId": "x", "from": "a\r\nVia: y", "to": "b"}, "from"),
            ("incoming", {"callId": "x", "from": "a", "to": {"b": 1}}, "to"),
            ("incoming", {"callId": "x", "from": "a", "to": "b", "mode": "shout"}, "mode"),
            ("incoming", {"callId": "x", "from": "a", "to": "b", "metadata": {"a b": "c"}}, "metadata"),
            ("incoming", {"callId": "x", "from": "a", "to": "b", "metadata": {"a": 1}}, "metadata.a"),
            ("hangup", {}, "callId"),
            ("prepare", {"expires_in": 0}, "expires_in"),
            ("prepare", {"colour": 1}, "colour"),
        ],
    )
    async def test_wrong_fields(self, site: Site, path: str, body: dict[str, Any], param: str) -> None:
        status, answer, _ = await site.ask("POST", f"/pbx/{path}", json=body)
        assert (status, answer["error"]["param"]) == (400, param)
        assert site.pbx.asked == []

    async def test_freeswitch(self, site: Site) -> None:
        form = {"section": "dialplan", "Caller-Destination-Number": "1001", "variable_x": "ü+&=", "empty": ""}
        status, text, response = await site.ask("POST", "/pbx/freeswitch", data=form)
        assert (status, response.content_type) == (200, "text/xml")
        assert text.startswith("<document")
        assert site.pbx.asked == [("freeswitch", {"form": form})]

    async def test_curri(self, site: Site) -> None:
        xml = '<?xml version="1.0" encoding="UTF-8"?><Request/>'
        status, text, _ = await site.ask(
            "POST", "/pbx/curri", data=xml, headers={
                "Content-Type": "text/xml; charset=ISO-8859-1", "methodName": "isRoleAccessAllowed", "Accept": "*/*",
                "User-Agent": "CiscoUCM-HttpClient/1.0",
            },
        )  # fmt: skip
        assert (status, text, site.pbx.asked) == (200, "<Response/>", [("curri", {"body": xml})])
        assert (await site.ask("HEAD", "/pbx/curri"))[0] == 200

    @pytest.mark.parametrize(
        ("path", "content_type", "body"),
        [
            ("freeswitch", "application/x-www-form-urlencoded", b"a=\xff"),
            ("freeswitch", "application/x-www-form-urlencoded", b"a=%ff"),
            ("freeswitch", "application/x-www-form-urlencoded", b"&".join(b"a%d=1" % n for n in range(2001))),
            ("curri", "text/xml", b"\xff\xfe"),
            ("curri", "text/xml", b'<!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>'),
        ],
    )
    async def test_text_that_cannot_be_used(self, site: Site, path: str, content_type: str, body: bytes) -> None:
        status, _, _ = await site.ask("POST", f"/pbx/{path}", data=body, headers={"Content-Type": content_type})
        assert (status, site.pbx.asked) == (400, [])

    async def test_no_pbx_here(self, make_site: Make) -> None:
        site = await make_site(pbx=False)
        for path, body in (
            ("incoming", {"callId": "x", "from": "", "to": ""}),
            ("hangup", {"callId": "x"}),
            ("prepare", {}),
        ):
            status, answer, _ = await site.ask("POST", f"/pbx/{path}", json=body)
            assert (status, answer["error"]["code"]) == (503, "pbx_off")
        assert (await site.ask("HEAD", "/pbx/curri"))[0] == 503

    async def test_kallglot_is_away_or_wants_money(self, site: Site) -> None:
        for failure, status in ((ApiUnavailable("away"), 503), (ApiCreditsExhausted("no credits", status=402), 502)):
            site.pbx.fails = failure
            assert (await site.ask("POST", "/pbx/incoming", json={"callId": "x", "from": "", "to": ""}))[0] == status


def event(kind: str = "session.ended", event_id: str = "evt_1", **data: Any) -> bytes:
    return orjson.dumps(
        {"id": event_id, "type": kind, "api_version": "1", "created_at": "2026-01-01T00:00:00Z", "data": data}
    )


class TestWebhooks:
    async def test_each_event_once(self, site: Site) -> None:
        reader = site.hub.subscribe()
        body = event(session_id="sess_c1", reason="completed")
        assert await site.webhook(body) == (200, {"received": True})
        assert await site.webhook(body, **{"Kallglot-Retry-Count": "1"}) == (200, {"received": True, "duplicate": True})
        reader.close()
        (published,) = [e async for e in reader]
        assert (published["type"], published["call_id"]) == ("webhook.session.ended", "c1")
        assert published["data"] == {"session_id": "sess_c1", "reason": "completed", "event_id": "evt_1"}
        assert site.ended == [("sess_c1", "completed")]
        assert (site.counted("accepted"), site.counted("duplicate")) == (1, 1)

    async def test_what_is_ready_is_kept(self, site: Site) -> None:
        for number, kind in enumerate(("transcript.ready", "recording.ready", "recording.ready")):
            await site.webhook(event(kind, f"evt_{number}", session_id="s", n=number))
        assert await site.store.get_mapping("webhook:transcript.ready", "s") == {"session_id": "s", "n": 0}
        assert await site.store.get_mapping("webhook:recording.ready", "s") == {"session_id": "s", "n": 2}
        assert site.ended == []

    async def test_what_is_ready_is_kept_as_long_as_calls_are(self, make_site: Make) -> None:
        site = await make_site(keep_days=90)
        await site.webhook(event("transcript.ready", "evt_1", session_id="s", text="a secret"))
        site.clock.advance(89 * 86400)
        await site.store.delete_old()
        assert await site.store.get_mapping("webhook:transcript.ready", "s") is not None
        site.clock.advance(86400)
        await site.store.delete_old()
        assert await site.store.get_mapping("webhook:transcript.ready", "s") is None

    async def test_a_session_event_names_the_session_by_its_id(self, site: Site) -> None:
        await site.webhook(event(id="sess_9"))
        assert site.ended == [("sess_9", "")]

    @pytest.mark.parametrize(
        ("header", "reason"),
        [
            ("", "missing"),
            ("t=1", "malformed"),
            ("t=1,v1=00", "stale"),
            ("nonsense", "malformed"),
            ("t=x,v1=00", "malformed"),
        ],
    )
    async def test_forged(self, site: Site, header: str, reason: str) -> None:
        status, answer, _ = await site.ask(
            "POST", "/webhooks/kallglot", data=event(), headers={"Kallglot-Signature": header} if header else {}
        )
        assert (status, answer["error"]["code"], site.counted(reason)) == (401, "bad_signature", 1)

    async def test_the_body_the_secret_and_the_time_all_count(self, site: Site) -> None:
        now = int(site.clock.wall().timestamp())
        for body, secret, at in ((event("x.y"), SECRET, now), (event(), "other", now), (event(), SECRET, now - 301),
                                 (event(), SECRET, now + 301)):  # fmt: skip
            header = sign(event(), secret, at=at)
            status, _, _ = await site.ask(
                "POST", "/webhooks/kallglot", data=body, headers={"Kallglot-Signature": header}
            )
            assert status == 401
        assert site.ended == []

    async def test_without_a_secret_nothing_is_accepted(self, make_site: Make) -> None:
        site = await make_site(secret="")
        header = sign(event(), "", at=int(site.clock.wall().timestamp()))
        for path in ("/webhooks/kallglot", "/webhooks/sip/refer"):
            status, answer, _ = await site.ask("POST", path, data=event(), headers={"Kallglot-Signature": header})
            assert (status, answer["error"]["code"]) == (403, "webhooks_off")
        assert site.counted("off") == 2

    @pytest.mark.parametrize(
        "body",
        [b"", b"{", b"[]", b'{"type": "x"}', b'{"id": 1, "type": "x"}', b'{"id": "a b", "type": "x"}',
         b'{"id": "e", "type": "X Y"}', b'{"id": "e", "type": "x", "data": []}', b'{"id": "e"}'],
    )  # fmt: skip
    async def test_signed_but_malformed(self, site: Site, body: bytes) -> None:
        status, _ = await site.webhook(body)
        assert (status, site.counted("malformed")) == (400, 1)

    async def test_too_large(self, site: Site) -> None:
        assert (await site.webhook(event(text="x" * 1_100_000)))[0] == 413

    async def test_the_store_is_away_so_it_shall_come_again(self, site: Site) -> None:
        await site.store.close()
        status, answer = await site.webhook(event(session_id="sess_c1"))
        assert (status, answer["error"]["code"], site.ended) == (503, "unavailable", [])

    async def test_the_store_goes_away_in_between(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        async def away(*_: object, **__: object) -> bool:
            raise StoreError("away")

        body = event("transcript.ready", session_id="s", n=1)
        with monkeypatch.context() as patch:
            patch.setattr(site.store, "put_mapping", away)
            assert (await site.webhook(body))[0] == 503
        with monkeypatch.context() as patch:
            patch.setattr(site.store, "seen_once", away)
            assert (await site.webhook(body))[0] == 503
        assert await site.webhook(body) == (200, {"received": True}), "it comes again, and is nobody's duplicate"
        assert await site.store.get_mapping("webhook:transcript.ready", "s") == {"session_id": "s", "n": 1}

    async def test_refer(self, site: Site) -> None:
        body = orjson.dumps(
            {"session_id": "s", "refer_to": "<sip:1002@x;user=phone>", "referred_by": '"Zoë" <sip:a@b>', "x": 1}
        )
        status, answer = await site.webhook(body, "/webhooks/sip/refer")
        assert (status, answer) == (200, {"accept": True, "new_session_id": "sess_3"})
        assert site.pbx.asked == [
            ("refer", {"session_id": "s", "refer_to": "sip:1002@x;user=phone", "referred_by": "sip:a@b"})
        ]

    @pytest.mark.parametrize(
        "refer_to", ["1002", "sip:a b", "sip:a@b\r\nX: y", "http://x", "<sip:a@b", "sip:", "", None, "sip:" + "a" * 600]
    )
    async def test_refer_to_nowhere(self, site: Site, refer_to: Any) -> None:
        status, answer = await site.webhook(
            orjson.dumps({"session_id": "s", "refer_to": refer_to}), "/webhooks/sip/refer"
        )
        assert (status, answer["error"]["param"], site.pbx.asked) == (400, "refer_to", [])

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(body=st.binary(max_size=200), signature=st.text(max_size=80), stamp=st.integers(-(10**12), 10**13))
    async def test_whatever_is_sent_nothing_breaks(self, site: Site, body: bytes, signature: str, stamp: int) -> None:
        from kallglot_ari.kallglot.webhooks import BadSignature, verify

        for header in (signature, f"t={stamp},v1={signature}"):
            with pytest.raises(BadSignature):
                verify(body, header, SECRET, now=site.clock.wall().timestamp())
