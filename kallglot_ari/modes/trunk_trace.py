"""`trunk.sip_trace`: the SIP messages of each trunk call, in a file of its own, without the secrets in them.

Asterisk's res_hep sends a copy of every message, decrypted, over UDP. A message belongs to a call by its Call-ID: that of the
caller's dialog, which FastAGI asks for, or that of a request to the session's URI. What comes before that is known waits here.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from kallglot_ari import log
from kallglot_ari.errors import ConfigError
from kallglot_ari.modes.trunk_call import TrunkCall
from kallglot_ari.pbx import hep
from kallglot_ari.pbx.hep import SipMessage
from kallglot_ari.peers import Networks
from kallglot_ari.tasks import Tasks, aside

_log = log.get(__name__)

DIALOGS = 1000
"""Dialogs remembered, of calls and of nobody yet; the oldest is forgotten first."""
EARLY_MESSAGES = 20
"""Messages of a dialog that wait to be somebody's."""
EARLY_BYTES = 8 << 20
"""Characters of all those."""
CALL_BYTES = 1 << 20
"""Longest trace of one call."""
QUEUE = 2000
STOP_SECONDS = 2.0
"""What the disk has to take what still waits, at the end."""
SUFFIX = ".sip.txt"

FindCall = Callable[[str], TrunkCall | None]
"""The call whose session a SIP URI names."""


class SipTrace(asyncio.DatagramProtocol):
    """Listens for Asterisk's copies and writes each call's to ``FOLDER/CALL.sip.txt``."""

    def __init__(
        self, bind: str, port: int, folder: Path, find_call: FindCall, *, allowed_ips: Iterable[str] = ()
    ) -> None:
        """:param allowed_ips: addresses or networks that may send; empty: any."""
        self._bind, self._port = bind, port
        self._allowed = Networks(allowed_ips)
        self._early_bytes = 0
        self._folder = folder
        self._find_call = find_call
        self._owners: OrderedDict[str, str] = OrderedDict()
        self._early: OrderedDict[str, list[SipMessage]] = OrderedDict()
        self._written: OrderedDict[str, int] = OrderedDict()
        self._queue: asyncio.Queue[tuple[str, SipMessage]] = asyncio.Queue(QUEUE)
        self._tasks = Tasks("sip-trace")
        self._transport: asyncio.DatagramTransport | None = None
        self._unwritten = log.Lasting(_log, "sip_trace_not_written")
        self._in_hand = 0
        """Messages that the disk is taking."""
        self.dropped = 0

    @property
    def port(self) -> int:
        """Known after the start."""
        return self._port

    async def start(self) -> None:
        """:raises ConfigError: the port cannot be listened on."""
        loop = asyncio.get_running_loop()
        try:
            transport, _ = await loop.create_datagram_endpoint(lambda: self, (self._bind, self._port))
        except OSError as error:
            raise ConfigError(
                f"trunk.sip_trace_port: cannot listen on {self._bind}:{self._port}: {error.strerror}"
            ) from error
        self._transport = transport
        self._port = transport.get_extra_info("sockname")[1]
        self._tasks.spawn(self._write(), name="write")

    async def stop(self) -> None:
        """Write what has come, then close."""
        if self._transport is not None:
            self._transport.close()
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await self._queue.join()
            except TimeoutError:
                _log.warning("sip_trace_cut_off", messages=self._queue.qsize() + self._in_hand)
            await self._tasks.close()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        message = hep.parse(data) if self._allowed.admit(addr[0]) else None
        if message is not None and (dialog := message.call_id):
            self._received(dialog, message)

    def _received(self, dialog: str, message: SipMessage) -> None:
        owner = self._owners.get(dialog)
        if owner is None and message.request_uri and (call := self._find_call(message.request_uri)) is not None:
            self.belongs(dialog, call)
            owner = call.id
        if owner is not None:
            self._put(owner, message)
            return
        early = self._early.setdefault(dialog, [])
        if len(early) < EARLY_MESSAGES:
            early.append(message)
            self._early_bytes += len(message.text)
        while len(self._early) > DIALOGS or self._early_bytes > EARLY_BYTES:
            self._forget(self._early.popitem(last=False)[1])

    def _forget(self, early: list[SipMessage]) -> None:
        self._early_bytes -= sum(len(message.text) for message in early)

    def belongs(self, dialog: str, call: TrunkCall) -> None:
        """The SIP dialog with this Call-ID is one of the call's."""
        if not dialog:
            return
        self._owners[dialog] = call.id
        while len(self._owners) > DIALOGS:
            self._owners.popitem(last=False)
        early = self._early.pop(dialog, [])
        self._forget(early)
        for message in early:
            self._put(call.id, message)

    def _put(self, call_id: str, message: SipMessage) -> None:
        size = self._written.pop(call_id, 0) + len(message.text)
        self._written[call_id] = size
        while len(self._written) > DIALOGS:
            self._written.popitem(last=False)
        try:
            if size <= CALL_BYTES:
                self._queue.put_nowait((call_id, message))
        except asyncio.QueueFull:
            self.dropped += 1
            self._unwritten.failed("the disk takes too little: messages are left out", folder=str(self._folder))

    async def _write(self) -> None:
        while True:
            batch = [await self._queue.get()]
            while not self._queue.empty():
                batch.append(self._queue.get_nowait())
            self._in_hand = len(batch)
            try:
                await aside(partial(self._append, batch), name="sip-trace")
                self._unwritten.worked()
            except OSError as error:
                self._unwritten.failed(error.strerror or repr(error), folder=str(self._folder))
            finally:
                self._in_hand = 0
                for _ in batch:
                    self._queue.task_done()

    def _append(self, batch: list[tuple[str, SipMessage]]) -> None:
        texts: dict[str, list[str]] = {}
        for call_id, message in batch:
            texts.setdefault(call_id, []).append(_entry(message))
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for call_id, entries in texts.items():
            handle = os.open(self._folder / f"{call_id}{SUFFIX}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            with os.fdopen(handle, "a", encoding="utf-8", newline="") as file:
                file.write("".join(entries))


def _entry(message: SipMessage) -> str:
    at = datetime.fromtimestamp(message.at, UTC).isoformat(timespec="milliseconds")
    text = log.redact(hep.without_secrets(message.text)).replace("\r\n", "\n").rstrip("\n")
    return f"--- {at} {message.source} -> {message.destination}\n{text}\n\n"
