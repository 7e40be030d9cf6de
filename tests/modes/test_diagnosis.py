"""`[debug] dir`: a folder that cannot be written is told, and costs no call."""

from __future__ import annotations

import io
from pathlib import Path
from typing import cast

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


def test_a_capture_that_cannot_be_written_is_an_error_at_once(file: Path) -> None:
    found, flows = made(file / "debug")
    with pytest.raises(
        ConfigError, match=r"debug\.dir: .*/file/debug: no file can be written there: Not a directory"
    ) as error:
        found.capture([cast(Flow, flows)], on=True)
    assert (of_service_error(error.value).status, of_service_error(error.value).code) == (500, "misconfigured")
    assert flows.files == []


def test_a_capture_begins_where_the_folder_can_be_made(tmp_path: Path) -> None:
    found, flows = made(tmp_path / "new/debug")
    assert found.capture([cast(Flow, flows)], on=True) == tmp_path / "new/debug/c1.pcap"
    assert len(flows.files) == 1
    assert not (tmp_path / "new").exists(), "made by the first packet"


def test_a_disk_that_is_full_is_told_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: io.FileIO("/dev/full", "w"))
    found, flows = made(tmp_path)
    with pytest.raises(ConfigError, match="no file can be written there: No space left on device"):
        found.capture([cast(Flow, flows)], on=True)
    assert flows.files == []


def test_a_capture_that_was_given_up_can_be_begun_again(tmp_path: Path) -> None:
    found, flows = made(tmp_path)
    found.capture([cast(Flow, flows)], on=True)
    found.capture([cast(Flow, flows)], on=True)
    assert len(flows.files) == 1, "it runs"
    assert isinstance(flows.files[0], File)
    flows.files[0].over = True
    found.capture([cast(Flow, flows)], on=True)
    assert len(flows.files) == 2


def test_a_call_goes_on_where_every_call_is_captured_and_none_can_be(file: Path) -> None:
    found, flows = made(file / "debug", pcap=True)
    found.begins(cast(Flow, flows), "customer")
    assert len(flows.files) == 1


@pytest.mark.parametrize(
    "use", [{"debug": {"pcap": True}}, {"debug": {"record": "wav"}}, {"trunk": {"sip_trace": True}}]
)
def test_the_service_says_so_at_its_start(use: dict[str, dict[str, object]], file: Path) -> None:
    use["debug"] = {**use.get("debug", {}), "dir": str(file)}
    with capture_logs() as logged:
        diagnosis.warn(Settings.model_validate(use))
    assert [line["event"] for line in logged] == ["debug_dir_cannot_be_written"]


def test_nothing_is_said_where_nothing_is_written(file: Path) -> None:
    with capture_logs() as logged:
        diagnosis.warn(Settings(debug=DebugSettings(dir=str(file))))
    assert logged == []
