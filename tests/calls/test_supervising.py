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


@pytest.mark.parametrize("role", [Role.LISTEN, Role.WHISPER])
def test_who_waited_with_the_others_and_steps_back_hears_no_more_music(role: Role) -> None:
    s = Script()
    s.talking()
    supervisor = supervised(Role.PARTY, s)
    s.feed(e.TransferAsked("agent", "PJSIP/9", consult=True))
    s.comes()
    assert c.MusicOnHold(supervisor, True) in s.all
    s.feed(e.SuperviseChanged("supervisor", role))
    s.done()
    assert s.asked(c.MusicOnHold, lambda x: x.channel_id == supervisor)[-1] == c.MusicOnHold(supervisor, False)
    s.feed(e.SuperviseChanged("supervisor", Role.PARTY))
    assert s.asked(c.MusicOnHold, lambda x: x.channel_id == supervisor)[-1].on


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


def test_a_whisper_is_for_the_agent_alone() -> None:
    s = Script()
    s.talking()
    s.feed(e.PartyAsked("PJSIP/3", "third"))
    s.comes()
    supervised(Role.WHISPER, s)
    assert whispered(s) == ["agent"]


def test_a_whisper_to_whom_it_listens_alone() -> None:
    s = Script()
    s.talking()
    s.feed(e.PartyAsked("PJSIP/3", "third"))
    s.comes()
    supervised(Role.WHISPER, s)
    s.feed(e.SuperviseChanged("supervisor", Role.WHISPER, "third"))
    assert whispered(s) == ["third"]
    s.feed(e.SuperviseChanged("supervisor", Role.WHISPER, "customer"))
    assert whispered(s) == ["agent"], "never to the customer"


def test_a_whisper_reaches_who_has_taken_the_agents_place() -> None:
    s = Script()
    agent = s.talking()
    supervised(Role.WHISPER, s)
    s.feed(e.TransferAsked("agent", "PJSIP/9", consult=True))
    s.comes()
    assert whispered(s) == ["agent"]
    s.leaves(agent)
    assert [leg.speaker for leg in s.machine.parties] == ["customer", "party-3"]
    assert whispered(s) == ["party-3"]


def test_no_whisper_into_a_bridge_that_all_share() -> None:
    s = Script()
    s.talking()
    s.feed(e.PartyAsked("PJSIP/3", "third", "de"))
    s.comes()
    supervised(Role.WHISPER, s)
    s.leaves(CALLER)
    s.feed(e.StreamDown("sess_1", "1011", final=True))
    s.refused()
    s.done()
    assert s.machine.direct
    assert {leg.in_bridge_done for leg in s.machine.parties} == {s.machine.legs["agent"].bridge_id}
    assert whispered(s) == []


@pytest.mark.parametrize("whom", ["both", "agent"])
def test_who_listens_hears_as_they_are_those_it_wants_to_and_nobody_hears_it(whom: str) -> None:
    """Nor does Kallglot: a session for its language would be paid for nothing."""
    s = Script()
    s.talking()
    s.feed(e.SuperviseAsked("PJSIP/supervisor", Role.LISTEN, whom, language="fr"))
    s.comes()
    supervisor = s.machine.leg_named("supervisor")
    assert supervisor is not None
    heard = {x.other for x in s.asked(c.Hear, lambda x: x.leg == supervisor.id)}
    assert heard == ({"customer", "agent"} if whom == "both" else {"agent"})
    assert not s.asked(c.Hear, lambda x: x.other == supervisor.id)
    assert c.Uplink(supervisor.id, False) in s.all
    route = s.asked(c.Route)[-1]
    assert supervisor.id not in {leg for leg, *_ in (*route.speaks, *route.hears)}
    assert len(s.asked(c.CreateSession)) == 1


@pytest.mark.parametrize(("whom", "without"), [("both", ()), ("agent", ("customer",)), ("customer", ("agent",))])
def test_who_listens_to_the_translation_hears_each_once(whom: str, without: tuple[str, ...]) -> None:
    s = Script()
    s.talking()
    s.feed(e.SuperviseAsked("PJSIP/supervisor", Role.LISTEN, whom, translated=True))
    s.comes()
    supervisor = s.machine.leg_named("supervisor")
    assert supervisor is not None
    assert (supervisor.id, "", without) in s.asked(c.Route)[-1].hears
    assert not supervisor.originals, "it would hear them twice, one over the other"


def test_where_nobody_translates_who_listens_hears_the_bridge_that_all_share() -> None:
    s = Script()
    s.talking()
    supervised(Role.LISTEN, s)
    s.feed(e.StreamDown("sess_1", "1011", final=True))
    s.refused()
    s.done()
    supervisor = s.machine.leg_named("supervisor")
    assert supervisor is not None
    assert s.machine.direct
    assert set(supervisor.originals) == {s.machine.talking[0].id}, "its bridge has everybody's voice: once is enough"


def test_a_supervisor_who_leaves_changes_nothing_for_the_parties() -> None:
    s = Script()
    s.talking()
    channel = supervised(Role.WHISPER, s)
    supervisor = s.machine.leg_named("supervisor")
    assert supervisor is not None
    s.leaves(channel)
    assert s.machine.state == "active"
    assert set(s.machine.legs) == {"customer", "agent"}
    assert s.one(c.DestroyBridge).bridge_id == supervisor.bridge_id
    assert not s.asked(c.EndSession)


def test_a_full_call_takes_a_supervisor_who_listens_and_none_who_breaks_in() -> None:
    s = Script(plan(max_parties=2))
    s.talking()
    assert s.feed(e.SuperviseAsked("PJSIP/supervisor", Role.PARTY)) == []
    s.feed(e.SuperviseAsked("PJSIP/supervisor", Role.LISTEN))
    s.comes()
    assert s.feed(e.SuperviseChanged("supervisor", Role.PARTY)) == []
    assert len(s.machine.parties) == 2
    s.feed(e.SuperviseChanged("supervisor", Role.WHISPER))
    assert whispered(s) == ["agent"]


def test_there_are_no_more_supervisors_than_parties_may_be() -> None:
    s = Script(plan(max_parties=2))
    s.talking()
    for number in range(3):
        s.feed(e.SuperviseAsked(f"PJSIP/{number}", Role.LISTEN))
    assert [x.endpoint for x in s.asked(c.Dial)] == ["PJSIP/agent", "PJSIP/0", "PJSIP/1"]


def test_a_party_is_made_no_supervisor() -> None:
    """Else a slip of a name would take the agent out of its own call."""
    s = Script()
    s.talking()
    assert s.feed(e.SuperviseChanged("agent", Role.LISTEN)) == []
    assert s.feed(e.SuperviseChanged("nobody", Role.LISTEN)) == []
    assert len(s.machine.parties) == 2


@pytest.mark.parametrize("role", [Role.LISTEN, Role.PARTY])
def test_a_supervisor_who_changes_its_role_calls_off_no_consultation_of_others(role: Role) -> None:
    s = Script()
    s.talking()
    supervised(role, s)
    s.feed(e.TransferAsked("agent", "PJSIP/9", consult=True))
    s.comes()
    s.feed(e.SuperviseChanged("supervisor", Role.WHISPER))
    assert s.machine.parked(s.machine.legs["customer"])


def whispered(s: Script) -> list[str]:
    """Who hears the supervisor's own voice."""
    supervisor = s.machine.leg_named("supervisor")
    assert supervisor is not None
    return [leg.speaker for leg in s.machine.parties if supervisor.id in leg.originals]
