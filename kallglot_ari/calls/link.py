"""The ladder between a call and Kallglot: create a session, open its stream, open it again, make a new session, give up, heal.

Every session that was created is ended exactly once; one whose creation is still under way is ended as soon as it is known.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from kallglot_ari.calls.commands import (
    CancelTimer,
    CloseStream,
    Command,
    CreateSession,
    EndSession,
    OpenStream,
    Publish,
    SetTimer,
)
from kallglot_ari.calls.model import AGENT, CUSTOMER, EndReason, Session, of_customer

RETRY_TIMER = "link.retry"
HEAL_TIMER = "link.heal"
STABLE_TIMER = "link.stable"
STREAM_RETRIES = (0.0, 0.3, 1.0, 2.0, 4.0)
"""Seconds before each attempt to open a stream again that was up before."""
OPENING_RETRIES = STREAM_RETRIES[1:]
"""The same of one that was never up."""
OPENING_SECONDS = 8.0
"""After its first failure; whatever the attempts take, one that was never up is tried twice, and no more after this."""
SESSION_RETRIES = 1
"""New sessions in place of one whose stream cannot be had any more, before the parties are connected directly."""
STABLE = 10.0
"""Seconds after which a stream that is up is taken as good: only then does the next loss begin at the first rung again."""
HEAL_FIRST, HEAL_LAST = 15.0, 300.0
"""Seconds between attempts to get translation back; doubled each time, since each may cost a credit."""


class LinkState(Enum):
    """Where the ladder stands."""

    IDLE = auto()
    CREATING = auto()
    OPENING = auto()
    OPEN = auto()
    WAITING = auto()
    DOWN = auto()
    CLOSED = auto()


@dataclass(slots=True)
class Link:
    """The sessions and streams, one at a time, of one pair of languages of a call."""

    call_id: str
    name: str = ""
    """Empty for the call's first."""
    source: str = ""
    """The language of those whose labels are `customer`, `customer-…`."""
    target: str = ""
    mode: str = ""
    state: LinkState = LinkState.IDLE
    session: Session | None = None
    ever_open: bool = False
    problem: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    """Leg → the speaker it is to Kallglot."""
    _created: int = 0
    _creating: CreateSession | None = None
    _keys: dict[str, str] = field(default_factory=dict)
    """Sessions that were created and not ended: id → key."""
    _stream_tries: int = 0
    _failing_since: float = 0.0
    _session_tries: int = 0
    _heal_delay: float = HEAL_FIRST
    _end_reason: EndReason = EndReason.COMPLETED

    @property
    def rung(self) -> str:
        """Where the ladder stands, as the API shows it."""
        if self.state is LinkState.OPEN:
            return "up"
        if self.state is LinkState.DOWN:
            return "down"
        if not self.ever_open:
            return "starting"
        return "new_session" if self._session_tries else "reconnecting"

    @property
    def failing(self) -> bool:
        """Its stream was never up and has failed twice; it is tried on for a while."""
        tried = self.state in (LinkState.WAITING, LinkState.OPENING)
        return tried and not self.ever_open and self._stream_tries > 1

    @property
    def settled(self) -> bool:
        """No session is being created, and none is left to be ended."""
        return self._creating is None and not self._keys

    @property
    def retry_timer(self) -> str:
        return f"{RETRY_TIMER}.{self.name}" if self.name else RETRY_TIMER

    @property
    def heal_timer(self) -> str:
        return f"{HEAL_TIMER}.{self.name}" if self.name else HEAL_TIMER

    @property
    def stable_timer(self) -> str:
        return f"{STABLE_TIMER}.{self.name}" if self.name else STABLE_TIMER

    def label(self, leg_id: str, speaker: str, *, of_source: bool) -> str:
        """What a leg is called on this link. Once given it stays, unless who is there now speaks the other language: Kallglot's
        contract knows `customer`, who speaks the source language, and whoever else there is.
        """
        given = self.labels.get(leg_id)
        if given is not None and of_customer(given) == of_source:
            return given
        used = set(self.labels.values())  # by one who has left, too: a speaker's time must never run back
        if given is not None:
            self.labels[f"{leg_id}.{len(self.labels)}"] = given
        if of_source:
            speaker = CUSTOMER if CUSTOMER not in used else f"{CUSTOMER}-{speaker}"
        elif speaker.startswith(CUSTOMER):
            speaker = f"{AGENT}-{speaker}"
        while speaker in used:
            speaker = f"{speaker}-{leg_id}"
        self.labels[leg_id] = speaker
        return speaker

    @property
    def created_count(self) -> int:
        """Sessions asked for."""
        return self._created

    @property
    def creating_key(self) -> str:
        """The key of a creation that is not answered; empty when there is none."""
        return self._creating.key if self._creating is not None else ""

    def key_of(self, session: Session) -> str:
        """The key under which a session was created that is not ended; empty for others."""
        return self._keys.get(session.id, "")

    def start(self) -> list[Command]:
        """Create the first session."""
        return self._create()

    def resume(self, session: Session | None, key: str, *, created: int, again: bool, ever_open: bool) -> list[Command]:
        """Go on where another process stopped, after `created` sessions.

        :param again: the last creation was not answered: ask once more under its key.
        """
        self._created, self.ever_open = created, ever_open
        if session is None:
            self._created -= again
            return self._create()
        self._keys[session.id] = key
        self.session = session
        self.state = LinkState.OPENING
        return [OpenStream(session, self.name)]

    def _create(self) -> list[Command]:
        self._created += 1
        prefix = f"{self.name}." if self.name else ""
        self._creating = CreateSession(
            f"{self.call_id}.{prefix}s{self._created}", self.name, self.source, self.target, self.mode
        )
        self.state = LinkState.CREATING
        return [self._creating]

    def created(self, command: Command, session: Session) -> list[Command]:
        """`CreateSession` succeeded."""
        if command != self._creating:
            return []
        key, self._creating = self._creating.key, None
        self._keys[session.id] = key
        if self.state is LinkState.CLOSED:
            return self._end(session.id, self._end_reason)
        self.session = session
        self.state = LinkState.OPENING
        return [Publish("session.created", {"session_id": session.id}), OpenStream(session, self.name)]

    def refused(self, command: Command, error: str) -> list[Command]:
        """`CreateSession` failed for good."""
        if command != self._creating:
            return []
        self._creating = None
        return [] if self.state is LinkState.CLOSED else self._down(f"no session: {error}")

    def stream_up(self, session_id: str) -> list[Command]:
        """The stream is ready."""
        if self.session is None or self.session.id != session_id or self.state is not LinkState.OPENING:
            return []
        self.state = LinkState.OPEN
        self.ever_open = True
        self.problem = ""
        return [
            Publish("stream.up", {"session_id": session_id}),
            CancelTimer(self.heal_timer),
            SetTimer(self.stable_timer, STABLE),
        ]

    def stream_down(self, session_id: str, reason: str, now: float, *, final: bool) -> list[Command]:
        """The stream did not open, or was lost. :param now: monotonic seconds."""
        if self.session is None or self.session.id != session_id:
            return []
        if self.state not in (LinkState.OPENING, LinkState.OPEN):
            return []
        told: list[Command] = [Publish("stream.down", {"session_id": session_id, "reason": reason})]
        if self.state is LinkState.OPEN:
            told.append(CancelTimer(self.stable_timer))
        self.problem = f"no stream: {reason}"
        retries = self._retries(now)
        if not final and self._stream_tries < len(retries):
            delay = retries[self._stream_tries]
            self._stream_tries += 1
            self.state = LinkState.WAITING
            told.append(
                Publish("ladder", {"step": "reconnect", "session_id": session_id, "attempt": self._stream_tries})
            )
            return [*told, SetTimer(self.retry_timer, delay)]
        self._stream_tries = 0
        told += self._end(session_id, EndReason.ERROR)
        if self.ever_open and self._session_tries < SESSION_RETRIES:
            self._session_tries += 1
            told.append(Publish("ladder", {"step": "new_session", "session_id": session_id, "reason": reason}))
            return told + self._create()
        return told + self._down(self.problem)

    def _retries(self, now: float) -> tuple[float, ...]:
        """Waits before each attempt to open the stream again, as far as there is time for them."""
        if self.ever_open:
            return STREAM_RETRIES
        if self._stream_tries == 0:
            self._failing_since = now
        return OPENING_RETRIES if now - self._failing_since < OPENING_SECONDS else OPENING_RETRIES[:1]

    def timer(self, name: str) -> list[Command]:
        """A timer ran out; those of other links mean nothing."""
        if name == self.retry_timer:
            return self._retry()
        if name == self.stable_timer:
            self._held()
        return self._heal() if name == self.heal_timer else []

    def _held(self) -> None:
        if self.state is LinkState.OPEN:
            self._stream_tries = self._session_tries = 0
            self._heal_delay = HEAL_FIRST

    def _retry(self) -> list[Command]:
        if self.state is not LinkState.WAITING or self.session is None:
            return []
        self.state = LinkState.OPENING
        return [OpenStream(self.session, self.name)]

    def _heal(self) -> list[Command]:
        return self._create() if self.state is LinkState.DOWN else []

    def _down(self, problem: str) -> list[Command]:
        self.state = LinkState.DOWN
        self.session = None
        self.problem = problem
        delay, self._heal_delay = self._heal_delay, min(self._heal_delay * 2, HEAL_LAST)
        return [SetTimer(self.heal_timer, delay)]

    def _end(self, session_id: str, reason: EndReason) -> list[Command]:
        key = self._keys.pop(session_id)
        if self.session is not None and self.session.id == session_id:
            self.session = None
        return [CloseStream(session_id), EndSession(key, session_id, reason)]

    def close(self, reason: EndReason) -> list[Command]:
        """The call is over: end what there is."""
        self.state = LinkState.CLOSED
        self._end_reason = reason
        timers = (self.retry_timer, self.heal_timer, self.stable_timer)
        commands: list[Command] = [CancelTimer(timer) for timer in timers]
        for session_id in list(self._keys):
            commands += self._end(session_id, reason)
        return commands
