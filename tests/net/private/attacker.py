"""Whoever has brought a sandbox's own network under control, which no payload can: what then leaves its port.

A program for tests: its arguments are a process in the sandbox, and addresses. It enters the user namespace
that owns the network, as the owner of that may, and has every right there. Frames are sent as they are; one
honest datagram goes last, by the same way, so that who waits for it knows that the others came or went.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import sys
import time
from ipaddress import ip_address

NS_GET_PARENT = 0xB702  # ioctl_nsfs(2)
BROADCAST = "ff:ff:ff:ff:ff:ff"
DEVICE = "eth0"


def enter(pid: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    inner = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
    network = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    for namespace in (fcntl.ioctl(inner, NS_GET_PARENT), network):
        if libc.setns(namespace, 0) != 0:
            raise OSError(ctypes.get_errno(), "setns")


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF or 0xFFFF


def packet(source: str, target: str, protocol: int, body: bytes, hops: int = 255) -> bytes:
    one, other = ip_address(source).packed, ip_address(target).packed
    if len(one) == 4:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, hops, protocol, 0) + one + other
        return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body
    return struct.pack("!IHBB", 6 << 28, len(body), protocol, hops) + one + other + body


def summed(source: str, target: str, protocol: int, body: bytes, at: int) -> bytes:
    """*body* with its checksum at *at*."""
    one, other = ip_address(source).packed, ip_address(target).packed
    pseudo = one + other + struct.pack("!IHBB", len(body), 0, 0, protocol)
    if len(one) == 4:
        pseudo = one + other + struct.pack("!BBH", 0, protocol, len(body))
    return body[:at] + struct.pack("!H", checksum(pseudo + body)) + body[at + 2 :]


class Sender:
    def __init__(self, me: str, target: str) -> None:
        self.me, self.target = me, target
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.socket.bind((DEVICE, 0))

    def frame(self, kind: int, body: bytes, *, source: str = "", target: str = "") -> None:
        head = mac(target or self.target) + mac(source or self.me) + struct.pack("!H", kind)
        self.socket.send(head + body)

    def datagram(self, source: str, target: str, text: str, by: str = "") -> None:
        body = struct.pack("!HHHH", 7, 8000, 8 + len(text), 0) + text.encode()
        data = packet(source, target, 17, summed(source, target, 17, body, 6))
        self.frame(0x86DD if ":" in source else 0x0800, data, source=by)

    def arp(self, address: str, target: str, hardware: str = "") -> None:
        """ "*address* is at our MAC address"."""
        who = mac(hardware or self.me) + ip_address(address).packed
        whom = mac(self.target) + ip_address(target).packed
        self.frame(0x0806, struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2) + who + whom)

    def advert(self, source: str, address: str, target: str) -> None:
        """The same, of IPv6."""
        body = struct.pack("!BBHI", 136, 0, 0, 0x6000_0000) + ip_address(address).packed
        body += struct.pack("!BB", 2, 1) + mac(self.me)
        self.frame(0x86DD, packet(source, target, 58, summed(source, target, 58, body, 2)))

    def router(self, source: str) -> None:
        """ "I lead to everywhere"."""
        body = (
            struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + struct.pack("!BB", 1, 1) + mac(self.me)
        )
        data = packet(source, "ff02::1", 58, summed(source, "ff02::1", 58, body, 2))
        self.frame(0x86DD, data, target="33:33:00:00:00:01")


def main(
    pid: str, me: str, mine: str, mine6: str, db: str, db4: str, db6: str, other4: str, other6: str
) -> None:
    """Addresses are MAC, IPv4, IPv6: ours, those of who is attacked, and of a third."""
    enter(pid)
    sender = Sender(me, db)
    third = "02:5b:0c:00:00:04"
    sender.datagram(other4, db4, "another's IPv4 address")
    sender.datagram("198.51.100.9", db4, "an IPv4 address from elsewhere")
    sender.datagram(mine, db4, "another's MAC address", by=third)
    sender.datagram(other4, db4, "all of another's", by=third)
    sender.datagram(other6, db6, "another's IPv6 address")
    sender.datagram("2001:db8::9", db6, "an IPv6 address from elsewhere")
    sender.datagram(mine6, db6, "another's MAC address, IPv6", by=third)
    sender.router("fe80::bad")
    sender.router(mine6)
    sender.datagram(mine, db4, "honest")
    sender.datagram(mine6, db6, "honest")
    print("sent", flush=True)
    # Whoever asks for an address that nobody has is told that it is ours, until our input ends.
    absent4, absent6 = mine.rpartition(".")[0] + ".99", mine6.rpartition(":")[0] + ":63"
    os.set_blocking(0, False)
    while os.read(0, 1) if _readable() else True:
        sender.arp(absent4, db4)
        sender.advert(mine6, absent6, db6)
        sender.advert(absent6, absent6, db6)
        time.sleep(0.01)


def _readable() -> bool:
    import select

    return bool(select.select([0], [], [], 0)[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
