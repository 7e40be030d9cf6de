"""Asterisk's version: read, compared with an operation's `since`, and what each release brought that we can use."""

from __future__ import annotations

import re

Version = tuple[int, int, int]
"""Major, minor, patch."""

UNKNOWN: Version = (0, 0, 0)
"""Not connected yet, or a version that cannot be read: features are off, operations are tried all the same."""

_NEWEST = 999

FEATURES: dict[str, tuple[Version, ...]] = {
    "external_media": ((16, 6, 0), (17, 1, 0)),
    "hangup_reason_code": ((22, 0, 0),),
    "refer": ((18, 20, 0), (20, 5, 0)),
    "transfer_progress": ((20, 13, 0), (21, 8, 0), (22, 3, 0)),
    "websocket_media": ((20, 16, 0), (22, 6, 0)),
    "websocket_media_json": ((22, 8, 0),),
    "broadcast": ((20, 17, 0), (22, 7, 0), (23, 1, 0)),
}
"""Feature: the first release of each branch that has it. `hangup_reason_code`: the oldest it was tried on; words always work."""


def parse_version(text: str) -> Version:
    """The version that `GET /asterisk/info` tells.

    Takes releases (``22.10.1~dfsg-1``), certified ones (``certified/18.9-cert4``) and builds from Git (``GIT-22-abc`` counts as
    the newest of branch 22, ``GIT-master-abc`` as newer than all). `UNKNOWN` for anything else.
    """
    if match := re.match(r"(?:certified[/-])?(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?", text):
        return int(match[1]), int(match[2]), int(match[3] or 0)
    if match := re.match(r"GIT-(?:(\d{1,3})(?![\da-f])|master)", text):
        return (int(match[1]), _NEWEST, 0) if match[1] else (_NEWEST, 0, 0)
    return UNKNOWN


def has(version: Version, since: tuple[Version, ...]) -> bool:
    """Whether `version` has what came with the releases `since`, one for each branch that got it.

    A branch that is not named has it only when it is newer than all that are: 21 had nothing that came with 20.17 and 22.7.
    """
    if not since:
        return True
    for first in since:
        if first[0] == version[0]:
            return version >= first
    return version > max(since)


def written(since: tuple[Version, ...]) -> str:
    """`since` for people: ``16.6, 17.1``."""
    return ", ".join(".".join(str(part) for part in (one if one[2] else one[:2])) for one in sorted(since))
