"""Every kind of field: what it takes, what it refuses, and that nothing of the dialplan or of SIP slips through."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kallglot_ari.web import fields
from kallglot_ari.web.limits import RateLimit
from kallglot_ari.web.problem import Problem

DIAL = [
    "PJSIP/1001", "SIP/trunk/+4930123", "PJSIP/+4930123@carrier", "Local/100@agents", "IAX2/a",
    "PJSIP/carrier/sip:+49@host.example:5060;transport=tls", "PJSIP/a%20b", "PJSIP/[2001:db8::1]",
]  # fmt: skip
BAD_DIAL: list[Any] = [
    "", "1001", "PJSIP/", "/1001", "PJSIP", "PJSIP/1 2", "PJSIP/1,30", "PJSIP/1\r\nX-Evil: 1", "PJSIP/1\n", "PJSIP/${SHELL(id)}",
    "PJSIP/1|30", "PJSIP/1&", "&PJSIP/1", "PJSIP/1&&PJSIP/2", 'PJSIP/"1"', "PJSIP/<sip:a>", "PJSIP/(a)", "PJSIP/a\\b", "PJSIP/é",
    "PJSIP/" + "1" * 256, "&".join(["PJSIP/1"] * 17), "PJSIP/1\x00", "PJSIP/$[1+1]", "PJSIP/1\u2028", "PJSIP/`id`", None, 5, [], {},
]  # fmt: skip
REFUSED = set(" ,|\r\n\t\x00\"'<>(){}\\$`")


@pytest.mark.parametrize("value", DIAL)
def test_dial_strings(value: str) -> None:
    assert fields.dial_string("agent", value) == fields.dial_strings("agent", value) == value
    assert fields.dial_strings("agent", f"{value}&PJSIP/1002") == f"{value}&PJSIP/1002"
    assert fields.transfer_target("target", value) == value


@pytest.mark.parametrize("value", BAD_DIAL)
def test_dial_strings_that_are_none(value: Any) -> None:
    with pytest.raises(Problem, match=r"^agent: expected a dial string") as caught:
        fields.dial_strings("agent", value)
    with pytest.raises(Problem, match=r"^agent: expected a dial string"):
        fields.dial_string("agent", value)
    assert (caught.value.status, caught.value.param) == (400, "agent")
    assert len(caught.value.message) < 250
    assert "\n" not in caught.value.message


def test_where_one_party_is_meant_several_are_refused() -> None:
    with pytest.raises(Problem, match=r"^customer: expected a dial string like PJSIP/1001 \(one; "):
        fields.dial_string("customer", "PJSIP/1001&PJSIP/1002")
    with pytest.raises(Problem, match=r"^target: expected an extension, a dial string"):
        fields.transfer_target("target", "PJSIP/1001&PJSIP/1002")


@given(st.text(max_size=40))
def test_no_dial_string_can_leave_its_place(text: str) -> None:
    for check in (fields.dial_strings, fields.sip_uri, fields.speaker, fields.digits):
        try:
            found = check("x", "PJSIP/" + text if check is fields.dial_strings else text)
        except Problem:
            continue
        assert not REFUSED & set(found)
        assert found.isascii()


@given(st.text(alphabet=st.characters(max_codepoint=0x7F), max_size=30))
def test_a_transfer_target_has_commas_only_as_context_extension_priority(text: str) -> None:
    try:
        found = fields.transfer_target("target", text)
    except Problem:
        return
    assert not (REFUSED - {","}) & set(found)
    assert found.count(",") in (0, 2)


@pytest.mark.parametrize(
    "value", ["1002", "*8", "PJSIP/carrier/sip:a@b", "default,1002,1", "ctx-1,s,n", "a,b,label", "alice"]
)
def test_transfer_targets(value: str) -> None:
    assert fields.transfer_target("target", value) == value


@pytest.mark.parametrize(
    "value",
    [
        "",
        "sip:a@b",
        "tel:+4930",
        "a,b",
        "a,b,c,d",
        "a,b,",
        ",b,1",
        "a b",
        "sip:a@b,1",
        "1002\n",
        "default,1002,1\n",
        "a,${x},1",
        7,
        None,
    ],
)
def test_transfer_targets_that_are_none(value: Any) -> None:
    with pytest.raises(Problem, match=r"^target: expected an extension"):
        fields.transfer_target("target", value)


def test_languages() -> None:
    for good in ("de", "auto", "pt-BR", "zh-Hant-TW", "yue"):
        assert fields.language("source", good) == good
    for bad in ("", "german", "d", "de_DE", "de-", "de\n", 5, None):
        with pytest.raises(Problem, match=r"^source: expected a language"):
            fields.language("source", bad)


def test_caller_ids() -> None:
    for good in ("+4930", "Zoë <+4930>", "Müller"):
        assert fields.caller_id("caller_id", good) == good
    for bad in ("", "a\r\nb", 'a"b', "a,b", "${x}", "a" * 81, 5):
        with pytest.raises(Problem, match=r"^caller_id: "):
            fields.caller_id("caller_id", bad)


def test_a_long_value_is_shown_short_and_without_control_characters() -> None:
    assert fields.shown("x" * 500) == "'" + "x" * 76 + "…"
    assert "\r" not in fields.shown("\r\n")


def test_take() -> None:
    checks = {"a": fields.identifier}
    assert fields.take({"a": "1", "b": None}, checks, {"b": fields.language}) == {"a": "1"}
    assert fields.take({"a": "1", "c": 2}, checks, strict=False) == {"a": "1"}
    for body, message in (
        (None, "expected a JSON object"),
        ({}, "a: it is needed"),
        ({"a": "1", "c": 2}, "unknown field 'c'; expected a"),
    ):
        with pytest.raises(Problem, match=message):
            fields.take(body, checks)


def test_the_rate_limit_is_per_client_and_bounded() -> None:
    limit = RateLimit(rate=2.0, burst=2, clients=3)
    assert [limit.wait("a", 0.0) for _ in range(3)] == [0.0, 0.0, 0.5]
    assert limit.wait("b", 0.0) == 0.0
    assert limit.wait("a", 0.25) == pytest.approx(0.25)
    assert limit.wait("a", 0.5) == 0.0
    assert limit.wait("a", 0.4) > 0, "a clock that goes back gives nothing away"
    for name in "cdef":
        limit.wait(name, 1.0)
    assert len(limit) == 3


@given(st.lists(st.floats(0, 10), max_size=200).map(sorted))
def test_never_more_than_burst_and_rate_together(times: list[float]) -> None:
    limit = RateLimit(rate=5.0, burst=10)
    passed = sum(limit.wait("a", at) == 0.0 for at in times)
    assert passed <= 10 + 5 * (times[-1] - times[0] if times else 0) + 1e-6


def test_what_is_nested_too_deep_is_refused_like_anything_else() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(Problem, match="expected a JSON object, found list too deep to show"):
        fields.take(deep, {})
