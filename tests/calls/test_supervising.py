"""Supervisors as scripts: whom they speak to, and what is left when they step back."""

from __future__ import annotations

import pytest

from kallglot_ari.calls import commands as c
from kallglot_ari.calls import events as e
from kallglot_ari.calls.legs import Role
from kallglot_ari.calls.model import DialplanStatus, EndReason, SessionRequest
from tests.calls.script import CALLER, Script, plan


def supervised(role: Role, call: Script) -> str:
    call.feed(e.SuperviseAsked("PJSIP/supervisor", Role.LISTEN))
    channel = call.comes()
    call.feed(e.SuperviseChanged("supervisor", role))
    call.done()
    return channel


def test_who_has_broken_in_and_steps_back_from_one_alone_ends_the_call() -> None:
    s = Script()
    agent = s.talking()
    supervised(Role.PARTY, s)
    s.leaves(agent)
    assert s.machine.state == "active"
    s.feed(e.SuperviseChanged("supervisor", Role.LISTEN))
    s.over(EndReason.COMPLETED, DialplanStatus.COMPLETED)
    assert s.caller_hung_up


@pytest.mark.parametrize("role", [Role.LISTEN, Role.WHISPER])
def test_who_has_broken_in_and_steps_back_from_two_leaves_them_talking(role: Role) -> None:
    s = Script()
    s.talking()
    supervised(Role.PARTY, s)
    s.feed(e.SuperviseChanged("supervisor", role))
    s.done()
    assert s.machine.state == "active"
    assert len(s.machine.parties) == 2


def test_stepping_back_while_the_agent_is_dialled_ends_nothing() -> None:
    s = Script()
    s.done()
    s.kallglot_up()
    supervised(Role.PARTY, s)
    s.feed(e.SuperviseChanged("supervisor", Role.LISTEN))
    s.done()
    assert s.machine.active
    s.agent_answers()
    s.done()
    assert s.machine.state == "active"


def test_stepping_back_from_a_call_with_kallglot_alone_leaves_it() -> None:
    s = Script(plan(agents=(), request=SessionRequest(mode="ai_agent", source_language="de", target_language="de")))
    s.done()
    s.kallglot_up()
    s.done()
    supervised(Role.PARTY, s)
    s.feed(e.SuperviseChanged("supervisor", Role.LISTEN))
    s.done()
    assert s.machine.state == "active"
    assert s.asked(c.Route)[-1].speaks == (("customer", "", "customer"),)


def test_who_was_asked_to_consult_and_steps_back_leaves_nobody_waiting() -> None:
    s = Script()
    s.talking()
    supervised(Role.PARTY, s)
    s.feed(e.TransferAsked("supervisor", "PJSIP/9", consult=True))
    s.comes()
    assert s.asked(c.MusicOnHold)[-1].on
    s.feed(e.SuperviseChanged("supervisor", Role.LISTEN))
    assert not any(s.machine.parked(leg) for leg in s.machine.parties)
    assert not any(leg.music_on for leg in s.machine.parties)
    assert c.MusicOnHold(CALLER, False) in s.all
