"""`doctor`'s rows about limits say what a launch would do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sandbox.errors import RequirementError
from sandbox.host.model import Cgroup, Check, Host
from sandbox.kernel import RLIMITS
from sandbox.plan import mechanisms
from sandbox.profile.model import Limits, Profile
from tests.plan.making import CALL, HOST, plan_of

DROP_IN = "the drop-in"
PART = Cgroup(
    "systemd", "/run/user/1000/bus", "/sys/fs/cgroup", ("memory", "pids", "cpu"), "io is missing", DROP_IN
)
ALL = replace(PART, controllers=("memory", "pids", "cpu", "io", "cpuset"), reason="", mend="")
NONE = Cgroup(reason="cgroup v1 only", mend="boot anew")


def found(place: Cgroup, hard: dict[int, int] | None = None, **host: object) -> dict[str, Check]:
    machine = replace(HOST, cgroup=place, **host)  # type: ignore[arg-type]
    return {row.name: row for row in mechanisms.rows(machine, hard or {})}


def test_where_all_is_delegated() -> None:
    rows = found(ALL)
    assert all(row.ok and not row.mend for row in rows.values())
    assert {name for name, row in rows.items() if row.detail == "by cgroup"} == {
        *("limits.memory", "limits.pids", "limits.cpus", "limits.cpuset", "limits.io", "limits.cpu_time")
    }
    assert rows["limits"].detail == (
        "timeout by clock; disk by tmpfs; output by pipe; files, file_size, core by rlimit"
    )


def test_what_systemd_does_not_delegate() -> None:
    rows = found(PART)
    assert rows["limits.memory"].ok and rows["limits.cpus"].ok
    assert not rows["limits.io"].ok and not rows["limits.cpuset"].ok
    assert rows["limits.io"].detail == "by nothing (io is missing)" and rows["limits.io"].mend == DROP_IN
    assert rows["limits.io"].consequence == "a profile that sets io is refused"
    assert rows["limits.cpuset"].detail.startswith("by best-effort: sched_setaffinity(2)")
    assert '`limits.enforce = "kernel"`' in rows["limits.cpuset"].consequence


def test_where_there_is_no_cgroup() -> None:
    rows = found(NONE)
    assert {name for name, row in rows.items() if row.ok} == {"limits.pids", "limits"}
    assert rows["limits.pids"].detail == "by rlimit"
    memory = rows["limits.memory"]
    assert (
        "memory by best-effort: polled" in memory.detail and "memory_high, swap by nothing" in memory.detail
    )
    assert "cgroup v1 only" in memory.detail and memory.mend == "boot anew"
    assert "memory would be refused" in memory.consequence
    assert "sets memory_high or swap is refused" in memory.consequence


def test_a_core_handler_that_no_limit_holds() -> None:
    row = found(ALL, core_handler="@")["limits"]
    assert not row.ok and "core by best-effort" in row.detail and row.mend.endswith("core_pattern=core")


def test_a_core_limit_that_the_caller_can_not_set() -> None:
    """No sysctl mends that."""
    row = found(ALL, {RLIMITS["core"]: 0})["limits"]
    assert not row.ok and "core by best-effort: the caller's own hard limit is 0" in row.detail
    assert "ulimit -Hc" in row.mend and "sysctl" not in row.mend


@pytest.mark.parametrize("place", [ALL, PART, NONE], ids=["all", "part", "none"])
def test_a_launch_does_as_is_said(place: Cgroup) -> None:
    """What is said to be held by X is; what is said to be refused is."""
    host: Host = replace(HOST, cgroup=place)
    rows = found(place)
    for title, group in zip(
        rows, [*mechanisms._GROUPS, ("timeout", "disk", "output", "files", "file_size", "core")], strict=True
    ):
        for name in group:
            profile = Profile(limits=Limits(**{name: mechanisms._EXAMPLES[name]}))  # type: ignore[arg-type]
            try:
                enforced = plan_of(profile, replace(CALL, disks={"/": "8:0"}), host).enforced[name]
            except RequirementError:
                enforced = "nothing"
            assert f"by {enforced}" in rows[title].detail
