"""What is wrong with a configuration, in one line: the setting, what was expected and what was found."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import (
    ValidationError,
)

from kallglot_ari.settings.kinds import LANGUAGE_PATTERN, is_secret, without_credentials
from kallglot_ari.settings.sections import SECTIONS
from kallglot_ari.settings.trunk import Endpoint

_WORDS = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "model_type": "a table",
    "missing": "a value",
    "greater_than_equal": "at least {ge:g}",
    "less_than_equal": "at most {le:g}",
    "literal_error": "{expected}",
    "too_short": "at least {min_length} in the list",
    "string_pattern_mismatch": "{words}",
}
"""What was expected, by the kind of error of pydantic and its context."""
PATTERNS = {
    LANGUAGE_PATTERN: "a BCP 47 language tag such as de or pt-BR, or auto",
    r"^[A-Za-z0-9]{0,16}$": "up to 16 letters and digits",
    r"^[^:]{1,128}$": "a user name of 1 to 128 characters, without a colon",
    r"^[A-Za-z0-9_.-]{0,64}$": "up to 64 letters, digits, _, . and -",
    r"^[A-Za-z0-9_.-]{1,64}$": "1 to 64 letters, digits, _, . and -",
    r"^[A-Za-z0-9.\-]{1,253}$": "a host name",
    r"^[A-Za-z0-9.\-:]{0,253}$": "a host name or address",
    r"^[A-Za-z0-9.\-:\[\]]{1,255}$": "a host, or host:port, without sip:",
    r"^$|^\*[0-9#]{1,3}$": "`*` and 1 to 3 digits, or nothing",
}
"""What the patterns of the settings say, in words."""


_HEADER = re.compile(r"\s*\[+\s*([A-Za-z0-9_.-]+)\s*\]+\s*(?:#.*)?")
_KEY = re.compile(r"\s*([A-Za-z0-9_-]+)\s*=")


def twice(text: str, error: tomllib.TOMLDecodeError) -> str:
    """The setting or section that a file has twice, where that is what the parser stumbled over and both are found; else empty."""
    lines = text.replace("\r\n", "\n").split("\n")
    sections = [(n, found[1]) for n, line in enumerate(lines, 1) if (found := _HEADER.fullmatch(line))]
    if "Cannot declare" in str(error):
        same = [(n, name) for n, name in sections if repr(tuple(name.split("."))) in str(error)]
        return f"[{same[0][1]}]: expected once, found in lines {same[0][0]} and {same[1][0]}" if len(same) > 1 else ""
    if "Cannot overwrite" not in str(error):
        return ""
    at = re.search(r"at line ([0-9]+)", str(error))  # else at the end of the document
    last = int(at[1]) if at else len(lines)
    begins, section = max((place for place in sections if place[0] < last), default=(0, ""))
    keys = [(n, found[1]) for n, line in enumerate(lines[:last], 1) if n > begins and (found := _KEY.match(line))]
    same = [(n, key) for n, key in keys if key == keys[-1][1]]
    if len(same) < 2 or same[-1][0] != last:  # a value of several lines, or a key in another spelling
        return ""
    return f"{section}{'.' if section else ''}{same[-1][1]}: expected once, found in lines {same[-2][0]} and {last}"


def _expected(error: Mapping[str, Any]) -> str:
    words = _WORDS.get(error["type"])
    if words is None:
        return str(error["msg"]).removeprefix("Value error, ")
    if error["loc"][:2] == ("media", "original_gain_db") and error["type"] == "float_type":
        words = '"off" or a number'
    context = error.get("ctx", {})
    return "expected " + words.format_map({**context, "words": PATTERNS.get(context.get("pattern", ""))})


def explain(
    error: ValidationError, data: Mapping[str, Any], origin: Mapping[tuple[str, str], str], file: Path | None
) -> str:
    first = error.errors(include_url=False)[0]
    loc: list[str | int] = [
        part
        for part in first["loc"]
        if part not in ("str", "float") and not str(part).startswith(("function-", "tuple[", "constrained-"))
    ]
    message = _expected(dict(first))
    # A section as a whole names the key at fault itself.
    if len(loc) == 1 and loc[0] in SECTIONS:
        key, colon, rest = message.partition(": ")
        if colon and key in SECTIONS[str(loc[0])].model_fields:
            loc, message = [loc[0], key], rest
    where = ".".join(map(str, loc))
    source = origin.get((str(loc[0]), str(loc[1])), "") if len(loc) > 1 else str(file or "") if loc else ""
    source = f" (from {source})" if source else ""
    if first["type"] == "extra_forbidden":
        if len(loc) == 1 and not isinstance(data.get(where), Mapping):
            return f"{where}{source} stands before the first section; expected it below one of {', '.join(SECTIONS)}"
        if len(loc) == 1:
            return f"unknown section [{where}]{source}; expected one of {', '.join(SECTIONS)}"
        known = Endpoint if len(loc) > 2 else SECTIONS[str(loc[0])]
        return f"unknown key {where}{source}; expected one of {', '.join(known.model_fields)}"
    found: Any = data
    for part in loc:
        try:
            found = found[part]
        except (LookupError, TypeError):
            found = None
    secret = len(loc) > 1 and is_secret(SECTIONS[str(loc[0])].model_fields[str(loc[1])])
    if found is None and loc:
        shown = ", found none"
    elif secret:
        shown = "" if isinstance(found, str) else f", found {_KINDS.get(type(found), 'something else')}"
    else:
        shown = f", found {_shown(found)}" if loc and "found" not in message else ""
    return f"{where + ': ' if where else ''}{message}{shown}{source}"


_KINDS: dict[type, str] = {int: "a number", float: "a number", bool: "true or false", list: "a list", dict: "a table"}


def _shown(value: Any) -> str:
    """A value as the file has it, short. A table's content stays out: it may hold a secret."""
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list) and any(isinstance(one, Mapping | list) for one in value):
        return "a list of tables"
    try:
        text = str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, str) else str(value)
    except ValueError:  # Python writes no number of more than 4,300 digits
        return "a number of thousands of digits"
    text = without_credentials(text)
    return text if len(text) <= 100 else text[:99] + "…"
