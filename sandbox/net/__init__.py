"""The network of a sandbox: which modes there are, and the files that name resolution needs.

`none` is a network namespace with nothing but a loopback device; `user` has a way out besides, through a
program of the caller's own (`sandbox.net.user`); `host` shares the caller's network, abstract unix sockets
included; any other is the name of a private network (`sandbox.net.private`). Pure functions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from sandbox.profile.model import Net

if TYPE_CHECKING:
    from sandbox.host.model import Network
    from sandbox.net.published import Inside

__all__ = ["addresses", "by_name", "has_own", "hosts", "inside", "is_private", "resolv_conf", "shares_host"]


def shares_host(net: Net) -> bool:
    """Whether the payload is in the caller's own network namespace."""
    return net.mode == "host"


def by_name(net: Net) -> bool:
    """Whether a program of ours stands between the sandbox and what it names (`sandbox.net.egress`)."""
    if net.mode == "proxy":
        return True
    if net.allow is None and not net.deny:
        return False
    from sandbox.net import egress

    return egress.names_matter(net)


def has_own(net: Net) -> bool:
    """Whether the sandbox has a network of its own, with a way out."""
    return net.mode == "user"


def is_private(net: Net) -> bool:
    """Whether the sandbox is on a private network, which `net.mode` is the name of."""
    return net.mode not in ("none", "host", "user", "proxy")


def addresses(net: Net, network: Network) -> tuple[str, ...]:
    """Where servers of the sandbox are reached inside; none of its own where the network is the host's, and
    none that are known before it starts on a private one."""
    if shares_host(net) or is_private(net):
        return ()
    if not has_own(net):
        return ("127.0.0.1", "::1")
    from sandbox.net import user

    return user.own(network)


def inside(net: Net) -> Inside | None:
    """Where published ports lead; None where there is nothing to lead into, and where a private network says
    it when the sandbox starts."""
    if shares_host(net) or is_private(net):
        return None
    from sandbox.net import published, user

    return user.INSIDE if has_own(net) else published.LOCAL


def hosts(net: Net, hostname: str, inherited: str = "") -> str:
    """hosts(5): the loopback, this sandbox's name, `net.hosts`, and (mode host) the host's own."""
    lines = [f"127.0.0.1 localhost {hostname}\n", "::1 localhost ip6-localhost ip6-loopback\n"]
    lines += [f"{address} {name}\n" for name, address in net.hosts.items()]
    if shares_host(net) and inherited:
        lines.append(inherited if inherited.endswith("\n") else inherited + "\n")
    return "".join(lines)


def resolv_conf(net: Net, inherited: str = "", resolvers: Iterable[str] = ()) -> str:
    """resolv.conf(5): a copy of the host's where its network is shared, else *resolvers*."""
    return inherited if shares_host(net) else "".join(f"nameserver {each}\n" for each in resolvers)
