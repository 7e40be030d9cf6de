"""Which format each leg's audio has between Asterisk and us, decided once, at the start."""

from __future__ import annotations

from kallglot_ari.audio.codecs import opus, registry
from kallglot_ari.calls.interfaces import ExternalMedia, FlowFormat
from kallglot_ari.errors import ConfigError, MediaError
from kallglot_ari.settings import MediaSettings, host_port

_FALLBACK = "g722"
"""What wideband is answered with: a static payload type, which Asterisk takes on every channel."""

_WEBSOCKET = {"slin16": ("slin16le", "slin16le"), "opus": ("opus", "opus_cbr")}
"""Over a websocket samples are little-endian, and Opus goes both ways."""


def choose(settings: MediaSettings, encoding: str) -> FlowFormat:
    """The format for a stream of `encoding`.

    Over RTP Asterisk drops every dynamic payload type on its way in (slin16, opus), so those are answered with G.722.

    :raises ConfigError: when the format cannot work on this machine; says why and what to do.
    """
    websocket = settings.transport == "websocket"
    name: str = settings.format
    if name == "auto":
        name = {"mulaw": "ulaw", "alaw": "alaw"}.get(encoding, "slin16")
    if name == "opus" and not opus.available():
        raise ConfigError(
            "media.format: opus needs the system's libopus, found none; install it (Debian: libopus0) or use slin16"
        )
    try:
        codec = registry.get(name)
        registry.stream_sample_bytes(encoding)
    except MediaError as error:
        raise ConfigError(f"media.format: {error}") from error
    if websocket:
        receive, send = _WEBSOCKET.get(name, (name, name))
        return FlowFormat(asterisk=name, receive=receive, send=send)
    return FlowFormat(asterisk=name, receive=name, send=name if codec.send_type is not None else _FALLBACK)


def external(settings: MediaSettings, port: int) -> ExternalMedia:
    """How Asterisk is asked for a channel, with our socket at `port`."""
    if settings.transport == "rtp":
        return ExternalMedia(host_port(settings.advertise or settings.bind, port), "udp", "rtp", "client")
    if settings.websocket_client:
        return ExternalMedia(settings.websocket_client, "websocket", "none", "client")
    return ExternalMedia("INCOMING", "websocket", "none", "server")
