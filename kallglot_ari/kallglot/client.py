"""Kallglot's API as the calls see it: sessions and their streams. Implements `calls.interfaces.Translator`."""

from __future__ import annotations

import asyncio
import hashlib
import random
import secrets
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from kallglot_ari.calls.interfaces import StreamSink
from kallglot_ari.calls.model import Session, SessionRequest
from kallglot_ari.clock import Clock
from kallglot_ari.errors import ApiError, ApiInvalid, ApiNotFound, ApiUnavailable, StreamClosed
from kallglot_ari.kallglot import assumed, rest
from kallglot_ari.kallglot.asking import Api
from kallglot_ari.kallglot.breaker import Addresses, RetryPolicy
from kallglot_ari.kallglot.http import Http
from kallglot_ari.kallglot.settle import Settler
from kallglot_ari.kallglot.socket import connect
from kallglot_ari.kallglot.stream import Stream
from kallglot_ari.kallglot.warm import Warmer
from kallglot_ari.log import get
from kallglot_ari.metrics import Metrics
from kallglot_ari.settings import KallglotSettings, TrunkSettings
from kallglot_ari.tasks import Tasks

_STREAM_ATTEMPTS = 3

_log = get("kallglot_ari.kallglot.client")


class KallglotClient:
    """One API account.

    A request goes to the first base URL whose breaker lets it through; what is retryable goes on to the next one, and after a
    fruitless round over all of them waits with jitter and starts again, until `policy.deadline`. A `Retry-After` is honoured where
    it ends before the deadline; otherwise the error comes at once and carries it. Requests about a session go to the address
    that created it.

    :param urls: base URLs instead of the settings' (the embedded server's). :param api_key: a key instead of the settings'.
    :param policy: pauses and the deadline; default: 10 s, or one attempt more than there are addresses.
    """

    def __init__(
        self,
        settings: KallglotSettings,
        trunk: TrunkSettings,
        metrics: Metrics,
        clock: Clock,
        *,
        urls: Sequence[str] | None = None,
        api_key: str | None = None,
        policy: RetryPolicy | None = None,
    ) -> None:
        self._settings = settings
        self._trunk = trunk
        self._metrics = metrics
        self._clock = clock
        self._addresses = Addresses(urls if urls is not None else settings.urls)
        self._key = settings.api_key.get_secret_value() if api_key is None else api_key
        self._timeout = settings.failover_timeout_ms / 1000
        self._policy = policy or RetryPolicy(deadline=max(10.0, (len(self._addresses.urls) + 1) * self._timeout))
        self._rng = random.Random()
        self._tasks = Tasks("kallglot.client")
        self._started: tuple[Api, Settler, Warmer] | None = None

    async def start(self) -> None:
        """Open the connections and keep them open. An API that cannot be reached is not an error here: `probe` tells.

        :raises ConfigError: when `ca_file` cannot be used.
        """
        if self._started is not None:
            return
        api = Api(
            Http(self._key, ca_file=self._settings.ca_file, clock=self._clock),
            self._addresses,
            timeout=self._timeout,
            policy=self._policy,
            metrics=self._metrics,
            clock=self._clock,
            rng=self._rng,
        )
        warmer = Warmer(api, self._clock, self._rng)
        self._started = (api, Settler(api, self._end_quietly, self._rng), warmer)
        await warmer.start()

    async def close(self) -> None:
        """Drop what is under way and close the connections. Streams are closed by those who opened them."""
        if self._started is None:
            return
        (api, settler, warmer), self._started = self._started, None
        await warmer.close()
        await settler.close()
        await self._tasks.close()
        await api.http.close()

    @property
    def credits_remaining(self) -> int | None:
        """What the last answer said; None before the first."""
        return self._started[0].credits_remaining if self._started else None

    @property
    def away(self) -> bool:
        """No address answers, for all that is known of them."""
        return not any(self._addresses.breaker(url).closed for url in self._addresses.urls)

    async def create_session(self, request: SessionRequest, *, idempotency_key: str) -> Session:
        """Create a session.

        An address that may have created one unseen is asked again in the background, and that session ended. When this is
        cancelled, or fails, the outcome may be unknown: asking again with the same key yields the session if there is one.

        :raises ApiError: after what is retryable was retried within the total deadline; `sent` speaks of all attempts together.
        """
        api, settler, _ = self._parts()
        settler.wanted_again(idempotency_key)
        body = rest.create_body(request, self._settings, self._trunk)
        doubtful: set[str] = set()
        sent = False

        async def attempt(url: str, timeout: float) -> Session:
            nonlocal sent
            try:
                answer = await api.ask("create", "POST", url, "/sessions", timeout, body=body, key=idempotency_key)
            except ApiError as error:
                sent = sent or error.sent
                if isinstance(error, ApiUnavailable) and error.status < 400 and error.sent:
                    doubtful.add(url)
                raise
            sent = True
            doubtful.discard(url)
            try:
                return rest.parse_session(answer.data, base_url=url, streamed=not request.trunk)
            except ApiError:
                if useless := rest.session_id_of(answer.data):
                    self._tasks.spawn(self._end_quietly(useless, url), name="end-useless")
                raise

        try:
            session = await api.anywhere(attempt)
            settler.used(session.id)
        except ApiError as error:
            error.sent = sent
            raise
        finally:
            for url in doubtful:
                settler.doubtful(url, body, idempotency_key)
        return session

    async def end_session(
        self, session_id: str, reason: str, *, base_url: str = "", idempotency_key: str = ""
    ) -> dict[str, Any]:
        """End a session; the answer is its summary, or ``{"id", "status": "unknown"}`` when the server does not know it.

        :raises ApiError: when it may still be open, and billed.
        """
        api = self._parts()[0]
        path = f"/sessions/{quote(session_id, safe='')}/end"
        keys = [idempotency_key or _end_key(session_id, reason), _end_key(session_id, reason + secrets.token_hex(4))]

        async def attempt(url: str, timeout: float) -> dict[str, Any]:
            try:
                return (await api.ask("end", "POST", url, path, timeout, body={"reason": reason}, key=keys[0])).data
            except ApiNotFound:
                return {"id": session_id, "status": "unknown"}
            except ApiInvalid as error:
                if error.code in assumed.ALREADY_ENDED_CODES:
                    return {"id": session_id, "status": "ended"}
                if error.code == rest.IDEMPOTENCY_MISMATCH and len(keys) > 1:
                    # The same key once went with another reason: what counts is that it ends.
                    del keys[0]
                    return await attempt(url, timeout)
                raise

        return await api.at(base_url, attempt)

    async def get_session(self, session_id: str, *, base_url: str = "") -> dict[str, Any]:
        """The session as the API shows it. :raises ApiError:"""
        return await self._get("get", f"/sessions/{quote(session_id, safe='')}", base_url)

    async def transcript(self, session_id: str, *, base_url: str = "") -> dict[str, Any]:
        """The transcript as the API shows it. :raises ApiError:"""
        return await self._get("transcript", f"/sessions/{quote(session_id, safe='')}/transcript", base_url)

    async def probe(self) -> None:
        """:raises ApiError: when no address can be reached, or the key is not taken."""
        api = self._parts()[0]
        await api.anywhere(api.probe)

    async def open_stream(self, session: Session, sink: StreamSink) -> Stream:
        """Connect and wait until the server is ready. `sink` hears nothing when this raises.

        :raises StreamRefused: the server does not want it. :raises StreamClosed: it could not be reached, even when asked again.
        """
        for attempt in range(_STREAM_ATTEMPTS - 1):
            try:
                return await self._open_stream(session, sink)
            except StreamClosed as error:
                _log.debug("stream_attempt_failed", session=session.id, attempt=attempt + 1, why=str(error))
                await asyncio.sleep(self._policy.pause(attempt, self._rng))
        return await self._open_stream(session, sink)

    async def _open_stream(self, session: Session, sink: StreamSink) -> Stream:
        if self._started is None:
            raise StreamClosed(f"stream of {session.id}: the client is not started, or closed already")
        api, _, warmer = self._started
        socket = await connect(api.http.session, session, self._settings, timeout=self._timeout)
        stream = Stream(
            socket,
            session,
            self._settings,
            sink,
            metrics=self._metrics,
            clock=self._clock,
            stream_id=secrets.token_hex(4),
        )
        await stream.open(timeout=self._timeout)
        warmer.stream_opened(session.stream_url)
        return stream

    async def _get(self, operation: str, path: str, base_url: str) -> dict[str, Any]:
        api = self._parts()[0]

        async def attempt(url: str, timeout: float) -> dict[str, Any]:
            return (await api.ask(operation, "GET", url, path, timeout)).data

        return await api.at(base_url, attempt)

    async def _end_quietly(self, session_id: str, url: str, key: str = "") -> None:
        """`key`: whoever else ends it under that key ends it once with us."""
        try:
            await self.end_session(session_id, "error", base_url=url, idempotency_key=key)
        except ApiError as error:
            _log.error("session_end_failed", session=session_id, url=url, why=str(error))

    def _parts(self) -> tuple[Api, Settler, Warmer]:
        if self._started is None:
            raise ApiUnavailable("the client is not started, or closed already")
        return self._started


def _end_key(session_id: str, reason: str) -> str:
    return "end-" + hashlib.sha256(f"{session_id}\n{reason}".encode()).hexdigest()[:32]
