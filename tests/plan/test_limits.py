"""Limits: each has a mechanism that is named, or is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sandbox.errors import ProfileError, RequirementError
from sandbox.host.model import Cgroup
from sandbox.kernel import RLIMITS
from sandbox.plan import limits
from sandbox.plan.plan import BEST_EFFORT, Plan
from sandbox.profile.model import Limits, Origin, Process, Profile, Root
from sandbox.wire import Kind
from tests.plan.making import HOST, call, numbers, place, plan_of, records

M = 1 << 20


def rlimits(plan: Plan) -> dict[str, list[int]]:
    names = {number: name for name, number in RLIMITS.items()}
    return {names[n]: rest for n, *rest in (numbers(fields) for fields in records(plan, Kind.RLIMIT))}


@pytest.mark.parametrize(
    ("asked", "name", "value", "mechanism"),
    [
        (Limits(timeout=1.5), "timeout", 1_500_000_000, "clock"),
        (Limits(timeout=1e-10), "timeout", 1, "clock"),
        (Limits(pids=9), "pids", 9, "rlimit"),
        (Limits(files=9), "files", 9, "rlimit"),
        (Limits(file_size=M), "file_size", M, "rlimit"),
        (Limits(output=M), "output", M, "pipe"),
        (Limits(disk=M), "disk", M, "tmpfs"),
        (Limits(core=0), "core", 0, "rlimit"),
        (Limits(cpu_time=2), "cpu_time", 2_000_000_000, "best-effort"),
        (Limits(memory=M), "memory", M, "best-effort"),
    ],
)
def test_mechanism_is_named(asked: Limits, name: str, value: int, mechanism: str) -> None:
    plan = plan_of(Profile(limits=asked))
    assert plan.enforced[name].split(":")[0] == mechanism
    if mechanism == "best-effort":
        assert len(plan.enforced[name]) > len(BEST_EFFORT) + 10  # the gap is said
    [(encoded_name, encoded_value, encoded_mechanism)] = records(plan, Kind.LIMIT)
    assert (encoded_name.decode(), encoded_mechanism.decode()) == (name, plan.enforced[name])
    assert numbers([encoded_value]) == [value]


def test_no_limit_no_record() -> None:
    plan = plan_of()
    assert plan.limits == () and records(plan, Kind.RLIMIT) == [] and records(plan, Kind.NPROC) == []
    assert numbers(records(plan, Kind.POOL)[0]) == [0, 0]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (Limits(cpu_time=0.2), {"cpu": [2, 3]}),
        (Limits(cpu_time=2.5), {"cpu": [5, 6]}),
        (Limits(memory=64 * M), {"data": [320 * M, 320 * M]}),
        (Limits(file_size=M), {"fsize": [M, M]}),
        (Limits(files=32), {"nofile": [32, 32]}),
        (Limits(core=0), {"core": [1, 1]}),  # 0 would let a core handler of the host run
        (Limits(core=M), {"core": [M, M]}),
    ],
)
def test_resource_limits(asked: Limits, expected: dict[str, list[int]]) -> None:
    assert rlimits(plan_of(Profile(limits=asked))) == expected


def test_a_limit_is_lowered_to_the_callers_own() -> None:
    plan = plan_of(Profile(limits=Limits(files=4096)), call(hard_limits={RLIMITS["nofile"]: 256}))
    assert rlimits(plan) == {"nofile": [256, 256]}


def test_the_largest_memory_limit_is_a_limit() -> None:
    assert rlimits(plan_of(Profile(limits=Limits(memory=(1 << 63) - 1))))["data"] == [(1 << 63) - 1] * 2


def test_a_hard_core_limit_of_zero_is_no_limit() -> None:
    """With 0, a piped core handler still runs on the host (core(5))."""
    (held,) = limits.limits(Profile(limits=Limits(core=0)), HOST, (), {4: 0})
    assert held.mechanism.startswith("best-effort: ")
    (held,) = limits.limits(Profile(limits=Limits(core=0)), HOST, (), {4: 1})
    assert held.mechanism == "rlimit"


@pytest.mark.parametrize(
    ("core", "handler", "held"),
    [(0, "", True), (0, "|", True), (0, "@", False), (M, "", True), (M, "|", False), (M, "@", False)],
)
def test_a_core_handler_is_held_by_a_limit_of_zero_when_it_is_a_pipe(
    core: int, handler: str, held: bool
) -> None:
    """Dumps of any size go through a pipe, and to a socket whatever the limit (fs/coredump.c)."""
    host = replace(HOST, core_handler=handler)
    asked = Profile(limits=Limits(core=core))
    assert (plan_of(asked, host=host).enforced["core"] == "rlimit") == held
    required = replace(asked, require=("core",))
    if held:
        plan_of(required, host=host)
    else:
        with pytest.raises(RequirementError, match=r"kernel\.core_pattern") as error:
            plan_of(required, host=host)
        assert "sysctl kernel.core_pattern=core" in (error.value.mend or "")


def test_named_resource_limits() -> None:
    profile = Profile(process=Process(rlimits={"stack": (M, -1), "nofile": (7, 9)}), limits=Limits(files=99))
    assert rlimits(plan_of(profile)) == {"stack": [M, -1], "nofile": [7, 9]}
    own = call(hard_limits={RLIMITS["stack"]: M})
    with pytest.raises(RequirementError, match=f"hard limit, {M}"):
        plan_of(profile, own)
    with pytest.raises(ProfileError, match="no resource limit swap"):
        plan_of(Profile(process=Process(rlimits={"swap": (1, 1)})))


def test_pids_are_a_cap_on_the_sandbox() -> None:
    plan = plan_of(Profile(limits=Limits(pids=20)))
    assert numbers(records(plan, Kind.NPROC)[0]) == [20]
    assert len(records(plan, Kind.PIDS_PEAK)) == 1


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (Limits(disk=64 * M), 64 * M),
        (Limits(memory=32 * M), 32 * M),  # its pages are memory
        (Limits(disk=64 * M, memory=32 * M), 64 * M),
    ],
)
def test_size_of_the_pool(asked: Limits, expected: int) -> None:
    [size, inodes] = numbers(records(plan_of(Profile(limits=asked)), Kind.POOL)[0])
    assert size == expected
    assert inodes == expected // 4096


def test_a_tmpfs_with_a_size_has_a_number_of_inodes() -> None:
    plan = plan_of(invocation=call([place("/s", "tmpfs", size=M)]))
    [operation] = [each for each in plan.operations if each.dst == "/s"]
    assert (operation.size, operation.inodes) == (M, 1024)  # type: ignore[attr-defined]
    assert limits.inodes(0) == 0


def test_disk_names_what_is_the_hosts() -> None:
    profile = Profile(limits=Limits(disk=M))
    one = plan_of(profile, call([place("/w", "rw")]))
    assert one.enforced["disk"] == "tmpfs (not /w, which is the host's)"
    two = plan_of(profile, call([place("/w", "rw"), place("/v", "rw"), place("/r", "ro")]))
    assert two.enforced["disk"] == "tmpfs (not /v, /w, which are the host's)"


@pytest.mark.parametrize("root", [Root("dir:/r", writable="disk"), Root(writable="disk")])
def test_disk_limit_on_a_disk_is_refused(root: Root) -> None:
    places = [] if root.source.startswith("dir:") else [place("/o", "overlay")]
    invocation = call(places, root="/r" if root.source.startswith("dir:") else "")
    with pytest.raises(RequirementError, match="can't be held"):
        plan_of(Profile(root=root, limits=Limits(disk=M)), invocation)
    assert plan_of(Profile(root=root), invocation).needs_scratch


@pytest.mark.parametrize("name", ["memory_high", "swap", "cpus", "cpu_weight", "io"])
def test_what_only_a_cgroup_holds_is_refused_without(name: str) -> None:
    value = {"io": {"/srv": {"rbps": 1}}}.get(name, 1)
    origins = {f"limits.{name}": Origin("p.toml", 4)}
    profile = Profile(limits=Limits(**{name: value}), origins=origins)  # type: ignore[arg-type]
    with pytest.raises(RequirementError, match=rf"p.toml:4: limits.{name} can't be held") as caught:
        plan_of(profile)
    assert caught.value.mend == f"remove limits.{name}"
    reasons = Cgroup(reason="nobody delegates", mend="delegate!")
    with pytest.raises(RequirementError, match="nobody delegates") as caught:
        plan_of(profile, host=replace(HOST, cgroup=reasons))
    assert caught.value.mend == "delegate!"


def test_a_cpuset_without_a_cgroup_is_best_effort() -> None:
    plan = plan_of(Profile(limits=Limits(cpuset="3,1-2")))
    assert plan.enforced["cpuset"].startswith(BEST_EFFORT)
    assert records(plan, Kind.AFFINITY) == [(b"1-3",)]
    with pytest.raises(RequirementError, match="a cpuset cgroup is missing"):
        plan_of(Profile(limits=Limits(cpuset="1", enforce="kernel")))


@pytest.mark.parametrize("name", ["memory", "cpu_time"])
def test_best_effort_is_refused_when_more_is_asked_for(name: str) -> None:
    asked = {name: 5 * M}
    with pytest.raises(RequirementError, match=f"limits.{name}.*cgroup is missing") as caught:
        plan_of(Profile(limits=Limits(**asked, enforce="kernel")))  # type: ignore[arg-type]
    assert caught.value.mend == 'limits.enforce = "any"'
    with pytest.raises(RequirementError, match="is required to be held by the kernel"):
        plan_of(Profile(limits=Limits(**asked), require=(name,)))  # type: ignore[arg-type]


def test_what_the_kernel_holds_may_be_required() -> None:
    asked = Limits(pids=5, disk=M, timeout=1, output=M, files=9, core=0, enforce="kernel")
    plan = plan_of(Profile(limits=asked, require=("pids", "disk", "timeout", "net")))
    assert not any(mechanism.startswith(BEST_EFFORT) for mechanism in plan.enforced.values())


def test_a_required_limit_must_be_set() -> None:
    with pytest.raises(ProfileError, match=r"limits\.pids is required but not set"):
        plan_of(Profile(require=("pids",)))


def test_without_seccomp_the_gaps_are_larger() -> None:
    plan = plan_of(Profile(limits=Limits(memory=M, core=0), process=Process(seccomp="off")))
    assert "memfd_create" in plan.enforced["memory"]
    assert plan.enforced["core"].startswith(BEST_EFFORT)


@pytest.mark.parametrize(
    ("process", "gap"),
    [
        (Process(), False),
        (Process(nested=True), True),
        (Process(seccomp="off", capabilities=("SYS_ADMIN", "SYS_RESOURCE")), True),
        (Process(capabilities=("SYS_ADMIN", "SYS_RESOURCE")), False),
        (Process(seccomp="off", capabilities=("SYS_ADMIN",)), False),
    ],
)
def test_what_a_payload_mounts_for_itself_is_not_held(process: Process, gap: bool) -> None:
    """A tmpfs of its own has any size, and only a cgroup counts it."""
    profile = Profile(limits=Limits(disk=M, memory=M), process=process)
    enforced = plan_of(profile).enforced
    assert ("mounts for itself" in enforced["disk"]) == gap
    assert ("mounts for itself" in enforced["memory"]) == gap
    if gap:
        with pytest.raises(RequirementError, match=r"limits\.disk is required") as error:
            plan_of(replace(profile, require=("disk",)))
        assert error.value.mend == "process.nested = false"


def test_what_is_counted_for_the_user_is_shared() -> None:
    limits = {RLIMITS["sigpending"]: 1600, RLIMITS["msgqueue"]: 400}
    host = replace(HOST, inotify=(128, 1000))
    plan = plan_of(Profile(), call(hard_limits=limits), host=host)
    assert rlimits(plan) == {"sigpending": [100, 100], "msgqueue": [100, 100]}
    sysctls = {name.decode(): value.decode() for name, value in records(plan, Kind.SYSCTL)}
    assert sysctls["user/max_inotify_instances"] == "32"
    assert sysctls["user/max_inotify_watches"] == "500"
    asked = Profile(process=Process(rlimits={"sigpending": (1600, 1600)}))
    assert rlimits(plan_of(asked, call(hard_limits=limits)))["sigpending"] == [1600, 1600]
