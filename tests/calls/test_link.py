"""The ladder to Kallglot of one pair of languages, by itself: what two of them may not share, and what comes too late begins nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kallglot_ari.calls import commands as c
from kallglot_ari.calls.link import OPENING_RETRIES, OPENING_SECONDS, STREAM_RETRIES, Link, LinkState
from kallglot_ari.calls.model import EndReason
from tests.calls.script import session


def pair(name: str = "") -> Link:
    return Link("kg-t-1", name, "de", "en", "bidirectional_translation")


def create(link: Link) -> c.CreateSession:
    (command,) = link.start()
    assert isinstance(command, c.CreateSession)
    return command


def opening(name: str = "", n: int = 1) -> Link:
    link = pair(name)
    link.created(create(link), session(n))
    return link


def is_up(name: str = "", n: int = 1) -> Link:
    link = opening(name, n)
    link.stream_up(f"sess_{n}")
    return link


def lost(link: Link, n: int = 1, now: float = 100.0) -> list[c.Command]:
    return link.stream_down(f"sess_{n}", "reset", now, final=False)


def is_down() -> Link:
    link = pair()
    link.refused(create(link), "503")
    return link


def is_waiting() -> Link:
    link = is_up()
    lost(link)
    return link


def creating() -> Link:
    link = pair()
    link.start()
    return link


def healing() -> Link:
    link = is_down()
    link.timer(link.heal_timer)
    return link


def closed() -> Link:
    link = is_down()
    link.close(EndReason.COMPLETED)
    return link


def timers(link: Link) -> set[str]:
    return {link.retry_timer, link.heal_timer, link.stable_timer}


def test_two_pairs_of_a_call_share_no_key_and_no_timer() -> None:
    """One key would give both the same session; one timer would be set for the one and be lost to the other."""
    links = [pair(), pair("l1"), pair("l2")]
    assert len({create(link).key for link in links}) == len(links)
    assert len(set[str]().union(*map(timers, links))) == 3 * len(links)


@pytest.mark.parametrize("make", [creating, opening, is_up, is_waiting, is_down, healing, closed])
def test_a_timer_that_ran_out_as_it_was_cancelled_costs_no_session(make: Callable[[], Link]) -> None:
    """It may be on its way already. Only who is down makes a new session, only who waits opens its stream again."""
    link = make()
    state = link.state
    for name in timers(link):
        if (state, name) in ((LinkState.DOWN, link.heal_timer), (LinkState.WAITING, link.retry_timer)):
            continue
        assert link.timer(name) == []
        assert link.state is state


def test_the_timers_of_another_pair_mean_nothing() -> None:
    for make in (is_waiting, is_down):
        link = make()
        assert [link.timer(name) for name in timers(pair("l1"))] == [[], [], []]


def test_a_stream_that_holds_for_another_pair_does_not_make_this_one_good() -> None:
    """Else one that is lost again and again would be opened again, and paid for again, without end."""
    link, other = is_up(), is_up("l1", 2)
    for attempt in range(1, len(STREAM_RETRIES) + 1):
        step = next(x for x in lost(link) if isinstance(x, c.Publish) and x.event == "ladder")
        assert step.data["attempt"] == attempt
        link.timer(link.retry_timer)
        link.stream_up("sess_1")
        for name in (other.stable_timer, link.heal_timer):
            link.timer(name)
    ends = [x for x in lost(link) if isinstance(x, c.EndSession)]
    assert [x.session_id for x in ends] == ["sess_1"]
    assert link.session is None


def test_a_stream_counts_as_good_only_while_it_is_up() -> None:
    """The timer that says so may have run out in the moment in which it was lost."""
    link = is_waiting()
    link.timer(link.stable_timer)
    link.timer(link.retry_timer)
    assert c.Publish("ladder", {"step": "reconnect", "session_id": "sess_1", "attempt": 2}) in lost(link)


def test_a_session_that_is_refused_after_the_pair_is_no_longer_needed_is_not_asked_for_again() -> None:
    link = pair()
    command = create(link)
    link.close(EndReason.COMPLETED)
    assert not link.settled
    assert link.refused(command, "503") == []
    assert link.state is LinkState.CLOSED
    assert link.settled


def test_a_stream_that_never_opened_ends_its_session_and_asks_for_no_other() -> None:
    """It has translated nothing yet; a new session would most likely end the same way, and cost again."""
    link = opening()
    assert c.SetTimer(link.retry_timer, OPENING_RETRIES[0]) in lost(link)
    assert link.timer(link.retry_timer) == [c.OpenStream(session(1))]
    commands = lost(link, now=100.0 + OPENING_SECONDS)
    assert c.EndSession("kg-t-1.s1", "sess_1", EndReason.ERROR) in commands
    assert not [x for x in commands if isinstance(x, c.CreateSession)]
    assert link.state is LinkState.DOWN


def test_the_rungs_as_the_api_names_them() -> None:
    link = pair()
    command = create(link)
    seen = [link.rung]
    link.created(command, session(1))
    seen.append(link.rung)
    assert link.stream_up("sess_1")[0] == c.Publish("stream.up", {"session_id": "sess_1"})
    seen.append(link.rung)
    assert lost(link)[0] == c.Publish("stream.down", {"session_id": "sess_1", "reason": "reset"})
    seen.append(link.rung)
    link.timer(link.retry_timer)
    seen.append(link.rung)
    link.stream_down("sess_1", "gone", 100.0, final=True)
    seen.append(link.rung)
    assert seen == ["starting", "starting", "up", "reconnecting", "reconnecting", "new_session"]
    assert is_down().rung == "down"


def test_who_speaks_the_source_language_is_a_customer_to_kallglot_and_nobody_else_is() -> None:
    """By that label Kallglot knows from which language to which it translates."""
    link = pair()
    assert link.label("customer", "customer", of_source=True) == "customer"
    assert link.label("agent", "agent", of_source=False) == "agent"
    assert link.label("p1", "party-3", of_source=True) == "customer-party-3"
    assert link.label("p2", "customer service", of_source=False) == "agent-customer service"
    other = pair("l1")
    assert other.label("p1", "party-3", of_source=True) == "customer"
    assert other.label("p2", "party-4", of_source=False) == "party-4"


def test_a_label_is_never_given_to_a_second_leg() -> None:
    """A speaker's time on the stream must never run back: who comes after one who left is somebody else."""
    link = pair()
    first = link.label("agent", "agent", of_source=False)
    assert link.label("p5", "agent", of_source=False) == "agent-p5"
    assert link.label("agent", "another name", of_source=False) == first


def test_whoever_speaks_the_source_language_is_a_customer_whatever_it_is_called() -> None:
    """`Stasis(kallglot,speaker=anna)`: as anybody but a customer it would be translated from the other language."""
    assert pair().label("customer", "anna", of_source=True) == "customer"


def test_a_leg_whose_party_speaks_the_other_language_now_is_called_otherwise() -> None:
    link = pair()
    assert link.label("customer", "customer", of_source=True) == "customer"
    assert link.label("agent", "agent", of_source=False) == "agent"
    assert link.label("agent", "agent", of_source=True) == "customer-agent"
    assert link.label("agent", "agent", of_source=False) == "agent-agent", "its first label's time must not run back"
    assert link.label("p9", "agent", of_source=False) == "agent-p9"
    assert link.label("agent", "agent", of_source=True) == "customer-agent-agent"
