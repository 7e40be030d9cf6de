"""The arguments of `Stasis(kallglot,…)`: parsed, bounded, and safe to hand to Asterisk."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from kallglot_ari.calls.names import (
    CONTEXT,
    DIAL_STRING,
    DTMF,
    EXTENSION,
    MAX_DIAL_STRINGS,
    METADATA_KEY,
    SESSION,
    SPEAKER,
    is_place,
)
from kallglot_ari.errors import UsageError
from kallglot_ari.settings import LANGUAGE_PATTERN, MODES

MAX_TIMEOUT = 600.0
MAX_METADATA = 32
TWO_PARTIES = ("bidirectional_translation", "assistive_translation")
"""Modes in which a caller alone would hear nothing."""

_LANGUAGE = re.compile(LANGUAGE_PATTERN)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class StasisArguments:
    """What the dialplan asked for; None or empty where it is silent."""

    source: str = ""
    target: str = ""
    mode: str = ""
    agents: tuple[str, ...] = ()
    timeout: float = 30.0
    answer: str = ""
    join: str = ""
    speaker: str = ""
    participants: int = 2
    metadata: dict[str, str] = field(default_factory=dict)


def parse(arguments: tuple[str, ...], default_mode: str = "") -> StasisArguments:
    """Read ``key=value`` arguments.

    :param default_mode: the session's when the dialplan names none.
    :raises UsageError: names the argument, what was expected and what was found.
    """
    given: dict[str, str] = {}
    metadata: dict[str, str] = {}
    for argument in arguments:
        if not argument.strip():
            continue
        key, equals, value = argument.partition("=")
        key, value = key.strip(), value.strip()
        if not equals:
            raise UsageError(f"Stasis argument {_show(argument)}: expected key=value")
        no_control("Stasis", key, value)
        if key.startswith("metadata."):
            add_metadata("Stasis", metadata, key.removeprefix("metadata."), value)
        elif key not in READERS:
            raise UsageError(
                f"unknown Stasis argument {_show(key)}; expected one of {', '.join(READERS)}, metadata.KEY"
            )
        elif key in given:
            raise UsageError(f"Stasis argument {key}: given twice")
        else:
            given[key] = value
    read = {READERS[key][0]: READERS[key][1](key, value) for key, value in given.items() if value}
    parsed = StasisArguments(**read, metadata=metadata)  # type: ignore[arg-type]
    if parsed.join and parsed.agents:
        raise UsageError("Stasis arguments join and agent: expected one of them, found both")
    # A variable that was not set. Who means to be alone, or waits for others to join, says so: without `agent`, or with `participants`.
    session_mode = parsed.mode or default_mode
    if given.get("agent") == "" and session_mode in TWO_PARTIES and not parsed.join and parsed.participants == 2:
        raise UsageError(f"Stasis argument agent: expected a dial string with mode={session_mode}, found it empty")
    if parsed.answer == "agent" and not parsed.agents:
        raise UsageError("Stasis argument answer=agent: expected an agent argument with it")
    return parsed


def screened(arguments: tuple[str, ...]) -> str:
    """What the dialplan found out of who answered, in ``screened=STATUS``; empty when it was not asked."""
    found = next((a.partition("=")[2] for a in arguments if a.startswith("screened=")), None)
    return "" if found is None else found or "NOTSURE"


def _show(text: str) -> str:
    return repr(text[:40])


def no_control(of: str, key: str, value: str) -> None:
    """:param of: whose argument it is, ``Stasis`` or ``AGI``. :raises UsageError: for control characters."""
    if _CONTROL.search(value):
        raise UsageError(f"{of} argument {_show(key)}: expected no control characters")


def add_metadata(of: str, metadata: dict[str, str], key: str, value: str) -> None:
    """One more ``metadata.KEY``. :param of: as above. :raises UsageError:"""
    if not METADATA_KEY.fullmatch(key):
        raise UsageError(f"{of} argument metadata.{_show(key)}: expected letters, digits, '_', '.' or '-' as the key")
    if key in metadata:
        raise UsageError(f"{of} argument metadata.{key}: given twice")
    if len(metadata) >= MAX_METADATA:
        raise UsageError(f"{of} arguments metadata.*: expected at most {MAX_METADATA}")
    if len(value) > 512:
        raise UsageError(f"{of} argument metadata.{key}: expected at most 512 characters, found {len(value)}")
    metadata[key] = value


def language(key: str, value: str) -> str:
    """A BCP 47 language tag or ``auto``."""
    if not _LANGUAGE.fullmatch(value):
        raise UsageError(f"{key}: expected a language such as de or pt-BR, or auto, found {_show(value)}")
    return value


def mode(key: str, value: str) -> str:
    """One of the API's modes."""
    if value not in MODES:
        raise UsageError(f"{key}: expected one of {', '.join(MODES)}, found {_show(value)}")
    return value


def dial_string(key: str, value: str) -> str:
    """One dial string such as ``PJSIP/1001``."""
    if not DIAL_STRING.fullmatch(value):
        raise UsageError(f"{key}: expected a dial string such as PJSIP/1001, found {_show(value)}")
    return value


def dial_strings(key: str, value: str) -> tuple[str, ...]:
    """Dial strings joined with ``&``, each once."""
    parts = tuple(dict.fromkeys(part.strip() for part in value.split("&") if part.strip()))
    if not parts or len(parts) > MAX_DIAL_STRINGS:
        raise UsageError(f"{key}: expected 1 to {MAX_DIAL_STRINGS} dial strings joined with &, found {len(parts)}")
    return tuple(dial_string(key, part) for part in parts)


def _timeout(key: str, value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 1 <= seconds <= MAX_TIMEOUT:
        raise UsageError(f"{key}: expected 1 to {MAX_TIMEOUT:.0f} seconds, found {_show(value)}")
    return seconds


def _answer(key: str, value: str) -> str:
    if value not in ("agent", "now"):
        raise UsageError(f"{key}: expected agent or now, found {_show(value)}")
    return value


def _participants(key: str, value: str) -> int:
    if not value.isascii() or not value.isdigit() or not 2 <= int(value) <= 100:
        raise UsageError(f"{key}: expected 2 to 100, found {_show(value)}")
    return int(value)


def session_id(key: str, value: str) -> str:
    """A session's id."""
    if not SESSION.fullmatch(value):
        raise UsageError(f"{key}: expected a session id, found {_show(value)}")
    return value


def speaker(key: str, value: str) -> str:
    """A speaker label."""
    if not SPEAKER.fullmatch(value):
        raise UsageError(f"{key}: expected a label of letters, digits, '_', '.' or '-', found {_show(value)}")
    return value


def digits(key: str, value: str) -> str:
    """DTMF digits."""
    if not DTMF.fullmatch(value):
        raise UsageError(f"{key}: expected 1 to 64 of 0-9 A-D * #, found {_show(value)}")
    return value


def place(key: str, value: str) -> tuple[str, str, str] | None:
    """``context,extension,priority`` of the dialplan, or None when `value` has no comma."""
    if "," not in value:
        return None
    if not is_place(value):
        raise UsageError(f"{key}: expected context,extension,priority, found {_show(value)}")
    context, extension, priority = (part.strip() for part in value.split(","))
    return context, extension, priority


def target(key: str, value: str, context: str) -> str:
    """A transfer's target: a dial string, or an extension of the dialplan (``300`` or ``300@context``)."""
    if "/" in value:
        return dial_string(key, value)
    number, at, where = value.partition("@")
    try:
        return extension(key, number, where if at else context)
    except UsageError:
        raise UsageError(
            f"{key}: expected a dial string such as PJSIP/1001 or an extension such as 300, found {_show(value)}"
        ) from None


def extension(key: str, value: str, context: str) -> str:
    """An extension in `context`, as it is dialled; nothing in `value` can name another context or a device."""
    if not EXTENSION.fullmatch(value) or not CONTEXT.fullmatch(context):
        raise UsageError(f"{key}: expected an extension such as 300, found {_show(value)} in {_show(context)}")
    return f"Local/{value}@{context}/n"


READERS = {
    "source": ("source", language),
    "target": ("target", language),
    "mode": ("mode", mode),
    "agent": ("agents", dial_strings),
    "timeout": ("timeout", _timeout),
    "answer": ("answer", _answer),
    "join": ("join", session_id),
    "speaker": ("speaker", speaker),
    "participants": ("participants", _participants),
}
