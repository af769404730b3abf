"""Whether a sandbox gets a cgroup of its own, which limits that holds, and what is written into it.

Pure: where a cgroup can be had is `Host.cgroup`, and the launch makes it. One that turns out to give
less than was planned is an error then, never a weaker sandbox.
"""

from __future__ import annotations

from collections.abc import Iterator

from sandbox import cgroup, paths
from sandbox.errors import RequirementError
from sandbox.host.model import Host
from sandbox.plan.invocation import Invocation, at, origin_of
from sandbox.profile.model import Profile
from sandbox.wire import CgroupFlag, Kind, Record

__all__ = ["held", "missing", "records", "refuse_named", "used"]

#: the built-in profile that all others begin with, and its ceiling on processes with them
_BASE = f"{paths.configs()}/base.toml"


def held(profile: Profile, host: Host) -> frozenset[str]:
    """Names of the limits that the sandbox's own cgroup will hold; none where it gets none.

    systemd needs some milliseconds for a scope. So it is asked only for a limit that is worth it, which
    the built-in ceiling on processes, that every sandbox has, is not: a resource limit holds it as well.
    """
    names = cgroup.held(profile.limits, host.cgroup.controllers)
    if host.cgroup.kind == "none":
        return frozenset()
    if host.cgroup.kind == "systemd" and names <= {"pids"} and not _asked_for(profile, "pids"):
        return frozenset()
    return names


def used(profile: Profile, host: Host) -> bool:
    """Whether the sandbox gets a cgroup. Where one costs next to nothing every sandbox does: it can be
    frozen, killed at once, and tells the time of processes that nobody waited for."""
    if host.cgroup.kind == "systemd":
        return bool(held(profile, host))
    return host.cgroup.kind != "none"


def _asked_for(profile: Profile, name: str) -> bool:
    """Whether somebody wants *name*, as opposed to the ceiling of the profile that all begin with."""
    return origin_of(profile, f"limits.{name}").source != _BASE


def refuse_named(profile: Profile, host: Host) -> None:
    """Raise `RequirementError` when a directory was named and is of no use."""
    found = host.cgroup
    if found.named and found.kind == "none":
        origin = origin_of(profile, "limits.cgroup_parent")
        where = at(origin) or "SANDBOX_CGROUP_PARENT: "
        raise RequirementError(f"{where}no cgroup can be made there: {found.reason}", found.mend or None)


def missing(name: str, host: Host) -> tuple[str, str]:
    """(why no cgroup holds the limit *name*, what mends it)."""
    controller = cgroup.CONTROLLER[name]
    found = host.cgroup
    reason = found.reason or f"there is no {controller} controller"
    return reason, found.mend


def records(profile: Profile, host: Host, invocation: Invocation) -> Iterator[Record]:
    """Where to make the cgroup, and what to write into it; nothing when there is to be none."""
    if not used(profile, host):
        return
    place = host.cgroup
    way = "bus" if place.kind == "systemd" else "directory"
    what = "ask systemd for a cgroup" if way == "bus" else f"make a cgroup in {place.place}"
    flags = CgroupFlag.NESTED if profile.process.nested else CgroupFlag(0)
    origin = str(origin_of(profile, "limits.cgroup_parent"))
    yield Record(Kind.CGROUP, what, origin, (way, place.place, place.mount, int(flags)))
    names = held(profile, host)
    for each in cgroup.settings(profile.limits, names, invocation.disks, swap=place.swap):
        origin = str(origin_of(profile, f"limits.{each.limit}"))
        yield Record(Kind.CGROUP_SET, each.describe(), origin, (each.file, each.value, int(each.optional)))
