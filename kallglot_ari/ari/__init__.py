"""Asterisk's REST interface: operations and events, typed from Asterisk's own description.

Start with `AriClient`; `models` has the events, `kallglot_ari.errors` what can go wrong.
"""

from kallglot_ari.ari.client import AriClient
from kallglot_ari.ari.decode import AnyEvent, GenericEvent
from kallglot_ari.ari.resources import gone_is_fine, rtp_address
from kallglot_ari.ari.snapshot import Connected, Disconnected, Snapshot
from kallglot_ari.ari.socket import EventSink, SocketEvent

__all__ = [
    "AnyEvent",
    "AriClient",
    "Connected",
    "Disconnected",
    "EventSink",
    "GenericEvent",
    "Snapshot",
    "SocketEvent",
    "gone_is_fine",
    "rtp_address",
]
