"""How long translated speech waits before it is played, so that it does not run dry when it comes in just as fast as it is spoken."""

from __future__ import annotations

LEAST = 0.004
MOST = 0.120
FORGET = 0.995
"""Of what was learned, what is left with each further piece."""
BURST = 0.050
"""Seconds; a piece that comes sooner than expected by more is part of a burst."""
BOUND = 0.038
"""Seconds from a talkspurt's arrival within which its first packet leaves, whatever was learned: 40 ms less what a tick may be late."""
CALM = 0.0205
"""A delay up to this is a calm stream's,"""
CALM_BOUND = 0.0235
"""whose talkspurts begin within this: 25 ms less what a tick takes."""
PACKET = 0.020
"""Seconds between two packets of a leg."""
_AT_FIRST = 0.0115
"""Gives 20 ms until something is known."""


class Prebuffer:
    """Learns from how late pieces of a talkspurt come, measured against its first piece and the sound in between."""

    def __init__(self) -> None:
        self.peak = _AT_FIRST
        """Seconds by which pieces were late at most, lately."""

    @property
    def delay(self) -> float:
        """Seconds to wait at the start of a talkspurt, if there were no `bound`."""
        return min(MOST, max(LEAST, 1.5 * self.peak + 0.003))

    @property
    def bound(self) -> float:
        """Seconds from arrival within which a talkspurt begins."""
        return CALM_BOUND if self.delay <= CALM else BOUND

    def over(self, now: float, queued_at: float, received_at: float) -> bool:
        """Whether a talkspurt begins with the packet due `now`.

        It was received at `received_at` and has been in the queue since `queued_at`, all in seconds. The wait ends early where
        the next packet would leave past the bound: a leg's packets lie `PACKET` apart, and a wait is as good as the packet after it.
        """
        return now >= queued_at + self.delay or now + PACKET > received_at + self.bound

    def arrived(self, lateness: float) -> None:
        """A further piece of a talkspurt came `lateness` seconds after the sound before it was over, had that begun to play on arrival.

        A piece that came far too early is part of a burst and says nothing of the timing.
        """
        if lateness < -BURST:
            return
        self.peak = max(lateness, self.peak * FORGET)
