"""A Kallglot by its documented contract: keys that are remembered, sessions that cost until they are ended, streams to those that are live."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from kallglot_ari.calls.interfaces import StreamEnd, StreamSink
from kallglot_ari.calls.model import Session, SessionRequest, UplinkChunk
from kallglot_ari.errors import (
    ApiCreditsExhausted,
    ApiInvalid,
    ApiRateLimited,
    ApiUnavailable,
    StreamClosed,
    StreamRefused,
)
from tests.stories.clock import some
from tests.stories.world import Life, World

LOST, UNANSWERED, LIMITED = 0.04, 0.08, 0.1
"""Up to where a request's fate lies that gets lost, whose answer is lost, and that is put off."""
NO_CREDITS = 0.02


@dataclass
class Sold:
    """A session."""

    session: Session
    key: str
    request: dict[str, Any]
    live: bool = True
    ended_as: tuple[str, str] | None = None
    """Key and reason of the request that ended it."""
    streams: list[StoryStream] = field(default_factory=list)

    def drop(self, *, ended: bool, reason: str) -> None:
        """Its streams are over, and say so."""
        streams, self.streams = self.streams, []
        for stream in streams:
            stream.over(StreamEnd(ended=ended, reason=reason))


class Kallglot:
    """The server: all processes have the same."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.sold: dict[str, Sold] = {}
        self.by_key: dict[str, Sold] = {}

    @property
    def live(self) -> list[Sold]:
        return [one for one in self.sold.values() if one.live]

    def create(self, key: str, request: SessionRequest, chance: random.Random) -> Sold:
        """:raises ApiError:"""
        body = asdict(request)
        if (sold := self.by_key.get(key)) is not None:
            if sold.request != body:
                self.world.breaks(f"A key is used for one request only: {key} {sold.request} {body}")
                raise ApiInvalid("idempotency_mismatch", status=400)
            return sold
        if not self.world.weather.fair and chance.random() < NO_CREDITS:
            raise ApiCreditsExhausted("no credits", status=402)
        session_id = f"sess_{self.world.number()}"
        session = Session(session_id, request.mode, f"wss://x/{session_id}", "kst_x", None, base_url="https://a")
        sold = self.sold[session_id] = self.by_key[key] = Sold(session, key, body)
        self.world.tell("kallglot", session_id, "created for", key)
        return sold

    def end(self, session_id: str, reason: str, key: str) -> None:
        """:raises ApiError:"""
        sold = self.sold[session_id]
        if sold.ended_as not in (None, (key, reason)):
            self.world.breaks(f"A session is ended once: {session_id} {sold.ended_as} {(key, reason)}")
            raise ApiInvalid("idempotency_mismatch", status=400)
        sold.ended_as = key, reason
        if sold.live:
            self.world.tell("kallglot", session_id, "ended:", reason)
        sold.live = False
        sold.drop(ended=True, reason=reason)


class Translator:
    """One process's client of it."""

    def __init__(self, kallglot: Kallglot, life: Life) -> None:
        self._kallglot, self._life = kallglot, life
        self._world = kallglot.world
        self.acknowledged: set[str] = set()
        """Sessions that this process knows to be ended."""

    async def _asks(self, *what: object) -> random.Random:
        """The way there. :raises ApiError: it did not get there."""
        weather, chance = self._world.weather, self._world.dice.of("kallglot", *what)
        await self._life.passes(some(chance, 0.01, 0.05) if weather.fair else some(chance, 0.01, 0.05, 0.2, 1.5))
        if weather.kallglot_away:
            raise ApiUnavailable("no connection")
        fate = 1.0 if weather.fair else chance.random()
        if fate < LOST:
            raise ApiUnavailable("no connection")
        if UNANSWERED < fate < LIMITED:
            raise ApiRateLimited("too many requests", status=429, retry_after=1.0)
        return chance

    async def _answers(self, chance: random.Random) -> None:
        """The way back. :raises ApiUnavailable: the answer was lost."""
        weather = self._world.weather
        await self._life.passes(some(chance, 0.01) if weather.fair else some(chance, 0.01, 0.1, 1.0))
        if weather.kallglot_away or (not weather.fair and chance.random() < UNANSWERED - LOST):
            raise ApiUnavailable("no answer", status=0 if weather.kallglot_away else 502)

    async def create_session(self, request: SessionRequest, *, idempotency_key: str) -> Session:
        chance = await self._asks("create", idempotency_key)
        sold = self._kallglot.create(idempotency_key, request, chance)
        await self._answers(chance)
        return sold.session

    async def end_session(
        self, session_id: str, reason: str, *, base_url: str = "", idempotency_key: str = ""
    ) -> dict[str, Any]:
        if session_id in self.acknowledged:
            self._world.breaks(f"A session is ended once: {session_id} is known to be ended, and is ended again")
        chance = await self._asks("end", session_id)
        self._kallglot.end(session_id, reason, idempotency_key)
        await self._answers(chance)
        self.acknowledged.add(session_id)
        return {"id": session_id, "status": "ended"}

    async def open_stream(self, session: Session, sink: StreamSink) -> StoryStream:
        try:
            chance = await self._asks("stream", session.id)
        except (ApiUnavailable, ApiRateLimited) as error:
            raise StreamClosed(str(error)) from None
        sold = self._kallglot.sold[session.id]
        if not sold.live:
            raise StreamRefused("the session has ended")
        stream = StoryStream(sold, self._life, sink)
        sold.streams.append(stream)
        await self._life.passes(some(chance, 0.02))
        return stream

    async def transcript(self, session_id: str, *, base_url: str = "") -> dict[str, Any]:
        return {}

    async def probe(self) -> None: ...


class StoryStream:
    """A WebSocket to a session."""

    def __init__(self, sold: Sold, life: Life, sink: StreamSink) -> None:
        self._sold, self.life, self._sink = sold, life, sink
        self.end: StreamEnd | None = None

    @property
    def carries(self) -> bool:
        """Whether what is said on it is translated."""
        return self._sold.live and self in self._sold.streams

    def send(self, speaker: str, chunk: UplinkChunk) -> None: ...

    def replay(self, said: Sequence[tuple[str, UplinkChunk]]) -> None: ...

    def over(self, end: StreamEnd) -> None:
        if self.end is None and not self.life.over:
            self.end = end
            self._sink(end)

    async def close(self, *, end: bool = False) -> None:
        if self in self._sold.streams:
            self._sold.streams.remove(self)
