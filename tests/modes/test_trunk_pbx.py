"""Any PBX: asked twice, told twice, told too late, told nothing at all."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import pytest

from kallglot_ari.clock import ManualClock, SystemClock
from kallglot_ari.errors import ApiNotFound, ApiUnavailable, ServiceBusy, StoreError
from kallglot_ari.kallglot.client import KallglotClient
from kallglot_ari.metrics import Metrics
from kallglot_ari.modes.load import Load
from kallglot_ari.modes.pbx import REMEMBER_SECONDS, PbxService
from kallglot_ari.modes.pbx_lost import ASK_SECONDS, LOOK_SECONDS
from kallglot_ari.modes.trunk_sessions import Sessions
from kallglot_ari.sandbox.echo import Echo
from kallglot_ari.sandbox.server import Sandbox
from kallglot_ari.settings import KallglotSettings, TrunkSettings, WebSettings
from tests.modes.pbx_lab import Lab
from tests.modes.trunk_fakes import FakeHub, FakeStore

pytestmark = pytest.mark.real_time


@pytest.fixture
def lab() -> Lab:
    return Lab()


async def test_a_service_that_is_being_stopped_routes_no_new_call(lab: Lab) -> None:
    known = await lab.pbx.incoming("c1", "1", "2")
    lab.pbx.drain()
    assert await lab.pbx.incoming("c1", "1", "2") == known
    for refused in (lab.pbx.incoming("c2", "1", "2"), lab.pbx.prepare()):
        with pytest.raises(ServiceBusy):
            await refused
    form = {"section": "dialplan", "Unique-ID": "c3", "Hunt-Destination-Number": "8"}
    assert "not found" in await lab.pbx.freeswitch_dialplan(form)
    assert len(lab.api.requests) == 1, "and pays for no session"
    assert await lab.pbx.hangup("c1")


async def test_the_guides_flow(lab: Lab) -> None:
    answer = await lab.pbx.incoming("c1", "+4930123", "800", source="de", target="en", metadata={"a": 1})
    assert answer["action"] == "route"
    assert answer["destination"] == "sip:sess_1@sip.kallglot.com"
    assert answer["destinations"] == [
        "sip:sess_1@sip.example;transport=tls",
        "sip:sess_1@eu.example:5071;transport=tls",
    ]
    request = lab.api.requests[0]
    assert (request.source_language, request.target_language, request.trunk) == ("de", "en", True)
    assert request.metadata == {
        "a": "1",
        "call_id": answer["call_id"],
        "internal_call_id": "c1",
        "caller_id": "+4930123",
    }
    assert lab.pbx.calls()[0].kind == "pbx"
    assert lab.pbx.live_keys() == set(lab.store.pending)
    assert await lab.pbx.hangup("c1")
    assert lab.api.ended == [("sess_1", "completed")]
    assert not lab.store.pending
    assert not lab.pbx.calls()
    assert not lab.pbx.live_keys()
    assert lab.hub.types() == ["call.created", "call.ended"]


async def test_one_session_a_call_id(lab: Lab) -> None:
    answers = await asyncio.gather(*(lab.pbx.incoming("c1", "1", "2") for _ in range(20)))
    assert all(answer == answers[0] for answer in answers)
    assert len(lab.api.created) == 1


async def test_late_double_and_unknown_hangups(lab: Lab) -> None:
    assert not await lab.pbx.hangup("never")
    await lab.pbx.incoming("c1", "1", "2")
    assert sorted(await asyncio.gather(*(lab.pbx.hangup("c1") for _ in range(5)))) == [False] * 4 + [True]
    assert lab.api.ended == [("sess_1", "completed")]
    assert (await lab.pbx.incoming("c1", "1", "2"))["action"] == "reject"
    lab.clock.advance(601)
    await lab.pbx.sweep()
    assert (await lab.pbx.incoming("c1", "1", "2"))["session_id"] == "sess_2"


async def test_a_hangup_that_never_comes(lab: Lab) -> None:
    for call_id in ("c1", "c2"):
        await lab.pbx.incoming(call_id, "1", "2")
    lab.clock.advance(ASK_SECONDS - 1)
    lab.api.idle = {"sess_1"}
    assert await lab.pbx.sweep() == 0
    lab.clock.advance(1)
    lab.api.get_error = ApiUnavailable("down")
    assert await lab.pbx.sweep() == 0, "what is not known is not ended"
    lab.api.get_error = None
    lab.clock.advance(ASK_SECONDS - 1)
    assert await lab.pbx.sweep() == 0, "and is asked about again after as long"
    lab.clock.advance(1)
    assert await lab.pbx.sweep() == 1
    assert lab.api.ended == [("sess_1", "timeout")]
    assert [view.session_id for view in lab.pbx.calls()] == ["sess_2"]
    lab.clock.advance(ASK_SECONDS)
    lab.api.get_error = ApiNotFound("unknown session")
    assert await lab.pbx.sweep() == 1
    assert not lab.store.pending
    assert not lab.pbx.calls()


async def test_asking_does_not_keep_a_session_alive_that_nobody_uses() -> None:
    """A CURRI call's hangup is told by nobody. The embedded Kallglot ends its session after 30 idle minutes, and the call is over with it."""
    clock, metrics = ManualClock(), Metrics()
    async with AsyncExitStack() as stack:
        sandbox = Sandbox(Echo(), clock=clock)
        await sandbox.start()
        stack.push_async_callback(sandbox.stop)
        api = KallglotClient(
            KallglotSettings(), TrunkSettings(), metrics, SystemClock(), urls=(sandbox.url,), api_key=sandbox.api_key
        )
        await api.start()
        stack.push_async_callback(api.close)
        pbx = PbxService(
            api, FakeStore(), FakeHub(), kallglot=KallglotSettings(), trunk=TrunkSettings(), web=WebSettings(),
            metrics=metrics, clock=clock, load=Load(metrics), instance="t1",
        )  # fmt: skip
        await pbx.incoming("c1", "1", "2")
        for _ in range(2 * 60 * 60 // 30):
            clock.advance(30)
            await pbx.sweep()
            await sandbox.sweep()
        assert (pbx.calls(), sandbox.sessions.live()) == ([], [])


async def test_a_hangup_overtakes_the_creation(lab: Lab) -> None:
    lab.api.gate.clear()
    incoming = asyncio.get_running_loop().create_task(lab.pbx.incoming("c1", "1", "2"))
    await lab.api.asked.wait()
    hangup = asyncio.get_running_loop().create_task(lab.pbx.hangup("c1"))
    await asyncio.sleep(0)
    lab.api.gate.set()
    assert (await incoming)["action"] == "route"
    assert await hangup
    assert not lab.api.open


async def test_a_client_that_goes_away_while_the_session_is_created(lab: Lab) -> None:
    lab.api.gate.clear()
    incoming = asyncio.get_running_loop().create_task(lab.pbx.incoming("c1", "1", "2"))
    await lab.api.asked.wait()
    incoming.cancel()
    lab.api.gate.set()
    await asyncio.gather(incoming, return_exceptions=True)
    await lab.pbx.stop()
    assert not lab.api.open
    assert not lab.store.pending


class Asking:
    """A PBX that asks for `c1`, and may give up."""

    def __init__(self, lab: Lab) -> None:
        self.waits = True
        self.answer = asyncio.get_running_loop().create_task(lab.pbx.incoming("c1", "1", "2", waits=lambda: self.waits))


async def test_a_pbx_that_gave_up_pays_for_no_session(lab: Lab) -> None:
    """Kallglot is slower than the PBX waits: the call goes on without us, and nobody tells its end."""
    lab.api.gate.clear()
    first = Asking(lab)
    await lab.api.asked.wait()
    first.waits = False
    lab.api.gate.set()
    await first.answer
    assert lab.api.ended == [("sess_1", "error")]
    assert (lab.pbx.calls(), lab.store.pending, await lab.store.mappings("pbx")) == ([], {}, {})
    assert lab.hub.types() == ["call.created", "call.ended"]
    assert (await lab.pbx.incoming("c1", "1", "2"))["session_id"] == "sess_2", "asked again it is a new call"
    assert await lab.pbx.hangup("c1")


async def asking_twice(lab: Lab) -> tuple[Asking, Asking]:
    """Kallglot does not answer yet, and the first who asked has given up."""
    lab.api.gate.clear()
    lab.api.asked.clear()
    first = Asking(lab)
    await lab.api.asked.wait()
    first.waits = False
    second = Asking(lab)
    await asyncio.sleep(0)
    return first, second


@pytest.mark.parametrize("second_waits", [True, False])
async def test_a_pbx_that_asks_again_gets_what_was_made_for_its_first_request(lab: Lab, second_waits: bool) -> None:
    first, second = await asking_twice(lab)
    second.waits = second_waits
    lab.api.gate.set()
    assert (await first.answer)["session_id"] == (await second.answer)["session_id"] == "sess_1"
    assert bool(lab.api.ended) is not second_waits
    assert await lab.pbx.hangup("c1") is second_waits


async def test_a_call_whose_second_asker_gets_an_error_is_ended_unless_it_asks_again(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise StoreError("connection refused")

    async def asked_twice_for_nothing() -> None:
        first, second = await asking_twice(lab)
        with monkeypatch.context() as broken:
            broken.setattr(lab.store, "get_mapping", away)
            lab.api.gate.set()
            await first.answer
            with pytest.raises(StoreError):
                await second.answer
            with pytest.raises(StoreError):
                await lab.pbx.sweep()

    await asked_twice_for_nothing()
    assert lab.api.open == {"sess_1"}
    assert (await lab.pbx.incoming("c1", "1", "2"))["session_id"] == "sess_1"
    assert await lab.pbx.sweep() == 0
    assert await lab.pbx.hangup("c1")
    lab.clock.advance(REMEMBER_SECONDS)
    await lab.pbx.sweep()
    await asked_twice_for_nothing()
    assert lab.api.open == {"sess_2"}
    assert await lab.pbx.sweep() == 1
    assert (lab.api.open, lab.pbx.calls(), lab.store.pending) == (set(), [], {})


@pytest.mark.parametrize("broken", ["get_mapping", "write_mappings"])
async def test_an_end_that_is_told_while_the_store_is_away_is_kept_in_mind(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """A PBX tells it once."""

    async def away(*_: object, **__: object) -> None:
        raise StoreError("connection refused")

    await lab.pbx.incoming("c1", "1", "2")
    with monkeypatch.context() as outage:
        outage.setattr(lab.store, broken, away)
        for call_id in ("c1", "unknown"):
            if broken == "get_mapping" or call_id == "c1":
                with pytest.raises(StoreError):
                    await lab.pbx.hangup(call_id, "customer_hangup")
        with pytest.raises(StoreError):
            await lab.pbx.sweep()
    assert await lab.pbx.sweep() == 1
    assert lab.api.ended == [("sess_1", "customer_hangup")]
    assert (lab.pbx.calls(), lab.store.pending) == ([], {})
    assert await lab.pbx.sweep() == 0
    assert lab.hub.types() == ["call.created", "call.ended"]


async def test_who_has_the_answer_keeps_it_whatever_comes_of_repetitions(lab: Lab) -> None:
    await lab.pbx.incoming("c1", "1", "2")
    await lab.pbx.incoming("c1", "1", "2", waits=lambda: False)
    assert lab.api.open == {"sess_1"}
    await lab.pbx.start()  # as another process would: what it finds was answered
    await lab.pbx.incoming("c1", "1", "2", waits=lambda: False)
    assert lab.api.open == {"sess_1"}
    await lab.pbx.stop()


async def test_no_session_and_no_store(lab: Lab) -> None:
    lab.api.create_error = ApiUnavailable("down")
    with pytest.raises(ApiUnavailable):
        await lab.pbx.incoming("c1", "1", "2")
    lab.api.create_error = None
    assert (await lab.pbx.incoming("c1", "1", "2"))["action"] == "route", "it may be asked again"
    lab.store.fail = True
    with pytest.raises(StoreError):
        await lab.pbx.incoming("c2", "1", "2")
    assert len(lab.api.created) == 1


async def test_a_mapping_that_cannot_be_written_ends_the_session(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*_: object, **__: object) -> bool:
        raise StoreError("disk full")

    monkeypatch.setattr(lab.store, "put_mapping", full)
    with pytest.raises(StoreError):
        await lab.pbx.incoming("c1", "1", "2")
    with pytest.raises(StoreError):
        await lab.pbx.prepare()
    assert not lab.api.open


async def test_a_hangup_that_cannot_be_written_ends_the_session_and_can_be_told_again(lab: Lab) -> None:
    await lab.pbx.incoming("c1", "1", "2")
    lab.store.fail = True
    with pytest.raises(StoreError):
        await lab.pbx.hangup("c1")
    assert lab.api.ended == [("sess_1", "completed")]
    assert not lab.pbx.live_keys(), "the outbox's row is the sweeper's now"
    lab.store.fail = False
    assert await lab.pbx.hangup("c1")
    assert not await lab.pbx.hangup("c1")
    assert lab.api.ended == [("sess_1", "completed")]
    assert (await lab.pbx.incoming("c1", "1", "2"))["action"] == "reject"
    assert lab.hub.types() == ["call.created", "call.ended"]
    assert not lab.pbx.calls()


async def test_a_refer_that_cannot_be_written_leaves_no_session(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*_: object, **__: object) -> None:
        raise StoreError("disk full")

    await lab.pbx.incoming("c1", "1", "2")
    with monkeypatch.context() as broken:
        broken.setattr(lab.store, "update_mapping", full)
        assert not (await lab.pbx.refer("sess_1", "sip:3@pbx", "sip:1@pbx"))["accept"]
    assert lab.api.open == {"sess_1"}
    assert await lab.pbx.hangup("c1")
    assert lab.api.ended == [("sess_2", "error"), ("sess_1", "completed")]
    assert not lab.store.pending


async def test_two_instances_at_once(lab: Lab) -> None:
    other = Lab(store=lab.store)
    other.api.next_id = "sess_other"
    answers = await asyncio.gather(lab.pbx.incoming("c1", "1", "2"), other.pbx.incoming("c1", "1", "2"))
    assert answers[0]["session_id"] == answers[1]["session_id"]
    assert len(lab.api.open) + len(other.api.open) == 1


async def test_a_call_whose_end_another_instance_was_told_is_not_counted_for_ever(lab: Lab) -> None:
    other = Lab(store=lab.store)
    await lab.pbx.incoming("c1", "1", "2")
    assert await other.pbx.hangup("c1")
    assert len(lab.pbx.calls()) == 1
    lab.clock.advance(LOOK_SECONDS)
    await lab.pbx.sweep()
    assert not lab.pbx.calls()
    assert not lab.pbx.live_keys()


async def test_a_call_that_another_instance_ends_has_lasted_since_its_beginning(lab: Lab) -> None:
    other = Lab(store=lab.store)
    await lab.pbx.incoming("c1", "1", "2")
    began = lab.clock.wall()
    other.clock.advance(600)
    assert await other.pbx.hangup("c1")
    (stored,) = lab.store.calls.values()
    assert (stored.started_at, stored.ended_at) == (began, began + timedelta(seconds=600))


async def test_a_prepared_session_that_another_instance_took_is_that_ones_business(lab: Lab) -> None:
    other = Lab(store=lab.store)
    other.api = other.pbx._sessions._translator = lab.api
    await lab.pbx.prepare(source="de", target="en")
    assert (await other.pbx.incoming("c1", "1", "2", source="de", target="en"))["session_id"] == "sess_1"
    lab.api.end_error = ApiUnavailable("down")
    await other.pbx.hangup("c1")
    await lab.pbx.sweep()
    assert lab.store.pending, "left to the sweeper of either"
    assert lab.pbx.live_keys() == other.pbx.live_keys() == set()


async def test_a_refer_that_cannot_be_noted_buys_one_session(lab: Lab) -> None:
    """It is delivered again until it is answered with success."""
    session = (await lab.pbx.incoming("c1", "1", "2"))["session_id"]
    put = lab.store.put_mapping

    async def refused(kind: str, key: str, value: dict[str, Any], *, expires_at: float | None = None) -> bool:
        if kind == "refer":
            raise StoreError("disk full")
        return await put(kind, key, value, expires_at=expires_at)

    lab.store.put_mapping = refused  # type: ignore[method-assign]
    answers = [await lab.pbx.refer(session, "sip:800@pbx", "") for _ in range(3)]
    assert answers == [{"accept": True, "new_session_id": "sess_2"}] * 3
    assert len(lab.api.created) == 2
    await lab.pbx.hangup("c1")
    assert lab.api.open == set()


async def test_calls_outlive_a_restart(lab: Lab) -> None:
    await lab.pbx.incoming("c1", "1", "2", source="de")
    prepared = await lab.pbx.prepare(source="fr")
    await lab.pbx.stop()
    second = Lab(store=lab.store)
    await second.pbx.start()
    assert second.pbx.live_keys() == set(lab.store.pending)
    assert [(call.session_id, call.source_language) for call in second.pbx.calls()] == [("sess_1", "de")]
    assert (await second.pbx.incoming("c2", "1", "2", source="fr"))["session_id"] == prepared["session_id"]
    assert await second.pbx.hangup("c1")
    assert second.api.ended == [("sess_1", "completed")]
    await second.pbx.stop()


async def test_prepared_sessions_are_used_once_or_ended(lab: Lab) -> None:
    first = await lab.pbx.prepare(source="de", target="en", expires_in=60)
    assert first == {
        "session_id": "sess_1", "destination": "sip:sess_1@sip.kallglot.com", "expires_at": int(lab.clock.wall().timestamp()) + 60
    }  # fmt: skip
    await lab.pbx.prepare(source="de", target="en", expires_in=60)
    assert (await lab.pbx.incoming("c0", "1", "2", source="fr"))["session_id"] == "sess_3", "another language"
    answers = await asyncio.gather(*(lab.pbx.incoming(f"c{n}", "1", "2", source="de") for n in (1, 2, 3)))
    assert sorted(answer["session_id"] for answer in answers) == ["sess_1", "sess_2", "sess_4"]
    await lab.pbx.prepare(expires_in=60)
    lab.clock.advance(61)
    assert await lab.pbx.sweep() == 1
    assert await lab.pbx.sweep() == 0
    assert lab.api.ended == [("sess_5", "timeout")]
    for n in range(4):
        assert await lab.pbx.hangup(f"c{n}")
    assert not lab.api.open
    assert not lab.store.pending
    assert not lab.pbx.live_keys()


async def test_an_expired_prepared_session_is_not_given_out(lab: Lab) -> None:
    await lab.pbx.prepare(expires_in=60)
    lab.clock.advance(61)
    assert (await lab.pbx.incoming("c1", "1", "2"))["session_id"] == "sess_2"


async def test_refer(lab: Lab) -> None:
    assert await lab.pbx.refer("sess_1", "sip:b@x", "sip:a@x") == {"accept": False, "reason": "unknown session"}
    await lab.pbx.incoming("c1", "1", "2", source="de")
    twice = await asyncio.gather(*(lab.pbx.refer("sess_1", "sip:b@x", "sip:a@x") for _ in range(3)))
    assert twice == [{"accept": True, "new_session_id": "sess_2"}] * 3
    assert lab.api.requests[1].source_language == "de"
    assert lab.api.requests[1].metadata["referred_from"] == "sess_1"
    assert await lab.pbx.session_ended("sess_1")
    assert not lab.api.ended, "the call goes on in its second session"
    assert await lab.pbx.session_ended("sess_2", {"reason": "timeout"})
    assert sorted(lab.api.ended) == [("sess_1", "timeout"), ("sess_2", "timeout")]
    assert not await lab.pbx.session_ended("sess_2")
    lab.api.create_error = ApiUnavailable("down")
    assert (await lab.pbx.refer("sess_2", "sip:b@x", ""))["accept"] is False


async def test_refer_without_an_api_is_declined(lab: Lab) -> None:
    await lab.pbx.incoming("c1", "1", "2")
    lab.api.create_error = ApiUnavailable("down")
    answer = await lab.pbx.refer("sess_1", "sip:b@x", "")
    assert answer == {"accept": False, "reason": "no session could be created"}


async def test_random_events_in_any_order_leave_nothing_open(lab: Lab) -> None:
    rng = random.Random(7)
    sweepers = Sessions(lab.api, lab.store, lab.clock)

    async def event() -> None:
        call_id, session = f"c{rng.randrange(12)}", f"sess_{rng.randrange(40)}"
        await asyncio.sleep(rng.random() / 500)
        match rng.randrange(6):
            case 0 | 1:
                await lab.pbx.incoming(call_id, "1", "2", waits=lambda: rng.random() < 0.7)
            case 2:
                await lab.pbx.hangup(call_id)
            case 3:
                await lab.pbx.prepare(expires_in=5)
            case 4:
                await lab.pbx.refer(session, f"sip:{rng.randrange(3)}@x", "")
            case 5:
                await lab.pbx.session_ended(session)

    for _ in range(20):
        await asyncio.gather(*(event() for _ in range(30)))
        lab.clock.advance(rng.choice([0, 1, 6, 700]))
        await lab.pbx.sweep()
    for n in range(12):
        await lab.pbx.hangup(f"c{n}")
    lab.clock.advance(10)
    await lab.pbx.sweep()
    assert not lab.api.open
    assert not lab.store.pending
    assert not lab.pbx.live_keys()
    assert not lab.pbx.calls()
    assert not lab.pbx._asking
    assert not lab.pbx._unheard
    assert len(lab.api.ended) == len({session for session, _ in lab.api.ended})
    await sweepers.stop()
