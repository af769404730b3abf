"""The id maps of a sandbox (see the package)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from sandbox.errors import HostError, ProfileError
from sandbox.host.model import Host, IdMap, Range
from sandbox.host.rows import idrange
from sandbox.host.spare import Which, own, spare, without
from sandbox.profile.model import User

__all__ = [
    "MAX_GROUPS",
    "MAX_LINES",
    "SIZE",
    "SLICE",
    "IdPlan",
    "as_user",
    "is_shared",
    "plan_ids",
    "server",
    "slices",
]

#: How many ids a range has inside, where the host gives that many: what images expect (0 to 65535).
SIZE = 65536

#: How many ids a private slice of them has: root, those of a distribution's system (below 1000), and a few.
SLICE = 1024

#: Lines that a map may have (user_namespaces(7), Linux 4.15).
MAX_LINES = 340

#: Further groups that a payload can have (helpers/payload.c).
MAX_GROUPS = 64

#: What files of ids that are not mapped belong to (user_namespaces(7)).
NOBODY = 65534

#: The last id that can be given to a process: 4294967295 is "no id" (chown(2)).
LAST = 2**32 - 2


@dataclass(frozen=True, slots=True)
class IdPlan:
    """The ids of one sandbox.

    `uids` and `gids` are the lines of the maps, ordered by `inside`, not overlapping on either side.
    `uid` and `gid` are the payload's inside. `tool`: newuidmap and newgidmap must write the maps (the
    helper can't). `single`: one id each. `host_uid` and `host_gid`: who the payload is outside, and
    so who owns its files. `maker`: who makes the root inside, when that is not the payload (an image's
    root, whose files are its layers). `groups`: further groups of the payload.
    """

    uids: tuple[IdMap, ...]
    gids: tuple[IdMap, ...]
    uid: int
    gid: int
    tool: bool
    single: bool
    host_uid: int
    host_gid: int
    maker: tuple[int, int] | None = None
    groups: tuple[int, ...] = ()


def plan_ids(user: User, host: Host, needs_range: bool = False, number: int = 0) -> IdPlan:
    """The ids for a sandbox of *user* on *host*; *needs_range* when one id can't do (an image);
    *number* says which slice, where the profile wants one (`slices`).

    One id of its own unless a range is asked for or needed. A range gives the payload the caller's
    own id, and to the other ids inside, from 0 on, what /etc/subuid has, in order (as podman's
    keep-id does); a private slice is a part of them. Root's payloads have none of root's rights on the
    machine: their id is another one.

    Raises `HostError` (row "idrange") when the host has no such ids, `ProfileError` for a `map` that
    is none, or one id that can't have a range.
    """
    if needs_range and user.ids == "single":
        raise ProfileError('user.ids is "single", but this root needs a range of ids', 'set ids = "auto"')
    uid, gid = _inside(user.map, host)
    host_uid, host_gid = _own(host, "uid"), _own(host, "gid")
    if user.ids in ("range", "private") or needs_range:
        row = host.checks.get("idrange") or idrange(host)
        if not row.ok:
            raise HostError(f"cannot map a range of ids: {row.detail}", row.mend or None, row="idrange")
        most = SIZE
        uid_ranges, gid_ranges = _rest(host, "uid"), _rest(host, "gid")
        if user.ids == "private":
            if not slices(host):
                raise HostError(
                    f"private ids are slices of {SLICE}, and your range has fewer",
                    f'a range of {SIZE} in /etc/subuid and /etc/subgid, or: ids = "range" in [user]',
                    row="idrange",
                )
            most = SLICE
            uid_ranges, gid_ranges = _slice(uid_ranges, number), _slice(gid_ranges, number)
        uids = _range_map(uid, host_uid, uid_ranges, most)
        gids = _range_map(gid, host_gid, gid_ranges, most)
    else:
        uids, gids = (IdMap(uid, host_uid, 1),), (IdMap(gid, host_gid, 1),)
    single = len(uids) == len(gids) == 1 == uids[0].count == gids[0].count
    return IdPlan(uids, gids, uid, gid, not single and host.uid != 0, single, host_uid, host_gid)


def slices(host: Host) -> int:
    """How many slices of ids there are on *host* that a sandbox can have for itself; 0: no range, or one too
    small. They are counted from the end of the range, whose begin those have that take all of it."""
    return min(_count(_rest(host, which)) for which in ("uid", "gid")) // SLICE


def is_shared(host: Host, number: int) -> bool:
    """Whether sandboxes with an image or a whole range have ids of the slice *number*, too."""
    return any(_count(_rest(host, which)) - (number + 1) * SLICE < SIZE for which in ("uid", "gid"))


def as_user(plan: IdPlan, uid: int, gid: int, groups: tuple[int, ...] = ()) -> IdPlan:
    """*plan*, by which the files of images belong to others, with *uid* and *gid* as the payload's.

    Where there is one id all files are its own, whatever it is called.

    Raises:
        HostError: the plan has no such id.
    """
    if plan.single:
        uids, gids = (IdMap(uid, plan.host_uid, 1),), (IdMap(gid, plan.host_gid, 1),)
        return replace(plan, uids=uids, gids=gids, uid=uid, gid=gid)
    for what, number, lines in (("uid", uid, plan.uids), ("gid", gid, plan.gids)):
        if _outside(lines, number) is None:
            raise HostError(
                f"cannot be {what} {number} inside: the range of ids has {sum(each.count for each in lines)}",
                "run as another user: -u root",
                row="idrange",
            )
    held = tuple(each for each in groups if _outside(plan.gids, each) is not None)
    outside = _outside(plan.uids, uid) or 0, _outside(plan.gids, gid) or 0
    return replace(
        plan,
        uid=uid,
        gid=gid,
        host_uid=outside[0],
        host_gid=outside[1],
        maker=(plan.uid, plan.gid),
        groups=held[:MAX_GROUPS],
    )


def server(plan: IdPlan) -> tuple[int, int]:
    """uid and gid inside, of *plan*, for a program that serves files to the payload, which is to have no such
    id: the last ones (65535 was "no id" of 16 bits, and is nobody's). -1 each where there are too few."""
    if plan.single:
        return -1, -1
    taken = {NOBODY, plan.uid, plan.gid, *plan.groups, *(plan.maker or ())}
    found = _last(plan.uids, taken), _last(plan.gids, taken)
    return found if min(found) >= 0 else (-1, -1)


def _last(lines: tuple[IdMap, ...], taken: set[int]) -> int:
    line = max(lines, key=lambda each: each.count)
    return next(
        (each for each in reversed(range(line.inside, line.inside + line.count)) if each not in taken), -1
    )


def _outside(lines: tuple[IdMap, ...], inside: int) -> int | None:
    for line in lines:
        if line.inside <= inside < line.inside + line.count:
            return line.outside + inside - line.inside
    return None


def _inside(text: str, host: Host) -> tuple[int, int]:
    """What the payload's ids are called inside."""
    if text == "keep":
        return host.uid, host.gid
    if text == "root":
        return 0, 0
    parts = text.split(":")
    # not int() alone: it takes "+1", " 1" and "1_000" (runc took "1000abc": CVE-2026-30892)
    if len(parts) != 2 or not all(p.isascii() and p.isdigit() and len(p) <= 10 for p in parts):
        raise ProfileError(f'user.map = "{text}" is not "keep", "root" or UID:GID', 'write, say, "1000:1000"')
    uid, gid = map(int, parts)
    if max(uid, gid) > LAST:
        raise ProfileError(f'user.map = "{text}": the largest id is {LAST}', 'write, say, "1000:1000"')
    return uid, gid


def _own(host: Host, which: Which) -> int:
    found = own(host, which)
    if found is None:
        row = idrange(host)
        raise HostError(
            f"cannot give the payload a {which} of its own: it must not be the machine's root, and no other "
            f"{which} can be mapped here ({row.detail})",
            row.mend or "start sandbox as an ordinary user",
            row="idrange",
        )
    return found


def _rest(host: Host, which: Which) -> tuple[Range, ...]:
    """What may be mapped besides the payload's own."""
    return without(spare(host, which), own(host, which))


def _count(ranges: Iterable[Range]) -> int:
    return sum(each.count for each in ranges)


def _slice(ranges: tuple[Range, ...], number: int) -> tuple[Range, ...]:
    """The ids of *ranges* that are slice *number*, from the end."""
    found = []
    first = _count(ranges) - (number + 1) * SLICE
    at = 0
    for part in ranges:
        begin, end = max(first, at), min(first + SLICE, at + part.count)
        if begin < end:
            found.append(Range(part.start + begin - at, end - begin))
        at += part.count
    return tuple(found)


def _range_map(inside: int, outside: int, ranges: tuple[Range, ...], most: int = SIZE) -> tuple[IdMap, ...]:
    """The payload's *inside* id is *outside*; the ids from 0 on, *most* of them, are *ranges*, in order."""
    lines = [IdMap(inside, outside, 1)]
    room = _room(inside, most)
    first, left = next(room)
    for part in ranges:
        start, count = part.start, part.count
        while count and left:
            taken = min(count, left)
            lines.append(IdMap(first, start, taken))
            start, count, first, left = start + taken, count - taken, first + taken, left - taken
            if not left:
                first, left = next(room, (0, 0))
    if len(lines) > MAX_LINES:
        raise HostError(
            f"cannot map a range of ids: it has more than {MAX_LINES} parts",
            "give this user one range in /etc/subuid and /etc/subgid in place of many",
            row="idrange",
        )
    return tuple(sorted(lines))


def _room(inside: int, most: int) -> Iterator[tuple[int, int]]:
    """(first id, count) of the ids inside that are not the payload's own, up to *most*."""
    if inside >= most:
        yield 0, most
        return
    if inside:
        yield 0, inside
    if inside + 1 < most:
        yield inside + 1, most - inside - 1
