"""Published ports: the entries of `net.publish` and `net.activate`.

    8080:80                     the host's 127.0.0.1:8080 leads to port 80 inside
    192.0.2.7:8080:80/udp       an address of the host's; UDP
    [::1]:8080:80               IPv6 in brackets
    8000-8010:8000-8010         as many ports on both sides
    0:80                        whichever port of the host is free

and those of `net.activate`, which may have a name before them: `http=8080:80`.

Pure.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Published", "parse", "parse_named"]

_PORTS = r"[0-9]{1,5}(?:-[0-9]{1,5})?"
_ENTRY = re.compile(
    rf"(?:(?P<address>\[[^\]]*\]|[^:\[\]/]*):)?(?P<outer>{_PORTS}):(?P<inner>{_PORTS})(?:/(?P<protocol>tcp|udp))?",
    re.ASCII,
)


class Published(NamedTuple):
    """One port of the host that leads to one inside; `port` 0: whichever is free."""

    protocol: str
    address: str
    port: int
    inner: int

    def __str__(self) -> str:
        address = f"[{self.address}]" if ":" in self.address else self.address
        return f"{address}:{self.port}:{self.inner}/{self.protocol}"


#: sd_listen_fds(3) separates names by colons; "unknown" is its name for what has none
_NAME = re.compile(r"[A-Za-z0-9_.@-]{1,255}", re.ASCII)
_NAMELESS = "unknown"


def parse_named(text: str) -> tuple[str, tuple[Published, ...]]:
    """The name and the ports of an entry of `net.activate`. Raises as `parse`."""
    name, named, rest = text.partition("=")
    if not named:
        return _NAMELESS, parse(text)
    if not _NAME.fullmatch(name):
        raise ValueError(f'"{name}" is no name of a socket: letters, digits, _ . @ -')
    return name, parse(rest)


def parse(text: str) -> tuple[Published, ...]:
    """The ports of one entry, in order.

    Raises:
        ValueError: it is none, with words that can stand behind a position.
    """
    import ipaddress

    found = _ENTRY.fullmatch(text)
    if not found:
        raise ValueError(f'"{text}" is not [IP:]PORT:PORT[/udp], as in "8080:80"')
    address = found["address"] if found["address"] is not None else "127.0.0.1"
    try:
        plain = str(ipaddress.ip_address(address.removeprefix("[").removesuffix("]")))
    except ValueError:
        raise ValueError(f'"{address}" is not an IP address') from None
    if (":" in plain) != address.startswith("["):
        raise ValueError(f'IPv6 addresses stand in brackets, as in "[{plain}]:8080:80"')
    outer = range(1) if found["outer"].strip("0") == "" else _ports(found["outer"])
    inner = _ports(found["inner"])
    if len(outer) != len(inner):
        raise ValueError(f'"{text}" has {len(outer)} ports outside and {len(inner)} inside')
    protocol = found["protocol"] or "tcp"
    return tuple(Published(protocol, plain, a, b) for a, b in zip(outer, inner, strict=True))


def _ports(text: str) -> range:
    first, _, last = text.partition("-")
    begin, end = int(first), int(last or first)
    for each in (begin, end):
        if not 0 < each < 65536:
            raise ValueError(f'"{each}" is not a port, which are 1 to 65535')
    if end < begin:
        raise ValueError(f'"{text}" ends before it begins')
    return range(begin, end + 1)
