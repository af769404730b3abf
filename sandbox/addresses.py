"""Which IP addresses are special: this host, a private network, a cloud's metadata service.

Tables, and functions of addresses alone; nothing here asks this machine. The kernel's rules and the
services of the egress policy are made from the same tables. Ranges for documentation are no special
ones: nothing answers there.

Sources: the IANA special-purpose address registries (RFC 6890 and its updates), RFC 6052 (NAT64).
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

__all__ = ["CLOSED", "METADATA", "PRIVATE", "Address", "Network", "plain", "special"]

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

#: cloud metadata services outside the link-local range: Alibaba, Azure, Oracle, AWS over IPv6
METADATA: tuple[str, ...] = ("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254")

#: networks of organisations and providers; a profile can open them
PRIVATE: tuple[str, ...] = (
    "10.0.0.0/8",
    "100.64.0.0/10",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "fc00::/7",
    "fec0::/10",
    "64:ff9b:1::/48",
)

#: nothing for a sandbox: this host and its links, groups, and what is set aside
CLOSED: tuple[tuple[str, str], ...] = (
    ("0.0.0.0/8", "this host"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local"),
    ("192.0.0.0/24", "reserved"),
    ("198.18.0.0/15", "reserved"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved"),
    ("::/128", "this host"),
    ("::1/128", "loopback"),
    ("::ffff:0:0/96", "IPv4 as IPv6"),
    ("::/96", "IPv4 as IPv6"),
    ("100::/64", "discarded"),
    ("2001::/32", "a tunnel"),
    ("fe80::/10", "link-local"),
    ("ff00::/8", "multicast"),
)

# What carries an IPv4 address in an IPv6 one, and by how many bits it is shifted there.
_CARRIERS = ((IPv6Network("64:ff9b::/96"), 0), (IPv6Network("2002::/16"), 80))

_TABLE: tuple[tuple[Network, str], ...] = (
    *((ip_network(each), "metadata") for each in METADATA),
    *((ip_network(network), kind) for network, kind in CLOSED),
    *((ip_network(each), "private") for each in PRIVATE),
)


def plain(address: Address) -> Address:
    """*address*, or the IPv4 address that it stands for as `::ffff:192.0.2.1`: packets then are IPv4."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def special(address: Address) -> str:
    """What is special about *address* ("private", "loopback", "metadata" …), or "". What leads to an IPv4
    address through NAT64 or 6to4 is what that one is."""
    address = plain(address)
    for network, kind in _TABLE:
        if address.version == network.version and address in network:
            return kind
    if isinstance(address, IPv6Address):
        for carrier, shift in _CARRIERS:
            if address in carrier:
                return special(ip_address(int(address) >> shift & 0xFFFF_FFFF))
    return ""
