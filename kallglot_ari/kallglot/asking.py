"""Asking the API until it answers: retry, failover over the base URLs, circuit breakers, `Retry-After`, one deadline for all."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

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
)
from kallglot_ari.kallglot import assumed, rest
from kallglot_ari.kallglot.breaker import Addresses, Breaker, RetryPolicy
from kallglot_ari.kallglot.http import Answer, Http
from kallglot_ari.log import get
from kallglot_ari.metrics import Metrics

_REASONS: dict[type[ApiError], str] = {
    ApiConflict: "conflict",
    ApiCreditsExhausted: "credits",
    ApiInvalid: "invalid",
    ApiNotFound: "not_found",
    ApiRateLimited: "rate_limited",
    ApiUnauthorized: "unauthorized",
}
_QUIET = frozenset({"probe"})
"""Operations that fail over and over while an address is down: its breaker's opening is logged, not each of them."""
_DOWN = frozenset({0, 502, 503, 504})
"""Statuses of an address that does not answer: none at all, or those of what stands before it."""
_LEAST = 0.05

T = TypeVar("T")
Attempt = Callable[[str, float], Awaitable[T]]
"""Asks a base URL, within so many seconds."""

_log = get("kallglot_ari.kallglot.client")


class Api:
    """The addresses of one account.

    :param timeout: seconds that one address may take. :param policy: how long to go on in all.
    """

    def __init__(
        self,
        http: Http,
        addresses: Addresses,
        *,
        timeout: float,
        policy: RetryPolicy,
        metrics: Metrics,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self.http = http
        self.addresses = addresses
        self.timeout = timeout
        self.policy = policy
        self.credits_remaining: int | None = None
        self._metrics = metrics
        self._clock = clock
        self._rng = rng

    async def ask(
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
        """Ask one address once, and let its breaker and the metrics know.

        An address is down when no answer comes: no connection, none in time, 502, 503, 504. Any other answer, a 500 to a creation
        included, may be about this one request: if it counted, one session that cannot be ended, or one kind of session that cannot
        be created, would shut off all other calls, since each is asked for until its deadline. What a creation gets a 500 for goes
        on to the next address all the same.

        :raises ApiError:
        """
        breaker = self.addresses.breaker(url)
        started = self._clock.now()
        breaker.begin(started)
        reason = "ok"
        try:
            answer = await self.http.request(method, url + path, timeout=timeout, body=body, idempotency_key=key)
        except ApiUnavailable as error:
            reason = "unavailable"
            was_closed = breaker.closed
            if error.status in _DOWN and error.code != rest.INVALID_RESPONSE:
                breaker.failed(self._clock.now())
            else:
                self._answered(url, breaker)
            self._failed(operation, url, error, known=not was_closed and not breaker.closed)
            if was_closed and not breaker.closed:
                _log.warning("api_address_down", url=url, why=str(error))
            raise
        except ApiError as error:
            reason = _REASONS.get(type(error), "other")
            self._answered(url, breaker)
            self._failed(operation, url, error)
            raise
        except asyncio.CancelledError:
            reason = "cancelled"
            raise
        finally:
            self._metrics.api_requests.labels(operation, reason).inc()
        self._answered(url, breaker)
        if answer.credits_remaining is not None:
            self.credits_remaining = answer.credits_remaining
        took = round((self._clock.now() - started) * 1000, 1)
        _log.debug("api_request", operation=operation, url=url, request_id=answer.request_id, ms=took)
        return answer

    async def probe(self, url: str, timeout: float) -> None:
        """Ask for a session that does not exist. :raises ApiError: when the address does not answer, or not take the key."""
        try:
            await self.ask("probe", "GET", url, f"/sessions/{assumed.PROBE_SESSION}", timeout)
        except ApiNotFound:
            return

    async def anywhere(self, attempt: Attempt[T]) -> T:
        """`attempt` with the addresses in order, round by round, until it answers or cannot be retried.

        One that is under way when the last address goes down waits for the next trial of one, if that is before the deadline.

        :raises ApiUnavailable: at once while every address is known to be down. :raises ApiError: the last one, at the deadline.
        """
        give_up = self._clock.now() + self.policy.deadline
        round_ = 0
        while True:
            last: ApiError | None = None
            for url in self.addresses.allowed(self._clock.now()):
                try:
                    return await attempt(url, self._time_left(give_up))
                except ApiError as error:
                    if not error.retryable or self._clock.now() >= give_up:
                        raise
                    last = error
                    if isinstance(error, ApiConflict | ApiRateLimited):
                        # Another address is the same account: it would say the same.
                        break
            if last is None:
                wait = self.addresses.next_trial() - self._clock.now()
                if not round_ or self._clock.now() + wait >= give_up:
                    raise ApiUnavailable(f"no address answers at the moment ({', '.join(self.addresses.urls)})")
                await asyncio.sleep(max(0.0, wait) + self._rng.uniform(0, self.policy.base))
                continue
            await self._pause(last, round_, give_up)
            round_ += 1

    async def at(self, url: str, attempt: Attempt[T]) -> T:
        """`attempt` with `url`, whatever its breaker says; empty: with any. :raises ApiError: the last one, at the deadline."""
        if not url:
            return await self.anywhere(attempt)
        give_up = self._clock.now() + self.policy.deadline
        round_ = 0
        while True:
            try:
                return await attempt(url.rstrip("/"), self._time_left(give_up))
            except ApiError as error:
                if not error.retryable:
                    raise
                await self._pause(error, round_, give_up)
                round_ += 1

    def _time_left(self, give_up: float) -> float:
        return max(_LEAST, min(self.timeout, give_up - self._clock.now()))

    async def _pause(self, error: ApiError, round_: int, give_up: float) -> None:
        """Wait as long as the server says, or with jitter. :raises ApiError: `error` itself when that would be too late."""
        wait = self.policy.pause(round_, self._rng)
        if error.retry_after is not None:
            wait = max(wait, error.retry_after + self._rng.uniform(0, self.policy.base))
        if self._clock.now() + wait >= give_up:
            raise error
        await asyncio.sleep(wait)

    @staticmethod
    def _answered(url: str, breaker: Breaker) -> None:
        if not breaker.closed:
            _log.info("api_address_healed", url=url)
        breaker.succeeded()

    def _failed(self, operation: str, url: str, error: ApiError, *, known: bool = False) -> None:
        """:param known: the address has been down, which the log says already."""
        write = _log.debug if known or operation in _QUIET else _log.warning
        write(
            "api_request_failed",
            operation=operation,
            url=url,
            status=error.status,
            code=error.code,
            request_id=error.request_id,
            retryable=error.retryable,
            why=str(error),
        )
