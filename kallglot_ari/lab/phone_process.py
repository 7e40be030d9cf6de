"""One SIP phone in a process of its own: pjsua2 allows one a process, and blocks.

JSON lines in on stdin (`{"id": 1, "do": "call", …}`), answers (`{"id": 1, "ok": …}` or `{"id": 1, "error": "…"}`) and events
(`{"event": "state", …}`) out on stdout. Every `at` is `time.monotonic()`. It ends when stdin closes, so it never outlives whoever
started it. Needs pjsua2 and the standard library only, so that any Python that has pjsua2 can run it.

What it hears goes to a raw file, 16-bit little-endian mono, from the moment it is up to the end, silence included.
"""

from __future__ import annotations

import collections
import contextlib
import json
import math
import os
import queue
import struct
import sys
import threading
import time
import wave
from pathlib import Path

import pjsua2 as pj

TICK_MS = 5
FRAME_MS = 20
UNREGISTER_SECONDS = 0.5
NO_NETWORK = 3
"""PJSUA_DESTROY_NO_NETWORK: what had to be said was said, and pjsua2 would wait a second for answers."""
_out = threading.Lock()
_stdout = os.fdopen(os.dup(1), "w", buffering=1)


def emit(message: dict[str, object]) -> None:
    """One line to whoever started us; called from pjsua2's threads too."""
    with _out:
        _stdout.write(json.dumps(message) + "\n")


class Ear(pj.AudioMediaPort):  # type: ignore[misc]
    """Writes what the phone plays to its user; the first frame's time is the recording's start."""

    def __init__(self, path: str, frame_bytes: int) -> None:
        super().__init__()
        self._file = Path(path).open("wb", buffering=0)  # noqa: SIM115 - open as long as the phone is
        self._silence = bytes(frame_bytes)
        self._frame_bytes = frame_bytes
        self._started = False

    def onFrameReceived(self, frame: pj.MediaFrame) -> None:  # noqa: N802 - pjsua2's name
        """pjsua2 calls it every 20 ms, with no data while nobody speaks."""
        if not self._started:
            self._started = True
            emit({"event": "ear", "at": time.monotonic()})
        data = bytes(frame.buf) if frame.size else self._silence
        self._file.write(data[: self._frame_bytes].ljust(self._frame_bytes, b"\0"))


class Mouth(pj.AudioMediaPort):  # type: ignore[misc]
    """Says what is queued, without a gap between items; silence otherwise."""

    def __init__(self, rate: int) -> None:
        super().__init__()
        self._rate = rate
        self._samples = rate * FRAME_MS // 1000
        self._silence = pj.ByteVector(bytes(2 * self._samples))
        self._items: collections.deque[dict[str, object]] = collections.deque()
        self._position = 0

    def put(self, item: dict[str, object]) -> None:
        """`{"token", "pcm": bytes}` or `{"token", "tone": Hz, "amplitude", "samples": n}`."""
        self._items.append(item)

    def clear(self) -> None:
        self._items.clear()
        self._position = 0

    def onFrameRequested(self, frame: pj.MediaFrame) -> None:  # noqa: N802 - pjsua2's name
        """pjsua2 calls it every 20 ms."""
        now = time.monotonic()
        data = b""
        wanted = 2 * self._samples
        while len(data) < wanted and self._items:
            try:
                data += self._take(self._items[0], (wanted - len(data)) // 2, now)
            except IndexError:  # cleared meanwhile
                break
        frame.type = pj.PJMEDIA_FRAME_TYPE_AUDIO
        frame.buf = pj.ByteVector(data.ljust(wanted, b"\0")) if data else self._silence
        frame.size = wanted

    def _take(self, item: dict[str, object], samples: int, now: float) -> bytes:
        if self._position == 0:
            emit({"event": "speaking", "token": item["token"], "at": now})
        pcm = item.get("pcm")
        if isinstance(pcm, bytes):
            total = len(pcm) // 2
            part = pcm[2 * self._position : 2 * (self._position + samples)]
        else:
            total = int(item["samples"])  # type: ignore[call-overload]
            count = min(samples, total - self._position)
            part = tone(float(item["tone"]), float(item["amplitude"]), self._rate, self._position, count)  # type: ignore[arg-type]
        self._position += len(part) // 2
        if self._position >= total:
            self._position = 0
            self._items.popleft()
            emit({"event": "spoken", "token": item["token"], "at": now + len(part) / 2 / self._rate})
        return part


def tone(hertz: float, amplitude: float, rate: int, position: int, count: int) -> bytes:
    """`count` samples of a sine from sample `position` on; `amplitude` 0 to 1."""
    step = 2 * math.pi * hertz / rate
    values = (round(32767 * amplitude * math.sin(step * (position + i))) for i in range(count))
    return struct.pack(f"<{count}h", *values)


class PhoneCall(pj.Call):  # type: ignore[misc]
    """A call; tells everything that happens to it."""

    def __init__(self, phone: PhoneProcess, call_id: int = pj.PJSUA_INVALID_ID) -> None:
        super().__init__(phone.account, call_id)
        self._phone = phone
        self.ended = False

    def onCallState(self, _: object) -> None:  # noqa: N802 - pjsua2's name
        info = self.getInfo()
        state = info.stateText if info.state != pj.PJSIP_INV_STATE_DISCONNECTED else "DISCONNECTED"
        if state == "DISCONNCTD":
            state = "DISCONNECTED"
        emit(
            {
                "event": "state",
                "call": info.id,
                "state": state,
                "code": int(info.lastStatusCode),
                "reason": info.lastReason,
                "remote": info.remoteUri,
                "at": time.monotonic(),
            }
        )
        if state == "DISCONNECTED":
            self.ended = True

    def onCallMediaState(self, _: object) -> None:  # noqa: N802 - pjsua2's name
        info = self.getInfo()
        for index, media in enumerate(info.media):
            if media.type != pj.PJMEDIA_TYPE_AUDIO:
                continue
            if media.status in (pj.PJSUA_CALL_MEDIA_ACTIVE, pj.PJSUA_CALL_MEDIA_REMOTE_HOLD):
                audio = self.getAudioMedia(index)
                self._phone.mouth.startTransmit(audio)
                audio.startTransmit(self._phone.ear)
            names = {0: "none", 1: "active", 2: "local_hold", 3: "remote_hold", 4: "error"}
            emit({"event": "media", "call": info.id, "status": names[int(media.status)], "at": time.monotonic()})

    def onDtmfDigit(self, prm: pj.OnDtmfDigitParam) -> None:  # noqa: N802 - pjsua2's name
        emit({"event": "dtmf", "call": self.getId(), "digit": prm.digit, "at": time.monotonic()})

    def onCallTransferRequest(self, prm: pj.OnCallTransferRequestParam) -> None:  # noqa: N802 - pjsua2's name
        prm.newCall = self._phone.keep(PhoneCall(self._phone))
        emit({"event": "transfer_request", "call": self.getId(), "to": prm.dstUri, "at": time.monotonic()})

    def onCallTransferStatus(self, prm: pj.OnCallTransferStatusParam) -> None:  # noqa: N802 - pjsua2's name
        emit(
            {
                "event": "transfer",
                "call": self.getId(),
                "code": int(prm.statusCode),
                "reason": prm.reason,
                "final": bool(prm.finalNotify),
                "at": time.monotonic(),
            }
        )


class PhoneAccount(pj.Account):  # type: ignore[misc]
    """The phone's registration; answers calls as it was told to."""

    def __init__(self, phone: PhoneProcess) -> None:
        super().__init__()
        self._phone = phone
        self.registered = False

    def onRegState(self, prm: pj.OnRegStateParam) -> None:  # noqa: N802 - pjsua2's name
        active = self.registered = self.getInfo().regIsActive
        emit(
            {
                "event": "registration",
                "active": active,
                "code": int(prm.code),
                "reason": prm.reason,
                "at": time.monotonic(),
            }
        )

    def onIncomingCall(self, prm: pj.OnIncomingCallParam) -> None:  # noqa: N802 - pjsua2's name
        call = self._phone.keep(PhoneCall(self._phone, prm.callId))
        info = call.getInfo()
        emit({"event": "incoming", "call": info.id, "remote": info.remoteUri, "at": time.monotonic()})
        self._phone.ring(call)


class PhoneProcess:
    """The phone: takes commands, runs pjsua2's loop."""

    def __init__(self, options: dict[str, object]) -> None:
        self.options = options
        self.endpoint = pj.Endpoint()
        self.rate = int(str(options["rate"]))
        self._calls: list[PhoneCall] = []
        self._over: list[PhoneCall] = []
        self._answers: list[tuple[float, PhoneCall]] = []
        self._on_call: object = options["on_call"]
        self._start()

    def _start(self) -> None:
        options = self.options
        config = pj.EpConfig()
        config.uaConfig.threadCnt = 0
        config.uaConfig.mainThreadOnly = True
        config.uaConfig.userAgent = f"kallglot-lab-{options['name']}"
        config.uaConfig.maxCalls = 8
        config.logConfig.level = int(str(options["log_level"]))
        config.logConfig.consoleLevel = 0
        config.logConfig.filename = str(options["log"])
        config.medConfig.clockRate = config.medConfig.sndClockRate = self.rate
        config.medConfig.audioFramePtime = FRAME_MS
        config.medConfig.noVad = True
        config.medConfig.ecTailLen = 0
        config.medConfig.quality = 8
        config.medConfig.txDropPct = int(str(options["lose_sent"]))
        config.medConfig.rxDropPct = int(str(options["lose_received"]))
        self.endpoint.libCreate()
        self.endpoint.libInit(config)
        kind = {"udp": pj.PJSIP_TRANSPORT_UDP, "tcp": pj.PJSIP_TRANSPORT_TCP, "tls": pj.PJSIP_TRANSPORT_TLS}
        transport = pj.TransportConfig()
        transport.boundAddress = transport.publicAddress = str(options["host"])
        self.endpoint.transportCreate(kind[str(options["transport"])], transport)
        self.endpoint.libStart()
        self.endpoint.audDevManager().setNullDev()
        self._codecs(list(options["codecs"]))  # type: ignore[call-overload]
        form = pj.MediaFormatAudio()
        form.init(pj.PJMEDIA_FORMAT_PCM, self.rate, 1, FRAME_MS * 1000, 16)
        self.ear = Ear(str(options["ear"]), self.rate * FRAME_MS // 1000 * 2)
        self.ear.createPort("ear", form)
        self.mouth = Mouth(self.rate)
        self.mouth.createPort("mouth", form)
        self.account = PhoneAccount(self)
        self.account.create(self._account_config())

    def _account_config(self) -> pj.AccountConfig:
        options = self.options
        suffix = "" if options["transport"] == "udp" else f";transport={options['transport']}"
        config = pj.AccountConfig()
        config.idUri = f"sip:{options['name']}@{options['registrar']}{suffix}"
        config.regConfig.registrarUri = f"sip:{options['registrar']}{suffix}"
        config.regConfig.registerOnAdd = bool(options["register"])
        config.regConfig.timeoutSec = 300
        config.regConfig.unregWaitMsec = 300
        config.sipConfig.authCreds.append(
            pj.AuthCredInfo("digest", "*", str(options["name"]), 0, str(options["password"]))
        )
        config.mediaConfig.transportConfig.boundAddress = str(options["host"])
        config.mediaConfig.transportConfig.publicAddress = str(options["host"])
        config.mediaConfig.transportConfig.port = 0
        config.mediaConfig.srtpUse = {"off": 0, "optional": 1, "mandatory": 2}[str(options["srtp"])]
        config.mediaConfig.srtpSecureSignaling = 0
        config.callConfig.timerUse = pj.PJSUA_SIP_TIMER_INACTIVE
        return config

    def _codecs(self, wanted: list[str]) -> None:
        for info in self.endpoint.codecEnum2():
            name = info.codecId.lower()
            rank = next((i for i, w in enumerate(wanted) if name.startswith(w.lower() + "/")), None)
            self.endpoint.codecSetPriority(info.codecId, 0 if rank is None else 250 - rank)
            if rank is not None and not self.options["plc"]:
                param = self.endpoint.codecGetParam(info.codecId)
                param.setting.plc = False
                self.endpoint.codecSetParam(info.codecId, param)

    # --- calls ---------------------------------------------------------------------------------------------------------

    def keep(self, call: PhoneCall) -> PhoneCall:
        """pjsua2 needs somebody to hold a call's object, and no longer only until it is over: once freed, it takes the events of
        the call that has its id by then, and hangs that one up.
        """
        self._over += [c for c in self._calls if c.ended]
        self._calls = [c for c in self._calls if not c.ended]
        self._calls.append(call)
        return call

    def ring(self, call: PhoneCall) -> None:
        """Do with an incoming call what the phone was told to: seconds until the answer, or busy, reject, ring, silent."""
        if self._on_call == "silent":
            return
        if self._on_call in ("busy", "reject"):
            self.answer(call, 486 if self._on_call == "busy" else 603)
            return
        self.answer(call, 180)
        if isinstance(self._on_call, int | float):
            self._answers.append((time.monotonic() + self._on_call, call))

    def answer(self, call: PhoneCall, code: int) -> None:
        parameter = pj.CallOpParam(True)
        parameter.statusCode = code
        call.answer(parameter)

    def find(self, call: object) -> PhoneCall:
        """The call of this id; None: the newest that is up."""
        live = [c for c in self._calls if not c.ended]
        found = live[-1:] if call is None else [c for c in live if c.getId() == call]
        if not found:
            raise ValueError("no call is up" if call is None else f"call {call} is not up")
        return found[0]

    def uri(self, target: str) -> str:
        if target.startswith(("sip:", "sips:")):
            return target
        suffix = "" if self.options["transport"] == "udp" else f";transport={self.options['transport']}"
        return f"sip:{target}@{self.options['registrar']}{suffix}"

    # --- commands --------------------------------------------------------------------------------------------------------

    def do_call(self, c: dict[str, object]) -> object:
        call = self.keep(PhoneCall(self))
        parameter = pj.CallOpParam(True)
        for name, value in dict(c.get("headers") or {}).items():  # type: ignore[call-overload]
            header = pj.SipHeader()
            header.hName, header.hValue = name, value
            parameter.txOption.headers.append(header)
        try:
            call.makeCall(self.uri(str(c["to"])), parameter)
        except pj.Error:
            call.ended = True
            raise
        return {"call": call.getId()}

    def do_answer(self, c: dict[str, object]) -> object:
        self.answer(self.find(c.get("call")), int(str(c.get("code") or 200)))
        return None

    def do_hangup(self, c: dict[str, object]) -> object:
        if c.get("all"):
            self.endpoint.hangupAllCalls()
            return None
        parameter = pj.CallOpParam(True)
        if c.get("code"):
            parameter.statusCode = int(str(c["code"]))
        self.find(c.get("call")).hangup(parameter)
        return None

    def do_dtmf(self, c: dict[str, object]) -> object:
        parameter = pj.CallSendDtmfParam()
        parameter.digits = str(c["digits"])
        parameter.method = pj.PJSUA_DTMF_METHOD_SIP_INFO if c.get("by_info") else pj.PJSUA_DTMF_METHOD_RFC2833
        self.find(c.get("call")).sendDtmf(parameter)
        return None

    def do_hold(self, c: dict[str, object]) -> object:
        self.find(c.get("call")).setHold(pj.CallOpParam(True))
        return None

    def do_unhold(self, c: dict[str, object]) -> object:
        parameter = pj.CallOpParam(True)
        parameter.opt.flag = pj.PJSUA_CALL_UNHOLD
        self.find(c.get("call")).reinvite(parameter)
        return None

    def do_transfer(self, c: dict[str, object]) -> object:
        self.find(c.get("call")).xfer(self.uri(str(c["to"])), pj.CallOpParam(True))
        return None

    def do_attended(self, c: dict[str, object]) -> object:
        self.find(c["call"]).xferReplaces(self.find(c["other"]), pj.CallOpParam(True))
        return None

    def do_on_call(self, c: dict[str, object]) -> object:
        self._on_call = c["then"]
        return None

    def do_say(self, c: dict[str, object]) -> object:
        with wave.open(str(c["path"])) as file:
            form = (file.getframerate(), file.getnchannels(), file.getsampwidth())
            if form != (self.rate, 1, 2):
                raise ValueError(f"{c['path']}: expected {self.rate} Hz mono 16 bit, found {form}")
            pcm = file.readframes(file.getnframes())
        if not pcm:
            raise ValueError(f"{c['path']}: expected sound, found none")
        self.mouth.put({"token": c["token"], "pcm": pcm})
        return None

    def do_tone(self, c: dict[str, object]) -> object:
        samples = int(float(str(c["seconds"])) * self.rate)
        self.mouth.put({"token": c["token"], "tone": c["hertz"], "amplitude": c["amplitude"], "samples": samples})
        return None

    def do_hush(self, _: dict[str, object]) -> object:
        self.mouth.clear()
        return None

    def do_register(self, c: dict[str, object]) -> object:
        self.account.setRegistration(bool(c["on"]))
        return None

    def do_stats(self, c: dict[str, object]) -> object:
        call = self.find(c.get("call"))
        info, stat = call.getStreamInfo(0), call.getStreamStat(0)
        rx, tx = stat.rtcp.rxStat, stat.rtcp.txStat
        return {
            "codec": info.codecName,
            "rate": info.codecClockRate,
            "received": rx.pkt,
            "lost": rx.loss,
            "discarded": rx.discard,
            "duplicated": rx.dup,
            "reordered": rx.reorder,
            "jitter_ms": rx.jitterUsec.mean / 1000,
            "sent": tx.pkt,
            "buffer_ms": stat.jbuf.avgDelayMsec,
        }

    def do_note(self, c: dict[str, object]) -> object:
        """For whoever reads the log."""
        self.endpoint.utilLogWrite(1, "lab", str(c.get("text")))
        return None

    # --- loop ------------------------------------------------------------------------------------------------------------

    def run(self, commands: queue.Queue[dict[str, object] | None]) -> None:
        """Until None comes."""
        while True:
            self.endpoint.libHandleEvents(TICK_MS)
            now = time.monotonic()
            for due in [a for a in self._answers if a[0] <= now]:
                self._answers.remove(due)
                if not due[1].ended:
                    with contextlib.suppress(pj.Error):  # the caller hangs up in this moment
                        self.answer(due[1], 200)
            while not commands.empty():
                command = commands.get()
                if command is None:
                    return
                self._obey(command)

    def _obey(self, command: dict[str, object]) -> None:
        handler = getattr(self, f"do_{command.get('do')}", None)
        try:
            if handler is None:
                raise ValueError(f"unknown command {command.get('do')!r}")
            emit({"id": command["id"], "ok": handler(command)})
        except pj.Error as error:
            emit({"id": command["id"], "error": error.info(True).replace("\n", " ")})
        except (ValueError, KeyError, OSError, wave.Error) as error:
            emit({"id": command["id"], "error": f"{type(error).__name__}: {error}"})

    def close(self) -> None:
        """Hang up, unregister and let pjsua2 go."""
        self.endpoint.hangupAllCalls()
        until = time.monotonic() + 0.3
        while time.monotonic() < until and any(not c.ended for c in self._calls):
            self.endpoint.libHandleEvents(TICK_MS)
        if self.account.registered:
            self.account.setRegistration(False)
            until = time.monotonic() + UNREGISTER_SECONDS
            while time.monotonic() < until and self.account.registered:
                self.endpoint.libHandleEvents(TICK_MS)
        self._calls.clear()
        self.endpoint.libDestroy(NO_NETWORK)


def main() -> int:
    """`phone_process.py OPTIONS`, where OPTIONS is the JSON that `Phone` writes."""
    options = json.loads(sys.stdin.readline())
    try:
        phone = PhoneProcess(options)
    except pj.Error as error:
        emit({"event": "failed", "reason": error.info(True).replace("\n", " ")})
        return 1
    commands: queue.Queue[dict[str, object] | None] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            commands.put(json.loads(line))
        commands.put(None)

    threading.Thread(target=read, daemon=True, name="commands").start()
    emit({"event": "up", "at": time.monotonic()})
    phone.run(commands)
    phone.close()
    _stdout.flush()
    os._exit(0)  # pjsua2's objects must not be collected after libDestroy


if __name__ == "__main__":
    sys.exit(main())
