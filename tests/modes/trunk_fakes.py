"""An API, a store and a hub in memory, by the Protocols; and a FastAGI client that speaks as Asterisk does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

from kallglot_ari.calls.interfaces import PendingSession, Stream, StreamSink
from kallglot_ari.calls.model import CallView, Session, SessionRequest, TranscriptTurn
from kallglot_ari.errors import ApiError, StoreError


class FakeTranslator:
    """Creates sessions once a key; can be slow, or refuse."""

    def __init__(self) -> None:
        self.created: dict[str, Session] = {}
        self.requests: list[SessionRequest] = []
        self.ended: list[tuple[str, str]] = []
        self.create_error: ApiError | None = None
        self.end_error: ApiError | None = None
        self.get_error: ApiError | None = None
        self.idle: set[str] = set()
        """Sessions that the server has ended by itself."""
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = asyncio.Event()
        self.next_id = ""

    @property
    def open(self) -> set[str]:
        """Ids of the sessions that cost money now."""
        return {s.id for s in self.created.values()} - {session_id for session_id, _ in self.ended}

    async def create_session(self, request: SessionRequest, *, idempotency_key: str) -> Session:
        self.asked.set()
        if idempotency_key not in self.created:
            if self.create_error is not None:
                raise self.create_error
            session_id = self.next_id or f"sess_{len(self.created) + 1}"
            self.requests.append(request)
            self.created[idempotency_key] = Session(
                session_id, request.mode, "wss://x", "kst_x", None, base_url="https://a"
            )
        await self.gate.wait()
        return self.created[idempotency_key]

    async def end_session(
        self, session_id: str, reason: str, *, base_url: str = "", idempotency_key: str = ""
    ) -> dict[str, Any]:
        if self.end_error is not None:
            raise self.end_error
        self.ended.append((session_id, reason))
        return {"id": session_id, "status": "ended"}

    async def get_session(self, session_id: str, *, base_url: str = "") -> dict[str, Any]:
        if self.get_error is not None:
            raise self.get_error
        return {"id": session_id, "status": "created" if session_id in self.open - self.idle else "ended"}

    async def open_stream(self, session: Session, sink: StreamSink) -> Stream:
        raise AssertionError("trunk mode opens no stream")

    async def transcript(self, session_id: str, *, base_url: str = "") -> dict[str, Any]:
        return {}

    async def probe(self) -> None: ...


class FakeStore:
    """Everything in dictionaries; `fail` makes the next writes fail."""

    def __init__(self) -> None:
        self.calls: dict[str, CallView] = {}
        self.pending: dict[str, PendingSession] = {}
        self.maps: dict[tuple[str, str], tuple[dict[str, Any], float | None]] = {}
        self.log: list[str] = []
        self.fail = False

    def _write(self, what: str) -> None:
        if self.fail:
            raise StoreError("disk full")
        self.log.append(what)

    async def save_call(self, call: CallView) -> None:
        self._write("save_call")
        self.calls[call.id] = call

    async def get_call(self, call_id: str) -> CallView | None:
        return self.calls.get(call_id)

    async def list_calls(self, *, limit: int = 100, active: bool | None = None) -> list[CallView]:
        return list(self.calls.values())[:limit]

    async def add_turn(self, call_id: str, turn: TranscriptTurn, at: float) -> None: ...

    async def turns(self, call_id: str) -> list[dict[str, Any]]:
        return []

    async def session_intended(self, pending: PendingSession) -> None:
        self._write("intended")
        self.pending[pending.key] = pending

    async def session_created(self, key: str, session_id: str, base_url: str) -> None:
        self._write("created")
        self.pending[key] = replace(self.pending[key], session_id=session_id, base_url=base_url)

    async def session_to_end(self, key: str, reason: str) -> None:
        self._write("to_end")
        self.pending[key] = replace(self.pending[key], reason=reason)

    async def session_ended(self, key: str) -> None:
        self._write("ended")
        self.pending.pop(key, None)

    async def session_attempted(self, key: str) -> None: ...

    async def pending_sessions(self) -> list[PendingSession]:
        return list(self.pending.values())

    async def put_mapping(self, kind: str, key: str, value: dict[str, Any], *, expires_at: float | None = None) -> bool:
        self._write("put_mapping")
        if (kind, key) in self.maps:
            return False
        self.maps[kind, key] = (value, expires_at)
        return True

    async def update_mapping(self, kind: str, key: str, value: dict[str, Any]) -> None:
        self._write("update_mapping")
        if (kind, key) in self.maps:
            self.maps[kind, key] = (value, self.maps[kind, key][1])

    async def get_mapping(self, kind: str, key: str) -> dict[str, Any] | None:
        found = self.maps.get((kind, key))
        return found[0] if found else None

    async def delete_mapping(self, kind: str, key: str) -> bool:
        return self.maps.pop((kind, key), None) is not None

    async def mappings(self, kind: str) -> dict[str, dict[str, Any]]:
        return {k: v for (one, k), (v, _) in self.maps.items() if one == kind}

    async def expired_mappings(self, kind: str, now: float) -> dict[str, dict[str, Any]]:
        return {k: v for (one, k), (v, at) in self.maps.items() if one == kind and at is not None and at <= now}

    async def write_mappings(
        self, kind: str, changes: Mapping[str, dict[str, Any] | None], *, expires_at: float | None = None
    ) -> None:
        self._write("write_mappings")
        for key, value in changes.items():
            if value is None:
                self.maps.pop((kind, key), None)
            else:
                self.maps[kind, key] = (value, expires_at)

    async def seen_once(self, event_id: str, now: float) -> bool:
        return True

    async def check(self) -> None: ...


class FakeHub:
    """Keeps what was published."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, dict[str, Any]]] = []

    def publish(self, event: str, call_id: str, data: dict[str, Any]) -> None:
        self.events.append((event, call_id, data))

    def types(self) -> list[str]:
        return [event for event, _, _ in self.events]

    def subscribe(self, *, call_id: str | None = None) -> AsyncIterator[dict[str, Any]]:
        raise AssertionError("trunk mode only publishes")


class AgiChannel:
    """A channel in the dialplan: runs AGI scripts and keeps the variables they set."""

    def __init__(self, port: int, uniqueid: str, channel: str = "", linkedid: str = "") -> None:
        self.port, self.uniqueid = port, uniqueid
        self.channel = channel or f"PJSIP/phone-{uniqueid}"
        self.variables = {"${CHANNEL(linkedid)}": linkedid or uniqueid}
        self.writer: asyncio.StreamWriter | None = None

    async def agi(self, script: str, *arguments: str, extension: str = "800") -> dict[str, str]:
        """Run ``AGI(agi://…/script,arguments…)``; the variables it set."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writer = writer
        lines = [f"agi_network_script: {script}", f"agi_channel: {self.channel}", f"agi_uniqueid: {self.uniqueid}"]
        lines += ["agi_callerid: 4930123", f"agi_extension: {extension}"]
        lines += [f"agi_arg_{n}: {a}" for n, a in enumerate(arguments, 1)]
        writer.write(("\n".join(lines) + "\n\n").encode())
        found: dict[str, str] = {}
        while line := (await asyncio.wait_for(reader.readline(), 10)).decode():
            verb, name, *rest = [part for part in line.rstrip("\n").split('"') if part.strip()]
            if verb.startswith("SET"):
                found[name] = self.variables["${" + name + "}"] = rest[0] if rest else ""
                writer.write(b"200 result=1\n")
            else:
                value = self.variables.get(name)
                writer.write(b"200 result=0\n" if value is None else f"200 result=1 ({value})\n".encode())
        writer.close()
        return found

    def vanish(self) -> None:
        """The connection breaks off."""
        assert self.writer is not None
        self.writer.transport.abort()

    def hang_up(self) -> None:
        """Asterisk says that the channel hung up; the connection stays."""
        assert self.writer is not None
        self.writer.write(b"HANGUP\n")
