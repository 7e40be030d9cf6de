from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Mapping
from statistics import median
from typing import Any

import aiohttp
import numpy as np
import orjson
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from kallglot_ari.calls.interfaces import StreamEnd, StreamProblem, StreamSpeech, StreamTranscript
from kallglot_ari.calls.model import SessionRequest, StreamAudio, UplinkChunk
from kallglot_ari.clock import ManualClock, SystemClock
from kallglot_ari.errors import InterpreterError, StreamRefused
from kallglot_ari.kallglot.client import KallglotClient
from kallglot_ari.sandbox.engine import EngineFactory, EngineSession, EngineSink
from kallglot_ari.sandbox.server import Sandbox
from tests.kallglot.servers import Heard, client
from tests.sandbox.test_server import OLDER, ROUTED, Caller, sandboxed

pytestmark = pytest.mark.real_time

CONTRACTS: list[dict[str, Any]] = [
    {"contract": "routing"},
    {"contract": "provider"},
    {"contract": "provider", "stream_encoding": "mulaw"},
    {"contract": "provider", "stream_sample_rate": 48000},
    {"contract": "provider", "provider_speakers": "channels"},
]


def tone(settings: dict[str, Any], at: int, hertz: float, ms: int = 100) -> StreamAudio:
    """A piece of a steady tone in the encoding of `settings`; mu-law as a square wave of two codes."""
    if settings["contract"] == "routing" or settings.get("stream_encoding") == "mulaw":
        square = [0x90 if int(2 * hertz * n / 8000) % 2 else 0x10 for n in range(at * 8, (at + ms) * 8)]
        return StreamAudio("mulaw", 8000, bytes(square))
    rate = settings.get("stream_sample_rate", 16000)
    n = np.arange(at * rate // 1000, (at + ms) * rate // 1000)
    return StreamAudio("pcm_16", rate, (8000 * np.sin(2 * np.pi * hertz * n / rate)).astype("<i2").tobytes())


async def test_every_contract_and_encoding_end_to_end() -> None:
    for settings in CONTRACTS:
        async with sandboxed() as call, client(call.sandbox.url, api_key=call.sandbox.api_key, **settings) as api:
            made = await api.create_session(SessionRequest(source_language="de"), idempotency_key="k")
            heard = Heard()
            stream = await api.open_stream(made, heard)
            sent: dict[str, bytes] = {"customer": b"", "agent": b""}
            for at in range(0, 1000, 100):
                for speaker, hertz in (("customer", 440.0), ("agent", 600.0)):
                    audio = tone(settings, at, hertz)
                    sent[speaker] += audio.payload
                    stream.send(speaker, UplinkChunk(audio, at, SystemClock().now()))
                await asyncio.sleep(0.001)
            await heard.until(20, StreamSpeech)
            await stream.close(end=True)
            assert (await api.end_session(made.id, "completed", base_url=made.base_url))["status"] == "ended"
            transcript = await api.transcript(made.id, base_url=made.base_url)
        for speaker, payload in sent.items():
            speech = [event for event in heard if isinstance(event, StreamSpeech) and event.speaker == speaker]
            assert b"".join(event.audio.payload for event in speech) == payload, (settings, speaker)
            assert {(event.audio.encoding, event.audio.sample_rate) for event in speech} == {
                (audio.encoding, audio.sample_rate)
            }
        finals = [event.turn for event in heard if isinstance(event, StreamTranscript) and event.turn.final]
        assert {(turn.speaker, turn.language) for turn in finals} == {("customer", "de"), ("agent", "en")}
        assert finals[-1].translation == "[heard 1.0 s of speech]"
        assert heard[-1] == StreamEnd(True, "explicit_end")
        assert transcript["status"] == "completed"
        assert [turn["translation"]["text"] for turn in transcript["turns"]] == ["[heard 1.0 s of speech]"] * 2


async def test_the_echo_is_back_within_a_few_turns_of_the_event_loop() -> None:
    settings = CONTRACTS[0]
    async with sandboxed() as call, client(call.sandbox.url, api_key=call.sandbox.api_key, **settings) as api:
        turns = 0
        took: list[int] = []

        def sink(event: Any) -> None:
            if isinstance(event, StreamSpeech):
                took.append(turns)

        stream = await api.open_stream(await api.create_session(SessionRequest(), idempotency_key="k"), sink)
        for at in range(0, 5000, 100):
            turns = 0
            stream.send("customer", UplinkChunk(tone(settings, at, 440), at, time.monotonic()))
            async with asyncio.timeout(5):
                while len(took) * 100 <= at:
                    await asyncio.sleep(0)
                    turns += 1
        await stream.close()
    assert median(took) < 100, "a timer of 1 ms is hundreds"


async def connect(
    call: Caller, body: dict[str, Any], token: str | None = None, **headers: str
) -> aiohttp.ClientWebSocketResponse:
    """A stream of a new session, opened by hand."""
    made = (await call.create(body)).body
    url = (
        f"{call.sandbox.url}/sessions/{made['id']}/connect?token={made['stream']['token'] if token is None else token}"
    )
    return await call.http.ws_connect(url, headers=headers)


async def test_the_stream_speaks_the_references_bytes() -> None:
    async with sandboxed() as call:
        ws = await connect(call, ROUTED)
        ready = orjson.loads((await ws.receive()).data)
        assert ready["type"] == "session.ready"
        await ws.send_str('{"type":"ping"}')
        assert orjson.loads((await ws.receive()).data) == {"type": "pong", "session_id": ready["session_id"]}
        payload = base64.b64encode(b"\x10" * 1600).decode()
        await ws.send_str(
            '{"type":"audio.input","sequence":0,"timestamp_ms":0,"speaker":"customer",'
            f'"audio":{{"encoding":"mulaw","sample_rate_hz":8000,"payload":"{payload}"}}}}'
        )
        partial = orjson.loads((await ws.receive()).data)
        assert partial == {
            "type": "transcript.partial",
            "speaker": "customer",
            "language": "de",
            "text": "[heard 0.2 s of speech]",
        }
        speech = orjson.loads((await ws.receive()).data)
        assert speech == {
            "type": "audio.output",
            "speaker": "customer",
            "sequence": 0,
            "audio": {"encoding": "mulaw", "sample_rate_hz": 8000, "payload": payload},
        }
        await ws.send_str('{"type":"session.end"}')
        final = orjson.loads((await ws.receive()).data)
        assert (final["type"], final["translation"]["language"]) == ("transcript.final", "en")
        ended = orjson.loads((await ws.receive()).data)
        assert ended == {"type": "session.ended", "session_id": ready["session_id"], "reason": "explicit_end"}
        assert (await ws.receive()).type is aiohttp.WSMsgType.CLOSE
        assert ws.close_code == 1000


async def test_the_older_stream_speaks_the_older_bytes() -> None:
    async with sandboxed() as call:
        ws = await connect(call, OLDER)
        data = base64.b64encode(np.full(1600, 3000, "<i2").tobytes()).decode()
        message = {"type": "audio", "data": data, "encoding": "pcm_16", "sample_rate": 16000, "channels": 1}
        await ws.send_json(message)
        transcript, speech = orjson.loads((await ws.receive()).data), orjson.loads((await ws.receive()).data)
        assert (transcript["type"], transcript["is_final"], transcript["id"]) == ("transcript", False, "seg_customer-0")
        assert {"speaker", "language", "text", "start_time", "confidence"} <= set(transcript)
        assert speech == message | {"speaker": "customer"}
        await ws.send_str('{"type":"end"}')
        kinds = [orjson.loads((await ws.receive()).data)["type"] for _ in range(3)]
        assert kinds == ["transcript", "translation", "ended"]


async def test_wrong_audio_is_an_error_and_the_stream_goes_on() -> None:
    async with sandboxed() as call:
        ws = await connect(call, ROUTED)
        await ws.receive()
        audio = {"encoding": "pcm_16", "sample_rate_hz": 16000, "payload": "AAAA"}
        await ws.send_json(
            {"type": "audio.input", "sequence": 0, "timestamp_ms": 0, "speaker": "customer", "audio": audio}
        )
        error = orjson.loads((await ws.receive()).data)
        assert (error["type"], error["code"]) == ("session.error", "invalid_audio_format")
        await ws.send_str("{")
        assert orjson.loads((await ws.receive()).data)["code"] == "invalid_message"
        await ws.send_str('{"type":"ping"}')
        assert orjson.loads((await ws.receive()).data)["type"] == "pong"


@pytest.mark.parametrize(("body", "life"), [(ROUTED, 300), (OLDER, 3600)])
async def test_a_token_is_checked_when_the_stream_opens_and_only_then(body: dict[str, Any], life: float) -> None:
    clock = ManualClock()
    async with sandboxed(clock=clock) as call:
        made = (await call.create(body)).body
        url = f"{call.sandbox.url}/sessions/{made['id']}/connect"
        bearer = {"Authorization": f"Bearer {made['stream']['token']}"}
        clock.advance(life)
        ws = await call.http.ws_connect(url, headers=bearer)
        clock.advance(1000)
        if body is ROUTED:
            assert orjson.loads((await ws.receive()).data)["type"] == "session.ready"
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await call.http.ws_connect(url, headers=bearer)
        assert caught.value.status == 401
        await ws.send_str("{")
        assert (await ws.receive()).type is aiohttp.WSMsgType.TEXT


async def test_our_client_says_why_a_stream_is_refused() -> None:
    clock = ManualClock()
    async with sandboxed(clock=clock) as call, client(call.sandbox.url, api_key=call.sandbox.api_key) as api:
        made = await api.create_session(SessionRequest(), idempotency_key="k")
        clock.advance(301)
        with pytest.raises(StreamRefused, match="expected 101, found 401"):
            await api.open_stream(made, Heard())
        await api.end_session(made.id, "completed", base_url=made.base_url)


async def test_an_ended_session_and_a_plain_get_open_no_stream() -> None:
    async with sandboxed() as call:
        made = (await call.create()).body
        path = f"/sessions/{made['id']}/connect?token={made['stream']['token']}"
        reply = await call("GET", path, headers={"Authorization": ""})
        assert (reply.status, reply.code) == (426, "upgrade_required")
        await call("POST", f"/sessions/{made['id']}/end")
        reply = await call("GET", path, headers={"Authorization": ""})
        assert (reply.status, reply.code) == (409, "session_ended")


async def test_ending_by_request_ends_the_stream() -> None:
    async with sandboxed() as call, client(call.sandbox.url, api_key=call.sandbox.api_key) as api:
        made = await api.create_session(SessionRequest(), idempotency_key="k")
        heard = Heard()
        stream = await api.open_stream(made, heard)
        await api.end_session(made.id, "agent_hangup", base_url=made.base_url)
        assert await heard.until(1, StreamEnd) == [StreamEnd(True, "agent_hangup")]
        await stream.close()


async def test_ending_on_the_stream_does_not_end_the_bill() -> None:
    async with sandboxed() as call, client(call.sandbox.url, api_key=call.sandbox.api_key) as api:
        made = await api.create_session(SessionRequest(), idempotency_key="k")
        await (await api.open_stream(made, Heard())).close(end=True)
        assert (await api.get_session(made.id, base_url=made.base_url))["status"] == "active"
        with pytest.raises(StreamRefused):
            await api.open_stream(made, Heard())
        await api.end_session(made.id, "completed", base_url=made.base_url)


async def speak(api: KallglotClient, stream: Any, heard: Heard, times: range) -> None:
    for at in times:
        stream.send("customer", UplinkChunk(tone(CONTRACTS[0], at, 440), at, SystemClock().now()))
    await heard.until(len(times), StreamSpeech)


async def test_a_stream_that_was_lost_may_be_opened_again_and_takes_the_others_place() -> None:
    async with sandboxed() as call, client(call.sandbox.url, api_key=call.sandbox.api_key) as api:
        made = await api.create_session(SessionRequest(), idempotency_key="k")
        first, second = Heard(), Heard()
        old = await api.open_stream(made, first)
        await speak(api, old, first, range(0, 300, 100))
        new = await api.open_stream(made, second)
        (end,) = await first.until(1, StreamEnd)
        assert not end.ended
        await speak(api, new, second, range(300, 600, 100))
        await asyncio.gather(old.close(), new.close())


async def test_mute_and_pause_of_the_older_contract() -> None:
    async with sandboxed() as call:
        ws = await connect(call, OLDER)
        data = base64.b64encode(np.full(1600, 3000, "<i2").tobytes()).decode()
        message = {"type": "audio", "data": data, "encoding": "pcm_16", "sample_rate": 16000, "channels": 1}
        await ws.send_json({"type": "control", "action": "mute"})
        await ws.send_json(message)
        await ws.send_json({"type": "control", "action": "unmute"})
        await ws.send_json({"type": "control", "action": "pause_transcription"})
        await ws.send_json(message)
        assert orjson.loads((await ws.receive()).data)["type"] == "audio"
        await ws.send_str('{"type":"end"}')
        assert orjson.loads((await ws.receive()).data)["type"] == "ended"


class Broken:
    """An engine that fails in every way."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __call__(
        self,
        *,
        session_id: str,
        mode: str,
        source_language: str,
        target_language: str,
        metadata: Mapping[str, str],
        sink: EngineSink,
    ) -> EngineSession:
        if self.how == "start":
            raise InterpreterError("the model 'base' is missing: run `kallglot-ari models fetch`")
        return self

    def feed(self, speaker: str, audio: StreamAudio, timestamp_ms: int) -> None:
        if self.how == "feed":
            raise RuntimeError("engine")

    async def close(self) -> None:
        if self.how == "close":
            raise RuntimeError("engine")


@pytest.mark.parametrize(("how", "code"), [("start", "engine_unavailable"), ("feed", "engine_failed"), ("close", None)])
async def test_an_engine_that_fails_does_not_take_the_session_with_it(how: str, code: str | None) -> None:
    factory: EngineFactory = Broken(how)
    sandbox = Sandbox(factory)
    await sandbox.start()
    async with client(sandbox.url, api_key=sandbox.api_key) as api:
        heard = Heard()
        made = await api.create_session(SessionRequest(), idempotency_key="k")
        stream = await api.open_stream(made, heard)
        stream.send("customer", UplinkChunk(tone(CONTRACTS[0], 0, 440), 0, 0.0))
        if code:
            (problem,) = await heard.until(1, StreamProblem)
            assert problem.code == code
        await stream.close(end=True)
        assert heard[-1] == StreamEnd(True, "explicit_end")
        await api.end_session(made.id, "completed", base_url=made.base_url)
    await sandbox.stop()


async def test_a_client_that_reads_nothing_does_not_hold_up_the_end() -> None:
    async with sandboxed() as call:
        made = (await call.create()).body
        ws = await call.http.ws_connect(made["stream"]["url"])
        payload = base64.b64encode(b"\x10" * 16000).decode()
        audio = {"encoding": "mulaw", "sample_rate_hz": 8000, "payload": payload}
        for number in range(200):
            await ws.send_json(
                {
                    "type": "audio.input",
                    "sequence": number,
                    "timestamp_ms": number * 2000,
                    "speaker": "customer",
                    "audio": audio,
                }
            )
        started = time.monotonic()
        assert (await call("POST", f"/sessions/{made['id']}/end")).status == 200
        assert time.monotonic() - started < 1.5


async def test_twenty_sessions_at_once_leave_nothing_behind() -> None:
    async with sandboxed() as call, client(call.sandbox.url, api_key=call.sandbox.api_key) as api:

        async def one(number: int) -> None:
            made = await api.create_session(SessionRequest(), idempotency_key=str(number))
            heard = Heard()
            stream = await api.open_stream(made, heard)
            await speak(api, stream, heard, range(0, 500, 100))
            await stream.close()
            await api.end_session(made.id, "completed", base_url=made.base_url)

        await asyncio.gather(*(one(number) for number in range(20)))
        assert (call.sandbox.sessions.created, call.sandbox.sessions.ended) == (20, 20)
        assert call.sandbox._live == {}
    names = [task.get_name() for task in asyncio.all_tasks()]
    assert not [name for name in names if name.startswith(("kallglot", "sandbox"))]


async def test_a_client_that_goes_while_its_stream_is_opened_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller who hangs up just then left a traceback in the log each time."""

    async def gone(*_: object) -> None:
        raise aiohttp.ClientConnectionResetError("Cannot write to closing transport")

    async with sandboxed() as call:
        with capture_logs() as logged, monkeypatch.context() as patch:
            patch.setattr(web.WebSocketResponse, "prepare", gone)
            with pytest.raises(aiohttp.ClientError):
                await connect(call, ROUTED)
        assert [line["event"] for line in logged if line["log_level"] == "error"] == []
        assert (await call.create()).status == 201
