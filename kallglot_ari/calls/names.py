"""Names that go from outside into dial strings, the dialplan and SIP: what of them is let through.

None holds a space, comma, quote, `&`, `$`, `{`, `(`, `<`, `|` or line end, so none can end a dial string or call a dialplan function;
none holds `?` or `!`, so none can add a SIP header (RFC 3261 §19.1.1) or an option of the channel driver.
"""

from __future__ import annotations

import re

DIAL_STRING = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,31}/[A-Za-z0-9_.+*#@:;=/%~\-\[\]]{1,255}")
"""Technology and address."""
MAX_DIAL_STRINGS = 16
"""Parties that may be rung at once."""
EXTENSION = re.compile(r"[A-Za-z0-9_.+*#\-]{1,80}")
CONTEXT = re.compile(r"[A-Za-z0-9_.\-]{1,80}")
PRIORITY = re.compile(r"[1-9][0-9]{0,4}|[A-Za-z_][A-Za-z0-9_\-]{0,79}")
"""A number, or a label."""
SESSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.~\-]{0,127}")
"""A session's id, which stands in a SIP URI and in a dial string."""
SPEAKER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}")
METADATA_KEY = re.compile(r"[A-Za-z0-9_.\-]{1,64}")
DTMF = re.compile(r"[0-9A-Da-d*#]{1,64}")
"""The events 0 to 15 of RFC 4733 §3.2."""


def is_place(value: str) -> bool:
    """Whether `value` is ``context,extension,priority`` of the dialplan."""
    parts = value.split(",")
    patterns = (CONTEXT, EXTENSION, PRIORITY)
    return len(parts) == 3 and all(p.fullmatch(part.strip(" ")) for p, part in zip(patterns, parts, strict=True))
