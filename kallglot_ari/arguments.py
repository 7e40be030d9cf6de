"""Command lines: what cannot be used is one line that names the argument, what was expected and what was found."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from kallglot_ari.errors import UsageError


class Parser(argparse.ArgumentParser):
    """argparse without the usage text that it puts before an error. :raises UsageError: from `parse_args`."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{_told(message)} ({self.prog} --help has all arguments)")

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse has it, but what nobody knows is told by the parser of its command: that one's help has the others."""
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return known, unknown


def _told(message: str) -> str:
    if match := re.fullmatch(r"the following arguments are required: (.*)", message):
        return f"{match[1]}: expected a value, found none"
    if match := re.fullmatch(r"unrecognized arguments: (.*)", message, re.DOTALL):
        return f"expected no argument {match[1]!r}"
    match = re.fullmatch(r"argument (?P<name>.+?): (?P<what>.*)", message, re.DOTALL)
    if match is None:
        return message
    name, what = match["name"].rpartition("/")[2], match["what"]
    if choice := re.fullmatch(r"invalid choice: (?P<found>.*) \(choose from (?P<known>.*)\)", what, re.DOTALL):
        known = choice["known"].replace("'", "")
        return f"{name}: expected {'one of ' if ',' in known else ''}{known}, found {choice['found']}"
    if value := re.fullmatch(r"invalid (?P<type>\w+) value: (?P<found>.*)", what, re.DOTALL):
        words = {"int": "a whole number", "float": "a number"}.get(value["type"], f"a {value['type']}")
        return f"{name}: expected {words}, found {value['found']}"
    if what == "expected one argument":
        return f"{name}: expected a value, found none"
    return f"{name}: {what}"


def port(text: str) -> int:
    """A port number; 0 is any free one."""
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected a port of 0 to 65535, found {text!r}")
    return int(text)


def address(text: str) -> str:
    """An address to listen on: nothing is not one, for it would be every address."""
    if not text.strip():
        raise argparse.ArgumentTypeError(f"expected an address or a host name, found {text!r}")
    return text


def url(text: str) -> str:
    """Where something is posted to, with whatever query it has."""
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable:
        raise argparse.ArgumentTypeError(f"expected a URL that begins with http:// or https://, found {text!r}")
    return text


def folder(text: str) -> Path:
    """A folder to write to."""
    if not text:
        raise argparse.ArgumentTypeError(f"expected a folder, found {text!r}")
    return Path(text)


def file_to_write(text: str) -> Path:
    """A file that is written in the end: what cannot be one is told before the work."""
    there = next((path for path in (Path(text), *Path(text).parents) if path.exists()), Path())
    if not text or Path(text).is_dir() or not os.access(there, os.W_OK) or (there != Path(text) and not there.is_dir()):
        raise argparse.ArgumentTypeError(f"expected a file to write, found {text!r}")
    return Path(text)


def ring_seconds(text: str) -> float:
    """How long a party may take to answer, in seconds."""
    if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,3})?", text) or not 1 <= float(text) <= 300:
        raise argparse.ArgumentTypeError(f"expected seconds between 1 and 300, found {text!r}")
    return float(text)


def within(name: str, value: float, low: int, high: int) -> None:
    """:raises UsageError: when the argument `name` is not of `low` to `high`."""
    if not low <= value <= high:
        raise UsageError(f"{name}: expected {low} to {high}, found {value:g}")
