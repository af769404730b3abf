"""What a private network itself is made of: a bridge, and where there is a way out, what leads there.

Records of the plan of its supervisor, made by pure functions. The bridge is in a network namespace of its
own; whoever is on it has a port of it, named and addressed by a number. The rules there are none of the
members': what leaves a port has that port's MAC and IP addresses, or goes nowhere, whatever somebody has
brought under control inside of a sandbox. What a member may reach outside is a matter of rules in its own
network namespace (`sandbox.net.rules`), which its payload has no more rights over than over these.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv6Address, ip_network

from sandbox.host.model import Network
from sandbox.net import user
from sandbox.net.private.store import PrivateNetwork
from sandbox.profile.model import Net
from sandbox.wire import Kind, Ready, Record, ServiceFlag, Socket

__all__ = [
    "BRIDGE",
    "MTU",
    "NUMBERS",
    "SERVICE",
    "mac_of",
    "net_of",
    "port_of",
    "records",
    "resolvers",
    "rules",
    "service",
]

BRIDGE = "br0"
MTU = user.MTU
#: of members
NUMBERS = range(2, 255)
#: the name of the program that gives out addresses and answers names
SERVICE = "sandbox-members"


def port_of(number: int) -> str:
    """The bridge's port of who has *number*."""
    return f"m{number}"


def mac_of(number: int) -> str:
    """Locally administered; 1 is the bridge's."""
    return f"02:5b:0c:00:00:{number:02x}"


def net_of(network: PrivateNetwork) -> Net:
    """What the network's own way out is like."""
    return Net(mode="user", backend=network.backend, dns=network.dns)


def records(network: PrivateNetwork, host: Network, service: Iterable[Record]) -> Iterator[Record]:
    """All of it. *service* are the records of the program that serves the members."""
    yield Record(Kind.BRIDGE, f"make the bridge of {network.name}", "", (BRIDGE, mac_of(1), MTU))
    yield from service
    if not network.internal:
        for name in ("net/ipv4/ip_forward", *(("net/ipv6/conf/all/forwarding",) if host.ipv6 else ())):
            yield Record(Kind.SYSCTL, f"set {name} to 1", "", (name, "1"))
        flags = ServiceFlag.RIGHTS | ServiceFlag.NEEDED
        yield from user.connect(net_of(network), host, flags=flags)
    four, six = network.addresses(1)
    yield Record(Kind.ADDRESS, f"give {BRIDGE} the address {four}", "", (BRIDGE, four, 24, ""))
    if host.ipv6:
        yield Record(Kind.ADDRESS, f"give {BRIDGE} the address {six}", "", (BRIDGE, six, 64, ""))
    text = "keep members from using addresses of others"
    yield Record(Kind.NFT, text, "", (host.nft, rules(network, host)))


def service(network: PrivateNetwork, argv: tuple[str, ...], views: tuple[str, ...]) -> Iterator[Record]:
    """The program that serves the members, and its descriptors: where they come to (lease 0), and
    netlink."""
    flags = int(ServiceFlag.RIGHTS | ServiceFlag.NEEDED)
    fields: tuple[str | int, ...] = (SERVICE, flags, int(Ready.WRITES), len(views), *views, *argv)
    yield Record(Kind.SERVICE, f"serve the members of {network.name}", "", fields)
    yield Record(Kind.SOCKET, "pass on a socket", "", (SERVICE, int(Socket.GIVEN), "", 0))
    yield Record(Kind.SOCKET, "open a netlink socket", "", (SERVICE, int(Socket.ROUTE), "", 0))


# --- rules --------------------------------------------------------------------------------------


def rules(network: PrivateNetwork, host: Network) -> str:
    """The tables, for `nft -f`: who is who on the bridge, and what goes between it and elsewhere."""
    lines = [*_bridge(network), *_routes(network, resolvers(network, host))]
    return "\n".join(lines) + "\n"


def resolvers(network: PrivateNetwork, host: Network) -> tuple[str, ...]:
    """Whom the network's name server asks."""
    return () if network.internal else user.resolvers(net_of(network), host)


def _elements(network: PrivateNetwork, kind: int) -> str:
    found = (
        f'"{port_of(number)}" . {mac_of(number)} . {network.addresses(number)[kind]}' for number in NUMBERS
    )
    return ", ".join(found)


def _bridge(network: PrivateNetwork) -> Iterator[str]:
    """Everything that comes in by a port. ARP and neighbour discovery say whose an address is; routers are
    none of the members; and no other protocol than IP is let through."""
    yield "table bridge sandbox {"
    for kind, type_ in enumerate(("ipv4_addr", "ipv6_addr")):
        yield f"  set own{'46'[kind]} {{ type ifname . ether_addr . {type_};"
        yield f"    elements = {{ {_elements(network, kind)} }}"
        yield "  }"
    yield "  chain adverts {"
    for number in NUMBERS:
        target = int(IPv6Address(network.addresses(number)[1]))
        yield f'    iifname "{port_of(number)}" @th,64,128 {target:#034x} return'
    yield "    drop"
    yield "  }"
    yield "  chain members {"
    yield "    type filter hook prerouting priority -300; policy drop;"
    yield "    ether type ip iifname . ether saddr . ip saddr @own4 accept"
    yield "    ether type arp iifname . ether saddr . arp saddr ip != @own4 drop"
    yield "    ether type arp iifname . arp saddr ether . arp saddr ip @own4 accept"
    yield "    ether type != ip6 drop"
    yield "    icmpv6 type { nd-router-advert, nd-redirect } drop"
    yield "    icmpv6 type nd-neighbor-advert jump adverts"
    yield "    iifname . ether saddr . ip6 saddr @own6 accept"
    yield "  }"
    yield "}"


def _routes(network: PrivateNetwork, resolvers: tuple[str, ...]) -> Iterator[str]:
    yield "table inet sandbox {"
    yield "  chain input {"
    yield "    type filter hook input priority filter; policy drop;"
    yield '    iifname "lo" accept'
    yield "    ct state established,related accept"
    yield "    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept"
    yield f'    iifname "{BRIDGE}" meta l4proto {{ tcp, udp }} th dport 53 accept'
    yield f'    iifname "{BRIDGE}" icmp type echo-request accept'
    yield f'    iifname "{BRIDGE}" icmpv6 type echo-request accept'
    yield f'    iifname "{BRIDGE}" reject with icmpx admin-prohibited'
    yield "  }"
    yield "  chain output {"
    yield "    type filter hook output priority filter; policy drop;"
    yield '    oifname "lo" accept'
    yield "    ct state established,related accept"
    yield "    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept"
    for each in resolvers:
        yield f"    {_daddr(each)} meta l4proto {{ tcp, udp }} th dport 53 accept"
    yield "  }"
    yield "  chain forward {"
    yield "    type filter hook forward priority filter; policy drop;"
    yield "    ct state established,related accept"
    yield f'    iifname "{BRIDGE}" oifname "{BRIDGE}" accept'
    if not network.internal:
        for each in (*user.GATEWAYS, *user.FORWARDERS, *user.ADDRESSES):
            yield f"    {_daddr(each)} reject with icmpx admin-prohibited"
        yield f'    iifname "{BRIDGE}" oifname "{user.DEVICE}" accept'
    yield "    reject with icmpx admin-prohibited"
    yield "  }"
    if not network.internal:
        yield "  chain source {"
        yield "    type nat hook postrouting priority srcnat; policy accept;"
        yield f'    oifname "{user.DEVICE}" masquerade'
        yield "  }"
    yield "}"


def _daddr(address: str) -> str:
    return f"{'ip6' if ip_network(address).version == 6 else 'ip'} daddr {address}"
