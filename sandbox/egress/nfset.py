"""Elements of nftables sets, by netlink alone: what the DNS proxy lets the kernel through, and what the
kernel has refused.

Messages are written by hand (linux/netfilter/nf_tables.h, nfnetlink.h): they are few, and a library for
them takes longer to import than the whole service needs to start.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from typing import NamedTuple

from sandbox.addresses import Address

__all__ = ["Refused", "Sets", "key_of"]

_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_SUBSYS = 10  # NFNL_SUBSYS_NFTABLES
_NEWSETELEM, _GETSETELEM, _DELSETELEM = 12, 13, 14
_REQUEST, _ACK, _EXCL, _CREATE, _DUMP = 1, 4, 0x200, 0x400, 0x300
_ERROR, _DONE = 2, 3
_INET = 1  # NFPROTO_INET
_NESTED = 0x8000
_PROTOCOLS = {"tcp": 6, "udp": 17}
_PROTOCOL_NAMES = {number: name for name, number in _PROTOCOLS.items()}


class Refused(NamedTuple):
    """What the kernel did not let out."""

    address: Address
    protocol: str
    port: int
    packets: int


def _attribute(kind: int, value: bytes) -> bytes:
    size = 4 + len(value)
    return struct.pack("=HH", size, kind) + value + b"\0" * (-size % 4)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while len(data) - at >= 4:
        size, kind = struct.unpack_from("=HH", data, at)
        if size < 4:
            return
        yield kind & 0x3FFF, data[at + 4 : at + size]
        at += (size + 3) & ~3


def key_of(address: Address, protocol: str = "", port: int = 0) -> bytes:
    """The key of an element: an address, with a protocol, with a port as well; each in whole words."""
    key = address.packed
    if protocol:
        key += bytes([_PROTOCOLS[protocol], 0, 0, 0])
    if port:
        key += struct.pack("!HH", port, 0)
    return key


class Sets:
    """The sets of one table of the family inet."""

    def __init__(self, netlink: socket.socket, table: str) -> None:
        self._socket = netlink
        self._table = _attribute(1, table.encode() + b"\0")
        self._number = int.from_bytes(os.urandom(2), "little")

    def add(self, name: str, keys: Sequence[bytes], seconds: int) -> None:
        """Have *keys* in the set for that long from now on; those that are there begin anew.

        Raises:
            OSError: the kernel refuses: ENOSPC, the set is full; ENOENT, there is none.
        """
        for key in keys:
            new = self._element(_NEWSETELEM, _CREATE | _EXCL, name, key, seconds)
            for _ in range(4):  # an element may run out between two of our messages
                error = self._batch(new)
                if error == errno.EEXIST:
                    error = self._batch(self._element(_DELSETELEM, 0, name, key), new)
                if error != errno.ENOENT:
                    break
            if error:
                raise OSError(error, os.strerror(error))

    def _element(
        self, kind: int, flags: int, name: str, key: bytes, seconds: int = 0
    ) -> tuple[int, int, bytes]:
        body = _attribute(1 | _NESTED, _attribute(1, key))
        if seconds:
            body += _attribute(4, struct.pack("!Q", seconds * 1000))
        elements = _attribute(3 | _NESTED, _attribute(1 | _NESTED, body))
        return kind, flags, self._table + _attribute(2, name.encode() + b"\0") + elements

    def _message(self, kind: int, flags: int, body: bytes, family: int, resource: int) -> bytes:
        self._number += 1
        head = struct.pack("=IHHII", 20 + len(body), kind, _REQUEST | flags, self._number, 0)
        return head + struct.pack("=BBH", family, 0, socket.htons(resource)) + body

    def _batch(self, *messages: tuple[int, int, bytes]) -> int:
        """Send *messages* as one transaction; 0, or the first error's number."""
        data = self._message(_BATCH_BEGIN, 0, b"", 0, _SUBSYS)
        waiting = set()
        for kind, flags, body in messages:
            data += self._message(_SUBSYS << 8 | kind, _ACK | flags, body, _INET, 0)
            waiting.add(self._number)
        data += self._message(_BATCH_END, 0, b"", 0, _SUBSYS)
        self._socket.send(data)
        found = 0
        while waiting:
            for kind, number, body in self._receive():
                if kind == _ERROR:
                    (error,) = struct.unpack_from("=i", body)
                    found = found or -error
                    waiting.discard(number)
                    if number not in waiting and number == self._number:  # the batch as a whole
                        return found
            if found:  # of a batch that fails the rest may not be answered
                self._drain()
                return found
        return found

    def _drain(self) -> None:
        self._socket.setblocking(False)
        try:
            while self._socket.recv(1 << 16):
                pass
        except BlockingIOError:
            pass
        finally:
            self._socket.setblocking(True)

    def _receive(self) -> Iterator[tuple[int, int, bytes]]:
        data, at = self._socket.recv(1 << 16), 0
        while len(data) - at >= 16:
            size, kind, _, number, _ = struct.unpack_from("=IHHII", data, at)
            if size < 16:
                return
            yield kind, number, data[at + 16 : at + size]
            at += (size + 3) & ~3

    def refused(self, name: str) -> list[Refused]:
        """What is in a set of (address, protocol, port) with counters."""
        body = self._table + _attribute(2, name.encode() + b"\0")
        self._socket.send(self._message(_SUBSYS << 8 | _GETSETELEM, _DUMP, body, _INET, 0))
        found: list[Refused] = []
        number, done = self._number, False
        while not done:
            for kind, answered, part in self._receive():
                if answered != number:
                    continue
                if kind in (_DONE, _ERROR):
                    done = True
                    break
                found += self._elements(part[4:])
        return found

    @staticmethod
    def _elements(data: bytes) -> Iterator[Refused]:
        for kind, value in _attributes(data):
            if kind != 3:
                continue
            for _, element in _attributes(value):
                one = _refused(dict(_attributes(element)))
                if one is not None:
                    yield one


def _refused(element: dict[int, bytes]) -> Refused | None:
    key = dict(_attributes(element.get(1, b""))).get(1, b"")
    if len(key) not in (12, 24):
        return None
    size = len(key) - 8
    packets = 0
    for _, expressions in ((7, element.get(7, b"")), *_attributes(element.get(11, b""))):
        expression = dict(_attributes(expressions))
        if expression.get(1) == b"counter\0":
            counter = dict(_attributes(expression.get(2, b"")))
            packets = int.from_bytes(counter.get(2, b""), "big")
    protocol = _PROTOCOL_NAMES.get(key[size], str(key[size]))
    port = int.from_bytes(key[size + 4 : size + 6], "big")
    return Refused(ip_address(key[:size]), protocol, port, packets)
