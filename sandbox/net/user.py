"""The network of mode "user": a device that pasta or slirp4netns makes, with rules in front of it.

Records of the plan, made by pure functions. Addresses are always the same: each sandbox has a network
namespace of its own, and nobody sees the one of another.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from sandbox.errors import HostError, ProfileError
from sandbox.host.model import Network
from sandbox.net import egress, published, rules
from sandbox.net.published import Inside
from sandbox.profile.model import Net
from sandbox.wire import Kind, Ready, Record, ServiceFlag

__all__ = [
    "ADDRESSES",
    "DEVICE",
    "FORWARDERS",
    "GATEWAYS",
    "INSIDE",
    "MTU",
    "check",
    "connect",
    "own",
    "records",
    "resolvers",
    "table",
]

DEVICE = "tap0"
#: slirp4netns takes no more (its own limit is 65521), and larger packets cost less
MTU = 65520
#: IPv4 and IPv6 each: the sandbox's own, what stands for the host, and what forwards names, by the numbers of
#: slirp4netns(1)
ADDRESSES = ("10.0.2.100", "fd00::100")
GATEWAYS = ("10.0.2.2", "fd00::2")
FORWARDERS = ("10.0.2.3", "fd00::3")

#: where published ports lead
INSIDE = Inside(ADDRESSES[0], GATEWAYS[0], ADDRESSES[1], GATEWAYS[1], published.MARK)

#: What a backend sees of the host's files: programs, configuration, and the devices it opens.
_VIEWS = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/nix",
    "/gnu",
    "/etc",
    "/proc",
    "/dev/null",
    "/dev/urandom",
    "/dev/net/tun",
)


def check(net: Net, network: Network, where: str = "") -> None:
    """Refuse what can't be done here.

    Raises:
        HostError: something is missing; the row of `doctor` says more.
        ProfileError: name servers that nothing inside can reach.
    """
    import ipaddress

    if network.reason:
        row = network.backend or "slirp4netns"
        raise HostError(f"{where}cannot make a network: {network.reason}", network.mend or None, row=row)
    for text in net.dns:
        address = ipaddress.ip_address(text)
        if address.is_loopback or address.is_unspecified:
            raise ProfileError(
                f"{where}net.dns names {text}, which inside is the sandbox itself",
                "leave dns out: the host's name servers are asked then, wherever they are",
            )
    if network.backend == "pasta" and not net.dns:
        _check_names(network, where)


def _check_names(network: Network, where: str) -> None:
    """Of the host's name servers pasta forwards to none on a link, and to one on loopback since 2024-08."""
    import ipaddress

    known = [ipaddress.ip_address(each) for each in network.name_servers]
    if not known or any(
        not each.is_link_local and (network.modern or not each.is_loopback) for each in known
    ):
        return
    which = "pasta" if network.modern else f"pasta of {network.date or 'before 2024-08'}"
    on = "the host's loopback" if known[0].is_loopback else "on a link of the host's"
    raise HostError(
        f"{where}{which} can't forward names to {known[0]}, {on}",
        'backend = "slirp4netns" in [net], or dns = ["9.9.9.9"]',
        row="pasta",
    )


def own(network: Network) -> tuple[str, ...]:
    """The sandbox's addresses."""
    return ADDRESSES if network.ipv6 else ADDRESSES[:1]


def resolvers(net: Net, network: Network) -> tuple[str, ...]:
    """The name servers that the payload asks: the profile's, or what forwards to the host's of the family."""
    if net.dns:
        return net.dns
    four = any(":" not in each for each in network.name_servers)
    six = network.ipv6 and any(":" in each for each in network.name_servers)
    return (*FORWARDERS[: 1 if four or not six else 0], *FORWARDERS[1 : 2 if six else 1])


def table(net: Net, network: Network) -> rules.Rules:
    """What may leave the sandbox."""
    names = egress.names_matter(net)
    return rules.Rules(
        own=own(network),
        resolvers=resolvers(net, network),
        gateways=GATEWAYS,
        forwarders=FORWARDERS,
        reach=net.reach,
        policy=egress.policy(net),
        redirect=egress.PORT if names else 0,
        services=names,
    )


def connect(
    net: Net, network: Network, origin: str = "", *, flags: ServiceFlag = ServiceFlag.RIGHTS
) -> Iterator[Record]:
    """The backend, and the addresses of its device."""
    argv = _argv(net, network)
    ready = Ready.FORKS if network.backend == "pasta" else Ready.WRITES
    views = _views(network)
    yield Record(
        Kind.SERVICE,
        f"connect the network with {network.backend}",
        origin,
        (network.backend, int(flags), int(ready), len(views), *views, *argv),
    )
    if network.backend == "slirp4netns" and network.ipv6:
        # It would be made up from router advertisements, a second later.
        fields = (DEVICE, ADDRESSES[1], 64, GATEWAYS[1])
        yield Record(Kind.ADDRESS, f"give {DEVICE} the address {ADDRESSES[1]}", origin, fields)
    else:
        # It is there already: this says through what everything goes.
        fields = (DEVICE, ADDRESSES[0], 24, "")
        yield Record(Kind.ADDRESS, f"give {DEVICE} the address {ADDRESSES[0]}", origin, fields)


def records(net: Net, network: Network, origin: str = "") -> Iterator[Record]:
    """What makes the network, for the plan."""
    yield from connect(net, network, origin)
    made = table(net, network)
    text = "keep the sandbox from the host and private networks"
    yield Record(Kind.NFT, text, origin, (network.nft, made.text() + published.MARKS))
    yield from _rate(net, origin)
    yield from published.records(net, INSIDE, origin)
    yield Record(Kind.HOST_SETS, "follow the host's addresses", origin, (rules.TABLE, *rules.HOST_SETS))


def _rate(net: Net, origin: str) -> Iterator[Record]:
    from sandbox.units import bytes_per_second

    rate = bytes_per_second(net.rate)
    if rate:
        text = f"let {DEVICE} send and receive {net.rate} per second"
        yield Record(Kind.RATE, text, origin, (DEVICE, rate))


def _views(network: Network) -> tuple[str, ...]:
    """With the directories of what lies elsewhere."""
    # pasta is passt by another name, by which it knows what to do: its path stays as it is
    programs = (network.path, os.path.realpath(network.path))
    more = [os.path.dirname(each) for each in (*programs, network.resolv_conf)]
    found = list(_VIEWS)
    found += [each for each in more if not any(each == v or each.startswith(v + "/") for v in _VIEWS)]
    return tuple(each for each in dict.fromkeys(found) if each != "/")


def _argv(net: Net, network: Network) -> tuple[str, ...]:
    return (network.path, *(_pasta if network.backend == "pasta" else _slirp4netns)(net, network))


def _slirp4netns(net: Net, network: Network) -> Iterator[str]:
    """slirp4netns(1). Its own sandbox needs uid 0 in the user namespace; ours has taken its place."""
    yield from ("--configure", f"--mtu={MTU}", "--enable-seccomp", "--ready-fd", "{ready}")
    if "loopback" not in net.reach:
        yield "--disable-host-loopback"
    if net.dns:
        yield "--disable-dns"
    if network.ipv6:
        yield "--enable-ipv6"
    yield from ("--netns-type=path", "{netns}", DEVICE)


def _pasta(net: Net, network: Network) -> Iterator[str]:
    """pasta(1). Whatever is left out of the four port options and the gateway's opens the host."""
    yield from ("--quiet", "--config-net", "--ns-ifname", DEVICE, "--mtu", str(MTU))
    yield from ("--address", ADDRESSES[0], "--netmask", "24", "--gateway", GATEWAYS[0])
    if network.ipv6:
        yield from ("--address", ADDRESSES[1], "--gateway", GATEWAYS[1])
    else:
        yield "--ipv4-only"
    yield from ("--tcp-ports", "none", "--udp-ports", "none", "--tcp-ns", "none", "--udp-ns", "none")
    if "loopback" not in net.reach:
        yield "--no-map-gw"
    if not net.dns:
        for each in resolvers(net, network):
            yield from ("--dns-forward", each)
    # It is found there only until we are ready; when to end is the guard's to say.
    yield from ("--no-netns-quit", "--netns-only", "--netns", "{netns}")
