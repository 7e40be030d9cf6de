"""Transfers as scripts: who hears what on the way, and what is left behind."""

from __future__ import annotations

from kallglot_ari.calls import commands as c
from kallglot_ari.calls import events as e
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
