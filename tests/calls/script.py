"""A call as a script: events in, commands out, every step stated."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from kallglot_ari.calls import commands as c
from kallglot_ari.calls import events as e
from kallglot_ari.calls.call import CallPlan
from kallglot_ari.calls.machine import CallMachine
from kallglot_ari.calls.model import DialplanStatus, EndReason, Session, SessionRequest
from kallglot_ari.calls.runner import INSTANT

C = TypeVar("C", bound=c.Command)
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
CALLER = "1700000000.1"


def session(n: int = 1) -> Session:
    return Session(f"sess_{n}", "bidirectional_translation", "ws://x", "kst_x", None)


def plan(**changes: object) -> CallPlan:
    base: dict[str, object] = {
        "call_id": "kg-t-1",
        "customer_channel": CALLER,
        "agents": ("PJSIP/agent",),
        "request": SessionRequest(source_language="de", target_language="en"),
    }
    return CallPlan(**{**base, **changes})  # type: ignore[arg-type]


class Script:
    """Feeds a machine and keeps what it asked for; commands are answered when the script says so."""

    def __init__(self, call: CallPlan | None = None) -> None:
        self.now = 100.0
        self.machine = CallMachine(call or plan(), self.now, EPOCH)
        self.all: list[c.Command] = []
        self.open: list[c.Command] = []
        self._take(self.machine.start())

    def _take(self, commands: list[c.Command]) -> list[c.Command]:
        self.all += commands
        self.open += [x for x in commands if not isinstance(x, INSTANT)]
        return commands

    def feed(self, event: e.Event, after: float = 0.01) -> list[c.Command]:
        self.now += after
        return self._take(self.machine.handle(event, self.now, EPOCH + timedelta(seconds=self.now)))

    def asked(self, kind: type[C], where: Callable[[C], bool] = lambda _: True) -> list[C]:
        return [x for x in self.all if isinstance(x, kind) and where(x)]

    def one(self, kind: type[C], where: Callable[[C], bool] = lambda _: True) -> C:
        found = self.asked(kind, where)
        assert len(found) == 1, f"expected one {kind.__name__}, found {found}"
        return found[0]

    def done(self, kind: type[c.Command] | None = None) -> None:
        """Everything (of a kind) that is open is carried out; media channels enter the application."""
        progress = True
        while progress:
            progress = False
            for command in list(self.open):
                if kind is not None and not isinstance(command, kind):
                    continue
                if isinstance(command, c.CreateSession | c.OpenStream | c.Dial):
                    continue
                self.open.remove(command)
                progress = True
                if isinstance(command, c.CreateMedia):
                    self.feed(e.ChannelEntered(command.channel_id, f"UnicastRTP/{command.leg}"))
                self.feed(e.Done(command))

    def kallglot_up(self, n: int = 1) -> None:
        create = next(x for x in self.open if isinstance(x, c.CreateSession))
        self.open.remove(create)
        self.feed(e.SessionCreated(create, session(n)))
        self.stream_up(n)

    def stream_up(self, n: int = 1) -> None:
        self.open.remove(next(x for x in self.open if isinstance(x, c.OpenStream)))
        self.feed(e.StreamUp(f"sess_{n}"))

    def agent_answers(self, index: int = 0) -> str:
        dial = self.asked(c.Dial)[index]
        if dial in self.open:
            self.open.remove(dial)
            self.feed(e.Done(dial))
        self.feed(e.ChannelEntered(dial.channel_id, f"{dial.endpoint}-0001"))
        return dial.channel_id

    def comes(self) -> str:
        """Who was dialled last answers."""
        channel = self.agent_answers(-1)
        self.done()
        return channel

    def leaves(self, channel: str) -> None:
        """A party hangs up."""
        for event in (e.HangupRequested(channel), e.ChannelLeft(channel), e.ChannelGone(channel)):
            self.feed(event)
        self.done()

    def refused(self, error: str = "503") -> None:
        """Kallglot creates no session."""
        create = next(x for x in self.open if isinstance(x, c.CreateSession))
        self.open.remove(create)
        self.feed(e.Failed(create, error))

    def talking(self) -> str:
        """An ordinary call, up to the point where both talk."""
        self.done()
        self.kallglot_up()
        self.done()
        agent = self.agent_answers()
        self.done()
        assert self.machine.state == "active"
        return agent

    def over(self, reason: EndReason, status: DialplanStatus) -> None:
        """All that is open is carried out; the call must be over, with every session ended once and nothing left."""
        self.done()
        finish = self.one(c.Finish)
        assert (finish.reason, finish.status) == (reason, status)
        assert self.machine.finished
        ended = [x.session_id for x in self.asked(c.EndSession)]
        assert len(ended) == len(set(ended))
        assert {x.session.id for x in self.asked(c.OpenStream)} <= set(ended)
        assert {x.bridge_id for x in self.asked(c.CreateBridge)} == {x.bridge_id for x in self.asked(c.DestroyBridge)}
        assert {x.channel_id for x in self.asked(c.CreateMedia)} == {x.channel_id for x in self.asked(c.RemoveMedia)}

    def variable(self, name: str) -> str | None:
        values = [x.value for x in self.asked(c.SetVariable) if x.name == name and x.channel_id == CALLER]
        return values[-1] if values else None

    @property
    def back_in_dialplan(self) -> bool:
        return bool(self.asked(c.ContinueInDialplan, lambda x: x.channel_id == CALLER))

    @property
    def caller_hung_up(self) -> bool:
        return bool(self.asked(c.Hangup, lambda x: x.channel_id == CALLER))
