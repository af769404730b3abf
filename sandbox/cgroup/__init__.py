"""cgroup v2: which files hold which limit, and which disk a path is on.

Pure, but for `devices`. Where a cgroup can be had is found by `sandbox.host.delegation`; making it,
writing these files and reading the counters is the helper's (helpers/cgroup.c).

The files and their formats: Documentation/admin-guide/cgroup-v2.rst. All are written in the sandbox's
own cgroup, one above the one that its processes are in and see as the top.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from sandbox.profile.model import Limits

__all__ = ["CONTROLLER", "LIVE", "Setting", "held", "setting", "settings"]

#: The controller that holds a limit. "": every cgroup does, without any.
CONTROLLER: Mapping[str, str] = {
    "memory": "memory",
    "memory_high": "memory",
    "swap": "memory",
    "pids": "pids",
    "cpus": "cpu",
    "cpu_weight": "cpu",
    "cpuset": "cpuset",
    "io": "io",
    "cpu_time": "",
}

#: Limits whose files may be written while the sandbox runs.
LIVE = ("memory", "memory_high", "swap", "pids", "cpus", "cpu_weight", "cpuset")

#: cpu.max: the length of a period, us. The kernel's own default.
_PERIOD = 100_000
#: pids.max: PID_MAX_LIMIT, kernel/cgroup/pids.c
_MOST_TASKS = 1 << 22
#: init is in the cgroup, too
_OUR_TASKS = 1


class Setting(NamedTuple):
    """A value for a file of the cgroup. `limit` is the limit that asks for it. An *optional* one may be
    missing: it has the same effect where the kernel has no such file."""

    limit: str
    file: str
    value: str
    optional: bool = False

    def describe(self) -> str:
        return f"set {self.file} to {self.value}"


def held(limits: Limits, controllers: tuple[str, ...]) -> frozenset[str]:
    """Names of the limits that are set and that a cgroup with *controllers* holds."""
    return frozenset(
        name
        for name, controller in CONTROLLER.items()
        if getattr(limits, name) not in (None, {}) and (not controller or controller in controllers)
    )


def settings(limits: Limits, names: frozenset[str], disks: Mapping[str, str], *, swap: bool) -> list[Setting]:
    """What is to be written for the limits *names*, in order.

    Args:
        disks: of each path in `limits.io`, the disk as MAJOR:MINOR (`devices.disk_of`).
        swap: whether the machine has any. Memory without a limit on swap would be no limit.
    """
    found = []
    for name in CONTROLLER:
        if name in names and name not in ("io", "cpu_time"):
            found.append(setting(name, getattr(limits, name)))
        if name == "swap" and "memory" in names and limits.swap is None:
            found.append(Setting("memory", "memory.swap.max", "0", optional=not swap))
    if "io" in names:
        found += _io(limits.io, disks)
    return found


def setting(name: str, value: int | float | str | None) -> Setting:
    """The file for one limit but io; None: no limit.

    Raises:
        KeyError: *name* is not held by a file.
    """
    formats = {
        "memory": ("memory.max", "{}"),
        "memory_high": ("memory.high", "{}"),
        "swap": ("memory.swap.max", "{}"),
        "cpu_weight": ("cpu.weight", "{}"),
        "cpuset": ("cpuset.cpus", "{}"),
    }
    if name == "pids":
        tasks = "max" if value is None else str(min(int(value) + _OUR_TASKS, _MOST_TASKS))
        return Setting(name, "pids.max", tasks)
    if name == "cpus":
        quota = "max" if value is None else str(round(float(value) * _PERIOD))
        return Setting(name, "cpu.max", f"{quota} {_PERIOD}")
    file, text = formats[name]
    nothing = {"cpu_weight": "100", "cpuset": "\n"}.get(name, "max")
    return Setting(name, file, nothing if value is None else text.format(_cpus(value)))


def _cpus(value: int | float | str) -> str:
    """A list of CPUs as the kernel writes it, so that what is read back can be compared."""
    if not isinstance(value, str):
        return str(value)
    numbers = set()
    for part in value.split(","):
        first, _, last = part.partition("-")
        numbers |= set(range(int(first), int(last or first) + 1))
    return ",".join(_ranges(sorted(numbers)))


def _ranges(numbers: list[int]) -> Iterator[str]:
    start = 0
    for at in range(1, len(numbers) + 1):
        if at == len(numbers) or numbers[at] != numbers[at - 1] + 1:
            first, last = numbers[start], numbers[at - 1]
            yield str(first) if first == last else f"{first}-{last}"
            start = at


def _io(wanted: Mapping[str, Mapping[str, int]], disks: Mapping[str, str]) -> Iterator[Setting]:
    """A line for each disk. Of two paths on the same one, the smaller numbers."""
    by_disk: dict[str, dict[str, int]] = {}
    for path, rates in wanted.items():
        merged = by_disk.setdefault(disks[path], {})
        for name, value in rates.items():
            merged[name] = min(value, merged.get(name, value))
    for disk, rates in by_disk.items():
        yield Setting("io", "io.max", " ".join([disk, *(f"{name}={value}" for name, value in rates.items())]))
