"""Sessions are ended: those that were made unseen, those whose end is asked for twice, those that cannot be."""

import asyncio
from collections.abc import Callable

import pytest
from aiohttp import web

from kallglot_ari.calls.model import SessionRequest
from kallglot_ari.errors import (
    ApiError,
    ApiUnavailable,
)
from kallglot_ari.kallglot import settle
from kallglot_ari.kallglot.breaker import RetryPolicy
from tests.kallglot.servers import client, created, late, ok, problem, refused, serving

pytestmark = pytest.mark.real_time

REQUEST = SessionRequest(source_language="de")


async def test_a_useless_answer_is_not_retried_and_its_session_is_ended() -> None:
    async with (
        serving(ok({"id": "sess_9", "stream": {}}), ok({"status": "ended"})) as server,
        client(server.url) as api,
    ):
        with pytest.raises(ApiError, match=r"stream.url: expected a URL, found nothing"):
            await api.create_session(REQUEST, idempotency_key="k")
        await wait_for(lambda: len(server.seen) == 2)
    assert (server.seen[1].path, server.seen[1].body) == ("/v1/sessions/sess_9/end", {"reason": "error"})


async def wait_for(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(3):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_session_that_an_address_made_unseen_is_found_and_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settle, "WAITS", (0.05,))
    unseen = ok(created("sess_unseen"))
    async with (
        serving(late(unseen, 5), unseen, ok({})) as slow,
        serving(ok(created("sess_used"))) as quick,
        client(slow.url, quick.url) as api,
    ):
        assert (await api.create_session(REQUEST, idempotency_key="k")).id == "sess_used"
        await wait_for(lambda: len(slow.seen) == 3)
    assert slow.seen[1].headers["Idempotency-Key"] == "k"
    assert slow.seen[2].path == "/v1/sessions/sess_unseen/end"


async def test_an_address_that_knows_the_same_session_does_not_lose_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settle, "WAITS", (0.05,))
    async with (
        serving(late(ok(created()), 5), ok(created()), ok({})) as slow,
        serving(ok(created())) as quick,
        client(slow.url, quick.url) as api,
    ):
        await api.create_session(REQUEST, idempotency_key="k")
        await wait_for(lambda: len(slow.seen) == 2)
        await asyncio.sleep(0.1)
    assert [seen.path for seen in slow.seen] == ["/v1/sessions", "/v1/sessions"]


async def test_asking_again_with_the_same_key_calls_the_search_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settle, "WAITS", (0.2,))
    hang = late(ok(created()), 5)
    policy = RetryPolicy(deadline=0.3, base=0.3)
    async with serving(hang, ok(created()), ok({})) as server, client(server.url, policy=policy) as api:
        with pytest.raises(ApiUnavailable, match="expected an answer within"):
            await api.create_session(REQUEST, idempotency_key="k")
        assert (await api.create_session(REQUEST, idempotency_key="k")).id == "sess_1"
        await asyncio.sleep(0.4)
    assert len(server.seen) == 2


async def test_an_end_goes_to_the_address_that_made_the_session() -> None:
    async with serving(ok({"a": 1})) as first, serving(ok({"status": "ended"})) as second:
        async with client(first.url, second.url) as api:
            assert await api.end_session("sess_1", "customer_hangup", base_url=second.url) == {"status": "ended"}
        assert first.seen == []
        assert second.seen[0].path == "/v1/sessions/sess_1/end"
        assert second.seen[0].body == {"reason": "customer_hangup"}
        assert second.seen[0].headers["Idempotency-Key"]


async def test_ends_of_a_session_use_one_key_for_each_reason() -> None:
    async with serving(ok({})) as server, client(server.url) as api:
        for reason in ("completed", "completed", "error"):
            await api.end_session("sess_1", reason, base_url=server.url)
        await api.end_session("sess_1", "error", base_url=server.url, idempotency_key="mine")
    keys = [seen.headers["Idempotency-Key"] for seen in server.seen]
    assert keys[0] == keys[1] != keys[2]
    assert keys[3] == "mine"


@pytest.mark.parametrize(
    "answer", [problem(404, "session_not_found"), problem(410, "gone"), problem(409, "session_ended")]
)
async def test_nothing_left_to_end_is_success(answer: web.Response) -> None:
    async with serving(answer) as server, client(server.url) as api:
        assert (await api.end_session("sess_1", "completed", base_url=server.url))["id"] == "sess_1"
    assert len(server.seen) == 1


async def test_an_end_whose_key_was_used_for_another_reason_ends_all_the_same() -> None:
    async with (
        serving(problem(400, "idempotency_mismatch"), ok({"status": "ended"})) as server,
        client(server.url) as api,
    ):
        await api.end_session("sess_1", "error", base_url=server.url, idempotency_key="k")
    assert server.seen[0].headers["Idempotency-Key"] != server.seen[1].headers["Idempotency-Key"]


async def test_an_end_is_tried_although_the_breaker_is_open() -> None:
    address = refused()
    async with client(address, policy=RetryPolicy(deadline=0.2, base=0.02)) as api:
        for _ in range(3):
            with pytest.raises(ApiUnavailable):
                await api.create_session(REQUEST, idempotency_key="k")
        async with serving(ok({"status": "ended"}), port=int(address.rsplit(":", 1)[1].split("/")[0])):
            assert (await api.end_session("sess_1", "completed", base_url=address))["status"] == "ended"
