"""Rendered files, and how they get onto the disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kallglot_ari.errors import ConfigError


@dataclass(frozen=True, slots=True)
class RenderedFile:
    """A file to be written; one with a secret in it is for its owner only."""

    name: str
    text: str
    secret: bool = False

    def __repr__(self) -> str:
        return f"RenderedFile({self.name!r}, {len(self.text)} characters, secret={self.secret})"


def plain(setting: str, value: str, *, forbidden: str) -> str:
    """`value` if it can stand in a line of a configuration file; the settings let no control character pass.

    :raises ConfigError: it holds one of `forbidden`.
    """
    for character in value:
        if character in forbidden:
            raise ConfigError(f"{setting}: expected text that a configuration file can hold, found {character!r} in it")
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
