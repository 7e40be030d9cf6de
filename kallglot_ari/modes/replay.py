"""What was said while a stream was lost, for the one that takes its place. Pure: no clock, no socket."""

from __future__ import annotations

from collections import deque

from kallglot_ari.calls.model import UplinkChunk

BEFORE = 1.0
"""Seconds before the loss was noticed that are sent again: they may have been on their way."""
LONGEST = 5.0
"""Seconds of speech that are sent again at most. What is older is of no use to a conversation."""

Said = tuple[str, UplinkChunk]


class Replay:
    """The last moments of every link of one call: `BEFORE` while its stream is up, `LONGEST` while it is lost."""

    __slots__ = ("_lost", "_said")

    def __init__(self) -> None:
        self._said: dict[str, deque[Said]] = {}
        self._lost: dict[str, float] = {}

    def spoke(self, link: str, label: str, chunk: UplinkChunk) -> None:
        said = self._said.get(link)
        if said is None:
            said = self._said[link] = deque()
        said.append((label, chunk))
        oldest = chunk.received_at - (LONGEST if link in self._lost else BEFORE)
        while said[0][1].received_at < oldest:
            said.popleft()

    def lost(self, link: str, now: float) -> None:
        """The link's stream is gone. :param now: monotonic seconds, as `UplinkChunk.received_at`."""
        self._lost.setdefault(link, now)

    def take(self, link: str, now: float) -> list[Said]:
        """What the link's new stream is to be told first, in order; nothing when no stream was lost before it."""
        since = self._lost.pop(link, None)
        if since is None:
            return []
        oldest = max(since - BEFORE, now - LONGEST)
        return [(label, chunk) for label, chunk in self._said.get(link, ()) if chunk.received_at >= oldest]
