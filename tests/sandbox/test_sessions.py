from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from kallglot_ari.calls.model import TranscriptTurn
from kallglot_ari.sandbox import sessions
from kallglot_ari.sandbox.sessions import IdempotencyKeys, Record, Sessions
from kallglot_ari.sandbox.validate import Problem, parse_create

WALL = datetime(2026, 11, 24, tzinfo=UTC)
ROUTED = parse_create({"mode": "ai_agent", "phone_number": "+49301"})
OLDER = parse_create({"mode": "ai_agent", "provider": {"type": "sip"}})


def create(store: Sessions, now: float = 0.0, older: bool = False) -> Record:
    return store.create(OLDER if older else ROUTED, now=now, wall=WALL)


@pytest.mark.parametrize(("older", "life"), [(False, 300), (True, 3600)])
def test_a_token_is_good_for_as_long_as_its_contract_says(older: bool, life: float) -> None:
    record = create(Sessions(), now=100.0, older=older)
    record.check_token(record.token, 100.0 + life)
    with pytest.raises(Problem) as caught:
        record.check_token(record.token, 100.1 + life)
    assert (caught.value.status, caught.value.code) == (401, "stream_token_expired")
    assert record.stream_json("ws://h/v1")["expires_at"] == sessions.iso(WALL + timedelta(seconds=life))


@pytest.mark.parametrize("token", ["", "kst_", "é", "\udce9"])
def test_another_token_is_refused(token: str) -> None:
    with pytest.raises(Problem) as caught:
        create(Sessions()).check_token(token, 0.0)
    assert caught.value.code == "invalid_stream_token"


def test_the_stream_url_has_the_token_in_the_current_contract_only() -> None:
    new, old = create(Sessions()), create(Sessions(), older=True)
    assert new.stream_json("ws://h/v1")["url"] == f"ws://h/v1/sessions/{new.id}/connect?token={new.token}"
    assert old.stream_json("ws://h/v1")["url"] == f"ws://h/v1/sessions/{old.id}/connect"


def test_the_provider_of_a_response_is_a_string_or_an_object() -> None:
    assert create(Sessions()).as_json(0.0)["provider"] == "twilio"
    assert create(Sessions(), older=True).as_json(0.0)["provider"] == {"type": "sip", "status": "pending"}


@pytest.mark.parametrize(("older", "key"), [(False, "duration_seconds"), (True, "duration")])
def test_a_session_ends_once_and_keeps_its_summary(older: bool, key: str) -> None:
    store = Sessions()
    record = create(store, older=older)
    assert store.end(record, "completed", now=61.4, wall=WALL)
    assert not store.end(record, "error", now=99.0, wall=WALL)
    shown = store.get(record.id).as_json(500.0)
    assert (shown["status"], shown["end_reason"], shown[key]) == ("ended", "completed", 61)
    assert (store.created, store.ended, store.live()) == (1, 1, [])


def test_unknown_sessions_are_404_and_old_ones_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_ENDED", 2)
    store = Sessions()
    records = [create(store) for _ in range(3)]
    for record in records:
        store.end(record, "completed", now=1.0, wall=WALL)
    assert store.get(records[2].id).status == "ended"
    with pytest.raises(Problem) as caught:
        store.get(records[0].id)
    assert (caught.value.status, caught.value.code) == (404, "session_not_found")


def test_there_is_a_bound_to_live_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_LIVE", 1)
    store = Sessions()
    create(store)
    with pytest.raises(Problem) as caught:
        create(store)
    assert caught.value.status == 503


def test_idle_means_half_an_hour_without_anything() -> None:
    store = Sessions()
    quiet, busy = create(store), create(store)
    busy.active = 1000.0
    assert store.idle(1800.0) == []
    assert store.idle(1801.0) == [quiet]


def test_transcripts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    record = create(Sessions())
    for number in range(sessions.MAX_TURNS + 5):
        record.add_turn(TranscriptTurn(str(number), "customer", "de", "a", True, "en", "b"), WALL)
    assert len(record.turns) == sessions.MAX_TURNS
    assert record.turns[0] == {
        "sequence": 6,
        "speaker": "customer",
        "language": "de",
        "text": "a",
        "translation": {"language": "en", "text": "b"},
        "timestamp": "2026-11-24T00:00:00.000Z",
    }


def test_a_key_gives_the_first_answer_again_for_a_day() -> None:
    keys = IdempotencyKeys()
    assert keys.begin("/p", "k", b"body", 0.0) is None
    keys.done("/p", "k", 200, {"a": 1})
    assert keys.begin("/p", "k", b"body", 24 * 3600.0) == (200, {"a": 1})
    assert keys.begin("/p", "k", b"body", 24 * 3600.1) is None


def test_a_key_belongs_to_a_body_and_a_path() -> None:
    keys = IdempotencyKeys()
    keys.begin("/p", "k", b"body", 0.0)
    assert keys.begin("/q", "k", b"body", 0.0) is None
    with pytest.raises(Problem) as caught:
        keys.begin("/p", "k", b"other", 0.0)
    assert (caught.value.status, caught.value.code) == (400, "idempotency_mismatch")


def test_a_request_under_way_is_a_conflict_and_a_failed_one_may_be_made_again() -> None:
    keys = IdempotencyKeys()
    keys.begin("/p", "k", b"", 0.0)
    with pytest.raises(Problem) as caught:
        keys.begin("/p", "k", b"", 0.0)
    assert (caught.value.status, caught.value.code, caught.value.retry_after) == (409, "idempotency_conflict", 1)
    keys.failed("/p", "k")
    assert keys.begin("/p", "k", b"", 0.0) is None


def test_keys_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_KEYS", 3)
    keys = IdempotencyKeys()
    for number in range(5):
        keys.begin("/p", str(number), b"", 0.0)
        keys.done("/p", str(number), 200, {})
    assert keys.begin("/p", "4", b"", 0.0) == (200, {})
    assert keys.begin("/p", "0", b"", 0.0) is None


def test_a_token_is_not_shown() -> None:
    record = create(Sessions())
    assert record.token not in repr(record)
    assert record.token not in repr(record.as_json(0.0))
