"""What a sandbox on a private network has in its plan, and what is added when it starts.

Records, made by pure functions. Which address it has is known when it comes to the network, as it starts; so
all that names it is a slot.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sandbox.destination import Policy
from sandbox.errors import HostError, ProfileError
from sandbox.host.model import Network
from sandbox.net import egress, published, rules, user
from sandbox.net.private import router
from sandbox.net.private.store import PrivateNetwork
from sandbox.net.published import Inside
from sandbox.profile.model import Net
from sandbox.units import bytes_per_second
from sandbox.wire import Kind, Record

__all__ = ["DEVICE", "Membership", "check", "inside", "records", "resolvers", "slots", "table"]

DEVICE = "eth0"


@dataclass(frozen=True, slots=True)
class Membership:
    """Of a sandbox's plan: onto which network, by which names, and with what of `[net]`. `python`,
    `directory` and `views` are what the network's own program runs with (`sandbox.plan.interpreter`)."""

    network: PrivateNetwork
    net: Net
    names: tuple[str, ...]
    host: Network
    origin: str = ""
    python: str = ""
    directory: str = ""
    views: tuple[str, ...] = ()


def check(net: Net, network: PrivateNetwork, host: Network, where: str = "") -> None:
    """Refuse what can't be done, here or at all.

    Raises:
        HostError: something is missing.
        ProfileError: a key that is the network's own matter.
    """
    mend = f"sandbox network rm {network.name}; sandbox network create"
    if net.dns and net.dns != network.dns:
        addresses = " ".join(f"--dns {each}" for each in net.dns)
        raise ProfileError(
            f"{where}net.dns goes with no private network: the network's own name server knows its members",
            f"{mend} {addresses} {network.name}",
        )
    if net.backend not in ("auto", network.backend):
        raise ProfileError(
            f"{where}net.backend goes with no private network: its members share one",
            f"{mend} --backend {net.backend} {network.name}",
        )
    if "loopback" in net.reach:
        raise ProfileError(
            f"{where}the host's loopback can't be reached from a private network",
            'net.mode = "user", or reach the host by an address: reach = ["host"]',
        )
    if network.internal:
        if net.allow:
            raise ProfileError(
                f"{where}net.allow has no use: the network {network.name} has no way out", "remove allow"
            )
        if not host.nft:
            raise HostError(
                f"{where}cannot make a network: there is no nft", "sudo apt install nftables", row="nft"
            )
        return
    user.check(router.net_of(network), host, where)


def resolvers(network: PrivateNetwork, host: Network) -> tuple[str, ...]:
    """The name server that members ask: the network's own."""
    return network.addresses(1)[:1]


def table(net: Net, network: PrivateNetwork, host: Network) -> rules.Rules:
    """What may leave the sandbox."""
    names, policy = egress.names_matter(net), egress.policy(net)
    if network.internal:
        policy = Policy((), policy.deny if policy else ())
    return rules.Rules(
        peers=network.subnets,
        resolvers=resolvers(network, host),
        gateways=user.GATEWAYS,
        forwarders=user.FORWARDERS,
        reach=net.reach,
        policy=policy,
        redirect=egress.PORT if names else 0,
        services=names,
    )


def records(membership: Membership) -> Iterator[Record]:
    """Its rules, which are the same whatever its address."""
    net, network, host = membership.net, membership.network, membership.host
    rules_ = table(net, network, host).text() + published.MARKS
    text = "keep the sandbox from the host and private networks"
    yield Record(Kind.NFT, text, membership.origin, (host.nft, rules_))
    yield Record(
        Kind.HOST_SETS, "follow the host's addresses", membership.origin, (rules.TABLE, *rules.HOST_SETS)
    )


def slots(membership: Membership, number: int, leases: tuple[int, int]) -> Iterator[Record]:
    """What is added when it has come to the network and got *number*; *leases* are those of its netlink
    socket and of its connection, counted as they stand in the plan."""
    network, origin = membership.network, membership.origin
    fields = (
        *leases,
        router.BRIDGE,
        router.port_of(number),
        DEVICE,
        router.mac_of(number),
        router.MTU,
        bytes_per_second(membership.net.rate),
    )
    yield Record(Kind.VETH, f"reach the network {network.name}", origin, fields)
    for kind, prefix in ((0, 24), (1, 64)):
        if kind == 1 and not membership.host.ipv6:
            continue
        address = network.addresses(number)[kind]
        gateway = network.addresses(1)[kind]
        text = f"give {DEVICE} the address {address}"
        yield Record(Kind.ADDRESS, text, origin, (DEVICE, address, prefix, gateway))
    yield from published.records(membership.net, inside(network, number), origin)


def inside(network: PrivateNetwork, number: int) -> Inside:
    """Where published ports of who has *number* lead."""
    four, six = network.addresses(number)
    gateway, gateway6 = network.addresses(1)
    return Inside(four, gateway, six, gateway6, published.MARK)
