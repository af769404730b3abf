"""Cgroups made by the helper in the machine's own cgroup v2, with whatever controllers that has.

Only children that are made here are touched. What takes controllers is in tests/vm.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.host.delegation import Machine
from sandbox.wire import CgroupFlag, Kind, Mount, encode
from tests.helper import runs

pytestmark = [pytest.mark.integration, pytest.mark.as_root]


@pytest.fixture
def tree(need) -> Iterator[Path]:
    """A cgroup of the test's own, which is to be empty at the end."""
    need("root")
    mount = Machine.look().mount
    if not mount:
        pytest.skip("no cgroup v2 here")
    path = Path(mount, f"test-{os.getpid()}-{os.urandom(4).hex()}")
    path.mkdir()
    try:
        yield path
        left = [entry.name for entry in path.iterdir() if entry.is_dir()]
        assert left == []
    finally:
        for top, names, _ in os.walk(path, topdown=False):
            for name in names:
                os.rmdir(os.path.join(top, name))
        path.rmdir()


def inside(tree: Path, flags: int = 0) -> list:
    mount = Mount.NOSUID | Mount.NODEV | Mount.NOEXEC | Mount.CREATE
    if not flags:
        mount |= Mount.READONLY
    return [
        runs.slot(Kind.CGROUP, "directory", str(tree), str(tree.parent), flags),
        runs.slot(Kind.CGROUP2, "/sys/fs/cgroup", int(mount)),
    ]


def boxes(tree: Path) -> list[Path]:
    return [entry for entry in tree.iterdir() if entry.is_dir()]


def test_a_command_sees_its_own_cgroup_as_the_top(helper, tree):
    script = "cat /proc/self/cgroup /sys/fs/cgroup/cgroup.procs; echo 1 > /sys/fs/cgroup/cgroup.kill"
    ended = runs.run(helper, ["sh", "-c", script], *inside(tree))
    lines = ended.stdout.decode().splitlines()
    assert "0::/" in lines and lines[lines.index("0::/") + 1 :][0] == "1"  # init, in the same one
    assert b"Read-only" in ended.stderr
    assert ended.report["usage"]["cpu_user"] is not None


def test_time_of_processes_that_nobody_waited_for_counts(helper, tree):
    burn = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"
    others = "$(ls -d /proc/[0-9]* | wc -l)"
    script = f"(sh -c '{burn}' &); (sh -c '{burn}' &); while [ {others} -gt 5 ]; do sleep 0.05; done"
    limit = runs.limit("cpu_time", 10**12, "cgroup")
    ended = runs.run(helper, ["sh", "-c", script], limit, *inside(tree))
    usage = ended.report["usage"]
    assert ended.status == 0 and usage["cpu_user"] + usage["cpu_system"] > 0.02


def test_cpu_time_is_a_limit_that_children_share(helper, tree):
    limit = runs.limit("cpu_time", 300_000_000, "cgroup")
    burn = "timeout 0.05 sh -c 'while :; do :; done'"
    script = f"while :; do setsid {burn} & {burn}; done"
    ended = runs.run(helper, ["sh", "-c", script], limit, *inside(tree))
    assert ended.report["verdict"] == "cpu_time" and ended.report["limit"]["mechanism"] == "cgroup"
    assert ended.report["usage"]["cpu_user"] + ended.report["usage"]["cpu_system"] >= 0.3
    assert b"by cgroup" in ended.stderr


def test_frozen_means_frozen_and_its_clock_stands_still(helper, tree):
    with runs.box(helper, *inside(tree)) as box:
        box.event(event="ready")
        box.spawn(1, ["sh", "-c", "while :; do :; done"], timeout=2_000_000_000)
        box.event(event="started", id=1)
        box.request(Kind.FREEZE, 5, 1)
        assert box.event(event="done", id=5)["errno"] == 0
        box.request(Kind.STATS, 6)
        before = box.event(event="stats", id=6)
        assert before["frozen"] is True
        time.sleep(2.2)  # longer than its limit
        box.request(Kind.STATS, 7)
        assert box.event(event="stats", id=7)["cpu"] == before["cpu"]
        box.request(Kind.FREEZE, 8, 0)
        assert box.event(event="done", id=8)["errno"] == 0
        result = box.event(event="result", id=1)
        assert result["verdict"] == "timeout" and result["usage"]["wall"] < 2.2


def test_a_frozen_sandbox_can_be_ended(helper, tree):
    with runs.box(helper, *inside(tree)) as box:
        box.event(event="ready")
        box.spawn(1, ["sleep", "600"])
        box.event(event="started", id=1)
        box.request(Kind.FREEZE, 5, 1)
        box.event(event="done", id=5)
        box.request(Kind.CLOSE)
        assert box.event(event="result", id=1)["verdict"] == "killed"


def test_without_a_cgroup_it_cannot_be_frozen(helper):
    with runs.box(helper) as box:
        box.event(event="ready")
        box.request(Kind.FREEZE, 5, 1)
        assert box.event(event="done", id=5)["errno"] != 0
        box.request(Kind.SET, 6, "memory", 5, "memory.max", "5")
        assert box.event(event="done", id=6)["errno"] != 0
        box.spawn(1, ["sleep", "600"])
        box.event(event="started", id=1)
        box.request(Kind.STATS, 7)
        stats = box.event(event="stats", id=7)
        assert stats["memory"] > 0 and stats["pids"] == 1  # asked of init


@pytest.mark.parametrize(
    "file", ["../cgroup.procs", "run/cgroup.procs", "cgroup.procs", "cgroup.freeze", "/etc/x"]
)
def test_only_limits_can_be_set(helper, tree, file):
    value = "1" if file == "cgroup.freeze" else "0"  # should it be written, the supervisor is what moves
    with runs.box(helper, *inside(tree)) as box:
        box.event(event="ready")
        box.request(Kind.SET, 6, "memory", 5, file, value)
        assert box.event(event="done", id=6)["errno"] != 0


def test_a_dead_supervisors_cgroup_is_removed_by_the_next_and_no_other(helper, tree):
    with runs.box(helper, *inside(tree)) as living:
        living.event(event="ready")
        (kept,) = boxes(tree)
        dead = runs.start(helper, ["sleep", "600"], *inside(tree))
        deadline = time.monotonic() + runs.PATIENCE / 2
        while len(boxes(tree)) < 2 or not (max(boxes(tree), key=lambda p: p != kept) / "run").is_dir():
            assert time.monotonic() < deadline and boxes(tree)
            time.sleep(0.01)
        dead.send_signal(signal.SIGKILL)
        dead.communicate()
        assert len(boxes(tree)) == 2  # nobody was left to do it
        assert runs.run(helper, ["true"], *inside(tree)).status == 0
        assert boxes(tree) == [kept]
        assert living.run(1, ["true"])[1]["verdict"] == "ok"


def test_a_sweep_leaves_what_is_not_ours_or_is_locked(helper, tree):
    other, locked, stale = tree / "other", tree / "sandbox-1-locked", tree / "sandbox-1-stale"
    for path in (other, locked, stale, stale / "run", stale / "run" / "deep"):
        path.mkdir()
    fd = os.open(locked, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        assert runs.run(helper, ["true"], *inside(tree)).status == 0
        assert sorted(boxes(tree)) == [other, locked]
    finally:
        os.close(fd)
        other.rmdir()
        locked.rmdir()


def test_nested_payloads_divide_their_own(helper, tree):
    script = (
        "cat /proc/self/cgroup; mkdir -p /sys/fs/cgroup/a/b && echo made; cat /sys/fs/cgroup/cgroup.max.depth"
    )
    ended = runs.run(helper, ["sh", "-c", script], *inside(tree, int(CgroupFlag.NESTED)))
    lines = ended.stdout.decode().splitlines()
    assert "0::/main" in lines and "made" in lines


def test_a_nested_payload_leaves_nothing_however_it_names_it(helper, tree):
    script = "mkdir -p /sys/fs/cgroup/.a/..b /sys/fs/cgroup/... && echo made"
    ended = runs.run(helper, ["sh", "-c", script], *inside(tree, int(CgroupFlag.NESTED)))
    assert ended.stdout == b"made\n"
    assert boxes(tree) == []


def test_a_nested_payload_cannot_make_too_many(helper, tree):
    script = "i=0; while mkdir /sys/fs/cgroup/$i; do i=$((i+1)); done 2>/dev/null; echo $i"
    ended = runs.run(helper, ["sh", "-c", script], *inside(tree, int(CgroupFlag.NESTED)))
    assert 0 < int(ended.stdout.split()[-1]) <= 1000


def test_a_caller_whose_own_cgroup_was_killed_before(helper, tree):
    """The kernel kills what is cloned from there, unless the other one was killed as often."""
    here = tree / "here"
    here.mkdir()
    for _ in range(3):
        (here / "cgroup.kill").write_text("1")
    ended = runs.run(
        helper, ["true"], *inside(tree), preexec_fn=lambda: (here / "cgroup.procs").write_text("0")
    )
    assert ended.status == 0
    while "populated 1" in (here / "cgroup.events").read_text():
        time.sleep(0.01)
    here.rmdir()


def test_many_at_once(helper, tree):
    started = [runs.start(helper, ["sleep", "0.2"], *inside(tree)) for _ in range(30)]
    for process in started:
        process.communicate(timeout=60)
    assert [process.returncode for process in started] == [0] * 30


SWEEPER = """
import contextlib, fcntl, os, sys
while True:
    for name in os.listdir(sys.argv[1]):
        with contextlib.suppress(OSError):
            path = f"{sys.argv[1]}/{name}"
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with contextlib.suppress(OSError):
                    os.rmdir(f"{path}/run")
                os.rmdir(path)
            finally:
                os.close(fd)
"""


def test_a_sweep_that_is_quicker_than_a_launch(helper, tree):
    """What another removed before it was locked is made again, by another name."""
    sweeper = subprocess.Popen([sys.executable, "-c", SWEEPER, tree])
    try:
        for _ in range(8):
            started = [runs.start(helper, ["true"], *inside(tree)) for _ in range(10)]
            ended = [(process.communicate(timeout=60)[1], process.returncode) for process in started]
            assert ended == [(b"", 0)] * 10
    finally:
        sweeper.kill()
        sweeper.wait()


def test_what_is_no_cgroup(helper, tmp_path):
    for path, why in ((tmp_path, "not in a cgroup v2"), (tmp_path / "none", "No such file")):
        record = runs.slot(Kind.CGROUP, "directory", str(path), "/sys/fs/cgroup", 0)
        ended = runs.run(helper, ["true"], record)
        assert ended.status == 125 and why in ended.report["message"]


def test_a_controller_that_is_not_there(helper, tree):
    extra = [runs.slot(Kind.CGROUP_SET, "nosuch.max", "5", 0)]
    ended = runs.run(helper, ["true"], *inside(tree), *extra)
    assert ended.status == 125 and "No such file" in ended.report["message"]
    extra = [runs.slot(Kind.CGROUP_SET, "nosuch.max", "5", 1)]
    assert runs.run(helper, ["true"], *inside(tree), *extra).status == 0  # may be missing


def test_a_directory_that_is_not_ours(helper, tree, need):
    """The kernel refuses, and that is told."""
    need("setpriv")
    plan = encode([*runs.records(), *inside(tree), runs.slot(Kind.ARGV, "true")])
    command = ["setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups", helper, "run"]
    with runs.plan_file(plan) as fd:
        done = subprocess.run([*command, str(fd)], pass_fds=[fd], capture_output=True, timeout=60)
    assert done.returncode == 125 and b"cannot make a cgroup: Permission denied" in done.stderr
