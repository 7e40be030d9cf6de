"""`kallglot-ari config asterisk|freeswitch|cucm`: the one part of this package that touches the disk."""

from __future__ import annotations

import sys
from collections.abc import Callable
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
    if not settings.trunk.username and kind != "cucm":
        sys.stderr.write("note: trunk.username is empty: written without digest log-in\n")
    if kind == "asterisk" and not settings.ari.password.get_secret_value():
        sys.stderr.write("note: ari.password is empty: kallglot-ari.conf says change-me in its place\n")
    return 0
