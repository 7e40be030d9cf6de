"""`python -m tests.faults.soak [--calls 2000] [--at-once 20] [--every 10]`: many real SIP calls, with a random fault every so many seconds.

Needs root. The phones are a second Asterisk's channels. Calls last from a fraction of a second to `--longest` and are hung up by the caller,
by the agent, or over the API. The faults are those of the fault table that need no PostgreSQL. Those that kill the service come only among the
first `--settled` calls (200): the process that is alive then must see all others through, so that its memory can be compared.

In the end: every session that was created is ended, once; no call was lost but those whose Asterisk was killed; and no channel, bridge,
task, descriptor or row is left. Exit 1 if anything is not as it should be.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sqlite3
import sys
import time
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from kallglot_ari.lab.farm import Farm
from kallglot_ari.tasks import Tasks
from tests.audio_checks import tone
from tests.faults import table
from tests.faults.jumping import COUNT, COUNTED
from tests.faults.plant import Site, left_of_calls, site

KILLS = "service killed, started again"
DRAINED = 60.0
"""Seconds after the last call within which nothing may be left."""
MEMORY = 1.05
SPARE = 4
"""Descriptors, tasks and threads that come and go: connections kept open for the next request, threads of a pool."""
ROWS = {
    "sessions in the outbox": "SELECT count(*) FROM kallglot_pending_sessions",
    "live calls written down": "SELECT count(*) FROM kallglot_mappings WHERE kind LIKE 'live:%'",
    "calls not ended": "SELECT count(*) FROM kallglot_calls WHERE state != 'ended'",
}
SPEECH = tone(787, 0.4, 8000)


@dataclass
class Figures:
    """What the service takes while no call is up."""

    resident: float
    """MB."""
    private: float
    """MB of it that no file stands behind."""
    descriptors: int
    kept: int
    """Connections kept open for the next request to Kallglot, for 30 s or two times that."""
    tasks: Counter[str]
    threads: int
    used: float
    """MB, of what is resident, that is in use; the rest was, and is kept for the next burst of calls."""
    objects: Counter[str]
    open: Counter[str]
    """Descriptors by what they are."""


@dataclass
class Soaked(Site):
    """The site, with an Asterisk full of phones."""

    farm: Farm = field(kw_only=True)
    asterisk_gone_at: list[float] = field(default_factory=list)
    killing: bool = False
    """Asterisk is killed, started, and told its extension again."""

    async def new_phones(self) -> None:
        """Asterisk is back, and its calls are not."""
        self.asterisk_gone_at.append(time.monotonic())
        for channel in await asyncio.to_thread(self.farm.asterisk.ari, "GET", "/channels"):
            await self.hang_up(channel["id"])

    async def hang_up(self, channel: str) -> None:
        """A channel of the phones; gone already is as good."""
        with suppress(OSError):
            await asyncio.to_thread(self.farm.asterisk.ari, "DELETE", f"/channels/{channel}")

    async def extension(self) -> None:
        steps = f"Stasis(kallglot,source=de,target=en,agent={self.farm.agent_endpoint})", "Milliwatt()"
        await self.asterisk.extension("900", *steps)
        self.asterisk_gone_at.append(time.monotonic())  # who called before had no number to call


class Soak:
    """The run. `problems` holds what was not as it should be."""

    def __init__(self, s: Soaked, arguments: argparse.Namespace) -> None:
        self.site = s
        self.arguments = arguments
        self.random = random.Random(arguments.seed)
        self.begun = 0
        self.ends: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.problems: list[str] = []
        self._now = "no fault yet"

    # --- calls

    async def calls(self, number: int) -> None:
        """So many more calls, `--at-once` at a time."""
        target = self.begun + number

        async def slot() -> None:
            while self.begun < target:
                self.begun += 1
                self.ends[await self._call(f"soak{self.begun}")] += 1

        await asyncio.gather(*(slot() for _ in range(min(number, self.arguments.at_once))))

    async def _call(self, caller: str) -> str:
        """One call; how it ended."""
        s, began = self.site, time.monotonic()
        channel = await s.farm.call(s.asterisk, "900", caller)
        how = self.random.choices(("caller", "agent", "api", "caller, while it rings"), (5, 3, 2, 1))[0]
        await asyncio.sleep(self.random.uniform(0.1, 0.4 if "rings" in how else self.arguments.longest))
        if not await self._there(channel):
            if any(gone > began for gone in s.asterisk_gone_at) or s.killing:
                return "lost with Asterisk"
            self.problems.append(f"a call was lost within {time.monotonic() - began:.1f} s; fault: {self._now}")
            return "lost"
        if how in ("agent", "api") and not await self._other_end(caller, how):
            how = "caller"
        if how.startswith("caller"):
            await s.hang_up(channel)
        else:
            await asyncio.sleep(1)
            await s.hang_up(channel)  # a caller whose call had gone on in the dialplan
        return how

    async def _there(self, channel: str) -> bool:
        try:
            await asyncio.to_thread(self.site.farm.asterisk.ari, "GET", f"/channels/{channel}")
        except OSError:
            return False
        return True

    async def _other_end(self, caller: str, how: str) -> bool:
        """Hang up over the API, or the agent's channel; False when there is no such call, or nobody answers now."""
        try:
            call = next(c for c in await self.site.served.calls() if c["caller"] == caller and c["state"] == "active")
            if how == "api":
                await self.site.served.post(f"/api/v1/calls/{call['id']}/hangup")
            else:
                agent = next(leg["channel_id"] for leg in call["legs"] if leg["speaker"] == "agent")
                await asyncio.to_thread(self.site.asterisk.ari, "DELETE", f"/channels/{agent}")
        except (OSError, StopIteration):
            return False
        return True

    # --- what goes on meanwhile

    async def speak(self) -> None:
        """Translations for everybody, all the time; what ended sessions heard is forgotten."""
        while True:
            for session in list(self.site.double.sessions.values()):
                if session.status == "ended":
                    session.audio.clear()
                elif session.connected:
                    with suppress(AssertionError, ConnectionError, RuntimeError):
                        await session.speak("customer", SPEECH, burst=True)
                        await session.speak("agent", SPEECH, burst=True)
            await asyncio.sleep(0.5)

    async def break_things(self, faults: list[table.Fault], over: asyncio.Event) -> None:
        """One fault after the other, all of them before one comes again, until `over`; the last is healed."""
        while not over.is_set():
            for fault in self.random.sample(faults, len(faults)):
                began = time.monotonic()
                self._now = fault.name
                self.faults[fault.name] += 1
                print(f"  {self.begun} calls, {self._resident():.0f} MB: {fault.name}", flush=True)
                self.site.killing = fault.ends_call
                async with fault.doing(self.site):
                    await asyncio.sleep(fault.lasting)
                self.site.killing = False
                with suppress(TimeoutError):
                    await asyncio.wait_for(over.wait(), max(0.1, began + self.arguments.every - time.monotonic()))
                if over.is_set():
                    return

    def _resident(self) -> float:
        process = self.site.served.process
        return psutil.Process(process.pid).memory_info().rss / 1e6 if process is not None else 0.0

    # --- afterwards

    async def left(self) -> str:
        """What is left of calls, in words; empty when nothing is."""
        found = await left_of_calls(self.site.asterisk, self.site.served)
        open_ = len(self.site.double.open_sessions)
        found += [f"{open_} sessions open"] if open_ else []
        return ", ".join(found) or self._rows()

    def _rows(self) -> str:
        """What the database holds of calls that are no more."""
        found = []
        with closing(sqlite3.connect(self.site.folder / "calls.db")) as database:
            for what, query in ROWS.items():
                (count,) = database.execute(query).fetchone()
                found += [f"{count} {what}"] if count else []
        return ", ".join(found)

    async def drained(self) -> Figures:
        """Wait until nothing is left, and see what the service takes then."""
        deadline = time.monotonic() + DRAINED
        while left := await self.left():
            if time.monotonic() > deadline:
                self.problems.append(f"left {DRAINED:g} s after {self.begun} calls: {left}")
                break
            await asyncio.sleep(0.5)
        await asyncio.sleep(self.arguments.settle)
        assert self.site.served.process is not None
        process = psutil.Process(self.site.served.process.pid)
        counted = self.site.folder / COUNTED
        counted.unlink(missing_ok=True)
        process.send_signal(COUNT)
        while not counted.exists():
            await asyncio.sleep(0.1)
        said = json.loads(counted.read_text())
        resident = process.memory_info().rss / 1e6
        opened = descriptors(process)
        kept = opened.pop(f"ESTABLISHED to {self.site.api.port}", 0)
        private = sum(float(line.split()[1]) for line in _status(process) if line.startswith("RssAnon")) / 1000
        return Figures(
            resident, private, process.num_fds() - kept, kept, Counter(said["tasks"]), said["threads"], said["used"],
            Counter(said["objects"]), opened,
        )  # fmt: skip

    def compare(self, first: Figures, last: Figures) -> None:
        """Whether the service takes no more than after the first calls."""
        if last.resident > MEMORY * first.resident:
            objects = ", ".join(f"{count} {name}" for name, count in (last.objects - first.objects).most_common(12))
            self.problems.append(
                f"resident memory grew from {first.resident:.1f} to {last.resident:.1f} MB, in use from {first.used:.1f} to "
                f"{last.used:.1f}; objects: {objects}"
            )
        if last.descriptors > first.descriptors + SPARE:
            opened = ", ".join(f"{count} {name}" for name, count in (last.open - first.open).most_common())
            self.problems.append(f"descriptors grew from {first.descriptors} to {last.descriptors}: {opened}")
        if last.threads > first.threads + SPARE or last.tasks.total() > first.tasks.total() + SPARE:
            more = dict(last.tasks - first.tasks)
            self.problems.append(f"tasks and threads grew: {more}, {first.threads} to {last.threads} threads")

    def report(self, first: Figures, last: Figures, seconds: float) -> None:
        double = self.site.double
        twice = sum(len(s.ends) > 1 for s in double.sessions.values())
        heard = sum(bool(s.connections) for s in double.sessions.values())
        if double.open_sessions or twice:
            self.problems.append(f"{len(double.open_sessions)} sessions not ended, {twice} ended twice")
        self.problems += [f"breach of the API: {breach}" for breach in double.violations]
        print(f"{self.begun} calls in {seconds:.0f} s, {self.faults.total()} faults of {len(self.faults)} kinds")
        print(f"  ended by: {', '.join(f'{how} {count}' for how, count in self.ends.most_common())}")
        print(f"  sessions: {double.created} created, {double.ended} ended, {twice} twice; {heard} with a stream")
        for name, a, b in (
            ("resident memory, MB", round(first.resident, 1), round(last.resident, 1)),
            ("of it no file's, MB", round(first.private, 1), round(last.private, 1)),
            ("of that in use, MB", round(first.used, 1), round(last.used, 1)),
            ("descriptors", first.descriptors, last.descriptors),
            ("beside them kept connections", first.kept, last.kept),
            ("tasks", first.tasks.total(), last.tasks.total()),
            ("threads", first.threads, last.threads),
        ):
            print(f"  {name}: {a} after the first {self.arguments.settled} calls, {b} in the end")
        for problem in self.problems:
            print(f"  RED {problem}")
        print("nothing was lost, nothing is left" if not self.problems else f"{len(self.problems)} problems")


def _status(process: psutil.Process) -> list[str]:
    return Path(f"/proc/{process.pid}/status").read_text().splitlines()


def descriptors(process: psutil.Process) -> Counter[str]:
    """What a process has open: files by name, connections by where they lead."""
    found = Counter(Path(file.path).name for file in process.open_files())
    for one in process.net_connections():
        there = f"to {one.raddr.port}" if one.raddr else "bound"
        found[f"{one.status} {there if one.laddr else 'socket'}"] += 1
    return found


async def run(arguments: argparse.Namespace) -> list[str]:
    """What was not as it should be."""
    faults = [f for f in table.FAULTS if not f.postgres and arguments.only in f.name]
    lasting = [f for f in faults if f.name != KILLS]
    settled = min(arguments.settled, arguments.calls)
    tasks = Tasks("soak")
    with table.disk(256) as folder:
        async with Farm() as farm, site(folder, local=Farm.local()) as s:
            soak = Soak(Soaked(**vars(s), farm=farm), arguments)
            await soak.site.extension()
            began = time.monotonic()
            tasks.spawn(soak.speak(), name="speak")
            figures = []
            for chosen, number in ((faults, settled), (lasting, arguments.calls - settled)):
                over = asyncio.Event()
                breaking = tasks.spawn(soak.break_things(chosen, over), name="break")
                await soak.calls(number)
                over.set()
                await breaking
                figures.append(await soak.drained())
            soak.compare(*figures)
            soak.report(figures[0], figures[-1], time.monotonic() - began)
            await tasks.close()
            if arguments.log:
                arguments.log.write_text(s.served.log())
    return soak.problems


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--settled", type=int, default=200, help="calls after which memory is first looked at")
    parser.add_argument("--at-once", type=int, default=20)
    parser.add_argument("--longest", type=float, default=6.0, help="seconds a call lasts at most")
    parser.add_argument("--every", type=float, default=10.0, help="seconds from one fault to the next")
    parser.add_argument("--only", default="", help="faults whose name holds this")
    parser.add_argument(
        "--settle",
        type=float,
        default=95.0,
        help="seconds without a call before figures are taken: memory is given back after 60",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log", type=Path, help="keep the service's log there")
    return parser


def main() -> int:
    return 1 if asyncio.run(run(parser().parse_args())) else 0


if __name__ == "__main__":
    sys.exit(main())
