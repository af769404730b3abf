"""Whether an address is this host's own, as the kernel sees it (rtnetlink(7), RTM_GETROUTE). Sends nothing.

What a socket would be bound to does not tell: of a second address in a network it is the first one.
"""

from __future__ import annotations

import socket
import struct

from sandbox.addresses import Address

__all__ = ["Routes"]

_NEWROUTE, _GETROUTE, _REQUEST, _DST = 24, 26, 1, 1
_UNICAST = 1  # RTN_UNICAST; the others are this host, groups, and ways that lead nowhere


class Routes:
    """Those of the network namespace that this was made in."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._number = 0

    def leads_out(self, address: Address) -> bool:
        """Whether packets to *address* leave this host. Raises OSError: the kernel can't be asked."""
        self._number = (self._number + 1) & 0xFFFF_FFFF
        raw = address.packed
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        body = struct.pack("=8BI", family, 8 * len(raw), 0, 0, 0, 0, 0, 0, 0)
        body += struct.pack("=HH", 4 + len(raw), _DST) + raw
        self._socket.send(struct.pack("=IHHII", 16 + len(body), _GETROUTE, _REQUEST, self._number, 0) + body)
        while True:
            data = self._socket.recv(4096)
            _, kind, _, number, _ = struct.unpack_from("=IHHII", data)
            if number == self._number:
                return kind == _NEWROUTE and data[16 + 7] == _UNICAST
