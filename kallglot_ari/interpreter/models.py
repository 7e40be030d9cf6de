"""`kallglot-ari models list|fetch`: the offline interpreter's models."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import orjson
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from kallglot_ari import settings as settings_module
from kallglot_ari.arguments import Parser
from kallglot_ari.errors import InterpreterError, UsageError
from kallglot_ari.interpreter.fetch import fetch
from kallglot_ari.interpreter.lockfile import Model, locked, models_dir


def parser() -> argparse.ArgumentParser:
    """Arguments of both commands."""
    top = Parser(prog="kallglot-ari models", description="The offline interpreter's models.")
    commands = top.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="what there is, and what is here")
    listing.add_argument("--json", action="store_true", help="for programs")
    getting = commands.add_parser("fetch", help="get models, and check every byte")
    getting.add_argument("names", nargs="*", metavar="NAME", help="default: all of the lock file")
    getting.add_argument("--from", dest="source", metavar="DIR", type=Path, help="take the files from this folder only")
    for command in (listing, getting):
        command.add_argument("--verify", action="store_true", help="compute the SHA-256 of what is here")
        command.add_argument("--dir", metavar="DIR", type=Path, help="models folder (default: interpreter.models_dir)")
        command.add_argument("--config", metavar="FILE", help="configuration file")
    return top


def run_models(argv: list[str]) -> int:
    """Run a command; exit status 0, or 1 when a model could not be had.

    :raises UsageError, ConfigError: for a name or folder there is not, and for a configuration that cannot be read.
    """
    args = parser().parse_args(argv)
    folder = args.dir or models_dir(settings_module.load(args.config, only=("interpreter",)).interpreter)
    if args.command == "list":
        return _list(folder, verify=args.verify, as_json=args.json)
    return _fetch(folder, args.names, args.source, verify=args.verify)


def _state(model: Model, folder: Path, verify: bool) -> str:
    if not model.folder(folder).exists():
        return "not here"
    return model.problem(folder, verify=verify) or ("verified" if verify else "here")


def _list(folder: Path, *, verify: bool, as_json: bool) -> int:
    rows = [(model, _state(model, folder, verify)) for model in locked().values()]
    if as_json:
        data = [
            {
                "name": model.name, "kind": model.kind, "licence": model.licence, "publisher": model.publisher,
                "size": model.size, "state": state, "folder": str(model.folder(folder)),
                "files": [{"name": file.name, "size": file.size, "sha256": file.sha256} for file in model.files],
            }
            for model, state in rows
        ]  # fmt: skip
        sys.stdout.write(orjson.dumps(data, option=orjson.OPT_INDENT_2).decode() + "\n")
        return 0
    table = Table(title=f"Models in {folder}", title_justify="left")
    for column in ("name", "kind", "licence", "MB", "state"):
        table.add_column(
            column, justify="right" if column == "MB" else "left", no_wrap=column == "name", overflow="fold"
        )
    for model, state in rows:
        table.add_row(model.name, model.kind, model.licence, f"{model.size / 1e6:.0f}", state)
    Console().print(table)
    return 0


def _progress(bars: Progress, bar: TaskID, model: Model) -> Callable[[int], None]:
    """Moves the bar; where there is no terminal to draw one, a line for every quarter."""
    told = 0

    def advance(size: int) -> None:
        nonlocal told
        bars.update(bar, advance=size)
        quarters = int(4 * bars.tasks[bars.task_ids.index(bar)].completed / model.size)
        if quarters > told and not bars.console.is_terminal:
            told = quarters
            bars.console.print(f"{model.name}: {25 * quarters} % of {model.size / 1e6:.0f} MB", highlight=False)

    return advance


def _fetch(folder: Path, names: list[str], source: Path | None, *, verify: bool) -> int:
    known = locked()
    for name in names:
        if name not in known:
            raise UsageError(f"NAME: expected one of {', '.join(known)}, found {name!r}")
    if source is not None and not source.is_dir():
        raise UsageError(f"--from: expected a folder, found {str(source)!r}")
    failed = 0
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        for model in [known[name] for name in names or known]:
            if not verify and not model.problem(folder):
                console.print(f"{model.name} is here")
                continue
            bar = bars.add_task(model.name, total=model.size)

            try:
                fetch(model, folder, source=source, progress=_progress(bars, bar, model), say=console.print)
            except InterpreterError as error:
                bars.remove_task(bar)
                console.print(f"kallglot-ari: {error}", markup=False, soft_wrap=True)
                failed = 1
    return failed
