"""What is let through into dial strings, the dialplan and SIP."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kallglot_ari.calls import names

HARMFUL = " ,&|$(){}<>'\"`\\?!\r\n\t\x00\u2028"
PATTERNS = [names.DIAL_STRING, names.EXTENSION, names.CONTEXT, names.PRIORITY, names.SESSION, names.SPEAKER, names.DTMF]


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: p.pattern[:20])
@pytest.mark.parametrize("harm", HARMFUL)
def test_nothing_that_ends_a_dial_string_or_begins_something_else(pattern: re.Pattern[str], harm: str) -> None:
    for text in (f"PJSIP/1{harm}2", f"1{harm}2", f"1{harm}", f"{harm}1", f"PJSIP/1{harm}"):
        assert not pattern.fullmatch(text)


@given(st.text(max_size=40))
def test_whatever_passes_has_no_harmful_character(text: str) -> None:
    for pattern in PATTERNS:
        if pattern.fullmatch(text):
            assert not set(text) & set(HARMFUL)
            assert text.isascii()


@pytest.mark.parametrize("text", ["default,1002,1", "from-kallglot,*97,n", "a, 300, start", "sip.in,300,99999"])
def test_places_of_the_dialplan(text: str) -> None:
    assert names.is_place(text)


@pytest.mark.parametrize(
    "text", ["", "1002", "a,b", "a,b,0", "a,b,c,d", "a b,1,1", "a,1;2,1", "a,1,1\n", "a,,1", ",1,1"]
)
def test_no_places(text: str) -> None:
    assert not names.is_place(text)


@pytest.mark.parametrize(
    "text",
    [
        "PJSIP/1001",
        "PJSIP/+4930123@carrier",
        "PJSIP/x/sip:1@h:5060;user=phone",
        "Local/300@c/n",
        "SIP/a%2Bb",
        "IAX2/u:p@h/1",
    ],
)
def test_dial_strings(text: str) -> None:
    assert names.DIAL_STRING.fullmatch(text)
