"""The words of FastAGI: the request's header, commands and their replies. Pure: bytes and text in, values out.

Asterisk connects and sends ``agi_name: value`` lines up to an empty one; from then on we send one command a line and it
answers each with ``200 result=…``. ``HANGUP`` may come at any time: the channel is gone, the dialplan's thread is not yet.

Asterisk writes a caller's number as it came: one with line ends in it (``%0a`` in a SIP URI) makes lines of its own, and so arguments
that no dialplan gave. Such a request is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote

from kallglot_ari.errors import AgiError

MAX_LINE = 8192
"""Octets of one line, its end included."""
MAX_HEADER = 65536
"""Octets of all lines of a request's header."""
MAX_COMMAND = 2047
"""Octets of a command: Asterisk reads commands into a buffer of 2048 and cuts off what is longer."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,79}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,79}")
_REPLY = re.compile(r"(\d{3})(?:([ -])(.*))?", re.DOTALL)
_RESULT = re.compile(r"result=(-?\d+)?(?:\s+(.*))?", re.DOTALL)


class LineBuffer:
    """Cuts a byte stream into lines, and refuses what has no end."""

    def __init__(self) -> None:
        self._data = bytearray()

    def __len__(self) -> int:
        return len(self._data)

    def feed(self, data: bytes) -> list[str]:
        """The lines that `data` completes, without their ends (LF or CR LF). Octets that are not UTF-8 are replaced.

        :raises AgiError: a line, complete or not, is longer than the bound.
        """
        self._data += data
        *complete, rest = self._data.split(b"\n")
        longest = max(map(len, (*complete, rest)))
        if longest >= MAX_LINE:
            raise AgiError(f"AGI line: expected at most {MAX_LINE} octets, found {longest} or more")
        self._data = rest
        return [line.removesuffix(b"\r").decode("utf-8", "replace") for line in complete]


@dataclass(frozen=True, slots=True)
class AgiRequest:
    """What the dialplan asks for: ``AGI(agi://HOST/script,key=value,…)``, and on which channel."""

    script: str
    arguments: tuple[str, ...] = ()
    """As they stand in the dialplan."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """The arguments of the form ``key=value``; the keys in lower case."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Every header without its ``agi_``."""

    @property
    def channel(self) -> str:
        """Channel name, as ``PJSIP/alice-00000001``."""
        return self.environment.get("channel", "")

    @property
    def uniqueid(self) -> str:
        return self.environment.get("uniqueid", "")

    @property
    def caller(self) -> str:
        """The caller's number, without control characters; empty when Asterisk does not know it."""
        number = "".join(filter(str.isprintable, self.environment.get("callerid", "")))
        return "" if number == "unknown" else number

    @property
    def called(self) -> str:
        """The number dialled first, else the extension the channel is in."""
        dnid = self.environment.get("dnid", "")
        return dnid if dnid and dnid != "unknown" else self.environment.get("extension", "")


class HeaderParser:
    """Collects a request's header, line by line."""

    def __init__(self) -> None:
        self._total = 0
        self._values: dict[str, str] = {}
        self._arguments = 0
        """How many have come."""

    def line(self, text: str) -> AgiRequest | None:
        """Take one line; the request when it was the empty one that ends the header.

        :raises AgiError: this is not AGI, or there is too much of it.
        """
        self._total += len(text) + 1
        if self._total > MAX_HEADER:
            raise AgiError(f"AGI header: expected at most {MAX_HEADER} octets, found more")
        if text:
            name, colon, value = text.partition(":")
            if not colon or not name.startswith("agi_") or not _NAME.fullmatch(name):
                raise AgiError(f"AGI header: expected 'agi_name: value', found {text[:60]!r}")
            self._take(name.removeprefix("agi_"), value.strip())
            return None
        if "network_script" not in self._values and "request" not in self._values:
            raise AgiError("AGI header: expected agi_network_script or agi_request, found neither")
        return build_request(self._values)

    def _take(self, name: str, value: str) -> None:
        """Asterisk gives each name once, and the arguments last, in their order."""
        if name in self._values:
            raise AgiError(f"AGI header: expected each name once, found agi_{name} twice")
        expected = f"arg_{self._arguments + 1}"
        if name == expected:
            self._arguments += 1
        elif self._arguments or name.startswith("arg_"):
            raise AgiError(f"AGI header: expected agi_{expected} or the end, found agi_{name}")
        self._values[name] = value


def build_request(values: Mapping[str, str]) -> AgiRequest:
    """The request that the header `values` (names without ``agi_``) stand for.

    The script is `network_script`, else the path of `request`; ``?key=value&…`` behind it counts as arguments too.
    """
    script = values.get("network_script", "")
    if not script:
        request = values.get("request", "")
        script = request.partition("://")[2].partition("/")[2] if "://" in request else request
    script, _, query = script.partition("?")
    arguments = [unquote(part) for part in query.split("&") if part]
    number = 1
    while (value := values.get(f"arg_{number}")) is not None:
        arguments.append(value)
        number += 1
    return AgiRequest(script.strip("/").lower(), tuple(arguments), parse_parameters(arguments), dict(values))


def parse_parameters(arguments: Sequence[str]) -> dict[str, str]:
    """The ``key=value`` arguments; keys in lower case except what follows ``metadata.``, the last of equal keys counts."""
    found = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        key = key.strip()
        if equals and key:
            metadata = key.lower().startswith("metadata.")
            found["metadata." + key[9:] if metadata else key.lower()] = value.strip()
    return found


@dataclass(frozen=True, slots=True)
class AgiReply:
    """A command's answer, as ``200 result=1 (value)``."""

    code: int
    """200 done; 510 no such command; 511 not on a dead channel; 520 wrong syntax."""
    result: int = 0
    data: str | None = None
    """What stood in parentheses; None when there were none."""
    text: str = ""


class Hangup:
    """The line ``HANGUP``: the channel is gone."""


HANGUP = Hangup()


class ReplyParser:
    """Puts replies together: some go over several lines, by rule (520) or because a variable's value has line ends."""

    def __init__(self, max_total: int = MAX_HEADER) -> None:
        self._max = max_total
        self._open: list[str] = []
        self._size = 0

    def line(self, text: str) -> AgiReply | Hangup | None:
        """Take one line; None while a reply goes on, or for a line that is nothing.

        :raises AgiError: a reply grows beyond the bound, or the header goes on behind its end.
        """
        if not self._open:
            if text == "HANGUP":
                return HANGUP
            if text.startswith("agi_"):
                raise AgiError(f"AGI reply: expected '200 result=…', found more of the header: {text[:60]!r}")
            if not _REPLY.fullmatch(text) or text.startswith("100 "):
                return None
        self._open.append(text)
        self._size += len(text) + 1
        if self._size > self._max:
            raise AgiError(f"AGI reply: expected at most {self._max} octets, found more")
        first = self._open[0]
        if first[3:4] == "-":
            if len(self._open) == 1 or not text.startswith(first[:3] + " "):
                return None
        elif (opened := first.find("(")) >= 0 and first.startswith("200 result=") and not _closed(self._open, opened):
            return None
        lines, self._open, self._size = self._open, [], 0
        return parse_reply("\n".join(lines))


def _closed(lines: Sequence[str], opened: int) -> bool:
    last = lines[-1]
    return last.rstrip().endswith(")") or (len(lines) == 1 and last.rfind(")") > opened)


def parse_reply(text: str) -> AgiReply:
    """One complete reply.

    :raises AgiError: it does not begin with a three-digit code.
    """
    match = _REPLY.fullmatch(text)
    if not match:
        raise AgiError(f"AGI reply: expected '200 result=…', found {text[:60]!r}")
    code, rest = int(match[1]), match[3] or ""
    found = _RESULT.match(rest)
    if not found:
        return AgiReply(code, text=rest)
    tail = found[2] or ""
    data = tail[1 : tail.rindex(")")] if tail.startswith("(") and ")" in tail else None
    return AgiReply(code, int(found[1] or 0), data, rest)


def quote(value: str) -> str:
    """`value` as one argument of a command.

    :raises AgiError: it holds a line end or a NUL, which would begin another command.
    """
    if any(c in value for c in "\r\n\0"):
        raise AgiError("AGI argument: expected text without line ends and NUL, found one")
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def command(verb: str, *arguments: str) -> bytes:
    """A command line, as ``SET VARIABLE "NAME" "value"``.

    :raises AgiError: an argument cannot be sent, or the line is longer than Asterisk reads.
    """
    line = " ".join([verb, *map(quote, arguments)]).encode("utf-8")
    if len(line) > MAX_COMMAND:
        raise AgiError(f"AGI command {verb}: expected at most {MAX_COMMAND} octets, found {len(line)}")
    return line + b"\n"


def set_variable(name: str, value: str) -> bytes:
    """``SET VARIABLE``. :raises AgiError: for a name that is none, or a value that cannot be sent."""
    if not _VARIABLE.fullmatch(name):
        raise AgiError(f"AGI variable: expected letters, digits and underscores, found {name[:60]!r}")
    return command("SET VARIABLE", name, value)


def get_variable(expression: str) -> bytes:
    """``GET FULL VARIABLE``: `expression` is a name, or dialplan text with ``${…}`` in it."""
    return command("GET FULL VARIABLE", expression if "${" in expression else "${" + expression + "}")
