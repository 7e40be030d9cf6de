"""Structured logs: one line per event, bound to the call it belongs to, with every secret taken out."""

from __future__ import annotations

import json
import logging
import os
import re
import select
import sys
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any, Literal, TextIO
from urllib.parse import quote

import orjson
import structlog

from kallglot_ari.standard import harmless

SECRET_KEYS = re.compile(r"(password|passwd|secret|token|api[_-]?key|authorization|credential)", re.IGNORECASE)
SECRET_TEXT = re.compile(
    r"((?:sk_(?:live|test)|kst|whsec)_)[A-Za-z0-9_\-]+"
    r"|((?i:token|api[_-]?key|password|passwd|secret)=)[^&\s\"',;]+"
    r"|(Bearer )[A-Za-z0-9._~+/\-]+=*"
    r"|(Basic )(?=[a-z]*[A-Z0-9+/=])[A-Za-z0-9+/]+={0,2}"
    r"|(://)[^/@\s:'\"]*:[^/\s'\"]*(?=@)"
)
HIDDEN = "[hidden]"
SHORTEST = 4
"""A known secret of fewer characters stays: it would be found in ordinary words, and hiding those would tell it."""

_OURS = frozenset({"timestamp", "level", "logger"})
_DEEPEST = 8


class _Known:
    """The secrets that `hide` was told of, and what finds any of them."""

    def __init__(self) -> None:
        self.secrets: set[str] = set()
        self.text: re.Pattern[str] | None = None


_known = _Known()


def hide(values: Iterable[str]) -> None:
    """Name secrets of this configuration, so that they are taken out of any text they appear in.

    Also as Python, JSON or a URL would write them. Those below `SHORTEST` characters are passed over.
    """
    for value in values:
        if len(value) >= SHORTEST:
            in_json = (json.dumps(value, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False))
            in_url = quote(value, safe="", errors="replace")
            _known.secrets.update((value, repr(value)[1:-1], *in_json, in_url))
    # The longest first: of a secret that begins with another, nothing may stay.
    longest_first = sorted(_known.secrets, key=len, reverse=True)
    _known.text = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None


def redact(value: Any, *, _depth: int = 0) -> Any:
    """`value` with every secret replaced: by the key's name, by the well-known forms and by what `hide` was told.

    Text, numbers, None, mappings and sequences keep their kind; anything else becomes its `repr`.
    """
    if isinstance(value, str):
        if _known.text is not None:
            value = _known.text.sub(HIDDEN, value)
        return SECRET_TEXT.sub(lambda match: (match[match.lastindex] if match.lastindex else "") + HIDDEN, value)
    if value is None or isinstance(value, int | float):
        return value
    if _depth < _DEEPEST and isinstance(value, Mapping):
        return {
            redact(str(key)): HIDDEN if _secret(str(key), item) else redact(item, _depth=_depth + 1)
            for key, item in value.items()
        }
    if _depth < _DEEPEST and isinstance(value, list | tuple | set | frozenset):
        return [redact(item, _depth=_depth + 1) for item in value]
    try:
        return redact(repr(value))
    except RecursionError:
        return f"{type(value).__name__} too deep to show"


def _secret(key: str, value: Any) -> bool:
    return bool(SECRET_KEYS.search(key)) and not isinstance(value, bool) and value not in (None, "", b"")


def _redact_event(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {
        key: value if key in _OURS else HIDDEN if _secret(key, value) else redact(value) for key, value in event.items()
    }


def _for_a_terminal(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {key: harmless(value) if isinstance(value, str) else value for key, value in event.items()}


def _to_json(event: Any, **_: Any) -> str:
    """orjson, but for what it does not take: numbers of more than 64 bits and lone surrogates."""
    try:
        return orjson.dumps(event).decode()
    except TypeError:
        return json.dumps(event)


def configure(level: str = "info", form: Literal["auto", "json", "console"] = "auto") -> None:
    """Send the log to stderr: for people on a terminal, as JSON otherwise."""
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.ExtraAdder(),
    ]
    # An exception is made text before redaction, never by the renderer: its words, or a local variable, may hold a secret.
    renderer = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        if console
        else structlog.processors.JSONRenderer(serializer=_to_json)
    )
    structlog.configure(
        processors=[
            *shared[:1],
            structlog.stdlib.filter_by_level,
            *shared[1:4],
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = _Unhindered(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.StackInfoRenderer(),
                _redact_event,
                *([_for_a_terminal] if console else []),
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("kallglot_ari").setLevel(level.upper())
    logging.getLogger("aiohttp.access").setLevel(logging.ERROR)


@contextmanager
def of_call(call_id: str) -> Iterator[None]:
    """What is logged within, also by tasks that are started there, bears the call's id."""
    with structlog.contextvars.bound_contextvars(**({"call": call_id} if call_id else {})):
        yield


class _Unhindered(logging.StreamHandler[TextIO]):
    """Writes what is taken at once. A reader that stands still (a full pipe, a journal that hangs, a terminal after Ctrl-S) loses
    lines, and is told how many; the calls, whose event loop this is, do not wait for it."""

    lost = 0
    _cut = False
    """The last line is there without its end."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            number = self.stream.fileno()
        except (OSError, ValueError):
            super().emit(record)
            return
        try:
            if self.lost and _takes(number) and self._written(number, self._of_the_lost(self.lost)):
                self.lost = 0
            self.lost += not self._written(number, record)
        except Exception:  # noqa: BLE001 - as any handler's
            self.handleError(record)

    def _written(self, number: int, record: logging.LogRecord) -> bool:
        """Whether all of it was taken. Piece by piece: whoever takes one of this size without waiting may not take two."""
        line = (self.format(record) + "\n").encode("utf-8", "backslashreplace")
        if self._cut:
            line = b"\n" + line
        done = 0
        while done < len(line):
            if not _takes(number) or not (taken := os.write(number, line[done : done + select.PIPE_BUF])):
                return False
            done += taken  # a disk that gets full takes a part
            self._cut = line[done - 1 : done] != b"\n"
        return True

    @staticmethod
    def _of_the_lost(lines: int) -> logging.LogRecord:
        made = logging.getLogger(__name__).makeRecord
        return made(__name__, logging.WARNING, "", 0, "log_lines_lost", (), None, extra={"lines": lines})

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """A reader that is gone and a full disk are no news to whoever could read it; when there is room again it is told."""
        if isinstance(sys.exception(), OSError):
            self.lost += 1
        else:
            super().handleError(record)


def _takes(number: int) -> bool:
    """Whether a write would not wait; one that fails at once does not."""
    poll = select.poll()
    poll.register(number, select.POLLOUT)
    return bool(poll.poll(0))


class Lasting:
    """What is tried again and again: its fault is told when it begins, or is another one than before, and not at each attempt."""

    def __init__(
        self, logger: structlog.stdlib.BoundLogger, event: str, level: Literal["warning", "error"] = "warning"
    ) -> None:
        self._log, self._event, self._level = logger, event, level
        self._told: str | None = None

    def failed(self, error: str, **more: Any) -> None:
        """It failed; what is not told again is still there at level `debug`."""
        write = self._log.debug if error == self._told else getattr(self._log, self._level)
        self._told = error
        write(self._event, error=error, **more)

    def worked(self) -> None:
        """It did; the next fault is told."""
        self._told = None


def get(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of a module; bind the call's id with `log.bind(call=…)`."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger
