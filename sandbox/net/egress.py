"""What a launch needs for `net.allow` and `net.deny` by name: a service, its sockets, the kernel's rules.

Records of the plan, made by pure functions. The service is `sandbox.egress.service`; what it is allowed to
see of the host is the interpreter, its library and this package.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass

from sandbox.destination import Policy, parse
from sandbox.net.rules import MARK, TABLE, Rules
from sandbox.profile.model import Net
from sandbox.wire import Kind, Ready, Record, ServiceFlag, Socket

__all__ = [
    "CAPABILITIES",
    "DNS",
    "NAME",
    "PORT",
    "PROXY_PORT",
    "Program",
    "names_matter",
    "policy",
    "proxy",
    "records",
]

#: the service's name in plans, events and messages
NAME = "sandbox-egress"
#: where it listens inside, whatever the sandbox's own addresses are
DNS = "127.0.0.53"
PORT = 61080
PROXY_PORT = 61080
#: of the service, in the sandbox's outer user namespace: CAP_NET_ADMIN
CAPABILITIES = 1 << 12


#: what one argument takes of a long list, bytes; execve(2) takes 128 KiB
_ARGUMENT = 100_000


@dataclass(frozen=True, slots=True)
class Program:
    """The interpreter that the service runs with, the directory that this package is in, what else it sees
    (paths), and its system call filter (`sandbox.seccomp.program`, with `CAPABILITIES`)."""

    python: str
    directory: str
    views: tuple[str, ...]
    filter: bytes


def policy(net: Net) -> Policy | None:
    """What `allow` and `deny` say, or None when nothing is said."""
    if net.allow is None and not net.deny:
        return None
    return Policy(None if net.allow is None else map(parse, net.allow), map(parse, net.deny))


def names_matter(net: Net) -> bool:
    """Whether the service is needed: not for a list of networks that are denied."""
    found = policy(net)
    return found is not None and found.by_name


def records(net: Net, rules: Rules, program: Program, origin: str = "") -> Iterator[Record]:
    """The service and its socket, for the plan where `names_matter`. *rules* are those of the sandbox."""
    yield Record(
        Kind.SERVICE,
        "start the DNS and name proxy",
        origin,
        (
            NAME,
            int(ServiceFlag.RIGHTS | ServiceFlag.NEEDED | ServiceFlag.TELLS),
            int(Ready.WRITES),
            len(program.views),
            *program.views,
            *_command(program, _config(net, rules)),
        ),
    )
    yield Record(
        Kind.SOCKET, "open a netlink socket for the name proxy", origin, (NAME, int(Socket.NETFILTER), "", 0)
    )


def proxy(net: Net, resolvers: tuple[str, ...], program: Program, origin: str = "") -> Iterator[Record]:
    """The same for the mode `proxy`: no way out but this service, which is in the caller's network and
    listens inside."""
    config = _config(net, Rules(resolvers=resolvers)) | {"mode": "proxy", "mark": 0, "listening": [3]}
    yield Record(
        Kind.SERVICE,
        "start the proxy",
        origin,
        (
            NAME,
            int(ServiceFlag.NEEDED | ServiceFlag.TELLS),
            int(Ready.WRITES),
            len(program.views),
            *program.views,
            *_command(program, config),
        ),
    )
    where = (NAME, int(Socket.STREAM), "127.0.0.1", PROXY_PORT)
    yield Record(Kind.SOCKET, "listen for the proxy", origin, where)


def environment() -> dict[str, str]:
    """The variables by which programs learn of the proxy."""
    http, socks = f"http://127.0.0.1:{PROXY_PORT}", f"socks5h://127.0.0.1:{PROXY_PORT}"
    found = {"NODE_USE_ENV_PROXY": "1"}
    for name, value in (("http", http), ("https", http), ("all", socks), ("no", "localhost,127.0.0.1,::1")):
        found[f"{name}_proxy"] = found[f"{name.upper()}_PROXY"] = value
    return found


def _command(program: Program, config: dict[str, object]) -> tuple[str, ...]:
    config["seccomp"] = base64.b64encode(program.filter).decode()
    start = f"import sys; sys.path.insert(0, {program.directory!r})\n"
    start += "from sandbox.egress.service import main; main(sys.argv)"
    text = json.dumps(config)
    pieces = [text[at : at + _ARGUMENT] for at in range(0, len(text), _ARGUMENT)]
    return (program.python, "-I", "-S", "-B", "-c", start, *pieces, "{ready}")


def _config(net: Net, rules: Rules) -> dict[str, object]:
    return {
        "mode": "kernel",
        "allow": None if net.allow is None else list(net.allow),
        "deny": list(net.deny),
        "resolvers": list(rules.resolvers),
        "private": "private" in rules.reach,
        "network": net.mode if rules.peers else "",
        "peers": list(rules.peers),
        "mark": MARK,
        "table": TABLE,
        "dns": DNS,
        "port": PORT,
    }
