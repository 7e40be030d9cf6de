"""Logs: one line an event, and no secret in any, in both forms and from every logger."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import resource
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from kallglot_ari import log
from kallglot_ari.log import HIDDEN, hide, redact

FORMS = ("json", "console")


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has secrets of its own."""
    monkeypatch.setattr(log, "_known", log._Known())


class Output:
    """What goes to stderr."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, form: Any) -> None:
        self._text = StringIO()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", self._text)
            log.configure("debug", form)

    def take(self) -> str:
        text = self._text.getvalue()
        self._text.seek(0)
        self._text.truncate()
        return text

    def event(self) -> dict[str, Any]:
        """The one JSON line."""
        text = self.take()
        assert text.count("\n") == 1, text
        event = json.loads(text)
        assert isinstance(event, dict)
        return event


@pytest.fixture(params=FORMS)
def output(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Output:
    return Output(monkeypatch, request.param)


@pytest.fixture
def json_output(monkeypatch: pytest.MonkeyPatch) -> Output:
    return Output(monkeypatch, "json")


def test_a_line_names_the_event_its_place_and_time(json_output: Output) -> None:
    log.get("kallglot_ari.part").bind(call="kg-1").info("call_started", legs=2)
    event = json_output.event()
    assert event.pop("timestamp").endswith("Z")
    assert event == {
        "event": "call_started",
        "logger": "kallglot_ari.part",
        "level": "info",
        "call": "kg-1",
        "legs": 2,
    }


def test_the_context_of_a_task_is_on_its_lines(json_output: Output) -> None:
    with structlog.contextvars.bound_contextvars(call="kg-2"):
        log.get("kallglot_ari.part").info("one")
        assert json_output.event()["call"] == "kg-2"
        logging.getLogger("kallglot_ari.other").info("two")
        assert json_output.event()["call"] == "kg-2"


def test_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", text := StringIO())
        log.configure("warning", "json")
    log.get("kallglot_ari.a").info("no")
    logging.getLogger("other").info("no")
    logging.getLogger("aiohttp.access").warning("no")
    assert text.getvalue() == ""
    log.get("kallglot_ari.a").warning("yes")
    logging.getLogger("other").warning("yes")
    assert text.getvalue().count("yes") == 2


@pytest.mark.parametrize(("terminal", "is_json"), [(True, False), (False, True)])
def test_auto_is_for_people_on_a_terminal(monkeypatch: pytest.MonkeyPatch, terminal: bool, is_json: bool) -> None:
    text = StringIO()
    monkeypatch.setattr(text, "isatty", lambda: terminal)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", text)
        log.configure()
    log.get("kallglot_ari.a").info("event")
    assert text.getvalue().startswith("{") == is_json


@pytest.mark.parametrize(
    "key",
    [
        "password",
        "ami_password",
        "passwd",
        "secret",
        "webhook_secret",
        "token",
        "stream_token",
        "api_key",
        "apikey",
        "X-API-Key",
        "Authorization",
    ],
)
@pytest.mark.parametrize(
    "value", ["open-sesame", b"open-sesame", ["open-sesame"], {"a": "open-sesame"}, 4711000, ("open-sesame",)]
)
def test_what_stands_under_a_secrets_name_is_hidden(output: Output, key: str, value: object) -> None:
    log.get("kallglot_ari.a").info("top", **{key: value})
    log.get("kallglot_ari.a").info("below", data={"rows": [{key: value}]})
    text = output.take()
    assert "open-sesame" not in text
    assert "4711000" not in text
    assert text.count(HIDDEN) == 2


@pytest.mark.parametrize("value", [None, "", True, False])
def test_that_a_secret_is_set_or_not_may_be_told(value: object) -> None:
    assert redact({"password": value}) == {"password": value}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("key sk_live_Ab-1_x.", "key sk_live_[hidden]."),
        ("sk_test_1", "sk_test_[hidden]"),
        ("kst_abc", "kst_[hidden]"),
        ("whsec_x", "whsec_[hidden]"),
        ("Authorization: Bearer abc.def-1_~+/==", "Authorization: Bearer [hidden]"),
        ("Authorization: Basic dXNlcjpwdw==", "Authorization: Basic [hidden]"),
        ("Basic authentication failed", "Basic authentication failed"),
        ("wss://h/connect?token=abc&x=1", "wss://h/connect?token=[hidden]&x=1"),
        ("http://h/ari/events?app=a&api_key=u:p", "http://h/ari/events?app=a&api_key=[hidden]"),
        ("postgresql://u:pw@h/d", "postgresql://[hidden]@h/d"),
        ("postgresql://u:p@ss:w@h/d", "postgresql://[hidden]@h/d"),
        ("redis://:pw@h", "redis://[hidden]@h"),
        ("https://api.example.com:8443/v1", "https://api.example.com:8443/v1"),
        ("sip://user@host", "sip://user@host"),
        ("user=u password=pw host=h", "user=u password=[hidden] host=h"),
        ("", ""),
    ],
)
def test_secrets_of_a_known_form(text: str, expected: str) -> None:
    assert redact(text) == expected
    assert redact(expected) == expected


def test_values_keep_their_kind() -> None:
    value = {"n": 1, "f": 1.5, "none": None, "yes": True, "list": [1, "a"], 5: (2,), "data": b"ab"}
    assert redact(value) == {"n": 1, "f": 1.5, "none": None, "yes": True, "list": [1, "a"], "5": [2], "data": "b'ab'"}


def test_a_structure_that_holds_itself_ends() -> None:
    knot: list[object] = []
    knot.append(knot)
    assert "..." in repr(redact(knot))


@dataclass
class Opened:
    """A value of the kind that a JSON writer would take apart, its `repr` notwithstanding."""

    session_id: str
    stream_token: str

    def __repr__(self) -> str:
        return f"Opened({self.session_id!r})"


def test_objects_are_shown_by_their_repr(output: Output) -> None:
    log.get("kallglot_ari.a").info("opened", session=Opened("sess_1", "open-sesame"), error=ValueError("sk_live_abc"))
    text = output.take()
    assert "Opened('sess_1')" in text
    assert "open-sesame" not in text
    assert "abc" not in text


@pytest.mark.parametrize(
    "value", [1 << 80, "\udc80", {"\udc80": 1}, float("nan"), b"\xff", {1: 2}, {("a", 1): {3}}, "line\nbreak"]
)
def test_what_json_writers_refuse_is_logged_all_the_same(json_output: Output, value: object) -> None:
    log.get("kallglot_ari.a").info("odd", value=value)
    assert json_output.event()["event"] == "odd"


def fail(message: str) -> None:
    a_local = "open-" + "sesame"
    raise ValueError(f"{message} {len(a_local)}")


@pytest.mark.parametrize("name", ["kallglot_ari.a", "foreign.library"])
def test_exceptions_hold_no_secret(output: Output, name: str) -> None:
    hide(["open-sesame"])
    for logger in (log.get(name), logging.getLogger(name)):
        try:
            try:
                fail("no access with open-sesame, sk_live_abc or http://u:pw@h/")
            except ValueError as error:
                raise RuntimeError("second: Bearer abc") from error
        except RuntimeError:
            logger.exception("crashed")
        text = output.take()
        assert "RuntimeError: second: Bearer [hidden]" in text
        assert "ValueError: no access with [hidden], sk_live_[hidden] or http://[hidden]@h/ 11" in text
        assert "open-sesame" not in text


def test_foreign_loggers_hold_no_secret(output: Output) -> None:
    hide(["open-sesame"])
    logging.getLogger("foreign.library").warning("GET %s for %s", "http://h/?api_key=u:p", "open-sesame")
    logging.getLogger("foreign.library").warning("odd", extra={"password": b"abcdef", "header": "Bearer abcdef"})
    text = output.take()
    assert "GET http://h/?api_key=[hidden] for [hidden]" in text
    assert "abcdef" not in text


def test_stacks_are_written_and_hold_no_secret(output: Output) -> None:
    hide(["test_stacks_are_written"])
    log.get("kallglot_ari.a").info("here", stack_info=True)
    text = output.take()
    assert "Stack (most recent call last)" in text
    assert "test_stacks_are_written" not in text


def test_hide_takes_the_longest_first_and_leaves_short_words() -> None:
    hide(["open", "open-sesame", "abc", ""])
    assert redact("open-sesame, open, abc") == "[hidden], [hidden], abc"
    hide(["more"])
    assert redact("open more") == "[hidden] [hidden]"


def test_a_configuration_without_secrets_hides_nothing() -> None:
    """`url = "embedded"` on a machine of one's own: its log stays readable."""
    hide(["", "abc"])
    assert redact("a call has begun") == "a call has begun"
    assert redact({"call": "kg-1"}) == {"call": "kg-1"}


def test_a_secret_is_found_as_python_json_and_urls_write_it() -> None:
    secret = 'pä"ss\\w/rd'
    hide([secret])
    for text in (repr(secret), json.dumps(secret), json.dumps(secret, ensure_ascii=False), "x?p=p%C3%A4%22ss%5Cw%2Frd"):
        assert redact(text).count(HIDDEN) == 1, text
    assert redact({secret: 1}) == {HIDDEN: 1}
    assert redact([ValueError(secret)]) == [f"ValueError('{HIDDEN}')"]


@pytest.mark.parametrize("secret", ["event", "level", "info", "timestamp", "logger", "exception"])
def test_a_secret_that_is_a_word_of_ours_breaks_no_line(output: Output, secret: str) -> None:
    hide([secret])
    try:
        fail("x")
    except ValueError:
        log.get("kallglot_ari.a").exception("crashed", value=f"<{secret}>")
    text = output.take()
    assert f"<{HIDDEN}>" in text
    assert "ValueError" in text


LETTERS = "aeiouxyz0123456789"
"""What a secret is drawn from, so that it is no part of what every line has."""


@given(secret=st.text(min_size=4, max_size=24), before=st.text(max_size=10), after=st.text(max_size=10))
@example(secret="\"\\'\n\t", before="", after="")
@example(secret="[hidden]x", before="[hidden]", after="x")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_hidden_secret_never_stays_in_a_text(secret: str, before: str, after: str) -> None:
    assume(secret not in HIDDEN)
    log._known = log._Known()
    hide([secret])
    assert secret not in redact(before + secret + after).replace(HIDDEN, "\0")
    assert secret not in redact({"k": [secret, {"x": before + secret}]})["k"][1]["x"].replace(HIDDEN, "\0")


@given(secret=st.text(LETTERS + "\"'\\/@:=& äß€", min_size=6, max_size=24), where=st.integers(0, 5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@pytest.mark.parametrize("form", FORMS)
def test_a_hidden_secret_never_appears_in_the_output(
    monkeypatch: pytest.MonkeyPatch, form: str, secret: str, where: int
) -> None:
    log._known = log._Known()
    output = Output(monkeypatch, form)
    logger = log.get("kallglot_ari.a")

    def write(words: str) -> str:
        match where:
            case 0:
                logger.info(words)
            case 1:
                logger.info("event", value=words)
            case 2:
                logger.info("event", value={words: [words, words.encode(), ValueError(words)]})
            case 3:
                logging.getLogger("other").warning("%s and %r", words, words)
            case 4:
                try:
                    raise ValueError(words)
                except ValueError:
                    logger.exception("event")
            case _:
                logger.bind(call=words).info("event", url=f"https://h/?x={words}")
        return output.take()

    assume(secret not in write("-") and not secret.isspace())
    hide([secret])
    text = write(f"({secret})")
    assert HIDDEN in text
    rest = text.replace(HIDDEN, "\0")
    assert secret not in rest
    assert json.dumps(secret, ensure_ascii=False)[1:-1] not in rest


def test_a_console_log_in_a_file_has_no_colours(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "console")
    log.get("kallglot_ari.test").info("said", word="hello")
    line = capsys.readouterr().err
    assert "said" in line
    assert "\x1b" not in line


@pytest.mark.parametrize("told", ["1\x1b[2J\x1b]0;x\x07", "1\x9b2J", "1\r\x1b[31m 2"])
def test_what_others_say_commands_no_terminal(monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    output = Output(monkeypatch, "console")
    logger = log.get("kallglot_ari.test")
    logger.info("call.created", caller=told, more={"caller": [told]})
    try:
        raise ValueError(told)
    except ValueError:
        logger.exception(told)
    text = output.take()
    assert not set(text) & {"\x1b", "\x07", "\x9b", "\r"}
    assert "\n    raise ValueError" in text, "a trace keeps its lines"


def test_a_fault_that_lasts_is_told_when_it_begins_and_when_it_is_another() -> None:
    with capture_logs() as logged:
        sweep = log.Lasting(log.get("kallglot_ari.test"), "sweep_postponed", "error")
        for error in ("disk full", "disk full", "locked", "locked", "locked"):
            sweep.failed(error, n=1)
        sweep.worked()
        sweep.failed("locked")
    told = [(line["log_level"], line["error"]) for line in logged]
    assert [line for line in told if line[0] == "error"] == [
        ("error", "disk full"),
        ("error", "locked"),
        ("error", "locked"),
    ]
    assert len(told) == 6, "the rest is there at level debug"


def test_what_is_nested_too_deep_is_logged_all_the_same() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert "too deep to show" in str(redact({"answer": deep}))


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, int]]:
    """The log as JSON into a pipe of four pages, and the pipe's other end."""
    there, here = os.pipe()
    fcntl.fcntl(here, fcntl.F_SETPIPE_SZ, 4 * 4096)
    with os.fdopen(here, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        log.configure("info", "json")
        yield log.get("kallglot_ari.piped"), there
    with contextlib.suppress(OSError):
        os.close(there)


@pytest.mark.parametrize("size", [100, 9000])
def test_a_reader_of_the_log_that_stands_still_holds_nobody_up(piped: tuple[Any, int], size: int) -> None:
    """The calls' event loop writes it: a service whose log nobody read stood still for ever."""
    logger, there = piped
    for number in range(500):
        logger.warning("said", number=number, text="x" * size)
    whole = [line for line in os.read(there, 1 << 16).split(b"\n") if line.endswith(b"}")]
    assert [json.loads(line)["number"] for line in whole] == list(range(len(whole)))
    logger.warning("again")
    told = [json.loads(line) for line in os.read(there, 1 << 16).splitlines() if line]
    assert [line["event"] for line in told] == ["log_lines_lost", "again"]
    assert told[0]["lines"] == 500 - len(whole)


def test_a_reader_of_the_log_that_is_gone_is_no_fault(
    piped: tuple[Any, int], capfd: pytest.CaptureFixture[str]
) -> None:
    logger, there = piped
    os.close(there)
    logger.warning("said")
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="NOT TESTED: no /dev/full")
def test_a_full_disk_loses_lines_and_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full, (tmp_path / "log").open("w") as empty:
        monkeypatch.setattr(sys, "stderr", full)
        log.configure("info", "json")
        for _ in range(5):
            log.get("kallglot_ari.disk").warning("said")
        handler = logging.getLogger().handlers[0]
        assert isinstance(handler, logging.StreamHandler)
        handler.stream = empty
        log.get("kallglot_ari.disk").warning("again")
        told = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [(line["event"], line.get("lines")) for line in told] == [("log_lines_lost", 5), ("again", None)]


def test_a_disk_that_is_full_in_the_middle_of_a_line_cuts_that_one_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with (tmp_path / "log").open("w") as file:
        monkeypatch.setattr(sys, "stderr", file)
        log.configure("info", "json")
        logger = log.get("kallglot_ari.disk")
        logger.warning("before")
        resource.setrlimit(resource.RLIMIT_FSIZE, (os.fstat(file.fileno()).st_size + 100, limits[1]))
        try:
            for _ in range(3):
                logger.warning("said", text="x" * 200)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        logger.warning("again")
    before, cut, *after = (tmp_path / "log").read_text().splitlines()
    assert json.loads(before)["event"] == "before"
    assert len(cut) == 100
    assert [(line["event"], line.get("lines")) for line in map(json.loads, after)] == [
        ("log_lines_lost", 3),
        ("again", None),
    ]
