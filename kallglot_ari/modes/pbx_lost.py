"""PBX calls whose end was never told, for a CURRI call has none to tell: Kallglot is asked whether their sessions still live."""

from __future__ import annotations

from typing import Any, Protocol

from kallglot_ari import log
from kallglot_ari.calls.interfaces import Translator
from kallglot_ari.errors import ApiError, ApiNotFound

_log = log.get(__name__)

ASK_SECONDS = 1800.0
"""Age of a call when Kallglot is asked for the first time, and the time between two askings. A session that nobody talks in is ended
there after as long."""
ASK_AT_ONCE = 20
"""Calls asked about in one sweep."""


class Api(Translator, Protocol):
    """The API, which can also be asked how a session is."""

    async def get_session(self, session_id: str, *, base_url: str = "") -> dict[str, Any]:
        """:raises ApiError:"""
        ...


class LostCalls:
    """Whose turn it is to be asked about, and what Kallglot says."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._asked: dict[str, float] = {}

    def due(self, started: dict[str, float], now: float) -> list[str]:
        """Of the live calls with their times of start (unix seconds), those that should be asked about now."""
        self._asked = {call_id: at for call_id, at in self._asked.items() if call_id in started}
        silent = [
            call_id for call_id, at in started.items() if now - max(at, self._asked.get(call_id, 0.0)) >= ASK_SECONDS
        ][:ASK_AT_ONCE]
        self._asked |= dict.fromkeys(silent, now)
        return silent

    async def over(self, session_id: str, base_url: str) -> bool:
        """Whether the session has ended; what the API does not say is no."""
        try:
            session = await self._api.get_session(session_id, base_url=base_url)
        except ApiNotFound:
            return True
        except ApiError as error:
            _log.info("pbx_session_not_asked", session=session_id, error=str(error))
            return False
        return session.get("status") == "ended"
