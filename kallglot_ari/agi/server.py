"""The FastAGI server: one short connection a request, none of which can hold up another.

panoramisk has one too, but it stops the whole event loop when a client leaves at the wrong moment.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from kallglot_ari import log
from kallglot_ari.agi import protocol
from kallglot_ari.agi.protocol import AgiReply, AgiRequest
from kallglot_ari.errors import AgiError, AgiGone, KallglotAriError, cannot_listen_at
from kallglot_ari.metrics import Metrics
from kallglot_ari.peers import Networks
from kallglot_ari.tasks import Tasks

_log = log.get(__name__)

MAX_CONNECTIONS = 4096
BACKLOG = 1024
PORTION = 2048
"""Octets of a connection that are looked at before everybody else has a turn."""
HEADER_SECONDS = 5.0
"""Within which the whole header has to be there."""
MAX_REPLIES = 1 << 20
"""Octets that Asterisk may send after the header."""
COMMAND_SECONDS = 5.0
"""Within which Asterisk has to answer a command."""


class AgiSession:
    """One request while it is being served: read and set the channel's variables, and learn that it hung up."""

    def __init__(self, request: AgiRequest, writer: asyncio.StreamWriter) -> None:
        self.request = request
        self._writer = writer
        self._reply: asyncio.Future[AgiReply] | None = None
        self._late = 0
        self._turn = asyncio.Lock()
        self._gone = asyncio.Event()
        self._closed = False

    @property
    def gone(self) -> bool:
        """The channel hung up, or the connection is closed."""
        return self._gone.is_set()

    async def wait_gone(self) -> None:
        """Return when the channel hangs up or the connection closes."""
        await self._gone.wait()

    async def command(self, line: bytes) -> AgiReply:
        """Send one command and wait for its reply.

        After a hangup Asterisk still answers what a dead channel can do (variables); only a closed connection stops us.

        :raises AgiGone: the connection is closed. :raises AgiError: no answer in time.
        """
        async with self._turn:
            if self._closed or self._writer.is_closing():
                raise AgiGone("AGI: the connection is closed")
            self._reply = asyncio.get_running_loop().create_future()
            try:
                self._writer.write(line)
                return await asyncio.wait_for(self._reply, COMMAND_SECONDS)
            except TimeoutError:
                self._late += 1
                raise AgiError(f"AGI: expected a reply within {COMMAND_SECONDS:g} s, found none") from None
            finally:
                self._reply = None

    async def set_variable(self, name: str, value: str) -> None:
        """Set a channel variable.

        :raises AgiError: it cannot be sent, or Asterisk refused.
        """
        reply = await self.command(protocol.set_variable(name, value))
        if reply.code != 200:
            raise AgiError(f"AGI: SET VARIABLE {name}: expected 200, found {reply.code} {reply.text[:80]}")

    async def get_variable(self, expression: str) -> str:
        """A variable's value, or what a dialplan text such as ``${CHANNEL(linkedid)}`` comes to; empty when unset."""
        reply = await self.command(protocol.get_variable(expression))
        return reply.data or "" if reply.code == 200 and reply.result == 1 else ""

    def received(self, item: AgiReply | protocol.Hangup) -> None:
        """Called by the server for what Asterisk sends."""
        if isinstance(item, protocol.Hangup):
            self._gone.set()
        elif self._late:
            self._late -= 1
        elif self._reply is not None and not self._reply.done():
            self._reply.set_result(item)

    def closed(self) -> None:
        """Called by the server when the connection is over."""
        self._closed = True
        self._gone.set()
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(AgiGone("AGI: Asterisk closed the connection"))
            self._reply.exception()


Handler = Callable[[AgiSession], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Script:
    """What serves a script name, and how long it may take in seconds."""

    handler: Handler
    deadline: float = 15.0


class AgiServer:
    """Listens for Asterisk's FastAGI connections and gives each to the handler of its script."""

    def __init__(
        self,
        bind: str,
        port: int,
        scripts: Mapping[str, Script],
        metrics: Metrics,
        *,
        header_seconds: float = HEADER_SECONDS,
        allowed_ips: Sequence[str] = (),
    ) -> None:
        """:param allowed_ips: addresses or networks that may connect; empty: any."""
        self._bind, self._port = bind, port
        self._scripts = scripts
        self._metrics = metrics
        self._header_seconds = header_seconds
        self._allowed = Networks(allowed_ips)
        self._tasks = Tasks("agi")
        self._server: asyncio.Server | None = None
        self._serial = 0

    @property
    def port(self) -> int:
        """The port it listens on; known after the start."""
        return self._port

    @property
    def connections(self) -> int:
        return len(self._tasks)

    async def start(self) -> None:
        """:raises ListenError: the address cannot be listened on."""
        try:
            self._server = await asyncio.start_server(
                self._accept, self._bind, self._port, limit=protocol.MAX_HEADER, backlog=BACKLOG
            )
        except OSError as error:
            raise cannot_listen_at("agi", self._bind, self._port, error) from error
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self, grace: float = 2.0) -> None:
        """Accept no more, let what runs end within `grace` seconds, then cut it off."""
        if self._server is not None:
            self._server.close()
            await self._tasks.join(grace)
            await self._tasks.close()
            await self._server.wait_closed()
            self._server = None

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._may(writer):
            self._metrics.agi_requests.labels("forbidden").inc()
            writer.transport.abort()
            return
        if len(self._tasks) >= MAX_CONNECTIONS:
            self._metrics.agi_requests.labels("busy").inc()
            writer.transport.abort()
            return
        self._serial += 1
        self._tasks.spawn(self._serve(reader, writer), name=f"connection-{self._serial}")

    def _may(self, writer: asyncio.StreamWriter) -> bool:
        peer = writer.get_extra_info("peername")
        return self._allowed.admit(peer[0] if peer else "")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reason = "error"
        try:
            reason = await self._request(reader, writer)
        except TimeoutError:
            reason = "timeout"
        except AgiGone:
            reason = "gone"
        except AgiError as error:
            reason = "malformed"
            _log.warning("agi_malformed", error=str(error))
        except OSError:
            reason = "gone"
        except asyncio.CancelledError:
            reason = "stopped"
            raise
        finally:
            self._metrics.agi_requests.labels(reason).inc()
            writer.close()
            with contextlib.suppress(OSError, TimeoutError):
                await asyncio.wait_for(writer.wait_closed(), 1)
            writer.transport.abort()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        lines = protocol.LineBuffer()
        began = asyncio.get_running_loop().time()
        async with asyncio.timeout(self._header_seconds):
            request, rest = await _read_header(reader, lines)
        if said := [line for line in rest if line != "HANGUP"]:
            raise AgiError(f"AGI: expected nothing before the first command, found {said[0][:60]!r}")
        script = self._scripts.get(request.script)
        if script is None:
            _log.warning("agi_unknown_script", script=request.script[:60], expected=sorted(self._scripts))
            return "unknown_script"
        session = AgiSession(request, writer)
        pump = self._tasks.spawn(_pump(reader, lines, rest, session), name=f"pump-{self._serial}")
        try:
            async with asyncio.timeout(script.deadline):
                await script.handler(session)
        except TimeoutError:
            _log.warning("agi_deadline", script=request.script, channel=request.channel, seconds=script.deadline)
            return "timeout"
        except AgiGone:
            return "gone"
        except KallglotAriError as error:
            _log.warning("agi_failed", script=request.script, channel=request.channel, error=str(error))
            return "failed"
        except Exception:  # noqa: BLE001 - boundary: one request's fault must not reach the others
            _log.exception("agi_handler_fault", script=request.script, channel=request.channel)
            return "fault"
        finally:
            pump.cancel()
            self._metrics.agi_seconds.labels(request.script).observe(asyncio.get_running_loop().time() - began)
        return "ok"


async def _read_header(reader: asyncio.StreamReader, lines: protocol.LineBuffer) -> tuple[AgiRequest, list[str]]:
    """The request, and the lines that came after it in the same piece."""
    header = protocol.HeaderParser()
    while data := await reader.read(PORTION):
        complete = lines.feed(data)
        for index, text in enumerate(complete):
            if (request := header.line(text)) is not None:
                return request, complete[index + 1 :]
        await asyncio.sleep(0)  # what has come already is read without a pause
    raise AgiGone("AGI: the connection closed within the header")


async def _pump(reader: asyncio.StreamReader, lines: protocol.LineBuffer, rest: list[str], session: AgiSession) -> None:
    """Carry what Asterisk sends to the session until the connection is over; what is not AGI ends it."""
    replies = protocol.ReplyParser()
    total = 0
    try:
        while True:
            for text in rest:
                if (item := replies.line(text)) is not None:
                    session.received(item)
            data = await reader.read(PORTION)
            total += len(data)
            if not data:
                return
            if total > MAX_REPLIES:
                raise AgiError(f"AGI replies: expected at most {MAX_REPLIES} octets, found more")
            rest = lines.feed(data)
            await asyncio.sleep(0)
    except (AgiError, OSError) as error:
        _log.warning("agi_garbage", channel=session.request.channel, error=str(error))
    finally:
        session.closed()
