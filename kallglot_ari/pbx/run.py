"""`kallglot-ari config asterisk|freeswitch|cucm`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from kallglot_ari.errors import UsageError
from kallglot_ari.pbx import asterisk, cucm, freeswitch
from kallglot_ari.pbx.files import RenderedFile, write_all
from kallglot_ari.settings import Settings

KINDS: dict[str, Callable[[Settings], list[RenderedFile]]] = {
    "asterisk": asterisk.render,
    "freeswitch": freeswitch.render,
    "cucm": cucm.render,
}


def run_config(kind: str, settings: Settings, out: str | Path | None = None) -> int:
    """Write the PBX side into `out` (default: ``kallglot-KIND``) and name what was written; the exit code.

    :raises UsageError: an unknown kind, or a folder without a name. :raises ConfigError: a setting the PBX cannot do, or a folder that cannot be written.
    """
    render = KINDS.get(kind)
    if render is None:
        raise UsageError(f"config: expected {', '.join(KINDS)}, found {kind!r}")
    if out == "":
        raise UsageError("--out: expected a folder, found ''")
    files = render(settings)
    folder = Path(out) if out else Path(f"kallglot-{kind}")
    secret = {file.name for file in files if file.secret}
    for path in write_all(files, folder):
        sys.stdout.write(f"{path}{'  (secret: mode 0600)' if path.name in secret else ''}\n")
    for note in _notes(kind, settings):
        sys.stderr.write(f"note: {note}\n")
    return 0


def _notes(kind: str, settings: Settings) -> Iterator[str]:
    """What the files cannot do as long as a setting is what it is."""
    trunk = settings.trunk
    if not trunk.username and kind != "cucm":
        yield "trunk.username is empty: written without digest log-in"
    if trunk.username and not trunk.password.get_secret_value() and kind != "cucm":
        yield "trunk.password is empty: a PBX cannot log in with trunk.username alone, and Asterisk 22 does not load such a log-in"
    if kind == "asterisk":
        if not settings.ari.password.get_secret_value():
            yield "ari.password is empty: kallglot-ari.conf says change-me in its place"
        if settings.ami.username and not settings.ami.password.get_secret_value():
            yield "ami.password is empty: kallglot-manager.conf says change-me in its place"
        if not settings.agi.port:
            yield "agi.port is 0: kallglot-extensions.conf needs the port that the service will have"
    elif not settings.web.port:
        yield "web.port is 0: the PBX needs the port that the service will have"
