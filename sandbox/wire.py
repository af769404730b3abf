"""The encoding of a plan: what the helper reads from a file descriptor.

It is a flat list of records, each a kind and some fields of bytes; `helpers/plan.h`
is its twin in C. It is not a general serialisation: there is no nesting, no optional
part and no negotiation, because both ends are installed together.

    plan    := magic[8] u32 size u32 count record*        size: of the whole plan, bytes
    record  := u16 kind u16 nfields u32 size field*       size: of the record with this header
    field   := u32 length bytes[length] NUL pad           pad: zeros up to a multiple of 4

All integers are little endian. An integer field is 8 bytes, two's complement. The first
two fields of every record are its description and its origin, so that the helper can
say what failed and which profile line asked for it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum, IntFlag
from typing import NamedTuple

__all__ = [
    "MAGIC",
    "MAX_SIZE",
    "CgroupFlag",
    "Kind",
    "Mount",
    "Ready",
    "Record",
    "ServiceFlag",
    "Socket",
    "decode",
    "encode",
    "extend",
]

MAGIC = b"SBXPLAN\x01"
#: A plan larger than this is refused by both ends (bytes).
MAX_SIZE = 64 << 20

_HEADER = struct.Struct("<8sII")
_RECORD = struct.Struct("<HHI")
_LENGTH = struct.Struct("<I")
_INTEGER = struct.Struct("<q")


class Kind(IntEnum):
    """What a record says. Fields after (description, origin) are given behind each; i is an
    integer field, s text or bytes, ... repeats. "many": the record may occur many times."""

    # Attributes, in any order.
    NAMESPACES = 1  # i clone(2) flags; NEWUSER, NEWNS and NEWPID are always set
    IDMAP = 2  # i which (0 uid, 1 gid), i inside, i outside, i count; many
    # s newuidmap, s newgidmap: paths; i seconds that they may take, 20 if absent. Absent as a whole: the
    # supervisor writes the maps
    IDTOOL = 3
    IDENTITY = (
        4  # i uid, i gid: of the payload, inside; i uid, i gid: who makes the root; i group ...: further ones
    )
    HOSTNAME = 5  # s
    RLIMIT = 6  # i resource, i soft, i hard (-1: infinity); many
    NPROC = 7  # i tasks, for the whole sandbox
    CAPABILITIES = 8  # i mask: bounding, permitted, effective; 0 none
    SECCOMP = 9  # s struct sock_filter[]
    ENVIRONMENT = 10  # s NAME=VALUE ...
    WORKDIR = 11  # s path inside
    UMASK = 12  # i
    NICE = 13  # i
    LIMIT = 14  # s name, i value, s mechanism; many. timeout, cpu_time: ns; others bytes or counts
    LOOPBACK = 15  # bring lo up
    TTY = 16  # i 0 never, 1 a pty when the caller's stdin is a terminal, 2 always
    KEYRING = 17  # join a new session keyring before exec
    USERNS_MAX = 18  # i written to user.max_user_namespaces of B: how many it may make
    POOL = 19  # i bytes (0: the kernel's default), i inodes (0: default): the shared tmpfs
    PIDS_PEAK = 20  # ask for counting tasks when polling (costs a scan)
    CGROUP = 21  # s way, s place, s mount point of cgroup v2, i flags (CgroupFlag). way "bus": place is the
    # socket of systemd's D-Bus, who is asked for a scope; "directory": place is where to make the cgroup
    CGROUP_SET = 22  # s file, s value, i 1: may be missing; many, in order
    AFFINITY = 23  # s CPUs, as in "0-3,6"
    SERVICE = 24  # s name, i flags (ServiceFlag), i ready (Ready), i views, s path x views, s argv ...: a
    # program outside that is started before the payload; many. Of argv "{netns}" stands for a path of the
    # sandbox's network namespace, and "{ready}" for the number of the descriptor to say so on. With views it
    # sees no other files
    SOCKET = 25  # s service, i type (Socket), s address, i port: made in the sandbox's network namespace; the
    # service has its own from descriptor 3 on, in this order; many
    NFT = 26  # s path of nft(8), s rules for the sandbox's network namespace
    ADDRESS = 27  # s device, s address, i prefix length, s gateway ("": none): of a device that a service
    # makes, or of lo; many
    SYSCTL = 28  # s name below /proc/sys, s value: of the sandbox's namespaces; many
    HOST_SETS = (
        29  # s table, s set, s set, s set, s set: of NFT (inet), IPv4 and 6 and the same once more. The
    )
    # one pair or the other, in turns, is kept filled with the host's addresses
    FUSE = 30  # s path of fuse-overlayfs(1), which makes overlays that say so, i uid, i gid: who it is in A,
    # and nobody in B can be (-1: as init)
    PUBLISH = 31  # s "tcp" or "udp", s address and i port of the host, i port inside, s address inside, s
    # gateway, s and s the same of IPv6, i mark of what is forwarded (0: nothing leads out); many

    # Operations on the root, executed in this order of appearance. dst is a path inside.
    TMPFS = 32  # s dst, i flags, i mode, i bytes, i inodes; bytes 0: a directory of the pool
    BIND = 33  # s dst, i flags, s source, s beneath
    OVERLAY = 34  # s dst, i flags, s upper ("": pool, a name in SCRATCH, or a path), i bytes, s lower ...
    PROC = 35  # s dst, i flags
    DEVPTS = 36  # s dst, i flags
    MQUEUE = 37  # s dst, i flags
    FILE = 38  # s dst, i mode, s content, i 1: mounted there, so that what is below does not change
    DIRECTORY = 39  # s dst, i mode, i flags
    SYMLINK = 40  # s dst, s target
    MASK = 41  # s dst, i flags: cover with an empty unreadable file or directory
    READONLY = 42  # s dst, i flags
    PIN = 43  # s dst, i flags: bind onto itself (READONLY: and make it so) so it can't be renamed
    CGROUP2 = 44  # s dst, i flags: the cgroup of the payload, as the top of cgroup v2

    # Slots, appended by the launch.
    ARGV = 64  # s argument ...: absent: wait for commands on the control socket
    STDIO = 65  # i stdin, i stdout, i stderr: descriptors of the supervisor, -1: /dev/null
    CONTROL = 66  # i fd: SOCK_SEQPACKET, requests in, events (JSON) out
    LIFELINE = 67  # i fd: a pidfd; when it becomes readable everything ends
    REPORT = 68  # i fd: the final report is written here, one line of JSON
    VERBOSITY = 69  # i 0 quiet, 1 messages on stderr, 2 operations too
    DIAGNOSE = 70  # s argument ...: executed by the supervisor when the set-up fails
    SCRATCH = 71  # s directory on the host for overlays on disk; removed at the end
    LEASE = 79  # i fd: kept open until the sandbox is gone; many

    # Requests on the control socket.
    SPAWN = 72  # i id, i nenv (-1: the plan's), s NAME=VALUE x nenv, s workdir, i timeout ns, s argv ...
    SIGNAL = 73  # i id, i signal number
    OPEN = 74  # i id, i 0 read or 1 write, i mode, s path
    CLOSE = 75  # end everything
    STATS = 76  # i id: answered by the event "stats"
    FREEZE = 77  # i id, i 1 or 0: stop all its processes, or go on; answered by "done"
    SET = 78  # i id, s limit, i value as in LIMIT (-1: none), s file, s value: change it; answered by "done"
    FORWARD = 80  # i id, then as PUBLISH: publish one more port; answered by "ports"
    UNFORWARD = 81  # the same: no longer; answered by "ports"

    # More slots.
    PCAP = 82  # i fd, i bytes: the traffic of the network namespace is written there, so much of it
    LOG = 83  # i fd: the events "ready" and "ports" and the final report are appended there, a line each
    DOOR = 84  # i fd: listens (SOCK_SEQPACKET); each connection is one FORWARD or UNFORWARD, and its answer

    # More attributes: there is no room before the operations.
    LISTEN = 96  # s "tcp" or "udp", s address and i port inside, s name: a socket that commands get; many
    STOP_SIGNAL = 97  # i signal number: what SIGTERM to the supervisor is for the command
    BRIDGE = 98  # s bridge, s MAC address, i MTU: made before services and rules
    VETH = 99  # i lease, i lease (counted in their order, from 0): a netlink socket of a private network's
    # namespace; and what becomes readable when it is gone; s bridge, s port, s device, s MAC address, i MTU,
    # i bytes per second each way (0: any): a device of the sandbox's, its other end a port of the bridge
    RATE = 100  # s device, i bytes per second that it may send, and receive


class Mount(IntFlag):
    """The flags field of operations."""

    READONLY = 1
    NOSUID = 2
    NODEV = 4
    NOEXEC = 8
    RECURSIVE = 16
    CREATE = 32  # make a missing mount point (only where what lies below is ours)
    OPTIONAL = 64  # a missing source (BIND) or destination (MASK, PIN), or something else that is there
    # (DIRECTORY), is not an error
    STRICT = 128  # no component of dst may be a symbolic link
    OWNED = 256  # TMPFS: owned by the payload's ids, not by A's first id
    FUSE = 512  # OVERLAY: made by the program of FUSE


class ServiceFlag(IntFlag):
    """The flags field of SERVICE."""

    RIGHTS = 1  # it may set up the sandbox's network namespace; without, it has no capabilities at all
    NEEDED = 2  # its end is the end of the sandbox
    FILTERS = 4  # it may use sockets of netlink that it gets to change rules
    TELLS = (
        8  # lines "denied WHAT PORT HOW [TIMES]" are for the result, a later one of the same for its number;
    )
    # SIGUSR1 asks for all, "told" ends them


class Ready(IntEnum):
    """How a service tells that it is ready."""

    AT_ONCE = 0
    WRITES = 1  # a byte on its descriptor; the lines that follow there are events
    FORKS = 2  # the process that was started ends with status 0, and others go on


class Socket(IntEnum):
    """The type field of SOCKET."""

    STREAM = 1  # listens
    DATAGRAM = 2
    ROUTE = 3  # NETLINK_ROUTE
    NETFILTER = 4  # NETLINK_NETFILTER
    GIVEN = 5  # a lease: "port" says which, counted from 0. These come before the others


class CgroupFlag(IntFlag):
    """The flags field of CGROUP."""

    NESTED = 1  # the payload may make cgroups below its own


class Record(NamedTuple):
    """One record: `kind`, then the text fields, then the rest (str, bytes or int)."""

    kind: int
    description: str
    origin: str
    fields: tuple[str | bytes | int, ...] = ()


def _field(value: str | bytes | int) -> bytes:
    if isinstance(value, int):
        data = _INTEGER.pack(value)
    elif isinstance(value, str):
        data = value.encode("utf-8", "surrogateescape")
    else:
        data = value
    return _LENGTH.pack(len(data)) + data + bytes(4 - len(data) % 4)


def _record(record: Record) -> bytes:
    fields = (record.description, record.origin, *record.fields)
    body = b"".join(map(_field, fields))
    return _RECORD.pack(record.kind, len(fields), _RECORD.size + len(body)) + body


def encode(records: Iterable[Record]) -> bytes:
    """Encode *records* as a plan.

    Raises `ValueError` when the plan would be larger than `MAX_SIZE`.
    """
    return extend(_HEADER.pack(MAGIC, _HEADER.size, 0), records)


def extend(plan: bytes, records: Iterable[Record]) -> bytes:
    """Return the encoded *plan* with *records* appended: how a launch fills the slots."""
    _, _, count = _HEADER.unpack_from(plan)
    parts = [_record(record) for record in records]
    body = plan[_HEADER.size :] + b"".join(parts)
    size = _HEADER.size + len(body)
    if size > MAX_SIZE:
        raise ValueError(f"plan of {size} bytes is larger than {MAX_SIZE}")
    return _HEADER.pack(MAGIC, size, count + len(parts)) + body


def decode(plan: bytes) -> Iterator[tuple[int, tuple[bytes, ...]]]:
    """Yield (kind, fields) of each record of an encoded *plan*; fields are raw bytes.

    The helper has its own decoder; this one is the judge in tests.
    Raises `ValueError` for anything that is not exactly a plan.
    """
    if len(plan) < _HEADER.size:
        raise ValueError("short plan")
    magic, size, count = _HEADER.unpack_from(plan)
    if magic != MAGIC or size != len(plan) or size > MAX_SIZE:
        raise ValueError("not a plan")
    at = _HEADER.size
    for _ in range(count):
        if at + _RECORD.size > size:
            raise ValueError("record beyond the end")
        kind, nfields, length = _RECORD.unpack_from(plan, at)
        end, at = at + length, at + _RECORD.size
        if end > size:
            raise ValueError("record beyond the end")
        fields = []
        for _ in range(nfields):
            if at + _LENGTH.size > end:
                raise ValueError("field beyond its record")
            (n,) = _LENGTH.unpack_from(plan, at)
            at += _LENGTH.size
            if at + n + 1 > end:
                raise ValueError("field beyond its record")
            fields.append(plan[at : at + n])
            pad = 4 - n % 4
            if plan[at + n : at + n + pad] != bytes(pad):
                raise ValueError("field without its padding")
            at += n + pad
        if at != end or nfields < 2:
            raise ValueError("record of the wrong size")
        yield kind, tuple(fields)
    if at != size:
        raise ValueError("bytes behind the last record")
