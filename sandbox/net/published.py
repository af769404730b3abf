"""Published ports: what a launch needs for `net.publish` and `net.activate`, and a sandbox for one more.

Records for the plan and requests, made by pure functions. The forwarder (helpers/forward.c) binds nothing
inside but what it connects from: who listens there is the command, or init for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sandbox.errors import ProfileError
from sandbox.ports import Published, parse, parse_named
from sandbox.profile.model import Net
from sandbox.wire import Kind, Record

__all__ = ["LOCAL", "MARK", "MARKS", "MAX", "MAX_SOCKETS", "Inside", "fields", "records"]

MAX = 128  # MAX_PUBLISHED, helpers/forward.h
MAX_SOCKETS = 32  # MAX_LISTENING, helpers/listen.h
#: of connections that came by a published port; setting it takes CAP_NET_ADMIN, which no payload has there
MARK = 0x5B0D
#: rules by which answers to what has the mark have it as well
MARKS = f"""table inet published {{
  chain marks {{
    type route hook output priority mangle; policy accept;
    meta mark {MARK:#x} ct mark set meta mark
    ct mark {MARK:#x} meta mark set ct mark
  }}
}}
"""


class Inside(NamedTuple):
    """Where servers are, and who clients are that have no address of their own there; IPv4, then IPv6. `mark`
    0: no device leads out, so that no answer can be mistaken for anything else."""

    address: str
    gateway: str
    address6: str
    gateway6: str
    mark: int = 0

    @property
    def addresses(self) -> tuple[str, str]:
        return self.address, self.address6


#: of a sandbox that has nothing but its loopback
LOCAL = Inside("127.0.0.1", "10.0.2.2", "::1", "fd00::2")


def fields(port: Published, inside: Inside) -> tuple[str | int, ...]:
    """Of a PUBLISH record, or of a request."""
    return (port.protocol, port.address, port.port, port.inner, *inside)


def records(net: Net, inside: Inside, origin: str = "") -> Iterator[Record]:
    """Ports of the host that lead inside, and what listens there for the command.

    Raises:
        ProfileError: too many, or one twice.
    """
    named = [parse_named(text) for text in net.activate]
    ports = [each for text in net.publish for each in parse(text)]
    ports += [each for _, activated in named for each in activated]
    if len(ports) > MAX:
        raise ProfileError(
            f"net.publish has {len(ports)} ports; at most {MAX} can be published",
            "publish only those that are listened at inside",
        )
    seen = set()
    for each in ports:
        if each.port and each[:3] in seen:
            raise ProfileError(f"net.publish has {each} twice", "leave one of them out")
        seen.add(each[:3])
        yield Record(Kind.PUBLISH, f"publish {each}", origin, fields(each, inside))
    yield from _listening(named, origin)


def _listening(named: Sequence[tuple[str, Sequence[Published]]], origin: str) -> Iterator[Record]:
    """One socket for each port inside, of the family that it is published with: clients of both at one socket
    would have IPv4 addresses in IPv6's clothes."""
    sockets: dict[tuple[str, str, int], str] = {}
    for name, ports in named:
        for each in ports:
            anywhere = "::" if ":" in each.address else "0.0.0.0"
            sockets.setdefault((each.protocol, anywhere, each.inner), name)
    if len(sockets) > MAX_SOCKETS:
        raise ProfileError(
            f"net.activate has {len(sockets)} ports inside; at most {MAX_SOCKETS} can be handed over",
            "publish those that the command can listen at itself",
        )
    for key, name in sockets.items():
        protocol, _, port = key
        yield Record(Kind.LISTEN, f"listen at port {port}/{protocol} for the command", origin, (*key, name))
