"""The standard streams of a process, whatever it was started with."""

from __future__ import annotations

import io
import os
import re
import sys

ONE_LINE = 500
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def prepare() -> None:
    """Open what of the three is closed to nothing, and let stdout write what its encoding does not have as `?`.

    A socket or a file would get the number of a closed one, and who writes to stdout, or closes it at the end, would meet that
    (libuv aborts then). To be called before anything opens one.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - for the process's life
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def columns() -> int | None:
    """How wide a table may be: as the terminal is (None), or as `COLUMNS` says; elsewhere each row is one line, for grep and for files."""
    return None if sys.stdout.isatty() or os.environ.get("COLUMNS") else ONE_LINE


def harmless(text: str) -> str:
    """`text` as a terminal may be given it: what would command one, in a caller's number or another's words, is spelled out."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
