"""Media channels that are lost, and bridges when nobody translates, as scripts."""

from __future__ import annotations

import pytest

from kallglot_ari.calls import commands as c
from kallglot_ari.calls import events as e
from kallglot_ari.calls.legs import MEDIA_STABLE, MEDIA_TRIES, Thing
from tests.calls.script import CALLER, Script


def lose_media(s: Script, *, after: float) -> None:
    channel = s.machine.legs["customer"].media_id
    s.feed(e.ChannelLeft(channel), after=after)
    s.feed(e.ChannelGone(channel))
    s.done()


def test_media_that_is_lost_again_and_again_over_hours_is_made_again_each_time() -> None:
    s = Script()
    s.talking()
    for _ in range(2 * MEDIA_TRIES):
        lose_media(s, after=1800)
        assert s.machine.legs["customer"].connected
        assert not s.machine.direct
    names = [x.channel_id for x in s.asked(c.CreateMedia)]
    assert len(names) == len(set(names))


def test_media_that_does_not_hold_is_given_up() -> None:
    s = Script()
    s.talking()
    for _ in range(MEDIA_TRIES):
        lose_media(s, after=MEDIA_STABLE / 2)
    assert s.machine.legs["customer"].media is Thing.GONE
    assert s.machine.direct
    assert s.machine.problem == "no media channel"


def test_media_that_was_given_up_is_made_again_later_and_translation_comes_back() -> None:
    """Asterisk had no port left for it, say: the parties talk directly until it has."""
    s = Script()
    s.talking()
    for _ in range(MEDIA_TRIES):
        lose_media(s, after=0.01)
    waits = []
    for _ in range(2):
        waits.append(s.asked(c.SetTimer, lambda x: x.name == "media.customer")[-1].delay)
        s.feed(e.TimerFired("media.customer"), after=waits[-1])
        create = next(x for x in s.open if isinstance(x, c.CreateMedia))
        s.open.remove(create)
        s.feed(e.Failed(create, "500 no port"))
        s.done()
        assert s.machine.direct
    assert waits == [15.0, 30.0]
    s.feed(e.TimerFired("media.customer"), after=60)
    assert s.machine.direct, "not before it is there"
    s.done()
    assert not s.machine.direct
    assert all(leg.connected for leg in s.machine.parties)
    lose_media(s, after=MEDIA_STABLE)
    assert s.machine.legs["customer"].connected


def test_media_of_one_who_has_left_is_not_made_again() -> None:
    s = Script()
    s.talking()
    s.feed(e.PartyAsked("PJSIP/3", "expert"))
    expert = s.comes()
    leg = s.machine.leg_of(expert)
    assert leg is not None
    for _ in range(MEDIA_TRIES):
        s.feed(e.ChannelGone(leg.media_id))
        s.done()
    assert s.machine.direct
    s.leaves(expert)
    assert not s.machine.direct
    asked = len(s.asked(c.CreateMedia))
    s.feed(e.TimerFired(f"media.{leg.id}"), after=15)
    assert len(s.asked(c.CreateMedia)) == asked


def untranslated(s: Script) -> None:
    """Kallglot ends the session and refuses another one."""
    s.feed(e.StreamDown("sess_1", "1011", final=True))
    s.refused()
    s.done()
    assert s.machine.direct


def test_who_waits_while_two_consult_hears_nothing_of_it_though_nobody_translates() -> None:
    s = Script()
    agent = s.talking()
    untranslated(s)
    s.feed(e.TransferAsked("agent", "PJSIP/9", consult=True))
    s.comes()
    customer, *consulting = s.machine.parties
    assert customer.in_bridge_done == customer.bridge_id
    assert {leg.in_bridge_done for leg in consulting} == {consulting[0].bridge_id}
    assert [leg.music_on for leg in s.machine.parties] == [True, False, False]
    s.leaves(agent)
    assert {leg.in_bridge_done for leg in s.machine.parties} == {customer.bridge_id}, "then they are together"
    assert not any(leg.music_on for leg in s.machine.parties)


def test_those_who_consult_are_told_that_nobody_translates_and_who_waits_is_not() -> None:
    s = Script()
    s.talking()
    s.feed(e.TransferAsked("agent", "PJSIP/9", consult=True))
    s.comes()
    untranslated(s)
    assert s.asked(c.Tone) == [c.Tone("agent")]


def test_who_waits_alone_for_a_transfer_hears_music_though_nobody_translates() -> None:
    s = Script()
    agent = s.talking()
    untranslated(s)
    s.feed(e.TransferAsked("agent", "PJSIP/9"))
    s.leaves(agent)
    assert s.asked(c.MusicOnHold) == [c.MusicOnHold(CALLER, True)]
    s.comes()
    assert s.asked(c.MusicOnHold)[1:] == [c.MusicOnHold(CALLER, False)]


def test_when_nobody_translates_asterisk_plays_the_music_of_a_hold() -> None:
    s = Script()
    agent = s.talking()
    untranslated(s)
    s.feed(e.HoldChanged(agent, True))
    assert s.asked(c.MusicOnHold) == []


@pytest.mark.parametrize("direct", [True, False])
def test_all_who_were_in_a_bridge_that_is_gone_are_together_again_and_nobody_else_is_moved(direct: bool) -> None:
    """Somebody destroyed it from outside; two who share it would else hear each other no more."""
    s = Script()
    agent = s.talking()
    if direct:
        untranslated(s)
    before = len(s.all)
    s.feed(e.BridgeGone(s.machine.legs["customer"].bridge_id))
    s.done()
    bridge = s.machine.legs["customer"].bridge_id
    placed = {x.channel_id for x in s.all[before:] if isinstance(x, c.AddToBridge)} & {CALLER, agent}
    assert placed == ({CALLER, agent} if direct else {CALLER})
    assert {leg.in_bridge_done for leg in s.machine.parties} == (
        {bridge} if direct else {bridge, s.machine.legs["agent"].bridge_id}
    )
    assert s.machine.state == "active"
