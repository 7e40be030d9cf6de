"""The lab's own promises, on real Asterisks and real phones."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from kallglot_ari.errors import LabError
from kallglot_ari.lab.asterisk import LabAsterisk
from kallglot_ari.lab.phones import Phone
from kallglot_ari.lab.recording import Recording
from tests.asterisk.conftest import PhoneFactory
from tests.asterisk.conftest import _shared as _shared
from tests.asterisk.conftest import asterisk as asterisk
from tests.asterisk.conftest import asterisk22 as asterisk22
from tests.asterisk.conftest import phones as phones

pytestmark = [pytest.mark.asterisk]


def loudest(heard: Recording) -> float:
    """The strongest frequency in Hz."""
    samples = heard.samples.astype(float)
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(spectrum.argmax() * heard.rate / len(samples))


async def test_the_shipped_files_load_without_a_complaint(asterisk: LabAsterisk) -> None:
    assert asterisk.complaints() == []
    assert "kallglot" in await asterisk.cli("ari show users")
    shown = await asterisk.cli("dialplan show kallglot-inbound")
    assert "Stasis" in shown
    assert f"127.0.0.1:{asterisk.sip_port}" in await asterisk.cli("pjsip show transports")
    shown = await asterisk.cli("rtp show settings")
    assert [int(word) for word in shown.split() if word.isdigit()][:2] == list(asterisk.rtp_range), (
        "local/rtp.conf counts"
    )


async def test_everything_listens_on_loopback_only(asterisk: LabAsterisk) -> None:
    listening = subprocess.run(["ss", "-Htlnp"], capture_output=True, text=True, check=True).stdout.splitlines()
    own = [line for line in listening if f"pid={asterisk.pid}," in line]
    assert own
    assert all(line.split()[3].startswith(("127.0.0.1:", "[::1]:")) for line in own), own


@pytest.mark.phones
async def test_each_phone_hears_what_the_other_says(asterisk: LabAsterisk, phones: PhoneFactory) -> None:
    customer = await phones(asterisk, "customer")
    agent = await phones(asterisk, "agent", on_call=0.1)
    await customer.call("agent")
    await customer.wait_state("CONFIRMED")
    await agent.wait_state("CONFIRMED")
    await agent.tone(1000, 1.5)
    began, ended = await customer.wait_spoken(await customer.tone(440, 1.5))
    assert ended - began == pytest.approx(1.5, abs=0.1)
    assert loudest(agent.recording.since(began + 0.3, ended)) == pytest.approx(440, abs=2)
    assert loudest(customer.recording.since(began + 0.3, ended)) == pytest.approx(1000, abs=2)
    await customer.hangup()
    await agent.wait_state("DISCONNECTED")
    assert asterisk.complaints() == []


@pytest.mark.phones
async def test_a_recording_keeps_time(asterisk22: LabAsterisk, phones: PhoneFactory) -> None:
    phone = await phones(asterisk22, "phone01")
    await phone.call("201")
    await phone.wait_state("CONFIRMED")
    await asyncio.sleep(3)
    heard = phone.recording
    assert heard.start + heard.seconds == pytest.approx(time.monotonic(), abs=0.06)


@pytest.mark.phones
async def test_busy_reject_keys_hold_and_transfer(asterisk: LabAsterisk, phones: PhoneFactory) -> None:
    customer = await phones(asterisk, "customer")
    agent = await phones(asterisk, "agent", on_call="busy")
    other = await phones(asterisk, "agent2", on_call=0.0)
    call = await customer.call("agent")
    await customer.wait_state("DISCONNECTED", call=call)
    assert call.code == 486
    await agent.on_call(0.0)
    call = await customer.call("agent")
    await customer.wait_state("CONFIRMED", call=call)
    await customer.dtmf("5#")
    await agent.wait_dtmf("5#")
    await customer.hold()
    await customer.unhold()
    await customer.transfer("agent2")
    await other.wait_state("CONFIRMED")
    assert not agent.calls[-1].ended
    with pytest.raises(LabError, match=r"has ended, expected CONFIRMED"):
        await customer.wait_state("CONFIRMED", call=await customer.call("no-such-number"), timeout=3)


@pytest.mark.phones
async def test_a_phone_with_a_wrong_password_is_refused(asterisk22: LabAsterisk) -> None:
    with pytest.raises(LabError, match="registration refused: 401"):
        await Phone.start("customer", f"127.0.0.1:{asterisk22.sip_port}", "wrong")


async def test_several_at_once_and_nothing_left(asterisk22: LabAsterisk) -> None:
    async with LabAsterisk("22", phones=0) as second:
        assert second.ari_url != asterisk22.ari_url
        pid, folder = second.pid, second.folder
        assert folder.exists()
    assert pid is not None
    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_killed_starter_takes_its_asterisk_with_it(asterisk22: LabAsterisk) -> None:
    script = (
        "import asyncio\nfrom kallglot_ari.lab.asterisk import LabAsterisk\n"
        "async def main():\n a = LabAsterisk('22', phones=0)\n await a.start()\n print(a.pid, flush=True)\n"
        " await asyncio.sleep(60)\nasyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        os.kill(pid, 0)
        starter.send_signal(signal.SIGKILL)
        starter.wait()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and _alive(pid):
        await asyncio.sleep(0.02)
    assert not _alive(pid)


def _alive(pid: int) -> bool:
    try:
        with Path(f"/proc/{pid}/stat").open() as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_a_restart_keeps_ports_and_password(asterisk22: LabAsterisk) -> None:
    async with LabAsterisk("22", phones=0) as own:
        url = own.ari_url
        await own.restart(gracefully=False)
        assert own.ari_url == url
        assert own.ari("GET", "/channels") == []


async def test_an_extension_can_be_added(asterisk: LabAsterisk) -> None:
    await asterisk.extension("399", "Stasis(kallglot,agent=PJSIP/agent&PJSIP/agent2)", "Hangup(19)")
    shown = await asterisk.cli("dialplan show 399@kallglot-phones")
    assert "Stasis(kallglot,agent=PJSIP/agent&PJSIP/agent2)" in shown
    with pytest.raises(LabError, match="step 1"):
        await asterisk.extension("398", "Stasis(x)", context="no such")
