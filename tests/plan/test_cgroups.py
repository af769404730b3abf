"""Which limits a cgroup holds, when there is to be one, and what goes into the plan for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sandbox import paths
from sandbox.errors import RequirementError
from sandbox.host.model import Cgroup
from sandbox.plan import cgroups, limits
from sandbox.plan.plan import Plan
from sandbox.profile.model import Limits, Origin, Process, Profile
from sandbox.wire import CgroupFlag, Kind, Mount
from tests.plan.making import HOST, call, numbers, plan_of, records

M = 1 << 20
ALL = ("memory", "pids", "cpu", "io", "cpuset")
TOP = "/sys/fs/cgroup"
DIRECTORY = Cgroup("inside", f"{TOP}/mine", TOP, ALL, own="/mine/shell")
SYSTEMD = Cgroup("systemd", "/run/user/1000/bus", TOP, ("memory", "pids", "cpu"))
WITHOUT = Cgroup("root", f"{TOP}/unified", f"{TOP}/unified", (), "hybrid", "boot otherwise")


def plan_on(place: Cgroup, asked: Limits | None = None, **more: object) -> Plan:
    disks = {"/srv": "8:16"}
    profile = Profile(limits=asked or Limits(), **more)  # type: ignore[arg-type]
    return plan_of(profile, call(disks=disks), replace(HOST, cgroup=place))


def written(plan: Plan) -> dict[str, str]:
    return {file.decode(): value.decode() for file, value, _ in records(plan, Kind.CGROUP_SET)}


def test_everything_by_cgroup() -> None:
    asked = Limits(
        memory=256 * M,
        memory_high=200 * M,
        swap=0,
        pids=64,
        cpus=1.5,
        cpu_weight=50,
        cpuset="0,1",
        io={"/srv": {"rbps": M}},
        cpu_time=2,
        timeout=1,
        enforce="kernel",
    )
    plan = plan_on(DIRECTORY, asked)
    assert {name for name, how in plan.enforced.items() if how == "cgroup"} == set(ENFORCED)
    assert plan.enforced["timeout"] == "clock"
    assert written(plan) == {
        "memory.max": str(256 * M),
        "memory.high": str(200 * M),
        "memory.swap.max": "0",
        "pids.max": "65",
        "cpu.max": "150000 100000",
        "cpu.weight": "50",
        "cpuset.cpus": "0-1",
        "io.max": f"8:16 rbps={M}",
    }
    [(way, place, mount, flags)] = records(plan, Kind.CGROUP)
    assert (way, place, mount) == (b"directory", b"/sys/fs/cgroup/mine", b"/sys/fs/cgroup")
    assert numbers([flags]) == [0]
    # None of the stand-ins: they would hit first, and tell less.
    assert records(plan, Kind.NPROC) == records(plan, Kind.PIDS_PEAK) == records(plan, Kind.AFFINITY) == []
    names = {number: name for name, number in limits.RLIMITS.items()}
    assert {names[numbers(each)[0]] for each in records(plan, Kind.RLIMIT)} == {"cpu"}
    lines = plan.describe()
    assert "limit cpus to 1.5 (cgroup)" in lines and "limit cpuset to 0,1 (cgroup)" in lines
    assert any(line.startswith("limit io to /srv rbps=") for line in lines)


ENFORCED = ("memory", "memory_high", "swap", "pids", "cpus", "cpu_weight", "cpuset", "io", "cpu_time")


def test_systemd_is_asked_by_its_bus_for_what_it_delegates() -> None:
    plan = plan_on(SYSTEMD, Limits(memory=M, cpuset="0"))
    [(way, place, _, _)] = records(plan, Kind.CGROUP)
    assert (way, place) == (b"bus", b"/run/user/1000/bus")
    assert plan.enforced["memory"] == "cgroup" and plan.enforced["cpuset"].startswith("best-effort")


def test_systemd_is_not_asked_for_nothing() -> None:
    assert records(plan_on(SYSTEMD), Kind.CGROUP) == []
    assert records(plan_on(SYSTEMD, Limits(timeout=1, disk=M, core=0)), Kind.CGROUP) == []


def test_the_ceiling_that_every_sandbox_has_is_no_reason_to_ask_it() -> None:
    ceiling = {"limits.pids": Origin(f"{paths.configs()}/base.toml", 5)}
    plan = plan_on(SYSTEMD, Limits(pids=4096), origins=ceiling)
    assert plan.enforced["pids"] == "rlimit" and records(plan, Kind.CGROUP) == []
    assert plan_on(SYSTEMD, Limits(pids=4096, cpus=1), origins=ceiling).enforced["pids"] == "cgroup"
    assert plan_on(SYSTEMD, Limits(pids=4096)).enforced["pids"] == "cgroup"
    assert plan_on(DIRECTORY, Limits(pids=4096), origins=ceiling).enforced["pids"] == "cgroup"


def test_a_tree_without_controllers_is_used_for_what_it_has() -> None:
    plan = plan_on(WITHOUT, Limits(memory=M, pids=5, cpu_time=1))
    assert plan.enforced["cpu_time"] == "cgroup"
    assert plan.enforced["memory"].startswith("best-effort") and plan.enforced["pids"] == "rlimit"
    assert len(records(plan, Kind.CGROUP)) == 1 and written(plan) == {}
    assert len(records(plan_on(WITHOUT), Kind.CGROUP)) == 1
    with pytest.raises(RequirementError, match=r"a memory cgroup is missing \(hybrid\)") as caught:
        plan_on(WITHOUT, Limits(memory=M, enforce="kernel"))
    assert caught.value.mend == "boot otherwise"


def test_without_any_there_is_none() -> None:
    plan = plan_of(Profile(limits=Limits(memory=M)))
    assert records(plan, Kind.CGROUP) == records(plan, Kind.CGROUP_SET) == []
    assert not any(each.dst == "/sys/fs/cgroup" for each in plan.operations)


@pytest.mark.parametrize("origin", ["judge.toml", ""])
def test_a_directory_with_a_name_is_used_or_an_error(origin: str) -> None:
    place = Cgroup(reason="it is not ours", mend="sudo chown", named=True)
    origins = {"limits.cgroup_parent": Origin(origin, 3)} if origin else {}
    with pytest.raises(RequirementError, match="it is not ours") as caught:
        plan_on(place, Limits(timeout=1), origins=origins)
    assert caught.value.mend == "sudo chown"
    assert caught.value.message.startswith("judge.toml:3: " if origin else "SANDBOX_CGROUP_PARENT: ")


def test_the_cgroup_is_shown_read_only_unless_nested() -> None:
    for nested in (False, True):
        plan = plan_on(DIRECTORY, process=Process(nested=nested))
        [mount] = [each for each in plan.operations if each.dst == "/sys/fs/cgroup"]
        assert bool(mount.flags & Mount.READONLY) is not nested  # type: ignore[attr-defined]
        [(_, _, _, flags)] = records(plan, Kind.CGROUP)
        assert numbers([flags]) == [int(CgroupFlag.NESTED) if nested else 0]


def test_memory_that_is_counted_may_be_a_memfds() -> None:
    """Without counting, memfd_create(2) is denied where memory is limited."""
    with_it = records(plan_on(DIRECTORY, Limits(memory=M)), Kind.SECCOMP)
    without = records(plan_on(WITHOUT, Limits(memory=M)), Kind.SECCOMP)
    unlimited = records(plan_on(DIRECTORY), Kind.SECCOMP)
    assert with_it == unlimited != without


def test_swap_is_no_way_round_memory() -> None:
    [record] = [
        each
        for each in records(plan_on(DIRECTORY, Limits(memory=M)), Kind.CGROUP_SET)
        if each[0] == b"memory.swap.max"
    ]
    assert record[1] == b"0" and numbers(record[2:]) == [1]  # a kernel without swap has no such file
    swapping = replace(DIRECTORY, swap=True)
    records_ = records(plan_on(swapping, Limits(memory=M)), Kind.CGROUP_SET)
    assert [numbers(each[2:]) for each in records_ if each[0] == b"memory.swap.max"] == [[0]]


def test_held_and_used_agree() -> None:
    for place in (DIRECTORY, SYSTEMD, WITHOUT, Cgroup()):
        host = replace(HOST, cgroup=place)
        for asked in (Limits(), Limits(memory=M), Limits(pids=4), Limits(cpu_time=1)):
            profile = Profile(limits=asked)
            assert cgroups.used(profile, host) >= bool(cgroups.held(profile, host))
