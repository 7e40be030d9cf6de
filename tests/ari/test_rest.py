from __future__ import annotations

import asyncio
import logging
from urllib.parse import unquote

import orjson
import pytest
from aiohttp import web
from pydantic import SecretStr

from kallglot_ari import errors
from kallglot_ari.ari import AriClient, gone_is_fine, rest, rtp_address
from kallglot_ari.ari.models import CallerID, Channel, DialplanCEP
from kallglot_ari.clock import SystemClock
from kallglot_ari.errors import AriError
from kallglot_ari.metrics import Metrics
from kallglot_ari.settings import AriSettings, host_port
from tests.ari.fake import PASSWORD, FakeAsterisk, channel

pytestmark = pytest.mark.real_time


@pytest.mark.parametrize(
    ("status", "message", "kind", "says"),
    [
        (400, "Invalid parameter", errors.AriBadRequest, "Invalid parameter"),
        (400, "Channel not found", errors.AriNotFound, "Channel not found"),
        (401, "Authentication required", errors.AriUnauthorized, "ari.username and ari.password"),
        (403, "Write access denied", errors.AriUnauthorized, "read_only = no"),
        (403, "Unsupported channel type", errors.AriNotFound, "Unsupported channel type"),
        (403, "Could not delete file", errors.AriBadRequest, "Could not delete file"),
        (404, "Channel not found", errors.AriNotFound, "Channel not found"),
        (404, "", errors.AriNotFound, "there is no ARI at http://127.0.0.1"),
        (409, "Channel not in Stasis application", errors.AriNotInStasis, "not in Stasis"),
        (409, "Already there", errors.AriConflict, "Already there"),
        (412, "Channel in invalid state", errors.AriConflict, "invalid state"),
        (500, "Supplying a bridge type when updating a bridge is not allowed.", errors.AriConflict, "not allowed"),
        (422, "Channel not in Stasis application", errors.AriNotInStasis, "not in Stasis"),
        (422, "Channel not in this bridge", errors.AriBadRequest, "not in this bridge"),
        (302, "", errors.AriUnavailable, "HTTP 302"),
        (500, "Allocation failed", errors.AriUnavailable, "Allocation failed"),
        (503, "Asterisk not booted", errors.AriUnavailable, "not booted"),
    ],
)  # fmt: skip
async def test_errors(
    fake: FakeAsterisk, client: AriClient, status: int, message: str, kind: type[AriError], says: str
) -> None:
    fake.answers["POST", "/channels/c1/answer"] = (status, {"message": message} if message else b"<html>no</html>")
    with pytest.raises(AriError, match=r"^channels\.answer: ") as caught:
        await client.channels.answer("c1")
    assert type(caught.value) is kind
    assert caught.value.status == status
    assert caught.value.operation == "channels.answer"
    assert says in str(caught.value)
    assert PASSWORD not in str(caught.value)
    assert len(fake.seen) == 1, "a POST is never sent twice"


async def test_the_password_is_in_a_header_and_nowhere_else(fake: FakeAsterisk, client: AriClient) -> None:
    fake.answers["POST", "/channels/c1/answer"] = (204, None)
    await client.channels.answer("c1")
    assert fake.seen[0].headers["Authorization"].startswith("Basic ")
    assert PASSWORD not in fake.seen[0].url
    assert "kallglot" not in fake.seen[0].url
    assert PASSWORD not in repr(client) + repr(vars(client))


async def test_parameters(fake: FakeAsterisk, client: AriClient) -> None:
    fake.answers["POST", "/channels/externalMedia"] = (200, channel("a/b"))
    await client.channels.create_external_media(
        "a/b", external_host="[::1]:4000", format="slin16", variables={"X": "a,ü&=\n"}
    )
    seen = fake.seen[0]
    path, _, query = seen.url.partition("?")
    assert path == "/ari/channels/externalMedia"
    assert {unquote(pair) for pair in query.split("&")} == {
        "channelId=a/b", "app=kallglot", "external_host=[::1]:4000", "format=slin16", "encapsulation=rtp",
        "transport=udp", "connection_type=client", "direction=both",
    }  # fmt: skip
    assert orjson.loads(seen.body) == {"variables": {"X": "a,ü&=\n"}}


async def test_opus_is_refused_where_asterisk_would_send_none(fake: FakeAsterisk, client: AriClient) -> None:
    module = {"name": "codec_opus_open_source.so", "description": "", "use_count": 0, "support_level": "core"}
    fake.answers["POST", "/channels/externalMedia"] = (200, channel("a"))
    fake.answers["GET", "/asterisk/modules"] = (
        200,
        [module | {"name": "res_format_attr_opus.so", "status": "Running"}],
    )
    with pytest.raises(errors.AriUnsupported, match=r"media\.format: opus needs Asterisk's module codec_opus"):
        await client.channels.create_external_media("a", external_host="127.0.0.1:4000", format="opus")
    fake.answers["GET", "/asterisk/modules"] = (200, [module | {"status": "Running"}])
    for _ in range(2):
        await client.channels.create_external_media("a", external_host="127.0.0.1:4000", format="opus")
    assert [seen.url for seen in fake.seen].count("/ari/asterisk/modules") == 2, "asked until it is there"


def test_ipv6_addresses_have_brackets() -> None:
    assert (host_port("::1", 4000), host_port("10.0.0.1", 4000)) == ("[::1]:4000", "10.0.0.1:4000")


async def test_lists_booleans_and_strange_ids(fake: FakeAsterisk, client: AriClient) -> None:
    fake.answers["POST", "/bridges/b/1?#%20ü/addChannel"] = (204, None)
    await client.bridges.add_channel("b/1?#%20ü", channel=["a b", "c"], mute=True, absorb_dtmf=False)
    path, _, query = fake.seen[0].url.partition("?")
    assert path == "/ari/bridges/b%2F1%3F%23%2520%C3%BC/addChannel"
    assert query == "channel=a%20b%2Cc&absorbDTMF=false&mute=true"
    assert fake.seen[0].body == b""


@pytest.mark.parametrize("bad", ["", ".", ".."])
async def test_ids_that_would_name_something_else(fake: FakeAsterisk, client: AriClient, bad: str) -> None:
    with pytest.raises(errors.AriBadRequest, match="channelId: expected an id, found"):
        await client.channels.hangup(bad)
    assert fake.seen == []


async def test_a_get_is_sent_a_second_time_and_no_more(fake: FakeAsterisk, client: AriClient) -> None:
    async def once_down(request: web.Request) -> web.Response:
        fake.answers["GET", "/channels"] = (200, [channel("c1")])
        return web.json_response({"message": "not booted"}, status=503)

    fake.answers["GET", "/channels"] = once_down
    assert [one.id for one in await client.channels.list()] == ["c1"]
    assert len(fake.seen) == 2
    fake.answers["GET", "/channels"] = (503, {"message": "no"})
    with pytest.raises(errors.AriUnavailable):
        await client.channels.list()
    assert len(fake.seen) == 4


@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_a_lost_connection(fake: FakeAsterisk, client: AriClient, method: str) -> None:
    async def cut(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    path = "/channels/c1/answer" if method == "POST" else "/channels/c1"
    fake.answers[method, path] = cut
    with pytest.raises(errors.AriUnavailable, match=r"the connection to http://127.0.0.1:\d+ was lost"):
        await (client.channels.answer("c1") if method == "POST" else client.channels.hangup("c1"))
    assert len(fake.seen) == 1


async def test_no_answer_in_time(fake: FakeAsterisk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "TIMEOUT", 0.1)

    async def never(request: web.Request) -> web.Response:
        await asyncio.sleep(1)
        return web.Response()

    client = AriClient(fake.settings(), Metrics(), SystemClock())
    fake.answers["POST", "/channels/c1/answer"] = never
    with pytest.raises(errors.AriUnavailable, match=r"no answer from .* within 0\.1 s"):
        await client.channels.answer("c1")
    await client.close()


async def test_requests_beyond_the_pool_wait_within_their_time(
    fake: FakeAsterisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest, "POOL", 2)
    monkeypatch.setattr(rest, "TIMEOUT", 0.3)
    release = asyncio.Event()

    async def later(request: web.Request) -> web.Response:
        await release.wait()
        return web.Response(status=204)

    client = AriClient(fake.settings(), Metrics(), SystemClock())
    fake.answers["POST", "/channels/c1/answer"] = later
    asked = await asyncio.gather(*(client.channels.answer("c1") for _ in range(6)), return_exceptions=True)
    assert [type(error) for error in asked] == [errors.AriUnavailable] * 6
    assert len(fake.seen) == 2, "the others' time was over before their turn came"
    release.set()
    await asyncio.gather(*(client.channels.answer("c1") for _ in range(6)))
    await client.close()


async def test_nobody_there_and_closed(fake: FakeAsterisk, client: AriClient) -> None:
    await fake.stop()
    with pytest.raises(errors.AriUnavailable, match=r"no connection to .*is Asterisk running") as caught:
        await client.channels.list()
    assert caught.value.retryable
    await client.close()
    with pytest.raises(errors.AriUnavailable, match="the client is closed"):
        await client.channels.list()
    await client.close()


@pytest.mark.parametrize("answer", [b"", b"nonsense", b"[]", b"{}"])
async def test_an_answer_that_does_not_fit(fake: FakeAsterisk, client: AriClient, answer: bytes) -> None:
    fake.answers["GET", "/channels/c1"] = (200, answer)
    with pytest.raises(AriError, match=r"channels\.get: Asterisk's answer is not what its description says: "):
        await client.channels.get("c1")


async def test_own_ca_that_is_none() -> None:
    settings = AriSettings.model_validate({"url": "https://127.0.0.1:1", "ca_file": "/nowhere.pem"})
    with pytest.raises(errors.ConfigError, match=r"ari\.ca_file: expected a PEM file of certificates, found /nowhere"):
        AriClient(settings, Metrics(), SystemClock())


@pytest.mark.parametrize("status", [404, 409, 412, 422])
async def test_teardown_of_what_is_gone(fake: FakeAsterisk, client: AriClient, status: int) -> None:
    fake.answers["DELETE", "/channels/c1"] = (status, {"message": "gone"})
    assert await gone_is_fine(client.channels.hangup("c1")) is False
    fake.answers["DELETE", "/channels/c1"] = (204, None)
    assert await gone_is_fine(client.channels.hangup("c1")) is True
    fake.answers["DELETE", "/channels/c1"] = (500, {"message": "no"})
    with pytest.raises(errors.AriUnavailable):
        await gone_is_fine(client.channels.hangup("c1"))


@pytest.mark.parametrize(
    ("version", "code", "query"),
    [("22.10.1", 17, "reason_code=17"), ("16.28.0", 17, "reason=busy"), ("16.28.0", "99", "reason=normal_unspecified"),
     ("16.28.0", "x", "reason=normal_unspecified"), ("16.28.0", None, "")],
)  # fmt: skip
async def test_the_cause_of_a_hangup(
    fake: FakeAsterisk, client: AriClient, version: str, code: int | str | None, query: str
) -> None:
    fake.version = version
    fake.answers["DELETE", "/channels/c1"] = (204, None)
    await client.start(lambda event: None)
    await client.wait_connected(5)
    await client.channels.hangup("c1", reason_code=code)
    assert fake.seen[-1].url.partition("?")[2] == query


@pytest.mark.parametrize(
    ("host", "port", "expected"),
    [("127.0.0.1", "12000", ("127.0.0.1", 12000)), ("", "12000", None), ("h", "", None), ("h", "0", None),
     ("h", "65536", None), ("h", "x", None), ("h", "²", None), (7, "1", None), ("h", 8000, ("h", 8000))],
)  # fmt: skip
def test_where_the_media_goes(host: object, port: object, expected: tuple[str, int] | None) -> None:
    party = CallerID()
    made = Channel(
        id="em",
        caller=party,
        connected=party,
        dialplan=DialplanCEP(),
        channelvars={"UNICASTRTP_LOCAL_ADDRESS": host, "UNICASTRTP_LOCAL_PORT": port},
    )
    if expected:
        assert rtp_address(made) == expected
    else:
        with pytest.raises(AriError, match="expected UNICASTRTP_LOCAL_ADDRESS and _PORT on channel em"):
            rtp_address(made)


async def test_nothing_secret_in_the_log(fake: FakeAsterisk, caplog: pytest.LogCaptureFixture) -> None:
    client = AriClient(fake.settings("wrong-but-secret"), Metrics(), SystemClock())
    with caplog.at_level(logging.DEBUG):
        await client.start(lambda event: None)
        with pytest.raises(errors.AriUnauthorized):
            await client.wait_connected(5)
    assert "wrong-but-secret" not in caplog.text + client.problem
    assert "ari.password" in client.problem
    await client.close()


@pytest.mark.parametrize("length", [None, 10_000_000])
async def test_an_answer_without_an_end_is_not_kept(monkeypatch: pytest.MonkeyPatch, length: int | None) -> None:
    monkeypatch.setattr(rest, "MAX_ANSWER", 1_000_000)
    sent = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        response.content_length = length
        await response.prepare(request)
        for _ in range(10_000):
            await response.write(b"x" * 10_000)
            sent += 10_000
        return response

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", endless)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    client = AriClient(AriSettings(url=url, username="u", password=SecretStr("p")), Metrics(), SystemClock())
    try:
        with pytest.raises(AriError, match=r"^channels\.list: expected at most 1000000 bytes, found \d+ or more"):
            await client.channels.list()
        assert sent < 30_000_000
    finally:
        await client.close()
        await runner.cleanup()
