"""What Asterisk counts on the parties' own channels, between it and the phones: asked for while the call is up, gone with the channel."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from kallglot_ari.ari.client import AriClient
from kallglot_ari.ari.models import RTPstat
from kallglot_ari.calls.legs import Leg
from kallglot_ari.calls.model import SipQuality
from kallglot_ari.clock import Clock
from kallglot_ari.errors import AriError
from kallglot_ari.log import get
from kallglot_ari.metrics import Metrics
from kallglot_ari.rtp.quality import rate

_log = get(__name__)

FIRST = 2.0
"""Seconds from the moment a leg is up to the first look."""
EVERY = 10.0
"""Seconds between two looks at a leg: a request to Asterisk each."""
WITHOUT = 120.0
"""Seconds until a channel that has no RTP (a Local channel, say) is asked again."""
_BEAT = 0.5


class SipQualities:
    """Asks about one leg at a time, so that a slow Asterisk is asked less often and never by many requests at once."""

    def __init__(self, ari: AriClient, metrics: Metrics, clock: Clock) -> None:
        self._ari = ari
        self._metrics = metrics
        self._clock = clock
        self._next: dict[str, float] = {}
        self._last: dict[str, SipQuality] = {}

    def of(self, channel_id: str) -> SipQuality | None:
        """The last figures of a channel that is or was in a call that is up."""
        return self._last.get(channel_id)

    async def follow(self, legs_now: Callable[[], Iterable[Leg]]) -> None:
        """Look at the legs that there are, until cancelled."""
        while True:
            await asyncio.sleep(_BEAT)
            legs = {leg.channel_id: leg for leg in legs_now() if leg.channel_id}
            for gone in self._next.keys() - legs.keys():
                del self._next[gone]
                self._last.pop(gone, None)
            now = self._clock.now()
            for channel_id, leg in legs.items():
                if leg.up and now >= self._next.setdefault(channel_id, now + FIRST):
                    self._next[channel_id] = self._clock.now() + await self._ask(channel_id)

    async def _ask(self, channel_id: str) -> float:
        """Seconds until the next look at this channel."""
        try:
            counted = await self._ari.channels.rtp_statistics(channel_id)
        except AriError as error:
            _log.debug("no_rtp_statistics", channel=channel_id, error=str(error))
            return WITHOUT
        before, quality = self._last.get(channel_id, SipQuality()), sip_quality(counted)
        self._last[channel_id] = quality
        self._observe(before, quality)
        return EVERY

    def _observe(self, before: SipQuality, now: SipQuality) -> None:
        metrics = self._metrics
        metrics.sip_lost.labels(direction="in").inc(max(0, now.packets_lost - before.packets_lost))
        metrics.sip_lost.labels(direction="out").inc(max(0, now.packets_lost_there - before.packets_lost_there))
        metrics.sip_jitter.observe(now.jitter_ms / 1000)
        metrics.sip_mos.observe(now.mos)
        if now.round_trip_ms is not None:
            metrics.sip_round_trip.observe(now.round_trip_ms / 1000)


def sip_quality(counted: RTPstat) -> SipQuality:
    """Asterisk's figures, with R and MOS by the E-model (ITU-T G.107) for what it receives."""
    lost, received = max(0, counted.rxploss), counted.rxcount
    expected = received + lost
    round_trip = 1000 * counted.rtt if counted.rtt else None
    r, mos = rate(100 * lost / expected if expected else 0.0, max(0.0, round_trip or 0.0) / 2)
    return SipQuality(
        packets_received=received,
        packets_sent=counted.txcount,
        packets_lost=lost,
        packets_lost_there=max(0, counted.txploss),
        jitter_ms=1000
        * (counted.txjitter or 0.0),  # Asterisk calls its own measurement so: it is what its reports carry
        jitter_there_ms=1000 * (counted.rxjitter or 0.0),
        round_trip_ms=round_trip,
        r_factor=r,
        mos=mos,
    )
