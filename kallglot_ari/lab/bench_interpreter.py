"""`kallglot-ari bench interpreter`: how long people wait for a translation by the offline engine, and what it does to the audio meanwhile.

A real Asterisk, the service as a process of its own, two phones a call. The lines of the demo are said over and over, each after the translation of
the one before was heard. The waits are measured twice: in the recordings of the phones, and by the service's own metrics.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import platform
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from kallglot_ari import log
from kallglot_ari.arguments import Parser, file_to_write, within
from kallglot_ari.lab import speech, verify, wide
from kallglot_ari.lab.asterisk import LabAsterisk
from kallglot_ari.lab.bench_agi import Samples, metrics, quantile
from kallglot_ari.lab.bench_calls import ready, spawn
from kallglot_ari.lab.conversation import Turn, converse
from kallglot_ari.lab.dialogue import DIALOGUE, Line, check_languages
from kallglot_ari.lab.phones import Phone

P50_GOAL, P95_GOAL, LATE_GOAL_MS = 1.6, 2.5, 10.0
READY_SECONDS = 300.0
PATIENCE_SECONDS = 12.0
"""A translation that has not begun by then has been left out."""
LATENCY, STAGES, TICK = (
    "kallglot_translation_latency_seconds",
    "kallglot_interpreter_stage_seconds",
    "kallglot_media_tick_lateness_seconds",
)
PARTS = ("hangover", "recognise", "translate", "speak", "total", "recognise_work", "translate_work", "speak_work")


def _config(asterisk: LabAsterisk, folder: Path, source: str, target: str) -> str:
    lowest = asterisk.rtp_range[0]  # TCP: RTP is UDP
    return f"""\
[service]
drain_seconds = 0
[ari]
url = "{asterisk.ari_url}"
username = "{asterisk.ari_user}"
password = "{asterisk.ari_password}"
[kallglot]
url = "embedded"
source_language = "{source}"
target_language = "{target}"
chunk_ms = 40
[interpreter]
engine = "offline"
[media]
bind = "127.0.0.1"
[web]
port = {lowest}
[agi]
port = {lowest + 1}
[store]
url = "sqlite:///{folder / "bench.db"}"
[log]
level = "warning"
"""


def between(before: Samples, after: Samples) -> Samples:
    """What was counted from `before` to `after`."""
    return {key: value - before.get(key, 0.0) for key, value in after.items()}


def percentile(values: list[float], q: float) -> float:
    """The smallest of `values` that a share `q` of them does not exceed; 0 of none."""
    return sorted(values)[math.ceil(q * len(values)) - 1] if values else 0.0


def figures(turns: list[Turn], counted: Samples) -> dict[str, Any]:
    """All figures of a run. Waits in seconds, lateness in milliseconds."""
    ways: dict[str, list[float]] = {"customer": [], "agent": []}
    for turn in turns:
        if turn.latency is not None:
            ways[turn.line.speaker].append(turn.latency)
    waits = ways["customer"] + ways["agent"]
    stages = {}
    for part in PARTS:
        label = frozenset({("component", part)})
        if number := counted.get((f"{STAGES}_count", label), 0.0):
            stages[part] = counted[f"{STAGES}_sum", label] / number
    dropped = {
        dict(labels)["reason"]: int(value)
        for (name, labels), value in counted.items()
        if name == "kallglot_interpreter_dropped_total" and value
    }
    return {
        "said": len(turns), "heard": len(waits),
        "phones_p50": percentile(waits, 0.5), "phones_p95": percentile(waits, 0.95), "phones_max": max(waits, default=0.0),
        "to_agent_p50": percentile(ways["customer"], 0.5), "to_customer_p50": percentile(ways["agent"], 0.5),
        "metric_p50": quantile(counted, LATENCY, "", 0.5) / 1000, "metric_p95": quantile(counted, LATENCY, "", 0.95) / 1000,
        "metric_turns": int(counted.get((f"{LATENCY}_count", frozenset()), 0)),
        "late_ms_p99": quantile(counted, TICK, "", 0.99),
        "late_over_10_ms": 1 - counted.get((f"{TICK}_bucket", frozenset({("le", "0.01")})), 0.0)
        / max(1.0, counted.get((f"{TICK}_count", frozenset()), 0.0)),
        "stages": stages, "dropped": dropped, "waits": [round(wait, 2) for wait in waits],
    }  # fmt: skip


async def _phones(stack: AsyncExitStack, asterisk: LabAsterisk, call: int) -> dict[str, Phone]:
    made = {}
    registrar = f"127.0.0.1:{asterisk.sip_port}"
    for party, number in (("customer", 2 * call + 1), ("agent", 2 * call + 2)):
        phone = await Phone.start(f"phone{number:02}", registrar, asterisk.phone_password, on_call=0.3)
        made[party] = await stack.enter_async_context(phone)
    return made


async def _connect(asterisk: LabAsterisk, phones: dict[str, Phone], call: int, source: str, target: str) -> None:
    number = f"9{call:02}"
    agent = f"PJSIP/{phones['agent'].name}"
    await asterisk.extension(number, f"Stasis(kallglot,source={source},target={target},agent={agent})", "Hangup()")
    dialled = await phones["customer"].call(number)
    await phones["agent"].wait_state("CONFIRMED", 30)
    await phones["customer"].wait_state("CONFIRMED", 15, dialled)


async def measure(calls: int, lines: int, source: str, target: str, console: Console) -> dict[str, Any]:
    """One run. :raises LabError: when something is missing or does not come up."""
    await asyncio.to_thread(verify.need_models, source, target, console.print)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kallglot-bench-")))
        spoken = await asyncio.to_thread(_spoken, lines, source, target, folder)
        asterisk = await stack.enter_async_context(LabAsterisk("22", phones=2 * calls, verbose=0))
        processes = stack.enter_context(ExitStack())
        file = folder / "kallglot-ari.toml"
        file.touch(0o600)
        file.write_text(_config(asterisk, folder, source, target), "utf-8")
        spawn(processes, folder, "service", "serve", "--config", str(file))
        url = f"http://127.0.0.1:{asterisk.rtp_range[0]}"
        await ready(f"{url}/readyz", "the service", seconds=READY_SECONDS)
        pairs = [await _phones(stack, asterisk, call) for call in range(calls)]
        for call, phones in enumerate(pairs):
            await _connect(asterisk, phones, call, source, target)
        await asyncio.sleep(1.0)
        before = await metrics(url)
        told = [_say(f"call {call + 1}", console) for call in range(calls)]
        found = await asyncio.gather(
            *(converse(p, spoken, t, patience=PATIENCE_SECONDS) for p, t in zip(pairs, told, strict=True))
        )
        counted = between(before, await metrics(url))
        for phones in pairs:
            await phones["customer"].hangup()
    return {"calls": calls} | figures([turn for turns in found for turn in turns], counted)


def _spoken(lines: int, source: str, target: str, folder: Path) -> list[tuple[Line, Path]]:
    espeak = speech.have_espeak(lambda _: None)
    made = []
    for number in range(lines):
        line = DIALOGUE[number % len(DIALOGUE)]
        language = source if line.speaker == "customer" else target
        made.append((line, speech.line(line.text[language], language, number % len(DIALOGUE), folder, espeak)))
    return made


def _say(name: str, console: Console) -> Callable[[Turn], None]:
    def told(turn: Turn) -> None:
        console.print(f"{name}, turn {turn.number + 1}, {turn.line.speaker}: {turn.wait}")

    return told


COLUMNS = (
    ("calls", "calls", "{}"), ("said", "turns", "{}"), ("heard", "translated", "{}"),
    ("phones_p50", "phones p50 s", "{:.2f}"), ("phones_p95", "p95", "{:.2f}"), ("phones_max", "longest", "{:.2f}"),
    ("to_agent_p50", "to the agent p50", "{:.2f}"), ("to_customer_p50", "to the customer p50", "{:.2f}"),
    ("metric_p50", "metric p50 s", "{:.2f}"), ("metric_p95", "p95", "{:.2f}"),
    ("late_ms_p99", "tick late p99 ms", "{:.2f}"), ("late_over_10_ms", "over 10 ms", "{:.3%}"),
)  # fmt: skip


def markdown(result: dict[str, Any], command: str) -> str:
    """The figures as docs/interpreter.md has them."""
    stages = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in result["stages"].items())
    dropped = ", ".join(f"{reason} {count}" for reason, count in sorted(result["dropped"].items()))
    return "\n".join(
        [
            f"`{command}`, {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, Python {platform.python_version()}",
            "",
            "| " + " | ".join(title for _, title, _ in COLUMNS) + " |",
            "|" + "---|" * len(COLUMNS),
            "| " + " | ".join(form.format(result[key]) for key, _, form in COLUMNS) + " |",
            "",
            f"Stages, mean: {stages or 'none'}. Left undone: {dropped or 'nothing'}.",
        ]
    )


def good(result: dict[str, Any]) -> bool:
    """The audio was on time; in a single call every turn was translated, and soon enough."""
    on_time = bool(result["late_ms_p99"] < LATE_GOAL_MS and result["heard"])
    if result["calls"] > 1:
        return on_time
    quick = result["phones_p50"] <= P50_GOAL and result["phones_p95"] <= P95_GOAL
    return bool(on_time and quick and result["heard"] == result["said"])


def run(argv: list[str]) -> int:
    """0 when the goals are met, else 1."""
    parser = Parser(prog="kallglot-ari bench interpreter", description=__doc__)
    parser.add_argument("--calls", type=int, default=1, help="at once (1)")
    parser.add_argument("--turns", type=int, default=24, help="in each call (24)")
    parser.add_argument("--source", default="de", help="the customer's language (de)")
    parser.add_argument("--target", default="en", help="the agent's language (en)")
    parser.add_argument(
        "--json", type=file_to_write, default=Path("bench-out/interpreter.json"), help="write the figures there"
    )
    args = parser.parse_args(argv)
    within("--calls", args.calls, 1, 20)
    within("--turns", args.turns, 1, 1000)
    check_languages(args.source, args.target)
    log.configure("error", "console")
    console = wide.console()
    result = asyncio.run(measure(args.calls, args.turns, args.source, args.target, console))
    console.print(markdown(result, " ".join(["kallglot-ari bench interpreter", *argv])), soft_wrap=True)
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0 if good(result) else 1
