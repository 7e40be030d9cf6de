from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from kallglot_ari.calls.model import SessionRequest
from kallglot_ari.errors import (
    ApiConflict,
    ApiCreditsExhausted,
    ApiError,
    ApiInvalid,
    ApiRateLimited,
    ApiUnauthorized,
    ApiUnavailable,
    StreamClosed,
)
from kallglot_ari.kallglot import http, warm
from kallglot_ari.kallglot.breaker import RetryPolicy
from kallglot_ari.metrics import Metrics
from tests.kallglot.servers import (
    KEY,
    QUICK,
    black_hole,
    client,
    created,
    late,
    ok,
    problem,
    refused,
    serving,
    session,
    value,
)

pytestmark = pytest.mark.real_time

REQUEST = SessionRequest(source_language="de")


async def test_create_sends_key_and_idempotency_key_and_reads_the_session() -> None:
    async with serving(ok(created(), 201)) as server, client(server.url) as api:
        made = await api.create_session(REQUEST, idempotency_key="call-1")
        assert (made.id, made.base_url, made.stream_token) == ("sess_1", server.url, "kst_t")
    (seen,) = server.seen
    assert (seen.method, seen.path) == ("POST", "/v1/sessions")
    assert seen.headers["Authorization"] == f"Bearer {KEY}"
    assert seen.headers["Idempotency-Key"] == "call-1"
    assert seen.headers["Content-Type"] == "application/json"
    assert seen.body["source_language"] == "de"


@pytest.mark.parametrize("status", [500, 502, 503, 504, 408])
async def test_trouble_of_the_server_is_retried_with_the_same_key(status: int) -> None:
    async with serving(problem(status, ""), problem(status, ""), ok(created())) as server, client(server.url) as api:
        assert (await api.create_session(REQUEST, idempotency_key="k")).id == "sess_1"
    assert [seen.headers["Idempotency-Key"] for seen in server.seen] == ["k"] * 3


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "invalid_json", ApiInvalid),
        (401, "invalid_api_key", ApiUnauthorized),
        (402, "insufficient_api_credits", ApiCreditsExhausted),
        (403, "organization_inactive", ApiUnauthorized),
        (422, "invalid_mode", ApiInvalid),
        (302, "", ApiError),
    ],
)
async def test_what_nobody_can_mend_by_asking_again_is_never_retried(
    status: int, code: str, kind: type[ApiError]
) -> None:
    async with serving(problem(status, code)) as server, serving(ok(created())) as other:
        async with client(server.url, other.url) as api:
            with pytest.raises(kind) as caught:
                await api.create_session(REQUEST, idempotency_key="k")
        assert len(server.seen) == 1
        assert other.seen == [], "another address is the same account"
    assert caught.value.code == code


async def test_retry_after_is_honoured_when_it_ends_in_time() -> None:
    wait = {"Retry-After": "1"}
    async with serving(problem(429, "rate_limit_exceeded", wait), ok(created())) as server, client(server.url) as api:
        started = asyncio.get_running_loop().time()
        await api.create_session(REQUEST, idempotency_key="k")
        assert 1.0 <= asyncio.get_running_loop().time() - started < 1.5


async def test_one_under_way_outlives_the_moment_in_which_the_last_address_counts_as_down() -> None:
    answers = (problem(503, ""), problem(503, ""), problem(503, ""), ok(created()))
    async with serving(*answers) as server, client(server.url, policy=RetryPolicy(deadline=8.0)) as api:
        assert (await api.create_session(REQUEST, idempotency_key="k")).id == "sess_1"
    assert len(server.seen) == 4, "three until the breaker opens, and its trial"


async def test_retry_after_beyond_the_deadline_fails_at_once_and_says_it() -> None:
    when = (datetime.now(UTC) + timedelta(seconds=90)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    async with serving(problem(429, "rate_limit_exceeded", {"Retry-After": when})) as server, client(server.url) as api:
        started = asyncio.get_running_loop().time()
        with pytest.raises(ApiRateLimited) as caught:
            await api.create_session(REQUEST, idempotency_key="k")
        assert asyncio.get_running_loop().time() - started < 0.5
    assert 80 < (caught.value.retry_after or 0) <= 90
    assert len(server.seen) == 1


async def test_a_conflict_is_waited_for_at_the_same_address() -> None:
    conflict = problem(409, "idempotency_conflict", {"Retry-After": "0"})
    async with serving(conflict, conflict, ok(created())) as server, serving(ok(created("other"))) as other:
        async with client(server.url, other.url) as api:
            assert (await api.create_session(REQUEST, idempotency_key="k")).id == "sess_1"
        assert other.seen == []


async def test_the_deadline_ends_it_with_the_last_error() -> None:
    policy = RetryPolicy(deadline=0.4, base=0.05, cap=0.05)
    conflict = problem(409, "idempotency_conflict")
    async with serving(conflict) as server, client(server.url, policy=policy) as api:
        with pytest.raises(ApiConflict):
            await api.create_session(REQUEST, idempotency_key="k")
    assert 5 <= len(server.seen) <= 20


async def test_a_dead_address_costs_little_and_the_next_one_answers() -> None:
    policy = RetryPolicy(deadline=60.0, base=60.0, cap=60.0)
    async with (
        serving(ok(created())) as server,
        client(refused(), server.url, failover_timeout_ms=30_000, policy=policy) as api,
        asyncio.timeout(10),
    ):
        made = await api.create_session(REQUEST, idempotency_key="k")
        assert made.base_url == server.url


async def test_a_black_hole_costs_one_failover_timeout_at_most() -> None:
    policy = RetryPolicy(deadline=60.0, base=60.0, cap=60.0)
    async with (
        black_hole() as hole,
        serving(ok(created())) as server,
        client(hole, server.url, failover_timeout_ms=1000, policy=policy) as api,
        asyncio.timeout(1.9),
    ):
        assert (await api.create_session(REQUEST, idempotency_key="k")).base_url == server.url


async def test_while_every_address_is_known_to_be_down_a_call_does_not_wait_and_it_heals_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(warm, "_LOOK_EVERY", 0.1)
    address = refused()
    with capture_logs() as logged:
        await _down_and_up_again(address)
    told = [line["event"] for line in logged if line["log_level"] != "debug"]
    assert told[-2:] == ["api_address_down", "api_address_healed"]
    assert told.count("api_address_healed") == 1


async def _down_and_up_again(address: str) -> None:
    async with client(address) as api:
        with pytest.raises(ApiUnavailable):
            await api.create_session(REQUEST, idempotency_key="k")
        async with asyncio.timeout(QUICK.deadline / 2):
            with pytest.raises(ApiUnavailable, match="no address answers at the moment"):
                await api.create_session(REQUEST, idempotency_key="k")
        async with serving(ok(created()), port=int(address.rsplit(":", 1)[1].split("/")[0])):
            async with asyncio.timeout(10):
                while True:
                    try:
                        await api.probe()
                        break
                    except ApiUnavailable:
                        await asyncio.sleep(0.05)
            assert (await api.create_session(REQUEST, idempotency_key="k2")).id == "sess_1"


async def test_of_an_address_that_is_known_to_be_down_the_log_says_no_more() -> None:
    address, metrics = refused(), Metrics()
    async with client(address, metrics=metrics) as api:
        with capture_logs() as logged:
            for _ in range(2):
                with pytest.raises(ApiUnavailable):
                    await api.end_session("sess_1", "completed", base_url=address)
    assert value(metrics, "kallglot_api_requests_total", component="end", reason="unavailable") > 5
    assert [line["event"] for line in logged if line["log_level"] != "debug"] == []


@pytest.mark.parametrize(
    "answer",
    [
        web.Response(body=b"{", content_type="application/json"),
        web.Response(body=b"<html>maintenance</html>", content_type="text/html"),
        web.Response(body=b"[]", content_type="application/json"),
        web.Response(body=b"\xff\xfe", content_type="application/json"),
    ],
)
async def test_an_answer_that_is_not_the_apis_is_asked_for_again(answer: web.Response) -> None:
    async with serving(answer, ok(created())) as server, client(server.url) as api:
        assert (await api.create_session(REQUEST, idempotency_key="k")).id == "sess_1"
    assert [seen.headers["Idempotency-Key"] for seen in server.seen] == ["k", "k"]


async def test_json_counts_whatever_its_content_type_says() -> None:
    body = ok(created()).body
    async with serving(web.Response(body=body, content_type="text/plain")) as server, client(server.url) as api:
        assert (await api.create_session(REQUEST, idempotency_key="k")).id == "sess_1"


async def test_a_huge_answer_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "BODY_LIMIT", 100_000)

    async def flood(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(1000):
            await response.write(b" " * 100_000)
        return response

    async with serving(flood) as server, client(server.url, policy=RetryPolicy(deadline=0.1)) as api:
        with pytest.raises(ApiUnavailable, match="at most 100000 bytes"):
            await api.transcript("sess_1", base_url=server.url)


async def test_an_answer_cut_off_in_the_middle_is_asked_for_again() -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b'{"id":')
        assert request.transport is not None
        request.transport.close()
        return response

    async with serving(cut, ok(created())) as server, client(server.url) as api:
        assert (await api.create_session(REQUEST, idempotency_key="k")).id == "sess_1"


async def test_a_warm_connection_that_has_just_been_closed_costs_nothing() -> None:
    async def shut(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    metrics = Metrics()
    async with serving(shut, ok(created())) as server, client(server.url, metrics=metrics) as api:
        assert (await api.create_session(REQUEST, idempotency_key="k")).id == "sess_1"
    assert [seen.headers["Idempotency-Key"] for seen in server.seen] == ["k", "k"]
    assert value(metrics, "kallglot_api_requests_total", component="create", reason="unavailable") == 0


async def test_a_server_that_closes_every_connection_is_unavailable() -> None:
    async def shut(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    async with serving(shut) as server, client(server.url, policy=RetryPolicy(deadline=0.1)) as api:
        with pytest.raises(ApiUnavailable, match="closed the connection instead of answering"):
            await api.transcript("sess_1", base_url=server.url)


async def test_an_error_says_whether_a_session_may_have_been_created() -> None:
    policy = RetryPolicy(deadline=0.3, base=0.05)

    async def sent(*urls: str) -> bool:
        async with client(*urls, policy=policy) as api:
            with pytest.raises(ApiError) as caught:
                await api.create_session(REQUEST, idempotency_key="k")
            return caught.value.sent

    nobody, limit = refused(), problem(429, "rate_limit_exceeded")
    slow = late(ok(created()), 5)
    async with serving(limit) as later, serving(problem(503, "")) as failing, serving(slow) as silent:
        assert not await sent(nobody)
        assert not await sent(later.url)
        assert not await sent(nobody, later.url)
        assert await sent(failing.url)
        assert await sent(silent.url)
        assert await sent(silent.url, nobody), "one of them may have"
    async with client(nobody, policy=policy) as api:
        for _ in range(2):
            with pytest.raises(ApiUnavailable) as caught:
                await api.create_session(REQUEST, idempotency_key="k")
    assert "no address answers" in str(caught.value)
    assert not caught.value.sent


@pytest.mark.parametrize(("status", "down"), [(500, False), (501, False), (502, True), (503, True), (504, True)])
async def test_a_session_that_cannot_be_ended_shuts_nobody_off_but_an_address_that_does_not_answer_does(
    status: int, down: bool
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return problem(status, "") if request.path.endswith("/end") else ok(created())

    async with serving(answer) as server, client(server.url, policy=RetryPolicy(deadline=0.3, base=0.02)) as api:
        with pytest.raises(ApiUnavailable):
            await api.end_session("sess_0", "completed", base_url=server.url)
        assert len(server.seen) > 3
        if down:
            with pytest.raises(ApiUnavailable, match="no address answers"):
                await api.create_session(REQUEST, idempotency_key="k")
        else:
            await api.create_session(REQUEST, idempotency_key="k")


async def test_a_session_that_cannot_be_created_shuts_nobody_off() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return problem(500, "") if request.headers["Idempotency-Key"] == "bad" else ok(created())

    async with serving(answer) as server, client(server.url, policy=RetryPolicy(deadline=0.3, base=0.02)) as api:
        with pytest.raises(ApiUnavailable):
            await api.create_session(REQUEST, idempotency_key="bad")
        assert len(server.seen) > 3
        await api.create_session(REQUEST, idempotency_key="good")


async def test_a_session_id_cannot_leave_its_path() -> None:
    async with serving(ok({})) as server, client(server.url) as api:
        await api.get_session("../../x?y", base_url=server.url)
    assert server.seen[0].path == "/v1/sessions/..%2F..%2Fx%3Fy"


async def test_probe_tells_a_wrong_key_and_a_missing_server() -> None:
    async with client(refused(), policy=RetryPolicy(deadline=0.1)) as api:
        with pytest.raises(ApiUnavailable):
            await api.probe()
    async with serving(ok({})) as server:
        async with client(server.url) as api:
            await api.probe()
            server.probe_status = 401
            with pytest.raises(ApiUnauthorized):
                await api.probe()
        assert server.probes >= 5


async def test_the_connections_are_open_before_the_first_call() -> None:
    async with serving(ok(created())) as server, client(server.url) as api:
        before = set(server.connections)
        assert len(before) == 4
        await asyncio.gather(*(api.create_session(REQUEST, idempotency_key=str(n)) for n in range(4)))
        assert server.connections == before


async def test_what_is_asked_and_how_it_went_is_counted() -> None:
    metrics = Metrics()
    async with serving(problem(500, ""), problem(402, "c")) as server, client(server.url, metrics=metrics) as api:
        with pytest.raises(ApiCreditsExhausted):
            await api.create_session(REQUEST, idempotency_key="k")
    assert value(metrics, "kallglot_api_requests_total", component="create", reason="unavailable") == 1
    assert value(metrics, "kallglot_api_requests_total", component="create", reason="credits") == 1


async def test_the_key_is_in_no_error_and_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    echo = problem(401, "invalid_api_key", message=f"the key {KEY} is wrong", headers={"X-Request-ID": "req_77"})
    async with serving(echo) as server, client(server.url) as api:
        with pytest.raises(ApiUnauthorized) as caught:
            await api.create_session(REQUEST, idempotency_key="k")
    assert KEY not in str(caught.value)
    assert KEY not in repr(caught.value)
    assert KEY not in caplog.text
    assert caught.value.request_id == "req_77"
    assert KEY not in repr(api)


async def test_credits_are_remembered() -> None:
    answer = ok(created())
    answer.headers["X-API-Credits-Remaining"] = "41"
    async with serving(answer) as server, client(server.url) as api:
        assert api.credits_remaining is None
        await api.create_session(REQUEST, idempotency_key="k")
        assert api.credits_remaining == 41


@pytest.mark.parametrize("credits", ["9" * 5000, "-1", "1e9", "many", "\u0664"])
async def test_credits_that_are_no_number_cost_no_session(credits: str) -> None:
    answer = ok(created())
    answer.headers["X-API-Credits-Remaining"] = credits
    async with serving(answer) as server, client(server.url) as api:
        assert (await api.create_session(REQUEST, idempotency_key="k")).id == "sess_1"
        assert api.credits_remaining is None


async def test_a_client_that_is_not_started_or_closed_says_so() -> None:
    async with serving(ok(created())) as server, client(server.url) as api:
        await api.start()
    await api.close()
    with pytest.raises(ApiUnavailable, match="not started, or closed"):
        await api.create_session(REQUEST, idempotency_key="k")
    with pytest.raises(StreamClosed, match="not started, or closed"):
        await api.open_stream(session("ws://127.0.0.1:1/"), lambda event: None)
    assert [task for task in asyncio.all_tasks() if task.get_name().startswith("kallglot")] == []
