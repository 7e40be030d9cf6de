"""Write ``docs/configuration.md`` from `kallglot_ari.settings`: its docstrings, defaults and bounds. ``--check`` only compares."""

from __future__ import annotations

import ast
import inspect
import json
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr

from kallglot_ari import settings
from kallglot_ari.settings.kinds import is_secret

PAGE = Path(__file__).with_name("configuration.md")
INTRODUCTION = """\
# Configuration

<!-- Written by docs/generate_configuration.py from kallglot_ari/settings/: change the docstrings there. -->

The service starts without any configuration. What is set comes, the later before the earlier, from

1. the built-in default,
2. one TOML file: `--config FILE`, else `$KALLGLOT_CONFIG`, else `./kallglot-ari.toml`, else
   `/etc/kallglot-ari/kallglot-ari.toml`,
3. the environment: `KALLGLOT__SECTION__KEY`, for instance `KALLGLOT__ARI__PASSWORD`. Lists are separated by commas or
   written as JSON, tables are JSON. `KALLGLOT_API_KEY` alone also sets `kallglot.api_key`.

Unknown sections, keys and `KALLGLOT__*` variables are errors, so that a slip of the pen is found at the start. An error is one
line that names the setting, where it came from, what was expected and what was found.

A secret (marked so below) may also be given as the name of a file whose content it is, by `KEY_file` in place of `KEY`:
`password_file = "/run/credentials/ari"`, or `KALLGLOT__ARI__PASSWORD_FILE`. Secrets appear in no log, `repr` or error message.
"""


def docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Key → the docstring under it, on one line."""
    (body,) = ast.parse(inspect.getsource(model)).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
            and isinstance(text.value.value, str)
        ):
            found[field.target.id] = " ".join(text.value.value.split())
    return found


def accepts(schema: dict[str, Any]) -> str:
    """What a key takes, from its JSON schema."""
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(one)}`" for one in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(accepts(one) for one in schema["anyOf"])
    if "$ref" in schema:
        return "tables"
    kind = schema["type"]
    if kind == "array":
        items = schema["items"]
        return (
            f"a list of {accepts(items)}" if "enum" in items else "a list of " + accepts(items).replace("text", "texts")
        )
    if kind == "string":
        if schema.get("format") == "password":
            return "a secret"
        return settings.PATTERNS[schema["pattern"]] if "pattern" in schema else "text"
    name = {"boolean": "`true` or `false`", "integer": "a whole number", "number": "a number", "null": '`"off"`'}[kind]
    if "minimum" in schema:
        return (
            f"{name}, {schema['minimum']:g} to {schema['maximum']:g}"
            if "maximum" in schema
            else f"{name} from {schema['minimum']:g}"
        )
    return name


def default(value: object) -> str:
    """A default as TOML."""
    if isinstance(value, SecretStr):
        return '`""`'
    if value is None:
        return '`"off"`'
    if isinstance(value, tuple):
        return "`[" + ", ".join(_inline(one) for one in value) + "]`"
    return f"`{json.dumps(value)}`"


def _inline(value: object) -> str:
    if isinstance(value, BaseModel):
        return "{" + ", ".join(f"{k} = {json.dumps(v)}" for k, v in value.model_dump().items()) + "}"
    return json.dumps(value)


def section(name: str, model: type[BaseModel]) -> list[str]:
    """One section of the page."""
    about, schemas = docstrings(model), model.model_json_schema()["properties"]
    lines = [
        f"## `[{name}]`",
        "",
        inspect.cleandoc(model.__doc__ or ""),
        "",
        "| key | default | takes | |",
        "|---|---|---|---|",
    ]
    for key, field in model.model_fields.items():
        takes = "a secret" if is_secret(field) else accepts(schemas[key])
        cells = (f"`{key}`", default(field.default), takes, about[key])
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return [*lines, ""]


def page() -> str:
    """The whole page."""
    lines = [INTRODUCTION]
    for name, model in settings.SECTIONS.items():
        lines += section(name, model)
    return "\n".join(lines).rstrip() + "\n"


def main(arguments: list[str]) -> int:
    text = page()
    if arguments == ["--check"]:
        current = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
        return 0 if current == text else 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
