"""A flow's channel in Asterisk: made as the media want it, and the two connected."""

from __future__ import annotations

from kallglot_ari.ari.client import AriClient
from kallglot_ari.calls.interfaces import Flow, Media


async def connect(ari: AriClient, media: Media, flow: Flow) -> None:
    """Make the external-media channel of the flow's id. :raises AriError: :raises MediaError: what it says of itself is not enough."""
    external = media.external
    if external.transport == "websocket":
        ari.require("websocket_media", '[media] transport = "websocket"')
    channel = await ari.channels.create_external_media(
        flow.id,
        external_host=external.external_host,
        format=media.format.asterisk,
        transport=external.transport,
        encapsulation=external.encapsulation,
        connection_type=external.connection_type,
    )
    await flow.attach(channel.channelvars)
