"""The languages the interpreter knows, by their ISO 639-1 codes; new ones need no code, only `languages.toml`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from kallglot_ari.errors import InterpreterError

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Language:
    """What the engines need to know of a language."""

    code: str
    name: str
    espeak: str
    pico: str
    apertium: str
    examples: tuple[str, ...]
    numbers: frozenset[str]
    names: re.Pattern[str] | None


def base(code: str) -> str:
    """`de-AT` and `DE` are `de`; `auto` stays."""
    return code.partition("-")[0].lower()


def parse(text: str, origin: str) -> dict[str, Language]:
    """Languages of a TOML text. :raises InterpreterError: for one that is not in the form of the shipped file."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InterpreterError(f"{origin}: not TOML: {error}") from None
    return {code: _language(code, table, origin) for code, table in tables.items()}


def _language(code: str, table: object, origin: str) -> Language:
    if not isinstance(table, dict) or not re.fullmatch("[a-z]{2,3}", code):
        raise InterpreterError(f"{origin}: expected tables named by ISO 639 codes, found {code!r}")
    for key in ("name", "espeak"):
        if not isinstance(table.get(key), str) or not table[key]:
            raise InterpreterError(f"{origin}: [{code}] {key}: expected a text, found {table.get(key)!r}")
    examples = table.get("examples", [])
    if not isinstance(examples, list) or not all(isinstance(item, str) for item in examples):
        raise InterpreterError(f"{origin}: [{code}] examples: expected a list of sentences")
    try:
        names = re.compile(table["names"]) if table.get("names") else None
    except (re.error, TypeError) as error:
        raise InterpreterError(f"{origin}: [{code}] names: not a regular expression: {error}") from None
    if names and names.groups != 1:
        raise InterpreterError(f"{origin}: [{code}] names: expected one group, found {names.groups}")
    return Language(
        code=code,
        name=table["name"],
        espeak=table["espeak"],
        pico=str(table.get("pico", "")),
        apertium=str(table.get("apertium", "")),
        examples=tuple(examples),
        numbers=frozenset(str(word) for word in table.get("numbers", ())),
        names=names,
    )


@cache
def shipped() -> Mapping[str, Language]:
    """The languages that come with the project."""
    return parse(resources.files(__package__).joinpath("languages.toml").read_text("utf-8"), "languages.toml")


def load(models_dir: Path) -> Mapping[str, Language]:
    """The shipped languages and those of `languages.toml` in the models folder. :raises InterpreterError:"""
    own = models_dir / "languages.toml"
    try:
        text = own.read_text(encoding="utf-8")
    except FileNotFoundError:
        return shipped()
    except (OSError, UnicodeDecodeError) as error:
        raise InterpreterError(f"{own}: cannot be read: {error}") from None
    return {**shipped(), **parse(text, str(own))}
