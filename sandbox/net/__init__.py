"""The network of a sandbox: which modes there are, and the files that name resolution needs.

`none` is a network namespace with nothing but a loopback device; `host` shares the
caller's network, abstract unix sockets included. Pure functions; user-mode networks and
named networks are not built yet.
"""

from __future__ import annotations

from sandbox.profile.model import Net

__all__ = ["hosts", "resolv_conf", "shares_host"]


def shares_host(net: Net) -> bool:
    """Whether the payload is in the caller's own network namespace."""
    return net.mode == "host"


def hosts(net: Net, hostname: str, inherited: str = "") -> str:
    """hosts(5): the loopback, this sandbox's name, `net.hosts`, and (mode host) the host's own."""
    lines = [f"127.0.0.1 localhost {hostname}\n", "::1 localhost ip6-localhost ip6-loopback\n"]
    lines += [f"{address} {name}\n" for name, address in net.hosts.items()]
    if shares_host(net) and inherited:
        lines.append(inherited if inherited.endswith("\n") else inherited + "\n")
    return "".join(lines)


def resolv_conf(net: Net, inherited: str = "") -> str:
    """resolv.conf(5): a copy of the host's where its network is shared, else no servers."""
    return inherited if shares_host(net) else ""
