"""From a profile, this machine and this call to a plan.

`compile` is pure: it makes no system calls and decides everything by its arguments, so that
the same ones always give the same plan. What can't be done here is an error that says why
and what mends it, never a weaker plan. The parts: `skeleton` and `mounts` for the root,
`limits` and `cgroups`, and `process` for what runs in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType
from typing import TYPE_CHECKING

from sandbox import ids, net
from sandbox.errors import HostError, ProfileError
from sandbox.kernel import capability
from sandbox.plan import cgroups, limits, mounts, process, skeleton
from sandbox.plan.invocation import Invocation, at, is_below, origin_of, real_source
from sandbox.plan.plan import CLONE, Plan
from sandbox.profile.build import refuse_unavailable
from sandbox.profile.model import Profile
from sandbox.wire import Kind, Record

if TYPE_CHECKING:
    from sandbox.host import Host

__all__ = ["compile"]


def compile(profile: Profile, host: Host, invocation: Invocation) -> Plan:
    """Decide what will be done.

    Raises:
        NotAvailableError: the profile asks for something whose mechanism is not built yet.
        RequirementError: a limit that must hold can't be held.
        HostError: this machine lacks something; `row` names the doctor row.
        ProfileError: values that contradict each other.
    """
    refuse_unavailable(profile)
    _refuse_lacking(profile, host)
    who = ids.plan_ids(profile.user, host)
    account = process.account_of(invocation, who)
    invocation = skeleton.with_home(profile, invocation, account)
    _refuse_loose_pins(profile, invocation, process.capabilities(profile, who))
    trees = [path for path, entry in invocation.entries.items() if entry.kind == "dir"]
    found = limits.limits(profile, host, mounts.host_writable(invocation), invocation.hard_limits)
    environment = process.environment(profile, invocation.environ, account.home, account.user)
    around = mounts.covering(invocation.places, account.home)
    fallback = "/" if around and around.mount.mode == "hide" else account.home
    seen = mounts.seen(invocation, invocation.cwd, trees)
    return Plan(
        namespaces=_namespaces(profile),
        ids=who,
        operations=tuple(skeleton.operations(profile, host, invocation, account)),
        attributes=tuple(_attributes(profile, host, invocation, who)),
        limits=found,
        environment=MappingProxyType(environment),
        workdir=process.workdir(profile, invocation, seen or fallback),
        files=invocation.files,
        notes=tuple(_notes(profile, host, invocation)),
    )


# --- what can't be done --------------------------------------------------------------------------


def _refuse_loose_pins(profile: Profile, invocation: Invocation, mask: int) -> None:
    """Refuse to protect what can't be: a mount point can be renamed by whoever is in a mount namespace in
    which it is none (rename(2): EBUSY is about the caller's own), and a nested payload makes itself one.
    So does one that may raise the count of them again, which takes two capabilities and no filter."""
    able = all(mask & capability(name) for name in ("SYS_ADMIN", "SYS_RESOURCE"))
    if not profile.process.nested and not (able and profile.process.seccomp == "off"):
        return
    for place in invocation.places:
        source = real_source(place)
        for guard in (*invocation.guards, *invocation.hidden):
            if place.mount.mode == "rw" and guard.path != source and is_below(guard.path, source):
                raise ProfileError(
                    f"{at(place.origin)}{source} can't be writable for a payload with mount namespaces: "
                    f"{guard.path} below it ({guard.what}) could be replaced",
                    "mount a directory that does not hold it, read-only or as an overlay, "
                    "or process.nested = false",
                )


def _refuse_lacking(profile: Profile, host: Host) -> None:
    """Refuse what a trial showed not to work here. What was not tried is found out by the helper."""
    modes = {mount.mode for mount in profile.mounts}
    if (profile.root.source.startswith("dir:") or "overlay" in modes) and host.overlay is False:
        _lacking(host, "overlay", "cannot mount an overlay on this machine")
    if host.proc is False:
        _lacking(host, "proc", "cannot mount a fresh /proc on this machine")


def _lacking(host: Host, row: str, message: str) -> None:
    check = host.checks.get(row)
    detail = f": {check.detail}" if check and check.detail else ""
    raise HostError(message + detail, (check.mend if check else "") or "sandbox doctor", row=row)


# --- namespaces and attributes -------------------------------------------------------------------


def _namespaces(profile: Profile) -> int:
    shared = {"net"} if net.shares_host(profile.net) else set()
    return sum(flag for name, flag in CLONE.items() if name not in shared)


def _attributes(profile: Profile, host: Host, invocation: Invocation, who: ids.IdPlan) -> Iterator[Record]:
    if who.tool:
        tools = (host.newuidmap or "", host.newgidmap or "")
        yield Record(Kind.IDTOOL, "map ids with newuidmap", str(origin_of(profile, "user.ids")), tools)
    size = limits.pool(profile)
    key = "limits.disk" if profile.limits.disk else "limits.memory"
    yield Record(
        Kind.POOL, "make the shared tmpfs", str(origin_of(profile, key)), (size, limits.inodes(size))
    )
    by_cgroup = cgroups.held(profile, host)
    yield from process.attributes(profile, who, host.machine, counted="memory" in by_cgroup)
    yield from limits.rlimits(profile, host, invocation)
    yield from cgroups.records(profile, host, invocation)


# --- what a user should know -----------------------------------------------------------------------


def _notes(profile: Profile, host: Host, invocation: Invocation) -> Iterator[str]:
    yield from mounts.notes(invocation)
    if net.shares_host(profile.net):
        yield "the network is the host's: its abstract unix sockets and loopback services can be reached"
    if profile.root.source == "host" and profile.root.writable != "no":
        yield (
            "the root is writable for new files only: /usr and the other system directories stay read-only, "
            "because their files belong to ids that are not mapped"
        )
    if profile.process.seccomp == "off":
        yield "seccomp is off: every system call of this kernel can be tried"
    if host.uid == 0:
        yield "the caller is root, the command is not: it can't write to root's own files"
