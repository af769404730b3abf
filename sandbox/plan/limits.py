"""Limits: which mechanism holds each one, and what is refused because nothing can.

Pure. There are a cgroup of the sandbox's own (`sandbox.plan.cgroups`), the clock, pipes, resource
limits, the size of tmpfs and polling; every one is named, and what it misses is said.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from sandbox import cgroup
from sandbox.errors import ProfileError, RequirementError
from sandbox.host.model import Host
from sandbox.kernel import RLIMITS
from sandbox.plan import cgroups
from sandbox.plan.invocation import Invocation, at, origin_of
from sandbox.plan.plan import BEST_EFFORT, CGROUP, Limit
from sandbox.profile.model import Origin, Profile
from sandbox.wire import Kind, Record

__all__ = ["inodes", "limits", "pool", "rlimits", "without_disk"]

#: Nothing but a cgroup holds these.
_CGROUP_ONLY = ("memory_high", "swap", "cpus", "cpu_weight", "io")

_SECOND = 1_000_000_000
#: What one inode of a tmpfs stands for when its number is limited: the page that a file begins with.
_BYTES_PER_INODE = 4096
_LEAST_INODES = 1024

_CPU_TIME = BEST_EFFORT + "polled; the time of children that nobody waited for is missed once they are gone"
_OWN_MOUNTS = "what is in file systems that a payload with mount namespaces mounts for itself, in memory"
_MOUNTED = BEST_EFFORT + "tmpfs; it does not hold " + _OWN_MOUNTS
_CPUSET = BEST_EFFORT + "sched_setaffinity(2), which the command may undo"

#: RLIMIT_DATA counts what one process reserves, touched or not, and a refusal of it is told to nobody. So it
#: lies above the limit: it bounds a burst between two polls, which are what ends the sandbox and says so.
_DATA_SLACK = 256 << 20
_MOST = (1 << 63) - 1

#: the part of the caller's own hard limit that one sandbox gets: queued signals, which timers take, too
#: (96364 on a machine of 24G), and bytes of POSIX message queues (819200; one of the usual size takes 82560)
_SHARES = {"sigpending": 16, "msgqueue": 4}
#: the same of fs.inotify.max_user_*: 128 instances, and watches by the size of the memory
_INOTIFY = {"instances": 4, "watches": 2}

_KERNEL_MECHANISM = {
    "memory": "a memory cgroup",
    "cpu_time": "a cgroup",
    "cpuset": "a cpuset cgroup",
    "disk": "a tmpfs",
}


def inodes(size: int) -> int:
    """How many inodes a tmpfs of *size* bytes may have (0: the kernel's default for no size). Without
    this a million empty files, which take no bytes, would fill the kernel's own memory."""
    return max(size // _BYTES_PER_INODE, _LEAST_INODES) if size else 0


def pool(profile: Profile) -> int:
    """The size of the shared tmpfs in bytes, 0 for the kernel's default (half of the memory). Its pages
    are memory, so that without a limit on disk the one on memory holds here too."""
    return profile.limits.disk or profile.limits.memory or 0


def limits(
    profile: Profile,
    host: Host,
    host_writable: tuple[str, ...],
    hard_limits: Mapping[int, int],
    *,
    may_mount: bool = False,
) -> tuple[Limit, ...]:
    """The limits of *profile* with their mechanisms; *host_writable* are the destinations of writable
    mounts of the host's, *hard_limits* the caller's own, *may_mount* tells whether the payload can make mount
    namespaces.

    Raises:
        RequirementError: one that nothing can hold, or that only best effort holds though it is required.
    """
    cgroups.refuse_named(profile, host)
    _refuse_unheld(profile, host)
    _refuse_impossible(profile)
    asked = profile.limits
    by_cgroup = cgroups.held(profile, host)
    found = [
        ("timeout", _nanoseconds(asked.timeout), "clock"),
        ("cpu_time", _nanoseconds(asked.cpu_time), _CPU_TIME),
        ("memory", asked.memory, _memory(profile, may_mount)),
        ("memory_high", asked.memory_high, ""),
        ("swap", asked.swap, ""),
        ("pids", asked.pids, "rlimit"),
        ("cpus", None if asked.cpus is None else round(asked.cpus * 1000), ""),
        ("cpu_weight", asked.cpu_weight, ""),
        ("cpuset", None if asked.cpuset is None else 0, _CPUSET),
        ("io", 0 if asked.io else None, ""),
        ("disk", asked.disk, _MOUNTED if may_mount else _disk(profile, host_writable)),
        ("files", asked.files, "rlimit"),
        ("file_size", asked.file_size, "rlimit"),
        ("output", asked.output, "pipe"),
        ("core", asked.core, _core(profile, hard_limits.get(RLIMITS["core"]), host.core_handler)),
    ]
    result = tuple(
        Limit(name, value, CGROUP if name in by_cgroup else mechanism, *_told(profile, name))
        for name, value, mechanism in found
        if value is not None
    )
    _check_required(profile, host, result)
    return result


def _told(profile: Profile, name: str) -> tuple[str, str]:
    """Where a limit was set, and its value in words where that is no number."""
    words = ""
    if name == "cpuset":
        words = profile.limits.cpuset or ""
    elif name == "io":
        words = "; ".join(f"{path} {_rates(rates)}" for path, rates in profile.limits.io.items())
    return str(origin_of(profile, f"limits.{name}")), words


def _rates(rates: Mapping[str, int]) -> str:
    return " ".join(f"{name}={value}" for name, value in rates.items())


def _nanoseconds(seconds: float | None) -> int | None:
    return None if seconds is None else max(1, round(seconds * _SECOND))


def _memory(profile: Profile, may_mount: bool) -> str:
    gap = "polled; a peak between two looks is missed, and what is in the kernel's own memory"
    gap += ", as the buffers of sockets and pipes, or locks on files"
    if may_mount:
        gap += f", and {_OWN_MOUNTS}"
    if profile.process.seccomp == "off":
        gap += "; seccomp is off, so memfd_create(2) is open, which RLIMIT_DATA does not count"
    return BEST_EFFORT + gap


def _disk(profile: Profile, host_writable: tuple[str, ...]) -> str:
    """The limit is on what the sandbox itself provides to write on. A directory of the host's that is
    mounted writable was there before and stays afterwards: how full it may get is not ours to say (and
    without a quota of its file system nobody can), so it is named instead of refused; else no project
    directory could be used with a limit."""
    if not host_writable:
        return "tmpfs"
    verb = "is" if len(host_writable) == 1 else "are"
    return f"tmpfs (not {', '.join(host_writable)}, which {verb} the host's)"


def _core(profile: Profile, hard: int | None, handler: str) -> str:
    if handler == "@":
        # fs/coredump.c, coredump_sock_connect(): no limit is looked at, only whether the process is dumpable,
        # which every exec(2) makes it.
        return BEST_EFFORT + "core dumps go to a socket here (kernel.core_pattern), whatever the limit"
    if profile.limits.core and handler == "|":
        return BEST_EFFORT + "core dumps go to a program here (kernel.core_pattern), whole"
    if profile.limits.core == 0 and hard == 0:
        return BEST_EFFORT + "the caller's own hard limit is 0, with which a piped core handler still runs"
    if profile.limits.core == 0 and profile.process.seccomp == "off":
        return BEST_EFFORT + "seccomp is off: a process can set it to 0, and then a piped core handler runs"
    return "rlimit"


def _refuse_unheld(profile: Profile, host: Host) -> None:
    """A limit that nothing here can hold is an error, whatever else is asked for."""
    by_cgroup = cgroups.held(profile, host)
    for name in _CGROUP_ONLY:
        value = getattr(profile.limits, name)
        if value is None or value == {} or name in by_cgroup:
            continue
        where = at(origin_of(profile, f"limits.{name}"))
        reason, mend = cgroups.missing(name, host)
        what = f"the {cgroup.CONTROLLER[name]} controller of a cgroup v2"
        raise RequirementError(
            f"{where}limits.{name} can't be held: it takes {what} of our own; {reason}",
            mend or f"remove limits.{name}",
        )


def _refuse_impossible(profile: Profile) -> None:
    layers = profile.root.layered or profile.root.source.startswith("dir:")
    disk_overlay = profile.root.changes == "disk" and (
        layers or any(mount.mode == "overlay" for mount in profile.mounts)
    )
    if profile.limits.disk is not None and disk_overlay:
        where, kept = at(origin_of(profile, "limits.disk")), is_kept(profile)
        why = "what a kept sandbox changes is" if kept else 'root.writable = "disk" keeps changes'
        raise RequirementError(
            f"{where}limits.disk can't be held: {why} on the disk, where nobody but root can set a quota",
            without_disk(profile) if kept else f'root.writable = "memory"; or {without_disk(profile)}',
        )


def is_kept(profile: Profile) -> bool:
    """Whether it is a kept sandbox that has the changes on disk: `sandbox.box.keeping` says so."""
    return origin_of(profile, "root.writable").source.startswith("sandbox ")


def without_disk(profile: Profile) -> str:
    """What to write to be rid of limits.disk."""
    origin = origin_of(profile, "limits.disk")
    if not origin.line:
        return "leave it out"
    left = ", ".join(f'"{each}"' for each in profile.require if each != "disk")
    require = f"require = [{left}], " if "disk" in profile.require else ""
    return f'-p ./FILE, which says extends = "{profile.name}", {require}limits.disk = false'


def _check_required(profile: Profile, host: Host, found: tuple[Limit, ...]) -> None:
    by_name = {limit.name: limit for limit in found}
    for name in profile.require:
        if hasattr(profile.limits, name) and name != "enforce" and name not in by_name:
            where = at(origin_of(profile, "require"))
            raise ProfileError(f"{where}limits.{name} is required but not set", f"set limits.{name}")
    kernel = profile.limits.enforce == "kernel"
    for limit in found:
        if limit.mechanism.startswith(BEST_EFFORT) and (kernel or limit.name in profile.require):
            where = at(origin_of(profile, "limits.enforce" if kernel else "require"))
            lacking = _KERNEL_MECHANISM.get(limit.name)
            reason, mend = cgroups.missing(limit.name, host) if limit.name in cgroup.CONTROLLER else ("", "")
            why = f" ({reason})" if reason else ""
            raise RequirementError(
                f"{where}limits.{limit.name} is required to be held by the kernel, and "
                f"{f'{lacking} is missing{why}; ' if lacking else ''}there is only {limit.mechanism}",
                mend or _mend(limit, kernel),
            )


def _mend(limit: Limit, kernel: bool) -> str:
    if "seccomp is off" in limit.mechanism and limit.name == "core":
        return 'process.seccomp = "default"'
    if limit.mechanism == _MOUNTED:
        return "process.nested = false"
    without = 'limits.enforce = "any"' if kernel else f"remove {limit.name} from require"
    if "core_pattern" in limit.mechanism:
        return f"sysctl kernel.core_pattern=core (as root), or {without}"
    return without


def rlimits(profile: Profile, host: Host, invocation: Invocation) -> list[Record]:
    """The setrlimit(2) and RLIMIT_NPROC records, for what no cgroup holds. A limit is lowered to the
    caller's own hard one, which is as good; a resource limit that was asked for by name is not.

    Raises:
        RequirementError: `process.rlimits` asks for more than the caller's hard limit.
    """
    asked = profile.limits
    by_cgroup = cgroups.held(profile, host)
    wanted: dict[str, tuple[int, int, str]] = {}
    if asked.cpu_time is not None:
        # Behind what is polled, or counted in a cgroup, which end the command with a verdict: the kernel's
        # account of a process for this one goes by ticks, and was seen 15 % ahead of the time really used.
        # The soft limit's SIGXCPU may be caught: a second later comes SIGKILL. Of each process alone.
        seconds = math.ceil(asked.cpu_time * 1.25) + 1
        wanted["cpu"] = (seconds, seconds + 1, "cpu_time")
    if asked.core is not None:
        # 1, not 0: with 0 the kernel still starts a core handler that is a pipe, on the host as root; 1 it
        # refuses, and seccomp keeps it there (fs/coredump.c, since 2.6.32).
        wanted["core"] = (max(asked.core, 1), max(asked.core, 1), "core")
    for name, key, value in (
        ("data", "memory", None if asked.memory is None else min(asked.memory + _DATA_SLACK, _MOST)),
        ("fsize", "file_size", asked.file_size),
        ("nofile", "files", asked.files),
    ):
        if value is not None and key not in by_cgroup:
            wanted[name] = (value, value, key)
    records = []
    for name, (soft, hard, key) in wanted.items():
        if name in profile.process.rlimits:
            continue
        own = invocation.hard_limits.get(RLIMITS[name], hard)
        fields = (RLIMITS[name], min(soft, own), min(hard, own))
        origin = str(origin_of(profile, f"limits.{key}"))
        records.append(Record(Kind.RLIMIT, f"set RLIMIT_{name.upper()}", origin, fields))
    records += _shares(profile, host, invocation)
    records += _named_rlimits(profile, invocation)
    if asked.cpuset is not None and "cpuset" not in by_cgroup:
        origin = str(origin_of(profile, "limits.cpuset"))
        text = cgroup.setting("cpuset", asked.cpuset).value
        records.append(Record(Kind.AFFINITY, f"run on the CPUs {text}", origin, (text,)))
    if asked.pids is not None and "pids" not in by_cgroup:
        description = f"limit the sandbox to {asked.pids} tasks"
        records.append(Record(Kind.NPROC, description, str(origin_of(profile, "limits.pids")), (asked.pids,)))
        records.append(Record(Kind.PIDS_PEAK, "count tasks", str(origin_of(profile, "limits.pids"))))
    return records


def _shares(profile: Profile, host: Host, invocation: Invocation) -> list[Record]:
    """What the kernel counts of a user in all namespaces together: one sandbox may not use it up, or timers,
    queues and watches fail in its neighbours and for the caller. Resource limits that are set before B is
    made are caps on B as a whole (user_namespaces(7); Linux 5.14), and so are the counts of A."""
    records = []
    for name, all_of_them in zip(("instances", "watches"), host.inotify, strict=True):
        if share := all_of_them // _INOTIFY[name]:
            text = f"leave most of the caller's inotify {name} to others"
            records.append(Record(Kind.SYSCTL, text, "", (f"user/max_inotify_{name}", str(share))))
    for name, part in _SHARES.items():
        own = invocation.hard_limits.get(RLIMITS[name], 0)
        if own <= 0 or name in profile.process.rlimits:
            continue
        share = max(1, own // part)
        text = f"leave most of the caller's RLIMIT_{name.upper()} to others"
        records.append(Record(Kind.RLIMIT, text, "", (RLIMITS[name], share, share)))
    return records


def _named_rlimits(profile: Profile, invocation: Invocation) -> list[Record]:
    records = []
    for name, (soft, hard) in profile.process.rlimits.items():
        keys = (f'process.rlimits."{name}"', "process.rlimits")
        origin = next((profile.origins[key] for key in keys if key in profile.origins), Origin(""))
        where = at(origin)
        number = RLIMITS.get(name.lower())
        if number is None:
            raise ProfileError(f"{where}there is no resource limit {name}", f"one of {', '.join(RLIMITS)}")
        own = invocation.hard_limits.get(number)
        if own is not None and (hard == -1 or hard > own):
            value = "unlimited" if hard == -1 else hard
            raise RequirementError(
                f"{where}process.rlimits.{name} = {value} is above this session's own hard limit, {own}",
                f"process.rlimits.{name} = {own}, or raise the session's (ulimit -H, limits.conf(5))",
            )
        records.append(Record(Kind.RLIMIT, f"set RLIMIT_{name.upper()}", str(origin), (number, soft, hard)))
    return records
