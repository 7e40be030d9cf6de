"""Paid sessions, opened and closed through the outbox: whatever fails on the way, somebody still knows what has to be ended."""

from __future__ import annotations

import asyncio
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import asdict

from kallglot_ari import log
from kallglot_ari.calls import names
from kallglot_ari.calls.interfaces import CallStore, PendingSession, Translator
from kallglot_ari.calls.model import Session, SessionRequest
from kallglot_ari.clock import Clock
from kallglot_ari.errors import ApiError, ApiInvalid, KallglotAriError, StoreError
from kallglot_ari.modes.trunk_call import Opened
from kallglot_ari.tasks import Tasks

_log = log.get(__name__)


CLOSED_KEPT = 10_000
"""Closings remembered, so that none is done twice."""
AGAIN = 5.0
"""Seconds between two attempts to write down that a session shall end."""


class Sessions:
    """Opens and closes sessions. The order is always: written down, asked for, written down (the last behind the caller's back)."""

    def __init__(self, translator: Translator, store: CallStore, clock: Clock) -> None:
        self._translator = translator
        self._store = store
        self._clock = clock
        self._tasks = Tasks("sessions")
        self._later = Tasks("sessions.later")
        self._closing: OrderedDict[str, None] = OrderedDict()
        self._in_hand: set[str] = set()
        self._noting: dict[str, asyncio.Task[None]] = {}

    @property
    def in_hand(self) -> frozenset[str]:
        """Keys of the sessions that are being opened or closed at this moment: no work for a sweeper."""
        return frozenset(self._in_hand)

    async def stop(self, grace: float = 5.0) -> None:
        """Let closings that are under way come to their end; what is cut off stays in the outbox."""
        await self._tasks.join(grace)
        await self._tasks.close()
        await self._later.close()

    async def open(self, call_id: str, request: SessionRequest) -> Opened:
        """Create a session. If the caller is cancelled meanwhile, the session is closed as soon as it is there.

        :raises ApiError: it was not created. :raises StoreError: it could not be written down, and so was not asked for.
        """
        key = f"{call_id}-{uuid.uuid4().hex}"
        task = self._tasks.spawn(self._open(call_id, request, key), name=f"open-{call_id}")
        try:
            opened = await asyncio.shield(task)
        except asyncio.CancelledError:
            self._tasks.spawn(self._close_unwanted(task), name=f"unwanted-{call_id}")
            raise
        if isinstance(opened, KallglotAriError):
            raise opened
        return opened

    async def _open(self, call_id: str, request: SessionRequest, key: str) -> Opened | KallglotAriError:
        """What was expected to fail is returned: a task that raises is logged as a fault of ours."""
        self._in_hand.add(key)
        try:
            with log.of_call(call_id):
                return await self._opened(call_id, request, key)
        except (ApiError, StoreError) as error:
            return error
        finally:
            self._in_hand.discard(key)

    async def _opened(self, call_id: str, request: SessionRequest, key: str) -> Opened:
        at = self._clock.wall().timestamp()
        await self._store.session_intended(PendingSession(key, call_id, request=asdict(request), created_at=at))
        try:
            session = await self._translator.create_session(request, idempotency_key=key)
        except ApiError as error:
            # an answer that never came may stand for a session that is there: the sweeper asks again with the key
            if error.retryable and error.sent:
                await self._note_end(key, "error")
            else:
                await self._noted(key, lambda: self._store.session_ended(key))
            raise
        except asyncio.CancelledError:
            await asyncio.shield(self._store.session_to_end(key, "error"))
            raise
        if not names.SESSION.fullmatch(session.id):
            await self.close(Opened(key, session), "error")
            raise ApiInvalid(f"session id: expected letters, digits and -._~, found {session.id[:40]!r}", param="id")
        # The caller need not wait for this: until it is written, the key alone finds the session again.
        self._noting[key] = self._tasks.spawn(self._note(key, session), name=f"note-{session.id}")
        return Opened(key, session)

    async def _note(self, key: str, session: Session) -> None:
        try:
            await self._store.session_created(key, session.id, session.base_url)
        except StoreError as error:
            _log.error("session_not_noted", session=session.id, error=str(error))
        finally:
            self._noting.pop(key, None)

    async def _close_unwanted(self, task: asyncio.Task[Opened | KallglotAriError]) -> None:
        opened = await task
        if isinstance(opened, KallglotAriError):
            _log.info("session_not_wanted_and_not_had", error=str(opened))
        else:
            await self.close(opened, "error")

    async def close(self, opened: Opened, reason: str) -> bool:
        """End a session, once; what fails is left to the outbox's sweeper.

        :returns: True if this call ended it, or noted that it shall end; False if that was done before.
        """
        if opened.key in self._closing:
            return False
        self._closing[opened.key] = None
        if len(self._closing) > CLOSED_KEPT:
            self._closing.popitem(last=False)
        await asyncio.shield(self._tasks.spawn(self._close(opened, reason), name=f"close-{opened.session.id}"))
        return True

    async def _close(self, opened: Opened, reason: str) -> None:
        session = opened.session
        self._in_hand.add(opened.key)
        try:
            if (noting := self._noting.get(opened.key)) is not None:
                await asyncio.wait({noting})
            await self._note_end(opened.key, reason)
            with log.of_call(opened.key.rpartition("-")[0]):
                await self._translator.end_session(
                    session.id, reason, base_url=session.base_url, idempotency_key=f"{opened.key}-end"
                )
            await self._store.session_ended(opened.key)
        except (ApiError, StoreError) as error:
            _log.warning("session_end_left_to_the_sweeper", session=session.id, error=str(error))
        finally:
            self._in_hand.discard(opened.key)

    async def _note_end(self, key: str, reason: str) -> None:
        await self._noted(key, lambda: self._store.session_to_end(key, reason))

    async def _noted(self, key: str, write: Callable[[], Awaitable[None]]) -> None:
        """Let the store write what became of a session, or go on trying behind the caller's back. Nobody ends a session whose row does
        not say that it shall end, unless this process is started again; then one is bought for a row that should be gone.
        """
        try:
            await write()
        except StoreError as error:
            _log.error("session_end_not_noted", key=key, error=str(error))
            self._later.spawn(self._noted_later(key, write), name=f"note-end-{key}")

    async def _noted_later(self, key: str, write: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(AGAIN)
            try:
                await write()
            except StoreError as error:
                _log.debug("session_end_not_noted", key=key, error=str(error))
            else:
                return
