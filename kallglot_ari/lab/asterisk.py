"""A real Asterisk for demo, tests and benchmarks: private folders, free ports, the files of asterisk-conf/, gone afterwards."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from kallglot_ari.errors import LabError
from kallglot_ari.lab import conf, roots, slots
from kallglot_ari.lab.roots import Progress, Root, Version

START_SECONDS = 30.0
STOP_SECONDS = 10.0
_RUNS = "var/tmp/kallglot-lab"


def _quiet(_: str) -> None:
    return


class LabAsterisk:
    """One running Asterisk. Several may run at the same time, of the same or of different versions.

    It dies with the process (the thread) that started it, even when that is killed; the folders of a killed one are removed
    by the next start.

    :param version: `22`, `16`, or None for whatever the machine has.
    :param phones: how many phones `phone01`, `phone02`, … it knows besides `customer`, `agent`, `agent2` and `agent3`.
    :param local: more text for a file of `local/` (`extensions.conf`, `pjsip.conf`, …), by file name.
    :param verbose: verbosity of its log, 0 to 5.
    """

    def __init__(
        self,
        version: Version | None = "22",
        *,
        phones: int = 60,
        local: Mapping[str, str] | None = None,
        verbose: int = 3,
        progress: Progress = _quiet,
    ) -> None:
        self._wanted: Version | None = version
        self._phones = phones
        self._local = dict(local or {})
        self._verbose = verbose
        self._progress = progress
        self.ari_user = "kallglot"
        self.ari_password = secrets.token_urlsafe(18)
        self.manager_user = "kallglot"
        self.manager_password = secrets.token_urlsafe(18)
        self.phone_password = secrets.token_urlsafe(12)
        self._slot: slots.Slot | None = None
        self._root: Root | None = None
        self._folder: Path | None = None
        self._guard: IO[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    # --- what others need to know ---------------------------------------------------------------------------------

    @property
    def slot(self) -> slots.Slot:
        """The ports. :raises LabError: before the start."""
        if self._slot is None:
            raise LabError("this lab Asterisk is not started: no ports yet")
        return self._slot

    @property
    def root(self) -> Root:
        if self._root is None:
            raise LabError("this lab Asterisk is not started: not known yet which one it is")
        return self._root

    @property
    def folder(self) -> Path:
        """The private folder with etc, log, spool, run and lib in it."""
        if self._folder is None:
            raise LabError("this lab Asterisk is not started: no folder yet")
        return self._folder

    @property
    def inside(self) -> Path:
        """The same folder as Asterisk sees it, whose root may be a folder of this machine."""
        return Path(f"/{_RUNS}") / self.folder.name

    @property
    def version(self) -> str:
        return self.root.version

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0])

    @property
    def ari_url(self) -> str:
        """Base address of its HTTP server, for `[ari] url`."""
        return f"http://127.0.0.1:{self.slot.http}"

    @property
    def sip_port(self) -> int:
        """UDP and TCP."""
        return self.slot.sip

    @property
    def sip_tls_port(self) -> int:
        return self.slot.sip_tls

    @property
    def manager_port(self) -> int:
        return self.slot.manager

    @property
    def rtp_range(self) -> tuple[int, int]:
        return self.slot.rtp

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process and self._process.poll() is None else None

    @property
    def running(self) -> bool:
        return self.pid is not None

    def log(self, lines: int | None = None) -> str:
        """Its log; the last `lines` only, if given."""
        file = self.folder / "log/messages.log"
        text = file.read_text(errors="replace") if file.exists() else ""
        return text if lines is None else "\n".join(text.splitlines()[-lines:])

    def complaints(self) -> list[str]:
        """The warnings and errors of its log."""
        return [line for line in self.log().splitlines() if " WARNING[" in line or " ERROR[" in line]

    # --- start and stop --------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Find or make an Asterisk, start it and wait until ARI answers.

        :raises LabError: with the log's tail when it does not come up in 30 s.
        """
        if self.running:
            raise LabError("this lab Asterisk is running already")
        self._root = await asyncio.to_thread(roots.find_or_make, self._wanted, self._progress)
        self._slot = slots.take()
        try:
            self._make_folder()
            await self._launch()
        except BaseException:
            await self.stop()
            raise

    async def restart(self, *, gracefully: bool = True) -> None:
        """Stop (or kill) and start again with the same ports, passwords and folders."""
        await self._end(signal.SIGTERM if gracefully else signal.SIGKILL)
        await self._launch()

    async def stop(self) -> None:
        """End it and remove its folder. Harmless when it is not running."""
        await self._end(signal.SIGTERM)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._guard is not None:
            self._guard.close()
            Path(self._guard.name).unlink(missing_ok=True)
        if self._slot is not None:
            self._slot.free()
        self._folder = self._guard = self._slot = None

    async def __aenter__(self) -> LabAsterisk:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def _make_folder(self) -> None:
        runs = self.root.folder / _RUNS
        runs.mkdir(parents=True, exist_ok=True)
        _sweep(runs)
        name = f"{os.getpid()}-{secrets.token_hex(3)}"
        self._guard = (runs / f"{name}.lock").open("w")
        fcntl.flock(self._guard, fcntl.LOCK_EX)
        self._folder = runs / name
        values = conf.Values(
            inside=f"/{_RUNS}/{name}",
            modules="/" + str(self.root.modules().relative_to(self.root.folder)),
            http=self.slot.http,
            sip=self.slot.sip,
            sip_tls=self.slot.sip_tls,
            manager=self.slot.manager,
            rtp=self.slot.rtp,
            ari_password=self.ari_password,
            manager_password=self.manager_password,
            phone_password=self.phone_password,
            phones=self._phones,
        )
        conf.write(self._folder, values, self.root.modules(), self._local)

    async def _launch(self) -> None:
        inside = str(self.inside / "etc/asterisk.conf")
        arguments = ["-f", "-C", inside, *(["-" + "v" * self._verbose] if self._verbose else [])]
        with (self.folder / "log/output.log").open("ab") as output:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - a few ms; and it must not belong to one event loop
                [*dying_with_us(), *self.root.command(*arguments)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        loop = asyncio.get_running_loop()
        deadline = loop.time() + START_SECONDS
        while loop.time() < deadline:
            if self._process.poll() is not None:
                raise LabError(f"Asterisk {self.version} ended with {self._process.returncode}: {self._tail()}")
            if await asyncio.to_thread(self._answers):
                return
            await asyncio.sleep(0.05)
        raise LabError(f"Asterisk {self.version}: ARI did not answer in {START_SECONDS:.0f} s: {self._tail()}")

    def _answers(self) -> bool:
        try:
            info = self.ari("GET", "/asterisk/info", timeout=2)
        except (OSError, ValueError):
            return False
        return bool(info.get("status", {}).get("startup_time")) and "Asterisk Ready" in self.log()

    def _tail(self) -> str:
        output = self.folder / "log/output.log"
        printed = output.read_text(errors="replace").splitlines()[-5:] if output.exists() else []
        return "\n".join(["the end of its log:", *printed, *self.log(25).splitlines()])

    async def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        for attempt in (how, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, attempt)
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(process.wait, STOP_SECONDS)
                return
        raise LabError(f"Asterisk (process {process.pid}) does not end, even when killed")

    # --- control -----------------------------------------------------------------------------------------------------

    async def cli(self, command: str, timeout: float = 10) -> str:
        """What Asterisk's console says to `command`. :raises LabError: when it does not answer."""
        inside = str(self.inside / "etc/asterisk.conf")
        process = await asyncio.create_subprocess_exec(
            *self.root.command("-C", inside, "-rx", command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            output, _ = await asyncio.wait_for(process.communicate(), timeout)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise LabError(f"Asterisk's console did not answer {command!r} in {timeout} s") from None
        text = output.decode(errors="replace")
        if process.returncode:
            raise LabError(f"Asterisk's console, {command!r}: {text.strip()}")
        return text

    async def extension(self, number: str, *steps: str, context: str = "kallglot-phones") -> None:
        """Add (or replace) an extension of the dialplan; `steps` are applications: `Stasis(kallglot,agent=PJSIP/agent)`."""
        await self.cli(f"dialplan remove extension {number}@{context}")
        for priority, step in enumerate(steps, 1):
            name, _, rest = step.partition("(")
            data = rest.removesuffix(")").replace('"', '\\"')
            said = await self.cli(f'dialplan add extension {number},{priority},{name},"{data}" into {context}')
            if "added into" not in said:
                raise LabError(f"extension {number}, step {priority} {step!r}: Asterisk says {said.strip()!r}")

    def ari(self, method: str, path: str, *, timeout: float = 10, body: object = None) -> Any:
        """A request of ARI, `path` without `/ari`. Blocks; for set-up and checks, not for the service.

        :raises OSError: no connection, or an HTTP error (`urllib.error.HTTPError`).
        """
        login = base64.b64encode(f"{self.ari_user}:{self.ari_password}".encode()).decode()
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.ari_url + "/ari" + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    async def reset(self, timeout: float = 5) -> None:
        """Hang up every channel and remove every bridge. :raises LabError: what is left after `timeout` seconds."""
        await asyncio.to_thread(self._reset_once)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while left := await asyncio.to_thread(self._reset_once):
            if loop.time() > deadline:
                raise LabError(f"Asterisk still has {', '.join(left)} after {timeout} s of hanging up")
            await asyncio.sleep(0.05)

    def _reset_once(self) -> list[str]:
        left = []
        for kind in ("channels", "bridges"):
            for item in self.ari("GET", f"/{kind}"):
                left.append(f"{kind[:-1]} {item.get('name') or item['id']}")
                with contextlib.suppress(urllib.error.HTTPError):
                    self.ari("DELETE", f"/{kind}/{item['id']}")
        return left


def dying_with_us() -> list[str]:
    """The words before a command that make the kernel kill it when we die. :raises LabError: without util-linux."""
    if not sys.platform.startswith("linux"):
        raise LabError(f"the lab runs on Linux only, found {sys.platform}")
    if not shutil.which("setpriv"):
        raise LabError("setpriv not found: install util-linux")
    return ["setpriv", "--pdeathsig", "KILL", "--"]


def _sweep(runs: Path) -> None:
    """Remove the folders of runs whose process is gone: nobody holds their lock."""
    for lock in runs.glob("*.lock"):
        with contextlib.suppress(OSError), lock.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink(missing_ok=True)
