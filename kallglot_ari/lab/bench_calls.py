"""`kallglot-ari bench calls`: real SIP calls through a real Asterisk and the service, and what each of the two takes of the CPU.

The phones are another Asterisk's channels, Kallglot is the sandbox's echo: processes of their own, whose CPU does not count. Every party talks
all the time, and hears itself come back as a translation for the other. `--bridges` measures Asterisk without the service beside it; `--original` lets all hear each other's own
voices as well, and `--busy` has the machine overloaded first: what is measured then is whether the calls recover.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import aiohttp

from kallglot_ari import log
from kallglot_ari.arguments import Parser, file_to_write, within
from kallglot_ari.errors import LabError
from kallglot_ari.lab import wide
from kallglot_ari.lab.asterisk import LabAsterisk, dying_with_us
from kallglot_ari.lab.bench_bridges import BARE, NUMBER, measure_bare, taken, technologies
from kallglot_ari.lab.farm import Farm

_READY_SECONDS = 60.0
_BUSY_SECONDS = 16.0
_KEY = "sk_test_bench"
TRANSPORTS = ("rtp", "websocket")
FORMATS = ("ulaw", "alaw", "slin16", "g722", "opus")
PHONES = ("ulaw", "alaw", "g722", "opus")
BRIDGES = ("kallglot", *BARE)


def _config(asterisk: LabAsterisk, folder: Path, ports: tuple[int, int, int], media: dict[str, str | float]) -> str:
    sandbox, web, agi = ports
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in media.items())
    wide = media["format"] not in ("ulaw", "alaw")
    return f"""\
[service]
drain_seconds = 0
[ari]
url = "{asterisk.ari_url}"
username = "{asterisk.ari_user}"
password = "{asterisk.ari_password}"
[kallglot]
url = "http://127.0.0.1:{sandbox}/v1"
api_key = "{_KEY}"
contract = "{"provider" if wide else "routing"}"
[media]
{lines}[web]
port = {web}
[agi]
port = {agi}
[store]
url = "sqlite:///{folder / "bench.db"}"
[log]
level = "warning"
"""


async def ready(url: str, what: str, *, status: int = 200, seconds: float = _READY_SECONDS) -> None:
    """Wait until `url` answers so. :raises LabError: it does not."""
    deadline = time.monotonic() + seconds
    said = "nothing"
    while time.monotonic() < deadline:
        try:
            async with aiohttp.ClientSession() as http, http.get(url) as answer:
                if answer.status == status:
                    return
                said = (await answer.text())[:300]
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(0.1)
    raise LabError(f"bench: {what} is not ready after {seconds:.0f} s: {said}")


def spawn(stack: ExitStack, folder: Path, name: str, *arguments: str) -> int:
    """A `kallglot-ari` command until the end; its process id."""
    output = stack.enter_context((folder / f"{name}.log").open("wb"))
    clean = {k: v for k, v in os.environ.items() if not k.startswith("KALLGLOT")}
    process = stack.enter_context(
        subprocess.Popen(
            [*dying_with_us(), sys.executable, "-m", "kallglot_ari", *arguments],
            env=clean, stdout=output, stderr=output, start_new_session=True,
        )
    )  # fmt: skip
    stack.callback(_end, process)
    return process.pid


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()


async def _calls(url: str) -> list[dict[str, Any]]:
    async with aiohttp.ClientSession() as http, http.get(f"{url}/api/v1/calls?active=true&limit=1000") as answer:
        calls: list[dict[str, Any]] = (await answer.json())["calls"]
    return calls


async def _ticks(url: str) -> tuple[float, float]:
    """Seconds by which all ticks so far were late, together, and how many there were."""
    async with aiohttp.ClientSession() as http, http.get(f"{url}/metrics") as answer:
        lines = dict(line.rsplit(" ", 1) for line in (await answer.text()).splitlines() if not line.startswith("#"))
    name = "kallglot_media_tick_lateness_seconds"
    return float(lines[f"{name}_sum"]), float(lines[f"{name}_count"])


@contextmanager
def _busy(loops: int) -> Iterator[None]:
    """So many processes that do nothing but take the CPU."""
    processes = [subprocess.Popen([*dying_with_us(), sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


async def measure(
    calls: int, seconds: float, transport: str, form: str, phones: str = "ulaw", *, original: float | None = None, busy: int = 0
) -> dict[str, Any]:  # fmt: skip
    """The figures of one run, with the others' own voices at `original` dB, and after `busy` busy loops. :raises LabError: when something does not come up."""
    media: dict[str, str | float] = {"transport": transport, "format": form}
    if original is not None:
        media["original_gain_db"] = original
    async with Farm(codec=phones) as farm, LabAsterisk("22", phones=0, verbose=0, local=Farm.local(phones)) as asterisk:
        steps = f"Stasis(kallglot,source=de,target=en,agent={farm.agent_endpoint})", "Hangup()"
        await asterisk.extension(NUMBER, *steps)
        lowest = asterisk.rtp_range[0]  # TCP: RTP is UDP
        ports = (lowest, lowest + 1, lowest + 2)
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kallglot-bench-")))
            file = folder / "kallglot-ari.toml"
            file.touch(0o600)
            file.write_text(_config(asterisk, folder, ports, media), "utf-8")
            spawn(stack, folder, "sandbox", "sandbox", "--engine", "echo", "--port", str(ports[0]), "--api-key", _KEY)
            await ready(f"http://127.0.0.1:{ports[0]}/v1/sessions/none", "the sandbox", status=401)
            service = spawn(stack, folder, "service", "serve", "--config", str(file))
            url = f"http://127.0.0.1:{ports[1]}"
            await ready(f"{url}/readyz", "the service")
            if asterisk.pid is None:
                raise LabError("bench: the Asterisk that is called is gone")
            idle = await taken((asterisk.pid, service), 3.0)
            await _fill(farm, asterisk, url, calls)
            if busy:
                with _busy(busy):
                    await asyncio.sleep(_BUSY_SECONDS)
            await asyncio.sleep(2.0)
            late, ticks = await _ticks(url)
            by_asterisk, by_us = await taken((asterisk.pid, service), seconds)
            late, ticks = (after - before for before, after in zip((late, ticks), await _ticks(url), strict=True))
            legs = [leg for call in await _calls(url) for leg in call["legs"]]
            technology = technologies(asterisk)
            await farm.hang_up_all()
    return {
        "bridge": "kallglot", "technology": technology, "phones": phones, "transport": transport, "format": form, "calls": calls, "seconds": seconds,
        "asterisk": by_asterisk, "service": by_us, "ratio": by_us / by_asterisk if by_asterisk else 0.0,
        "asterisk_percent_a_leg": 100 * (by_asterisk - idle[0]) / (2 * calls),
        "service_percent_a_leg": 100 * (by_us - idle[1]) / (2 * calls),
        "late": 1000 * late / ticks if ticks else 0.0, "lag_most": max((leg["lag_ms"] for leg in legs), default=0.0),
        "lost": sum(leg["packets_lost"] for leg in legs), "mos_least": min((leg["mos"] for leg in legs), default=0.0),
    }  # fmt: skip


async def _fill(farm: Farm, asterisk: LabAsterisk, url: str, calls: int) -> None:
    """Until `calls` are up. One that the service leaves to the dialplan, because its ticks were late just then, is called again."""
    deadline = time.monotonic() + _READY_SECONDS + 0.2 * calls
    missing = calls
    while time.monotonic() < deadline:
        for _ in range(missing):
            await farm.call(asterisk, NUMBER)
            await asyncio.sleep(0.1)
        await asyncio.sleep(1.0)
        states = [call["state"] for call in await _calls(url)]
        if states.count("active") >= calls:
            return
        missing = calls - len(states)
    raise LabError(f"bench: expected {calls} calls up, found {states.count('active')} of {len(states)}")


COLUMNS = (
    ("bridge", "bridge", "{}"), ("technology", "Asterisk calls it", "{}"), ("phones", "phones", "{}"),
    ("transport", "transport", "{}"), ("format", "format", "{}"), ("calls", "calls", "{}"),
    ("asterisk", "Asterisk (cores)", "{:.3f}"), ("service", "service (cores)", "{:.3f}"),
    ("ratio", "service / Asterisk", "{:.2f}"), ("asterisk_percent_a_leg", "Asterisk, % of a core a leg", "{:.2f}"),
    ("service_percent_a_leg", "service, % of a core a leg", "{:.2f}"), ("late", "ticks late, mean ms", "{:.1f}"),
    ("lag_most", "most lag ms", "{:.0f}"), ("lost", "lost", "{}"),
    ("mos_least", "least MOS", "{:.2f}"),
)  # fmt: skip


def markdown(results: list[dict[str, Any]], command: str) -> str:
    """The table as docs/performance.md has it."""
    lines = [
        f"`{command}`, {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"{platform.system()} {platform.release()}",
        "",
        "| " + " | ".join(title for _, title, _ in COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
    ]
    lines += [
        "| " + " | ".join(form.format(r[key]) if key in r else "–" for key, _, form in COLUMNS) + " |" for r in results
    ]
    return "\n".join(lines) + "\n"


def _some(names: tuple[str, ...]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        wanted = text.split(",")
        if unknown := [name for name in wanted if name not in names]:
            raise argparse.ArgumentTypeError(f"expected some of {', '.join(names)}, found {unknown[0]!r}")
        return wanted

    return parse


def run(argv: list[str]) -> int:
    """0 when nothing was lost, else 1."""
    parser = Parser(prog="kallglot-ari bench calls", description=__doc__)
    parser.add_argument("--calls", type=int, default=50, help="two-party calls (50)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of measurement, when all calls are up")
    parser.add_argument("--transports", type=_some(TRANSPORTS), default=["rtp"], metavar="A,B", help="rtp, websocket")
    parser.add_argument("--formats", type=_some(FORMATS), default=["ulaw"], metavar="A,B", help=", ".join(FORMATS))
    parser.add_argument(
        "--phones",
        type=_some(PHONES),
        default=["ulaw"],
        metavar="A,B",
        help="codec of the SIP legs: " + ", ".join(PHONES),
    )
    parser.add_argument(
        "--bridges",
        type=_some(BRIDGES),
        default=["kallglot"],
        metavar="A,B",
        help="kallglot, or Asterisk alone: " + ", ".join(BARE),
    )
    parser.add_argument(
        "--original", type=float, metavar="DB", help="own voices under the translation (media.original_gain_db)"
    )
    parser.add_argument("--busy", type=int, default=0, metavar="N", help=f"busy loops for {_BUSY_SECONDS:.0f} s first")
    parser.add_argument(
        "--json", type=file_to_write, default=Path("bench-out/calls.json"), help="write the figures there"
    )
    parser.add_argument("--markdown", type=file_to_write, help="write the table there")
    args = parser.parse_args(argv)
    within("--calls", args.calls, 1, 400)
    within("--seconds", args.seconds, 1, 3600)
    within("--busy", args.busy, 0, 64)
    if args.original is not None:
        within("--original", args.original, -60, 6)
    log.configure("error", "console")
    console = wide.console()
    results = []
    for run in _runs(args):
        console.print(f"{args.calls} calls: {', '.join(run)}", end=" ")
        results.append(result := asyncio.run(_one(run, args)))
        console.print(f"Asterisk {result['asterisk']:.3f} cores")
    table = markdown(results, "kallglot-ari bench calls " + " ".join(argv))
    console.print(table, soft_wrap=True)
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if args.markdown:
        args.markdown.write_text(table, encoding="utf-8")
    return 0 if all(result.get("lost", 0) == 0 for result in results) else 1


def _runs(args: argparse.Namespace) -> list[tuple[str, ...]]:
    """Bridge and phones of each run, and transport and format where the service is in it."""
    runs: list[tuple[str, ...]] = []
    for bridge, phones in product(args.bridges, args.phones):
        ours = product(args.transports, args.formats) if bridge == "kallglot" else [()]
        runs += [(bridge, phones, *rest) for rest in ours]
    return runs


async def _one(run: tuple[str, ...], args: argparse.Namespace) -> dict[str, Any]:
    bridge, phones, *ours = run
    if not ours:
        return await measure_bare(bridge, args.calls, args.seconds, phones)
    transport, form = ours
    return await measure(args.calls, args.seconds, transport, form, phones, original=args.original, busy=args.busy)
