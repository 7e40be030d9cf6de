"""`python -m tests.faults.table [--only WORD] [--moments talking,…] [--write]`: every fault at every moment of a call.

For each cell: does the call live, is every session ended exactly once, what is left behind. Exit 1 if one is not as it should be.
With `--write` the rows go into docs/reliability.md.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Container, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from kallglot_ari.media.strain import WAITS_WINDOW
from tests.double.server import Fault as Answer
from tests.faults import jumping
from tests.faults.plant import Plant, Site, plant
from tests.faults.proxy import Proxy
from tests.faults.reorder import reordered
from tests.store.conftest import Postgres, make_postgres

RINGS = 0.2
"""Seconds before a phone is answered: a caller who arrived in the last 100 ms before a kill is not promised to be taken up (docs/reliability.md)."""
MOMENTS = ("ringing", "answered", "talking", "ending")
RECOVER = 25.0
"""Seconds after the fault within which a call is translated again, and after its end within which nothing is left."""
PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"

Doing = Callable[[Site], AbstractAsyncContextManager[None]]


@dataclass(frozen=True)
class Fault:
    """`doing` is a context: the fault lasts for its body, `lasting` seconds."""

    name: str
    doing: Doing
    lasting: float = 2.0
    early: bool = False
    """At the moment `ringing`, begin before the call, so that its beginning meets it."""
    ends_call: bool = False
    """The call cannot live on: Asterisk itself is gone."""
    dialplan: str = ""
    """At the moment `ringing` the call goes on in the dialplan, with this status."""
    perhaps: str = ""
    """Or it may, which depends on what happens to be open already; else it is translated."""
    postgres: bool = False
    behind: float = 0.0
    """Seconds after which it is forgotten; one more in this time, and new calls are left to the dialplan (`media.strain`)."""


FAULTS: list[Fault] = []


def fault(name: str, **options: Any) -> Callable[[Callable[[Site], AsyncIterator[None]]], None]:
    def note(doing: Callable[[Site], AsyncIterator[None]]) -> None:
        FAULTS.append(Fault(name, asynccontextmanager(doing), **options))

    return note


# --- processes -------------------------------------------------------------------------------------------------------


@fault("service killed, started again", lasting=0.3)
async def _(p: Site) -> AsyncIterator[None]:
    p.served.kill()
    yield
    await p.served.start()


@fault("service stopped for 2 s", lasting=2.0, behind=WAITS_WINDOW)
async def _(p: Site) -> AsyncIterator[None]:
    assert p.served.process is not None
    p.served.process.send_signal(signal.SIGSTOP)
    yield
    p.served.process.send_signal(signal.SIGCONT)


@fault("Asterisk killed, started again", lasting=0.5, ends_call=True)
async def _(p: Site) -> AsyncIterator[None]:
    assert p.asterisk.pid is not None
    await p.asterisk.restart(gracefully=False)
    yield
    await p.new_phones()
    await p.served.wait_ready()
    await p.extension()


@fault("Kallglot away, back after 3 s", lasting=3.0, early=True)
async def _(p: Site) -> AsyncIterator[None]:
    await p.double.stop()
    yield
    await p.double.start()


@fault("PostgreSQL killed, started again", lasting=3.0, early=True, postgres=True)
async def _(p: Site) -> AsyncIterator[None]:
    assert p.postgres is not None
    await asyncio.to_thread(p.postgres.kill)
    yield
    await asyncio.to_thread(p.postgres.start)


# --- connections -----------------------------------------------------------------------------------------------------


def _connection(name: str, proxy: Callable[[Site], Proxy | None], *, postgres: bool = False) -> None:
    def of(p: Site) -> Proxy:
        found = proxy(p)
        assert found is not None
        return found

    @fault(f"{name}: TCP reset, refused for 1 s", lasting=1.0, postgres=postgres, early=name != "ARI")
    async def _(p: Site) -> AsyncIterator[None]:
        of(p).reset(refuse=True)
        yield
        of(p).heal()

    @fault(f"{name}: black hole for 6 s", lasting=6.0, postgres=postgres, early=name != "ARI")
    async def _(p: Site) -> AsyncIterator[None]:
        of(p).black_hole()
        yield
        of(p).heal()

    @fault(f"{name}: 300 ms slow", lasting=3.0, postgres=postgres, early=name != "ARI")
    async def _(p: Site) -> AsyncIterator[None]:
        of(p).slow(delay=0.3)
        yield
        of(p).heal()


_connection("ARI", lambda p: p.ari)
_connection("API", lambda p: p.api)
_connection("stream", lambda p: p.stream)
_connection("PostgreSQL", lambda p: p.database, postgres=True)


# --- answers ---------------------------------------------------------------------------------------------------------


@fault("API answers 429, 500 and nonsense for 2 s", lasting=2.0, early=True)
async def _(p: Site) -> AsyncIterator[None]:
    for operation in ("create", "end"):
        p.double.fault(operation, Answer(status=429, code="rate_limit_exceeded", retry_after=1))
        p.double.fault(operation, Answer(status=500, code="internal_error"))
        p.double.fault(operation, Answer(status=200, body=b"<html>"))
        p.double.fault(operation, Answer(lose_answer=True))
    yield
    p.double.heal()


@fault("API answers 402", early=True, dialplan="UNAVAILABLE")
async def _(p: Site) -> AsyncIterator[None]:
    p.double.refuse("create", 402, times=None)
    yield
    p.double.heal()


@fault("stream: malformed, unknown, repeated and reordered messages", lasting=1.0)
async def _(p: Site) -> AsyncIterator[None]:
    for session in [s for s in p.double.open_sessions if s.connected]:
        for text in (
            "",
            "{",
            "[]",
            '{"type":7}',
            '{"type":"audio.output"}',
            '{"type":"session.ready"}',
            '{"type":"x"}',
        ):
            await session.send_text(text)
        await session.send_text('{"type":"audio.output","speaker":"agent","sequence":9,"audio":{"payload":"%%%"}}')
        for sequence in (5, 3, 3, 4, 1):
            await session.send({**session.speech("agent", b"\xff" * 800, "mulaw", 8000), "sequence": sequence})
        await session.send_binary(b"\x00\xff")
        await session.error("test", "nothing is wrong")
    yield


# --- the machine -----------------------------------------------------------------------------------------------------


@fault("no file descriptor left for 3 s", lasting=3.0, early=True, perhaps="UNAVAILABLE")
async def _(p: Site) -> AsyncIterator[None]:
    assert p.served.process is not None
    process = psutil.Process(p.served.process.pid)
    before = process.rlimit(resource.RLIMIT_NOFILE)
    process.rlimit(resource.RLIMIT_NOFILE, (process.num_fds(), before[1]))
    yield
    process.rlimit(resource.RLIMIT_NOFILE, before)


@fault("disk full for 3 s", lasting=3.0, early=True)
async def _(p: Site) -> AsyncIterator[None]:
    filler = p.folder / "filler"
    with contextlib.suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(bytes(65536))
            file.flush()
    with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
        while file.write(b"x"):
            pass
    yield
    filler.unlink()


@fault("clock an hour ahead, then two back", lasting=1.0)
async def _(p: Site) -> AsyncIterator[None]:
    assert p.served.process is not None
    p.served.process.send_signal(jumping.AHEAD)
    yield
    p.served.process.send_signal(jumping.BACK)
    await asyncio.sleep(0.2)
    assert p.served.process.poll() is None, "the service is gone"


@fault("event loop stalled for 2 s", lasting=2.5, behind=WAITS_WINDOW)
async def _(p: Site) -> AsyncIterator[None]:
    assert p.served.process is not None
    p.served.process.send_signal(jumping.STALL)
    yield
    assert p.served.process.poll() is None, "the service is gone"


@fault("10 % of all RTP lost for 3 s", lasting=3.0)
async def _(p: Site) -> AsyncIterator[None]:
    rule = ["INPUT", "-p", "udp", "-m", "length", "--length", "200", "-m", "statistic", "--mode", "random"]
    rule += ["--probability", "0.1", "-j", "DROP"]
    subprocess.run(["iptables", "-A", *rule], check=True)
    yield
    subprocess.run(["iptables", "-D", *rule], check=True)


@fault("every other RTP packet after the next for 3 s", lasting=3.0)
async def _(p: Site) -> AsyncIterator[None]:
    port = int(p.served.events("started")[-1]["rtp"].rpartition(":")[2])
    with reordered(port) as held:
        yield
        await asyncio.sleep(0.1)
    if any(call["state"] == "active" for call in await p.served.calls()):
        assert len(held) > 50, f"only {len(held)} packets were held back"


# --- cells -----------------------------------------------------------------------------------------------------------


@dataclass
class Cell:
    """What was seen. `problem` is empty when all is as it should be."""

    fault: str
    moment: str
    outcome: str
    problem: str
    seconds: float


async def cell(p: Plant, fault: Fault, moment: str) -> Cell:
    began = time.monotonic()
    outcome, problem = "", ""
    try:
        outcome, problem = await _happen(p, fault, moment)
    except Exception as error:
        problem = f"{type(error).__name__}: {str(error)[:300]}"
    if not problem:
        problem = await p.left_over(RECOVER)
    created, ended, twice = p.sessions()
    if not problem and (created != ended or twice):
        problem = f"{created} sessions created, {ended} ended, {twice} twice"
    outcome += f"; {created} session{'s' * (created != 1)} ended once" if created else "; no session"
    return Cell(fault.name, moment, outcome, problem, time.monotonic() - began)


async def _happen(p: Plant, fault: Fault, moment: str) -> tuple[str, str]:
    if moment == "ringing" and fault.early:
        async with fault.doing(p):
            await p.dial()
            await asyncio.sleep(fault.lasting / 2)
            await p.answer()
            await asyncio.sleep(fault.lasting / 2)
        return await _verdict(p, fault, moment)
    await p.dial()
    await p.agent.wait_incoming()
    if moment == "ringing":
        await asyncio.sleep(0.3)
        async with fault.doing(p):
            await asyncio.sleep(fault.lasting / 2)
            await p.answer()
            await asyncio.sleep(fault.lasting / 2)
        return await _verdict(p, fault, moment)
    await asyncio.sleep(RINGS)
    await p.answer()
    await p.customer.wait_state("CONFIRMED")
    if moment != "answered" and not await p.translated(RECOVER):
        return "", "it was not translated before the fault"
    async with fault.doing(p):
        if moment == "ending" and p.alive:
            await p.customer.hangup()
        await asyncio.sleep(fault.lasting)
    return await _verdict(p, fault, moment)


async def _verdict(p: Plant, fault: Fault, moment: str) -> tuple[str, str]:
    if moment == "ending":
        return "ends", ""
    if fault.ends_call:
        if p.alive:
            await p.customer.hangup()
        await p.left_over(RECOVER)
        return "ends with Asterisk; the next call is translated", await _another_call(p)
    if fault.dialplan and moment == "ringing":
        deadline = time.monotonic() + RECOVER
        while not p.went_on and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        found = p.went_on
        lives = p.alive
        await _hang_up(p)
        return f"goes on in the dialplan ({found})", "" if lives and found == fault.dialplan else "it did not"
    if not p.alive:
        return "", f"the call was lost: {p.call}"
    if fault.perhaps and moment == "ringing" and p.went_on == fault.perhaps:
        await _hang_up(p)
        return f"goes on in the dialplan ({fault.perhaps})", ""
    since = time.monotonic()
    if not await p.translated(RECOVER):
        await _hang_up(p)
        return "", f"not translated within {RECOVER:g} s ({p.went_on or 'not'} in the dialplan)"
    again = time.monotonic() - since
    await _hang_up(p)
    return f"lives, translated {'at once' if again < 2.5 else f'after {again:.0f} s'}", ""


async def _another_call(p: Plant) -> str:
    before = p.sessions_before
    await p.dial()
    await p.agent.wait_incoming()
    await p.answer()
    good = await p.translated(RECOVER)
    await _hang_up(p)
    p.sessions_before = before
    return "" if good else "the next call was not translated"


async def _hang_up(p: Plant) -> None:
    if p.alive:
        await p.customer.hangup()


async def run(
    faults: list[Fault], moments: Callable[[Fault], Container[str]], report: Callable[[Cell], None]
) -> list[Cell]:
    """All cells, those with PostgreSQL on one plant and the others on another."""
    cells: list[Cell] = []
    for with_postgres in (False, True):
        chosen = [f for f in faults if f.postgres is with_postgres]
        if not chosen:
            continue
        postgres: Postgres | None = make_postgres() if with_postgres else None
        with disk() as folder:
            async with plant(folder, postgres) as p:
                for one in chosen:
                    for moment in [m for m in MOMENTS if m in moments(one)]:
                        cells.append(await cell(p, one, moment))
                        report(cells[-1])
                        if cells[-1].problem:
                            await _tidy(p)
                        await asyncio.sleep(one.behind)
                breaches = p.double.violations
                if breaches:
                    cells.append(Cell("the API's rules", "all", "", breaches[0], 0))
        if postgres is not None:
            postgres.kill()
            shutil.rmtree(postgres.folder, ignore_errors=True)
    return cells


async def _tidy(p: Plant) -> None:
    """After a cell that went wrong, so that the next one stands alone."""
    (p.folder / f"service-{time.monotonic():.0f}.log").write_text(p.served.log())
    with contextlib.suppress(Exception):
        await _hang_up(p)
    with contextlib.suppress(Exception):
        await p.asterisk.reset()
    with contextlib.suppress(Exception):
        await p.new_phones()
    p.served.kill()
    await p.served.start()


@contextlib.contextmanager
def disk(megabytes: int = 16) -> Iterator[Path]:
    """A small disk of its own, which can be filled."""
    folder = Path(tempfile.mkdtemp(prefix="kallglot-faults-"))
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder], capture_output=True)
    try:
        yield folder
    finally:
        if os.environ.get("KALLGLOT_KEEP"):
            shutil.copytree(folder, os.environ["KALLGLOT_KEEP"], dirs_exist_ok=True)
        if mounted.returncode == 0:
            subprocess.run(["umount", "-l", folder], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def page(cells: list[Cell]) -> str:
    """The table as it stands in the documentation."""
    lines = [f"| fault | {' | '.join(MOMENTS)} |", "|---" * (len(MOMENTS) + 1) + "|"]
    for name in dict.fromkeys(c.fault for c in cells):
        by = {c.moment: c for c in cells if c.fault == name}
        shown = [(f"**{by[m].problem}**" if by[m].problem else by[m].outcome) if m in by else "" for m in MOMENTS]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines)


def write(cells: list[Cell]) -> None:
    """Into the page: a row that was made again in its place, the others as they are, those of no fault any more gone."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    old, _, after = rest.partition(END)
    head, rule, *rows = page(cells).splitlines()
    row_of = {row.split(" | ")[0].removeprefix("| "): row for row in [*old.splitlines(), *rows] if row.startswith("| ")}
    kept = [row_of[one.name] for one in FAULTS if one.name in row_of]
    PAGE.write_text("\n".join([f"{before}{BEGIN}", head, rule, *kept, f"{END}{after}"]), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="faults whose name holds this")
    parser.add_argument("--moments", default=",".join(MOMENTS))
    parser.add_argument("--write", action="store_true", help="put these rows into docs/reliability.md")
    arguments = parser.parse_args()
    chosen = [f for f in FAULTS if arguments.only in f.name]

    def report(c: Cell) -> None:
        verdict = f"RED {c.problem}" if c.problem else "ok"
        print(f"{c.fault} | {c.moment}: {c.outcome} [{c.seconds:.0f} s] {verdict}", flush=True)

    cells = asyncio.run(run(chosen, lambda _: arguments.moments.split(","), report))
    red = [c for c in cells if c.problem]
    print(f"{len(cells)} cells, {len(red)} red")
    if arguments.write:
        write(cells)
    return 1 if red else 0


if __name__ == "__main__":
    sys.exit(main())
