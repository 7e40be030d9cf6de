"""The log of a call: one line that explains it when it is over, in every mode, and a warning where the parties hear it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from structlog.testing import capture_logs

from kallglot_ari.calls import commands as c
from kallglot_ari.calls import events as e
from kallglot_ari.calls.model import (
    CallView,
    DialplanStatus,
    EndReason,
    LegQuality,
    LegView,
    SipQuality,
)
from kallglot_ari.errors import ApiUnavailable
from kallglot_ari.modes.summary import NOT_REACHED, Course, line_of
from tests.modes.outbox_bench import KEY, REQUEST
from tests.modes.outbox_bench import Bench as Outboxes
from tests.modes.pbx_lab import Lab as PbxLab
from tests.modes.test_again import CALLER, NOBODY, Calls
from tests.modes.test_registry import Bench
from tests.modes.trunk_lab import Lab

STARTED = datetime(2026, 11, 28, 3, 0, tzinfo=UTC)


def test_the_seconds_without_translation_are_counted_over_all_the_times() -> None:
    course = Course()
    assert (course.untranslated(5), course.problem, course.lost) == (0.0, "", 0)
    for step, at in (("reconnect", 9), ("new_session", 10), ("direct", 10)):
        course.take("ladder", {"step": step}, at)
    course.take("call.degraded", {"reason": "no stream: refused"}, 10)
    course.take("call.degraded", {"reason": "no session: 402"}, 11)
    assert course.untranslated(14) == 4
    course.take("call.restored", {}, 15)
    course.take("call.restored", {}, 16)
    course.begin("no media channel", 20)
    assert (course.untranslated(22), course.problem, course.lost) == (7, "no media channel", 2)


def test_one_line_has_who_what_and_why() -> None:
    course = Course()
    course.begin("no session: 402", 100.0)
    sip = SipQuality(packets_received=990, packets_lost=10, packets_lost_there=3, mos=3.2)
    customer = LegView("customer", "1.1", "PJSIP/trunk-00000001", sip=sip)
    view = CallView(
        "kg-1", "sess_1", "ended", "m", "de", "en", STARTED, STARTED + timedelta(seconds=4), caller="+4930123",
        legs=[customer],
    )  # fmt: skip
    legs = {
        "customer": (LegQuality(packets_received=1000, packets_lost=10, packets_late=2, jitter_ms=7.04, mos=3.9), customer),
        "agent": (LegQuality(packets_received=5), None),
        "p1": (LegQuality(packets_sent=900), None),
    }  # fmt: skip
    finish = c.Finish(EndReason.CUSTOMER_HANGUP, DialplanStatus.COMPLETED)
    line = line_of(view, legs, course, 102.5, finish, STARTED + timedelta(seconds=10))
    assert line == {
        "kind": "media", "session": "sess_1", "caller": "+4930123", "end_reason": "customer_hangup", "status": "COMPLETED",
        "seconds": 10.0, "talked": 6.0, "mode": "m", "languages": "de>en",
        "untranslated": 2.5, "stream_losses": 0, "problem": "no session: 402",
        "customer_channel": "PJSIP/trunk-00000001", "customer_packets": 1000, "customer_lost": 10, "customer_late": 2,
        "customer_jitter_ms": 7.0, "customer_mos": 3.9,
        "customer_sip_lost": 10, "customer_sip_lost_there": 3, "customer_sip_mos": 3.2,
        "agent_packets": 5, "agent_lost": 0, "agent_late": 0, "agent_jitter_ms": 0.0, "agent_mos": 4.41,
        "p1_packets": 0, "p1_lost": 0, "p1_late": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("status", "problem"),
    [
        (DialplanStatus.UNAVAILABLE, "PJSIP/2: busy; PJSIP/3: Q.850 cause 127"),
        (DialplanStatus.COMPLETED, None),
    ],
)
def test_who_did_not_come_and_why_is_the_problem_of_a_call_that_went_on_in_the_dialplan(
    status: DialplanStatus, problem: str | None
) -> None:
    course = Course()
    course.take("leg.failed", {"endpoint": "PJSIP/1", "cause": 0}, 1)
    course.take("leg.joined", {"speaker": "agent", "channel": "PJSIP/9"}, 2)
    course.take("leg.failed", {"endpoint": "PJSIP/2", "cause": 17}, 3)
    course.take("leg.failed", {"endpoint": "PJSIP/3", "cause": 127}, 4)
    view = CallView("kg-1", "", "ended", "m", "de", "en", STARTED)
    line = line_of(view, {}, course, 5, c.Finish(EndReason.ERROR, status), STARTED)
    assert line.get("problem") == problem


async def test_an_agent_who_cannot_be_dialled_is_named_with_what_to_look_at() -> None:
    calls = Calls()
    calls.kallglot.set()
    calls.asterisk.refused = {"PJSIP/nobody"}
    with capture_logs() as logged:
        calls.asterisk.enters(CALLER, *NOBODY)
        await calls.until(lambda: not calls.runners, "the call is over")
    await calls.close()
    told = {line["event"]: line for line in logged}
    assert told["command_failed"]["error"] == told["call_finished"]["problem"] == f"PJSIP/nobody: {NOT_REACHED}"


async def test_a_call_whose_translation_is_lost_warns_and_its_last_line_says_so() -> None:
    bench = Bench()
    with capture_logs() as logged:
        await bench.up("kg-t-1")
        actions = bench.calls.actions("kg-t-1")
        assert actions is not None
        actions.apply(c.Publish("call.degraded", {"reason": "no session: 402"}))
        actions.apply(c.Publish("stream.down", {"session_id": "s", "reason": "closed"}))
        actions.apply(c.Publish("call.restored", {}))
        await bench.gone()
    await bench.outbox.stop(1)
    levels = {line["event"]: line["log_level"] for line in logged}
    assert (levels["call.degraded"], levels["stream.down"], levels["call.restored"]) == ("warning", "warning", "info")
    (last,) = (line for line in logged if line["event"] == "call_finished")
    assert (last["call"], last["problem"], last["log_level"]) == ("kg-t-1", "no session: 402", "info")
    assert last["untranslated"] >= 0


async def test_a_call_that_was_lost_says_so_whatever_was_wrong_before() -> None:
    bench = Bench()
    with capture_logs() as logged:
        await bench.up("kg-t-1")
        actions = bench.calls.actions("kg-t-1")
        actions.apply(c.Publish("call.degraded", {"reason": "no session: 402"}))
        actions.apply(c.Publish("call.restored", {}))
        finish = c.Finish(EndReason.ERROR, DialplanStatus.FAILED)
        assert actions.summary(finish, STARTED)["problem"] == "no session: 402"
        bench.calls.get("kg-t-1").post(e.AsteriskLost())
        await bench.gone()
    await bench.outbox.stop(1)
    (last,) = (line for line in logged if line["event"] == "call_finished")
    assert (last["end_reason"], last["problem"], last["log_level"]) == ("error", "Asterisk was started anew", "warning")


async def test_a_trunk_call_is_told_of_from_its_beginning_to_its_end(lab: Lab) -> None:
    with capture_logs() as logged:
        channel = lab.channel()
        await channel.agi("session", "source=de", "target=en")
        await channel.agi("end", "hangup=1")
        await lab.quiet()
    told = [line for line in logged if line.get("call")]
    assert [line["event"] for line in told][:2] == ["call.created", "session.created"]
    (last,) = (line for line in told if line["event"] == "call_finished")
    assert (last["kind"], last["session"], last["caller"], last["end_reason"]) == (
        "trunk", "sess_1", "4930123", "customer_hangup",
    )  # fmt: skip
    assert last["languages"] == "de>en"


@pytest.mark.parametrize(("reason", "level"), [(EndReason.COMPLETED, "info"), (EndReason.ERROR, "warning")])
async def test_a_pbx_call_is_told_of_too(reason: EndReason, level: str) -> None:
    lab = PbxLab()
    with capture_logs() as logged:
        await lab.pbx.incoming("c1", "+491", "+492")
        await lab.pbx.hangup("c1", reason)
    assert [(line["event"], line["log_level"]) for line in logged] == [
        ("call.created", "info"),
        ("call_finished", level),
    ]
    assert (logged[1]["caller"], logged[1]["kind"]) == ("+491", "pbx")


async def test_what_is_logged_of_a_session_that_is_not_ended_names_its_call(bench: Outboxes) -> None:
    await bench.outbox.start()
    session = await bench.outbox.create(KEY, "kg-a-1", REQUEST)
    bench.kallglot.end_errors = [ApiUnavailable("away")]
    with capture_logs() as logged:
        await bench.outbox.end(KEY, session.id, "completed")
    assert [(line["event"], line["call"]) for line in logged] == [("session_not_ended", "kg-a-1")]
