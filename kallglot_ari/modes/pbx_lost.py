"""Calls whose end may never be told, as a CURRI call's: Kallglot is asked whether their sessions still live."""

from __future__ import annotations

from typing import Any, Protocol

from kallglot_ari import log
from kallglot_ari.calls.interfaces import Translator
from kallglot_ari.errors import ApiError, ApiNotFound

_log = log.get(__name__)

ASK_SECONDS = 2400.0
"""Age of a call when Kallglot is asked for the first time, and the time between two askings. A session that nobody talks in is ended
there after 30 minutes: asked sooner, it might be kept alive by the question."""
ASK_AT_ONCE = 20
"""Calls asked about in one sweep."""
LOOK_SECONDS, LOOK_AT_ONCE = 60.0, 100
"""The same of looking whether another instance, which shares the database, was told of a call's end."""


class Api(Translator, Protocol):
    """The API, which can also be asked how a session is."""

    async def get_session(self, session_id: str, *, base_url: str = "") -> dict[str, Any]:
        """:raises ApiError:"""
        ...


class Turns:
    """Whose turn it is: of each call every `seconds`, and no more than `at_once`."""

    def __init__(self, seconds: float, at_once: int) -> None:
        self._seconds, self._at_once = seconds, at_once
        self._had: dict[str, float] = {}

    def due(self, started: dict[str, float], now: float) -> list[str]:
        """Of the live calls with their times of start (unix seconds), those whose turn it is now."""
        self._had = {call_id: at for call_id, at in self._had.items() if call_id in started}
        due = [
            call_id for call_id, at in started.items() if now - max(at, self._had.get(call_id, 0.0)) >= self._seconds
        ][: self._at_once]
        self._had |= dict.fromkeys(due, now)
        return due


class LostCalls:
    """Whose turn it is to be asked about, and what Kallglot says."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.due = Turns(ASK_SECONDS, ASK_AT_ONCE).due

    async def over(self, session_id: str, base_url: str) -> bool:
        """Whether the session has ended; what the API does not say is no."""
        try:
            session = await self._api.get_session(session_id, base_url=base_url)
        except ApiNotFound:
            return True
        except ApiError as error:
            _log.info("session_not_asked", session=session_id, error=str(error))
            return False
        return session.get("status") == "ended"
