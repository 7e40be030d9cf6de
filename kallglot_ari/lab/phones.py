"""Real SIP phones for demo, tests and benchmarks; each is a process (`phone_process`) driven from here."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kallglot_ari.errors import LabError
from kallglot_ari.lab.phone_python import python_with_pjsua2
from kallglot_ari.lab.recording import Recording, Samples, at_rate
from kallglot_ari.tasks import Tasks

OnCall = float | Literal["busy", "reject", "ring", "silent"]
"""What a phone does when it is called: answer after so many seconds, 486, 603, ring for ever, or not even ring."""
START_SECONDS = 15.0
COMMAND_SECONDS = 10.0
_PROGRAM = Path(__file__).with_name("phone_process.py")


@dataclass
class PhoneCall:
    """One call of a phone. Times are `time.monotonic()`."""

    id: int
    incoming: bool
    remote: str = ""
    states: dict[str, float] = field(default_factory=dict)
    """When each state was reached first: CALLING, INCOMING, EARLY, CONNECTING, CONFIRMED, DISCONNECTED."""
    media: list[tuple[str, float]] = field(default_factory=list)
    """`active`, `local_hold`, `remote_hold`, … as they came."""
    code: int = 0
    """The last SIP status."""
    reason: str = ""
    dtmf: list[tuple[str, float]] = field(default_factory=list)
    """The digits it received."""
    transfers: list[tuple[int, bool]] = field(default_factory=list)
    """What the other side said of our REFER: SIP status, and whether it was the last word."""

    @property
    def ended(self) -> bool:
        return "DISCONNECTED" in self.states

    def __str__(self) -> str:
        return f"call {self.id} ({' '.join(self.states) or 'new'}; {self.code} {self.reason})"


class Phone:
    """A SIP phone. Make one with `await Phone.start(…)`, end it with `await phone.stop()`."""

    def __init__(self, name: str, rate: int, folder: Path, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.rate = rate
        self.calls: list[PhoneCall] = []
        """All its calls, the newest last."""
        self.registered = False
        self.said: list[tuple[str, str, float]] = []
        """(`speaking` or `spoken`, token, when) of everything it said."""
        self._folder = folder
        self._process = process
        self._tasks = Tasks(f"phone.{name}")
        self._ids = itertools.count(1)
        self._tokens = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._changed = asyncio.Event()
        self._live: dict[int, PhoneCall] = {}
        self._ear_start: float | None = None
        self._up = False
        self._gone = ""
        self._registration: tuple[int, str] | None = None

    @classmethod
    async def start(
        cls,
        name: str,
        registrar: str,
        password: str,
        *,
        on_call: OnCall = "ring",
        codecs: Sequence[str] = ("G722", "PCMU", "PCMA"),
        transport: Literal["udp", "tcp", "tls"] = "udp",
        srtp: Literal["off", "optional", "mandatory"] = "off",
        rate: int = 16000,
        plc: bool = True,
        lose_sent: int = 0,
        lose_received: int = 0,
        register: bool = True,
        log_level: int = 4,
    ) -> Phone:
        """Start a phone and wait until it is registered.

        :param registrar: `host:port`. :param on_call: what it does when it is called.
        :param codecs: what it offers, the best first; `PCMU`, `PCMA`, `G722`, `GSM`, `speex`, `iLBC`.
        :param rate: of everything it says and hears, in Hz. :param plc: whether it conceals lost packets.
        :param lose_sent: per cent of its packets that it does not send; `lose_received`: that it throws away.
        :raises LabError: no pjsua2, or it could not register.
        """
        python = await asyncio.to_thread(python_with_pjsua2)
        folder = Path(tempfile.mkdtemp(prefix=f"kallglot-phone-{name}-"))
        options = {
            "name": name,
            "registrar": registrar,
            "host": _own_address(registrar),
            "password": password,
            "on_call": on_call,
            "codecs": list(codecs),
            "transport": transport,
            "srtp": srtp,
            "rate": rate,
            "plc": plc,
            "lose_sent": lose_sent,
            "lose_received": lose_received,
            "register": register,
            "log": str(folder / "phone.log"),
            "log_level": log_level,
            "ear": str(folder / "ear.raw"),
        }
        with (folder / "errors.log").open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                python, "-u", str(_PROGRAM), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
            )
        phone = cls(name, rate, folder, process)
        try:
            phone._write(options)
            phone._tasks.spawn(phone._read(), name="read")
            await phone._until(lambda: phone._up and phone._ear_start is not None, START_SECONDS, "is not up")
            if register:
                await phone.wait_registered()
        except BaseException:
            await phone.stop()
            raise
        return phone

    async def stop(self) -> None:
        """Hang up, unregister, end. Harmless when it has ended."""
        if self._process.returncode is None:
            if self._process.stdin is not None:
                self._process.stdin.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), 3)
            if self._process.returncode is None:
                self._process.kill()
                await self._process.wait()
        await self._tasks.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def kill(self) -> None:
        """Die at once, without a word to anybody: a phone whose cable was pulled."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    async def __aenter__(self) -> Phone:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # --- what it hears and says --------------------------------------------------------------------------------------

    @property
    def recording(self) -> Recording:
        """All it heard since it was started. It may be read at any time until `stop`."""
        if self._ear_start is None:
            raise LabError(f"phone {self.name} has not heard anything yet: it is not up")
        data = (self._folder / "ear.raw").read_bytes()
        samples = np.frombuffer(data[: len(data) // 2 * 2], dtype="<i2").astype(np.int16)
        return Recording(self._ear_start, self.rate, samples)

    async def play(self, sound: Path | Samples) -> str:
        """Queue a WAV file, or samples at the phone's own rate; the token to wait for with `wait_spoken`."""
        samples = await asyncio.to_thread(at_rate, sound, self.rate, self.rate)
        token = f"say{next(self._tokens)}"
        path = Recording(0, self.rate, samples).save(self._folder / f"{token}.wav")
        await self._do("say", path=str(path), token=token)
        return token

    async def tone(self, hertz: float, seconds: float = 3600, amplitude: float = 0.3) -> str:
        """Queue a sine, phase-continuous; the token to wait for with `wait_spoken`."""
        token = f"tone{next(self._tokens)}"
        await self._do("tone", hertz=hertz, seconds=seconds, amplitude=amplitude, token=token)
        return token

    async def hush(self) -> None:
        """Say nothing more; what is queued is dropped."""
        await self._do("hush")

    async def wait_spoken(self, token: str, timeout: float = 60) -> tuple[float, float]:
        """Wait until it was said; when it began and when it ended."""
        await self._until(lambda: self._when("spoken", token) is not None, timeout, f"has not said {token}")
        began, ended = self._when("speaking", token), self._when("spoken", token)
        assert began is not None
        assert ended is not None
        return began, ended

    def _when(self, what: str, token: str) -> float | None:
        return next((at for w, t, at in self.said if (w, t) == (what, token)), None)

    # --- calls ---------------------------------------------------------------------------------------------------------

    @property
    def current(self) -> PhoneCall | None:
        """The newest call that is up."""
        return next((c for c in reversed(self.calls) if not c.ended), None)

    async def call(self, to: str, *, headers: Mapping[str, str] | None = None) -> PhoneCall:
        """Dial a number of the registrar, or a SIP URI; does not wait for the answer."""
        call: PhoneCall = await self._do("call", to=to, headers=dict(headers or {}))
        return call

    async def wait_state(self, state: str, timeout: float = 10, call: PhoneCall | None = None) -> PhoneCall:
        """Wait until `call` has reached `state`; without one: the newest that is up, or the next that comes.

        :raises LabError: the call ended instead, or the time is up.
        """
        if call is None:
            last = self.calls[-1] if self.calls else None
            if state == "DISCONNECTED" and last is not None:
                call = last
            else:
                await self._until(lambda: self.current is not None, timeout, "has no call")
                call = self.current
                assert call is not None
        chosen = call
        await self._until(lambda: state in chosen.states or chosen.ended, timeout, f"{chosen} is not {state}")
        if state not in chosen.states:
            raise LabError(f"phone {self.name}: {chosen} has ended, expected {state}")
        return chosen

    async def wait_incoming(self, timeout: float = 10) -> PhoneCall:
        """Wait until a call is coming in that has neither been answered nor ended."""

        def ringing() -> PhoneCall | None:
            live = [c for c in self.calls if c.incoming and not c.ended and "CONFIRMED" not in c.states]
            return live[-1] if live else None

        await self._until(lambda: ringing() is not None, timeout, "is not called")
        found = ringing()
        assert found is not None
        return found

    async def wait_media(self, status: str, timeout: float = 10, call: PhoneCall | None = None) -> None:
        """Wait until the call's audio is `active`, `local_hold` or `remote_hold`."""
        chosen = call or self.current
        if chosen is None:
            raise LabError(f"phone {self.name}: no call is up")
        await self._until(
            lambda: bool(chosen.media) and chosen.media[-1][0] == status,
            timeout,
            f"has no {status} audio: {chosen.media}",
        )

    async def wait_dtmf(self, digits: str, timeout: float = 10, call: PhoneCall | None = None) -> None:
        """Wait until the call has received these digits."""
        chosen = call or self.current
        if chosen is None:
            raise LabError(f"phone {self.name}: no call is up")
        await self._until(
            lambda: digits in "".join(d for d, _ in chosen.dtmf),
            timeout,
            f"expected digits {digits}, found {chosen.dtmf}",
        )

    async def wait_registered(self, timeout: float = START_SECONDS) -> None:
        """:raises LabError: refused, or no answer."""
        await self._until(lambda: self._registration is not None, timeout, "had no answer to its REGISTER")
        if not self.registered:
            assert self._registration is not None
            raise LabError(f"phone {self.name}: registration refused: {self._registration[0]} {self._registration[1]}")

    async def on_call(self, then: OnCall) -> None:
        """Change what it does when it is called."""
        await self._do("on_call", then=then)

    async def answer(self, call: PhoneCall | None = None, code: int = 200) -> None:
        """Answer, or with another SIP status refuse, the newest call."""
        await self._do("answer", call=_id(call), code=code)

    async def hangup(self, call: PhoneCall | None = None, code: int = 0) -> None:
        """Hang up and wait until it is over. No call is no error."""
        chosen = call or self.current
        if chosen is None or chosen.ended:
            return
        with contextlib.suppress(LabError):
            await self._do("hangup", call=chosen.id, code=code)
        await self._until(lambda: chosen.ended, 10, f"{chosen} does not end")

    async def dtmf(self, digits: str, call: PhoneCall | None = None, *, by_info: bool = False) -> None:
        """Press keys (RFC 4733, or SIP INFO)."""
        await self._do("dtmf", digits=digits, by_info=by_info, call=_id(call))

    async def hold(self, call: PhoneCall | None = None) -> None:
        """Put on hold, and wait until the other side agreed."""
        await self._do("hold", call=_id(call))
        await self.wait_media("local_hold", call=call)

    async def unhold(self, call: PhoneCall | None = None) -> None:
        """Take back from hold, and wait until audio flows."""
        await self._do("unhold", call=_id(call))
        await self.wait_media("active", call=call)

    async def transfer(self, to: str, call: PhoneCall | None = None) -> None:
        """Blind transfer (REFER); `PhoneCall.transfers` has the answers."""
        await self._do("transfer", to=to, call=_id(call))

    async def transfer_attended(self, call: PhoneCall, other: PhoneCall) -> None:
        """Connect the parties of two calls with each other (REFER with Replaces)."""
        await self._do("attended", call=call.id, other=other.id)

    async def register(self, on: bool = True) -> None:
        """Register again, or unregister."""
        self._registration = None
        await self._do("register", on=on)
        await self._until(lambda: self._registration is not None, START_SECONDS, "had no answer to its REGISTER")

    async def stats(self, call: PhoneCall | None = None) -> dict[str, Any]:
        """`codec`, `rate`, `received`, `lost`, `jitter_ms`, `sent`, … of the call's audio, as the phone counts."""
        found: dict[str, Any] = await self._do("stats", call=_id(call))
        return found

    def log(self, lines: int = 40) -> str:
        """The end of pjsua2's log."""
        texts = []
        for name in ("errors.log", "phone.log"):
            file = self._folder / name
            texts += file.read_text(errors="replace").splitlines()[-lines:] if file.exists() else []
        return "\n".join(texts)

    # --- the process -----------------------------------------------------------------------------------------------------

    def _write(self, message: Mapping[str, object]) -> None:
        stdin = self._process.stdin
        if stdin is None or stdin.is_closing() or self._gone:
            raise LabError(f"phone {self.name} is gone: {self._gone}\n{self.log()}")
        stdin.write(json.dumps(message).encode() + b"\n")

    async def _do(self, command: str, **arguments: object) -> Any:
        number = next(self._ids)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._write({"id": number, "do": command, **arguments})
            message = await asyncio.wait_for(answer, COMMAND_SECONDS)
        except TimeoutError:
            raise LabError(f"phone {self.name}: no answer to {command} in {COMMAND_SECONDS} s\n{self.log()}") from None
        finally:
            self._waiting.pop(number, None)
        if "error" in message:
            raise LabError(f"phone {self.name}: {command}: {message['error']}")
        return message["ok"]

    async def _until(self, true: Callable[[], bool], timeout: float, complaint: str) -> None:
        deadline = time.monotonic() + timeout
        while not true():
            if self._gone:
                raise LabError(f"phone {self.name} is gone: {self._gone}\n{self.log()}")
            left = deadline - time.monotonic()
            if left <= 0:
                raise LabError(
                    f"phone {self.name} {complaint} after {timeout} s; its calls: {list(map(str, self.calls))}"
                )
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left)

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            try:
                message = json.loads(line)
            except ValueError:
                continue
            if "event" in message:
                self._event(message)
            elif (waiting := self._waiting.get(message["id"])) and not waiting.done():
                if isinstance(found := message.get("ok"), dict) and "call" in found:
                    # now: when whoever waits for it has its turn, the call may be over and its id free
                    message["ok"] = self._call(found["call"])
                waiting.set_result(message)
            self._changed.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), 1)  # for how it ended
        self._gone = self._gone or f"its process ended ({self._process.returncode})"
        for call in self._live.values():
            call.states.setdefault("DISCONNECTED", time.monotonic())
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_result({"error": self._gone})
        self._changed.set()

    def _call(self, number: int, *, incoming: bool = False) -> PhoneCall:
        """The call of this id; ids are used again after a call has ended."""
        call = self._live.get(number)
        if call is None or call.ended:
            call = self._live[number] = PhoneCall(number, incoming)
            self.calls.append(call)
        return call

    def _event(self, m: dict[str, Any]) -> None:
        kind = m["event"]
        if kind == "up":
            self._up = True
        elif kind == "failed":
            self._gone = m["reason"]
        elif kind == "ear":
            self._ear_start = m["at"]
        elif kind in ("speaking", "spoken"):
            self.said.append((kind, m["token"], m["at"]))
        elif kind == "registration":
            self.registered = bool(m["active"])
            self._registration = (m["code"], m["reason"])
        elif kind == "incoming":
            self._call(m["call"], incoming=True).remote = m["remote"]
        elif kind == "state":
            call = self._call(m["call"], incoming=m["state"] == "INCOMING")
            call.states.setdefault(m["state"], m["at"])
            call.code, call.reason, call.remote = m["code"], m["reason"], m["remote"]
        elif kind == "media":
            self._call(m["call"]).media.append((m["status"], m["at"]))
        elif kind == "dtmf":
            self._call(m["call"]).dtmf.append((m["digit"], m["at"]))
        elif kind == "transfer":
            self._call(m["call"]).transfers.append((m["code"], m["final"]))


def _own_address(registrar: str) -> str:
    """The address of this machine that the registrar is reached from. :raises LabError: not `host:port`, or no way there."""
    host, _, port = registrar.rpartition(":")
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, int(port)))
            return str(probe.getsockname()[0])
    except (OSError, ValueError) as error:
        raise LabError(f"registrar: expected host:port that can be reached, found {registrar!r} ({error})") from None


def _id(call: PhoneCall | None) -> int | None:
    return None if call is None else call.id
