"""The nftables table of a sandbox: what may leave it. A pure text generator, for nft(8).

The table is in the sandbox's network namespace, which the outer user namespace owns: no payload can change
it. In this order: what answers, and the sandbox's own addresses; who is on the same private network, and not
denied; never the host, its links and metadata services; what `deny` and `allow` say of networks; private
networks; what `sandbox.egress`, which marks its sockets, looks up and connects to; what it allowed by name.
What is refused is counted by address and port, and told at once (ICMP, "administratively prohibited").
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sandbox.addresses import CLOSED, METADATA, PRIVATE
from sandbox.destination import CHECKED_PORTS, Destination, Policy

__all__ = ["HOST_SETS", "MARK", "SETS", "TABLE", "Rules"]

TABLE = "sandbox"
#: of the sockets of `sandbox.egress`; setting it takes CAP_NET_ADMIN, which no payload has there
MARK = 0x5B0C

_KINDS = {
    "any": "{address}",
    "proto": "{address} . inet_proto",
    "allow": "{address} . inet_proto . inet_service",
}
_ADDRESSES = {"4": "ipv4_addr", "6": "ipv6_addr"}
#: sets that names' addresses are put into, each for IPv4 and IPv6: what is allowed (any port; a protocol; a
#: port of a protocol), and what is not
SETS = tuple(f"{prefix}{kind}" for prefix in ("", "no") for kind in _KINDS)
#: of the host's addresses, IPv4 and IPv6: of two pairs one is filled while the other still holds
HOST_SETS = ("host4", "host6", "hosts4", "hosts6")
_HOST = tuple(f"@{name}" for name in HOST_SETS)
_SET_SIZE = 4096
_ACCEPT = "counter name connections accept"
_LINK_LOCAL = ("169.254.0.0/16", "fe80::/10")
_CARRIERS = ("64:ff9b::/96", "2002::/16")
_COUNTED = 1024


@dataclass(frozen=True, slots=True)
class Rules:
    """What the table is made from.

    own         the sandbox's own addresses
    peers       the private network that it is on
    resolvers   the name servers that the services (or, without services, the payload) ask, at port 53 alone
    gateways    addresses that stand for the host's loopback
    forwarders  those that stand for the host's name server, at whichever port
    reach       `net.reach`
    policy      of networks and names, or None
    redirect    port of `sandbox.egress` that sees what goes to ports 80 and 443, or 0
    services    whether `sandbox.egress` runs, and resolves names

    The sets HOST_SETS are to have the host's addresses, the one pair or the other.
    """

    own: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    resolvers: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    forwarders: tuple[str, ...] = ()
    reach: tuple[str, ...] = ()
    policy: Policy | None = None
    redirect: int = 0
    services: bool = False

    def text(self) -> str:
        """The whole table, for `nft -f`."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        yield f"table inet {TABLE} {{"
        yield "  counter connections { }"
        yield "  counter refused { }"
        for family, address in _ADDRESSES.items():
            for name in ("host", "hosts"):
                yield f"  set {name}{family} {{ type {address}; flags interval; }}"
            yield (
                f"  set denied{family} {{ type {address} . inet_proto . inet_service; "
                f"flags dynamic; size {_COUNTED}; }}"
            )
            if self.services:
                for name in SETS:
                    kind = _KINDS[name.removeprefix("no")].format(address=address)
                    yield f"  set {name}{family} {{ type {kind}; flags timeout; size {_SET_SIZE}; }}"
        yield from _chain("refuse", "", self._refused())
        if self.redirect:
            yield from _chain("names", "type nat hook output priority -100; policy accept;", self._nat())
        yield from _chain("output", "type filter hook output priority filter; policy drop;", self._output())
        hook = "type filter hook postrouting priority filter; policy accept;"
        yield from _chain("leaving", hook, self._leaving())
        yield "}"

    def _refused(self) -> Iterator[str]:
        for family, ip in (("4", "ip"), ("6", "ip6")):
            yield (
                f"meta l4proto {{ tcp, udp }} update @denied{family} "
                f"{{ {ip} daddr . meta l4proto . th dport counter }}"
            )
        yield "counter name refused reject with icmpx admin-prohibited"

    def _nat(self) -> Iterator[str]:
        """What is allowed by address, or whatever it speaks, is left alone."""
        yield f"meta mark {MARK:#x} return"
        yield from _to((*self._local(), *self.peers), "return")
        yield from _to(_HOST, "return")
        if "loopback" in self.reach:
            yield from _to(self.gateways, "return")
        if "link-local" in self.reach:
            yield from _to((*_LINK_LOCAL, *METADATA), "return")
        for match in _matches(self.policy.allow or () if self.policy else ()):
            yield f"{match} return"
        for family, ip in (("4", "ip"), ("6", "ip6")):
            yield f"{ip} daddr . meta l4proto . th dport @allow{family} return"
        ports = ", ".join(map(str, CHECKED_PORTS))
        yield f"tcp dport {{ {ports} }} redirect to :{self.redirect}"

    def _output(self) -> Iterator[str]:
        yield "ct state established,related accept"
        neighbours = "nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, mld2-listener-report"
        yield f"icmpv6 type {{ {neighbours} }} accept"
        yield from _to(self._local(), "accept")
        mark = f"meta mark {MARK:#x} " if self.services else ""
        yield from _to(self.resolvers, "meta l4proto { tcp, udp } th dport 53 accept", mark)
        if self.peers:
            yield from self._networks("deny", "goto refuse")
            yield from _to(self.peers, _ACCEPT)
        yield from self._host()
        yield from self._networks("deny", "goto refuse")
        yield from self._networks("allow", _ACCEPT, private=True)
        if "private" not in self.reach:
            yield from _to(PRIVATE, "goto refuse")
        # Both carry IPv4 addresses, private ones too, and lead to them where the host knows such a way.
        yield from _to(_CARRIERS, "goto refuse")
        yield from self._networks("allow", _ACCEPT, private=False)
        if self.services:
            yield f"meta mark {MARK:#x} {_ACCEPT}"
            yield from self._policy_of_names()
        open_ = self.policy is None or self.policy.allow is None
        yield _ACCEPT if open_ else "goto refuse"

    def _leaving(self) -> Iterator[str]:
        """What is local here leaves by no device, whatever a socket was bound to (SO_BINDTODEVICE): outside
        it is the backend's loopback, and so the host's. Looked at when all that redirects has done so."""
        yield 'oif "lo" accept'
        for place in self._local():  # compared one by one: each packet passes here, and a set takes longer
            yield f"{'ip6' if ':' in place else 'ip'} daddr {place} counter name refused drop"

    def _host(self) -> Iterator[str]:
        """The host by all its addresses, and what only it should talk to."""
        opened = self.gateways if "loopback" in self.reach else ()
        yield from _to(opened, _ACCEPT)
        yield from _to((*self.forwarders, *(() if opened else self.gateways)), "goto refuse")
        if "link-local" in self.reach:
            yield from _to((*_LINK_LOCAL, *METADATA), _ACCEPT)
        yield from _to(_HOST, _ACCEPT if "host" in self.reach else "goto refuse")
        yield from _to((*(network for network, _ in CLOSED), *METADATA), "goto refuse")

    def _local(self) -> tuple[str, ...]:
        return ("127.0.0.0/8", "::1", *self.own)

    def _networks(self, which: str, verdict: str, *, private: bool | None = None) -> Iterator[str]:
        """Those of the policy; of `allow` a network opens private ones when it is itself a part of one."""
        entries = (getattr(self.policy, which) if self.policy else ()) or ()
        for match in _matches(each for each in entries if private in (None, each.private)):
            yield f"{match} {verdict}"

    def _policy_of_names(self) -> Iterator[str]:
        """Ports at which names are checked are reached through the redirection alone, unless all of a
        protocol was allowed there."""
        checked = "th dport { " + ", ".join(map(str, CHECKED_PORTS)) + " }"
        for prefix, verdict in (("no", "goto refuse"), ("", _ACCEPT)):
            for family, ip in (("4", "ip"), ("6", "ip6")):
                yield f"{ip} daddr . meta l4proto . th dport @{prefix}allow{family} {verdict}"
            if not prefix and self.redirect:
                yield f"meta l4proto {{ tcp, udp }} {checked} goto refuse"
            for family, ip in (("4", "ip"), ("6", "ip6")):
                yield f"{ip} daddr . meta l4proto @{prefix}proto{family} {verdict}"
                yield f"{ip} daddr @{prefix}any{family} {verdict}"


def _chain(name: str, hook: str, rules: Iterable[str]) -> Iterator[str]:
    yield f"  chain {name} {{"
    if hook:
        yield f"    {hook}"
    for rule in rules:
        yield f"    {rule}"
    yield "  }"


def _to(places: Iterable[str], verdict: str, before: str = "") -> Iterator[str]:
    """A rule for each family that *places* (addresses, networks, names of sets) has."""
    fours: list[str] = []
    sixes: list[str] = []
    for place in places:
        if place.startswith("@"):
            yield f"{before}{'ip' if place.endswith('4') else 'ip6'} daddr {place} {verdict}"
        else:
            (sixes if ":" in place else fours).append(place)
    if fours:
        yield f"{before}ip daddr {{ {', '.join(_merged(fours))} }} {verdict}"
    if sixes:
        yield f"{before}ip6 daddr {{ {', '.join(_merged(sixes))} }} {verdict}"


def _merged(networks: list[str]) -> list[str]:
    """Without those that another one has in it: a set of intervals may not overlap."""
    from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network

    found = [ip_network(each) for each in networks]
    fours = [each for each in found if isinstance(each, IPv4Network)]
    sixes = [each for each in found if isinstance(each, IPv6Network)]
    return [str(each) for each in (*collapse_addresses(fours), *collapse_addresses(sixes))]


def _matches(entries: Iterable[Destination]) -> Iterator[str]:
    """What stands in front of a verdict, for all that have a network. Those of a port and protocol are one
    rule: a table is one message, which an ordinary user's sockets take only so much of."""
    groups: dict[tuple[int, int, str], list[str]] = {}
    for each in entries:
        if each.network is not None:
            groups.setdefault((each.network.version, each.port, each.protocol), []).append(str(each.network))
    for (version, port, protocol), networks in groups.items():
        merged = _merged(networks)
        places = merged[0] if len(merged) == 1 else f"{{ {', '.join(merged)} }}"
        text = f"{'ip' if version == 4 else 'ip6'} daddr {places}"
        if port:
            text += f" meta l4proto {protocol or '{ tcp, udp }'} th dport {port}"
        elif protocol:
            text += f" meta l4proto {protocol}"
        yield text
