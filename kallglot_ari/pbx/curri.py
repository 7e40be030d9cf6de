"""Cisco CUCM's external call control (CURRI): its XACML request in, our XACML answer out. Pure.

CUCM posts a XACML 2.0 request when a call matches a pattern that has an external call control profile, and does as the
answer's obligation says: ``continue`` or ``divert``. The forms follow Cisco's published examples.
"""

from __future__ import annotations

from dataclasses import dataclass
from xml.parsers import expat
from xml.sax.saxutils import escape

from kallglot_ari.errors import UsageError

MAX_BODY = 65536
LONGEST_WAIT = 5.0
"""Seconds after which CUCM has let the call go on, whatever its Routing Request Timer (at most 5,000 ms; 2,000 unless set)."""
_PREFIX = "urn:cisco:uc:1.0:"


@dataclass(frozen=True, slots=True)
class CurriRequest:
    """Who calls whom. Numbers as dialled, and as CUCM has transformed them."""

    calling: str
    called: str
    transformed_calling: str = ""
    transformed_called: str = ""
    device: str = ""
    call_id: str = ""


class _Reader:
    """Collects the attributes; element and attribute names without regard to case, as Cisco's own examples differ."""

    def __init__(self) -> None:
        self.root = ""
        self.values: dict[str, str] = {}
        self._attribute = ""
        self._text: list[str] | None = None

    def start(self, name: str, attributes: dict[str, str]) -> None:
        local = name.rpartition(":")[2].lower()
        self.root = self.root or local
        if local == "attribute":
            lower = {key.lower(): value for key, value in attributes.items()}
            self._attribute = lower.get("attributeid", "").lower()
        elif local == "attributevalue":
            self._text = []

    def text(self, data: str) -> None:
        if self._text is not None:
            self._text.append(data)

    def end(self, name: str) -> None:
        local = name.rpartition(":")[2].lower()
        if local == "attributevalue" and self._text is not None:
            self.values.setdefault(self._attribute, "".join(self._text).strip())
            self._text = None
        elif local == "attribute":
            self._attribute = ""


def parse(body: bytes | str) -> CurriRequest:
    """A request's content.

    :raises UsageError: not XML, not a XACML request, or with a document type (which could hold entities).
    """
    raw = body.encode("utf-8") if isinstance(body, str) else body
    if len(raw) > MAX_BODY:
        raise UsageError(f"CURRI request: expected at most {MAX_BODY} octets, found {len(raw)}")
    reader = _Reader()
    parser = expat.ParserCreate(encoding="utf-8" if isinstance(body, str) else None)
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    parser.StartDoctypeDeclHandler = _no_doctype
    try:
        parser.Parse(raw, True)
    except (expat.ExpatError, LookupError, ValueError) as error:
        raise UsageError(f"CURRI request: expected XML: {error}") from None
    if reader.root != "request":
        raise UsageError(f"CURRI request: expected a XACML Request, found {reader.root[:40]!r}")
    values = {k.removeprefix(_PREFIX): v for k, v in reader.values.items() if k.startswith(_PREFIX)}
    if not values.get("callednumber") and not values.get("transformedcdpn"):
        raise UsageError("CURRI request: expected urn:Cisco:uc:1.0:callednumber, found none")
    return CurriRequest(
        values.get("callingnumber", ""),
        values.get("callednumber", ""),
        values.get("transformedcgpn", ""),
        values.get("transformedcdpn", ""),
        values.get("callingdevicename", ""),
        values.get("callid", "") or values.get("globalcallid", ""),
    )


def _no_doctype(*_: object) -> None:
    raise UsageError("CURRI request: expected no document type, found one")


def divert(destination: str) -> str:
    """Send the call to `destination`, a number or SIP URI that CUCM can route."""
    return _answer("divert", f"<divert><destination>{escape(destination)}</destination></divert>")


def carry_on() -> str:
    """Let the call go where it was going."""
    return _answer("continue", "<continue></continue>")


def _answer(name: str, instruction: str) -> str:
    instruction = escape(f'<cixml ver="1.0">{instruction}</cixml>', {'"': "&quot;"})
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<Response>\n  <Result>\n    <Decision>Permit</Decision>\n'
        "    <Status></Status>\n    <Obligations>\n"
        f'      <Obligation FulfillOn="Permit" ObligationId="{name}.simple">\n'
        f'        <AttributeAssignment AttributeId="Policy:{name}.simple">\n'
        '          <AttributeValue DataType="http://www.w3.org/2001/XMLSchema#string">'
        f"{instruction}</AttributeValue>\n        </AttributeAssignment>\n      </Obligation>\n"
        "    </Obligations>\n  </Result>\n</Response>\n"
    )
