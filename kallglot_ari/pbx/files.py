"""Rendered files, and how they get onto the disk."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kallglot_ari.errors import ConfigError

_TEXT = re.compile(r"[^\x00-\x1f\x7f]*")


@dataclass(frozen=True, slots=True)
class RenderedFile:
    """A file to be written; one with a secret in it is for its owner only."""

    name: str
    text: str
    secret: bool = False

    def __repr__(self) -> str:
        return f"RenderedFile({self.name!r}, {len(self.text)} characters, secret={self.secret})"


def plain(setting: str, value: str, *, forbidden: str = "") -> str:
    """`value` if it can stand in a line of a configuration file.

    :raises ConfigError: it holds a line end, another control character, or one of `forbidden`.
    """
    bad = [c for c in value if c in forbidden]
    if not _TEXT.fullmatch(value) or bad:
        what = "a control character" if not bad else repr(bad[0])
        raise ConfigError(f"{setting}: expected text that a configuration file can hold, found {what} in it")
    return value


def write_all(files: Sequence[RenderedFile], out: Path) -> list[Path]:
    """Write `files` into the folder `out`, made if needed. A secret is never readable by others, not even for a moment.

    :raises ConfigError: the folder or a file cannot be written.
    """
    written = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        for file in files:
            path = out / file.name
            new = path.with_name(f".{file.name}.new")
            new.unlink(missing_ok=True)
            handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if file.secret else 0o644)
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(file.text)
            new.replace(path)
            written.append(path)
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written: {error.strerror}") from error
    return written
