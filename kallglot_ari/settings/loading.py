"""From the file and the environment to `Settings`."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import orjson
from pydantic import (
    ValidationError,
)

from kallglot_ari.errors import ConfigError
from kallglot_ari.settings.kinds import is_secret
from kallglot_ari.settings.sections import SECTIONS, Settings
from kallglot_ari.settings.words import explain, twice

DEFAULT_FILES = (Path("kallglot-ari.toml"), Path("/etc/kallglot-ari/kallglot-ari.toml"))
ENV_PREFIX = "KALLGLOT__"


def load(path: str | None = None, environ: Mapping[str, str] | None = None, *, only: Collection[str] = ()) -> Settings:
    """Read the configuration.

    :param path: the file named on the command line, if any.
    :param only: sections to look at; the others have their defaults, whatever is set. Empty: all.
    :raises ConfigError: one line that names the setting, what was expected and what was found.
    """
    environ = os.environ if environ is None else environ
    file = find_file(path, environ)
    data = read_file(file) if file else {}
    origin = {(s, k): str(file) for s, keys in data.items() if isinstance(keys, dict) for k in keys}
    replaced: dict[tuple[str, str], dict[str, Any]] = {}
    for name, raw in environ.items():
        if name.startswith(ENV_PREFIX):
            section, key = _env_target(name)
            data.setdefault(section, {})
            if not isinstance(data[section], dict):
                raise ConfigError(f"{file}: {section}: expected a section [{section}]")
            # A secret and the file it is in are one setting: what the environment says of it replaces either.
            other = key.removesuffix("_file") if key not in SECTIONS[section].model_fields else f"{key}_file"
            of_file = [k for k in (other, key) if not origin.get((section, k), ENV_PREFIX).startswith(ENV_PREFIX)]
            if key == f"{other}_file":
                replaced[section, other] = {k: data[section][k] for k in of_file}
            if other in of_file:
                data[section].pop(other, None)
            data[section][key] = _env_value(section, key, raw, name)
            origin[section, key] = name
    if environ.get("KALLGLOT_API_KEY") and not any(
        origin.get(("kallglot", key), "").startswith(ENV_PREFIX) for key in ("api_key", "api_key_file")
    ):
        if not isinstance(data.setdefault("kallglot", {}), dict):
            raise ConfigError(f"{file}: kallglot: expected a section [kallglot]")
        data["kallglot"].pop("api_key_file", None)
        data["kallglot"]["api_key"] = environ["KALLGLOT_API_KEY"]
        origin["kallglot", "api_key"] = "KALLGLOT_API_KEY"
    if only:  # and names of no section, for the error: they may be slips for one of these
        data = {name: values for name, values in data.items() if name in only or name not in SECTIONS}
    _read_secret_files(data, replaced)
    try:
        return Settings.model_validate(data)
    except ValidationError as error:
        raise ConfigError(explain(error, data, origin, file)) from None


def find_file(path: str | None, environ: Mapping[str, str]) -> Path | None:
    """The configuration file that counts: named ones must be there, the usual places may be empty."""
    if path == "":
        raise ConfigError("--config: expected the name of a file, found ''")
    named = path or environ.get("KALLGLOT_CONFIG")
    if named:
        return Path(named)
    for file in DEFAULT_FILES:
        try:
            file.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise ConfigError(
                f"configuration file {file.absolute()}: cannot be looked for: {error.strerror}; --config names another"
            ) from None
        return file
    return None


def read_file(file: Path) -> dict[str, Any]:
    """Parse a TOML file; every way it can fail is one clear line."""
    text = ""
    try:
        text = file.read_text(encoding="utf-8-sig")
        return tomllib.loads(text)
    except FileNotFoundError:
        raise ConfigError(f"configuration file {file}: there is no such file") from None
    except OSError as error:
        raise ConfigError(f"configuration file {file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"configuration file {file}: expected UTF-8, found byte 0x{error.object[error.start]:02x} at {error.start}"
        ) from None
    except RecursionError:
        raise ConfigError(f"configuration file {file}: nested too deeply") from None
    except tomllib.TOMLDecodeError as error:
        if name := twice(text, error):
            raise ConfigError(f"configuration file {file}: {name}") from None
        hint = '; text stands between straight quotes: key = "text"' if "Invalid value" in str(error) else ""
        raise ConfigError(f"configuration file {file}: not TOML: {error}{hint}") from None
    except ValueError:  # of Python's int, which tomllib lets through
        raise ConfigError(
            f"configuration file {file}: expected numbers of a few digits, found one of thousands"
        ) from None


def _env_target(name: str) -> tuple[str, str]:
    section, _, key = name.removeprefix(ENV_PREFIX).lower().partition("__")
    if section not in SECTIONS:
        raise ConfigError(
            f"environment variable {name}: unknown section {section!r}; expected one of {', '.join(SECTIONS)}"
        )
    known = SECTIONS[section].model_fields
    if key.removesuffix("_file") in known and key not in known and is_secret(known[key.removesuffix("_file")]):
        return section, key
    if not key:
        raise ConfigError(
            f"environment variable {name}: expected {ENV_PREFIX}{section.upper()}__KEY; [{section}] has {', '.join(known)}"
        )
    if key not in known:
        raise ConfigError(f"environment variable {name}: unknown key {key!r}; [{section}] has {', '.join(known)}")
    return section, key


def _env_value(section: str, key: str, raw: str, name: str) -> Any:
    """The text of a variable as the type its key has. Lists and tables are JSON, plain lists also text with commas.

    What cannot be one stays text, for the error that names it.
    """
    field = SECTIONS[section].model_fields.get(key)
    if field is None:
        return raw
    types = _types(field.annotation)
    if tuple in types:
        if raw.lstrip().startswith(("[", "{")):
            try:
                return orjson.loads(raw)
            except orjson.JSONDecodeError as error:
                raise ConfigError(f"environment variable {name}: expected JSON: {error}") from None
        parts = [part.strip() for part in raw.split(",") if part.strip()]
        return parts[0] if "str |" in str(field.annotation) and len(parts) == 1 else parts
    text = raw.strip()
    if bool in types:
        return {
            "true": True,
            "1": True,
            "yes": True,
            "on": True,
            "false": False,
            "0": False,
            "no": False,
            "off": False,
        }.get(text.lower(), raw)
    if int in types and re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        return int(text)
    if float in types and re.fullmatch(r"[+-]?[0-9]{1,18}(\.[0-9]{0,18})?", text):
        return float(text)
    return raw


def _types(annotation: Any) -> set[Any]:
    """The plain types in an annotation; of a `Literal` those of its values."""
    origin = get_origin(annotation)
    if origin is Literal:
        return {type(value) for value in get_args(annotation)}
    if origin is tuple:
        return {tuple}
    if origin is None:
        return {annotation}
    return {found for part in get_args(annotation) for found in _types(part)}


def _read_secret_files(data: dict[str, Any], replaced: Mapping[tuple[str, str], Mapping[str, Any]]) -> None:
    """Put the content of `KEY_file` into KEY.

    :param replaced: what the configuration file says of a secret whose file the environment names; it counts where that is empty.
    """
    for section, model in SECTIONS.items():
        values = data.get(section)
        if not isinstance(values, dict):
            continue
        for key, field in model.model_fields.items():
            file = values.pop(f"{key}_file", None) if is_secret(field) else None
            if file is None:
                continue
            if values.get(key):
                raise ConfigError(f"{section}.{key}: set both here and by {key}_file; expected one of them")
            values[key] = _secret_of(f"{section}.{key}_file", file)
            if not values[key] and (instead := replaced.get((section, key))):
                named = instead.get(f"{key}_file")
                values[key] = instead[key] if named is None else _secret_of(f"{section}.{key}_file", named)


def _secret_of(name: str, file: Any) -> str:
    if not isinstance(file, str) or not file:
        raise ConfigError(f"{name}: expected the name of a file, found {file!r}")
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise ConfigError(f"{name}: {file}: expected text in UTF-8") from None
    except ValueError:
        raise ConfigError(f"{name}: expected the name of a file, found {file!r}") from None
    except OSError as error:
        raise ConfigError(f"{name}: {file} cannot be read: {error.strerror}") from None
