"""Cisco CUCM's side, as a list to be worked through in its administration, in this order. Pure.

CUCM has no text configuration: its trunks are made by hand, by its bulk tool from a spreadsheet of its own version, or over
AXL, which needs its schema. So the values come as a checked list, and as JSON for whoever automates it.
"""

from __future__ import annotations

import json

from kallglot_ari.pbx.addresses import ordered, split_port
from kallglot_ari.pbx.files import RenderedFile
from kallglot_ari.settings import Settings, TrunkSettings, WebSettings

_TRANSPORT = {"tls": "TLS", "tcp": "TCP", "udp": "UDP"}
NAME = "Kallglot"
PATTERN = "9.8!"


def values(settings: Settings) -> dict[str, dict[str, str]]:
    """Page of the administration → field → value. No secret is in it."""
    trunk, web = settings.trunk, settings.web
    tls = trunk.transport == "tls"
    pages = {
        "System > Security > SIP Trunk Security Profile": {
            "Name": f"{NAME} {_TRANSPORT[trunk.transport]}",
            "Device Security Mode": "Encrypted" if tls else "Non Secure",
            "Incoming Transport Type": "TLS" if tls else "TCP+UDP",
            "Outgoing Transport Type": _TRANSPORT[trunk.transport],
            "Enable Digest Authentication": "yes" if trunk.username else "no",
            "Secure Certificate Subject or SAN": trunk.domain if tls else "",
        },
        "User Management > SIP Realm": {
            "Realm": trunk.domain,
            "User": trunk.username,
            "Digest Credentials": "the password of [trunk] in kallglot-ari.toml; it is not written here",
        },
        "Device > Device Settings > SIP Profile": {
            "Name": NAME,
            "Enable OPTIONS Ping": "yes",
            "Early Offer support for voice and video calls": "Best Effort (no MTP inserted)",
        },
        "Device > Trunk (SIP Trunk)": _trunk(trunk),
        "Call Routing > Route/Hunt > Route Pattern": {
            "Route Pattern": PATTERN,
            "Gateway/Route List": NAME,
            "Call Classification": "OffNet",
            "Discard Digits": "PreDot",
        },
        "Call Routing > SIP Route Pattern": {"Pattern Usage": "Domain Routing", "IPv4 Pattern": trunk.domain, "SIP Trunk": NAME},
        "Call Routing > External Call Control Profile": {
            "Primary Web Service": f"{'https' if web.tls_certificate else 'http'}://{_reached(web)}/pbx/curri?token=…",
            "Call Treatment on Failures": "Allow Calls",
        },
    }  # fmt: skip
    if tls:
        pages["OS Administration > Security > Certificate Management"] = {
            "Upload": "the CA of the endpoints, as CallManager-trust",
            "Minimum TLS version (set min-version on the console)": trunk.tls_min_version.removeprefix("TLSv"),
        }
    return pages


def _reached(web: WebSettings) -> str:
    """CUCM is another machine: loopback and "any address" say nothing to it."""
    loopback_or_any = web.bind in ("0.0.0.0", "::", "localhost", "::1") or web.bind.startswith("127.")  # noqa: S104 - a comparison
    return f"{'ADDRESS OF KALLGLOT-ARI' if loopback_or_any else web.bind}:{web.port}"


def _trunk(trunk: TrunkSettings) -> dict[str, str]:
    found = {"Device Name": NAME, "Device Protocol": "SIP"}
    for number, endpoint in enumerate(ordered(trunk), 1):
        host, port = split_port(endpoint.uri, trunk.transport)
        version = " IPv6" if host.startswith("[") else ""
        found[f"Destination Address{version} {number}"] = host.strip("[]")
        found[f"Destination Port {number}"] = str(port)
    found |= {
        "SIP Trunk Security Profile": f"{NAME} {_TRANSPORT[trunk.transport]}",
        "SIP Profile": NAME,
        "SRTP Allowed": "yes" if trunk.srtp else "no",
        "DTMF Signaling Method": "RFC 2833",
        "Codec preference (Region > Audio Codec Preference List)": ", ".join(trunk.codecs),
    }
    return found


def render(settings: Settings) -> list[RenderedFile]:
    """The files of `config cucm`."""
    pages = values(settings)
    lines = ["# Cisco CUCM: trunk to Kallglot", "", "Work through it from top to bottom; tick what is done.", ""]
    for page, fields in pages.items():
        lines += [f"## {page}", "", *(f"- [ ] {name}: `{value}`" for name, value in fields.items() if value), ""]
    return [
        RenderedFile("cucm-checklist.md", "\n".join(lines)),
        RenderedFile("cucm-values.json", json.dumps(pages, indent=2, ensure_ascii=False) + "\n"),
    ]
