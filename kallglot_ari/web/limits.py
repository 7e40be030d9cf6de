"""A rate limit per client: a token bucket each, and a bounded number of buckets."""

from __future__ import annotations

from collections import OrderedDict


class RateLimit:
    """Allows `rate` requests a second with bursts of `burst`; remembers the last `clients` clients."""

    def __init__(self, rate: float, burst: int, *, clients: int = 4096) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._clients = clients
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def wait(self, client: str, now: float) -> float:
        """0.0 when the request may pass, else the seconds after which it may. :param now: monotonic seconds."""
        tokens, at = self._buckets.pop(client, (self._burst, now))
        tokens = min(self._burst, tokens + max(0.0, now - at) * self._rate)
        allowed = tokens >= 1.0
        self._buckets[client] = (tokens - 1.0 if allowed else tokens, now)
        while len(self._buckets) > self._clients:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1.0 - tokens) / self._rate
