"""What can be known of a sandbox while it runs, and changed: with and without a cgroup of its own.

As root on a hybrid host that cgroup is in a v2 tree without controllers; as a plain user there is none.
What takes controllers is in tests/vm.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import sandbox
from sandbox.host.delegation import Machine
from tests.support.needs import need
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("here")]

PYTHON = "/usr/bin/python3"
M = 1 << 20
CPUS = sorted(os.sched_getaffinity(0))


@pytest.fixture
def tree() -> Iterator[Path]:
    """A cgroup of the test's own without controllers, which is to be empty at the end."""
    need("root")
    machine = Machine.look()
    if machine.kind != "hybrid":
        pytest.skip("only where cgroup v1 holds the controllers")
    path = Path(machine.mount, f"test-{os.getpid()}-{os.urandom(4).hex()}")
    path.mkdir()
    try:
        yield path
        assert [entry.name for entry in path.iterdir() if entry.is_dir()] == []
    finally:
        for top, names, _ in os.walk(path, topdown=False):
            for name in names:
                os.rmdir(os.path.join(top, name))
        path.rmdir()


# --- a v2 tree without controllers ------------------------------------------------------------------


@pytest.mark.as_root
def test_what_such_a_tree_holds_and_what_not(tree: Path) -> None:
    result = sandbox.run(["true"], memory="64M", pids=20, cpu_time=5, cgroup_parent=str(tree))
    assert result.enforced["cpu_time"] == "cgroup"
    assert result.enforced["memory"].startswith("best-effort: polled")
    assert result.enforced["pids"] == "rlimit"
    for limits in ({"memory": "64M", "require": ["memory"]}, {"cpus": 0.5}, {"io": {"/": {"wbps": "1M"}}}):
        with pytest.raises(sandbox.RequirementError, match="cgroup v1 holds the controllers") as caught:
            sandbox.run(["true"], cgroup_parent=str(tree), **limits)
        assert "systemd.unified_cgroup_hierarchy=1" in (caught.value.mend or "")


@pytest.mark.as_root
def test_time_is_that_of_all_processes_and_waiting_is_counted(tree: Path) -> None:
    burn = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done"
    several = " ".join(map(str, range(2 * len(CPUS) + 1)))  # at once, and waited for by nobody of theirs
    script = f"for n in {several}; do (setsid sh -c '{burn}' &); done; sleep 1"
    result = sandbox.run(["sh", "-c", script], cgroup_parent=str(tree))
    assert result.usage.cpu_user > 0.02
    if (tree / "cpu.pressure").exists():
        assert result.usage.pressure_cpu is not None and result.usage.pressure_cpu > 0
        assert result.usage.pressure_memory is not None


@pytest.mark.as_root
def test_frozen_it_stands_still_and_says_so(tree: Path) -> None:
    with sandbox.Sandbox(cgroup_parent=str(tree)) as sb:
        process = sb.popen([PYTHON, "-c", "while True: pass"])
        wait_until(lambda: (sb.stats().cpu or 0) > 0.05)
        sb.freeze()
        sb.freeze()  # again is no error
        first, second = sb.stats(), sb.stats()
        assert first.frozen and second.cpu == first.cpu
        events = (next(path for path in tree.iterdir() if path.is_dir()) / "cgroup.events").read_text()
        assert "frozen 1" in events
        for act in (
            lambda: sb.run(["true"]),
            lambda: sb.read_file("/tmp/x"),
            lambda: sb.write_file("/tmp/x", ""),
        ):
            with pytest.raises(sandbox.SetupError, match="is frozen") as caught:
                act()
            assert caught.value.mend == "call thaw() first"
        sb.thaw()
        wait_until(lambda: (sb.stats().cpu or 0) > (first.cpu or 0) + 0.02)
        assert sb.run(["true"]).verdict == "ok"
        process.kill()
        process.wait(60)


@pytest.mark.as_root
def test_frozen_it_can_be_ended(tree: Path) -> None:
    sb = sandbox.Sandbox(cgroup_parent=str(tree))
    process = sb.popen(["sleep", "600"])
    sb.freeze()
    sb.close()
    process.wait(60)
    assert process.result is not None and process.result.verdict == "killed"


@pytest.mark.as_root
def test_without_the_controller_a_limit_cannot_be_set(tree: Path) -> None:
    with sandbox.Sandbox(cgroup_parent=str(tree)) as sb:
        for limits in ({"cpus": 0.5}, {"cpu_weight": 20}, {"cpuset": "0"}, {"memory_high": "8M"}):
            with pytest.raises(sandbox.RequirementError, match="its cgroup lacks the"):
                sb.set_limits(**limits)


# --- without a cgroup ---------------------------------------------------------------------------------


def test_without_a_cgroup_it_cannot_be_frozen() -> None:
    with sandbox.Sandbox(cgroup_parent="none") as sb:
        for act in (sb.freeze, sb.thaw):
            with pytest.raises(sandbox.RequirementError, match="has no cgroup of its own"):
                act()
        assert sb.run(["true"]).verdict == "ok"


def test_what_is_polled_can_be_changed() -> None:
    hog = [PYTHON, "-c", "x = bytearray(96 << 20); import time; time.sleep(1)"]
    with sandbox.Sandbox(memory="40M", cpu_time=60, cgroup_parent="none") as sb:
        assert sb.run(hog).verdict == "memory"
        sb.set_limits(memory="256M")
        assert sb.run(hog).verdict == "ok"
        sb.set_limits(memory=None)
        assert "memory" not in sb.enforced and sb.run(hog).verdict == "ok"
        sb.set_limits(memory="40M", cpu_time=30)
        assert sb.enforced["memory"].startswith("best-effort") and sb.run(hog).verdict == "memory"


@pytest.mark.parametrize(
    ("limits", "kind", "why"),
    [
        ({"memory": -1}, sandbox.ProfileError, "can't be negative"),
        ({"memory": "much"}, sandbox.ProfileError, "is not a size"),
        ({"memory": 1 << 80}, sandbox.ProfileError, "more than the largest size"),
        ({"memory": True}, sandbox.ProfileError, "not true or false"),
        ({"pids": 0}, sandbox.ProfileError, "pids"),
        ({"cpus": "many"}, sandbox.ProfileError, "cpus"),
        ({"cpuset": "3-1"}, sandbox.ProfileError, "ends before it begins"),
        ({"timeout": 5}, sandbox.RequirementError, "timeout can't be changed"),
        ({"disk": "1M"}, sandbox.RequirementError, "disk can't be changed"),
        ({"cpu_time": 5}, sandbox.RequirementError, "it had none from the beginning"),
        ({"pids": 50}, sandbox.RequirementError, "it is held by rlimit"),
        ({"cpus": 1}, sandbox.RequirementError, "the sandbox has no cgroup of its own"),
        ({"nosuch": 1}, sandbox.ProfileError, "there is no limit 'nosuch'"),
    ],
)
def test_what_cannot_be_changed(limits: dict[str, object], kind: type[Exception], why: str) -> None:
    with sandbox.Sandbox(memory="64M", pids=30, cgroup_parent="none") as sb:
        before = dict(sb.enforced)
        with pytest.raises(kind, match=why):
            sb.set_limits(memory="32M", **limits) if "memory" not in limits else sb.set_limits(**limits)
        assert dict(sb.enforced) == before
        assert sb.run([PYTHON, "-c", "x = bytearray(45 << 20)"]).hit == ()


def test_statistics_and_a_stream_of_them() -> None:
    with sandbox.Sandbox(cgroup_parent="none") as sb:
        process = sb.popen(["sleep", "600"])
        wait_until(lambda: (sb.stats().pids or 0) == 1)
        seen = [stats for stats, _ in zip(sb.watch(0.01), range(3), strict=False)]
        assert len(seen) == 3 and all(each.memory for each in seen)
        stream = sb.watch(0.01)
        next(stream)
        sb.close()
        assert list(stream) == []
        process.wait(60)
    with pytest.raises(sandbox.SetupError, match="closed"):
        sb.stats()


@pytest.mark.parametrize("interval", [0, -1.0, float("nan")])
def test_no_stream_without_a_pause(interval: float) -> None:
    with sandbox.Sandbox() as sb, pytest.raises(ValueError, match="more than 0 seconds"):
        sb.watch(interval)


# --- CPUs, where nothing but sched_setaffinity(2) holds them ------------------------------------------


def test_a_cpuset_is_where_it_runs() -> None:
    """What it may undo: said in `enforced`."""
    code = "import os; print(sorted(os.sched_getaffinity(0)))"
    result = sandbox.run([PYTHON, "-c", code], cpuset=str(CPUS[-1]), cgroup_parent="none", text=True)
    assert result.stdout == f"[{CPUS[-1]}]\n", result.stderr
    assert "sched_setaffinity(2), which the command may undo" in result.enforced["cpuset"]


def test_a_cpuset_that_is_not_there() -> None:
    for cpus in (f"0,{CPUS[-1] + 500}", str(CPUS[-1] + 500)):
        with pytest.raises(sandbox.SetupError, match="CPUs"):
            sandbox.run(["true"], cpuset=cpus, cgroup_parent="none")
