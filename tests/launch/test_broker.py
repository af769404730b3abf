"""The broker: launches with supervisors made ahead, and what becomes of them when somebody dies."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import sandbox
from sandbox.launch import backend, broker, plans
from sandbox.launch.broker import BROKERED
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.integration]

PATIENCE = 60.0
ROOT = Path(__file__).resolve().parents[2]


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third on (state, parent, group, session ...)."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return ["X", "0"]


def alive(pid: int) -> bool:
    return stat(pid)[0] not in "ZX"


def parent(box: sandbox.Sandbox) -> int:
    """Whose child the sandbox's supervisor is."""
    return int(stat(box._channel.helper.pid)[1])


def the_broker() -> int | None:
    found = BROKERED._broker
    return None if found is None or found.process is None else found.process.pid


def start_broker() -> int:
    """The pid of this process's broker, with its spares made."""
    sandbox.run(["true"])
    sandbox.run(["true"])
    pid = the_broker()
    assert pid is not None
    wait_until(lambda: len(children(pid)) == 2 and all(children(each) for each in children(pid)))
    return pid


def python(code: str, *arguments: str, before: tuple[str, ...] = (), **options: Any) -> str:
    """Run *code* in an interpreter of its own; its output."""
    prelude = (
        "import contextlib, ctypes, os, resource, signal, subprocess, sys, threading, time, sandbox\n"
        "from sandbox.launch.broker import BROKERED\n"
        "def parent(box):\n"
        "    with open(f'/proc/{box._channel.helper.pid}/stat') as file:\n"
        "        return int(file.read().rpartition(')')[2].split()[1])\n"
        "def the_broker():\n"
        "    found = BROKERED._broker\n"
        "    return found and found.process and found.process.pid\n"
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [*before, sys.executable, "-c", prelude + code, *arguments]
    done = subprocess.run(
        command, env=environ, stdout=subprocess.PIPE, text=True, timeout=PATIENCE, check=True, **options
    )
    return done.stdout


# --- launches -----------------------------------------------------------------------------------


@pytest.mark.as_root
def test_the_first_launches_are_direct_and_the_next_are_not() -> None:
    with contextlib.ExitStack() as stack:
        boxes = [stack.enter_context(sandbox.Sandbox()) for _ in range(4)]
        found = the_broker()
        assert found is not None
        assert [parent(each) for each in boxes] == [os.getpid(), os.getpid(), found, found]
        assert [each.run(["echo", "x"]).stdout for each in boxes] == [b"x\n"] * 4


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
        sandbox.run(command, net=mode, text=True).stdout.strip()
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
            seen = sandbox.run(["sh", "-c", script], text=True, env={}).stdout
    assert "secret" not in seen
    assert "socket:" not in seen
    assert "mine" not in seen


def test_broker_and_spares_hold_nothing_of_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    secret = tmp_path / "secret"
    secret.write_text("x")
    monkeypatch.setenv("SECRET", "x")
    with secret.open() as held:
        os.set_inheritable(held.fileno(), True)
        pid = start_broker()
    spares = children(pid)
    mine = Path("/proc/self/fd")
    for process in (pid, *spares):
        files = [os.readlink(each) for each in Path(f"/proc/{process}/fd").iterdir()]
        kinds = {each.partition(":")[0] for each in files}
        assert kinds <= {"/dev/null", "socket", "pipe", "anon_inode", "user", "net"}
        ours = {os.readlink(each) for each in mine.iterdir() if each.exists()}
        assert not {each for each in files if each.startswith(("socket", "pipe"))} & ours
        assert os.readlink(f"/proc/{process}/cwd") == "/"
        assert Path(f"/proc/{process}/environ").read_bytes() == b""
        assert int(stat(process)[3]) == pid  # a session of its own


def test_streams_and_high_descriptors() -> None:
    start_broker()
    read, write = os.pipe()
    highest = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 1
    for number in (150, highest):
        high = os.dup2(write, number)
        try:
            result = sandbox.run(
                ["sh", "-c", "cat; echo err >&2"], stdout=high, stderr=subprocess.PIPE, input=b"in\n"
            )
            assert result.stderr == b"err\n"
            assert os.read(read, 100) == b"in\n"
        finally:
            os.close(high)
    os.close(read)
    os.close(write)


def test_a_plan_larger_than_a_datagram(tmp_path: Path) -> None:
    start_broker()
    binds = [f"{tmp_path}:/{'x' * 200}/{number}:ro" for number in range(600)]
    assert sandbox.run(["true"], binds=binds).ok


def test_a_default_timeout_of_sockets_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    socket.setdefaulttimeout(1e-6)
    try:
        start_broker()
        assert [sandbox.run(["true"]).returncode for _ in range(3)] == [0, 0, 0]
    finally:
        socket.setdefaulttimeout(None)


def test_many_threads() -> None:
    wrong: list[object] = []

    def work(number: int) -> None:
        for i in range(5):
            result = sandbox.run(["echo", f"{number} {i}"], text=True)
            if result.stdout != f"{number} {i}\n":
                wrong.append(result)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not wrong


def test_a_signal_handler_may_launch_in_the_midst_of_a_launch() -> None:
    sandbox.run(["true"])  # not in the midst of imports
    codes: list[int] = []

    def launch(number: int, frame: object) -> None:
        codes.append(sandbox.run(["true"]).returncode)
        signal.setitimer(signal.ITIMER_REAL, 0.05)  # only now: it may take longer than that

    previous = signal.signal(signal.SIGALRM, launch)
    signal.setitimer(signal.ITIMER_REAL, 0.003)
    try:
        for _ in range(20):
            assert sandbox.run(["true"]).ok
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert codes and set(codes) == {0}


def test_a_signal_handler_may_launch_while_a_plan_is_looked_up() -> None:
    with plans._plans_lock:  # as the one that was interrupted
        assert plans._plans_lock.acquire(blocking=False)
        plans._plans_lock.release()
        assert sandbox.run(["true"]).ok


# --- the caller ---------------------------------------------------------------------------------


def test_who_waits_for_all_children_is_not_held_up() -> None:
    python(
        "for _ in range(4): sandbox.run(['true'])\n"
        "assert the_broker()\n"
        "for code in (3, 4):\n"
        "    if os.fork() == 0: os._exit(code)\n"
        "ended = set()\n"
        "with contextlib.suppress(ChildProcessError):\n"
        "    while True: ended.add(os.waitstatus_to_exitcode(os.wait()[1]))\n"
        "assert ended == {3, 4}, ended\n"
        "assert sandbox.run(['true']).ok\n"
    )


CHANGES = {
    "open files": "resource.setrlimit(resource.RLIMIT_NOFILE, (500, resource.getrlimit(7)[1]))",
    "stack": "resource.setrlimit(resource.RLIMIT_STACK, (1 << 22, resource.getrlimit(3)[1]))",
    "priority": "os.nice(3)",
    "processors": "os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})",
    "umask": "os.umask(0o70)",
    "out of memory": "open('/proc/self/oom_score_adj', 'w').write('700')",
    "no_new_privs": "assert ctypes.CDLL(None).prctl(38, 1, 0, 0, 0) == 0",
    "scheduling": "os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_the_caller_changed_is_honoured(change: str) -> None:
    """A supervisor is never one that knows the old state."""
    looks = (
        "ulimit -Sn; ulimit -Ss; nice; grep Cpus_allowed_list /proc/self/status; chrt -p $$; "
        "cat /proc/self/oom_score_adj"
    )
    python(
        f"looks = ['sh', '-c', {looks!r}]\n"
        "for _ in range(3): sandbox.run(['true'])\n"
        "old = the_broker()\n"
        f"{change}\n"
        "box = sandbox.Sandbox()\n"
        "assert parent(box) == os.getpid()\n"
        "wanted = box.run(looks, text=True).stdout.replace(str(os.getpid()), '')\n"
        "again = [sandbox.Sandbox() for _ in range(2)]\n"
        "assert parent(again[0]) == os.getpid() != parent(again[1]) != old\n"
        "import re\n"
        "strip = lambda text: re.sub(r\"pid \\d+'s\", '', text)\n"
        "assert strip(again[1].run(looks, text=True).stdout) == strip(wanted)\n"
        "for each in (box, *again): each.close()\n"
    )


def test_states_that_alternate_share_no_supervisor_and_make_no_brokers() -> None:
    python(
        "for _ in range(3): sandbox.run(['true'])\n"
        "soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "first = the_broker()\n"
        "for _ in range(3):\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))\n"
        "    with sandbox.Sandbox() as other: assert parent(other) == os.getpid()\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))\n"
        "    with sandbox.Sandbox() as same: assert parent(same) == first\n"
    )


@pytest.mark.as_root
def test_other_users(need: Callable[..., None]) -> None:
    need("root")
    python(
        "for _ in range(3): sandbox.run(['true'], profile='untrusted')\n"
        "old = the_broker()\n"
        "os.environ.update(HOME='/nonexistent')\n"
        "os.setresuid(65534, 65534, 65534)\n"
        "for _ in range(3):\n"
        "    box = sandbox.Sandbox('untrusted')\n"
        "    assert parent(box) != old\n"
        "    assert os.stat(f'/proc/{box._channel.helper.pid}').st_uid == 65534\n"
        "    box.close()\n",
        cwd="/usr",
    )


def test_limits_that_leave_nothing_to_spare() -> None:
    assert "None" in python(
        "resource.setrlimit(resource.RLIMIT_NPROC, (200, resource.getrlimit(resource.RLIMIT_NPROC)[1]))\n"
        "for _ in range(4): sandbox.run(['true'])\n"
        "print(the_broker())\n"
    )


def test_namespaces_that_are_few(tmp_path: Path, need: Callable[..., None]) -> None:
    """None is kept for later, so that all can be used."""
    need("plain user")
    code = (
        "for _ in range(4): sandbox.run(['true'])\n"
        "assert the_broker() is None\n"
        "boxes = [sandbox.Sandbox() for _ in range(3)]\n"
        "assert all(box.run(['true']).ok for box in boxes)\n"
        "for box in boxes: box.close()\n"
    )
    script = 'echo 100 > /proc/sys/user/max_net_namespaces && exec "$@"'
    before = ("unshare", "--user", "--map-current-user", "--keep-caps", "sh", "-c", script, "-")
    work = tmp_path / "work"  # where no project is another's, as ours would be seen to be there
    work.mkdir()
    python(code, before=before, cwd=work)


@pytest.mark.as_root
def test_mounts_are_those_of_the_launch(tmp_path: Path, need: Callable[..., None]) -> None:
    """What is mounted after a spare was made is seen, and what is unmounted is not kept in use by it."""
    need("root")
    place, work = tmp_path / "place", tmp_path / "work"
    place.mkdir()
    work.mkdir()
    python(
        "place = sys.argv[1]\n"
        "for _ in range(4): sandbox.run(['true'])\n"
        "subprocess.run(['mount', '-t', 'tmpfs', 'none', place], check=True)\n"
        "open(place + '/file', 'w').write('seen')\n"
        "result = sandbox.run(['cat', '/place/file'], binds=[place + ':/place:ro'], text=True)\n"
        "assert result.stdout == 'seen', result\n"
        "subprocess.run(['umount', place], check=True)\n"
        "assert sandbox.run(['ls', '/place'], binds=[place + ':/place:ro'], text=True).stdout == ''\n",
        str(place),
        before=("unshare", "--mount", "--propagation", "private"),
        cwd=work,
    )


# --- forks --------------------------------------------------------------------------------------


def _in_a_fork(connection: Any) -> None:
    try:
        before = BROKERED._broker
        codes = [sandbox.run(["true"]).returncode for _ in range(4)]
        connection.send((before is None, codes, the_broker()))
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
        fresh, codes, own = ours.recv()
        assert (fresh, codes) == (True, [0] * 4)
        assert own not in (None, pid)
    finally:
        process.join(PATIENCE)
    assert not alive(own)
    assert alive(pid)
    with sandbox.Sandbox() as sb:
        assert parent(sb) == pid


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_pools_of_processes(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/tmp")  # paths of sockets are short
    python(
        "import multiprocessing\n"
        "for _ in range(3): sandbox.run(['true'])\n"
        f"with multiprocessing.get_context({method!r}).Pool(3) as pool:\n"
        "    found = pool.map(sandbox.run, [['sh', '-c', f'exit {i}'] for i in range(24)])\n"
        "assert [each.returncode for each in found] == list(range(24))\n"
        "assert sandbox.run(['true']).ok\n"
    )


def test_a_server_that_forks_its_workers() -> None:
    """Each has its own broker, which dies with it, and the parent goes on with the old one."""
    seen = python(
        "for _ in range(3): sandbox.run(['true'])\n"
        "mine = the_broker()\n"
        "workers = []\n"
        "for number in range(4):\n"
        "    read, write = os.pipe()\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        codes = [sandbox.run(['sh', '-c', f'exit {number}']).returncode for _ in range(4)]\n"
        "        assert codes == [number] * 4\n"
        "        os.write(write, str(the_broker()).encode())\n"
        "        os._exit(0) if number % 2 else os.kill(os.getpid(), signal.SIGKILL)\n"
        "    os.close(write)\n"
        "    workers.append((pid, int(os.read(read, 100))))\n"
        "codes = [os.waitpid(pid, 0)[1] for pid, _ in workers]\n"
        "assert codes == [9, 0, 9, 0], codes\n"
        "assert len({mine, *(each for _, each in workers)}) == 5\n"
        "box = sandbox.Sandbox()\n"
        "assert parent(box) == mine\n"
        "box.close()\n"
        "print(*(each for _, each in workers))\n"
    )
    wait_until(lambda: not any(map(alive, map(int, seen.split()))))


# --- ends ---------------------------------------------------------------------------------------


def test_a_broker_that_is_killed() -> None:
    """Sandboxes that run are not concerned, spares go, and after a direct launch there is another broker."""
    pid = start_broker()
    with sandbox.Sandbox() as sb:
        wait_until(lambda: len(children(pid)) == 3 and all(children(each) for each in children(pid)))
        spares = [each for each in children(pid) if each != sb._channel.helper.pid]
        inits = [init for each in spares for init in children(each)]
        os.kill(pid, signal.SIGKILL)
        assert [sandbox.run(["true"]).returncode for _ in range(3)] == [0] * 3
        wait_until(lambda: not any(map(alive, [*spares, *inits])))
        assert sb.run(["echo", "x"]).stdout == b"x\n"
        assert the_broker() not in (None, pid)


def test_a_broker_that_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not waited for without end; what it does later starts nothing, and removes nothing."""
    kept: list[socket.socket] = []

    @contextlib.contextmanager
    def parts(plan: bytes) -> Iterator[tuple[Any, ...]]:
        with backend.parts(plan) as made:
            kept.append(made[0].dup())  # so that the late one finds somebody to talk to
            yield made

    monkeypatch.setattr(broker, "parts", parts)
    monkeypatch.setattr(broker, "_UNTAKEN", 0.3)
    pid = start_broker()
    stopped = [pid, *children(pid)]
    found = BROKERED._broker
    assert found is not None and found.process is not None
    monkeypatch.setattr(found.process, "kill", lambda: None)
    for each in stopped:
        os.kill(each, signal.SIGSTOP)
    try:
        command = ["sh", "-c", "echo once >> ran"]
        work = tmp_path / "work"
        work.mkdir()
        settings: Any = {"profile": "default", "cwd": work, "overrides": {"root.writable": "disk"}}
        assert sandbox.run(command, **settings).verdict == "ok"
        assert found.retired
        late = kept[-1]
    finally:
        for each in reversed(stopped):
            os.kill(each, signal.SIGCONT)
    late.settimeout(PATIENCE)
    messages = [late.recv(4096)]
    while messages[-1]:
        messages.append(late.recv(4096))
    assert [b'"supervisor"' in each for each in messages] == [True, False]  # it came, and went
    assert (work / "ran").read_text() == "once\n"
    for each in kept:
        each.close()


def test_spares_that_are_killed() -> None:
    pid = start_broker()
    for _ in range(5):
        for spare in children(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(spare, signal.SIGKILL)
        assert sandbox.run(["true"]).ok


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


def descendants(pid: int) -> Iterator[int]:
    for child in children(pid):
        yield child
        yield from descendants(child)


@pytest.mark.parametrize("how", ["kill", "leave", "execute"])
def test_nothing_outlives_a_launcher(how: str) -> None:
    script = (
        "import os, sandbox, sys\n"
        "from sandbox.launch.broker import BROKERED\n"
        "for _ in range(3): sandbox.run(['true'])\n"
        "a = sandbox.Sandbox(); b = a.popen(['sleep', '1000']); a.run(['true'])\n"
        "print(BROKERED._broker.process.pid, flush=True)\n"
        "if sys.stdin.readline() == 'execute\\n': os.execv('/bin/cat', ['cat'])\n"
        "os._exit(0)"
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=pipe, stdout=pipe, env=environ, text=True
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        pid = int(process.stdout.readline())
        below = [pid, *descendants(pid)]
        assert len(below) > 3
        if how == "kill":
            process.kill()
        else:
            print(how, file=process.stdin, flush=True)
        wait_until(lambda: not any(map(alive, below)))
        process.stdin.close()


def test_nothing_is_left_of_what_ended() -> None:
    """Not even a zombie, whoever's child it was."""
    pid = start_broker()
    for _ in range(3):
        sandbox.run(["true"])
    wait_until(lambda: len(children(pid)) == 2)
    assert not [each for each in children(os.getpid()) if stat(each)[0] == "Z"]


def test_stop_and_again() -> None:
    pid = start_broker()
    spares = list(descendants(pid))
    broker.stop()
    assert not any(map(alive, [pid, *spares]))
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
pid = BROKERED._broker.process.pid
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
    """Not by the broker: the launch is a direct one."""
    pid = start_broker()
    resource.prlimit(pid, resource.RLIMIT_NPROC, (1, 1))
    for spare in children(pid):
        os.kill(spare, signal.SIGKILL)
    wait_until(lambda: not children(pid))
    assert [sandbox.run(["true"]).returncode for _ in range(3)] == [0] * 3
