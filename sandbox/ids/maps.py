"""The id maps of a sandbox (see the package)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sandbox.errors import HostError, ProfileError
from sandbox.host.model import Host, IdMap, Range
from sandbox.host.rows import idrange
from sandbox.host.spare import Which, own, spare, without
from sandbox.profile.model import User

__all__ = ["MAX_LINES", "SIZE", "IdPlan", "plan_ids"]

#: How many ids a range has inside, where the host gives that many: what images expect (0 to 65535).
SIZE = 65536

#: Lines that a map may have (user_namespaces(7), Linux 4.15).
MAX_LINES = 340

#: The last id that can be given to a process: 4294967295 is "no id" (chown(2)).
LAST = 2**32 - 2


@dataclass(frozen=True, slots=True)
class IdPlan:
    """The ids of one sandbox.

    `uids` and `gids` are the lines of the maps, ordered by `inside`, not overlapping on either side.
    `uid` and `gid` are the payload's inside. `tool`: newuidmap and newgidmap must write the maps (the
    helper can't). `single`: one id each. `host_uid` and `host_gid`: who the payload is outside, and
    so who owns its files.
    """

    uids: tuple[IdMap, ...]
    gids: tuple[IdMap, ...]
    uid: int
    gid: int
    tool: bool
    single: bool
    host_uid: int
    host_gid: int


def plan_ids(user: User, host: Host, needs_range: bool = False) -> IdPlan:
    """The ids for a sandbox of *user* on *host*; *needs_range* when one id can't do (an image).

    One id of its own unless a range is asked for or needed. A range gives the payload the caller's
    own id, and to the other ids inside, from 0 on, what /etc/subuid has, in order (as podman's
    keep-id does). Root's payloads have none of root's rights on the machine: their id is another one.

    Raises `HostError` (row "idrange") when the host has no such ids, `ProfileError` for a `map` that
    is none, or one id that can't have a range.
    """
    if needs_range and user.ids == "single":
        raise ProfileError('user.ids is "single", but this root needs a range of ids', 'set ids = "auto"')
    uid, gid = _inside(user.map, host)
    host_uid, host_gid = _own(host, "uid"), _own(host, "gid")
    if user.ids == "range" or needs_range:
        row = host.checks.get("idrange") or idrange(host)
        if not row.ok:
            raise HostError(f"cannot map a range of ids: {row.detail}", row.mend or None, row="idrange")
        uids = _range_map(uid, host_uid, spare(host, "uid"))
        gids = _range_map(gid, host_gid, spare(host, "gid"))
    else:
        uids, gids = (IdMap(uid, host_uid, 1),), (IdMap(gid, host_gid, 1),)
    single = len(uids) == len(gids) == 1 == uids[0].count == gids[0].count
    return IdPlan(uids, gids, uid, gid, not single and host.uid != 0, single, host_uid, host_gid)


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
        raise ProfileError(f'user.map = "{text}": the largest id is {LAST}')
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


def _range_map(inside: int, outside: int, ranges: tuple[Range, ...]) -> tuple[IdMap, ...]:
    """The payload's *inside* id is *outside*; the ids from 0 on are *ranges*, in order."""
    lines = [IdMap(inside, outside, 1)]
    room = _room(inside)
    first, left = next(room)
    for part in without(ranges, outside):
        start, count = part.start, part.count
        while count and left:
            taken = min(count, left)
            lines.append(IdMap(first, start, taken))
            start, count, first, left = start + taken, count - taken, first + taken, left - taken
            if not left:
                first, left = next(room, (0, 0))
    if len(lines) > MAX_LINES:
        raise HostError(f"cannot map a range of ids: it has more than {MAX_LINES} parts", row="idrange")
    return tuple(sorted(lines))


def _room(inside: int) -> Iterator[tuple[int, int]]:
    """(first id, count) of the ids inside that are not the payload's own, up to SIZE."""
    if inside >= SIZE:
        yield 0, SIZE
        return
    if inside:
        yield 0, inside
    if inside + 1 < SIZE:
        yield inside + 1, SIZE - inside - 1
