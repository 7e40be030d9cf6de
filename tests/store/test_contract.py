"""What every store does, whatever the database."""

from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, select
from structlog.testing import capture_logs

from kallglot_ari.calls.interfaces import CallStore, PendingSession
from kallglot_ari.calls.model import CallView, LegQuality, LegView, TranscriptTurn
from kallglot_ari.clock import ManualClock
from kallglot_ari.errors import StoreError
from kallglot_ari.store import Store, schema
from kallglot_ari.store.store import LIST_MAX, SEEN_SECONDS
from tests.store.conftest import Open

pytestmark = pytest.mark.real_time

START = datetime(2026, 1, 1, 9, 30, 15, 123456, tzinfo=UTC)
NOW = START.timestamp()
HOSTILE = "a\x00b \ud800 'x'; DROP TABLE kallglot_calls; -- \u202e 😀 " + "\n\r\t"


def call(call_id: str = "c1", *, minutes: float = 0, state: str = "active", **more: Any) -> CallView:
    return CallView(
        id=call_id,
        session_id=more.pop("session_id", f"sess_{call_id}"),
        state=state,
        mode="bidirectional_translation",
        source_language="de",
        target_language="en",
        started_at=START + timedelta(minutes=minutes),
        **more,
    )


def turn(number: int, text: str = "hallo", **more: Any) -> TranscriptTurn:
    return TranscriptTurn(f"seg_{number}", "customer", "de", text, True, **more)


async def test_it_is_the_interface(store: Store) -> None:
    used: CallStore = store
    await used.check()


class TestCalls:
    async def test_a_call_comes_back_as_it_was(self, store: Store) -> None:
        saved = call(
            state="ended",
            answered_at=START + timedelta(seconds=3),
            ended_at=START + timedelta(hours=1),
            end_reason="customer_hangup",
            status="COMPLETED",
            kind="trunk",
            caller='"Zoë" <+49 30 123>',
            metadata={"order": "4711", "naïve": "日本"},
            dtmf=[{"party": "customer", "digit": "5"}],
            legs=[
                LegView(
                    "customer", "ch-1", "PJSIP/a-1", "held", "de", True, LegQuality(5, 4, 3, 2, 1, 0.123456789, 60.5)
                ),
                LegView("agent", "ch-2"),
            ],
            degraded="stream lost",
        )
        await store.save_call(saved)
        assert await store.get_call("c1") == saved

    async def test_saving_again_replaces(self, store: Store) -> None:
        await store.save_call(call(state="setup"))
        await store.save_call(call(state="active", session_id="sess_other"))
        assert await store.list_calls() == [call(state="active", session_id="sess_other")]

    async def test_an_unknown_call(self, store: Store) -> None:
        assert await store.get_call("nobody") is None
        assert await store.turns("nobody") == []

    async def test_the_newest_come_first_and_the_limit_holds(self, store: Store) -> None:
        for number in (2, 0, 3, 1):
            await store.save_call(call(f"c{number}", minutes=number))
        assert [c.id for c in await store.list_calls()] == ["c3", "c2", "c1", "c0"]
        assert [c.id for c in await store.list_calls(limit=2)] == ["c3", "c2"]
        assert await store.list_calls(limit=0) == []
        assert await store.list_calls(limit=-5) == []
        assert len(await store.list_calls(limit=10**9)) == 4
        assert LIST_MAX == 1000

    async def test_active_and_ended(self, store: Store) -> None:
        for number, state in enumerate(("setup", "ringing", "active", "ending", "ended")):
            await store.save_call(call(state, minutes=number, state=state))
        assert [c.id for c in await store.list_calls(active=True)] == ["ending", "active", "ringing", "setup"]
        assert [c.id for c in await store.list_calls(active=False)] == ["ended"]

    async def test_text_that_a_database_chokes_on(self, store: Store) -> None:
        hostile = call(HOSTILE, caller=HOSTILE, metadata={HOSTILE: HOSTILE})
        await store.save_call(hostile)
        found = await store.get_call(HOSTILE)
        assert found is not None
        assert "DROP TABLE" in found.caller
        assert "\ud800" not in found.caller
        await store.add_turn(HOSTILE, turn(1, HOSTILE), 1.0)
        assert len(await store.turns(HOSTILE)) == 1

    async def test_numbers_that_json_does_not_have(self, store: Store) -> None:
        odd = call(legs=[LegView("customer", "ch", quality=LegQuality(jitter_ms=math.nan, mos=math.inf))])
        await store.save_call(odd)
        found = await store.get_call("c1")
        assert found is not None
        assert found.legs[0].quality == LegQuality(), "a figure that is no number is as if it had not been measured"


class TestTurns:
    async def test_in_the_order_they_came(self, store: Store) -> None:
        await store.add_turn("c1", turn(1, "eins"), 10.0)
        await store.add_turn("c2", turn(1, "other"), 10.5)
        await store.add_turn("c1", turn(2, "zwei", translation_language="en", translation="two"), 11.25)
        assert await store.turns("c1") == [
            {
                "sequence": 1, "id": "seg_1", "speaker": "customer", "language": "de", "text": "eins",
                "translation": None, "timestamp": "1970-01-01T00:00:10.000Z",
            },
            {
                "sequence": 2, "id": "seg_2", "speaker": "customer", "language": "de", "text": "zwei",
                "translation": {"language": "en", "text": "two"}, "timestamp": "1970-01-01T00:00:11.250Z",
            },
        ]  # fmt: skip

    async def test_a_translation_that_comes_later_completes_its_turn(self, store: Store) -> None:
        await store.add_turn("c1", turn(1), 10.0)
        await store.add_turn("c1", turn(2), 11.0)
        await store.add_turn("c1", turn(1, translation_language="en", translation="hello"), 12.0)
        turns = await store.turns("c1")
        assert [(t["id"], t["timestamp"][-10:]) for t in turns] == [("seg_1", "00:10.000Z"), ("seg_2", "00:11.000Z")]
        assert turns[0]["translation"] == {"language": "en", "text": "hello"}

    async def test_a_new_session_that_numbers_from_one_again_overwrites_nothing(self, store: Store) -> None:
        await store.add_turn("c1", turn(1, "vorher"), 10.0)
        await store.add_turn("c1", turn(1, "nachher"), 20.0)
        assert [t["text"] for t in await store.turns("c1")] == ["vorher", "nachher"]

    async def test_without_an_id_every_turn_counts(self, store: Store) -> None:
        for _ in range(2):
            await store.add_turn("c1", TranscriptTurn("", "customer", "de", "ja", True), 1.0)
        assert len(await store.turns("c1")) == 2


class TestOutbox:
    async def test_from_the_intention_to_the_end(self, store: Store) -> None:
        intended = PendingSession("key", "c1", request={"mode": "x", "n": [1, None]}, created_at=12.5)
        await store.session_intended(intended)
        assert await store.pending_sessions() == [intended]
        await store.session_created("key", "sess_1", "https://api")
        await store.session_to_end("key", "completed")
        await store.session_attempted("key")
        await store.session_attempted("key")
        assert await store.pending_sessions() == [
            PendingSession("key", "c1", "sess_1", "https://api", intended.request, "completed", 12.5, 2)
        ]
        await store.session_ended("key")
        assert await store.pending_sessions() == []

    async def test_the_oldest_first(self, store: Store) -> None:
        for key, at in (("b", 2.0), ("a", 3.0), ("c", 1.0)):
            await store.session_intended(PendingSession(key, "c", created_at=at))
        assert [p.key for p in await store.pending_sessions()] == ["c", "b", "a"]

    async def test_intending_again_forgets_no_session(self, store: Store) -> None:
        first = PendingSession("key", "c1", created_at=1.0)
        await store.session_intended(first)
        await store.session_created("key", "sess_1", "https://api")
        await store.session_to_end("key", "error")
        await store.session_intended(first)
        assert await store.pending_sessions() == [
            PendingSession("key", "c1", "sess_1", "https://api", None, "error", 1.0)
        ]

    async def test_a_session_whose_intention_is_missing_is_kept_all_the_same(
        self, store: Store, clock: ManualClock
    ) -> None:
        await store.session_created("lost", "sess_9", "https://api")
        assert await store.pending_sessions() == [
            PendingSession("lost", "", "sess_9", "https://api", created_at=clock.wall().timestamp())
        ]

    async def test_unknown_keys_are_harmless(self, store: Store) -> None:
        await store.session_to_end("nobody", "error")
        await store.session_attempted("nobody")
        await store.session_ended("nobody")
        assert await store.pending_sessions() == []


class TestMappings:
    async def test_insert_unless_there(self, store: Store) -> None:
        assert await store.put_mapping("pbx", "k", {"a": 1})
        assert not await store.put_mapping("pbx", "k", {"a": 2})
        assert await store.put_mapping("agi", "k", {"a": 3})
        assert await store.get_mapping("pbx", "k") == {"a": 1}
        assert await store.get_mapping("agi", "k") == {"a": 3}
        assert await store.get_mapping("pbx", "other") is None

    async def test_update_delete_and_list(self, store: Store) -> None:
        await store.update_mapping("pbx", "absent", {"a": 1})
        assert await store.mappings("pbx") == {}
        await store.put_mapping("pbx", "b", {"a": 1})
        await store.put_mapping("pbx", "a", {})
        await store.update_mapping("pbx", "b", {"a": 2})
        assert await store.mappings("pbx") == {"a": {}, "b": {"a": 2}}
        assert await store.delete_mapping("pbx", "b")
        assert not await store.delete_mapping("pbx", "b")
        assert await store.mappings("pbx") == {"a": {}}

    async def test_expiry_is_told_not_done(self, store: Store) -> None:
        await store.put_mapping("pbx", "soon", {"n": 1}, expires_at=100.0)
        await store.put_mapping("pbx", "late", {"n": 2}, expires_at=200.0)
        await store.put_mapping("pbx", "never", {"n": 3})
        assert await store.expired_mappings("pbx", 99.9) == {}
        assert await store.expired_mappings("pbx", 100.0) == {"soon": {"n": 1}}
        assert set(await store.expired_mappings("pbx", 1e12)) == {"soon", "late"}
        assert await store.expired_mappings("agi", 1e12) == {}
        await store.update_mapping("pbx", "soon", {"n": 9})
        assert await store.expired_mappings("pbx", 150.0) == {"soon": {"n": 9}}
        assert set(await store.mappings("pbx")) == {"soon", "late", "never"}

    async def test_many_at_once(self, store: Store) -> None:
        await store.put_mapping("live", "old", {"n": 1}, expires_at=5.0)
        await store.put_mapping("pbx", "old", {"n": 1})
        await store.write_mappings("live", {"old": {"n": 2}, "gone": {"n": 3}, "new": {}})
        await store.write_mappings("live", {"gone": None, "never": None, "more": {"n": 4}})
        assert await store.mappings("live") == {"more": {"n": 4}, "new": {}, "old": {"n": 2}}
        assert await store.expired_mappings("live", 1e12) == {}
        assert await store.mappings("pbx") == {"old": {"n": 1}}
        await store.write_mappings("live", {"old": {"n": 5}}, expires_at=7.0)
        assert await store.expired_mappings("live", 7.0) == {"old": {"n": 5}}
        await store.write_mappings("live", {})
        await store.write_mappings("live", {f"k{n}": {"n": n} for n in range(1500)})
        await store.write_mappings("live", dict.fromkeys(f"k{n}" for n in range(1500)))
        assert set(await store.mappings("live")) == {"more", "new", "old"}

    async def test_values_no_database_likes(self, store: Store) -> None:
        await store.put_mapping("k", HOSTILE, {"x": HOSTILE, "big": 2**80, "deep": [[{"é": None}], True, 1.5]})
        found = await store.get_mapping("k", HOSTILE)
        assert found is not None
        assert found["deep"] == [[{"é": None}], True, 1.5]
        assert found["big"] == str(2**80)


class TestSeenOnce:
    async def test_each_event_once(self, store: Store) -> None:
        assert await store.seen_once("evt_1", NOW)
        assert not await store.seen_once("evt_1", NOW + 1)
        assert await store.seen_once("evt_2", NOW + 1)

    async def test_remembered_for_three_days_from_the_first_time(self, store: Store) -> None:
        await store.seen_once("evt", NOW)
        assert not await store.seen_once("evt", NOW + SEEN_SECONDS - 1)
        assert await store.seen_once("evt", NOW + SEEN_SECONDS)
        assert not await store.seen_once("evt", NOW + SEEN_SECONDS + 1)

    async def test_a_clock_that_went_back_accepts_nothing_twice(self, store: Store) -> None:
        await store.seen_once("evt", NOW)
        assert not await store.seen_once("evt", NOW - 9999)


class TestManyAtOnce:
    async def test_one_of_fifty_puts_the_mapping(self, store: Store) -> None:
        put = await asyncio.gather(*(store.put_mapping("pbx", "k", {"n": n}) for n in range(50)))
        assert sorted(put) == [False] * 49 + [True]
        assert await store.get_mapping("pbx", "k") == {"n": put.index(True)}

    async def test_one_of_fifty_sees_the_event_first(self, store: Store) -> None:
        assert sum(await asyncio.gather(*(store.seen_once("evt", NOW) for _ in range(50)))) == 1

    async def test_attempts_are_not_lost(self, store: Store) -> None:
        await store.session_intended(PendingSession("key", "c1"))
        await asyncio.gather(*(store.session_attempted("key") for _ in range(40)))
        assert (await store.pending_sessions())[0].attempts == 40

    async def test_two_services_write_to_one_database(self, url: str, opened: Open) -> None:
        first, second = await asyncio.gather(opened(url), opened(url))
        await asyncio.gather(
            *(
                s.save_call(call(f"{name}{n}", minutes=n))
                for n in range(25)
                for name, s in (("a", first), ("b", second))
            ),
            *(s.session_intended(PendingSession("same", "c", created_at=1.0)) for s in (first, second) * 5),
            *(s.turns("none") for s in (first, second) * 5),
        )
        assert len(await first.list_calls()) == 50
        assert await first.list_calls() == await second.list_calls()
        assert len(await second.pending_sessions()) == 1

    async def test_a_cancelled_write_is_whole_or_not_at_all(self, store: Store) -> None:
        saving = [asyncio.get_running_loop().create_task(store.save_call(call(f"c{n}"))) for n in range(20)]
        await asyncio.sleep(0.004)
        for task in saving:
            task.cancel()
        await asyncio.gather(*saving, return_exceptions=True)
        await store.save_call(call("after"))
        assert await store.get_call("after") == call("after")
        for found in await store.list_calls():
            assert found == call(found.id)


class TestRetention:
    async def test_old_calls_and_their_transcripts_go(self, url: str, opened: Open, clock: ManualClock) -> None:
        store = await opened(url, retention_days=10)
        await store.save_call(call("old", state="ended", minutes=-60))
        await store.save_call(call("young", state="ended", minutes=60))
        await store.add_turn("old", turn(1), 1.0)
        await store.add_turn("young", turn(1), 1.0)
        await store.session_intended(PendingSession("key", "old", created_at=1.0))
        clock.advance((START - clock.wall()).total_seconds() + 10 * 86400)
        assert await store.delete_old() == 1
        assert [c.id for c in await store.list_calls()] == ["young"]
        assert (await store.turns("old"), len(await store.turns("young"))) == ([], 1)
        assert len(await store.pending_sessions()) == 1, "what still costs money is never forgotten"
        assert await store.delete_old() == 0

    async def test_data_of_webhooks_goes_when_its_time_is_over(
        self, url: str, opened: Open, clock: ManualClock
    ) -> None:
        store = await opened(url, retention_days=10)
        until = clock.wall().timestamp() + 10 * 86400
        await store.put_mapping("webhook:transcript.ready", "s1", {"text": "a secret"}, expires_at=until)
        await store.put_mapping("webhook:recording.ready", "s1", {}, expires_at=until + 60)
        await store.put_mapping("webhooks", "s1", {}, expires_at=until)
        clock.advance(10 * 86400)
        await store.delete_old()
        assert await store.mappings("webhook:transcript.ready") == {}
        assert list(await store.mappings("webhook:recording.ready")) == ["s1"]
        assert list(await store.mappings("webhooks")) == ["s1"], "another kind"

    async def test_a_call_that_has_ended_stays_so(self, url: str, opened: Open) -> None:
        """Of two writes that PostgreSQL is given at once, the earlier one may come last."""
        store = await opened(url)
        await store.save_call(call("c1", state="ended"))
        await store.save_call(call("c1", state="active"))
        assert await store.list_calls(active=True) == []
        await store.save_call(call("c1", state="ended", minutes=3))
        assert (await store.get_call("c1")) == call("c1", state="ended", minutes=3)

    async def test_more_than_a_batch(self, url: str, opened: Open, clock: ManualClock, monkeypatch: Any) -> None:
        monkeypatch.setattr("kallglot_ari.store.store._RETENTION_BATCH", 3)
        store = await opened(url, retention_days=1)
        for number in range(8):
            await store.save_call(call(f"c{number}", minutes=number))
        clock.advance(5 * 86400)
        assert await store.delete_old() == 8

    async def test_zero_keeps_calls_for_ever(self, url: str, opened: Open, clock: ManualClock) -> None:
        store = await opened(url, retention_days=0)
        await store.save_call(call())
        await store.seen_once("evt", clock.wall().timestamp())
        clock.advance(10_000 * 86400)
        assert await store.delete_old() == 0
        assert await store.get_call("c1") is not None
        assert await store.seen_once("evt", clock.wall().timestamp())

    async def test_a_clock_that_is_wrong_for_a_moment_deletes_nothing(
        self, url: str, opened: Open, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An NTP server or a real-time clock that says 2036, as the hour of the retention comes."""
        monkeypatch.setattr("kallglot_ari.store.store._RETENTION_EVERY", 0.05)
        store = await opened(url)
        await store.save_call(call("young"))
        await asyncio.sleep(0.2)
        right = clock._epoch
        with capture_logs() as logged:
            clock._epoch = right + 4000 * 86400
            async with asyncio.timeout(5):
                while not any(line["event"] == "store_retention_postponed" for line in logged):
                    await asyncio.sleep(0.001)
            clock._epoch = right
            await asyncio.sleep(0.2)
        assert await store.get_call("young") is not None
        assert [line["event"] for line in logged if line["event"].startswith("store_")] == ["store_retention_postponed"]

    async def test_it_runs_by_itself(self, url: str, opened: Open, clock: ManualClock) -> None:
        store = await opened(url, retention_days=0)
        await store.save_call(call("old"))
        await store.close()
        clock.advance(100 * 86400)
        again = await opened(url)
        for _ in range(200):
            if await again.get_call("old") is None:
                return
            await asyncio.sleep(0.01)
        pytest.fail("the old call is still there after 2 s")

    async def test_ids_of_webhooks_are_forgotten_also_where_calls_are_kept(
        self, url: str, opened: Open, clock: ManualClock
    ) -> None:
        store = await opened(url, retention_days=0)
        await store.seen_once("evt", clock.wall().timestamp())
        await store.save_call(call())
        await store.close()
        clock.advance(100 * 86400)
        again = await opened(url, retention_days=0)
        count = select(func.count()).select_from(schema.seen_events)
        async with asyncio.timeout(2):
            while await again._read("count", lambda c: c.scalar(count)):
                await asyncio.sleep(0.01)
        assert await again.get_call("c1") is not None


class TestLife:
    async def test_what_was_written_is_there_after_a_restart(self, url: str, opened: Open) -> None:
        store = await opened(url)
        await store.save_call(call())
        await store.close()
        again = await opened(url)
        assert await again.get_call("c1") == call()

    async def test_starting_and_closing_twice_is_harmless(self, store: Store) -> None:
        await store.start()
        await store.save_call(call())
        await store.close()
        await store.close()

    async def test_closed_it_says_so(self, store: Store) -> None:
        await store.close()
        for method in (store.pending_sessions(), store.save_call(call()), store.check()):
            with pytest.raises(StoreError, match="it is not open"):
                await method

    async def test_closing_lets_what_is_under_way_finish(self, url: str, opened: Open) -> None:
        store = await opened(url)
        saving = [asyncio.get_running_loop().create_task(store.save_call(call(f"c{n}", minutes=n))) for n in range(10)]
        await asyncio.sleep(0)
        await store.close()
        results = await asyncio.gather(*saving, return_exceptions=True)
        kept = {c.id for c in await (await opened(url)).list_calls()}
        for number, result in enumerate(results):
            assert result is None or isinstance(result, StoreError)
            assert result is not None or f"c{number}" in kept, "what was acknowledged is there"

    async def test_it_leaves_no_task_and_no_file_descriptor(self, url: str, opened: Open) -> None:
        import gc

        import psutil

        process = psutil.Process()

        async def once() -> None:
            store = await opened(url)
            await asyncio.gather(*(store.get_call("c") for _ in range(20)), store.save_call(call()))
            await store.close()

        await once()
        gc.collect()
        before, threads = process.num_fds(), process.num_threads()
        for _ in range(5):
            await once()
        gc.collect()
        assert process.num_fds() <= before
        assert process.num_threads() <= threads + 1
        assert len(asyncio.all_tasks()) == 1
