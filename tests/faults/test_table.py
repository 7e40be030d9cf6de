"""Some cells of the fault table; `KALLGLOT_FAULTS=all` for every one (about 8 minutes)."""

from __future__ import annotations

import os

import pytest

from tests.asterisk.conftest import missing
from tests.faults import table

CELLS = {
    "service killed, started again": ("ringing", "talking"),
    "ARI: TCP reset, refused for 1 s": ("answered",),
    "stream: TCP reset, refused for 1 s": ("talking",),
    "API answers 429, 500 and nonsense for 2 s": ("ringing", "ending"),
    "stream: malformed, unknown, repeated and reordered messages": ("talking",),
}
ALL = os.environ.get("KALLGLOT_FAULTS") == "all"

pytestmark = [pytest.mark.asterisk, pytest.mark.phones, pytest.mark.timeout(1800 if ALL else 180)]


async def test_cells_of_the_fault_table() -> None:
    if os.geteuid():
        missing("the fault table needs root")
    chosen = [fault for fault in table.FAULTS if ALL or fault.name in CELLS]
    assert ALL or len(chosen) == len(CELLS)
    cells = await table.run(
        chosen, lambda fault: table.MOMENTS if ALL else CELLS[fault.name], lambda cell: print(cell, flush=True)
    )
    assert [cell for cell in cells if cell.problem] == []


def test_the_page_has_a_row_for_every_fault() -> None:
    page = table.PAGE.read_text(encoding="utf-8")
    written = page.partition(table.BEGIN)[2].partition(table.END)[0]
    assert [f.name for f in table.FAULTS if f"| {f.name} |" not in written] == [], (
        "run python -m tests.faults.table --write"
    )
    assert "**" not in written, "every cell is as it should be"
