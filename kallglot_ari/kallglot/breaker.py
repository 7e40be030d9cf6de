"""When to ask an address, and when to wait: a circuit breaker for each base URL, and jittered back-off. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long to go on. All in seconds."""

    deadline: float = 10.0
    """From the first attempt to the last answer."""
    base: float = 0.2
    """The first pause is somewhere between half of this and this."""
    cap: float = 3.0
    """No pause we choose ourselves is longer; one the server asks for may be."""

    def pause(self, round_: int, rng: random.Random) -> float:
        """The pause after the `round_`-th (0 …) fruitless round over all addresses."""
        return min(self.cap, self.base * 2.0 ** min(round_, 16)) * rng.uniform(0.5, 1.0)


class Breaker:
    """Stops asking an address that fails, and finds out when it is well again.

    Closed until `threshold` failures in a row; then open for `cool_down` seconds (each further failure doubles it, up to
    `longest`); then one trial is let through at a time, and its success closes the breaker.
    """

    def __init__(self, *, threshold: int = 3, cool_down: float = 1.0, longest: float = 30.0) -> None:
        self._threshold = threshold
        self._cool_down = cool_down
        self._longest = longest
        self._failures = 0
        self._open_until: float | None = None

    @property
    def closed(self) -> bool:
        """Nothing known against the address."""
        return self._open_until is None

    @property
    def open_until(self) -> float:
        """Monotonic seconds at which the next trial is due; 0 when closed."""
        return self._open_until or 0.0

    def allows(self, now: float) -> bool:
        """Whether a request may go there at `now`; does not change anything."""
        return self._open_until is None or now >= self._open_until

    def begin(self, now: float) -> None:
        """A request goes there: when it is the trial, nobody else follows until it is over or another cool-down has passed."""
        if self._open_until is not None and now >= self._open_until:
            self._open_until = now + self._pause()

    def succeeded(self) -> None:
        """It answered, whatever it said."""
        self._failures = 0
        self._open_until = None

    def failed(self, now: float) -> None:
        """No connection, no answer in time, or word of what stands before it that it does not answer."""
        self._failures += 1
        if self._failures >= self._threshold:
            self._open_until = now + self._pause()

    def _pause(self) -> float:
        doublings = max(0, min(self._failures - self._threshold, 16))
        return float(min(self._longest, self._cool_down * 2.0**doublings))


class Addresses:
    """The base URLs in failover order, each with its breaker."""

    def __init__(self, urls: Sequence[str]) -> None:
        if not urls:
            raise ValueError("expected at least one base URL, found none")
        self._breakers = {url.rstrip("/"): Breaker() for url in urls}

    @property
    def urls(self) -> tuple[str, ...]:
        """All, in failover order."""
        return tuple(self._breakers)

    def breaker(self, url: str) -> Breaker:
        """The breaker of `url`; an address that is not (or no longer) in the list has one that always lets through."""
        return self._breakers.get(url.rstrip("/")) or Breaker()

    def next_trial(self) -> float:
        """Monotonic seconds at which the first address may be asked that may not now."""
        return min(breaker.open_until for breaker in self._breakers.values())

    def allowed(self, now: float) -> list[str]:
        """The addresses that may be asked at `now`, in failover order."""
        return [url for url, breaker in self._breakers.items() if breaker.allows(now)]
