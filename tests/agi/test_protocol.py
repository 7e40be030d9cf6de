"""FastAGI's words: every form Asterisk sends, cut at every byte, and what is not AGI at all."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kallglot_ari.agi import protocol
from kallglot_ari.agi.protocol import AgiReply, AgiRequest, Hangup, HeaderParser, LineBuffer, ReplyParser
from kallglot_ari.errors import AgiError

HEADER = (
    b"agi_network: yes\nagi_network_script: session\nagi_request: agi://127.0.0.1:4573/session\n"
    b"agi_channel: PJSIP/alice-00000001\nagi_language: en\nagi_type: PJSIP\nagi_uniqueid: 1700000000.1\n"
    b"agi_version: 22.10.1\nagi_callerid: 4930123\nagi_calleridname: Alice: Liddell\nagi_dnid: 800\n"
    b"agi_context: default\nagi_extension: 800\nagi_priority: 2\nagi_arg_1: source=de\nagi_arg_2: target=en\n\n"
)


def parse(data: bytes, size: int = 1 << 20) -> AgiRequest | None:
    lines, header = LineBuffer(), HeaderParser()
    for start in range(0, len(data), size):
        for line in lines.feed(data[start : start + size]):
            if (request := header.line(line)) is not None:
                return request
    return None


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1 << 20])
def test_request_is_the_same_however_it_is_cut(size: int) -> None:
    request = parse(HEADER, size)
    assert request is not None
    assert request.script == "session"
    assert request.arguments == ("source=de", "target=en")
    assert request.parameters == {"source": "de", "target": "en"}
    assert (request.channel, request.uniqueid) == ("PJSIP/alice-00000001", "1700000000.1")
    assert (request.caller, request.called) == ("4930123", "800")
    assert request.environment["calleridname"] == "Alice: Liddell"


def test_request_with_cr_lf_and_utf8_and_broken_utf8() -> None:
    data = HEADER.replace(b"\n", b"\r\n").replace(b"Liddell", "Müller".encode() + b"\xff")
    request = parse(data, 5)
    assert request is not None
    assert request.environment["calleridname"] == "Alice: Müller�"


@pytest.mark.parametrize("end", range(0, len(HEADER) - 1, 13))
def test_half_a_header_is_no_request(end: int) -> None:
    assert parse(HEADER[:end]) is None


CALLERS_OWN = [
    b"1\nagi_arg_1: agent=Local/0900@out\n2",
    b"1\nagi_arg_3: agent=Local/0900@out",
    b"1\nagi_network_script: end\n2",
    b"1\nagi_uniqueid: 1700000000.9\n2",
]
"""Numbers of callers, as Asterisk passes them on."""


@pytest.mark.parametrize("number", CALLERS_OWN)
def test_a_caller_adds_no_argument(number: bytes) -> None:
    with pytest.raises(AgiError, match="AGI header: expected"):
        parse(HEADER.replace(b"agi_callerid: 4930123", b"agi_callerid: " + number))


def test_a_number_has_no_control_characters() -> None:
    request = parse(HEADER.replace(b"agi_callerid: 4930123", b"agi_callerid: 49\x1b[2J3\r0"))
    assert request is not None
    assert request.caller == "49[2J30"


def test_unknown_numbers_are_empty() -> None:
    data = HEADER.replace(b"agi_callerid: 4930123", b"agi_callerid: unknown").replace(b"dnid: 800", b"dnid: unknown")
    request = parse(data.replace(b"extension: 800", b"extension: 801"))
    assert request is not None
    assert (request.caller, request.called) == ("", "801")


@pytest.mark.parametrize(
    ("values", "script", "parameters"),
    [
        ({"network_script": "Session"}, "session", {}),
        ({"network_script": "/session/"}, "session", {}),
        ({"request": "agi://host:4573/end"}, "end", {}),
        ({"request": "agi://host"}, "", {}),
        ({"request": "session"}, "session", {}),
        ({"network_script": "session?source=de&target=en%2DGB"}, "session", {"source": "de", "target": "en-GB"}),
        (
            {"network_script": "session", "arg_1": "SOURCE = de ", "arg_2": "flag", "arg_3": "=x", "arg_5": "lost=1"},
            "session",
            {"source": "de"},
        ),
        ({"network_script": "s", "arg_1": "metadata.OrderId=A=1"}, "s", {"metadata.OrderId": "A=1"}),
        ({"network_script": "s", "arg_1": "a=1", "arg_2": "a=2", "arg_3": "b="}, "s", {"a": "2", "b": ""}),
    ],
)
def test_script_and_parameters(values: dict[str, str], script: str, parameters: dict[str, str]) -> None:
    request = protocol.build_request(values)
    assert (request.script, request.parameters) == (script, parameters)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"GET / HTTP/1.1\r\n", "expected 'agi_name: value', found 'GET / HTTP/1.1'"),
        (b"agi_network\n", "expected 'agi_name: value'"),
        (b"agi_bad name: 1\n", "expected 'agi_name: value'"),
        (b"channel: x\n", "expected 'agi_name: value'"),
        (b"\x16\x03\x01\x02\x00\x01\n", "expected 'agi_name: value'"),
        (b"agi_network: yes\n\n", "expected agi_network_script or agi_request, found neither"),
        (b"\n", "found neither"),
        (b"agi_x: " + b"y" * protocol.MAX_LINE, "AGI line: expected at most 8192 octets"),
        (b"agi_x: 1\n" * 2, "expected each name once, found agi_x twice"),
        (b"agi_arg_2: 1\n", "expected agi_arg_1 or the end, found agi_arg_2"),
        (b"".join(b"agi_x%d: 1\n" % n for n in range(8000)), "AGI header: expected at most 65536 octets, found more"),
    ],
)
def test_what_is_not_agi_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(AgiError, match=message):
        parse(data)


@given(st.binary(max_size=400), st.integers(1, 50))
def test_any_bytes_end_in_a_request_or_an_agi_error(data: bytes, size: int) -> None:
    with contextlib.suppress(AgiError):
        assert parse(data, size) is None


@given(st.binary(max_size=300), st.lists(st.integers(1, 40), min_size=1, max_size=20))
def test_lines_do_not_depend_on_the_cuts(data: bytes, sizes: list[int]) -> None:
    whole = LineBuffer().feed(data)
    lines, cut, start = LineBuffer(), [], 0
    for size in sizes:
        cut += lines.feed(data[start : start + size])
        start += size
    cut += lines.feed(data[start:])
    assert cut == whole
    assert len(lines) == len(data) - (data.rfind(b"\n") + 1)


def replies(*lines: str) -> list[AgiReply | Hangup]:
    parser = ReplyParser()
    return [item for line in lines if (item := parser.line(line)) is not None]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["200 result=1"], AgiReply(200, 1, None, "result=1")),
        (["200 result=-1"], AgiReply(200, -1, None, "result=-1")),
        (["200 result="], AgiReply(200, 0, None, "result=")),
        (["200 result=0 endpos=4160"], AgiReply(200, 0, None, "result=0 endpos=4160")),
        (["200 result=1 (value)"], AgiReply(200, 1, "value", "result=1 (value)")),
        (["200 result=1 ()"], AgiReply(200, 1, "", "result=1 ()")),
        (["200 result=1 (a (b) c)"], AgiReply(200, 1, "a (b) c", "result=1 (a (b) c)")),
        (["200 result=-1 (hangup)"], AgiReply(200, -1, "hangup", "result=-1 (hangup)")),
        (["200 result=1 (two", "lines)"], AgiReply(200, 1, "two\nlines", "result=1 (two\nlines)")),
        (["200 result=1 (x) endpos=3"], AgiReply(200, 1, "x", "result=1 (x) endpos=3")),
        (["200"], AgiReply(200, 0, None, "")),
        (["510 Invalid or unknown command"], AgiReply(510, 0, None, "Invalid or unknown command")),
        (
            ["511 Command Not Permitted on a dead channel"],
            AgiReply(511, 0, None, "Command Not Permitted on a dead channel"),
        ),
        (
            ["520-Invalid command syntax.", "Usage: SET VARIABLE", "520 End of proper usage."],
            AgiReply(520, 0, None, "Invalid command syntax.\nUsage: SET VARIABLE\n520 End of proper usage."),
        ),
        (["100 result=0 Trying...", "200 result=1"], AgiReply(200, 1, None, "result=1")),
        (["garbage", "", "2000 x", "200 result=1"], AgiReply(200, 1, None, "result=1")),
    ],
)
def test_reply(lines: list[str], expected: AgiReply) -> None:
    assert replies(*lines) == [expected]


def test_hangup_stands_alone_and_other_lines_do_not() -> None:
    assert replies("HANGUP", "HANGUP ") == [protocol.HANGUP]


def test_a_reply_without_end_is_refused() -> None:
    parser = ReplyParser(max_total=100)
    assert parser.line("520-Usage") is None
    for _ in range(9):
        assert parser.line("and so on") is None
    with pytest.raises(AgiError, match="AGI reply: expected at most 100 octets"):
        parser.line("and so on")


def test_a_reply_without_a_code_is_refused() -> None:
    with pytest.raises(AgiError, match="expected '200 result=…', found 'what'"):
        protocol.parse_reply("what")


@given(st.text(max_size=200))
def test_any_line_is_a_reply_or_nothing(text: str) -> None:
    parser = ReplyParser()
    for line in text.split("\n"):
        item = parser.line(line)
        assert item is None or isinstance(item, AgiReply | Hangup)


def test_commands() -> None:
    assert protocol.set_variable("SESSION_ID", "sess_1") == b'SET VARIABLE "SESSION_ID" "sess_1"\n'
    assert protocol.set_variable("A", 'b"c\\d') == b'SET VARIABLE "A" "b\\"c\\\\d"\n'
    assert protocol.set_variable("A", "") == b'SET VARIABLE "A" ""\n'
    assert protocol.set_variable("A", "ü") == 'SET VARIABLE "A" "ü"\n'.encode()
    assert protocol.get_variable("SESSION_ID") == b'GET FULL VARIABLE "${SESSION_ID}"\n'
    assert protocol.get_variable("${CHANNEL(linkedid)}") == b'GET FULL VARIABLE "${CHANNEL(linkedid)}"\n'


@pytest.mark.parametrize("name", ["", "1A", "A B", "A)", "${A}", "A\n", "A" * 81, "CALLERID(num)"])
def test_a_variable_needs_a_name(name: str) -> None:
    with pytest.raises(AgiError, match="AGI variable: expected letters, digits and underscores"):
        protocol.set_variable(name, "x")


@pytest.mark.parametrize("value", ["a\nHANGUP", "a\rb", "a\0b"])
def test_a_value_cannot_begin_another_command(value: str) -> None:
    with pytest.raises(AgiError, match="without line ends"):
        protocol.set_variable("A", value)


def test_a_command_has_room_for_what_asterisk_reads() -> None:
    room = protocol.MAX_COMMAND - len(b'SET VARIABLE "A" ""')
    assert len(protocol.set_variable("A", "x" * room)) == protocol.MAX_COMMAND + 1
    with pytest.raises(AgiError, match="expected at most 2047 octets, found 2048"):
        protocol.set_variable("A", "x" * (room + 1))


@given(st.text(alphabet=st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), max_size=80))
def test_quoting_can_be_undone(value: str) -> None:
    quoted = protocol.quote(value)
    assert quoted[0] == quoted[-1] == '"'
    inner, out, escaped = quoted[1:-1], "", False
    for c in inner:
        assert escaped or c != '"'
        escaped = c == "\\" and not escaped
        out += "" if escaped else c
    assert out == value
    assert not escaped
