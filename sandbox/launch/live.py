"""A sandbox while it runs: what it uses, and what can be changed. Values and the requests they become.

Sending them is `sandbox.launch.api`'s; the kernel has the last word on each.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from sandbox import cgroup
from sandbox.errors import ProfileError, RequirementError
from sandbox.plan.plan import BEST_EFFORT, CGROUP
from sandbox.profile.model import Limits

__all__ = ["Change", "Stats", "changes", "parse", "refused"]


@dataclass(frozen=True, slots=True)
class Stats:
    """What a running sandbox uses, with everything in it. Seconds since it was made, bytes and counts;
    None where nothing on this machine counts it. `pressure_*` is how long something in it had to wait."""

    cpu: float | None = None
    cpu_user: float | None = None
    cpu_system: float | None = None
    #: how long it had to wait for limits.cpus
    cpu_throttled: float | None = None
    memory: int | None = None
    memory_peak: int | None = None
    swap: int | None = None
    #: processes and threads
    pids: int | None = None
    pids_peak: int | None = None
    io_read: int | None = None
    io_written: int | None = None
    io_reads: int | None = None
    io_writes: int | None = None
    pressure_cpu: float | None = None
    pressure_memory: float | None = None
    pressure_io: float | None = None
    frozen: bool = False

    @classmethod
    def of(cls, event: Mapping[str, Any]) -> Stats:
        return cls(**{name: event[name] for name in cls.__dataclass_fields__ if name in event})


class Change(NamedTuple):
    """One file to write; `value` is what the limit is then, as in a plan (-1: none)."""

    limit: str
    value: int
    file: str
    text: str


def changes(limits: Limits, values: Mapping[str, object], enforced: Mapping[str, str]) -> list[Change]:
    """What is to be written for new *values* of limits by name, "256M" or a number; None takes one away.

    Raises:
        ProfileError: a value is wrong.
        RequirementError: a limit that can't be changed.
    """
    found = []
    for name, value in values.items():
        parsed = parse(name, value)
        mechanism = enforced.get(name, CGROUP)
        number = -1 if parsed is None or isinstance(parsed, str) else _number(name, parsed)
        if name == "cpu_time" and name not in enforced:
            raise RequirementError(
                "limits.cpu_time can't be set while the sandbox runs: it had none from the beginning",
                "give Sandbox() one, which can be changed then",
            )
        if name == "cpu_time" or (name == "memory" and mechanism.startswith(BEST_EFFORT)):
            found.append(Change(name, number, "", ""))  # it is we who look
        elif mechanism != CGROUP:
            raise RequirementError(
                f"limits.{name} can't be changed while the sandbox runs: it is held by {mechanism}",
                "sandbox doctor   (says why there is no cgroup)",
            )
        else:
            setting = cgroup.setting(name, parsed)
            found.append(Change(name, number, setting.file, setting.value))
        if name == "memory" and found[-1].file and limits.swap is None and "swap" not in values:
            swap = "max" if parsed is None else "0"
            found.append(Change("swap", -1, "memory.swap.max", swap))
    return found


def parse(name: str, value: object) -> Any:
    """The value of a limit that can be changed, as `Limits` has it; None: no limit.

    Raises as `changes`.
    """
    from sandbox.profile.kinds import Wrong
    from sandbox.profile.settings import BY_KEY

    if name not in (*cgroup.LIVE, "cpu_time"):
        known = ", ".join((*cgroup.LIVE, "cpu_time"))
        if f"limits.{name}" not in BY_KEY:
            raise ProfileError(f"there is no limit {name!r} that could be changed", f"one of {known}")
        raise RequirementError(f"limits.{name} can't be changed while the sandbox runs", f"one of {known}")
    try:
        return None if value is None else BY_KEY[f"limits.{name}"].kind.parse(value)
    except Wrong as error:
        raise ProfileError(f"argument {name}: {error}") from error


def _number(name: str, value: float) -> int:
    """As `sandbox.plan.limits` puts it into the plan."""
    scale = {"cpu_time": 1_000_000_000, "cpus": 1000}.get(name, 1)
    return round(value * scale)


def refused(change: Change, number: int) -> RequirementError:
    """The exception for a *change* that was answered with this error."""
    why, mend = os.strerror(number), None
    if number == errno.EOPNOTSUPP:
        why, mend = "the sandbox has no cgroup of its own", "sandbox doctor   (says why)"
    elif number == errno.ENOENT:
        why = f"its cgroup lacks the {change.file.partition('.')[0]} controller"
        mend = "sandbox doctor   (says why)"
    elif number == errno.EBUSY and change.limit == "memory":
        why = "more is in use, and not by processes: by files in memory"
    elif number == errno.ENODEV:
        why = "not all of these CPUs are ours to use"
    return RequirementError(f"limits.{change.limit} can't be changed: {why}", mend)
