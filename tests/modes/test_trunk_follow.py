"""Trunk calls followed over the manager interface: answered, moved, ended, and what happened while it was away."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kallglot_ari.ami import protocol as ami
from kallglot_ari.ami.client import AmiClient, ChannelInfo
from kallglot_ari.calls.model import EndReason, LegQuality
from kallglot_ari.errors import AmiError, AmiUnavailable
from kallglot_ari.modes.pbx_lost import ASK_SECONDS
from kallglot_ari.modes.trunk_book import YOUNG_SECONDS
from kallglot_ari.modes.trunk_call import TrunkCall
from tests.modes.trunk_lab import Lab, who


class Codecs:
    """Answers what a manager interface is asked of a channel, in turn; then it has nothing to say."""

    def __init__(self, answers: list[str | AmiUnavailable]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, str]] = []

    async def __call__(self, channel: str, name: str) -> str:
        self.asked.append((channel, name))
        answer = self.answers.pop(0) if self.answers else ""
        if isinstance(answer, AmiUnavailable):
            raise answer
        return answer


async def test_a_call_followed_over_ami(followed: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab, tell = followed, followed.follower.event
    codecs = Codecs(["(ulaw)"])
    monkeypatch.setattr(lab.follower.client, "variable", codecs)
    await lab.channel("1.1").agi("session")
    tell(ami.DialBegun(*who("1.1"), "1.2", "PJSIP/kallglot-00000001", "kallglot/sip:sess_1@sip.example;transport=tls"))
    assert lab.mode.calls()[0].state == "ringing"
    tell(ami.ChannelUp(*who("1.2")))
    tell(ami.ChannelUp(*who("1.2")))
    view = lab.mode.calls()[0]
    assert (view.state, [leg.state for leg in view.legs]) == ("active", ["up"])
    tell(ami.Digit(*who("1.1"), "5"))
    tell(ami.Digit(*who("1.2"), "6"))
    tell(ami.Held(*who("1.1"), True))
    assert lab.mode.calls()[0].legs[0].held
    tell(ami.Held(*who("1.1"), False))
    await lab.until(lambda: not codecs.answers)
    tell(ami.Rtcp(*who("1.2"), "sent", 100, 5, 0.05, 80, 0.1))
    tell(ami.Rtcp(*who("1.2"), "received", 120, 0, 0.0, 0, 0.1))
    view = lab.mode.calls()[0]
    assert [(d["speaker"], d["digit"]) for d in view.dtmf] == [("customer", "5")]
    quality = view.legs[0].quality
    assert (quality.packets_lost, quality.packets_received, quality.jitter_ms) == (5, 120, 10.0)
    assert 1 < quality.mos < 4.3
    tell(ami.HangupAsked(*who("1.1")))
    tell(ami.ChannelGone(*who("1.2"), 16, "Normal Clearing"))
    await lab.quiet()
    assert lab.api.ended == [("sess_1", "customer_hangup")]
    types = lab.hub.types()
    for event in ("call.created", "call.ringing", "call.answered", "dtmf", "hold", "unhold", "leg.quality", "leg.left"):
        assert event in types
    assert types.count("call.answered") == 1


@pytest.mark.parametrize(
    ("codec", "ms"), [("opus", 10.0), ("(opus|ulaw)", 10.0), ("(g722)", 60.0), ("(ulaw|opus)", 60.0), ("(nothing)", 0.0), ("", 0.0)]
)  # fmt: skip
async def test_jitter_is_told_by_the_clock_of_the_legs_codec(
    followed: Lab, monkeypatch: pytest.MonkeyPatch, codec: str, ms: float
) -> None:
    """And not at all before that is known: Asterisk counts it in ticks, of which Opus has six times as many."""
    lab, tell = followed, followed.follower.event
    codecs = Codecs([AmiUnavailable("not connected"), codec])
    monkeypatch.setattr(lab.follower.client, "variable", codecs)
    await lab.channel("1.1").agi("session")
    tell(ami.DialBegun(*who("1.1"), "1.2", "PJSIP/kallglot-00000001", "kallglot/sip:sess_1@sip.example;transport=tls"))
    tell(ami.ChannelUp(*who("1.2")))
    await lab.until(lambda: len(codecs.answers) == 1)
    await asyncio.sleep(0)
    report = ami.Rtcp(*who("1.2"), "sent", 100, 0, 0.0, 480, 0.1)
    tell(report)
    assert lab.mode.calls()[0].legs[0].quality.jitter_ms == 0.0
    await lab.until(lambda: not codecs.answers)
    await asyncio.sleep(0)
    tell(report)
    assert lab.mode.calls()[0].legs[0].quality.jitter_ms == ms
    assert set(codecs.asked) == {("1.2", "CHANNEL(audionativeformat)")}


async def test_who_hung_up_is_the_reason(followed: Lab) -> None:
    lab, tell = followed, followed.follower.event
    for number, (asks, reason) in enumerate(
        [(".1", "customer_hangup"), (".2", "completed"), ("", "customer_hangup")], 1
    ):
        link = f"{number}.1"
        await lab.channel(link).agi("session")
        tell(ami.DialBegun(*who(link, link), f"{number}.2", "PJSIP/kallglot-1", f"kallglot/sip:sess_{number}@h"))
        tell(ami.ChannelUp(*who(f"{number}.2", link)))
        if asks:
            tell(ami.HangupAsked(*who(f"{number}{asks}", link)))
        tell(ami.ChannelGone(*who(f"{number}.2", link), 16, ""))
        tell(ami.ChannelGone(*who(link, link), 16, ""))
        await lab.quiet()
        assert lab.api.ended[-1] == (f"sess_{number}", reason)
    assert len(lab.api.ended) == 3


@pytest.mark.parametrize(
    ("source", "reason"),
    [("PJSIP/phone-1.1", "customer_hangup"), ("PJSIP/kallglot-1.2", "completed"), ("PJSIP/stranger", "completed")],
)
async def test_the_channel_itself_knows_better_who_hung_up(followed: Lab, source: str, reason: str) -> None:
    lab, tell = followed, followed.follower.event
    caller = lab.channel("1.1")
    await caller.agi("session")
    tell(ami.DialBegun(*who("1.1"), "1.2", "PJSIP/kallglot-1.2", "kallglot/sip:sess_1@h"))
    tell(ami.ChannelUp(*who("1.2")))
    tell(ami.HangupAsked(*who("1.2")))  # the other channel's event came first
    leg = lab.channel("1.2", "1.1")
    leg.variables["${CHANNEL(hangupsource)}"] = source
    await leg.agi("end", "session=sess_1", "hangup=1")
    await lab.quiet()
    assert lab.api.ended == [("sess_1", reason)]


async def test_failover_legs_that_fail_do_not_end_the_call(followed: Lab) -> None:
    lab, tell = followed, followed.follower.event
    caller = lab.channel("1.1")
    await caller.agi("session")
    for leg in ("1.2", "1.3"):
        tell(ami.DialBegun(*who("1.1"), leg, "PJSIP/kallglot-1", "kallglot/sip:sess_1@sip.example"))
        tell(ami.HangupAsked(*who(leg)))
        tell(ami.ChannelGone(*who(leg), 38, "Network out of order"))
        assert lab.mode._book.get(lab.mode.calls()[0].id).asked_by == ""  # type: ignore[union-attr]
        assert lab.mode.calls()[0].state == "setup"
    await caller.agi("end")
    await lab.quiet()
    assert lab.api.ended == [("sess_1", "error")]


async def test_blind_transfer_moves_the_session(followed: Lab) -> None:
    lab, tell = followed, followed.follower.event
    caller = lab.channel("1.1")
    await caller.agi("session")
    tell(ami.DialBegun(*who("1.1"), "1.2", "PJSIP/kallglot-1", "kallglot/sip:sess_1@sip.example"))
    tell(ami.ChannelUp(*who("1.2")))
    tell(ami.HangupAsked(*who("1.1")))
    tell(ami.Transferred(*who("1.1"), "blind", True, "1002"))
    await caller.agi("end", "hangup=1")
    tell(ami.ChannelGone(*who("1.1"), 16, ""))
    assert lab.mode.calls()[0].state == "active"
    assert not lab.api.ended
    tell(ami.HangupAsked(*who("1.7")))
    tell(ami.ChannelGone(*who("1.7"), 16, ""))
    tell(ami.ChannelGone(*who("1.2"), 16, ""))
    await lab.quiet()
    assert lab.api.ended == [("sess_1", "customer_hangup")]


@pytest.mark.parametrize("answered", [False, True])
async def test_a_call_that_the_api_hangs_up_before_it_is_answered_leaves_nobody_to_the_next_endpoint(
    followed: Lab, monkeypatch: pytest.MonkeyPatch, answered: bool
) -> None:
    """With its leg alone hung up, the dialplan dialled the next one, and then went on without translation."""
    lab, hung_up = followed, []

    async def hangup(channel: str) -> bool:
        hung_up.append(channel)
        return True

    monkeypatch.setattr(lab.follower.client, "hangup", hangup)
    await lab.channel("1.1").agi("session")
    lab.follower.event(ami.DialBegun(*who("1.1"), "1.2", "PJSIP/kallglot-1", "kallglot/sip:sess_1@h"))
    if answered:
        lab.follower.event(ami.ChannelUp(*who("1.2")))
    await lab.mode.hangup(lab.mode.calls()[0].id)
    await lab.quiet()
    assert hung_up == (["1.2"] if answered else ["1.1", "1.2"])


async def test_a_call_does_not_take_the_leg_of_another_one_of_its_linkedid(
    followed: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Dial(Local/de@trunk&Local/fr@trunk)` is one Linkedid and two calls; the one that is not taken ends."""
    lab, tell = followed, followed.follower.event
    hung_up: list[str] = []

    async def hangup(channel: str) -> bool:
        hung_up.append(channel)
        return True

    monkeypatch.setattr(lab.follower.client, "hangup", hangup)
    second = lab.channel("2.1", "1.1")
    await lab.channel("1.1").agi("session")
    await second.agi("session")
    for number in (1, 2):
        tell(ami.DialBegun(*who(f"{number}.1"), f"{number}.2", "PJSIP/kallglot-1", f"kallglot/sip:sess_{number}@h"))
    tell(ami.ChannelUp(*who("1.2")))
    lab.follower.reconcile(
        [ChannelInfo(f"{n}.{m}", f"PJSIP/kallglot-0000000{n}" if m == 2 else f"PJSIP/x-{n}", "1.1", m == 2 and n == 1)
         for n in (1, 2) for m in (1, 2)]
    )  # fmt: skip
    await second.agi("end")
    await lab.until(lambda: len(lab.mode.calls()) == 1)
    assert hung_up == ["2.2"]
    tell(ami.ChannelGone(*who("1.2"), 16, ""))
    await lab.quiet()


async def test_an_attended_transfer_changes_the_linkedid(followed: Lab) -> None:
    lab, tell = followed, followed.follower.event
    await lab.channel("5.1").agi("session")
    tell(ami.DialBegun(*who("5.1", "5.1"), "5.2", "PJSIP/kallglot-1", "kallglot/sip:sess_1@sip.example"))
    tell(ami.ChannelUp(*who("5.2", "3.0")))
    tell(ami.Digit(*who("9.9", "3.0"), "1"))
    assert len(lab.mode.calls()[0].dtmf) == 1
    tell(ami.Digit(*who("9.9", "5.1"), "1"))
    assert len(lab.mode.calls()[0].dtmf) == 1
    tell(ami.ChannelGone(*who("5.2", "3.0"), 16, ""))
    await lab.quiet()


async def test_reconcile_ends_what_ended_while_ami_was_away(followed: Lab) -> None:
    lab, tell = followed, followed.follower.event
    for number in (1, 2, 3, 4):
        link = f"{number}.1"
        await lab.channel(link).agi("session")
        if number < 4:
            tell(ami.DialBegun(*who(link, link), f"{number}.2", "PJSIP/kallglot-1", f"kallglot/sip:sess_{number}@h"))
            tell(ami.ChannelUp(*who(f"{number}.2", link)))
    live = [
        ChannelInfo("1.1", "PJSIP/a-1", "1.1", True),
        ChannelInfo("1.2", "PJSIP/kallglot-00000001", "1.1", True),
        ChannelInfo("3.2", "PJSIP/kallglot-00000003", "3.1", True),
        ChannelInfo("4.7", "PJSIP/kallglot-2-0000000a", "4.1", True),
    ]
    assert lab.follower.reconcile(live) == 0, "too young to tell"
    lab.clock.advance(10)
    assert lab.follower.reconcile(live) == 1
    await lab.until(lambda: len(lab.api.ended) == 1)
    assert lab.api.ended[0][0] == "sess_2"
    assert {view.session_id for view in lab.mode.calls()} == {"sess_1", "sess_3", "sess_4"}
    assert lab.follower.reconcile([]) == 3
    await lab.quiet()


@pytest.mark.parametrize(("uptime", "reason"), [(30, "error"), (90, "customer_hangup")])
async def test_a_call_that_is_lost_with_asterisk_is_nobodys_hangup(followed: Lab, uptime: int, reason: str) -> None:
    lab, tell = followed, followed.follower.event
    await lab.channel("1.1").agi("session")
    tell(ami.DialBegun(*who("1.1"), "1.2", "PJSIP/kallglot-1", "kallglot/sip:sess_1@h"))
    tell(ami.ChannelUp(*who("1.2")))
    lab.clock.advance(60)
    tell(ami.Booted(uptime))
    assert lab.follower.reconcile([]) == 1
    await lab.until(lambda: lab.api.ended == [("sess_1", reason)])
    await lab.quiet()


async def test_calls_outlive_a_restart(followed: Lab) -> None:
    first = Lab(ami_user="kallglot", store=followed.store)
    await first.mode.start()
    await first.channel("1.1").agi("session", "source=de")
    tell = first.follower.event
    tell(ami.DialBegun(*who("1.1"), "1.2", "PJSIP/kallglot-1", "kallglot/sip:sess_1@h"))
    tell(ami.ChannelUp(*who("1.2")))
    await first.until(lambda: any(view.legs for view in first.store.calls.values()))
    await first.mode.stop(keep_calls=True)
    assert not first.api.ended
    second = Lab(ami_user="kallglot", store=first.store)
    await second.mode.start()
    assert [view.session_id for view in second.mode.calls()] == ["sess_1"]
    assert second.mode.calls()[0].source_language == "de"
    assert second.mode.live_keys() == set(first.store.pending)
    second.clock.advance(60)
    assert second.follower.reconcile([ChannelInfo("1.2", "PJSIP/kallglot-00000001", "1.1", True)]) == 0
    assert second.follower.reconcile([]) == 1
    await second.until(lambda: second.api.ended == [("sess_1", "customer_hangup")])
    await second.mode.stop()
    assert not second.store.pending


async def test_calls_of_another_instance_with_the_same_database_are_its_own(followed: Lab) -> None:
    await followed.channel("1.1").agi("session")
    (call_id,) = await followed.store.mappings("trunk")
    other = Lab(ami_user="kallglot", store=followed.store, instance="t2")
    await other.mode.start()
    assert other.mode.calls() == []
    await other.mode.stop()
    assert list(await followed.store.mappings("trunk")) == [call_id]


async def test_an_agent_who_joined_is_known_after_a_restart(followed: Lab) -> None:
    first = Lab(ami_user="kallglot", store=followed.store)
    await first.mode.start()
    await first.channel("1.1").agi("session")
    (view,) = first.mode.calls()
    await first.channel("2.1").agi("session", "join=sess_1")
    first.mode._book.get(view.id).agent_expected = True  # type: ignore[union-attr]
    await first.channel("1.2", "1.1").agi("answered", "session=sess_1", "party=1.1")
    await first.mode.stop(keep_calls=True)
    second = Lab(ami_user="kallglot", store=first.store)
    await second.mode.start()
    second.follower.event(ami.ChannelGone("2.1", "PJSIP/2-1", "2.1", 16, ""))
    await second.until(lambda: second.api.ended == [("sess_1", "agent_hangup")])
    await second.mode.stop()


@pytest.mark.parametrize("answer", ["No such channel", "Permission denied"])
async def test_a_call_on_another_asterisk_is_not_ended_by_this_ones_list(
    followed: Lab, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    """Of two Asterisks that ask the same FastAGI the manager interface knows one."""
    lab, asked = followed, []

    async def variable(channel: str, name: str) -> str:
        asked.append((channel, name))
        raise AmiError(answer)

    monkeypatch.setattr(AmiClient, "connected", property(lambda _: True))
    monkeypatch.setattr(lab.follower.client, "variable", variable)
    lab.api.gate.clear()
    running = asyncio.get_running_loop().create_task(lab.channel("1.1").agi("session"))
    await lab.until(lambda: asked == [("1.1", "UNIQUEID")])
    await asyncio.sleep(0.01)
    lab.api.gate.set()
    await running
    lab.clock.advance(60)
    ended = 1 if answer == "Permission denied" else 0
    assert lab.follower.reconcile([ChannelInfo("7.1", "PJSIP/a-1", "7.1", True)]) == ended
    if not ended:
        await lab.channel("1.1").agi("end", "hangup=1")
    await lab.quiet()


@pytest.mark.parametrize("change", [{"elsewhere": True}, {"reason": EndReason.TIMEOUT}])
async def test_where_a_call_is_is_not_asked_when_it_is_known_or_over(
    followed: Lab, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    lab, asked = followed, []

    async def variable(channel: str, _: str) -> str:
        asked.append(channel)
        return channel

    monkeypatch.setattr(AmiClient, "connected", property(lambda _: True))
    monkeypatch.setattr(lab.follower.client, "variable", variable)
    call = TrunkCall("t-1", "m", "de", "en", lab.clock.wall(), "PJSIP/a-1", "1.1", "1.1", **change)
    lab.mode._book.in_script.add("1.1")
    lab.mode._book.index(call)
    await asyncio.sleep(0)
    assert asked == []
    call.elsewhere, call.reason = False, None
    lab.mode._book.index(call)
    await asyncio.sleep(0)
    assert asked == ["1.1"]


async def test_a_call_on_another_asterisk_whose_end_nobody_told_is_ended_when_its_session_is(followed: Lab) -> None:
    lab = followed
    await lab.channel("1.1").agi("session")
    (call,) = lab.mode._book
    call.elsewhere = True
    lab.clock.advance(ASK_SECONDS)
    assert await lab.mode._lost.sweep() == 0
    lab.api.idle.add("sess_1")
    assert await lab.mode._lost.sweep() == 0, "not yet again"
    lab.clock.advance(ASK_SECONDS)
    assert await lab.mode._lost.sweep() == 1
    await lab.quiet()
    assert lab.api.ended == [("sess_1", "timeout")]


async def test_a_list_that_is_older_than_a_leg_does_not_say_that_it_is_gone(followed: Lab) -> None:
    """A leg that is dialled while Asterisk's list is on its way; a call lives for long before that, while its first endpoint does not answer."""
    lab, tell = followed, followed.follower.event
    await lab.channel("1.1").agi("session")
    lab.clock.advance(10)
    older = [ChannelInfo("1.1", "PJSIP/phone-1.1", "1.1", True)]
    tell(ami.DialBegun("1.1", "PJSIP/phone-1.1", "1.1", "1.2", "PJSIP/kallglot-00000001", "kallglot/sip:sess_1@x"))
    lab.follower.reconcile(older)
    tell(ami.ChannelUp(*who("1.2", "1.1")))
    (view,) = lab.mode.calls()
    assert (view.state, [leg.state for leg in view.legs]) == ("active", ["up"])
    lab.clock.advance(YOUNG_SECONDS)
    assert lab.follower.reconcile(older) == 1, "but one that is as old is gone"
    await lab.quiet()


async def test_what_was_pressed_and_heard_before_a_restart_is_not_forgotten() -> None:
    lab = Lab(ami_user="kallglot")
    await lab.mode.start()
    await lab.channel("1.1").agi("session")
    tell = lab.follower.event
    tell(ami.DialBegun(*who("1.1"), "1.2", "PJSIP/kallglot-00000001", "kallglot/sip:sess_1@x"))
    tell(ami.Digit(*who("1.1"), "5"))
    (call,) = lab.mode._book
    call.legs["1.2"].quality = LegQuality(mos=3.3)
    lab.mode._book.save(call)
    await lab.mode.stop(keep_calls=True)
    again = Lab(ami_user="kallglot", store=lab.store)
    await again.mode.start()
    (view,) = again.mode.calls()
    assert [digit["digit"] for digit in view.dtmf] == ["5"]
    assert view.legs[0].quality.mos == 3.3
    await again.mode.stop()
