"""Kallglot's REST interface as the calls see it: retried, failed over, kept warm. Implements `calls.interfaces.Translator`."""

from __future__ import annotations

import asyncio
import hashlib
import random
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import aiohttp

from kallglot_ari.calls.interfaces import StreamSink
from kallglot_ari.calls.model import Session, SessionRequest
from kallglot_ari.clock import Clock
from kallglot_ari.errors import (
    ApiConflict,
    ApiCreditsExhausted,
    ApiError,
    ApiInvalid,
    ApiNotFound,
    ApiRateLimited,
    ApiUnauthorized,
    ApiUnavailable,
    StreamClosed,
)
from kallglot_ari.kallglot import assumed, rest
from kallglot_ari.kallglot.breaker import Addresses, RetryPolicy
from kallglot_ari.kallglot.http import Answer, Http, NotSent
from kallglot_ari.kallglot.stream import Stream, connect
from kallglot_ari.log import get
from kallglot_ari.metrics import Metrics
from kallglot_ari.settings import KallglotSettings, TrunkSettings
from kallglot_ari.tasks import Tasks

_WARM = 4
"""Connections kept open to every address, so that a call does not wait for TCP and TLS."""
_WARM_EVERY = 20.0
_HEAL_EVERY = 1.0
_SETTLE_AFTER = (2.0, 15.0, 60.0, 300.0)
"""When an address that may have created a session unseen is asked about it, in seconds."""
_SETTLE_LIMIT = 1000
_STREAM_ATTEMPTS = 3

_REASONS: dict[type[ApiError], str] = {
    ApiConflict: "conflict",
    ApiCreditsExhausted: "credits",
    ApiInvalid: "invalid",
    ApiNotFound: "not_found",
    ApiRateLimited: "rate_limited",
    ApiUnauthorized: "unauthorized",
}

_T = TypeVar("_T")
_Attempt = Callable[[str, float], Awaitable[_T]]
"""Asks a base URL, within so many seconds."""

_log = get("kallglot_ari.kallglot.client")


class KallglotClient:
    """One API account.

    A request goes to the first base URL whose breaker lets it through; what is retryable goes on to the next one, and after a fruitless
    round over all of them waits with jitter and starts again, until `policy.deadline`. A `Retry-After` is honoured where it ends
    before the deadline; otherwise the error comes at once and carries it. Requests about a session go to the address that created it.

    :param urls: base URLs instead of the settings' (the embedded server's). :param api_key: a key instead of the settings'.
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
        self._http: Http | None = None
        self._stream_origins: dict[str, None] = {}
        self._settling = 0
        self.credits_remaining: int | None = None
        """What the last answer said; None before the first."""

    async def start(self) -> None:
        """Open the connections and keep them open. An API that cannot be reached is not an error here: `probe` tells.

        :raises ConfigError: when `ca_file` cannot be used.
        """
        if self._http is None:
            self._http = Http(self._key, ca_file=self._settings.ca_file, clock=self._clock)
            await asyncio.gather(*(self._warm(url) for url in self._addresses.urls))
            self._tasks.spawn(self._keep(), name="keep")

    async def close(self) -> None:
        """Drop what is under way and close the connections. Streams are closed by those who opened them."""
        await self._tasks.close()
        if self._http is not None:
            await self._http.close()
            self._http = None

    # --- Translator ---

    async def create_session(self, request: SessionRequest, *, idempotency_key: str) -> Session:
        """Create a session.

        When an address may have created one without our seeing it and another address then did, the first is asked again
        in the background, and its session ended. Cancelled in the middle, the outcome is unknown: ask again with the same key.

        :raises ApiError: after what is retryable was retried within the total deadline.
        """
        body = rest.create_body(request, self._settings, self._trunk)
        doubtful: set[str] = set()

        async def attempt(url: str, timeout: float) -> Session:
            try:
                answer = await self._ask("create", "POST", url, "/sessions", timeout, body=body, key=idempotency_key)
            except (NotSent, ApiRateLimited, ApiInvalid):
                raise
            except ApiUnavailable as error:
                if error.status < 400:
                    doubtful.add(url)
                raise
            doubtful.discard(url)
            try:
                return rest.parse_session(answer.data, base_url=url, streamed=not request.trunk)
            except ApiError:
                if useless := rest.session_id_of(answer.data):
                    self._tasks.spawn(self._end_quietly(useless, url), name="end-useless")
                raise

        created = ""
        try:
            session = await self._over_addresses(attempt)
            created = session.id
        finally:
            for url in doubtful:
                self._settle(url, body, idempotency_key, created)
        if session.stream_url:
            self._learn_origin(session.stream_url)
        return session

    async def end_session(
        self, session_id: str, reason: str, *, base_url: str = "", idempotency_key: str = ""
    ) -> dict[str, Any]:
        """End a session; the answer is its summary, or ``{"id", "status": "unknown"}`` when the server does not know it.

        :raises ApiError: when it may still be open, and billed.
        """
        path = f"/sessions/{quote(session_id, safe='')}/end"
        keys = [idempotency_key or _end_key(session_id, reason), _end_key(session_id, reason + secrets.token_hex(4))]

        async def attempt(url: str, timeout: float) -> dict[str, Any]:
            try:
                return (await self._ask("end", "POST", url, path, timeout, body={"reason": reason}, key=keys[0])).data
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

        return await self._at(base_url, attempt)

    async def get_session(self, session_id: str, *, base_url: str = "") -> dict[str, Any]:
        """The session as the API shows it. :raises ApiError:"""
        return await self._get("get", f"/sessions/{quote(session_id, safe='')}", base_url)

    async def transcript(self, session_id: str, *, base_url: str = "") -> dict[str, Any]:
        """The transcript as the API shows it. :raises ApiError:"""
        return await self._get("transcript", f"/sessions/{quote(session_id, safe='')}/transcript", base_url)

    async def open_stream(self, session: Session, sink: StreamSink) -> Stream:
        """Connect and wait until the server is ready. `sink` hears nothing when this raises.

        :raises StreamRefused: the server does not want it. :raises StreamClosed: it could not be reached, even when asked again.
        """
        http = self._connections()
        for attempt in range(_STREAM_ATTEMPTS):
            try:
                socket = await connect(http.session, session, self._settings, timeout=self._timeout)
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
                return stream
            except StreamClosed as error:
                _log.info("stream_attempt_failed", session=session.id, attempt=attempt + 1, why=str(error))
                if attempt + 1 == _STREAM_ATTEMPTS:
                    raise
                await asyncio.sleep(self._policy.pause(attempt, self._rng))
        raise AssertionError("unreachable")

    async def probe(self) -> None:
        """:raises ApiError: when no address can be reached, or the key is not taken."""
        await self._over_addresses(self._probe)

    # --- asking ---

    async def _get(self, operation: str, path: str, base_url: str) -> dict[str, Any]:
        async def attempt(url: str, timeout: float) -> dict[str, Any]:
            return (await self._ask(operation, "GET", url, path, timeout)).data

        return await self._at(base_url, attempt)

    async def _probe(self, url: str, timeout: float) -> None:
        try:
            await self._ask("probe", "GET", url, f"/sessions/{assumed.PROBE_SESSION}", timeout)
        except ApiNotFound:
            return

    async def _ask(
        self,
        operation: str,
        method: str,
        url: str,
        path: str,
        timeout: float,
        *,
        body: dict[str, Any] | None = None,
        key: str = "",
    ) -> Answer:
        """Ask one address once, and let its breaker and the metrics know."""
        breaker = self._addresses.breaker(url)
        breaker.begin(self._clock.now())
        started = self._clock.now()
        reason = "ok"
        try:
            answer = await self._connections().request(
                method, url + path, timeout=timeout, body=body, idempotency_key=key
            )
        except ApiUnavailable as error:
            breaker.failed(self._clock.now())
            reason = "unavailable"
            self._log_failure(operation, url, error)
            raise
        except ApiError as error:
            breaker.succeeded()
            reason = _REASONS.get(type(error), "other")
            if operation != "probe":
                self._log_failure(operation, url, error)
            raise
        finally:
            self._metrics.api_requests.labels(operation, reason).inc()
        breaker.succeeded()
        if answer.credits_remaining is not None:
            self.credits_remaining = answer.credits_remaining
        took = round((self._clock.now() - started) * 1000, 1)
        _log.debug("api_request", operation=operation, url=url, request_id=answer.request_id, ms=took)
        return answer

    def _log_failure(self, operation: str, url: str, error: ApiError) -> None:
        _log.warning(
            "api_request_failed",
            operation=operation,
            url=url,
            status=error.status,
            code=error.code,
            request_id=error.request_id,
            retryable=error.retryable,
            why=str(error),
        )

    async def _over_addresses(self, attempt: _Attempt[_T]) -> _T:
        """`attempt` with the addresses in order, round by round, until it answers, cannot be retried or the deadline is near."""
        give_up = self._clock.now() + self._policy.deadline
        round_ = 0
        while True:
            last: ApiError | None = None
            for url in self._addresses.allowed(self._clock.now()):
                try:
                    return await attempt(url, self._time_left(give_up))
                except ApiError as error:
                    if not error.retryable or self._clock.now() >= give_up:
                        raise
                    last = error
                    if isinstance(error, ApiConflict | ApiRateLimited):
                        break
            if last is None:
                raise ApiUnavailable(f"no address answers at the moment ({', '.join(self._addresses.urls)})")
            await self._pause(last, round_, give_up)
            round_ += 1

    async def _at(self, base_url: str, attempt: _Attempt[_T]) -> _T:
        """`attempt` at the address that created the session, whatever its breaker says; without one, over all of them."""
        if not base_url:
            return await self._over_addresses(attempt)
        give_up = self._clock.now() + self._policy.deadline
        round_ = 0
        while True:
            try:
                return await attempt(base_url.rstrip("/"), self._time_left(give_up))
            except ApiError as error:
                if not error.retryable:
                    raise
                await self._pause(error, round_, give_up)
                round_ += 1

    def _time_left(self, give_up: float) -> float:
        return max(0.05, min(self._timeout, give_up - self._clock.now()))

    async def _pause(self, error: ApiError, round_: int, give_up: float) -> None:
        """Wait as long as the server says, or with jitter. :raises ApiError: `error` itself when that would be too late."""
        wait = self._policy.pause(round_, self._rng)
        if error.retry_after is not None:
            wait = max(wait, error.retry_after + self._rng.uniform(0, self._policy.base))
        if self._clock.now() + wait >= give_up:
            raise error
        await asyncio.sleep(wait)

    def _connections(self) -> Http:
        if self._http is None:
            raise ApiUnavailable("the client is not started, or closed already")
        return self._http

    # --- sessions that may exist unseen ---

    def _settle(self, url: str, body: dict[str, Any], key: str, created: str) -> None:
        if self._settling >= _SETTLE_LIMIT:
            _log.error("session_doubtful_dropped", url=url)
            return
        self._settling += 1
        self._tasks.spawn(self._settle_later(url, body, key, created), name="settle")

    async def _settle_later(self, url: str, body: dict[str, Any], key: str, created: str) -> None:
        """Ask `url` once more with the same key: it tells the session that it made, if it made one, and that is ended."""
        try:
            for wait in _SETTLE_AFTER:
                await asyncio.sleep(wait * self._rng.uniform(0.8, 1.2))
                try:
                    answer = await self._ask("settle", "POST", url, "/sessions", self._timeout, body=body, key=key)
                except ApiError as error:
                    if not error.retryable:
                        return
                    continue
                session_id = rest.session_id_of(answer.data)
                if session_id and session_id != created:
                    _log.warning("session_unseen_ended", session=session_id, url=url)
                    await self._end_quietly(session_id, url)
                return
            _log.error("session_doubtful_given_up", url=url, hint="the server ends an idle session after 30 minutes")
        finally:
            self._settling -= 1

    async def _end_quietly(self, session_id: str, url: str) -> None:
        try:
            await self.end_session(session_id, "error", base_url=url)
        except ApiError as error:
            _log.error("session_end_failed", session=session_id, url=url, why=str(error))

    # --- warm connections ---

    async def _keep(self) -> None:
        """Touch the connections before they go stale, and ask addresses that failed whether they are well again."""
        next_warm = self._clock.now() + _WARM_EVERY
        while True:
            await asyncio.sleep(_HEAL_EVERY * self._rng.uniform(0.8, 1.2))
            now = self._clock.now()
            for url in self._addresses.urls:
                breaker = self._addresses.breaker(url)
                if not breaker.closed and breaker.allows(now) and await self._touch(url):
                    _log.info("api_address_healed", url=url)
            if now >= next_warm:
                next_warm = now + _WARM_EVERY
                await asyncio.gather(*(self._warm(url) for url in self._addresses.urls))
                await asyncio.gather(*(self._warm_origin(origin) for origin in tuple(self._stream_origins)))

    async def _warm(self, url: str) -> None:
        if self._addresses.breaker(url).allows(self._clock.now()):
            await asyncio.gather(*(self._touch(url) for _ in range(_WARM)))

    async def _touch(self, url: str) -> bool:
        try:
            await self._probe(url, self._timeout)
        except ApiUnavailable as error:
            _log.debug("api_warm_failed", url=url, why=str(error))
            return False
        except ApiError:
            pass  # it answers; what it says of the key is for `probe` to tell
        return True

    def _learn_origin(self, stream_url: str) -> None:
        """A stream host of its own is kept warm too; at the API's own host the warm connections serve both."""
        parts = urlsplit(stream_url)
        hosts = {urlsplit(url).netloc for url in self._addresses.urls}
        if parts.scheme == "wss" and parts.netloc not in hosts and len(self._stream_origins) < 8:
            self._stream_origins.setdefault(f"https://{parts.netloc}/")

    async def _warm_origin(self, origin: str) -> None:
        try:
            limits = aiohttp.ClientTimeout(total=self._timeout)
            session = self._connections().session
            async with session.get(origin, timeout=limits, allow_redirects=False) as response:
                await response.content.read(65536)
        except (aiohttp.ClientError, TimeoutError, ApiError) as error:
            _log.debug("stream_warm_failed", origin=origin, why=type(error).__name__)


def _end_key(session_id: str, reason: str) -> str:
    return "end-" + hashlib.sha256(f"{session_id}\n{reason}".encode()).hexdigest()[:32]
