"""Giving up everything but what the services still need, before they read the first hostile byte.

The guard that started us has put us into the sandbox's outer user namespace, with a pid namespace and files
of our own. What is given up here: all capabilities but CAP_NET_ADMIN over the sandbox's network (the marks of
sockets, and the kernel's sets), and by a system call filter: opening files, making processes, sockets of
other families than the Internet's. What is left to a program that takes us over is to let the sandbox
through to the network that it is in.
"""

from __future__ import annotations

import ctypes
import os
import struct

__all__ = ["bring_up_loopback", "confine", "enter", "index_of"]

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _PR_SET_DUMPABLE = 22, 38, 4
_FILTER = 2  # SECCOMP_MODE_FILTER
_CAPABILITIES_3 = 0x2008_0522  # _LINUX_CAPABILITY_VERSION_3
_NET_ADMIN = 1 << 12
_CLONE_NEWNET = 0x4000_0000
_SIOCGSKNS, _SIOCGIFINDEX = 0x894C, 0x8933
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot {what}: {os.strerror(number)}")


def enter(socket: int) -> None:
    """Have all sockets that are made from now on in the network namespace of *socket*. Raises OSError."""
    import fcntl

    netns = fcntl.ioctl(socket, _SIOCGSKNS)
    try:
        _check(_libc.setns(netns, _CLONE_NEWNET), "enter the sandbox's network namespace")
    finally:
        os.close(netns)


def bring_up_loopback() -> None:
    """The loopback device, so that its addresses can be bound. Raises OSError."""
    import fcntl
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh14x", b"lo", 0)
        (flags,) = struct.unpack_from("h", fcntl.ioctl(control, _SIOCGIFFLAGS, request), 16)
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))


def index_of(device: str) -> int:
    """The number of a device of the network that we are in. Raises OSError: there is none."""
    import fcntl
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16si20x", device.encode(), 0)
        (index,) = struct.unpack_from("i", fcntl.ioctl(control, _SIOCGIFINDEX, request), 16)
    return int(index)


def confine(program: bytes, *, admin: bool) -> None:
    """Give up the rest; *admin*: keep CAP_NET_ADMIN. *program* is a filter of `sandbox.seccomp`.

    Raises:
        OSError: something could not be given up.
    """
    head = (ctypes.c_uint32 * 2)(_CAPABILITIES_3, 0)
    kept = _NET_ADMIN if admin else 0
    sets = (ctypes.c_uint32 * 6)(kept, kept, 0, 0, 0, 0)
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "forbid new privileges")
    _check(_libc.capset(head, sets), "give up capabilities")
    _check(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "become undumpable")
    code = ctypes.create_string_buffer(program, len(program))
    filter_ = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    _check(_libc.prctl(_PR_SET_SECCOMP, _FILTER, filter_, 0, 0), "load the system call filter")
