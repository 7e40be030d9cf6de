"""Lock file, fetching and checking, with files made here."""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from kallglot_ari.errors import InterpreterError, UsageError
from kallglot_ari.interpreter import fetch as fetching
from kallglot_ari.interpreter.lockfile import Model, ModelFile, locked, models_dir, parse
from kallglot_ari.interpreter.models import run_models
from kallglot_ari.interpreter.whisper import WhisperHost
from kallglot_ari.settings import InterpreterSettings

DATA = b"model" * 1000


def model(*, urls: tuple[str, ...] = (), data: bytes = DATA) -> Model:
    file = ModelFile("model.bin", len(data), hashlib.sha256(data).hexdigest(), urls, ())
    return Model("toy", "recogniser", "MIT", "us", "", (file,))


def get(toy: Model, folder: Path, source: Path | None = None) -> tuple[int, list[str]]:
    sizes: list[int] = []
    words: list[str] = []
    fetching.fetch(toy, folder, source=source, progress=sizes.append, say=words.append)
    return sum(sizes), words


def test_the_lock_file_names_publisher_licence_and_hash() -> None:
    assert {item.kind for item in locked().values()} == {"recogniser", "translator", "voice"}
    for item in locked().values():
        assert item.licence
        assert all(file.urls and file.urls[0].startswith("https://") and file.mirror for file in item.files)
    assert locked()["whisper-base"].files[0].sha256.startswith("d01c3014")
    assert locked()["qwen2.5-coder-1.5b-instruct"].files[0].sha256.endswith("b046")


@pytest.mark.parametrize("text", ["x", "[a]\nkind = 'voice'", "[a]\nfiles = [{name='../x', size=1, sha256='00'}]"])
def test_bad_lock_files(text: str) -> None:
    with pytest.raises(InterpreterError, match="lock file"):
        parse(text)


def test_from_a_folder(tmp_path: Path) -> None:
    (tmp_path / "usb").mkdir()
    (tmp_path / "usb" / "model.bin").write_bytes(DATA)
    size, words = get(model(), tmp_path / "models", tmp_path / "usb")
    assert size == len(DATA)
    assert str(tmp_path / "usb") in words[0]
    assert model().problem(tmp_path / "models", verify=True) == ""


def test_a_wrong_hash_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(DATA[:-1] + b"X")
    with pytest.raises(InterpreterError, match=r"expected SHA-256 .* refused"):
        get(model(), tmp_path / "models", tmp_path)
    assert list((tmp_path / "models" / "toy").iterdir()) == []


def test_what_is_missing_or_cut_off_is_said(tmp_path: Path) -> None:
    with pytest.raises(InterpreterError, match="not in"):
        get(model(), tmp_path / "models", tmp_path)
    assert model().problem(tmp_path) == "model.bin is missing"
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "model.bin").write_bytes(DATA[:10])
    assert model().problem(tmp_path) == "model.bin: expected 5000 bytes, found 10"
    (tmp_path / "toy" / "model.bin").write_bytes(b"x" * 5000)
    assert model().problem(tmp_path) == ""
    assert "SHA-256" in model().problem(tmp_path, verify=True)


def test_plain_http_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InterpreterError, match="https"):
        get(model(urls=("http://127.0.0.1/model.bin",)), tmp_path)


def test_a_wrong_source_gives_way_to_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(url: str, size: int, part: Path, progress: fetching.Progress) -> None:
        part.write_bytes(DATA if "good" in url else b"bad!!" * 1000)
        progress(size)

    monkeypatch.setattr(fetching, "_download", download)
    size, words = get(model(urls=("https://bad.example/m", "https://good.example/m")), tmp_path)
    assert size == len(DATA)
    assert "good.example" in words[0]


def test_the_models_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert models_dir(InterpreterSettings()) == tmp_path / "kallglot-ari" / "models"
    assert models_dir(InterpreterSettings(models_dir="/x")) == Path("/x")


def test_without_a_terminal_progress_is_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.bin").write_bytes(DATA)
    monkeypatch.setattr("kallglot_ari.interpreter.models.locked", lambda: {"toy": model()})
    assert run_models(["fetch", "--from", str(tmp_path), "--dir", str(tmp_path / "models")]) == 0
    assert "toy: 100 % of 0 MB" in capsys.readouterr().err
    (tmp_path / "model.bin").unlink()
    assert run_models(["fetch", "--from", str(tmp_path), "--dir", str(tmp_path / "others")]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1, (
        "what is wrong is one line, without an empty one for the bars"
    )


def test_a_narrow_list_says_in_full_which_file_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("kallglot_ari.interpreter.models.locked", lambda: {"toy": model()})
    monkeypatch.setenv("COLUMNS", "46")
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy/model.bin").write_bytes(b"too short")
    assert run_models(["list", "--dir", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "…" not in said
    assert "found 9" in " ".join(said.replace("│", " ").split())


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_models(["list", "--json", "--dir", str(tmp_path)]) == 0
    assert '"not here"' in capsys.readouterr().out
    with pytest.raises(UsageError, match=r"NAME: expected one of .*, found 'nothing'"):
        run_models(["fetch", "nothing", "--dir", str(tmp_path)])
    assert run_models(["fetch", "--from", str(tmp_path), "--dir", str(tmp_path)]) == 1
    with pytest.raises(UsageError, match="command: expected a value, found none"):
        run_models([])


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("whisper-base", "kallglot-ari models fetch"),
        ("whisper-nosuch", "set interpreter.recogniser to a name of `models list` or a folder"),
    ],
)
def test_a_model_that_is_not_there_says_what_to_do(
    name: str, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("ctranslate2", "faster_whisper", "faster_whisper.tokenizer"):
        stand_in = ModuleType(module)
        stand_in.__dict__.update(WhisperModel=None, Tokenizer=None)
        monkeypatch.setitem(sys.modules, module, stand_in)
    with pytest.raises(InterpreterError, match=re.escape(f"no model in {tmp_path / name}; {advice}")):
        WhisperHost({"model": str(tmp_path / name)})
