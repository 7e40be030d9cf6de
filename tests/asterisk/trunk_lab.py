"""Trunk mode's lab: one Asterisk is the PBX with the files we write, others play Kallglot's SIP endpoints.

An edge demands TLS, SDES-SRTP and digest, and says back what it hears. The API is in memory, so that every session is seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import SecretStr

from kallglot_ari.clock import SystemClock
from kallglot_ari.errors import LabError
from kallglot_ari.lab import edge as sip_edge
from kallglot_ari.lab.asterisk import LabAsterisk
from kallglot_ari.lab.conf import make_certificate
from kallglot_ari.lab.phones import Phone
from kallglot_ari.lab.roots import Version
from kallglot_ari.metrics import Metrics
from kallglot_ari.modes.load import Load
from kallglot_ari.modes.pbx_lost import Api
from kallglot_ari.modes.trunk import TrunkMode
from kallglot_ari.pbx import asterisk as render
from kallglot_ari.settings import (
    AgiSettings,
    AmiSettings,
    DebugSettings,
    KallglotSettings,
    Settings,
    TrunkSettings,
)
from tests.asterisk.conftest import missing
from tests.faults.proxy import Proxy
from tests.modes.trunk_fakes import FakeHub, FakeStore, FakeTranslator

PBX_DIALPLAN = """
[globals](+)
KALLGLOT_AGI = agi://127.0.0.1:{agi}
KALLGLOT_TECH = {tech}
KALLGLOT_TRANSPORT = {transport}
KALLGLOT_AGENT =
KALLGLOT_FALLBACK =
[kallglot-phones](+)
exten = 300,1,Goto(kallglot-trunk,s,1)
exten = 301,1,Set(KALLGLOT_TRUNK_AGENT=PJSIP/agent)
 same = n,Goto(kallglot-trunk,s,1)
exten = 302,1,Set(KALLGLOT_FALLBACK=PJSIP/agent2)
 same = n,Goto(kallglot-trunk,s,1)
exten = 303,1,Dial(PJSIP/agent3,5)
 same = n,Hangup()
"""
CHAN_SIP = """
udpbindaddr = 127.0.0.1:0
tlsbindaddr = 127.0.0.1:0
tlscertfile = {pem}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def free_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def inside(asterisk: LabAsterisk, path: Path) -> str:
    """A path as that Asterisk sees it."""
    return "/" + str(path.relative_to(asterisk.root.folder))


Transport = Literal["tls", "tcp", "udp"]


@dataclass
class Trunk:
    """PBX, edges, trunk mode and what it asked of the API."""

    pbx: LabAsterisk
    edges: list[LabAsterisk]
    mode: TrunkMode
    settings: Settings
    api: FakeTranslator
    store: FakeStore
    hub: FakeHub
    metrics: Metrics
    manager_line: Proxy
    """Between the service and the PBX's manager interface."""

    @property
    def edge(self) -> LabAsterisk:
        return self.edges[0]

    async def ended(self, seconds: float = 5) -> list[tuple[str, str]]:
        """Wait until no session is open; how each ended."""
        await self.until(lambda: not (self.mode.calls() or self.api.open or self.store.pending), seconds)
        return self.api.ended

    async def until(self, condition: Callable[[], bool], seconds: float = 10) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.02)

    async def active(self) -> None:
        """Wait until a call is seen to be up."""
        await self.until(lambda: any(view.state == "active" for view in self.mode.calls()))

    async def edge_global(self, name: str, edge: LabAsterisk | None = None) -> str:
        text = await (edge or self.edge).cli("dialplan show globals")
        return next(
            (line.partition("=")[2].strip() for line in text.splitlines() if line.strip().startswith(f"{name}=")), ""
        )

    def dialled(self, edge: LabAsterisk | None = None) -> int:
        """How many calls reached the edge's dialplan."""
        return (edge or self.edge).log().count("sess_1@edge:1]")


@dataclass
class TrunkLab:
    """Starts the parts; what it started is stopped by `stop`."""

    asterisks: list[LabAsterisk] = field(default_factory=list)
    modes: list[TrunkMode] = field(default_factory=list)
    stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    async def edge(
        self, version: Version, codecs: str, dialplan: str, allowed: str, transport: Transport
    ) -> LabAsterisk:
        files = {
            "pjsip.conf": sip_edge.pjsip(codecs, allowed=allowed, transport=transport),
            "extensions.conf": dialplan,
        }
        edge = LabAsterisk(version, phones=0, local=files)
        try:
            await edge.start()
        except LabError as error:
            missing(str(error))
        self.asterisks.append(edge)
        return edge

    async def __call__(
        self,
        *,
        version: Version = "22",
        tech: str = "PJSIP",
        transport: Transport = "tls",
        edge_codecs: str = "opus,g722,ulaw,alaw",
        edge_dialplans: tuple[str, ...] = (sip_edge.ECHO,),
        edge_allows: str = "",
        dead_first: str = "",
        make_api: Callable[[LabAsterisk], Awaitable[Api]] | None = None,
        folder: Path | None = None,
        **options: Any,
    ) -> Trunk:
        """:param edge_dialplans: one for each edge, in failover order. :param options: those of [trunk]."""
        starting = (self.edge(version, edge_codecs, dialplan, edge_allows, transport) for dialplan in edge_dialplans)
        edges = await asyncio.gather(*starting)
        host = "localhost" if tech == "SIP" else "127.0.0.1"  # chan_sip compares certificates with names only
        ports = [edge.sip_tls_port if transport == "tls" else edge.sip_port for edge in edges]
        endpoints = [{"uri": f"{host}:{port}", "priority": 5} for port in ports]
        if dead_first:
            endpoints.insert(0, {"uri": dead_first, "priority": 1})
        cas = edges[0].folder / "etc/all.crt"
        cas.write_text("".join((edge.folder / "etc/keys/asterisk.crt").read_text() for edge in edges))
        base = {
            "username": sip_edge.USER, "password": SecretStr(sip_edge.PASSWORD), "endpoints": endpoints,
            "ca_file": inside(edges[0], cas), "transport": transport, "failover_timeout_ms": 1500,
            "bind_port": free_udp_port() if transport == "udp" else free_port(),
        }  # fmt: skip
        if options.get("ca_file") == "other":
            assert make_certificate(edges[0].folder / "etc/other")
            options["ca_file"] = inside(edges[0], edges[0].folder / "etc/other/asterisk.crt")
        agi = free_port()
        trunk = TrunkSettings.model_validate({**base, **options})
        settings = Settings(
            trunk=trunk, agi=AgiSettings(port=agi), debug=DebugSettings(dir=str(folder or "unused")),
            ami=AmiSettings(username="trunk", password=SecretStr("pass; word")),
        )  # fmt: skip
        pbx = await self._pbx(version, tech, settings, edges[0])
        api, store, hub, metrics = FakeTranslator(), FakeStore(), FakeHub(), Metrics()
        line = await self.stack.enter_async_context(Proxy("127.0.0.1", pbx.manager_port))
        settings = settings.model_copy(update={"ami": settings.ami.model_copy(update={"port": line.port})})
        mode = TrunkMode(
            await make_api(edges[0]) if make_api else api, store, hub, kallglot=KallglotSettings(), trunk=trunk,
            agi=settings.agi, ami=settings.ami, metrics=metrics, clock=SystemClock(),
            load=Load(metrics), instance="lab", debug=settings.debug,
        )  # fmt: skip
        await mode.start()
        self.modes.append(mode)
        trunk_lab = Trunk(pbx, edges, mode, settings, api, store, hub, metrics, line)
        await trunk_lab.until(lambda: not any(problem.startswith("AMI") for problem in mode.problems()))
        return trunk_lab

    async def _pbx(self, version: Version, tech: str, settings: Settings, edge: LabAsterisk) -> LabAsterisk:
        trunk = settings.trunk
        local = {
            "manager.conf": render.manager(settings),
            "extensions.conf": PBX_DIALPLAN.format(
                agi=settings.agi.port, tech=tech, transport=render.transport_name(trunk)
            ),
        }
        if trunk.sip_trace:
            local |= {"hep.conf": render.hep(settings), "modules.conf": "load = res_hep.so\nload = res_hep_pjsip.so\n"}
        if tech == "SIP":
            keys = edge.folder / "etc/keys"
            (keys / "both.pem").write_text((keys / "asterisk.crt").read_text() + (keys / "asterisk.key").read_text())
            local["sip.conf"] = CHAN_SIP.format(pem=inside(edge, keys / "both.pem")) + render.chan_sip(trunk)
            local["modules.conf"] = local.get("modules.conf", "") + "load = chan_sip.so\n"
        else:
            local["pjsip.conf"] = render.pjsip(trunk)
        pbx = LabAsterisk(version, phones=0, local=local)
        await pbx.start()
        self.asterisks.append(pbx)
        return pbx

    async def second_pbx(self, trunk: Trunk) -> LabAsterisk:
        """Another PBX with the same files and the same FastAGI; the service knows nothing of it."""
        own = trunk.settings.trunk.model_copy(update={"bind_port": free_port()})
        return await self._pbx("22", "PJSIP", trunk.settings.model_copy(update={"trunk": own}), trunk.edge)

    async def stop(self) -> None:
        for mode in self.modes:
            await mode.stop(grace=1)
        for asterisk in self.asterisks:
            if asterisk.running:
                kill(asterisk)  # its orderly end would take a second or two
            await asterisk.stop()
        await self.stack.aclose()


def kill(asterisk: LabAsterisk) -> None:
    """It is gone without a word."""
    assert asterisk.pid is not None
    os.killpg(asterisk.pid, signal.SIGKILL)


async def hears_itself(phone: Phone, hertz: float = 1000, seconds: float = 10) -> bool:
    """Does the tone it says come back, for a second at least?"""
    await phone.tone(hertz)
    deadline = asyncio.get_running_loop().time() + seconds
    await asyncio.sleep(1)
    while not (heard := hears(phone, hertz)) and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.1)
    return heard


def hears(phone: Phone, hertz: float, seconds: float = 1) -> bool:
    """Was this tone what it heard last?"""
    heard = phone.recording.samples[-int(phone.rate * seconds) :].astype(float)
    spectrum = np.abs(np.fft.rfft(heard * np.hanning(len(heard))))
    peak = float(np.argmax(spectrum)) * phone.rate / len(heard)
    return bool(np.sqrt(np.mean(heard**2)) > 500 and abs(peak - hertz) < 10)
