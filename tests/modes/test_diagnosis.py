"""`[debug] dir`: a folder that cannot be written is told, and costs no call."""

from __future__ import annotations

import asyncio
import io
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from kallglot_ari.calls.interfaces import CaptureFile, Flow, Media
from kallglot_ari.errors import ConfigError
from kallglot_ari.modes import diagnosis
from kallglot_ari.modes.diagnosis import Diagnosis
from kallglot_ari.settings import DebugSettings, Settings
from kallglot_ari.web.problem import of_service_error


class File:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.over = False

    def close(self) -> None: ...


class Flows:
    """Stands for the media and for a leg's flow."""

    def __init__(self) -> None:
        self.files: list[CaptureFile | None] = []

    def capture_file(self, path: Path) -> CaptureFile:
        return File(path)

    def capture(self, file: CaptureFile | None) -> None:
        self.files.append(file)


def made(folder: Path, *, pcap: bool = False) -> tuple[Diagnosis, Flows]:
    flows = Flows()
    return Diagnosis("c1", DebugSettings(dir=str(folder), pcap=pcap), cast(Media, flows)), flows


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """What is in the way of a folder."""
    (tmp_path / "file").write_text("")
    return tmp_path / "file"


async def test_a_capture_that_cannot_be_written_is_an_error_at_once(file: Path) -> None:
    found, flows = made(file / "debug")
    with pytest.raises(
        ConfigError, match=r"debug\.dir: .*/file/debug: no file can be written there: Not a directory"
    ) as error:
        await found.capture([cast(Flow, flows)], on=True)
    assert (of_service_error(error.value).status, of_service_error(error.value).code) == (500, "misconfigured")
    assert flows.files == []


async def test_a_capture_begins_where_the_folder_can_be_made(tmp_path: Path) -> None:
    found, flows = made(tmp_path / "new/debug")
    assert await found.capture([cast(Flow, flows)], on=True) == tmp_path / "new/debug/c1.pcap"
    assert len(flows.files) == 1
    assert not (tmp_path / "new").exists(), "made by the first packet"


async def test_who_asks_for_a_capture_is_told_where_it_is_from_wherever_he_asks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    found, flows = made(Path("kallglot-ari-debug"))
    assert await found.capture([cast(Flow, flows)], on=True) == tmp_path / "kallglot-ari-debug/c1.pcap"


async def test_a_disk_that_is_full_is_told_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: io.FileIO("/dev/full", "w"))
    found, flows = made(tmp_path)
    with pytest.raises(ConfigError, match="no file can be written there: No space left on device"):
        await found.capture([cast(Flow, flows)], on=True)
    assert flows.files == []


async def test_no_capture_begins_on_a_disk_that_has_room_for_little_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_blocks=1 << 20, f_bavail=50_000, f_frsize=4096))
    found, flows = made(tmp_path)
    with pytest.raises(ConfigError, match="its disk has less than 215 MB left, which are not for captures"):
        await found.capture([cast(Flow, flows)], on=True)
    assert flows.files == []


async def test_a_capture_that_was_given_up_can_be_begun_again(tmp_path: Path) -> None:
    found, flows = made(tmp_path)
    await found.capture([cast(Flow, flows)], on=True)
    await found.capture([cast(Flow, flows)], on=True)
    assert len(flows.files) == 1, "it runs"
    assert isinstance(flows.files[0], File)
    flows.files[0].over = True
    await found.capture([cast(Flow, flows)], on=True)
    assert len(flows.files) == 2


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Whoever asks the disk anything waits, as for a network disk that is away."""
    back = threading.Event()

    def hung(ask: Callable[..., Any]) -> Callable[..., Any]:
        def waits(path: Path, *args: Any, **options: Any) -> Any:
            if path.is_relative_to(tmp_path):
                back.wait(20)
            return ask(path, *args, **options)

        return waits

    for name in ("exists", "stat", "mkdir", "glob"):
        monkeypatch.setattr(Path, name, hung(getattr(Path, name)))
    monkeypatch.setattr(diagnosis, "_PATIENCE", 0.1)
    yield
    back.set()


@pytest.mark.usefixtures("hanging")
async def test_a_disk_that_hangs_holds_up_who_asked_for_a_capture_and_nobody_else(tmp_path: Path) -> None:
    found, flows = made(tmp_path)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.01)
            turns += 1

    going_on = asyncio.get_running_loop().create_task(others())
    for _ in range(6):
        with pytest.raises(ConfigError, match=r"debug\.dir: /.*: the disk has not answered for 0\.1 s"):
            await found.capture([cast(Flow, flows)], on=True)
    going_on.cancel()
    assert turns > 10
    assert flows.files == []
    assert sum(thread.name == "kallglot-debug-dir" for thread in threading.enumerate()) == 4
    with capture_logs() as logged:
        await diagnosis.warn(Settings(debug=DebugSettings(dir=str(tmp_path), pcap=True)))
    assert [line["event"] for line in logged] == ["debug_dir_cannot_be_written"]


@pytest.mark.usefixtures("hanging")
def test_a_call_does_not_wait_for_a_disk_that_hangs(tmp_path: Path) -> None:
    found, flows = made(tmp_path, pcap=True)
    found.begins(cast(Flow, flows), "customer")
    found.end([cast(Flow, flows)])
    assert len(flows.files) == 2


def test_a_call_goes_on_where_every_call_is_captured_and_none_can_be(file: Path) -> None:
    found, flows = made(file / "debug", pcap=True)
    found.begins(cast(Flow, flows), "customer")
    assert len(flows.files) == 1


@pytest.mark.parametrize(
    "use", [{"debug": {"pcap": True}}, {"debug": {"record": "wav"}}, {"trunk": {"sip_trace": True}}]
)
async def test_the_service_says_so_at_its_start(use: dict[str, dict[str, object]], file: Path) -> None:
    use["debug"] = {**use.get("debug", {}), "dir": str(file)}
    with capture_logs() as logged:
        await diagnosis.warn(Settings.model_validate(use))
    assert [line["event"] for line in logged] == ["debug_dir_cannot_be_written"]


async def test_nothing_is_said_where_nothing_is_written(file: Path) -> None:
    with capture_logs() as logged:
        await diagnosis.warn(Settings(debug=DebugSettings(dir=str(file))))
    assert logged == []
