"""The files of asterisk-conf/ as a user has them: over /etc/asterisk, and in local/ only the lines that their README names.

The lab writes more there, and its own asterisk.conf and music; so a fault of the files themselves would not show in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from kallglot_ari.errors import LabError
from kallglot_ari.lab import conf, roots
from kallglot_ari.lab.asterisk import dying_with_us
from tests.asterisk.conftest import missing

pytestmark = [pytest.mark.asterisk]

IN_README = {
    "ari.conf": ("[kallglot](+)", "password = s3cret"),
    "musiconhold.conf": ("[default](+)", "directory = sounds/en/silence"),
}
FOR_OLD = {"modules.conf": ("[modules](+)", "noload = res_websocket_client.so")}
START_SECONDS = 20.0
_DIRECTORIES = """\
[directories]
astetcdir = {inside}/etc
astmoddir = {modules}
astvarlibdir = {inside}/lib
astdbdir = {inside}/lib
astkeydir = {inside}/lib
astdatadir = /usr/share/asterisk
astspooldir = {inside}/spool
astrundir = {inside}/run
astlogdir = {inside}/log
astcachedir = {inside}/cache
"""


@dataclass
class Bare:
    """An Asterisk in a network of its own, so that the ports that the files name are free."""

    root: roots.Root
    folder: Path

    @property
    def old(self) -> bool:
        return not (self.root.modules() / "res_websocket_client.so").exists()

    @property
    def main(self) -> str:
        return f"/{self.folder.relative_to(self.root.folder)}/etc/asterisk.conf"

    def local(self, files: Mapping[str, Sequence[str]]) -> None:
        (self.folder / "etc/local").mkdir(exist_ok=True)
        for name, lines in files.items():
            (self.folder / "etc/local" / name).write_text("\n".join(lines) + "\n")

    def complaints(self) -> list[str]:
        text = (self.folder / "log/messages.log").read_text(errors="replace")
        return [line for line in text.splitlines() if " WARNING[" in line or " ERROR[" in line]

    async def cli(self, command: str) -> str:
        return await asyncio.to_thread(self._cli, command)

    def _cli(self, command: str) -> str:
        arguments = self.root.command("-C", self.main, "-rx", command)
        return subprocess.run(arguments, capture_output=True, text=True, timeout=10, check=False).stdout

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        command = " ".join(self.root.command("-f", "-C", self.main))
        process = subprocess.Popen(
            [*dying_with_us(), "unshare", "--net", "sh", "-c", f"ip link set lo up; exec {command}"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            async with asyncio.timeout(START_SECONDS):
                while "fully booted" not in await self.cli("core waitfullybooted"):
                    assert process.poll() is None, "Asterisk ended"
                    await asyncio.sleep(0.2)
            yield
        finally:
            process.kill()
            await asyncio.to_thread(process.wait)


@pytest.fixture(params=["22", pytest.param("16", marks=pytest.mark.asterisk16)])
def bare(request: pytest.FixtureRequest) -> Iterator[Bare]:
    if os.geteuid() != 0 or not all(shutil.which(tool) for tool in ("unshare", "ip")):
        missing("a network of its own for an Asterisk needs root, unshare and ip")
    try:
        root = roots.find_or_make(request.param, print)
    except LabError as error:
        missing(str(error))
        raise
    folder = root.folder / "var/tmp" / f"kallglot-shipped-{os.getpid()}-{request.param}"
    try:
        for name in ("log", "spool", "run", "lib/keys", "cache"):
            (folder / name).mkdir(parents=True)
        shutil.copytree(root.folder / "etc/asterisk", folder / "etc", symlinks=True)
        (folder / "etc/users.conf").unlink(
            missing_ok=True
        )  # Debian's own, of which Asterisk 22 says that it is obsolete
        shutil.copytree(conf.shipped(), folder / "etc", dirs_exist_ok=True)
        modules = "/" + str(root.modules().relative_to(root.folder))
        inside = f"/{folder.relative_to(root.folder)}"
        (folder / "etc/asterisk.conf").write_text(_DIRECTORIES.format(inside=inside, modules=modules))
        (folder / "etc/logger.conf").write_text("[general]\n[logfiles]\nmessages.log = notice,warning,error\n")
        yield Bare(root, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_the_readme_names_the_lines() -> None:
    text = (conf.shipped() / "README.md").read_text()
    for name, lines in (IN_README | FOR_OLD).items():
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
        assert all(line.replace("s3cret", "…") in row for line in lines), row


async def test_they_load_without_a_complaint_with_what_the_readme_says(bare: Bare) -> None:
    bare.local(IN_README | (FOR_OLD if bare.old else {}))
    async with bare.running():
        assert "kallglot" in await bare.cli("ari show users")
        assert "Stasis" in await bare.cli("dialplan show kallglot-inbound")
        assert "default" in await bare.cli("moh show classes")
        assert bare.complaints() == []


async def test_with_only_a_password_ari_is_there_all_the_same(bare: Bare) -> None:
    bare.local({"ari.conf": IN_README["ari.conf"]})
    async with bare.running():
        assert "kallglot" in await bare.cli("ari show users")
        expected = ["/moh:", "No music on hold classes", *(["res_websocket_client.so"] if bare.old else [])]
        assert [line for line in bare.complaints() if not any(part in line for part in expected)] == []


async def test_kallglot_alone_beside_an_own_dialplan(bare: Bare) -> None:
    bare.local(IN_README | (FOR_OLD if bare.old else {}))
    own = (
        "[general]\nstatic = yes\n[globals]\nKALLGLOT_AGENT = PJSIP/1001\nKALLGLOT_SOURCE = de\nKALLGLOT_TARGET = en\n"
    )
    (bare.folder / "etc/extensions.conf").write_text(own + "#include kallglot/extensions.conf\n")
    async with bare.running():
        assert "Stasis" in await bare.cli("dialplan show kallglot-inbound")
        shown = await bare.cli("dialplan show globals")
        assert "KALLGLOT_AGENT=PJSIP/1001" in shown
        assert "KALLGLOT_AGI=agi://" in shown
        assert bare.complaints() == []


async def test_who_forgets_the_agent_is_told_by_asterisks_log(bare: Bare) -> None:
    """The caller would be in a session without anybody to talk to, in silence."""
    bare.local(IN_README | (FOR_OLD if bare.old else {}) | {"extensions.conf": ("[globals](+)", "KALLGLOT_AGENT =")})
    async with bare.running():
        await bare.cli("module load res_clioriginate.so")
        await bare.cli("channel originate Local/s@kallglot-inbound application Wait 1")
        async with asyncio.timeout(5):
            while not any("KALLGLOT_AGENT is not set" in line for line in bare.complaints()):
                await asyncio.sleep(0.1)
