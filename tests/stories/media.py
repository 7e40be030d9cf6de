"""The media engine without sound: who would hear whom."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace

from kallglot_ari.calls.interfaces import UplinkSink
from kallglot_ari.calls.model import LegQuality, StreamAudio


class StoryFlow:
    """One leg's audio."""

    def __init__(self, flow_id: str, sink: UplinkSink) -> None:
        self.id = flow_id
        self.originals: set[str] = set()
        """Flows whose own voice it hears."""
        self.paused = False
        self.closed = False
        self._sink: UplinkSink | None = sink

    async def attach(self, channelvars: Mapping[str, object]) -> None: ...

    def play(self, source: str, audio: StreamAudio, *, received_at: float | None = None) -> None: ...

    def flush(self, source: str | None = None) -> None: ...

    def interruptible(self, then: Callable[[], None] | None) -> None: ...

    def pressed(self, seconds: float) -> None: ...

    def capture(self, file: object) -> None: ...

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def hear(self, other: str, gain_db: float | None, duck_db: float = 0.0) -> None:
        (self.originals.discard if gain_db is None else self.originals.add)(other)

    def quality(self) -> LegQuality:
        return LegQuality()

    def close(self) -> LegQuality:
        self.closed, self._sink = True, None
        return LegQuality()


class StoryMedia:
    """Makes them."""

    late = 0.0

    def __init__(self) -> None:
        self.format = SimpleNamespace(asterisk="ulaw")
        self.external = SimpleNamespace(
            transport="udp", external_host="127.0.0.1:9", encapsulation="rtp", connection_type="client"
        )

    def open(self, flow_id: str, sink: UplinkSink) -> StoryFlow:
        return StoryFlow(flow_id, sink)
