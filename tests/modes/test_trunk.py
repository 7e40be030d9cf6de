"""Trunk mode against an API in memory and a dialplan that speaks FastAGI: every session created is ended, once."""

from __future__ import annotations

import asyncio
import random
import re
from typing import Any

import pytest

from kallglot_ari.agi import server
from kallglot_ari.ami import protocol as ami
from kallglot_ari.calls.model import Session
from kallglot_ari.errors import (
    ApiCreditsExhausted,
    ApiError,
    ApiInvalid,
    ApiRateLimited,
    ApiUnauthorized,
    ApiUnavailable,
    StoreError,
    UsageError,
)
from kallglot_ari.kallglot.http import NotSent
from kallglot_ari.modes import trunk_book, trunk_sessions
from kallglot_ari.modes.trunk_scripts import read_arguments
from kallglot_ari.settings import KallglotSettings
from tests.modes.trunk_lab import Lab, who

pytestmark = pytest.mark.real_time


async def test_session_sets_what_the_dialplan_needs(lab: Lab) -> None:
    found = await lab.channel().agi("session", "source=de", "target=en-GB", "metadata.Order=7")
    assert found["SESSION_ID"] == "sess_1"
    assert found["KALLGLOT_URIS"] == (
        "PJSIP/kallglot/sip:sess_1@sip.example;transport=tls&PJSIP/kallglot-2/sip:sess_1@eu.example:5071;transport=tls"
    )
    assert found["KALLGLOT_TIMEOUT"] == "3"
    request = lab.api.requests[0]
    assert (request.source_language, request.target_language, request.trunk) == ("de", "en-GB", True)
    assert request.metadata == {"Order": "7", "call_id": lab.mode.calls()[0].id}
    assert request.from_uri == "sip:4930123@sip.kallglot.com"
    assert lab.store.log[:2] == ["intended", "created"]
    assert lab.mode.live_keys() == set(lab.store.pending)
    assert lab.metric("kallglot_calls_active") == 1


async def test_chan_sip_dials_by_peer(lab: Lab) -> None:
    found = await lab.channel().agi("session", "tech=sip")
    assert found["KALLGLOT_URIS"] == "SIP/kallglot/sess_1&SIP/kallglot-2/sess_1"


async def test_end_ends_once_however_often_it_is_told(lab: Lab) -> None:
    channel = lab.channel()
    await channel.agi("session")
    await asyncio.gather(
        *(channel.agi("end", "hangup=1") for _ in range(5)), lab.channel("9").agi("end", "session=sess_1", "hangup=1")
    )
    await lab.quiet()
    await channel.agi("end")
    assert lab.api.ended == [("sess_1", "customer_hangup")]
    assert lab.store.log.count("ended") == 1
    assert lab.store.log.index("to_end") < lab.store.log.index("ended")
    call = next(iter(lab.store.calls.values()))
    assert (call.state, call.kind, call.end_reason) == ("ended", "trunk", "customer_hangup")
    assert lab.hub.types()[-1] == "call.ended"
    assert lab.metric("kallglot_calls_total", end_reason="customer_hangup") == 1
    assert lab.metric("kallglot_calls_active") == 0
    assert await lab.store.mappings("trunk") == {}


async def test_session_twice_on_one_channel_is_one_session(lab: Lab) -> None:
    channel = lab.channel()
    assert (await channel.agi("session"))["SESSION_ID"] == (await channel.agi("session"))["SESSION_ID"] == "sess_1"
    assert len(lab.api.created) == 1


@pytest.mark.parametrize(
    ("error", "status", "pending"),
    [
        (ApiUnavailable("down", status=503), "UNAVAILABLE", 1),
        (NotSent("refused"), "UNAVAILABLE", 0),
        (ApiRateLimited("later", status=429), "UNAVAILABLE", 0),
        (ApiUnauthorized("key", status=401), "UNAVAILABLE", 0),
        (ApiCreditsExhausted("pay", status=402), "UNAVAILABLE", 0),
        (ApiInvalid("language", status=422, param="source_language"), "FAILED", 0),
    ],
)
async def test_no_session(lab: Lab, error: ApiError, status: str, pending: int) -> None:
    lab.api.create_error = error
    assert await lab.channel().agi("session") == {"SESSION_ID": "", "KALLGLOT_STATUS": status}
    await lab.until(lambda: not lab.mode.calls())
    # what may have been created is left for the sweeper to ask again and end
    assert [row.reason for row in lab.store.pending.values()] == ["error"] * pending


async def test_a_store_that_cannot_write_costs_nothing(lab: Lab) -> None:
    lab.store.fail = True
    assert (await lab.channel().agi("session"))["KALLGLOT_STATUS"] == "UNAVAILABLE"
    assert not lab.api.created


@pytest.mark.parametrize("session_id", ["a&PJSIP/evil", "a,30", "a@b", "", "a b", "x" * 200, "${EVIL}"])
async def test_a_session_id_that_means_something_to_the_dialplan_is_refused(lab: Lab, session_id: str) -> None:
    lab.api.next_id = session_id or " "
    assert (await lab.channel().agi("session"))["KALLGLOT_STATUS"] == "FAILED"
    await lab.quiet()
    assert len(lab.api.ended) == 1


@pytest.mark.parametrize("how", ["vanish", "hang_up"])
async def test_a_caller_who_leaves_while_the_session_is_being_created(lab: Lab, how: str) -> None:
    lab.api.gate.clear()
    channel = lab.channel()
    running = asyncio.get_running_loop().create_task(channel.agi("session"))
    await lab.api.asked.wait()
    getattr(channel, how)()
    await lab.until(lambda: not lab.mode.calls())
    lab.api.gate.set()
    await lab.quiet()
    assert len(lab.api.ended) == 1
    (call,) = lab.store.calls.values()
    assert (call.end_reason, call.status) == ("customer_hangup", "COMPLETED"), "nothing failed"
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize("how", ["no reply", "stop"])
async def test_a_dialplan_that_cannot_be_told_its_session_does_not_pay_for_it(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Asterisk stands still; when it goes on, the caller does so without the session, perhaps for an hour."""
    monkeypatch.setattr(server, "COMMAND_SECONDS", 0.05 if how == "no reply" else 5.0)
    reader, writer = await asyncio.open_connection("127.0.0.1", lab.mode.agi_port)
    writer.write(b"agi_network_script: session\nagi_channel: PJSIP/a-1\nagi_uniqueid: 1.1\n\n")
    assert b"linkedid" in await reader.readline()
    writer.write(b"200 result=1 (1.1)\n")
    assert b"KALLGLOT_URIS" in await reader.readline()
    if how == "stop":
        await lab.mode._agi.stop(0.05)
    await lab.quiet()
    # At a stop the connection's end may be seen first, and counts as the caller's.
    assert lab.api.ended == [("sess_1", "error")] or (
        how == "stop" and lab.api.ended == [("sess_1", "customer_hangup")]
    )
    await lab.until(lambda: not [key for kind, key in lab.store.maps if kind == "trunk"])
    writer.close()


@pytest.mark.parametrize(("how", "status"), [("api", "COMPLETED"), ("ami", "FAILED"), ("stop", "FAILED")])
async def test_a_call_that_is_ended_while_its_session_is_being_created(followed: Lab, how: str, status: str) -> None:
    """By whoever: the session that comes after it is ended, and the dialplan hears of the end, not of a success."""
    lab = followed
    lab.api.gate.clear()
    running = asyncio.get_running_loop().create_task(lab.channel().agi("session"))
    await lab.api.asked.wait()
    if how == "api":
        await lab.mode.hangup(lab.mode.calls()[0].id)
    elif how == "ami":
        lab.follower.event(ami.ChannelGone(*who("1.1"), 16, "Normal Clearing"))
    else:
        stopping = asyncio.get_running_loop().create_task(lab.mode.stop(grace=2))
    await asyncio.sleep(0.02)
    lab.api.gate.set()
    found = await running
    if how == "stop":
        await stopping
    assert (found["SESSION_ID"], found["KALLGLOT_STATUS"]) == ("", status)
    await lab.quiet()
    assert len(lab.api.created) == len(lab.api.ended) == 1
    assert lab.mode.live_keys() == set()
    assert lab.mode._book.of_channel("1.1", "1.1") is lab.mode._book.of_session("sess_1") is None


async def test_agents_no_longer_ring_for_a_call_that_is_ended(followed: Lab) -> None:
    lab, done = followed, []

    class Manager:
        connected = True

        async def originate(self, dial_string: str, **_: object) -> None:
            done.append("rings")

        async def hangup(self, channel: str, cause: int = 16) -> bool:
            return True

    lab.follower.agents._ami = Manager()  # type: ignore[assignment]
    running = asyncio.get_running_loop().create_task(lab.channel().agi("session", "agent=PJSIP/1001", "timeout=60"))
    await lab.until(lambda: bool(done) and bool(lab.mode.calls()[0].session_id))
    await lab.mode.hangup(lab.mode.calls()[0].id)
    assert (await asyncio.wait_for(running, 5))["KALLGLOT_STATUS"] == "COMPLETED"
    await lab.quiet()


async def test_end_that_cannot_reach_the_api_is_left_to_the_outbox(lab: Lab) -> None:
    channel = lab.channel()
    await channel.agi("session")
    lab.api.end_error = ApiUnavailable("down")
    await channel.agi("end", "hangup=1")
    await lab.until(lambda: not lab.mode.calls())
    assert [row.reason for row in lab.store.pending.values()] == ["customer_hangup"]
    assert lab.mode.live_keys() == set()


@pytest.mark.parametrize("created", [True, False])
async def test_an_end_that_reaches_neither_the_api_nor_the_store_is_noted_later(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, created: bool
) -> None:
    """The network is away as the call ends, or as its session is created: the sweeper ends only what is noted to end."""
    monkeypatch.setattr(trunk_sessions, "AGAIN", 0.01)
    channel = lab.channel()
    if created:
        await channel.agi("session")
        lab.store.fail, lab.api.end_error = True, ApiUnavailable("down")
        await channel.agi("end", "hangup=1")
    else:

        async def lost(*_: object, **__: object) -> Session:
            lab.store.fail = True
            raise ApiUnavailable("no answer")

        monkeypatch.setattr(lab.api, "create_session", lost)
        assert (await channel.agi("session"))["KALLGLOT_STATUS"] == "UNAVAILABLE"
    await lab.until(lambda: not lab.mode.calls())
    await asyncio.sleep(0.03)
    assert [row.reason for row in lab.store.pending.values()] == [""]
    lab.store.fail = False
    reason = "customer_hangup" if created else "error"
    await lab.until(lambda: [row.reason for row in lab.store.pending.values()] == [reason])
    assert lab.mode.live_keys() == set()


async def test_a_session_that_was_refused_is_struck_out_though_the_store_was_away(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run would buy one for that row, to end it."""
    monkeypatch.setattr(trunk_sessions, "AGAIN", 0.01)

    async def refused(*_: object, **__: object) -> Session:
        lab.store.fail = True
        raise ApiCreditsExhausted("402")

    monkeypatch.setattr(lab.api, "create_session", refused)
    assert (await lab.channel().agi("session"))["KALLGLOT_STATUS"] == "UNAVAILABLE"
    await asyncio.sleep(0.03)
    assert lab.store.pending
    lab.store.fail = False
    await lab.until(lambda: not lab.store.pending)


async def test_what_the_store_refuses_of_a_call_is_written_when_it_is_back(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that has ended would be taken up by the next run; one that is up would not, and its session be ended under it."""
    monkeypatch.setattr(trunk_book, "AGAIN", 0.01)
    await lab.channel("1.1").agi("session")
    await lab.until(lambda: bool([key for kind, key in lab.store.maps if kind == "trunk"]))
    lab.store.fail = True
    await lab.channel("1.1").agi("end", "hangup=1")
    await lab.until(lambda: not lab.mode.calls())
    lab.store.fail = False
    await lab.until(lambda: not [key for kind, key in lab.store.maps if kind == "trunk"])
    second, put = lab.channel("2.1"), lab.store.put_mapping
    refused = [StoreError("disk full")]

    async def put_mapping(kind: str, key: str, value: dict[str, Any], *, expires_at: float | None = None) -> bool:
        if refused:
            raise refused.pop()
        return await put(kind, key, value, expires_at=expires_at)

    monkeypatch.setattr(lab.store, "put_mapping", put_mapping)
    await second.agi("session")
    await lab.until(lambda: bool([key for kind, key in lab.store.maps if kind == "trunk"]))
    await second.agi("end", "hangup=1")
    await lab.until(lambda: not [key for kind, key in lab.store.maps if kind == "trunk"])


async def test_full_and_draining(lab: Lab) -> None:
    small = Lab(max_calls=1)
    await small.mode.start()
    await small.channel("1").agi("session")
    assert (await small.channel("2").agi("session"))["KALLGLOT_STATUS"] == "BUSY"
    small.mode.drain()
    assert (
        (await small.channel("3").agi("session"))["KALLGLOT_STATUS"] == "UNAVAILABLE"
        if not small.mode.calls()
        else True
    )
    await small.mode.stop()
    assert small.api.ended == [("sess_1", "completed")]
    assert not small.store.pending
    lab.mode.drain()
    assert (await lab.channel("3").agi("session"))["KALLGLOT_STATUS"] == "UNAVAILABLE"


async def test_a_leg_that_was_transferred_keeps_the_session(lab: Lab) -> None:
    caller, leg = lab.channel("1.1"), lab.channel("1.2")
    await caller.agi("session")
    await leg.agi("answered", "session=sess_1", "party=1.1")
    await caller.agi("end", "hangup=1")
    assert not lab.api.ended
    await leg.agi("end", "session=sess_1", "hangup=1")
    await lab.quiet()
    assert lab.api.ended == [("sess_1", "customer_hangup")]


async def test_the_h_extension_counts_as_a_hangup(lab: Lab) -> None:
    caller, leg = lab.channel("1.1"), lab.channel("1.2")
    await caller.agi("session")
    await leg.agi("answered", "session=sess_1", "party=1.1")
    await caller.agi("end", extension="h")
    assert not lab.api.ended
    await caller.agi("end", extension="s")
    await lab.quiet()
    assert lab.api.ended == [("sess_1", "completed")]


async def test_a_dialplan_that_reached_no_endpoint(lab: Lab) -> None:
    caller = lab.channel()
    await caller.agi("session")
    await caller.agi("end")
    await lab.quiet()
    assert lab.api.ended == [("sess_1", "error")]


async def test_a_second_party_joins_and_either_ends_it(lab: Lab) -> None:
    customer, agent = lab.channel("1.1"), lab.channel("2.1")
    await customer.agi("session")
    found = await agent.agi("session", "join=sess_1")
    assert found["SESSION_ID"] == "sess_1"
    assert "sess_1@sip.example" in found["KALLGLOT_URIS"]
    await lab.channel("1.2").agi("answered", "session=sess_1", "party=1.1")
    await lab.channel("2.2").agi("answered", "session=sess_1", "party=2.1")
    assert [leg.speaker for leg in lab.mode.calls()[0].legs] == ["customer", "agent"]
    await lab.channel("2.2").agi("end", "session=sess_1", "hangup=1")
    await lab.quiet()
    assert lab.api.ended == [("sess_1", "agent_hangup")]
    assert (await agent.agi("session", "join=sess_1"))["KALLGLOT_STATUS"] == "UNAVAILABLE"


async def test_a_conference_lasts_until_the_last_has_left(lab: Lab) -> None:
    await lab.channel("1.1").agi("session", "participants=5")
    assert lab.api.requests[0].participants == 5
    for number in (2, 3):
        await lab.channel(f"{number}.1").agi("session", "join=sess_1")
    for number in (1, 2, 3):
        await lab.channel(f"{number}.2").agi("answered", "session=sess_1", f"party={number}.1")
    assert [leg.speaker for leg in lab.mode.calls()[0].legs] == ["customer", "agent", "party-3"]
    for number in (1, 2):
        await lab.channel(f"{number}.2").agi("end", "session=sess_1", "hangup=1")
    assert not lab.api.ended
    await lab.channel("3.2").agi("end", "session=sess_1", "hangup=1")
    await lab.quiet()


async def test_agent_needs_the_manager_interface(lab: Lab) -> None:
    assert (await lab.channel().agi("session", "agent=PJSIP/1001"))["KALLGLOT_STATUS"] == "UNAVAILABLE"
    await lab.quiet()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("mode=loud", "mode: expected one of bidirectional_translation"),
        ("source=german!", "source: expected a language such as de or pt-BR, or auto, found 'german!'"),
        ("target=x", "target: expected a language"),
        ("tech=IAX2", "tech: expected PJSIP or SIP, found 'IAX2'"),
        ("agent=1001", "agent: expected a dial string such as PJSIP/1001, found '1001'"),
        ("agent=PJSIP/1 001", "agent: expected a dial string"),
        ("agent=PJSIP/1,30,m", "agent: expected a dial string"),
        ("agent=PJSIP/${EVIL}", "agent: expected a dial string"),
        ("agent=" + "&".join(f"PJSIP/{n}" for n in range(17)), "agent: expected 1 to 16 dial strings joined with &"),
        ("timeout=0", "timeout: expected a number from 1 to 300, found '0'"),
        ("timeout=soon", "timeout: expected a number from 1 to 300, found 'soon'"),
        ("participants=nan", "participants: expected a number from 1 to 100, found 'nan'"),
    ],
)
async def test_a_bad_argument_costs_nothing(lab: Lab, argument: str, message: str) -> None:
    key, _, value = argument.partition("=")
    with pytest.raises(UsageError, match=message):
        read_arguments({key: value}, KallglotSettings())
    assert await lab.channel().agi("session", argument) == {"SESSION_ID": "", "KALLGLOT_STATUS": "FAILED"}
    assert not lab.api.created


@pytest.mark.parametrize(
    "arguments",
    [("sourc=de", "target=en"), ("source=de", "en"), ("join=sess_1", "trget=en"), ("target=en", "target=de")],
)
async def test_an_argument_that_is_unknown_or_twice_there_is_refused_and_the_dialplan_goes_on(
    lab: Lab, arguments: tuple[str, ...]
) -> None:
    assert await lab.channel().agi("session", *arguments) == {"SESSION_ID": "", "KALLGLOT_STATUS": "FAILED"}
    assert not lab.api.created


def test_an_unknown_argument_is_named() -> None:
    with pytest.raises(UsageError, match="unknown AGI argument 'sourc'; expected one of source, target, mode, "):
        read_arguments({"sourc": "de"}, KallglotSettings())


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({f"metadata.{n}": "x" for n in range(33)}, "AGI arguments metadata.*: expected at most 32"),
        ({"metadata.a b": "x"}, "AGI argument metadata.'a b': expected letters, digits"),
        ({"metadata.": "x"}, "AGI argument metadata.'': expected letters, digits"),
        ({"metadata.k": "v" * 513}, "AGI argument metadata.k: expected at most 512 characters, found 513"),
        ({"metadata.k": "a\x1bb"}, "AGI argument 'metadata.k': expected no control characters"),
    ],
)
async def test_metadata_that_stasis_would_not_take(lab: Lab, parameters: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        read_arguments(parameters, KallglotSettings())
    given = [f"{key}={value}" for key, value in parameters.items()]
    assert await lab.channel().agi("session", *given) == {"SESSION_ID": "", "KALLGLOT_STATUS": "FAILED"}
    assert not lab.api.created


def test_as_much_metadata_as_stasis_takes() -> None:
    most = {f"metadata.k{n}": "v" * 512 for n in range(32)}
    assert len(read_arguments(most, KallglotSettings()).metadata) == 32


async def test_kallglot_ends_the_session(lab: Lab) -> None:
    await lab.channel().agi("session")
    assert not await lab.mode.session_ended("sess_other", {})
    assert await lab.mode.session_ended("sess_1", {"reason": "timeout"})
    await lab.quiet()
    assert lab.api.ended == [("sess_1", "timeout")]


async def test_refer_gives_the_call_a_second_session_and_both_are_ended(lab: Lab) -> None:
    await lab.channel().agi("session", "source=de")
    assert await lab.mode.refer("sess_other", "sip:x@y") is None
    assert await lab.mode.refer("sess_1", "sip:x@y") == "sess_2"
    assert lab.api.requests[1].source_language == "de"
    assert await lab.mode.session_ended("sess_1", {})
    assert len(lab.mode.calls()) == 1, "the old session's end is not the call's"
    await lab.mode.hangup(lab.mode.calls()[0].id)
    await lab.quiet()
    assert sorted(session for session, _ in lab.api.ended) == ["sess_1", "sess_2"]
    with pytest.raises(LookupError, match="no such trunk call"):
        await lab.mode.hangup("nothing")


async def test_endpoints_and_problems(followed: Lab, lab: Lab) -> None:
    assert lab.mode.problems() == []
    tell = followed.follower.event
    tell(ami.EndpointState("kallglot", False, "Unreachable"))
    tell(ami.EndpointState("kallglot", False, "Unreachable"))
    tell(ami.EndpointState("alice", False, "Unreachable"))
    assert [p for p in followed.mode.problems() if "endpoint" in p] == [], "the other one may still take the calls"
    tell(ami.EndpointState("kallglot-2", True, "Reachable"))
    tell(ami.EndpointState("kallglot-2", False, "Unreachable"))
    assert [p for p in followed.mode.problems() if "endpoint" in p] == [
        "SIP endpoint kallglot: Unreachable",
        "SIP endpoint kallglot-2: Unreachable",
    ]
    tell(ami.EndpointState("kallglot-2", True, "Reachable"))
    assert [p for p in followed.mode.problems() if "endpoint" in p] == []
    assert followed.hub.types().count("endpoint.state") == 4
    assert followed.mode.problems()[0].startswith("AMI: ")


async def test_hundreds_of_calls_with_random_ends(lab: Lab) -> None:
    rng = random.Random(5)

    async def one(number: int) -> None:
        caller, leg = lab.channel(f"{number}.1"), lab.channel(f"{number}.2")
        how = rng.choice(["vanish", "hang_up", "end", "leg", "twice"])
        running = asyncio.get_running_loop().create_task(caller.agi("session"))
        if how in ("vanish", "hang_up"):
            await asyncio.sleep(rng.random() / 50)
            if caller.writer is not None:
                getattr(caller, how)()
        results = await asyncio.gather(running, return_exceptions=True)
        session_id = caller.variables.get("${SESSION_ID}", "")
        if how == "leg" and session_id:
            await leg.agi("answered", f"session={session_id}", f"party={number}.1")
            await leg.agi("end", f"session={session_id}", "hangup=1")
        for _ in range(2 if how == "twice" else 1):
            await caller.agi("end", "hangup=1")
        assert len(results) == 1

    for start in range(0, 300, 50):
        await asyncio.gather(*(one(number) for number in range(start, start + 50)))
    await lab.quiet()
    ended = [session_id for session_id, _ in lab.api.ended]
    assert sorted(ended) == sorted({s.id for s in lab.api.created.values()})
