"""`python -m tests.faults.hostile [--inputs 100000] [--rate 1000]`: hostile HTTP, FastAGI and RTP while a call is up.

Needs root (it looks at the RTP on loopback). Both parties of a translated call hear a steady tone, and say one, on a real Asterisk 22 with real
phones, while `tests.faults.attack` sends. Exit 1 if the sound has a hole of 40 ms or more anywhere, or if anything was accepted. When Asterisk
sends its packets to the phones is told, but not judged: it waits for a core like everybody else.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from kallglot_ari.lab.asterisk import LabAsterisk
from kallglot_ari.lab.phones import Phone
from kallglot_ari.tasks import Tasks
from tests.asterisk.sniffing import Flow, Seen, flows, sniffing
from tests.audio_checks import analyse_tone, tone, tone_presence
from tests.double.g711 import Pcm
from tests.double.server import KallglotDouble
from tests.faults.served import ROOT, TOKEN, Served, free_port, nothing_left

SAYS = {"customer": 463.0, "agent": 619.0}
HEARS = {"customer": 1117.0, "agent": 891.0}
HOLE = 0.040
"""Seconds."""
LONGEST = 900.0
"""Seconds of tone at hand."""
BROKE = ("web_request_broke", "agi_handler_fault", "Traceback", "tick_failed")


@dataclass
class Outcome:
    """What the attacker says, and what became of the sound."""

    attack: dict[str, Any]
    holes: dict[str, float] = field(default_factory=dict)
    """The longest of each place, in seconds."""
    problems: list[str] = field(default_factory=list)

    def hole(self, where: str, seconds: float) -> None:
        self.holes[where] = max(self.holes.get(where, 0.0), seconds)


def _longest_hole(pcm: Pcm, rate: int, hertz: float) -> float:
    return max((ms / 1000 for _, ms in analyse_tone(pcm, rate, hertz).holes), default=0.0)


def _hears(flow: Flow) -> str:
    """Whose flow this is, by the tone in it; empty if nobody's."""
    sound, rate = flow.sound, flow.rate
    return next((who for who, hz in HEARS.items() if (tone_presence(sound, rate, hz) > 0.8).mean() > 0.5), "")


def judge_wire(outcome: Outcome, seen: list[Seen], rtp: int) -> None:
    """What both parties heard: packets from us to Asterisk, and from Asterisk to the phones."""
    found = []
    for flow in flows([packet for packet in seen if packet.destination != rtp]):
        if not (who := _hears(flow)):
            continue
        way = "to Asterisk" if flow.packets[0].source == rtp else "to the phone"
        found.append((who, way))
        outcome.hole(f"the {who}, packets {way}", flow.longest_wait - 0.020)
        outcome.hole(f"the {who}, sound {way}", _longest_hole(flow.sound, flow.rate, HEARS[who]))
        if flow.missing:
            outcome.problems.append(f"{len(flow.missing)} packets missing {way} of the {who}")
    if sorted(found) != sorted((who, way) for who in HEARS for way in ("to Asterisk", "to the phone")):
        outcome.problems.append(f"the tones were in these flows only: {found}")


async def _attack(served: Served, call: str, ports: dict[str, int], inputs: int, rate: float) -> dict[str, Any]:
    arguments = [f"--{name}={port}" for name, port in ports.items()]
    arguments += [f"--token={TOKEN}", f"--call={call}", f"--inputs={inputs}", f"--rate={rate}"]
    process = await asyncio.create_subprocess_exec(
        "nice", "-n", "10", sys.executable, "-m", "tests.faults.attack", *arguments,
        stdout=asyncio.subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode == 0, "the attacker failed"
    said: dict[str, Any] = json.loads(output)
    return said


async def _discarded(served: Served) -> float:
    return await served.metric("kallglot_rtp_discarded_total")


async def attacked(asterisk: LabAsterisk, folder: Path, inputs: int, rate: float) -> Outcome:
    """The call, the attack, and what came of both."""
    ports = {"web": 0, "agi": free_port(), "rtp": free_port()}
    tasks = Tasks("hostile")
    phones: list[Phone] = []
    async with (
        KallglotDouble("routing", chunk_ms=None) as double,
        Served(
            asterisk, folder, double,
            AGI__PORT=ports["agi"], MEDIA__PORT=ports["rtp"], WEB__WEBHOOK_SECRET="hostile-secret",
        ) as served,
    ):  # fmt: skip
        ports["web"] = served.web_port
        assert served.process is not None
        try:
            for name, hertz in SAYS.items():
                registrar = f"127.0.0.1:{asterisk.sip_port}"
                phones.append(await Phone.start(name, registrar, asterisk.phone_password, codecs=("PCMU",)))
                await phones[-1].tone(hertz)
            customer, agent = phones
            await agent.on_call(0.2)
            await customer.call("101")
            await customer.wait_state("CONFIRMED")
            session = await double.wait_session()
            await session.wait_audio("agent", 0.5)
            for who, other in (("agent", "customer"), ("customer", "agent")):
                tasks.spawn(session.speak(other, tone(HEARS[who], LONGEST, 8000)), name="speak")
            await asyncio.sleep(1)
            (call,) = await served.calls()
            process, discarded = psutil.Process(served.process.pid), await _discarded(served)
            before = process.memory_info().rss, process.num_fds()
            heard = {name: len(audio.pcm) for name, audio in session.audio.items()}
            with sniffing() as sniffer:
                outcome = Outcome(await _attack(served, call["id"], ports, inputs, rate))
                seen = sniffer.take()
            said = {name: audio.pcm[heard[name] :] for name, audio in session.audio.items()}
            await tasks.close()
            judge_wire(outcome, seen, ports["rtp"])
            for name, pcm in said.items():
                outcome.hole(
                    f"Kallglot, the {name}'s sound", _longest_hole(pcm, session.audio[name].sample_rate, SAYS[name])
                )
            outcome.problems += await _what_it_did(outcome, served, double, call, discarded)
            await asyncio.sleep(1)
            outcome.attack["memory, MB"] = [round(n / 1e6, 1) for n in (before[0], process.memory_info().rss)]
            outcome.attack["descriptors"] = [before[1], process.num_fds()]
            await customer.hangup()
            await nothing_left(served, asterisk)
        finally:
            await asyncio.gather(*(phone.stop() for phone in phones))
    longest = {
        where: s for where, s in outcome.holes.items() if s >= HOLE and not where.endswith("packets to the phone")
    }
    outcome.problems += [f"a hole of {seconds * 1000:.0f} ms: {where}" for where, seconds in longest.items()]
    return outcome


async def _what_it_did(
    outcome: Outcome, served: Served, double: KallglotDouble, call: dict[str, Any], discarded: float
) -> list[str]:
    """Whether the service took anything of it."""
    problems = [f"accepted: {one}" for one in outcome.attack["accepted"]]
    now = await served.calls()
    legs = [(leg["channel_id"], leg["state"]) for leg in call["legs"]]
    if [(one["id"], [(leg["channel_id"], leg["state"]) for leg in one["legs"]]) for one in now] != [(call["id"], legs)]:
        problems.append(f"the calls are not what they were: {now}")
    if double.created != 1 or double.violations:
        problems.append(f"{double.created} sessions, breaches {double.violations[:3]}")
    await asyncio.sleep(1)  # the counts of the media thread are told every so often
    outcome.attack["datagrams discarded"] = dropped = round(await _discarded(served) - discarded)
    sent = outcome.attack["sent"]["rtp"]
    if dropped < sent:
        problems.append(f"{sent - dropped} datagrams of {sent} were not discarded")
    problems += [f"the log has {word}" for word in BROKE if word in served.log()]
    return problems


def report(outcome: Outcome) -> str:
    attack = outcome.attack
    sent = ", ".join(f"{count} {kind.upper()}" for kind, count in attack["sent"].items())
    answers = ", ".join(f"{what} {count}" for what, count in sorted(attack["answers"].items()))
    lines = [f"{sum(attack['sent'].values())} inputs in {attack['seconds']} s: {sent}", f"  answers: {answers}"]
    lines += [f"  {name}: {attack[name]}" for name in ("datagrams discarded", "memory, MB", "descriptors")]
    lines += [f"  longest hole, {where}: {seconds * 1000:.0f} ms" for where, seconds in sorted(outcome.holes.items())]
    lines += [f"  RED {problem}" for problem in outcome.problems]
    return "\n".join([*lines, "nothing was accepted" if not outcome.problems else f"{len(outcome.problems)} problems"])


async def run(arguments: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as folder:
        async with LabAsterisk("22") as asterisk:
            outcome = await attacked(asterisk, Path(folder), arguments.inputs, arguments.rate)
            if arguments.log:
                arguments.log.write_bytes((Path(folder) / "service.log").read_bytes())
    print(report(outcome))
    return 1 if outcome.problems else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=1000.0, help="inputs a second")
    parser.add_argument("--log", type=Path, help="keep the service's log there")
    if os.geteuid():
        parser.error("it needs root, to see the RTP on loopback")
    return asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
