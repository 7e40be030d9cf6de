"""Media channels that are lost, and bridges when nobody translates, as scripts."""

from __future__ import annotations

from kallglot_ari.calls import commands as c
from kallglot_ari.calls import events as e
from kallglot_ari.calls.legs import MEDIA_STABLE, MEDIA_TRIES, Thing
from tests.calls.script import Script


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
