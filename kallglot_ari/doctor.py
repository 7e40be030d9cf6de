"""`kallglot-ari doctor`: everything a call needs, looked at one by one; every failure says what to do."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import aiohttp
import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kallglot_ari import log, standard
from kallglot_ari.ari.client import AriClient
from kallglot_ari.ari.resources import gone_is_fine
from kallglot_ari.clock import SystemClock
from kallglot_ari.errors import AriError, AriUnsupported, ConfigError, KallglotAriError, SipProbeError
from kallglot_ari.kallglot.client import KallglotClient
from kallglot_ari.media import formats
from kallglot_ari.media.engine import MediaEngine
from kallglot_ari.media.native import LIBRARY
from kallglot_ari.metrics import Metrics
from kallglot_ari.modes import asterisk_doctor, diagnosis, external_media, trunk_doctor
from kallglot_ari.pbx.addresses import ordered
from kallglot_ari.pbx.probe import probe
from kallglot_ari.settings import Endpoint, Settings, TrunkSettings, find_file, load
from kallglot_ari.store.connect import parse
from kallglot_ari.store.store import open_store
from kallglot_ari.web import tls

PATIENCE = 8.0
ROOM = 0.2
"""Gigabytes that there must be where the service writes."""
NEEDS = {
    "media": ("Asterisk", "Asterisk modules"),
    "clock": ("Kallglot API",),
    "trunk in Asterisk": ("manager interface",),
    "trunk codecs": ("Asterisk",),
    "trunk test call": ("Asterisk", "Kallglot API"),
}
"""Checks that can say nothing new when another one has failed."""
ADVICE = {
    "media": "set media.format, media.bind and media.port to what this machine and this Asterisk have",
    "interpreter": "install kallglot-ari[offline], then kallglot-ari models fetch",
    "web port": "set web.bind and web.port",
    "FastAGI port": "set agi.bind and agi.port",
    "trunk in Asterisk": "kallglot-ari config asterisk writes what Asterisk needs for the trunk",
    "trunk codecs": "load the codec modules in Asterisk, or set trunk.codecs",
    "trunk test call": "mend what failed above; then the log of Asterisk tells more",
}
"""What to do about a failure that names itself."""
NO_ARI = "check ari.url, ari.username and ari.password against http.conf and ari.conf (kallglot-ari config asterisk writes both)"
PART_OF_ARI = "load the modules that the next line names"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: `ok` True, False, or None when it does not apply; `advice` says what to do about a failure."""

    check: str
    ok: bool | None
    found: str
    advice: str = ""


class Failure(Exception):
    """What a check found wrong, and what to do about it."""

    def __init__(self, found: str, advice: str) -> None:
        super().__init__(found)
        self.advice = advice


class Skipped(Exception):
    """The check does not apply; says why."""


class Doctor:
    """All checks of one configuration. :param call: also a test call over the trunk, with a session of its own."""

    def __init__(self, settings: Settings, *, call: bool = False) -> None:
        self._s = settings
        self._call = call
        self._clock = SystemClock()
        self._metrics = Metrics()

    async def examine(self) -> list[Finding]:
        """Run every check, the cheap ones first; none waits longer than `PATIENCE` seconds."""
        checks: list[tuple[str, Callable[[], Awaitable[str]]]] = [
            ("store", self._store),
            ("Asterisk", self._asterisk),
            ("Asterisk modules", self._modules),
            ("media", self._media),
            ("captures", self._captures),
            ("Kallglot API", self._api),
            ("interpreter", self._interpreter),
            ("web port", lambda: self._port(self._s.web.bind, self._s.web.port, "web.port")),
            ("FastAGI port", lambda: self._port(self._s.agi.bind, self._s.agi.port, "agi.port")),
            ("manager interface", self._ami),
            ("clock", self._skew),
            *((f"SIP endpoint {e.uri}", partial(self._endpoint, e)) for e in ordered(self._s.trunk)),
            ("trunk in Asterisk", self._trunk_in_asterisk),
            ("trunk codecs", self._codecs),
        ]
        if self._call:
            checks.append(("trunk test call", self._test_call))
        findings: dict[str, Finding] = {}
        for name, check in checks:
            needed = next((other for other in NEEDS.get(name, ()) if findings[other].ok is False), None)
            if needed is None:
                findings[name] = await self._one(name, check)
            else:
                findings[name] = Finding(name, None, f"skipped: {needed} failed, which it needs")
        return list(findings.values())

    async def _one(self, name: str, check: Callable[[], Awaitable[str]]) -> Finding:
        try:
            async with asyncio.timeout(PATIENCE):
                return Finding(name, True, await check())
        except Skipped as reason:
            return Finding(name, None, str(reason))
        except Failure as failure:
            return Finding(name, False, str(failure), failure.advice)
        except TimeoutError:
            return Finding(
                name, False, f"no answer within {PATIENCE:.0f} s", "look for a firewall or a hanging service"
            )
        except SipProbeError as error:
            return Finding(name, False, log.redact(str(error)), error.advice)
        except (KallglotAriError, OSError) as error:
            return Finding(name, False, log.redact(str(error)), ADVICE.get(name, "look at the service's log"))

    async def _store(self) -> str:
        file = parse(self._s.store.url).path
        if file is not None and file.absolute().parent.is_dir() and not file.exists():
            return _can_be_made(file.absolute())
        store = open_store(self._s.store, self._clock)
        try:
            await store.start()
            await store.check()
            pending = len(await store.pending_sessions())
        except KallglotAriError as error:
            raise Failure(
                str(error), "set store.url to a folder this user may write to, or to a PostgreSQL that is up"
            ) from None
        finally:
            await store.close()
        return f"{log.redact(self._s.store.url)} can be written; {pending} sessions wait to be ended"

    @contextlib.asynccontextmanager
    async def _ari(self) -> AsyncIterator[AriClient]:
        # An application of its own: the running service's must not be replaced.
        settings = self._s.ari.model_copy(update={"app": f"{self._s.ari.app[:50]}-doctor"})
        client = AriClient(settings, self._metrics, self._clock)
        try:
            try:
                await client.start(lambda _: None)
                await client.wait_connected(PATIENCE - 2)
            except AriError as error:
                raise Failure(str(error), PART_OF_ARI if asterisk_doctor.of_modules(error) else NO_ARI) from None
            yield client
        finally:
            await client.close()

    async def _asterisk(self) -> str:
        async with self._ari() as ari:
            version = ".".join(map(str, ari.version))
            if ari.version < (16, 6, 0):
                raise Failure(f"Asterisk {version}", "external media needs Asterisk 16.6 or later")
            return f"Asterisk {version} answers and takes the user"

    async def _modules(self) -> str:
        s, kind = self._s, str(self._s.media.format)
        with contextlib.suppress(ConfigError):  # the media check says that one
            kind = formats.choose(s.media, s.kallglot.encoding).asterisk
        client = AriClient(s.ari, self._metrics, self._clock)
        try:
            return await asterisk_doctor.modules(client, s.media.transport, kind)
        except AriError:
            raise Skipped("Asterisk does not answer") from None
        finally:
            await client.close()

    async def _media(self) -> str:
        s = self._s
        engine = MediaEngine(
            s.media,
            encoding=s.kallglot.encoding,
            sample_rate=s.kallglot.sample_rate,
            chunk_ms=s.kallglot.chunk_ms,
            metrics=self._metrics,
            clock=self._clock,
            asterisk_url=s.ari.url,
            asterisk_ca=s.ari.ca_file,
        )
        try:
            await engine.start()
        except (OSError, KallglotAriError) as error:
            if await self._service_answers():
                raise Skipped(f"UDP port {s.media.port} is the running service's") from None
            raise Failure(str(error), "free the port, or set media.bind and media.port") from None
        try:
            return await self._round_trip(engine)
        finally:
            await engine.stop()

    async def _round_trip(self, engine: MediaEngine) -> str:
        """A test channel: does Asterisk's RTP reach us?"""
        heard = asyncio.Event()
        async with self._ari() as ari:
            channel_id = f"kg-doctor-{self._clock.wall().timestamp():.0f}"
            flow = engine.open(channel_id, lambda _: heard.set())
            external = engine.external
            kind = "RTP" if external.transport == "udp" else "sound over a websocket"
            try:
                await external_media.connect(ari, engine, flow)
                await ari.bridges.create_with_id(f"{channel_id}.b", type="mixing", name="doctor")
                await asyncio.sleep(0.3)
                await ari.bridges.add_channel(f"{channel_id}.b", channel=channel_id)
                tone = await ari.bridges.play(f"{channel_id}.b", media="tone:1004")
                async with asyncio.timeout(3):
                    await heard.wait()
                await gone_is_fine(ari.playbacks.stop(tone.id))
            except AriUnsupported as error:
                raise Failure(str(error), "set media.format: auto works with every Asterisk") from None
            except TimeoutError:
                raise Failure(
                    f"Asterisk took {external.external_host} for {kind}, but none arrived",
                    "set media.advertise to an address of ours that Asterisk can reach, and open the UDP port in the firewall",
                ) from None
            finally:
                flow.close()
                await gone_is_fine(ari.channels.hangup(channel_id))
                await gone_is_fine(ari.bridges.destroy(f"{channel_id}.b"))
        by = "machine code" if LIBRARY is not None else "numpy: install with a C compiler and it takes less CPU"
        return f"{kind} of Asterisk ({engine.format.asterisk}) arrives at {external.external_host}; taken by {by}"

    async def _captures(self) -> str:
        debug = self._s.debug
        if not diagnosis.in_use(self._s):
            raise Skipped("debug.pcap, debug.record and trunk.sip_trace are off")
        try:
            await diagnosis.ask(debug.dir, lambda: diagnosis.check(debug.dir))
        except ConfigError as error:
            raise Failure(str(error), "set debug.dir to a folder that the service's user may write to") from None
        return f"{Path(debug.dir).absolute()} can be written"

    async def _api(self) -> str:
        s = self._s
        if s.kallglot.embedded:
            return f"embedded, with the {s.interpreter.engine} engine: no account needed"
        client = KallglotClient(s.kallglot, s.trunk, self._metrics, self._clock)
        try:
            await client.start()
            await client.probe()
        except KallglotAriError as error:
            raise Failure(
                log.redact(str(error)),
                "check kallglot.url, kallglot.api_key, and that this machine reaches the API over https",
            ) from None
        finally:
            await client.close()
        credits = client.credits_remaining
        return f"{s.kallglot.urls[0]} answers and takes the key" + (
            f"; {credits} credits left" if credits is not None else ""
        )

    async def _interpreter(self) -> str:
        s = self._s
        if not s.kallglot.embedded:
            raise Skipped("the API is not embedded")
        if s.interpreter.engine == "echo":
            return "echo: says back what it hears, for tests"
        from kallglot_ari.interpreter.engine import OfflineEngine

        engine = OfflineEngine(s.interpreter, self._metrics, self._clock)
        pair = (s.kallglot.source_language, s.kallglot.target_language)
        try:
            problems = engine.check(*([] if "auto" in pair else [pair, pair[::-1]]))
        finally:
            await engine.close()
        if problems:
            raise Failure("; ".join(problems), "kallglot-ari models fetch, and what the line above names")
        return "models, translator and voices are there"

    async def _service_answers(self) -> bool:
        url = f"{self._s.web.url()}/healthz"
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as http,
                http.get(url, ssl=tls.asking(self._s.web)) as answer,
            ):
                said = orjson.loads(await answer.content.read(65536))
        except (aiohttp.ClientError, TimeoutError, orjson.JSONDecodeError):
            return False
        # Also one that is not well, or does not let us in (web.allowed_ips), has its ports.
        return isinstance(said, dict) and bool(said.keys() & {"status", "error"})

    async def _port(self, bind: str, port: int, setting: str) -> str:
        if port == 0:
            return "any free one"
        family = socket.AF_INET6 if ":" in bind else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((bind, port))
            except OSError as error:
                if await self._service_answers():
                    return f"{bind}:{port} is in use, by the running service"
                section = setting.partition(".")[0]
                raise Failure(
                    f"{bind}:{port}: {error.strerror}", f"free the port, or set {section}.bind and {setting}"
                ) from None
        return f"{bind}:{port} is free"

    async def _ami(self) -> str:
        ami = self._s.ami
        if not ami.username:
            raise Skipped("ami.username is not set: FastAGI and ARI alone tell of trunk calls, and agent= needs it")
        try:
            reader, writer = await asyncio.open_connection(ami.host, ami.port)
        except OSError as error:
            raise Failure(
                f"{ami.host}:{ami.port}: {error.strerror or error}", "enable manager.conf, or set ami.host and ami.port"
            ) from None
        try:
            await reader.readline()
            secret = ami.password.get_secret_value()
            for text in (ami.username, secret):
                if "\r" in text or "\n" in text:
                    raise Failure("ami.username or ami.password has a line end", "take it out")
            writer.write(
                f"Action: Login\r\nUsername: {ami.username}\r\nSecret: {secret}\r\nEvents: off\r\n\r\n".encode()
            )
            answer = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            raise Failure("closed the connection", "look at permit and deny in manager.conf") from None
        finally:
            writer.close()
        if b"Success" not in answer:
            raise Failure("does not take the user", "check ami.username and ami.password against manager.conf")
        return f"{ami.host}:{ami.port} takes the user"

    def _trunk_in_use(self) -> None:
        trunk = self._s.trunk
        if not trunk.username and trunk.endpoints == TrunkSettings().endpoints:
            raise Skipped("trunk.username is not set: trunk mode is not in use")

    async def _skew(self) -> str:
        if self._s.kallglot.embedded:
            raise Skipped("the API is embedded")
        return await trunk_doctor.clock_skew(self._s.kallglot.urls, self._clock, self._s.kallglot.ca_file)

    async def _endpoint(self, endpoint: Endpoint) -> str:
        self._trunk_in_use()
        found = await probe(endpoint, self._s.trunk)
        said = [
            found.tls,
            f"{found.server or 'it'} answers OPTIONS in {found.options_ms:.0f} ms",
            f"INVITE: {found.invite}",
        ]
        return "; ".join(filter(None, said))

    async def _trunk_in_asterisk(self) -> str:
        self._trunk_in_use()
        if not self._s.ami.username:
            raise Skipped("ami.username is not set")
        return await trunk_doctor.pbx_side(self._s.ami, self._s.trunk)

    async def _codecs(self) -> str:
        self._trunk_in_use()
        async with self._ari() as ari:
            return await trunk_doctor.codecs(ari, self._s.trunk)

    async def _test_call(self) -> str:
        self._trunk_in_use()
        s = self._s
        if s.kallglot.embedded:
            raise Skipped("the embedded Kallglot has no SIP endpoint")
        client = KallglotClient(s.kallglot, s.trunk, self._metrics, self._clock)
        await client.start()
        try:
            return await trunk_doctor.test_call(s.ari, client, s.kallglot, s.trunk, self._clock)
        finally:
            await client.close()


def _can_be_made(file: Path) -> str:
    """Not made here: doctor may run as root, and the service could not write it then."""
    try:
        with tempfile.TemporaryFile(dir=file.parent):
            pass
    except OSError as error:
        raise Failure(
            f"store.url: {file} cannot be made: {error.strerror}", "set store.url to a folder this user may write to"
        ) from None
    return f"{file} is not there yet; the service makes it"


def _machine(settings: Settings) -> Finding:
    """Python, and the room where the service writes."""
    written = {Path.cwd()}
    with contextlib.suppress(ConfigError):  # the store's check says that one
        if (file := parse(settings.store.url).path) is not None:
            written = {file.absolute().parent}
    if diagnosis.in_use(settings):
        written.add(Path(settings.debug.dir).absolute())
    free: dict[Path, float] = {}
    for folder in sorted(written):
        there = next(each for each in (folder, *folder.parents) if each.exists())
        free[there] = shutil.disk_usage(there).free / 1e9
    room = ", ".join(f"{there:.1f} GB free in {folder}" for folder, there in free.items())
    enough = min(free.values()) > ROOM
    advice = "" if enough else f"free some disk space there: less than {ROOM:g} GB does not last a night"
    return Finding("machine", enough, f"Python {sys.version.split()[0]}, {room}", advice)


async def run_doctor(path: str | None, *, as_json: bool = False, call: bool = False) -> int:
    """Print the findings; 1 if any check fails."""
    try:
        settings = load(path)
        log.hide(settings.secrets())
        file = find_file(path, os.environ)
        findings = [
            Finding("configuration", True, str(file) if file else "built-in defaults and the environment"),
            _machine(settings),
        ]
        findings += await Doctor(settings, call=call).examine()
    except ConfigError as error:
        problem = log.redact(str(error))
        findings = [
            Finding("configuration", False, problem, "mend that setting; docs/configuration.md has all of them")
        ]
        sys.stderr.write(f"kallglot-ari: {problem}\n")  # as every command says it
    if as_json:
        sys.stdout.write(orjson.dumps([asdict(f) for f in findings], option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        table = Table(box=None, pad_edge=False)
        for heading in ("", "check", "found"):
            table.add_column(heading, overflow="fold")
        for finding in findings:
            mark = {True: Text("ok", "green"), False: Text("FAIL", "red"), None: Text("-", "dim")}[finding.ok]
            found = Text(standard.harmless(finding.found))
            if finding.advice:
                found.append(f"\n→ {finding.advice}", "yellow")
            table.add_row(mark, finding.check, found)
        Console(width=standard.columns()).print(table)
        failed = sum(finding.ok is False for finding in findings)
        verdict = ("Nothing stands in the way of a call.", f"{failed} check{'s' * (failed > 1)} failed.")[failed > 0]
        Console().print(verdict, style="bold red" if failed else "bold green")
    return 1 if any(finding.ok is False for finding in findings) else 0
