"""`python -m tests.faults.kill [--calls 20] [--kills 50]`: the service killed and started again, over and over, while calls are up.

Needs root (it looks at the RTP on loopback) and both Asterisks of the lab. Prints how long each restart left the parties without translation.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from kallglot_ari.audio.codecs.g711 import ULAW_TO_PCM
from kallglot_ari.lab.asterisk import LabAsterisk
from kallglot_ari.lab.farm import Farm
from kallglot_ari.tasks import Tasks
from tests.asterisk.sniffing import Seen, sniffing
from tests.audio_checks import tone
from tests.double.server import KallglotDouble
from tests.double.session import DoubleSession
from tests.faults.served import Served, free_port, nothing_left

LOUD = 1000
LONGEST = 5.0


def heard_everywhere(seen: list[Seen], rtp: int, legs: int, since: float) -> float:
    """When a packet with sound had gone to the last of `legs` legs; inf if to fewer."""
    first: dict[int, float] = {}
    for packet in seen:
        loud = packet.source == rtp and packet.at > since and len(packet.payload) == 160
        if loud and np.abs(ULAW_TO_PCM[np.frombuffer(packet.payload, np.uint8)]).max() > LOUD:
            first.setdefault(packet.destination, packet.at)
    return max(first.values()) if len(first) == legs else float("inf")


async def speak(session: DoubleSession, connections: int) -> None:
    """As soon as the stream is open again, translations of both."""
    await session.wait_connected(connections, timeout=30)
    sound = tone(787, 0.4, 8000)
    await asyncio.gather(session.speak("customer", sound), session.speak("agent", sound))


def uplink(session: DoubleSession, since: float) -> float:
    """When both parties were heard by Kallglot again; inf if they were not."""
    return max(next((a.at for a in s.arrivals if a.at > since), float("inf")) for s in session.audio.values())


async def run(calls: int, kills: int, folder: Path) -> int:
    rtp = free_port()
    gaps: list[float] = []
    tasks = Tasks("kill")
    async with (
        Farm() as farm,
        LabAsterisk(local=Farm.local()) as asterisk,
        KallglotDouble("routing", chunk_ms=None) as double,
        Served(asterisk, folder, double, MEDIA__PORT=rtp) as served,
    ):
        await asterisk.extension("900", f"Stasis(kallglot,source=de,target=en,agent={farm.agent_endpoint})", "Hangup()")
        for number in range(calls):
            await farm.call(asterisk, "900")
            await double.wait_session(number)
        sessions = double.open_sessions
        for session in sessions:
            await session.wait_audio("agent", 0.3)
        channels = {c["id"] for c in asterisk.ari("GET", "/channels")}
        for number in range(1, kills + 1):
            with sniffing(rtp) as sniffer:
                killed = time.monotonic()
                served.kill()
                await served.start(wait=False)
                talking = [tasks.spawn(speak(s, number + 1), name="speak") for s in sessions]
                await asyncio.wait(talking, timeout=3 * LONGEST)
                await asyncio.sleep(0.3)
                seen = sniffer.take()
            await tasks.close()
            down = heard_everywhere(seen, rtp, 2 * calls, killed)
            gaps.append(max(down, *(uplink(s, killed) for s in sessions)) - killed)
            print(f"kill {number}: sound both ways in all {calls} calls after {gaps[-1]:.2f} s", flush=True)
        lost = channels - {c["id"] for c in asterisk.ari("GET", "/channels")}
        await served.wait_ready()
        await farm.hang_up_all()
        await nothing_left(served, asterisk)
        open_sessions = len(double.open_sessions)
        twice = sum(len(s.ends) > 1 for s in double.sessions.values())
    late = sum(gap > LONGEST for gap in gaps)
    print(f"{kills} kills during {calls} calls: gap median {statistics.median(gaps):.2f} s, longest {max(gaps):.2f} s,")
    print(f"  {late} longer than {LONGEST:g} s; channels lost {len(lost)}; sessions {double.created} created,")
    print(f"  {open_sessions} not ended, {twice} ended twice; breaches of the API {len(double.violations)}")
    bad = late or lost or open_sessions or twice or double.violations
    return 1 if bad else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--kills", type=int, default=50)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(run(arguments.calls, arguments.kills, Path(folder)))


if __name__ == "__main__":
    sys.exit(main())
