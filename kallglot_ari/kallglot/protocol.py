"""The stream's messages in the contract of the settings: an `Encoder` and a `Decoder` for each stream. Pure.

`uplink` and `downlink` hold the messages themselves, `rest` the bodies of the REST interface, `assumed` what no page states.
"""

from __future__ import annotations

from typing import Protocol

from kallglot_ari.calls.model import UplinkChunk
from kallglot_ari.kallglot.downlink import Decoded, Pong, ProviderDecoder, RoutingDecoder, Unused
from kallglot_ari.kallglot.uplink import ChannelsEncoder, ProviderEncoder, RoutingEncoder
from kallglot_ari.settings import KallglotSettings

__all__ = ["Decoded", "Decoder", "Encoder", "Pong", "Unused", "decoder", "encoder"]


class Encoder(Protocol):
    """Client → server."""

    def audio(self, speaker: str, chunk: UplinkChunk) -> list[bytes]:
        """The messages that carry `chunk`; none when it has to wait for the other channel, or has no place in the contract."""
        ...

    def ping(self) -> str | None:
        """The contract's ping message, or None: then the WebSocket's own ping has to do."""
        ...

    def end(self) -> str:
        """The message that ends the session on the stream."""
        ...


class Decoder(Protocol):
    """Server → client."""

    def decode(self, message: str | bytes, *, received_at: float) -> list[Decoded]:
        """What `message` says, in order. Never raises."""
        ...


def encoder(settings: KallglotSettings) -> Encoder:
    """The encoder of a new stream."""
    if settings.contract == "routing":
        return RoutingEncoder()
    if settings.provider_speakers == "channels":
        return ChannelsEncoder(settings.chunk_ms)
    return ProviderEncoder()


def decoder(settings: KallglotSettings, *, stream_id: str) -> Decoder:
    """The decoder of a new stream. `stream_id` tells this stream's turns from those of an earlier one of the same session."""
    return RoutingDecoder(stream_id) if settings.contract == "routing" else ProviderDecoder()
