"""Which ids of this machine a payload may have. Arithmetic on a `Host`; looks at nothing.

An ordinary user has its own id, and the ranges that /etc/subuid and /etc/subgid give it. Root could
map anything, and so gets what nobody else has: root's own ranges in /etc/subuid, else `BLOCK`, else
(in a container that maps neither) the last ordinary id there is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from sandbox.host.model import Host, IdMap, Range
from sandbox.kernel import capability

__all__ = [
    "BLOCK",
    "OVERFLOW",
    "SETGID",
    "SETUID",
    "Which",
    "has_root_rights",
    "mapped",
    "own",
    "spare",
    "without",
]

Which = Literal["uid", "gid"]

#: What root uses where /etc/subuid says nothing: above all that login.defs(5) hands out (SUB_UID_MAX is
#: 600100000) and all that systemd gives to containers (to 1879048191), in the part of the 32 bits that
#: systemd's UIDS-GIDS lists as unused, and below 2**31, where programs that keep ids signed begin to fail.
BLOCK = Range(0x7000_0000, 65536)

#: /proc/sys/kernel/overflowuid: what ids without a mapping look like. Never a payload's.
OVERFLOW = 65534

SETGID, SETUID = capability("SETGID"), capability("SETUID")


def has_root_rights(host: Host) -> bool:
    """Whether the caller is uid 0 and may map ids other than its own (not so with `--cap-drop ALL`)."""
    return host.uid == 0 and host.capabilities & (SETUID | SETGID) == SETUID | SETGID


def mapped(ranges: Iterable[Range], maps: Iterable[IdMap]) -> tuple[Range, ...]:
    """The parts of *ranges* that exist in a namespace with these *maps*, in the order of *ranges*."""
    maps = tuple(maps)
    parts = []
    for wanted in ranges:
        for line in sorted(maps):
            first = max(wanted.start, line.inside)
            end = min(wanted.start + wanted.count, line.inside + line.count)
            if first < end:
                parts.append(Range(first, end - first))
    return tuple(parts)


def without(ranges: Iterable[Range], id: int | None) -> tuple[Range, ...]:
    """*ranges* with one id taken out."""
    parts = []
    for part in ranges:
        if id is None or not part.start <= id < part.start + part.count:
            parts.append(part)
            continue
        for first, end in ((part.start, id), (id + 1, part.start + part.count)):
            if first < end:
                parts.append(Range(first, end - first))
    return tuple(parts)


def spare(host: Host, which: Which) -> tuple[Range, ...]:
    """The ids besides the caller's own that its payloads may have, those to use first in front."""
    maps = host.uid_map if which == "uid" else host.gid_map
    given = host.subuid if which == "uid" else host.subgid
    mine = host.uid if which == "uid" else host.gid

    def usable(ranges: Iterable[Range]) -> tuple[Range, ...]:
        return without(without(mapped(ranges, maps), mine), host.machine_root)

    found = usable(given)
    if found or not has_root_rights(host):
        return found
    found = usable([BLOCK])
    if found:
        return found
    last = usable([Range(1, OVERFLOW - 1)])
    return (Range(max(part.start + part.count - 1 for part in last), 1),) if last else ()


def own(host: Host, which: Which) -> int | None:
    """The id on this machine that a payload with a single id has; None: there is none it may have.

    An ordinary user's payload has the user's own. Root's has never that of the machine's root; where
    uid 0 is only called so (an ordinary user's namespace with nothing else in it) it is left at that.
    """
    mine = host.uid if which == "uid" else host.gid
    if host.uid not in (0, host.machine_root):
        return mine
    ranges = spare(host, which) if has_root_rights(host) else ()
    if ranges:
        return ranges[0].start
    return mine if host.machine_root not in (host.uid, mine) else None
