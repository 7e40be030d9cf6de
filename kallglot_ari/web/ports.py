"""What the web server needs of the rest of the service, beside the calls core: each a Protocol, implemented elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol


class Health(Protocol):
    """How the service is. Each answers with the reasons why not, in plain words; empty when all is well."""

    async def live(self) -> list[str]:
        """Is the process itself in order? A restart is expected to cure what is named here."""
        ...

    async def ready(self) -> list[str]:
        """Can it take a call: ARI connected, API reachable, store writable?"""
        ...


Waits = Callable[[], bool]
"""Whether who asked still waits for the answer."""


class PbxService(Protocol):
    """Any PBX asks where to route a call. :raises KallglotAriError: when no session could be had."""

    async def incoming(self, call_id: str, from_: str, to: str, *, waits: Waits, **extra: Any) -> dict[str, Any]:
        """``{action: "route", destination: "sip:…@…", session_id, …}``; again with the same call id: the same answer."""
        ...

    async def hangup(self, call_id: str) -> bool:
        """End the call's session; False when it is unknown or ended already."""
        ...

    async def prepare(self, **parameters: Any) -> dict[str, Any]:
        """A session ahead of its call: ``{session_id, destination, expires_at, …}``."""
        ...

    async def refer(self, session_id: str, refer_to: str, referred_by: str) -> dict[str, Any]:
        """Answer a REFER notification: ``{accept, new_session_id?}``."""
        ...

    async def freeswitch_dialplan(self, form: Mapping[str, str], *, waits: Waits) -> str:
        """The XML document that mod_xml_curl asks for."""
        ...

    async def cucm_curri(self, body: str, *, waits: Waits) -> str:
        """The XACML response to a CURRI (external call control) request."""
        ...


SessionEnded = Callable[[str, str], None]
"""Told the id of a session that Kallglot says has ended, and the reason if it gives one. Called on the event loop, once for each; must not block."""
