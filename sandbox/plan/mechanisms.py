"""The rows of `doctor` about limits: by which mechanism each would be held on this machine.

What a launch would do is asked of the code that does it (`sandbox.plan.limits`), with an example of every
limit, so that the answer can't differ. Nothing is tried here: that the cgroup of *host* can be had was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sandbox import cgroup
from sandbox.errors import RequirementError
from sandbox.host.model import Check, Host
from sandbox.plan import cgroups
from sandbox.plan.limits import limits
from sandbox.plan.plan import BEST_EFFORT
from sandbox.profile.model import Limits, Origin, Process, Profile

__all__ = ["rows"]

#: one of each, by name, with a value that every machine takes
_EXAMPLES: Mapping[str, object] = {
    "memory": 1 << 30,
    "memory_high": 1 << 30,
    "swap": 0,
    "pids": 100,
    "cpus": 1.0,
    "cpu_weight": 100,
    "cpu_time": 60.0,
    "cpuset": "0",
    "io": {"/": {"wbps": 1 << 20}},
    "timeout": 60.0,
    "disk": 1 << 20,
    "output": 1 << 20,
    "files": 100,
    "file_size": 1 << 20,
    "core": 0,
}

#: what has a row of its own, with what is held alike; the last row has the rest
_GROUPS = (
    ("memory", "memory_high", "swap"),
    ("pids",),
    ("cpus", "cpu_weight"),
    ("cpu_time",),
    ("cpuset",),
    ("io",),
)

_HARD_CORE_MEND = (
    "start it from a session whose hard limit on core files is not 0 (`ulimit -Hc` shows it; limits.conf(5))"
)


def rows(host: Host, hard_limits: Mapping[int, int]) -> tuple[Check, ...]:
    """A row for each group of limits. *hard_limits* are the caller's own, by the number of the resource."""
    found = {name: _mechanism(name, host, hard_limits) for name in _EXAMPLES}
    grouped = {name for group in _GROUPS for name in group}
    rest = tuple(name for name in _EXAMPLES if name not in grouped)
    first = [_row(f"limits.{group[0]}", group, found, host) for group in _GROUPS]
    return (*first, _row("limits", rest, found, host))


def _mechanism(name: str, host: Host, hard_limits: Mapping[int, int]) -> str:
    """As in `Plan.enforced`; "" when nothing can hold it."""
    profile = Profile(
        process=Process(seccomp="default"),
        limits=Limits(**{name: _EXAMPLES[name]}),  # type: ignore[arg-type]
        origins={f"limits.{name}": Origin("doctor")},
    )
    try:
        [limit] = limits(profile, host, (), hard_limits)
    except RequirementError:
        return ""
    return limit.mechanism


def _row(title: str, names: Sequence[str], found: Mapping[str, str], host: Host) -> Check:
    lacking = [name for name in names if not found[name] or found[name].startswith(BEST_EFFORT)]
    by_mechanism: dict[str, list[str]] = {}
    for name in names:
        by_mechanism.setdefault(found[name] or "nothing", []).append(name)
    if len(by_mechanism) == 1:
        detail = f"by {found[names[0]] or 'nothing'}"
    else:
        detail = "; ".join(f"{', '.join(each)} by {how}" for how, each in by_mechanism.items())
    mend = ""
    if lacking and lacking[0] in cgroup.CONTROLLER:
        reason, mend = cgroups.missing(lacking[0], host)
        detail += f" ({reason})"
    elif lacking:  # core: nothing else is best-effort without a cgroup being the mend
        ours = "hard limit" in found[lacking[0]]
        mend = _HARD_CORE_MEND if ours else "sudo sysctl kernel.core_pattern=core"
    return Check(title, not lacking, False, detail, _consequence(names, found), mend)


def _consequence(names: Sequence[str], found: Mapping[str, str]) -> str:
    """Whether or not it is so here: see `Check`."""
    refused = [name for name in names if not found[name]]
    weak = [name for name in names if found[name].startswith(BEST_EFFORT)]
    parts = []
    if weak or not refused:
        text = ", ".join(weak or names)
        parts.append(f'with `limits.enforce = "kernel"`, or named in `require`, {text} would be refused')
    if refused:
        parts.append(f"a profile that sets {' or '.join(refused)} is refused")
    return "; ".join(parts)
