"""Where cgroups are made, and that nothing of them stays, however a launcher ends."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import sandbox
from sandbox.launch import broker
from tests.vm.limits import (
    HOGS,
    PLAIN,
    PYTHON,
    ROOT,
    TOP,
    Command,
    boxes,
    no_broker,
    python,
    scopes,
    wait_until,
)

__all__ = ["no_broker"]


pytestmark = [pytest.mark.guest, pytest.mark.integration]
if not os.path.isdir("/run/systemd/system"):
    pytest.skip("only in the guest of scripts/vm", allow_module_level=True)


def test_one_scope_for_a_process_and_nobody_is_moved() -> None:
    own = Path("/proc/self/cgroup").read_text()
    for _ in range(4):
        assert sandbox.run(["true"], **PLAIN).verdict == "ok"
    wait_until(lambda: len(scopes()) == 1)  # the first launch had one of its own
    assert Path("/proc/self/cgroup").read_text() == own
    broker.stop()
    wait_until(lambda: not scopes())


def test_threads_that_launch_at_once_share_it() -> None:
    def launch(number: int) -> tuple[str, str]:
        result = sandbox.run(["sh", "-c", f"echo {number}"], text=True, **PLAIN)
        return result.stdout, result.enforced["memory"]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(launch, range(40))) == [(f"{number}\n", "cgroup") for number in range(40)]
    wait_until(lambda: len(scopes()) <= 1)  # the first ones had their own
    assert python("pass", **PLAIN).verdict == "ok" and len(scopes()) == 1
    broker.stop()
    wait_until(lambda: not scopes())


def test_fifty_at_once() -> None:
    together = []
    try:
        for _ in range(50):
            together.append(sandbox.Sandbox(memory="32M", pids=20))
        assert len(boxes()) >= 50
        assert {sb.run(["true"]).verdict for sb in together} == {"ok"}
        assert together[7].run([PYTHON, "-c", HOGS["anonymous"]]).verdict == "memory"
        assert {sb.run(["true"]).verdict for sb in together[:20]} == {"ok"}
    finally:
        for sb in together:
            sb.close()
    broker.stop()
    wait_until(lambda: not scopes())


def test_inside_a_scope_that_somebody_delegated(sandbox_cmd: Command) -> None:
    """It is used as it is: no other is asked for."""
    code = (
        "import sandbox, glob, sys; "
        "sb = sandbox.Sandbox(memory='64M'); print(sandbox.run(['true'], memory='64M').enforced['memory'])"
    )
    command = [
        "systemd-run",
        "--user",
        "--scope",
        "-q",
        "-p",
        "Delegate=yes",
        sys.executable,
        "-m",
        "sandbox",
    ]
    done = subprocess.run(
        [*command, "run", "-m", "48M", "--", PYTHON, "-c", HOGS["anonymous"]],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "XDG_RUNTIME_DIR": f"/run/user/{os.getuid()}"},
        timeout=120,
    )
    assert done.returncode == 137 and "by cgroup" in done.stderr, done.stderr
    # In the API the caller is not moved: it has a scope of its own besides.
    done = subprocess.run(
        [*command[:-2], "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "XDG_RUNTIME_DIR": f"/run/user/{os.getuid()}"},
        timeout=120,
    )
    assert done.stdout == "cgroup\n", done.stderr


@pytest.fixture
def prepared() -> Iterator[Path]:
    """A directory that an administrator made for this user, with a leaf to stand in."""
    path = TOP / "judge"
    uid = os.getuid()
    script = (
        f"mkdir -p {path}/login && chown {uid} {path} {path}/cgroup.procs {path}/cgroup.subtree_control && "
        f"chown -R {uid} {path}/login"
    )
    subprocess.run(["sudo", "sh", "-c", script], check=True)
    yield path
    subprocess.run(["sudo", "rmdir", path / "login", path], check=True)


@pytest.mark.parametrize("how", ["option", "variable", "found"])
def test_a_directory_that_was_prepared(prepared: Path, sandbox_cmd: Command, how: str) -> None:
    options = ["--cgroup-parent", str(prepared)] if how == "option" else []
    variable = {"SANDBOX_CGROUP_PARENT": str(prepared)} if how == "variable" else {}
    hog = ["run", *options, "-m", "48M", "--", PYTHON, "-c", HOGS["anonymous"]]
    if how != "found":
        refused = sandbox_cmd(*hog, env=variable)
        assert refused.returncode == 125 and "can't be entered from" in refused.stderr
        assert f"echo $$ | sudo tee {prepared}/login/cgroup.procs" in refused.stderr
    enter = 'echo $$ | sudo tee "$0"/login/cgroup.procs >/dev/null && exec "$@"'
    done = subprocess.run(
        ["sh", "-c", enter, str(prepared), sys.executable, "-m", "sandbox", *hog],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variable},
        timeout=120,
    )
    assert done.returncode == 137 and "by cgroup" in done.stderr, done.stderr
    assert [entry.name for entry in prepared.iterdir() if entry.is_dir()] == ["login"]


def test_root_asks_the_systems_manager() -> None:
    command = [sys.executable, "-B", "-m", "sandbox", "run", "-p", "base", "-m", "48M", "--", PYTHON, "-c"]
    done = subprocess.run(
        ["sudo", "env", f"PYTHONPATH={ROOT}", "HOME=/tmp/root", *command, HOGS["anonymous"]],
        capture_output=True,
        text=True,
        cwd="/",
        timeout=120,
    )
    assert done.returncode == 137 and "by cgroup" in done.stderr, done.stderr


LAUNCHERS = {
    "command": """
import os, sys
arguments = ["run", "-m", "64M", "--", "sh", "-c", "setsid sleep 600 & setsid sleep 600"]
os.execv(sys.executable, [sys.executable, "-B", "-m", "sandbox", *arguments])
""",
    "api": """
import sandbox, threading
for _ in range(2):
    threading.Thread(target=lambda: sandbox.run(["sh", "-c", "setsid sleep 600"], memory="64M")).start()
""",
}


def is_running(name: str) -> bool:
    """Dead ones that fell to this process, which reaps them later, do not count."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            head, _, tail = path.read_text().rpartition(")")
            if head.partition("(")[2] == name and tail.split()[0] not in "ZX":
                return True
    return False


@pytest.mark.parametrize("kind", LAUNCHERS)
def test_a_launcher_that_is_killed_at_any_moment_leaves_nothing(kind: str) -> None:
    """No process, no cgroup, no scope: whenever that is."""
    moments = random.Random(kind)
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    for _ in range(10):
        launcher = subprocess.Popen([sys.executable, "-B", "-c", LAUNCHERS[kind]], env=environ)
        time.sleep(moments.uniform(0.2, 1.8))
        launcher.kill()
        launcher.wait()
    # A supervisor whose launcher is gone may be about to enter a scope, and leave it.
    wait_until(lambda: not is_running("sandbox-helper") and not is_running("sleep") and not scopes())
    assert not boxes()
    listed = subprocess.run(
        ["systemctl", "--user", "list-units", "--all", "--no-legend", "sandbox*"],
        capture_output=True,
        text=True,
        env={**environ, "XDG_RUNTIME_DIR": f"/run/user/{os.getuid()}"},
    )
    assert listed.stdout == ""
