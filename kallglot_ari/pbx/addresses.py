"""How Kallglot's SIP endpoints are called and dialled. The generated configuration and the AGI answers agree by using this. Pure."""

from __future__ import annotations

import math

from kallglot_ari.settings import Endpoint, TrunkSettings

DEFAULT_PORTS = {"tls": 5061, "tcp": 5060, "udp": 5060}


def ordered(trunk: TrunkSettings) -> list[Endpoint]:
    """The endpoints in failover order: lowest priority first, equal ones as they stand."""
    return sorted(trunk.endpoints, key=lambda endpoint: endpoint.priority)


def section_name(index: int) -> str:
    """Name of the `index`-th endpoint's section in pjsip.conf or sip.conf: ``kallglot``, ``kallglot-2``, …"""
    return "kallglot" if index == 0 else f"kallglot-{index + 1}"


def split_port(uri: str, transport: str) -> tuple[str, int]:
    """Host and port of an endpoint; without a port, the transport's own. An IPv6 address stays in its brackets."""
    host, colon, port = uri.rpartition(":")
    if colon and port.isdigit() and (not host.count(":") or host.endswith("]")):
        return host, int(port)
    return uri, DEFAULT_PORTS[transport]


def sip_uri(session_id: str, endpoint: Endpoint, transport: str) -> str:
    """``sip:SESSION@HOST[:PORT];transport=tls``; the port only where it is not the transport's own, none for UDP's parameter."""
    host, port = split_port(endpoint.uri, transport)
    where = host if port == DEFAULT_PORTS[transport] else f"{host}:{port}"
    return f"sip:{session_id}@{where}" + ("" if transport == "udp" else f";transport={transport}")


def public_uri(session_id: str, trunk: TrunkSettings) -> str:
    """``sip:SESSION@DOMAIN``: what a PBX with a trunk of its own routes to."""
    return f"sip:{session_id}@{trunk.domain}"


def dial_strings(session_id: str, trunk: TrunkSettings, tech: str = "PJSIP") -> list[str]:
    """What Asterisk's Dial takes, in failover order: ``PJSIP/kallglot/sip:…`` or, for chan_sip, ``SIP/kallglot/SESSION``."""
    found = []
    for index, endpoint in enumerate(ordered(trunk)):
        name = section_name(index)
        target = session_id if tech == "SIP" else sip_uri(session_id, endpoint, trunk.transport)
        found.append(f"{tech}/{name}/{target}")
    return found


def timeout_seconds(trunk: TrunkSettings) -> str:
    """Seconds that Dial gives each endpoint, rounded up to tenths."""
    return f"{math.ceil(trunk.failover_timeout_ms / 100) / 10:g}"
