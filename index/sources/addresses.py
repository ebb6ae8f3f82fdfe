"""Which addresses may be connected to: those of the public internet, and hosts that the caller allows."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from gifdex.index.sources.deadline import within
from gifdex.schemas.errors import SourceError

# Services of cloud hosts at addresses that Python counts as public: Oracle's metadata (older Pythons), Azure's agent.
_ALSO_PRIVATE = (IPv4Network("192.0.0.0/24"), IPv4Network("168.63.129.16/32"))
# Site-local, documentation and segment routing addresses that some Pythons count as public.
_ALSO_PRIVATE_6 = (IPv6Network("fec0::/10"), IPv6Network("3fff::/20"), IPv6Network("5f00::/16"))
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address

# Returns the IP addresses of a host, as text; raises OSError if there is none.
Resolver = Callable[[str, int], list[str]]


def resolve(host: str, port: int) -> list[str]:
    """Ask the operating system for the addresses of a host; raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def is_public(address: str) -> bool:
    """Tell whether an IP address belongs to the public internet.

    Private, loopback, link-local, multicast, reserved and unspecified addresses do not (the registries of RFC 6890),
    nor IPv6 addresses that lead to such an IPv4 address.
    """
    ip = ip_address(address)
    inner = _inside(ip) if isinstance(ip, IPv6Address) else None
    if inner is not None:
        ip = inner
    if any(ip in network for network in (*_ALSO_PRIVATE, *_ALSO_PRIVATE_6)):
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


def _inside(ip: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address that packets to `ip` end at, if it is a translated or tunnelled one."""
    if ip in _NAT64:
        return IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour


@dataclass(frozen=True)
class AddressRules:
    """Which hosts may be connected to.

    `allow_private` allows every address. `private_hosts` are names that may lead to private addresses, such as an
    intranet's media server; all others still may not.
    """

    allow_private: bool = False
    private_hosts: frozenset[str] = frozenset()
    resolver: Resolver = resolve

    def addresses(self, host: str, port: int, seconds: float) -> list[str]:
        """Return the addresses of a host, all of them allowed; connect to one of these, not to the name.

        Raises SourceError if one is not allowed, TimeoutError after `seconds`, and OSError if the host is unknown.
        """
        found = within(seconds, self.resolver, host, port)
        if not (self.allow_private or host.lower() in {name.lower() for name in self.private_hosts}):
            for address in found:
                if not is_public(address):
                    raise SourceError(
                        f"{host} leads to {address}, which is not a public address; only public ones are fetched, "
                        "unless the host is in private_hosts"
                    )
        return found
