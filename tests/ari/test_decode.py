from __future__ import annotations

import dataclasses
from datetime import UTC, datetime

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kallglot_ari.ari import models
from kallglot_ari.ari.decode import AnyEvent, GenericEvent, MalformedError, decode_event, read_many, read_one
from kallglot_ari.ari.models import EVENTS
from tests.ari.fake import channel, event

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def decode(document: object) -> AnyEvent:
    return decode_event(orjson.dumps(document))


def test_stasis_start_of_16() -> None:
    found = decode(event("StasisStart", args=["source=de"], channel=channel("c1")))
    assert isinstance(found, models.StasisStart)
    assert found.args == ("source=de",)
    assert found.channel.id == "c1"
    assert found.channel.dialplan.priority == 1
    assert (found.channel.dialplan.app_name, found.channel.tenantid, found.channel.channelvars) == ("", None, {})
    assert found.timestamp == datetime(2026, 11, 24, 4, 57, 53, 930000, UTC)
    assert found.replace_channel is None


def test_fields_of_a_later_release_are_ignored() -> None:
    found = decode(event("StasisEnd", channel=channel("c1", shoe_size=43), mood={"deep": [1]}))
    assert isinstance(found, models.StasisEnd)


def test_channel_transfer_with_all_its_parts() -> None:
    destination = {
        "destination": "2000",
        "additional_protocol_params": [{"parameter_name": "a", "parameter_value": "b"}],
    }
    found = decode(
        event(
            "ChannelTransfer",
            refer_to={"requested_destination": destination},
            referred_by={"source_channel": channel("c1")},
        )
    )
    assert isinstance(found, models.ChannelTransfer)
    assert found.refer_to.requested_destination.additional_protocol_params[0].parameter_value == "b"
    assert found.referred_by.source_channel.id == "c1"


def test_a_keyword_as_a_field() -> None:
    found = decode(event("TextMessageReceived", message={"from": "a", "to": "b", "body": "c"}))
    assert isinstance(found, models.TextMessageReceived)
    assert (found.message.from_, found.message.to) == ("a", "b")


def test_null_counts_as_missing() -> None:
    found = decode(event("ChannelDestroyed", cause=None, cause_txt=None, channel=channel("c1", caller_rdnis=None)))
    assert isinstance(found, models.ChannelDestroyed)
    assert (found.cause, found.cause_txt) == (0, "")


@pytest.mark.parametrize("time", ["yesterday", "", "2026-13-01T00:00:00.000+0000", 17])
def test_a_time_that_cannot_be_read_is_none(time: object) -> None:
    found = decode({**event("StasisEnd", channel=channel("c1")), "timestamp": time})
    assert isinstance(found, models.StasisEnd)
    assert found.timestamp is None


def test_a_time_without_zone_is_utc() -> None:
    found = decode({**event("StasisEnd", channel=channel("c1")), "timestamp": "2026-11-24T04:57:53"})
    assert isinstance(found, models.StasisEnd)
    assert found.timestamp is not None
    assert found.timestamp.tzinfo is UTC


def test_an_unknown_event_keeps_everything() -> None:
    document = event("ChannelSneezed", channel=channel("c1"))
    assert decode(document) == GenericEvent("ChannelSneezed", "kallglot", document)


@pytest.mark.parametrize(
    ("frame", "kind", "problem"),
    [
        ("", "", "expected JSON: "),
        ("{", "", "expected JSON: "),
        (b"\xff\xfe", "", "expected JSON: "),
        ("[" * 5000, "", "expected JSON: "),
        ("[]", "", "expected a JSON object, found list"),
        ("null", "", "expected a JSON object, found nothing"),
        ("{}", "", "type: expected a string, found nothing"),
        ('{"type": 7}', "", "type: expected a string, found int"),
        ('{"type": ""}', "", "type: expected a string, found an empty string"),
        ('{"type": "StasisEnd"}', "StasisEnd", "StasisEnd.channel: expected a value, found nothing"),
        ('{"type": "StasisEnd", "channel": []}', "StasisEnd", "StasisEnd.channel: expected an object, found list"),
        ('{"type": "StasisEnd", "channel": {}}', "StasisEnd", "StasisEnd.channel.id: expected a value, found nothing"),
        ('{"type": "StasisStart", "args": [1]}', "StasisStart", "StasisStart.args[0]: expected str, found int"),
        ('{"type": "StasisStart", "args": "a"}', "StasisStart", "StasisStart.args: expected a list, found str"),
        (
            '{"type": "ChannelDestroyed", "cause": true}',
            "ChannelDestroyed",
            "ChannelDestroyed.cause: expected int, found bool",
        ),
        (
            '{"type": "ChannelUserevent", "eventname": "x", "userevent": []}',
            "ChannelUserevent",
            "ChannelUserevent.userevent: expected dict, found list",
        ),
    ],
)  # fmt: skip
def test_malformed_ones_say_where(frame: str | bytes, kind: str, problem: str) -> None:
    found = decode_event(frame)
    assert isinstance(found, GenericEvent)
    assert found.type == kind
    assert found.problem.startswith(problem)


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_any_frame_survives(frame: bytes | str) -> None:
    if isinstance(frame, str) and any("\ud800" <= letter <= "\udfff" for letter in frame):
        return
    decode_event(frame)


@given(
    st.sampled_from(sorted(EVENTS)), st.dictionaries(st.text() | st.sampled_from(["channel", "bridge", "args"]), JSON)
)
def test_any_content_of_a_known_event_survives(kind: str, content: dict[str, object]) -> None:
    found = decode({**content, "type": kind})
    assert isinstance(found, EVENTS[kind]) or (isinstance(found, GenericEvent) and found.problem)


@given(st.data())
def test_one_wrong_value_anywhere_in_a_channel_is_told_or_harmless(data: st.DataObject) -> None:
    whole = channel("c1")
    key = data.draw(st.sampled_from(sorted(whole)))
    found = decode(event("StasisStart", args=[], channel={**whole, key: data.draw(JSON)}))
    assert isinstance(found, models.StasisStart) or (isinstance(found, GenericEvent) and f".{key}" in found.problem)


def test_answers() -> None:
    assert read_one(models.Variable, b'{"value": "x"}').value == "x"
    assert [one.id for one in read_many(models.Channel, orjson.dumps([channel("a"), channel("b")]))] == ["a", "b"]
    assert read_one(models.RTPstat, b'{"txjitter": 1, "rtt": 0.5}').txjitter == 1.0
    with pytest.raises(MalformedError, match=r"RTPstat\.rtt: expected a number, found str"):
        read_one(models.RTPstat, b'{"rtt": "x"}')
    with pytest.raises(MalformedError, match="Channel: expected a list, found dict"):
        read_many(models.Channel, b"{}")


def test_every_event_is_frozen_with_slots() -> None:
    for name, model in EVENTS.items():
        assert model.__name__ == name
        assert dataclasses.is_dataclass(model)
        assert "__slots__" in vars(model)
        assert model.__dataclass_params__.frozen  # type: ignore[attr-defined]
