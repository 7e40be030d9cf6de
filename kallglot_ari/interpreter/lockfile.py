"""The lock file of models: what each consists of, and what its bytes must be."""

from __future__ import annotations

import hashlib
import os
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from kallglot_ari.errors import InterpreterError
from kallglot_ari.settings import InterpreterSettings


@dataclass(frozen=True, slots=True)
class Piece:
    """A file inside a package of the Python package index."""

    package: str
    version: str
    path: str


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file; the mirror's pieces, put one after the other, are the same bytes."""

    name: str
    size: int
    sha256: str
    urls: tuple[str, ...]
    mirror: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Model:
    """One model; its folder under the models folder has its name."""

    name: str
    kind: Literal["recogniser", "translator", "voice"]
    licence: str
    publisher: str
    note: str
    files: tuple[ModelFile, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    def folder(self, models_dir: Path) -> Path:
        return models_dir / self.name

    def problem(self, models_dir: Path, *, verify: bool = False) -> str:
        """Empty if every file is there in its size (and, with `verify`, has its SHA-256); else what is wrong."""
        for file in self.files:
            path = self.folder(models_dir) / file.name
            if not path.is_file():
                return f"{file.name} is missing"
            if (found := path.stat().st_size) != file.size:
                return f"{file.name}: expected {file.size} bytes, found {found}"
            if verify and (digest := sha256(path)) != file.sha256:
                return f"{file.name}: expected SHA-256 {file.sha256[:12]}…, found {digest[:12]}…"
        return ""


def sha256(path: Path) -> str:
    """Hexadecimal digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parse(text: str) -> dict[str, Model]:
    """Models of a lock file's text. :raises InterpreterError:"""
    try:
        return {name: _model(name, table) for name, table in tomllib.loads(text).items()}
    except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        raise InterpreterError(f"models.toml: not a lock file of models: {error}") from None


def _model(name: str, table: dict[str, Any]) -> Model:
    files = []
    for item in table["files"]:
        if len(item["sha256"]) != 64 or item["size"] <= 0 or "/" in item["name"]:
            raise ValueError(f"{name}: {item['name']!r}: expected a plain name, a size and a SHA-256")
        files.append(
            ModelFile(
                name=item["name"],
                size=item["size"],
                sha256=item["sha256"],
                urls=tuple(item.get("urls", ())),
                mirror=tuple(Piece(**piece) for piece in item.get("mirror", ())),
            )
        )
    return Model(name, table["kind"], table["licence"], table["publisher"], table["note"], tuple(files))


@cache
def locked() -> dict[str, Model]:
    """The shipped lock file."""
    return parse(resources.files(__package__).joinpath("models.toml").read_text("utf-8"))


def models_dir(settings: InterpreterSettings) -> Path:
    """Where models are kept: the setting, else the user's cache folder."""
    if settings.models_dir:
        return Path(settings.models_dir).expanduser()
    cache_home = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache_home) if cache_home else Path.home() / ".cache") / "kallglot-ari" / "models"
