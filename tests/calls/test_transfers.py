"""Transfers as scripts: who hears what on the way, and what is left behind."""

from __future__ import annotations

import pytest

from kallglot_ari.calls import commands as c
from kallglot_ari.calls import events as e
from kallglot_ari.calls.model import DialplanStatus, EndReason
from tests.calls.script import CALLER, Script


def music(s: Script, channel: str) -> list[bool]:
    return [x.on for x in s.asked(c.MusicOnHold, lambda x: x.channel_id == channel)]


def test_who_is_consulted_on_hold_and_given_to_another_call_hears_no_music_there() -> None:
    """RFC 5589 §7.1: the phone holds its second call, then sends REFER."""
    s = Script()
    consulted = s.talking()
    s.feed(e.HoldChanged(CALLER, True))
    s.feed(e.PartyGiven(consulted))
    assert music(s, consulted) == [True, False]


def test_who_waits_with_music_and_goes_to_the_dialplan_hears_no_music_there() -> None:
    s = Script()
    agent = s.talking()
    s.feed(e.HoldChanged(agent, True))
    commands = s.feed(e.DialplanAsked("customer", "voicemail", "1"))
    asked = [x for x in commands if isinstance(x, c.MusicOnHold | c.ContinueInDialplan)]
    assert asked == [c.MusicOnHold(CALLER, False), c.ContinueInDialplan(CALLER, "voicemail", "1", "1")]


def test_who_waits_with_music_and_goes_back_to_the_dialplan_hears_no_music_there() -> None:
    s = Script()
    agent = s.talking()
    s.feed(e.TransferAsked("agent", "PJSIP/2"))
    s.leaves(agent)
    assert music(s, CALLER) == [True]
    s.feed(e.ChannelGone(s.asked(c.Dial)[-1].channel_id, 19))
    assert s.back_in_dialplan
    assert music(s, CALLER) == [True, False]


def test_a_transfer_is_called_off_when_who_is_dialled_is_the_only_one_to_come() -> None:
    s = Script()
    agent = s.talking()
    s.feed(e.TransferAsked("agent", "PJSIP/2", referrer=agent))
    s.leaves(agent)
    s.feed(e.PartyDropped("agent"))
    s.open = [x for x in s.open if not isinstance(x, c.Dial)]
    s.over(EndReason.AGENT_HANGUP, DialplanStatus.COMPLETED)


@pytest.mark.parametrize("others", [0, 1])
def test_a_third_partys_transfer_is_called_off(others: int) -> None:
    s = Script()
    agent = s.talking()
    s.feed(e.PartyAsked("PJSIP/3", "third"))
    third = s.comes()
    if not others:
        s.leaves(agent)
    s.feed(e.TransferAsked("third", "PJSIP/9", referrer=third))
    s.leaves(third)
    assert s.machine.state == "active"
    s.feed(e.PartyDropped("third"))
    assert c.Hangup(s.asked(c.Dial)[-1].channel_id) in s.all, "nobody is dialled any more"
    assert s.machine.active is bool(others), "one alone is no call"
