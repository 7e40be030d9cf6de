"""What is there when the event socket opens: events are not replayed, so this is where every (re)connect begins."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from kallglot_ari.ari.models import Application, AsteriskInfo, Bridge, Channel
from kallglot_ari.ari.operation import Requests
from kallglot_ari.ari.operations import Applications, Bridges, Channels
from kallglot_ari.ari.versions import Version
from kallglot_ari.errors import AriNotFound


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Asterisk as it was just after the socket opened; events that came since follow it, and may say the same again."""

    version: Version
    info: AsteriskInfo
    application: Application | None
    """Ours, with the ids it is subscribed to; None when another service took the name meanwhile."""
    channels: tuple[Channel, ...]
    """All channels, not only ours."""
    bridges: tuple[Bridge, ...]
    """All bridges, not only ours."""


@dataclass(frozen=True, slots=True)
class Connected:
    """The event socket is open. Whatever was known before is to be compared with `snapshot`."""

    snapshot: Snapshot
    again: bool
    """Not the first time in this client's life."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The event socket is closed; nothing is heard of any channel until the next `Connected`."""

    reason: str


async def take(requests: Requests, app: str, info: AsteriskInfo, version: Version) -> Snapshot:
    """Ask for everything at once. :raises AriError:"""

    async def application() -> Application | None:
        try:
            return await Applications(requests).get(app)
        except AriNotFound:
            return None

    ours, channels, bridges = await asyncio.gather(application(), Channels(requests).list(), Bridges(requests).list())
    return Snapshot(version, info, ours, channels, bridges)
