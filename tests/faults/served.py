"""The service as users run it: a process of its own, to be killed at any moment and started again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any, Self

from kallglot_ari.lab.asterisk import LabAsterisk, dying_with_us
from tests.double.server import KallglotDouble

TOKEN = "faults-token"
ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Served:
    """`kallglot-ari serve` against `asterisk`; without a double, with the embedded Kallglot and its echo.

    :param instead_of: a run whose calls this one takes over. :param settings: more settings, ``SECTION__KEY=value``.
    """

    def __init__(
        self,
        asterisk: LabAsterisk,
        folder: Path,
        double: KallglotDouble | None = None,
        instead_of: Served | None = None,
        **settings: object,
    ) -> None:
        self.folder = folder
        self.web_port: int = instead_of.web_port if instead_of else free_port()
        self._arguments = ("--take-over",) if instead_of else ()
        values: dict[str, object] = {
            "SERVICE__INSTANCE": "faults",
            "SERVICE__DRAIN_SECONDS": 0,
            "ARI__URL": asterisk.ari_url,
            "ARI__USERNAME": asterisk.ari_user,
            "ARI__PASSWORD": asterisk.ari_password,
            "WEB__PORT": self.web_port,
            "WEB__TOKEN": TOKEN,
            "AGI__PORT": 0,
            "STORE__URL": f"sqlite:///{folder / 'calls.db'}",
            "INTERPRETER__ENGINE": "echo",
            "LOG__FORMAT": "json",
        }
        if double is not None:
            values |= {
                "KALLGLOT__URL": double.url,
                "KALLGLOT__API_KEY": double.api_key,
                "KALLGLOT__CONTRACT": double.contract,
            }
        values |= settings
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith("KALLGLOT_")}
        self._environment |= {f"KALLGLOT__{name}": str(value) for name, value in values.items()}
        self._environment["PYTHONPATH"] = str(ROOT)
        self.module = "kallglot_ari"
        self.process: subprocess.Popen[bytes] | None = None
        self.started_at = 0.0

    async def __aenter__(self) -> Self:
        await self.start(*self._arguments)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                await asyncio.to_thread(self.process.wait, 30)
            except subprocess.TimeoutExpired:
                self.kill()

    async def start(self, *arguments: str, wait: bool = True) -> None:
        """Start, and wait until it is ready."""
        self.started_at = time.monotonic()
        with (self.folder / "service.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*dying_with_us(), sys.executable, "-m", self.module, "serve", *arguments],
                env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder,
            )  # fmt: skip
        if wait:
            await self.wait_ready()

    def kill(self) -> None:
        """SIGKILL: nothing of it runs any more when this returns."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    async def wait_ready(self, timeout: float = 40) -> None:
        deadline = time.monotonic() + timeout
        while True:
            assert self.process is not None
            assert self.process.poll() is None, f"it ended: {self.log(15)}"
            try:
                await self.get("/readyz")
                return
            except OSError:
                assert time.monotonic() < deadline, f"not ready: {self.log(15)}"
                await asyncio.sleep(0.05)

    async def get(self, path: str) -> Any:
        """An answer of its web server. :raises OSError: none, or an error."""
        return await self._ask("GET", path, None)

    async def post(self, path: str, body: object = None) -> Any:
        return await self._ask("POST", path, {} if body is None else body)

    async def _ask(self, method: str, path: str, body: object) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.web_port}{path}",
            None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"},
            method=method,
        )

        def ask() -> Any:
            with urllib.request.urlopen(request, timeout=5) as answer:
                text = answer.read()
            return json.loads(text) if answer.headers.get_content_type() == "application/json" else text.decode()

        return await asyncio.to_thread(ask)

    async def calls(self) -> list[dict[str, Any]]:
        """The live calls."""
        found: list[dict[str, Any]] = (await self.get("/api/v1/calls?active=true"))["calls"]
        return found

    async def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        text = await self.get("/metrics")
        return sum(
            float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))
        )

    def log(self, lines: int | None = None) -> str:
        text = (self.folder / "service.log").read_text(errors="replace")
        return text if lines is None else "\n".join(text.splitlines()[-lines:])

    def events(self, name: str) -> list[dict[str, Any]]:
        """Its log's entries of one event."""
        found = []
        for line in self.log().splitlines():
            if f'"{name}"' in line:
                entry = json.loads(line)
                if entry.get("event") == name:
                    found.append(entry)
        return found


async def nothing_left(served: Served, asterisk: LabAsterisk, timeout: float = 15) -> None:
    """No call, channel, bridge or pending session."""
    deadline = time.monotonic() + timeout
    while True:
        channels = await asyncio.to_thread(asterisk.ari, "GET", "/channels")
        bridges = await asyncio.to_thread(asterisk.ari, "GET", "/bridges")
        left = [c["name"] for c in channels] + [b["id"] for b in bridges] + [c["id"] for c in await served.calls()]
        pending = await served.metric("kallglot_sessions_pending_end")
        if not left and not pending:
            return
        assert time.monotonic() < deadline, f"left: {left}, {pending:.0f} sessions pending"
        await asyncio.sleep(0.1)
