"""Structured logs: one line per event, bound to the call it belongs to, with every secret taken out."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable, MutableMapping
from typing import Any, Literal

import orjson
import structlog

SECRET_KEYS = re.compile(r"(password|passwd|secret|token|api_?key|authorization|credential)", re.IGNORECASE)
SECRET_TEXT = re.compile(
    r"(sk_(?:live|test)_|kst_|whsec_)[A-Za-z0-9_\-]+|(?<=[?&]token=)[^&\s\"']+|(?<=[?&]api_key=)[^&\s\"']+"
    r"|(?<=Bearer )[A-Za-z0-9._~+/\-]+=*|(?<=://)[^/@\s:]+:[^/@\s]+(?=@)"
)
HIDDEN = "[hidden]"

_known_secrets: set[str] = set()


def hide(values: Iterable[str]) -> None:
    """Name secrets of this configuration, so that they are taken out of any text they appear in."""
    _known_secrets.update(value for value in values if len(value) >= 4)


def redact(value: Any) -> Any:
    """`value` with every secret replaced: by the key's name, by the well-known forms and by what `hide` was told."""
    if isinstance(value, str):
        for secret in _known_secrets:
            if secret in value:
                value = value.replace(secret, HIDDEN)
        return SECRET_TEXT.sub(lambda m: (m.group(1) or "") + HIDDEN, value)
    if isinstance(value, dict):
        return {
            k: HIDDEN if v and isinstance(k, str) and SECRET_KEYS.search(k) else redact(v) for k, v in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact(item) for item in value]
    return value


def _redact_event(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {k: HIDDEN if v and SECRET_KEYS.search(k) and isinstance(v, str) else redact(v) for k, v in event.items()}


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
    render: list[Any] = (
        [_redact_event, structlog.dev.ConsoleRenderer()]
        if console
        else [
            structlog.processors.format_exc_info,
            _redact_event,
            structlog.processors.JSONRenderer(serializer=lambda v, **_: orjson.dumps(v, default=repr).decode()),
        ]
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
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("kallglot_ari").setLevel(level.upper())
    logging.getLogger("aiohttp.access").setLevel(logging.ERROR)


def get(name: str) -> Any:
    """The logger of a module; bind the call's id with `log.bind(call=…)`."""
    return structlog.stdlib.get_logger(name)
