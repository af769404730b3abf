"""The broker: launches with supervisors made ahead, and what becomes of them when somebody dies."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import sandbox
from sandbox.launch import broker
from sandbox.launch.broker import BROKERED, Remote

pytestmark = [pytest.mark.integration]

PATIENCE = 60.0
ROOT = Path(__file__).resolve().parents[2]


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def start_broker() -> int:
    """The pid of this process's broker, with its spares made."""
    sandbox.run(["true"])
    sandbox.run(["true"])
    assert BROKERED._broker is not None
    pid = BROKERED._broker._child.pid
    wait_until(lambda: len(children(pid)) == 2 and all(children(each) for each in children(pid)))
    return pid


@pytest.mark.as_root
def test_the_first_launch_is_direct_and_the_next_are_not() -> None:
    with sandbox.Sandbox() as first, sandbox.Sandbox() as second, sandbox.Sandbox() as third:
        kinds = [isinstance(each._channel.helper, Remote) for each in (first, second, third)]
        assert kinds == [False, True, True]
        assert [each.run(["echo", "x"], capture_output=True).stdout for each in (first, second, third)] == (
            [b"x\n"] * 3
        )


def test_a_spare_is_used_and_once_only() -> None:
    pid = start_broker()
    spares = children(pid)
    with sandbox.Sandbox() as sb:
        assert sb._channel.helper.pid in spares
        wait_until(lambda: len(children(pid)) == 3)
        fresh = set(children(pid)) - set(spares)
        assert len(fresh) == 1


def test_other_namespaces_than_the_last_ones() -> None:
    """A plan whose namespaces are not those of the spares gets its own."""
    start_broker()
    ours = os.readlink("/proc/self/ns/net")
    command = ["readlink", "/proc/self/ns/net"]
    inside = [
        sandbox.run(command, net=mode, capture_output=True, text=True).stdout.strip()
        for mode in ("none", "host", "none", "host", "host", "none")
    ]
    assert [each == ours for each in inside] == [False, True, False, True, True, False]
    assert len(set(inside)) == 4


def test_nothing_of_the_caller_or_of_another_sandbox_gets_in(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    start_broker()
    with secret.open() as held:
        os.set_inheritable(held.fileno(), True)
        with sandbox.Sandbox() as other:
            other.write_file("/tmp/mine", b"x")
            script = "ls -l /proc/self/fd /proc/1/fd 2>/dev/null; ls /tmp; echo -; env"
            seen = sandbox.run(["sh", "-c", script], capture_output=True, text=True, env={}).stdout
    assert "secret" not in seen
    assert "socket:" not in seen
    assert "mine" not in seen


def test_limits_of_the_caller_that_change() -> None:
    """What a supervisor inherits is the caller's of now, not of when the broker was started."""
    pid = start_broker()
    script = ["sh", "-c", "ulimit -Sn; nice"]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(soft, hard) - 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    try:
        first = sandbox.run(script, capture_output=True, text=True).stdout
        assert first.split()[0] == str(wanted)
        assert BROKERED._broker is not None
        assert BROKERED._broker._child.pid != pid
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not alive(pid)


def test_streams_and_high_descriptors() -> None:
    start_broker()
    read, write = os.pipe()
    high = os.dup2(write, 150)
    try:
        result = sandbox.run(
            ["sh", "-c", "cat; echo err >&2"], stdout=high, stderr=subprocess.PIPE, input=b"in\n"
        )
        assert result.stderr == b"err\n"
        assert os.read(read, 100) == b"in\n"
    finally:
        for fd in (read, write, high):
            os.close(fd)


def test_many_threads() -> None:
    wrong: list[object] = []

    def work(number: int) -> None:
        for i in range(5):
            result = sandbox.run(["echo", f"{number} {i}"], capture_output=True, text=True)
            if result.stdout != f"{number} {i}\n":
                wrong.append(result)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not wrong


def _in_a_fork(connection: object) -> None:
    try:
        before = BROKERED._broker
        codes = [sandbox.run(["true"]).returncode for _ in range(3)]
        mine = BROKERED._broker
        connection.send((before is None, codes, mine is not None))  # type: ignore[attr-defined]
    finally:
        broker.stop()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_gets_its_own() -> None:
    pid = start_broker()
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=_in_a_fork, args=(theirs,))
    process.start()
    try:
        assert ours.poll(PATIENCE)
        assert ours.recv() == (True, [0, 0, 0], True)
    finally:
        process.join(PATIENCE)
    assert alive(pid)
    assert sandbox.run(["true"]).returncode == 0
    assert BROKERED._broker is not None
    assert BROKERED._broker._child.pid == pid


def test_a_broker_that_is_killed() -> None:
    """Sandboxes that run are not concerned, spares go, and the next launch has another broker."""
    pid = start_broker()
    with sandbox.Sandbox() as sb:
        wait_until(lambda: len(children(pid)) == 3 and all(children(each) for each in children(pid)))
        spares = [each for each in children(pid) if each != sb._channel.helper.pid]
        inits = [init for each in spares for init in children(each)]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any(map(alive, [*spares, *inits])))
        assert sb.run(["echo", "x"], capture_output=True).stdout == b"x\n"
        assert sandbox.run(["true"]).returncode == 0
        assert BROKERED._broker is not None
        assert BROKERED._broker._child.pid != pid


def test_spares_that_are_killed() -> None:
    pid = start_broker()
    spares = children(pid)
    for spare in spares:
        os.kill(spare, signal.SIGKILL)
    wait_until(lambda: not any(map(alive, spares)))
    assert [sandbox.run(["true"]).returncode for _ in range(3)] == [0, 0, 0]


def test_a_supervisor_that_is_killed() -> None:
    start_broker()
    sb = sandbox.Sandbox()
    process = sb.popen(["sleep", "1000"])
    sb.run(["true"])
    os.kill(sb._channel.helper.pid, signal.SIGKILL)
    process.wait(PATIENCE)
    assert process.result is not None
    assert process.result.verdict == "killed"
    sb.close()


def test_nothing_outlives_a_killed_launcher() -> None:
    script = (
        "import sandbox, time; sandbox.run(['true']); a = sandbox.Sandbox(); b = a.popen(['sleep', '1000']); "
        "a.run(['true']); print('ready', flush=True); time.sleep(1000)"
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        below = children(process.pid)
        for pid in below:
            below += children(pid)
        assert len(below) > 3
        process.kill()
    wait_until(lambda: not any(map(alive, below)))


def test_stop_and_again() -> None:
    pid = start_broker()
    broker.stop()
    assert not alive(pid)
    assert sandbox.run(["true"]).returncode == 0
    assert BROKERED._broker is None


def test_a_mount_that_was_made_since(tmp_path: Path) -> None:
    """Spares have the mounts of when they were made: one made later is seen nevertheless."""
    script = """
import ctypes, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
uid, gid = os.getuid(), os.getgid()
assert libc.unshare(0x10020000) == 0  # CLONE_NEWUSER | CLONE_NEWNS
open("/proc/self/setgroups", "w").write("deny")
open("/proc/self/uid_map", "w").write(f"{uid} {uid} 1")
open("/proc/self/gid_map", "w").write(f"{gid} {gid} 1")
assert libc.mount(b"none", b"/", None, 0x44000, None) == 0  # MS_REC | MS_PRIVATE
import sandbox
from sandbox.launch.broker import BROKERED
where = sys.argv[1]
def look():
    mounts = {where: {"source": where, "mode": "ro"}}
    text = {"capture_output": True, "text": True}
    return sandbox.run(["ls", where], profile="base", cwd="/usr", mounts=mounts, **text)
look(), look()
pid = BROKERED._broker._child.pid
children = lambda p: open(f"/proc/{p}/task/{p}/children").read().split()
while len(children(pid)) < 2 or not all(map(children, children(pid))):
    time.sleep(0.01)
assert libc.mount(b"tmpfs", where.encode(), b"tmpfs", 0, None) == 0
open(where + "/new", "w").close()
print(look().stdout, end="")
"""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path],
        capture_output=True,
        text=True,
        env=environ,
        timeout=PATIENCE,
    )
    assert (done.stdout, done.stderr) == ("new\n", "")


def test_no_process_to_be_had() -> None:
    """The launch says so; it neither waits for ever nor keeps anybody busy."""
    pid = start_broker()
    unlimited = resource.prlimit(pid, resource.RLIMIT_NPROC, (1, 1))
    assert unlimited != (1, 1)
    for spare in children(pid):
        os.kill(spare, signal.SIGKILL)
    wait_until(lambda: not children(pid))
    with pytest.raises(sandbox.SetupError, match="no process can be made") as caught:
        sandbox.run(["true"])
    assert "ulimit -u" in (caught.value.mend or "")
