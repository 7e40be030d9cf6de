"""What tshark sees of RTP: another's eyes than ours."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

from tests.asterisk.conftest import missing
from tests.asterisk.sniffing import Seen

START_SECONDS = 20.0


@contextlib.asynccontextmanager
async def captured_by_tshark(file: Path, *ranges: tuple[int, int]) -> AsyncIterator[None]:
    """Capture UDP of these ranges of ports on loopback into `file`. Needs root."""
    if shutil.which("tshark") is None:
        missing("tshark is not installed")
    ports = " or ".join(f"udp portrange {first}-{last}" for first, last in ranges)
    process = await asyncio.create_subprocess_exec(
        "tshark", "-q", "-i", "lo", "-f", ports, "-w", str(file), stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(START_SECONDS):
            while line := await process.stderr.readline():
                if b"Capturing on" in line:
                    break
            else:
                missing(f"tshark cannot capture on loopback: {line.decode(errors='replace').strip()}")
            while not file.exists():
                await asyncio.sleep(0.05)
        yield
        await asyncio.sleep(0.3)  # what it has read it writes now and then
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.communicate()


async def rtp_in(file: Path) -> list[Seen]:
    """The packets that tshark takes for RTP."""
    fields = ("frame.time_epoch", "udp.srcport", "udp.dstport", "udp.payload")
    options = [part for field in fields for part in ("-e", field)]
    process = await asyncio.create_subprocess_exec(
        "tshark", "-r", str(file), "--enable-heuristic", "rtp_udp", "-Y", "rtp", "-T", "fields", *options,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, said = await process.communicate()
    assert process.returncode == 0, said.decode(errors="replace")
    rows = [line.split("\t") for line in output.decode().splitlines()]
    return [Seen(float(at), int(source), int(target), bytes.fromhex(data)) for at, source, target, data in rows]
