"""Destinations: the entries of `net.allow` and `net.deny`, and what a policy of them says.

    example.org          the name, at any port, over TCP and UDP
    example.org:443      one port; /udp behind it for UDP
    *.example.org        every name below it, not the name itself; * alone is every name
    192.0.2.0/24:443     addresses; IPv6 with a port in brackets, [2001:db8::/32]:443

At ports 80 and 443 a name is looked for in what is spoken there, TLS or HTTP, unless the entry says
"/tcp": then any protocol will do. What `deny` says wins. No list of `allow` allows everything, an empty
one nothing.

Pure, and small: the services of the policy import it, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Network, ip_address, ip_network
from typing import Literal, NamedTuple

from sandbox.addresses import PRIVATE, Address, Network, plain

__all__ = ["CHECKED_PORTS", "Destination", "Policy", "Way", "host", "name_of", "parse"]

Protocol = Literal["", "tcp", "udp"]

#: where TLS and HTTP are spoken, so that names can be checked
CHECKED_PORTS = (80, 443)

_MAX_NAME = 253  # RFC 1035, as text
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
# WHATWG URL, "ends in a number": what inet_aton(3) and browsers take for an IPv4 address.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)
# IDNA 2003 and 2008 make different names of these (RFC 5894, 7.2): sharp s, final sigma, joiners.
_DEVIATING = "\u00df\u03c2\u200c\u200d"
_PRIVATE = tuple(map(ip_network, PRIVATE))
_BRACKETS = re.compile(r"\[([^\]]*)\](/[0-9]+)?(?::([^:]*))?")
_NETWORK_PORT = re.compile(r"([^/]*/[0-9]+):([^:/]*)")


def name_of(text: str) -> str:
    """A DNS name in the form that is compared: lower case, no dot at the end, A-labels (xn--…).

    Raises:
        ValueError: it is none, with words that can stand behind a position.
    """
    name = text.lower() if text.isascii() else _ascii(text)
    name = name.removesuffix(".")
    if len(name) > _MAX_NAME:
        raise ValueError(f"a host name has at most {_MAX_NAME} characters")
    labels = name.split(".")
    if not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f'"{text}" is not a host name')
    if _NUMBER.fullmatch(labels[-1]):
        raise ValueError(f'"{text}" is not an address; write four decimal numbers, as in "192.0.2.1"')
    return name


def _ascii(text: str) -> str:
    """A name with other letters than ASCII's as A-labels, where all ways to make them agree."""
    import unicodedata

    lower = unicodedata.normalize("NFC", text.lower())
    try:
        name = lower.encode("idna").decode("ascii")
        back = name.encode("ascii").decode("idna")
    except UnicodeError:
        raise ValueError(f'"{text}" is not a host name') from None
    if back != lower or any(each in lower for each in _DEVIATING):
        raise ValueError(f'"{text}" can be read as more than one name; write its ASCII form, "xn--…"')
    return name


def host(text: str) -> str | Address:
    """A name as `name_of` gives it, or an address; IPv4 addresses in IPv6 ones are taken out.

    Other notations of IPv4 (127.1, 0x7f000001, octal) are neither.

    Raises:
        ValueError: it is neither.
    """
    if ":" in text:
        return plain(_address(text))
    if re.fullmatch(r"[0-9.]+", text, re.ASCII):
        return _address(text.removesuffix("."))
    return name_of(text)


def _address(text: str) -> Address:
    try:
        if not text.isascii() or "%" in text:
            raise ValueError
        return ip_address(text)
    except ValueError:
        raise ValueError(f'"{text}" is not an address or network') from None


class Destination(NamedTuple):
    """One entry: a `name` (with `below`, all names below it, not itself) or a `network`. `port` 0 and
    `protocol` "" are any."""

    name: str = ""
    below: bool = False
    network: Network | None = None
    port: int = 0
    protocol: Protocol = ""

    def __str__(self) -> str:
        """The one spelling that `parse` takes for it."""
        if self.network is not None:
            whole = self.network.prefixlen == self.network.max_prefixlen
            text = str(self.network.network_address) if whole else str(self.network)
            if self.port and self.network.version == 6:
                text = f"[{text}]"
        else:
            text = f"*.{self.name}" if self.below and self.name else self.name or "*"
        text += f":{self.port}" if self.port else ""
        return text + (f"/{self.protocol}" if self.protocol else "")

    def names(self, name: str) -> bool:
        """Whether it is about *name*."""
        if self.network is not None:
            return False
        if self.below:
            return not self.name or name.endswith(f".{self.name}")
        return name == self.name

    def holds(self, address: Address) -> bool:
        """Whether it is about *address*."""
        return (
            self.network is not None and address.version == self.network.version and address in self.network
        )

    def takes(self, port: int, protocol: str) -> bool:
        """Whether it is about this port, too."""
        return self.port in (0, port) and self.protocol in ("", protocol)

    @property
    def private(self) -> bool:
        """Whether it is a network that lies in a private one, and so is meant to be such."""
        return self.network is not None and any(
            self.network.version == each.version and self.network.subnet_of(each)  # type: ignore[arg-type]
            for each in _PRIVATE
        )

    @property
    def whole(self) -> bool:
        """Whether it is about every port and protocol."""
        return not self.port and not self.protocol


def parse(text: str) -> Destination:
    """An entry of `net.allow` or `net.deny`.

    Raises:
        ValueError: it is none, with words that can stand behind a position.
    """
    rest, protocol = text, ""
    for each in ("tcp", "udp"):
        if text.endswith(f"/{each}"):
            rest, protocol = text.removesuffix(f"/{each}"), each
    where, port = _split(rest, text)
    number = _port(port) if port is not None else 0
    if where == "*":
        return Destination(below=True, port=number, protocol=protocol)  # type: ignore[arg-type]
    if ":" in where or "/" in where or _NUMBER.fullmatch(where.removesuffix(".").rpartition(".")[2].lower()):
        return Destination(network=_network(where), port=number, protocol=protocol)  # type: ignore[arg-type]
    below = where.startswith("*.")
    bare = where.removeprefix("*.")
    if "*" in bare:
        raise ValueError(f'"{text}": a "*" stands only at the beginning, as in "*.example.org"')
    return Destination(name_of(bare), below, None, number, protocol)  # type: ignore[arg-type]


def _split(rest: str, text: str) -> tuple[str, str | None]:
    """What it is about, and its port, or None."""
    if "://" in rest:
        raise ValueError(f'"{text}" is a URL; write its host, as in "example.org:443"')
    if rest.startswith("["):
        found = _BRACKETS.fullmatch(rest)
        if not found or ":" not in found[1]:
            raise ValueError(f'"{text}" is not HOST or HOST:PORT; only IPv6 addresses stand in []')
        return found[1] + (found[2] or ""), found[3]
    if found := _NETWORK_PORT.fullmatch(rest):
        return found[1], found[2]
    if rest.count(":") == 1:
        where, _, port = rest.partition(":")
        return where, port
    return rest, None


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text, re.ASCII) or not 0 < int(text) < 65536:
        raise ValueError(f'"{text}" is not a port')
    return int(text)


def _network(text: str) -> Network:
    try:
        if not re.fullmatch(r"[0-9a-fA-F:.]+(/[0-9]{1,3})?", text, re.ASCII):
            raise ValueError
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f'"{text}" is not an address or network') from None
    if ip_address(text.partition("/")[0]) != network.network_address:
        raise ValueError(f'"{text}" has bits set behind its prefix; did you mean "{network}"?')
    mapped = IPv6Network("::ffff:0:0/96")
    if isinstance(network, IPv6Network) and network.subnet_of(mapped):
        inner = IPv4Address(int(network.network_address) & 0xFFFF_FFFF)
        return ip_network(f"{inner}/{network.prefixlen - 96}")
    return network


class Way(NamedTuple):
    """How a name may be reached: a port and protocol, 0 and "" any."""

    port: int
    protocol: str


class Policy:
    """What `allow` (None: everything) and `deny` say together."""

    def __init__(self, allow: Iterable[Destination] | None, deny: Iterable[Destination] = ()) -> None:
        self.allow = None if allow is None else tuple(allow)
        self.deny = tuple(deny)

    def resolves(self, name: str) -> bool:
        """Whether anything of *name* can be reached, so that its addresses may be known."""
        if any(each.names(name) and each.whole for each in self.deny):
            return False
        return self.allow is None or any(each.names(name) for each in self.allow)

    def may_name(self, name: str, port: int, protocol: str = "tcp") -> bool:
        """Whether *name* can be reached there."""
        if any(each.names(name) and each.takes(port, protocol) for each in self.deny):
            return False
        return self.allow is None or any(
            each.names(name) and each.takes(port, protocol) for each in self.allow
        )

    def may_address(self, address: Address, port: int, protocol: str = "tcp") -> bool:
        """Whether *address* can be reached there whatever it is called."""
        if self.denies(address, port, protocol):
            return False
        return self.allow is None or self.grants(address, port, protocol)

    def grants(self, address: Address, port: int, protocol: str = "tcp") -> bool:
        """Whether `allow` has a network for it, which `deny` does not take away."""
        if self.denies(address, port, protocol):
            return False
        return any(each.holds(address) and each.takes(port, protocol) for each in self.allow or ())

    def denies(self, address: Address, port: int, protocol: str = "tcp") -> bool:
        """Whether `deny` has a network for it."""
        return any(each.holds(address) and each.takes(port, protocol) for each in self.deny)

    def opens(self, address: Address) -> bool:
        """Whether `allow` has a private network that *address* is in."""
        return any(each.holds(address) and each.private for each in self.allow or ())

    def checked(self, name: str, port: int) -> bool:
        """Whether what is spoken over TCP with *name* must be TLS or HTTP, and say that name."""
        if port not in CHECKED_PORTS:
            return False
        return not any(
            each.names(name) and each.takes(port, "tcp") and each.protocol == "tcp" and each.port
            for each in self.allow or ()
        )

    def ways(self, name: str) -> tuple[list[Way], list[Way]]:
        """What of *name*'s addresses the kernel is to let through, and what it is to refuse nevertheless."""
        granted = [] if self.allow is None else list(_ways(self.allow, name))
        return granted, list(_ways(self.deny, name))

    @property
    def by_name(self) -> bool:
        """Whether names matter: an entry has one, or there is a list that a name could be missing in."""
        return self.allow is not None or any(each.network is None for each in self.deny)


def _ways(entries: Iterable[Destination], name: str) -> Iterator[Way]:
    for each in entries:
        if each.names(name):
            yield Way(each.port, each.protocol)
