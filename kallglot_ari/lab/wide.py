"""Where benchmarks print: as wide as their tables where nobody looks at a terminal."""

from __future__ import annotations

from rich.console import Console

WIDE = 220
"""Columns in a file or a pipe, where rich takes 80 and cuts every figure."""


def console() -> Console:
    """On a terminal as wide as it is."""
    made = Console(highlight=False)
    return made if made.is_terminal else Console(highlight=False, width=WIDE)
