"""The arguments of `Stasis(kallglot,…)`: every one, every bad one, and nothing that could escape into a dial string."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from kallglot_ari.calls import names
from kallglot_ari.calls.names import MAX_DIAL_STRINGS
from kallglot_ari.errors import UsageError
from kallglot_ari.modes import dialplan
from kallglot_ari.modes.dialplan import MAX_METADATA, StasisArguments, parse

UNSAFE = re.compile(r"[,&${}()<>\"' \x00-\x1f\x7f]")


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("source=de", StasisArguments(source="de")),
        ("source=auto", StasisArguments(source="auto")),
        ("target=pt-BR", StasisArguments(target="pt-BR")),
        ("target=zh-Hant-TW", StasisArguments(target="zh-Hant-TW")),
        ("mode=bidirectional_translation", StasisArguments(mode="bidirectional_translation")),
        ("mode=assistive_translation", StasisArguments(mode="assistive_translation")),
        ("mode=ai_agent", StasisArguments(mode="ai_agent")),
        ("mode=help_chat_voice", StasisArguments(mode="help_chat_voice")),
        ("agent=PJSIP/1001", StasisArguments(agents=("PJSIP/1001",))),
        ("agent=PJSIP/1001&SIP/b", StasisArguments(agents=("PJSIP/1001", "SIP/b"))),
        ("agent= PJSIP/1 & PJSIP/2 & PJSIP/1 &", StasisArguments(agents=("PJSIP/1", "PJSIP/2"))),
        ("agent=PJSIP/trunk/sip:+49301@h.example:5061", StasisArguments(agents=("PJSIP/trunk/sip:+49301@h.example:5061",))),
        ("agent=Local/300@ctx/n", StasisArguments(agents=("Local/300@ctx/n",))),
        ("timeout=1", StasisArguments(timeout=1.0)),
        ("timeout=600", StasisArguments(timeout=600.0)),
        ("timeout=12.5", StasisArguments(timeout=12.5)),
        ("answer=now", StasisArguments(answer="now")),
        ("join=sess_Ab-1", StasisArguments(join="sess_Ab-1")),
        ("speaker=Agent-2.b_c", StasisArguments(speaker="Agent-2.b_c")),
        ("metadata.ticket=A 1, \"x\" = y", StasisArguments(metadata={"ticket": 'A 1, "x" = y'})),
        ("metadata.a.b=", StasisArguments(metadata={"a.b": ""})),
        (" source = de ", StasisArguments(source="de")),
        ("participants=5", StasisArguments(participants=5)),
        ("source=", StasisArguments()),
        ("agent=", StasisArguments()),
        ("", StasisArguments()),
        ("  ", StasisArguments()),
    ],
)  # fmt: skip
def test_each_argument(argument: str, expected: StasisArguments) -> None:
    assert parse((argument,)) == expected


def test_all_together_and_none() -> None:
    assert parse(()) == StasisArguments()
    arguments = "source=de,target=en,mode=ai_agent,agent=PJSIP/1,timeout=20,answer=agent,speaker=caller,metadata.a=1"
    assert parse(tuple(arguments.split(","))) == StasisArguments(
        "de", "en", "ai_agent", ("PJSIP/1",), 20.0, "agent", "", "caller", metadata={"a": "1"}
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["de"], "'de': expected key=value"),
        (["sauce=de"], "unknown Stasis argument 'sauce'; expected one of source, target"),
        (["=de"], "unknown Stasis argument ''"),
        (["Source=de"], "unknown Stasis argument 'Source'"),
        (["source=de", "source=en"], "argument source: given twice"),
        (["source=", "source=de"], "argument source: given twice"),
        (["source=german"], "source: expected a language such as de or pt-BR, or auto, found 'german'"),
        (["target=d"], "target: expected a language"),
        (["target=de_DE"], "target: expected a language"),
        (["target=de-"], "target: expected a language"),
        (["source=dé"], "source: expected a language"),
        (["mode=translate"], "mode: expected one of bidirectional_translation"),
        (["agent=1001"], "agent: expected a dial string such as PJSIP/1001, found '1001'"),
        (["agent=PJSIP/"], "agent: expected a dial string"),
        (["agent=/1001"], "agent: expected a dial string"),
        (["agent=1PJSIP/a"], "agent: expected a dial string"),
        (["agent=PJSIP/" + "1" * 256], "agent: expected a dial string"),
        (["agent=PJSIP/a b"], "agent: expected a dial string"),
        (["agent=PJSIP/${EXTEN}"], "agent: expected a dial string"),
        (["agent=PJSIP/a&PJSIP/b,30,g"], "agent: expected a dial string"),
        (['agent="x"<PJSIP/a>'], "agent: expected a dial string"),
        (["agent=&"], "agent: expected 1 to 16 dial strings joined with &, found 0"),
        (["agent=" + "&".join(f"PJSIP/{n}" for n in range(MAX_DIAL_STRINGS + 1))], "expected 1 to 16 dial strings"),
        (
            ["mode=bidirectional_translation", "agent="],
            "agent: expected a dial string with mode=bidirectional_translation",
        ),
        (["agent= ", "mode=assistive_translation"], "agent: expected a dial string with mode=assistive_translation"),
        (["timeout=0.9"], "timeout: expected 1 to 600 seconds, found '0.9'"),
        (["timeout=600.1"], "timeout: expected 1 to 600 seconds"),
        (["timeout=-1"], "timeout: expected"),
        (["timeout=nan"], "timeout: expected"),
        (["timeout=inf"], "timeout: expected"),
        (["timeout=30s"], "timeout: expected"),
        (["answer=later"], "answer: expected agent or now, found 'later'"),
        (["answer=agent"], "answer=agent: expected an agent argument"),
        (["join=sess 1"], "join: expected a session id, found 'sess 1'"),
        (["join=" + "s" * 129], "join: expected a session id"),
        (["join=sess_1", "agent=PJSIP/1"], "join and agent: expected one of them, found both"),
        (["speaker=-x"], "speaker: expected a label"),
        (["speaker=" + "x" * 65], "speaker: expected a label"),
        (["speaker=a b"], "speaker: expected a label"),
        (["metadata.=x"], "metadata.'': expected letters"),
        (["metadata.a b=x"], "metadata.'a b': expected letters"),
        (["metadata." + "k" * 65 + "=x"], "expected letters"),
        (["metadata.k=" + "v" * 513], "metadata.k: expected at most 512 characters, found 513"),
        (["metadata.k=1", "metadata.k=2"], "metadata.k: given twice"),
        ([f"metadata.k{n}=v" for n in range(MAX_METADATA + 1)], "expected at most 32"),
        (["metadata.k=a\x00b"], "'metadata.k': expected no control characters"),
        (["source=d\x7fe"], "'source': expected no control characters"),
        (["source\n=de"[::-1]], "expected"),
    ],
)
def test_every_bad_argument_is_named(arguments: list[str], words: str) -> None:
    with pytest.raises(UsageError) as error:
        parse(tuple(arguments))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "default_mode"),
    [
        (("agent=",), "ai_agent"),
        (("mode=ai_agent", "agent="), "bidirectional_translation"),
        (("mode=bidirectional_translation",), "bidirectional_translation"),
        (("agent=", "participants=3"), "bidirectional_translation"),
        (("agent=", "join=sess_1"), "bidirectional_translation"),
    ],
)
def test_an_agent_that_is_empty_or_absent_may_be_meant(arguments: tuple[str, ...], default_mode: str) -> None:
    """With a mode of one party, which the settings may name, or where other parties join the session."""
    assert parse(arguments, default_mode).agents == ()


@pytest.mark.parametrize("arguments", [("agent=",), ("source=de", "agent= ", "participants=2")])
def test_an_agent_that_is_a_variable_nobody_set_is_refused(arguments: tuple[str, ...]) -> None:
    """The caller would hear nothing and talk to nobody, for as long as the session may cost."""
    words = "agent: expected a dial string with mode=assistive_translation, found it empty"
    with pytest.raises(UsageError, match=words):
        parse(arguments, "assistive_translation")


def test_what_was_found_is_shown_in_part_only() -> None:
    with pytest.raises(UsageError) as error:
        parse(("x" * 5000,))
    assert len(str(error.value)) < 120


def test_as_many_as_are_allowed() -> None:
    assert len(parse(("agent=" + "&".join(f"PJSIP/{n}" for n in range(MAX_DIAL_STRINGS)),)).agents) == MAX_DIAL_STRINGS
    assert len(parse(tuple(f"metadata.k{n}={'v' * 512}" for n in range(MAX_METADATA))).metadata) == MAX_METADATA


@pytest.mark.parametrize("value", ["0", "123#*", "ABCDabcd", "1" * 64])
def test_digits(value: str) -> None:
    assert dialplan.digits("digits", value) == value


@pytest.mark.parametrize("value", ["", "E", "1 2", "1,2", "١", "1" * 65, "1\n"])
def test_bad_digits(value: str) -> None:
    with pytest.raises(UsageError, match="digits: expected 1 to 64 of 0-9 A-D"):
        dialplan.digits("digits", value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("PJSIP/1001", "PJSIP/1001"),
        ("300", "Local/300@internal/n"),
        ("+49.30-1*#_", "Local/+49.30-1*#_@internal/n"),
        ("300@sales", "Local/300@sales/n"),
    ],
)
def test_a_transfers_target(value: str, expected: str) -> None:
    assert dialplan.target("target", value, "internal") == expected


@pytest.mark.parametrize(
    "value",
    ["", "@sales", "300@", "300@a b", "30 0", "300@a@b", "300&301", "${X}", "PJSIP/a&PJSIP/b", "x" * 81, "300\n"],
)
def test_a_bad_target(value: str) -> None:
    with pytest.raises(UsageError, match="target: expected a dial string such as PJSIP/1001"):
        dialplan.target("target", value, "internal")


def test_a_target_needs_a_context_that_can_be_dialled() -> None:
    with pytest.raises(UsageError):
        dialplan.target("target", "300", "")


LIKELY = st.text(st.sampled_from("PJSIP/10a@:;=.-_+*#[]&,${}()<>\"' \n\r\t\0\x7fé"), max_size=40)
PREFIXED = st.builds("PJSIP/{}".format, LIKELY)


def accepted(read: Callable[[], str | tuple[str, ...]]) -> tuple[str, ...]:
    try:
        found = read()
    except UsageError as error:
        assert "expected" in str(error)  # noqa: PT017 - both outcomes are right
        return ()
    return (found,) if isinstance(found, str) else found


@given(st.one_of(LIKELY, PREFIXED, st.text()))
@example("PJSIP/1001,30,g")
@example("PJSIP/1\n")
def test_no_accepted_dial_string_can_end_itself_or_call_a_function(value: str) -> None:
    found = accepted(lambda: dialplan.dial_string("agent", value))
    found += accepted(lambda: dialplan.dial_strings("agent", value))
    found += accepted(lambda: dialplan.target("target", value, "internal"))
    found += accepted(lambda: dialplan.session_id("join", value))
    found += accepted(lambda: dialplan.speaker("speaker", value))
    found += accepted(lambda: dialplan.digits("digits", value))
    for one in found:
        assert not UNSAFE.search(one), one
        assert one.isascii()


@given(
    st.lists(
        st.one_of(st.text(max_size=40), st.builds("{}={}".format, st.sampled_from(sorted(dialplan.READERS)), LIKELY)),
        max_size=5,
    )
)
def test_any_arguments_are_read_or_refused(arguments: list[str]) -> None:
    try:
        parsed = parse(tuple(arguments))
    except UsageError as error:
        assert "Stasis argument" in str(error) or "expected" in str(error)  # noqa: PT017 - both outcomes are right
        return
    for agent in parsed.agents:
        assert not UNSAFE.search(agent)
    assert 1 <= parsed.timeout <= 600


@given(st.dictionaries(st.from_regex(names.METADATA_KEY, fullmatch=True), st.text(max_size=60), max_size=8))
def test_metadata_arrives_as_it_was_given(metadata: dict[str, str]) -> None:
    assume(not any(dialplan._CONTROL.search(v) for v in metadata.values()))
    parsed = parse(tuple(f"metadata.{k}={v}" for k, v in metadata.items()))
    assert parsed.metadata == {k: v.strip() for k, v in metadata.items()}
