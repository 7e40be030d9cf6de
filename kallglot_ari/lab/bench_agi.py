"""`kallglot-ari bench agi`: trunk calls at a steady rate through a real Asterisk and the running service, hung up at any moment."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from rich.console import Console

from kallglot_ari import log
from kallglot_ari.ami.client import AmiClient
from kallglot_ari.arguments import Parser, file_to_write, within
from kallglot_ari.clock import SystemClock
from kallglot_ari.errors import AmiError, LabError
from kallglot_ari.lab import edge as sip_edge
from kallglot_ari.lab import wide
from kallglot_ari.lab.asterisk import LabAsterisk, dying_with_us
from kallglot_ari.metrics import Metrics
from kallglot_ari.pbx import asterisk as render
from kallglot_ari.settings import AmiSettings, StoreSettings, TrunkSettings
from kallglot_ari.store.store import open_store
from kallglot_ari.tasks import Tasks

GOAL_MS = 50.0
LEFT_SECONDS = 5.0
READY_SECONDS = 30.0
_DIALPLAN = """
[globals](+)
KALLGLOT_AGI = agi://127.0.0.1:{agi}
KALLGLOT_AGENT =
[kallglot-bench]
exten = caller,1,Answer()
 same = n,Wait(120)
"""

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@dataclass(frozen=True, slots=True)
class Result:
    """The figures of a run."""

    calls: int
    seconds: float
    sessions_created: int
    sessions_ended: int
    left_after_5_s: int
    session_ms_p50: float
    session_ms_p99: float
    end_ms_p99: float

    @property
    def good(self) -> bool:
        """All that was created was ended, and the answers came in time."""
        all_ended = self.sessions_created == self.sessions_ended and self.left_after_5_s == 0
        return self.calls > 0 and self.sessions_created > 0 and all_ended and self.session_ms_p99 < GOAL_MS


def quantile(samples: Samples, metric: str, component: str, q: float) -> float:
    """The `q`-quantile of a histogram in milliseconds, interpolated within its bucket; 0 when it is empty.

    :param component: whose; empty for a histogram without that label.
    """
    buckets = sorted(
        (float(dict(labels)["le"]), count)
        for (name, labels), count in samples.items()
        if name == f"{metric}_bucket" and (not component or ("component", component) in labels)
    )
    wanted = q * buckets[-1][1] if buckets else 0.0
    low = below = 0.0
    for high, count in buckets:
        if count >= wanted > below:
            return 1000 * (low if high == float("inf") else low + (high - low) * (wanted - below) / (count - below))
        low, below = high, count
    return 0.0


def _count(samples: Samples, name: str, **labels: str) -> int:
    wanted = set(labels.items())
    return int(sum(value for (found, with_), value in samples.items() if found == name and wanted <= with_))


@contextmanager
def _service(folder: Path, config: str) -> Iterator[None]:
    file = folder / "kallglot-ari.toml"
    file.touch(0o600)
    file.write_text(config, encoding="utf-8")
    command = [*dying_with_us(), sys.executable, "-m", "kallglot_ari", "serve", "--config", str(file)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("KALLGLOT")}
    with (
        (folder / "service.log").open("wb") as output,
        subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True) as process,
    ):
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


class Load:
    """Makes calls over the manager interface and hangs each up after a time of its own."""

    def __init__(self, pbx: LabAsterisk, longest: float) -> None:
        settings = AmiSettings(
            port=pbx.manager_port, username=pbx.manager_user, password=SecretStr(pbx.manager_password)
        )
        self._longest = longest
        self._rng = random.Random(1)
        self.ami = AmiClient(settings, Metrics(), on_event=lambda _: None, on_connected=self._connected)
        self.failed = 0

    async def _connected(self, _: object) -> None:
        return

    async def one(self, number: int) -> None:
        """One call: a fifth of them end while they are being set up."""
        channel = f"bench-{number}"
        lasts = self._rng.uniform(0, 0.3) if self._rng.random() < 0.2 else self._rng.uniform(0.3, self._longest)
        try:
            await self.ami.originate(
                "Local/caller@kallglot-bench/n", context="kallglot-trunk", exten="s", caller_id=f"4930{number}",
                timeout=10, channel_id=channel, variables=[],
            )  # fmt: skip
            await asyncio.sleep(lasts)
            await self.ami.hangup(channel)
        except AmiError:
            self.failed += 1

    async def run(self, rate: float, seconds: float) -> int:
        """Poisson arrivals; how many calls were made."""
        tasks, loop, number = Tasks("load"), asyncio.get_running_loop(), 0
        due = started = loop.time()
        try:
            while due - started < seconds:
                await asyncio.sleep(due - loop.time())
                number += 1
                tasks.spawn(self.one(number), name=f"call-{number}")
                due += self._rng.expovariate(rate)
            await tasks.join(60)
        finally:
            await tasks.close()
        return number


async def metrics(url: str) -> Samples:
    """What the service at `url` counts."""
    async with aiohttp.ClientSession() as http, http.get(f"{url}/metrics") as answer:
        text = await answer.text()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def _until_ready(port: int, folder: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    said = "it does not listen"
    while time.monotonic() < deadline:
        try:
            async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{port}/readyz") as answer:
                said = await answer.text()
                if answer.status == 200:
                    return
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(0.1)
    tail = (folder / "service.log").read_text(errors="replace").splitlines()[-5:]
    raise LabError("\n".join([f"bench: the service is not ready after {READY_SECONDS:.0f} s: {said}", *tail]))


async def measure(
    calls_per_minute: float, seconds: float, *, longest: float = 8, step: Console | None = None
) -> Result:
    """Two Asterisks, the service and the load. :param longest: seconds that a call may last. :raises LabError: something does not come up."""
    console = step or Console(quiet=True)
    edge = LabAsterisk(
        "22", phones=0, verbose=0, local={"pjsip.conf": sip_edge.pjsip("ulaw"), "extensions.conf": sip_edge.ECHO}
    )
    async with edge:
        ca = "/" + str((edge.folder / "etc/keys/asterisk.crt").relative_to(edge.root.folder))
        trunk = TrunkSettings.model_validate(
            {
                "username": sip_edge.USER, "password": SecretStr(sip_edge.PASSWORD), "codecs": ("PCMU",),
                "endpoints": [{"uri": f"127.0.0.1:{edge.sip_tls_port}"}], "ca_file": ca, "bind_port": edge.rtp_range[0] + 1,
            }
        )  # fmt: skip
        agi, web = edge.slot.spare, edge.rtp_range[0]  # TCP, where the edge has nothing
        dialplan = _DIALPLAN.format(agi=agi)
        pbx = LabAsterisk(
            "22", phones=0, verbose=0, local={"pjsip.conf": render.pjsip(trunk), "extensions.conf": dialplan}
        )
        async with pbx:
            console.print(f"Asterisk {pbx.version} as PBX and as SIP edge; {calls_per_minute:g} calls a minute")
            with tempfile.TemporaryDirectory(prefix="kallglot-bench-") as scratch:
                folder = Path(scratch)
                with _service(folder, _config(pbx, edge, folder, agi, web)):
                    await _until_ready(web, folder)
                    return await _measured(folder, web, calls_per_minute, seconds, Load(pbx, longest))


def _config(pbx: LabAsterisk, edge: LabAsterisk, folder: Path, agi: int, web: int) -> str:
    return f"""\
[service]
drain_seconds = 0
[ari]
url = "{pbx.ari_url}"
username = "{pbx.ari_user}"
password = "{pbx.ari_password}"
[trunk]
endpoints = [{{uri = "127.0.0.1:{edge.sip_tls_port}"}}]
[agi]
port = {agi}
[ami]
port = {pbx.manager_port}
username = "{pbx.manager_user}"
password = "{pbx.manager_password}"
[web]
port = {web}
[store]
url = "sqlite:///{folder / "bench.db"}"
[interpreter]
engine = "echo"
[log]
level = "warning"
"""


async def _measured(folder: Path, web: int, calls_per_minute: float, seconds: float, load: Load) -> Result:
    await load.ami.start()
    try:
        if not await load.ami.wait_connected(10):
            raise LabError(f"bench: the manager interface: {load.ami.problem}")
        began = time.monotonic()
        calls = await load.run(calls_per_minute / 60, seconds)
        took = time.monotonic() - began
    finally:
        await load.ami.stop()
    if load.failed:
        raise LabError(f"bench: {load.failed} of {calls} calls could not be made")
    store = open_store(StoreSettings(url=f"sqlite:///{folder / 'bench.db'}"), SystemClock())
    await store.start()
    try:
        deadline = time.monotonic() + LEFT_SECONDS
        left = -1
        while left != 0 and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
            left = len(await store.pending_sessions())
    finally:
        await store.close()
    samples = await metrics(f"http://127.0.0.1:{web}")
    asked = "kallglot_api_requests_total"
    # A creation that was given up when its caller had gone is asked about once more, and its session ended.
    created = sum(_count(samples, asked, component=operation, reason="ok") for operation in ("create", "settle"))
    return Result(
        calls, took, created,
        _count(samples, asked, component="end", reason="ok"), left,
        quantile(samples, "kallglot_agi_seconds", "session", 0.5),
        quantile(samples, "kallglot_agi_seconds", "session", 0.99),
        quantile(samples, "kallglot_agi_seconds", "end", 0.99),
    )  # fmt: skip


def run(argv: list[str]) -> int:
    """0 when every session was ended and the answers came in time, else 1."""
    parser = Parser(prog="kallglot-ari bench agi", description=__doc__)
    parser.add_argument("--calls-per-minute", type=float, default=200.0, help="1 to 6000 (200)")
    parser.add_argument("--seconds", type=float, default=300.0, help="1 to 86400 (300)")
    parser.add_argument(
        "--json", type=file_to_write, default=Path("bench-out/agi.json"), help="write the figures there"
    )
    args = parser.parse_args(argv)
    within("--calls-per-minute", args.calls_per_minute, 1, 6000)
    within("--seconds", args.seconds, 1, 86400)
    log.configure("error", "console")
    console = wide.console()
    result = asyncio.run(measure(args.calls_per_minute, args.seconds, step=console))
    for name, value in asdict(result).items():
        console.print(
            f"{name.replace('_', ' '):>20}  {value:.1f}"
            if isinstance(value, float)
            else f"{name.replace('_', ' '):>20}  {value}"
        )
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")
    return 0 if result.good else 1
