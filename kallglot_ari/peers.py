"""Who is at the other end of a connection: addresses, and networks of them that may connect."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def address(peer: str) -> Address | None:
    """An IP address as text, one of IPv4 behind IPv6 as what it is; None where it is none."""
    try:
        found = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        return found.ipv4_mapped
    return found


class Networks:
    """Addresses and networks; none at all means everybody."""

    def __init__(self, items: Iterable[str]) -> None:
        self._networks = [ipaddress.ip_network(item, strict=False) for item in items]

    def admit(self, peer: str) -> bool:
        """Whether somebody with this address may connect."""
        if not self._networks:
            return True
        found = address(peer)
        return found is not None and any(found in network for network in self._networks)
