"""What the services share: the policy, sockets that lead out, which addresses will do, what was denied."""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections import OrderedDict
from collections.abc import Iterable
from ipaddress import IPv4Address
from typing import NamedTuple

from sandbox.addresses import Address, Network, plain, special
from sandbox.destination import CHECKED_PORTS, Policy, Way, host
from sandbox.egress.nfset import Sets, key_of
from sandbox.egress.routes import Routes

__all__ = ["NOWHERE", "Around", "Denials", "World", "named"]

_SO_MARK = 36
_MAX_DENIALS = 256
_MAX_NAMES = 1024
_MAX_BELOW = 1024  # different names below a "*", for all of a sandbox's life
_ODD = re.compile(r"[^a-z0-9.:_-]")


def named(text: str) -> str | Address:
    """What a hostile text names: a name, or an address.

    Raises:
        ValueError: neither. Other letters than ASCII's are none here: clients send A-labels.
    """
    if not text.isascii():
        raise ValueError("not ASCII")
    return host(text)


class Around(NamedTuple):
    """A private network: its name, and its subnets. Who is on it is the network's own to say."""

    name: str
    subnets: tuple[Network, ...]

    def has(self, name: str) -> bool:
        """Whether *name* is that of a sandbox on it, or of none: the network asks for it nowhere else."""
        return bool(self.subnets) and ("." not in name or name.endswith("." + self.name))

    def usable(self, address: Address) -> bool:
        return any(address.version == each.version and address in each for each in self.subnets)


NOWHERE = Around("", ())


class Denials:
    """What was not let through: told at once, each time that something new is, in a line

        denied WHAT PORT HOW

    and with how often behind it (`tell_counts`) when that is asked for. WHAT is a name or an address, PORT 0
    where none was named yet; HOW is dns, tcp, udp or `rebinding` (the name led to an address that is
    closed); or `defect`: something went wrong here. So many are kept; of the rest it is told that there were
    more.
    """

    def __init__(self, say: int) -> None:
        self._say = say
        self._times: dict[tuple[str, int, str], int] = {}
        self._told: dict[tuple[str, int, str], int] = {}

    def add(self, what: str, port: int, how: str, times: int = 1) -> None:
        # As the supervisor takes it (helpers/denials.c): in another case it would not be told.
        entry = (_ODD.sub("?", what.lower()) or "?", port, how)
        if entry not in self._times and len(self._times) >= _MAX_DENIALS:
            entry = ("...", 0, "more")
        self._times[entry] = self._times.get(entry, 0) + times
        if entry not in self._told:
            self._told[entry] = 1
            self.tell("denied {} {} {}".format(*entry))

    def tell_counts(self) -> None:
        """How often each was, as far as that is not known."""
        for entry, times in self._times.items():
            if times != self._told[entry]:
                self._told[entry] = times
                self.tell("denied {} {} {} {}".format(*entry, times))

    def tell(self, line: str) -> None:
        with contextlib.suppress(OSError):  # who listens is gone, or does not listen
            os.write(self._say, line.encode("ascii", "replace") + b"\n")


class World:
    """*mark* of our sockets (0: none); *private* networks are open; *sets* of the kernel's to fill, or None:
    then we are in the caller's network, whose own addresses are found out and closed; *around* is the private
    network that the sandbox is on."""

    def __init__(
        self,
        policy: Policy,
        denials: Denials,
        *,
        mark: int,
        private: bool,
        sets: Sets | None,
        around: Around = NOWHERE,
    ) -> None:
        self.around = around
        self.policy = policy
        self.denials = denials
        self._mark = mark
        self._private = private
        self._sets = sets
        self._routes = Routes() if sets is None else None
        self._names: OrderedDict[Address, str] = OrderedDict()
        self._packets: dict[tuple[Address, str, int], int] = {}
        self._below: set[str] = set()

    def socket(self, address: Address, kind: int) -> socket.socket:
        """A socket that does not block, and that the kernel's rules know."""
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        made = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        if self._mark:
            made.setsockopt(socket.SOL_SOCKET, _SO_MARK, self._mark)
        return made

    def counts(self, name: str) -> bool:
        """Whether one more name is not too many, of those that `allow` has by a "*" alone: whoever serves
        them is told what is written in them, whichever service here asks."""
        allow = self.policy.allow
        if allow is None or any(each.name == name and not each.below for each in allow):
            return True
        if name not in self._below and len(self._below) >= _MAX_BELOW:
            return False
        self._below.add(name)
        return True

    def usable(self, address: Address) -> bool:
        """Whether a name may lead to *address*."""
        kind = special(address)
        if kind and not (kind == "private" and (self._private or self.policy.opens(plain(address)))):
            return False
        return self._routes is None or self._routes.leads_out(plain(address))

    def name_of(self, address: Address) -> str:
        """What *address* was last called, or itself."""
        return self._names.get(address, str(address))

    def learn(self, name: str, addresses: Iterable[Address], seconds: int) -> None:
        """Let the kernel through to *addresses*, of *name*, as far as the policy goes.

        Raises:
            OSError: it could not be done.
        """
        granted, refused = self.policy.ways(name)
        for address in map(plain, addresses):
            self._names[address] = name
            self._names.move_to_end(address)
            if len(self._names) > _MAX_NAMES:
                self._names.popitem(last=False)
            if self._sets is not None:
                for way in refused:
                    self._put("no", way, address, ("tcp", "udp"), seconds)
                for way in granted:
                    self._put("", way, address, self._protocols(name, way), seconds)

    def _protocols(self, name: str, way: Way) -> tuple[str, ...]:
        """Of a port, what goes there directly. Names in TLS and HTTP are checked elsewhere, and QUIC's can't
        be: it must be allowed as such."""
        if way.port not in CHECKED_PORTS:
            return ("tcp", "udp")
        return ("udp",) if way.protocol == "udp" else () if self.policy.checked(name, way.port) else ("tcp",)

    def _put(self, prefix: str, way: Way, address: Address, protocols: tuple[str, ...], seconds: int) -> None:
        assert self._sets is not None
        family = "4" if isinstance(address, IPv4Address) else "6"
        if way.port:
            protocols = tuple(each for each in protocols if way.protocol in ("", each))
            keys = [key_of(address, protocol, way.port) for protocol in protocols]
            self._sets.add(f"{prefix}allow{family}", keys, seconds)
        elif way.protocol:
            self._sets.add(f"{prefix}proto{family}", [key_of(address, way.protocol)], seconds)
        else:
            self._sets.add(f"{prefix}any{family}", [key_of(address)], seconds)

    def take_refused(self) -> None:
        """Tell what the kernel has refused until now."""
        if self._sets is None:
            return
        for family in ("4", "6"):
            for each in self._sets.refused(f"denied{family}"):
                key = (each.address, each.protocol, each.port)
                new = each.packets - self._packets.get(key, 0)
                self._packets[key] = each.packets
                if new:
                    self.denials.add(self.name_of(each.address), each.port, each.protocol, new)
