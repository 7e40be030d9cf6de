"""The SIP messages of a call find their file, and nobody else's do."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from kallglot_ari.errors import ConfigError
from kallglot_ari.modes import trunk_trace
from kallglot_ari.modes.trunk_call import TrunkCall
from kallglot_ari.modes.trunk_trace import SipTrace
from tests.pbx.test_hep import chunk, packet

pytestmark = pytest.mark.real_time

CALL = TrunkCall("lab-t-1", "m", "de", "en", datetime(2026, 1, 1, tzinfo=UTC), "PJSIP/a", "1.1", "1.1")


def sip(first: str, call_id: str, body: str = "") -> bytes:
    return packet(f"{first}\r\nCall-ID: {call_id}\r\n\r\n{body}")


@pytest.fixture
async def trace(tmp_path: Path) -> AsyncIterator[SipTrace]:
    trace = SipTrace("127.0.0.1", 0, tmp_path / "debug", lambda uri: CALL if "sess_1@" in uri else None)
    await trace.start()
    yield trace
    await trace.stop()


async def test_messages_find_their_call(trace: SipTrace, tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asterisk:
        asterisk.connect(("127.0.0.1", trace.port))
        for data in (
            sip("INVITE sip:300@pbx SIP/2.0", "phone"),
            sip("INVITE sip:999@pbx SIP/2.0", "stranger"),
            b"junk",
            sip("INVITE sip:sess_1@kallglot SIP/2.0", "leg"),
            sip("SIP/2.0 200 OK", "leg", "a=crypto:1 X inline:KEY\r\n"),
        ):
            asterisk.send(data)
        await asyncio.sleep(0.1)
        trace.belongs("phone", CALL)
        trace.belongs("", CALL)
        asterisk.send(sip("BYE sip:300@pbx SIP/2.0", "phone"))
        await asyncio.sleep(0.1)
    await trace.stop()
    file = tmp_path / "debug/lab-t-1.sip.txt"
    firsts = [line for line in file.read_text().splitlines() if "SIP/2.0" in line]
    assert sorted(firsts) == [
        "BYE sip:300@pbx SIP/2.0", "INVITE sip:300@pbx SIP/2.0", "INVITE sip:sess_1@kallglot SIP/2.0", "SIP/2.0 200 OK",
    ]  # fmt: skip
    assert "KEY" not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in (tmp_path / "debug").iterdir()] == ["lab-t-1.sip.txt"]


async def test_a_time_that_no_clock_has_does_not_end_the_writing(trace: SipTrace, tmp_path: Path) -> None:
    text = "INVITE sip:sess_1@kallglot SIP/2.0\r\nCall-ID: leg\r\n\r\n"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asterisk:
        asterisk.connect(("127.0.0.1", trace.port))
        asterisk.send(packet(text, more=chunk(9, b"\xff" * 7)))
        await asyncio.sleep(0.1)
        asterisk.send(packet(text))
        await asyncio.sleep(0.1)
    await trace.stop()
    assert (tmp_path / "debug/lab-t-1.sip.txt").read_text().count("INVITE") == 2


async def test_it_stays_bounded(trace: SipTrace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trunk_trace, "DIALOGS", 5)
    monkeypatch.setattr(trunk_trace, "CALL_BYTES", 300)
    for number in range(50):
        trace.datagram_received(sip("INVITE sip:x@y SIP/2.0", f"d{number}"), ("127.0.0.1", 1))
    for _ in range(50):
        trace.datagram_received(sip("INVITE sip:sess_1@y SIP/2.0", "leg"), ("127.0.0.1", 1))
    assert len(trace._early) == 5
    monkeypatch.setattr(trunk_trace, "EARLY_BYTES", 2000)
    for number in range(100):
        trace.datagram_received(sip("INVITE sip:x@y SIP/2.0", f"d{number % 4}"), ("127.0.0.1", 1))
    assert trace._early_bytes == sum(len(m.text) for early in trace._early.values() for m in early) <= 2000
    await trace.stop()
    assert (tmp_path / "debug/lab-t-1.sip.txt").read_text().count("INVITE") == 6


async def test_only_the_addresses_that_may_send_are_heard(tmp_path: Path) -> None:
    trace = SipTrace("127.0.0.1", 0, tmp_path, lambda _: CALL, allowed_ips=("10.0.0.0/8",))
    for peer in ("192.0.2.1", "10.1.2.3"):
        trace.datagram_received(sip("INVITE sip:sess_1@y SIP/2.0", peer), (peer, 1))
    assert list(trace._owners) == ["10.1.2.3"]


async def test_a_folder_that_cannot_be_written_stops_nothing(trace: SipTrace, tmp_path: Path) -> None:
    (tmp_path / "debug").write_text("in the way")
    trace.datagram_received(sip("INVITE sip:sess_1@y SIP/2.0", "leg"), ("127.0.0.1", 1))
    await trace._queue.join()
    (tmp_path / "debug").unlink()
    trace.datagram_received(sip("BYE sip:sess_1@y SIP/2.0", "leg"), ("127.0.0.1", 1))
    await trace.stop()
    written = (tmp_path / "debug/lab-t-1.sip.txt").read_text()
    assert "BYE" in written
    assert "INVITE" not in written


async def test_a_disk_that_hangs_holds_up_neither_the_loop_nor_the_end_of_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hand-over waited for it until systemd killed the process, and the calls with it."""
    monkeypatch.setattr(trunk_trace, "STOP_SECONDS", 0.05)
    monkeypatch.setattr(trunk_trace, "QUEUE", 3)
    trace = SipTrace("127.0.0.1", 0, tmp_path / "debug", lambda _: CALL)
    await trace.start()
    (tmp_path / "debug").mkdir()
    fifo = tmp_path / "debug/lab-t-1.sip.txt"
    before = threading.enumerate()
    os.mkfifo(fifo)  # nobody reads it: to open it waits for ever
    with capture_logs() as logs:
        trace.datagram_received(sip("INVITE sip:sess_1@y SIP/2.0", "leg"), ("127.0.0.1", 1))
        async with asyncio.timeout(5):
            while not trace._in_hand:
                await asyncio.sleep(0)
        writing = [t for t in threading.enumerate() if t.name == "kallglot-sip-trace" and t not in before]
        for _ in range(9):
            trace.datagram_received(sip("BYE sip:sess_1@y SIP/2.0", "leg"), ("127.0.0.1", 1))
        await trace.stop()
    assert [thread.daemon for thread in writing] == [True]
    assert trace.dropped == 6
    warnings = [line for line in logs if line["log_level"] == "warning"]
    told = [(line["event"], line.get("error"), line.get("messages")) for line in warnings]
    assert told == [
        ("sip_trace_not_written", "the disk takes too little: messages are left out", None),
        ("sip_trace_cut_off", None, 4),
    ]
    os.close(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK))
    writing[0].join(5)


async def test_a_port_in_use(trace: SipTrace, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"trunk\.sip_trace_port: cannot listen on 127\.0\.0\.1"):
        await SipTrace("127.0.0.1", trace.port, tmp_path, lambda _: None).start()
