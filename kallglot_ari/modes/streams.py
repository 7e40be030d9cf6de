"""A call's streams, one for each pair of languages, and what was said while one of them was away."""

from __future__ import annotations

from collections.abc import Callable

from structlog.stdlib import BoundLogger

from kallglot_ari.calls.interfaces import Stream, StreamEvent, Translator
from kallglot_ari.calls.model import Session, UplinkChunk
from kallglot_ari.clock import Clock
from kallglot_ari.errors import StreamClosed, StreamRefused
from kallglot_ari.metrics import Metrics
from kallglot_ari.modes.replay import Replay


class CallStreams:
    """The streams that are open."""

    __slots__ = ("_clock", "_log", "_metrics", "_open", "_replay", "_translator")

    def __init__(self, translator: Translator, metrics: Metrics, clock: Clock, log: BoundLogger) -> None:
        self._translator = translator
        self._metrics = metrics
        self._clock = clock
        self._log = log
        self._open: dict[str, tuple[str, Stream]] = {}
        """Link → session and its stream."""
        self._replay = Replay()

    async def open(self, link: str, session: Session, heard: Callable[[StreamEvent], None], *, again: bool) -> None:
        """Open a link's stream in place of the one it has, if any; `again`: the link has had one before.

        `heard` is told what comes, also when another stream has taken its place: ask `has`.

        :raises StreamRefused: its session is over. :raises StreamClosed: it is gone again already.
        """
        stream = await self._translator.open_stream(session, heard)
        if (end := stream.end) is not None:  # nobody was told: it was not ours yet
            await stream.close()
            raise (StreamRefused if end.ended else StreamClosed)(f"stream of {session.id}: {end.reason}")
        if again:
            self._metrics.stream_reconnects.inc()
        old = self._open.get(link)
        self._open[link] = session.id, stream
        if said := self._replay.take(link, self._clock.now()):
            stream.replay(said)
            self._metrics.replayed.inc(len(said))
            self._log.info("stream_replayed", session_id=session.id, chunks=len(said))
        if old is not None:  # last: whoever cancels this finds the new one in its place
            await old[1].close()

    def has(self, link: str, session_id: str) -> bool:
        """Whether the link's stream is the one to this session."""
        stream = self._open.get(link)
        return stream is not None and stream[0] == session_id

    def send(self, link: str, label: str, chunk: UplinkChunk) -> bool:
        """Speech for a link; False while it has no stream, and the speech is kept for its next one."""
        self._replay.spoke(link, label, chunk)
        if (stream := self._open.get(link)) is None:
            return False
        stream[1].send(label, chunk)
        return True

    def lost(self, link: str) -> None:
        """The link's stream has ended by itself."""
        del self._open[link]
        self._replay.lost(link, self._clock.now())

    async def close_session(self, session_id: str) -> None:
        """Close the streams to a session."""
        for link, (of, stream) in list(self._open.items()):
            if of == session_id:
                del self._open[link]
                await stream.close()

    async def close(self) -> None:
        """Close all."""
        while self._open:
            await self._open.popitem()[1][1].close()
