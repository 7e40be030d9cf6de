"""What a service calls itself: part of every id it makes, by which a later run finds what is its own."""

from __future__ import annotations

import hashlib
import re
import socket

from kallglot_ari.settings import Settings


def instance_name(settings: Settings) -> str:
    """`service.instance`, or one made of the host's name and the ARI application; stable over restarts.

    Two services of one name take each other's channels for left-overs, so a derived one holds a hash of the whole of both.
    """
    if settings.service.instance:
        return settings.service.instance.lower()
    whole = f"{socket.gethostname()}|{settings.ari.app}".lower()
    return earlier_name(settings)[:8] + hashlib.sha1(whole.encode(), usedforsecurity=False).hexdigest()[:8]


def earlier_name(settings: Settings) -> str:
    """The name that was made of the host's alone before; a run that had it may have left calls. Empty for a configured name."""
    if settings.service.instance:
        return ""
    return (re.sub(r"[^A-Za-z0-9]", "", socket.gethostname().partition(".")[0])[:16] or "main").lower()
