"""Limits that can't be held are refused, with the reason and what mends it; and nothing has changed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import sandbox
from tests.vm.limits import PYTHON, ROOT, Command, boxes, no_broker

__all__ = ["no_broker"]


pytestmark = [pytest.mark.guest, pytest.mark.integration]
if not os.path.isdir("/run/systemd/system"):
    pytest.skip("only in the guest of scripts/vm", allow_module_level=True)


def test_a_controller_that_is_not_delegated() -> None:
    with pytest.raises(sandbox.RequirementError, match="does not delegate io") as caught:
        sandbox.run(["true"], io={"/srv/disk": {"wbps": "1M"}})
    assert "Delegate=cpu cpuset io memory pids" in (caught.value.mend or "")


@pytest.mark.parametrize("path", ["/dev/shm", "/proc", "/dev/null", "/nowhere"])
def test_io_of_what_is_on_no_disk(path: str) -> None:
    with pytest.raises(sandbox.ProfileError, match=r"limits\.io: "):
        sandbox.run(["true"], io={path: {"wbps": "1M"}})


def test_io_of_an_overlay() -> None:
    """It is on no disk of its own."""
    layers = "mkdir -p /run/ov/l /run/ov/u /run/ov/w /run/ov/m && mount -t overlay -o "
    layers += "lowerdir=/run/ov/l,upperdir=/run/ov/u,workdir=/run/ov/w none /run/ov/m"
    subprocess.run(["sudo", "sh", "-c", layers], check=True)
    try:
        with pytest.raises(sandbox.ProfileError, match=r"limits\.io: .*overlay"):
            sandbox.run(["true"], io={"/run/ov/m": {"wbps": "1M"}})
    finally:
        subprocess.run(["sudo", "sh", "-c", "umount /run/ov/m && rm -r /run/ov"], check=True)


def test_a_cpuset_that_is_not_allowed() -> None:
    with pytest.raises(sandbox.SetupError, match="not all of these CPUs are ours to use"):
        sandbox.run(["true"], cpuset="0-3")  # this machine has one
    assert sandbox.run(["true"], cpuset="0").verdict == "ok"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"memory": -1}, "negative"),
        ({"memory": 1 << 70}, "memory"),
        ({"pids": 0}, "pids"),
        ({"pids": 1 << 23}, "pids"),
        ({"cpus": 0.001}, "from 0.01"),
        ({"cpu_weight": 0}, "cpu_weight"),
        ({"io": {"/srv/disk": {"wbps": 0}}}, "wbps"),
        ({"cgroup_parent": "relative"}, "absolute path"),
    ],
)
def test_values_that_the_kernel_would_not_take(options: dict[str, object], why: str) -> None:
    before = boxes()
    with pytest.raises(sandbox.ProfileError, match=why):
        sandbox.run(["true"], **options)  # type: ignore[arg-type]
    assert boxes() == before


def test_a_limit_that_is_too_small_to_begin_with() -> None:
    """The kernel would take less than is taken here, and there would be no room for a sandbox under it."""
    for memory in (1, 4096, "64K"):
        with pytest.raises(sandbox.ProfileError, match="must be at least"):
            sandbox.run(["true"], memory=memory)
    assert sandbox.run(["true"], memory="1M").verdict == "ok"
    with sandbox.Sandbox(memory="64M") as sb:
        with pytest.raises(sandbox.ProfileError, match="must be at least"):
            sb.set_limits(memory=4096)
        assert sb.run([PYTHON, "-c", "x = bytearray(20 << 20)"]).verdict == "ok"


def test_a_directory_that_is_not_ours(sandbox_cmd: Command) -> None:
    done = sandbox_cmd("run", "--cgroup-parent", "/sys/fs/cgroup/system.slice", "--", "true")
    assert done.returncode == 125
    assert "system.slice is not ours to write to" in done.stderr and "mend: " in done.stderr


def test_no_user_bus_says_what_to_do() -> None:
    """As in a cron job of a user who does not linger."""
    command = [sys.executable, "-B", "-m", "sandbox", "run", "-p", "base", "--require", "memory", "-m", "64M"]
    variables = ["PYTHONPATH=" + str(ROOT), "HOME=/tmp/other"]
    asked = ["sudo", "-u", "other", "env", "-i", *variables, *command, "--", "true"]
    done = subprocess.run(asked, capture_output=True, text=True, cwd="/", timeout=120)
    assert done.returncode == 125
    assert "there is no /run/user/" in done.stderr
    assert "mend: sudo loginctl enable-linger other" in done.stderr
    # Without the requirement it runs, and says how memory is held.
    asked.remove("--require")
    asked.remove("memory")
    done = subprocess.run(
        [*asked[:-2], "--report", "fd:1", "--", "true"], capture_output=True, text=True, cwd="/", timeout=120
    )
    assert done.returncode == 0 and '"memory":"best-effort' in done.stdout
