"""A payload that lies about its end, will not end, or takes more than its share."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import sandbox
from tests.security.inside import PYTHON, python, soon
from tests.support.needs import need

pytestmark = [pytest.mark.integration, pytest.mark.as_root]

FORGED = (
    '{"event":"result","id":0,"verdict":"ok","exit_code":0,"signal":null,"limit":null,"hit":[],"usage":{}}'
)


def test_a_verdict_can_not_be_forged() -> None:
    result = python(f"""
        import os, signal
        for fd in range(0, 1024):
            try: os.write(fd, b'''{FORGED}\\n''')
            except OSError: pass
        os._exit(137)
    """)
    assert result.verdict == "nonzero"
    assert result.returncode == 137
    assert FORGED in result.stdout


#: what a command that gets away waits, seconds: longer than the check for leaks does
AWAY = 30

ESCAPES = {
    "double fork": """
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(AWAY)
            os._exit(0)
        time.sleep(AWAY)
    """,
    "ignored signals": """
        for number in range(1, 65):
            try:
                signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError):
                pass
        time.sleep(AWAY)
    """,
    "stopped": """
        if os.fork() == 0:
            time.sleep(AWAY)
        os.kill(os.getpid(), signal.SIGSTOP)
    """,
    "many": """
        for _ in range(20):
            if os.fork() == 0:
                os.setsid()
                time.sleep(AWAY)
        time.sleep(AWAY)
    """,
}
ESCAPES = {
    name: f"import os, signal, time\nAWAY = {AWAY}\n" + textwrap.dedent(code)
    for name, code in ESCAPES.items()
}


@pytest.mark.parametrize("code", ESCAPES.values(), ids=ESCAPES.keys())
def test_a_timeout_ends_the_whole_tree(code: str) -> None:
    result = sandbox.run([PYTHON, "-c", code], profile="untrusted", timeout=0.5)
    assert result.verdict == "timeout"


@pytest.mark.parametrize("code", ESCAPES.values(), ids=ESCAPES.keys())
def test_a_timeout_in_an_open_sandbox_ends_that_command_only(code: str) -> None:
    with sandbox.Sandbox("untrusted") as box:
        other = box.popen(["sleep", "600"])
        assert box.run([PYTHON, "-c", code], timeout=0.5).verdict == "timeout"
        assert other.poll() is None
        assert box.run(["true"]).verdict == "ok"


def test_what_a_command_leaves_running_ends_with_it() -> None:
    result = sandbox.run(["sh", "-c", "sleep 600 & setsid sleep 600 & exit 3"], profile="untrusted")
    assert (result.verdict, result.returncode) == ("nonzero", 3)


#: A path that takes milliseconds to walk, so that whoever opens it is met on the way.
STOPPER = """
import os, signal
os.mkdir("/tmp/40")
open("/tmp/40/x", "w").write("x")
for n in range(40):
    os.symlink("./" * 2000 + str(n + 1), f"/tmp/{n}")
print("stopping", flush=True)
while True:
    try:
        os.kill(-1, signal.SIGSTOP)
    except ProcessLookupError:
        pass
"""


def test_who_stops_all_the_others_keeps_the_caller_waiting_for_nothing() -> None:
    """What starts the other commands, and what opens files for the caller, has the payload's own user."""
    with sandbox.Sandbox("untrusted", timeout=300) as box:
        stopper = box.popen([PYTHON, "-I", "-S", "-c", STOPPER], stdout=sandbox.PIPE)
        assert stopper.stdout is not None
        assert stopper.stdout.readline() == b"stopping\n"
        for _ in range(20):
            answer = soon(lambda: box.read_file("/tmp/0/x"))
            assert answer == b"x" or isinstance(answer, OSError), answer
        started = soon(lambda: box.run(["true"], timeout=5))
        assert isinstance(started, sandbox.Result)
        assert started.verdict in ("ok", "timeout", "exec_failed"), started.verdict
        stopper.kill()
        stopper.communicate()


def test_nothing_of_a_command_stays_in_an_open_sandbox() -> None:
    with sandbox.Sandbox("untrusted") as box:
        box.run(["sh", "-c", "sleep 600 & setsid sleep 600 & exit 3"])
        left = box.run(["sh", "-c", "cat /proc/[0-9]*/comm"], text=True).stdout.split()
        assert "sleep" not in left


LAUNCHER = """
import sandbox, sys
for n in range(int(sys.argv[1])):  # the second finds its supervisor made ahead
    sandbox.run(["true"], profile="untrusted")
print("launching", flush=True)
sandbox.run(["sh", "-c", "echo running; sleep 600 & setsid sleep 600"], profile="untrusted", stdout=1)
"""


@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("delay", [0.0, 0.005, 0.02, 0.1, None])
def test_nothing_outlives_a_launcher_that_is_killed(delay: float | None, before: int) -> None:
    """At any moment of the start, or (None) when the command runs. What fails here is the check for leaks
    behind each test."""
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(before)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
    )
    with launcher:
        assert launcher.stdout is not None
        assert launcher.stdout.readline() == b"launching\n"
        if delay is None:
            assert launcher.stdout.readline() == b"running\n"
        time.sleep(delay or 0)
        launcher.kill()


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.3])
def test_nothing_outlives_a_supervisor_that_is_killed(delay: float) -> None:
    """The command line becomes the supervisor. init has to notice by itself, as nobody is there to end it."""
    command = [
        sys.executable,
        "-m",
        "sandbox",
        "run",
        "-p",
        "untrusted",
        "--",
        "sh",
        "-c",
        "echo; setsid sleep 600",
    ]
    supervisor = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, stdout=subprocess.PIPE
    )
    assert supervisor.stdout is not None
    supervisor.stdout.readline()
    time.sleep(delay)
    supervisor.kill()
    supervisor.communicate()
    sandbox.run(["true"])  # of a cgroup, which nobody was left to remove, the next one in the same place does


def test_a_fork_bomb_meets_its_limit() -> None:
    result = python(
        """
        import os, time
        made = 0
        try:
            for _ in range(100):
                if os.fork() == 0:
                    time.sleep(600)
                made += 1
        except OSError as error:
            print(made, error.errno)
        """,
        overrides={"limits.pids": 20},
    )
    assert result.stdout.split() == ["19", "11"], result.stderr  # EAGAIN


def test_pids_count_all_commands_of_the_sandbox_together() -> None:
    """Set after the inner namespace, which each command has, the limit would hold for each of them apart."""
    with sandbox.Sandbox("untrusted", overrides={"limits.pids": 10}) as box:
        sleepers = [box.popen(["sleep", "600"]) for _ in range(9)]
        result = box.run(
            [PYTHON, "-c", "import os\nfor _ in range(4): os.fork() or __import__('time').sleep(600)"]
        )
        assert result.verdict == "nonzero"
        assert all(sleeper.poll() is None for sleeper in sleepers)


def test_pids_count_all_ids_of_the_sandbox_together() -> None:
    """A limit that the payload got itself would be one for each id that it can become."""
    if os.getuid() != 0:
        need("idrange")
    result = python(
        """
        import os, time
        made = 0
        try:
            for uid in range(1, 100):
                if os.fork() == 0:
                    os.setuid(uid)
                    time.sleep(600)
                made += 1
        except OSError as error:
            print(made, error.errno)
        """,
        profile="base",
        overrides={"limits.pids": 20, "user.ids": "range", "user.map": "root"},
    )
    assert result.stdout.split() == ["19", "11"], result.stderr


def test_disk_is_a_limit_for_everything_writable() -> None:
    result = python(
        """
        import os
        total = 0
        for place in ("/tmp", "/dev/shm", os.environ["HOME"]):
            try:
                with open(place + "/x", "wb", buffering=0) as f:
                    for _ in range(64):
                        total += f.write(bytes(1 << 20))
            except OSError as error:
                assert error.errno == 28, error
        print(total >> 20, flush=True)
        os._exit(1)
        """,
        overrides={"limits.disk": "16M"},
    )
    assert result.verdict == "disk"
    assert 12 <= int(result.stdout) <= 16
    assert result.limit is not None and result.limit.name == "disk"


def test_inodes_run_out_before_the_hosts_memory_does() -> None:
    result = python(
        """
        import errno
        try:
            for i in range(50_000):
                open(f"/tmp/{i}", "w").close()
        except OSError as error:
            print(errno.errorcode[error.errno])
        """,
        overrides={"limits.disk": "16M", "limits.timeout": "30s"},
    )
    assert result.stdout.strip() == "ENOSPC"


def test_endless_output_is_cut_at_the_limit() -> None:
    flood = ["sh", "-c", "yes | head -c 8388608; sleep 600"]
    result = sandbox.run(flood, profile="untrusted", timeout=20, overrides={"limits.output": "64K"})
    assert result.verdict == "output"
    assert len(result.stdout) == 65536


#: 400 MiB, in each way that there is. PSS alone sees only some of these.
WAYS = {
    "anonymous": "x = bytearray(400 << 20)",
    "tmpfs": "f = open('/tmp/x', 'wb', buffering=0)\nfor _ in range(400): f.write(bytes(1 << 20))",
    "shared": "m = mmap.mmap(-1, 400 << 20)\nfor _ in range(400): m.write(bytes(1 << 20))",
    "many small": "for _ in range(10):\n  if os.fork() == 0:\n    x = bytearray(40 << 20)\n    break",
    "memfd": "f = os.memfd_create('x')\nfor _ in range(400): os.write(f, bytes(1 << 20))",
    "System V": """
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
for _ in range(8):  # so that never much of it is anybody's
    at = libc.shmat(libc.shmget(0, 50 << 20, 0o600), None, 0)
    ctypes.memset(at, 1, 50 << 20)
    libc.shmdt(ctypes.c_void_p(at))
""",
    "page tables": """
m = mmap.mmap(-1, 200 << 30, mmap.MAP_PRIVATE, mmap.PROT_READ)
m.madvise(mmap.MADV_NOHUGEPAGE)
for at in range(0, 200 << 30, 2 << 20): m[at]  # 400M of them; no page of its own
""",
}


@pytest.mark.parametrize("way", WAYS)
def test_memory_is_taken_in_no_way_unseen(way: str) -> None:
    open_calls = way in ("memfd", "System V")  # the filter, too, would be in the way
    result = sandbox.run(
        [PYTHON, "-c", f"import ctypes, os, time, mmap\n{WAYS[way]}\ntime.sleep(60)"],
        profile="base" if open_calls else "untrusted",
        timeout=20,
        overrides={
            "limits.memory": "128M",
            "limits.disk": "1G",
            "limits.pids": 32,
            "process.seccomp": "off" if open_calls else "strict",
        },
    )
    refused = way == "anonymous" and result.verdict == "nonzero"  # in one piece: RLIMIT_DATA was quicker
    assert refused or result.verdict == "memory", (result.verdict, result.message, result.stderr)
    assert result.enforced["memory"].startswith("best-effort")


def test_a_program_that_can_not_be_read_is_measured_and_ended(tmp_path: Path) -> None:
    """init is not told whose namespace it is in, nor what it maps, when the file's owner is nobody inside
    (would_dump, fs/exec.c): called by root, as here the owner is root then."""
    source = tmp_path / "hog.c"
    program = tmp_path / "hog"
    source.write_text(
        "#include <stdlib.h>\n#include <string.h>\n#include <unistd.h>\n"
        "int main(int c, char **v) { if (c > 1) { setsid(); if (fork() == 0) pause(); return 0; }"
        " memset(malloc(200 << 20), 1, 200 << 20); pause(); return 0; }\n"
    )
    subprocess.run(["gcc", "-o", program, source], check=True)
    program.chmod(0o111)
    bind = [f"{program}:/mnt/hog:ro"]
    limits = {"limits.memory": "64M", "limits.timeout": "20s"}
    assert sandbox.run(["/mnt/hog"], profile="untrusted", binds=bind, overrides=limits).verdict == "memory"
    with sandbox.Sandbox("untrusted", binds=bind) as box:
        assert box.run(["/mnt/hog", "child"]).verdict == "ok"
        left = box.run(["sh", "-c", "cat /proc/[0-9]*/comm"], text=True).stdout.split()
        assert "hog" not in left


def test_memfds_are_closed_where_memory_is_only_polled() -> None:
    result = python("import os; os.memfd_create('x')", overrides={"limits.memory": "128M"})
    assert result.returncode == 1
    assert "Function not implemented" in result.stderr


def test_names_can_not_add_to_a_report(tmp_path: Path) -> None:
    """What could not be executed is named in it."""
    name = '/x","verdict":"ok","exit_code":0,"message":"\x1b]0;\n{}'
    with sandbox.Sandbox("untrusted") as box:
        result = box.run([name])
        assert (result.verdict, result.returncode) == ("exec_failed", 127)
        assert "\x1b" not in result.message and "\n" not in result.message
        with pytest.raises(OSError, match="No such file"):
            box.read_file(name)


def test_the_report_says_the_same_to_a_file(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "sandbox",
            "run",
            "-p",
            "untrusted",
            "--report",
            str(report),
            "--",
            "sh",
            "-c",
            "exit 3",
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=60,
    )
    import json

    assert done.returncode == 3
    assert json.loads(report.read_text())["verdict"] == "nonzero"


_TAKE_ALL = """
import ctypes, os, signal
libc = ctypes.CDLL(None)
taken = [[], []]
for process in range(4):
    read, write = os.pipe()
    if os.fork() == 0:
        instances = 0
        while instances < %d and libc.inotify_init() >= 0:
            instances += 1
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN])
        queued = 0
        while queued < %d and libc.sigqueue(os.getpid(), int(signal.SIGRTMIN), None) == 0:
            queued += 1
        os.write(write, b"%%d %%d" %% (instances, queued))
        signal.pause()
    for each, number in zip(taken, os.read(read, 99).split()):
        each.append(int(number))
print(*map(sum, taken))
"""


def test_neighbours_keep_timers_and_watches() -> None:
    """The kernel counts both for the user in all namespaces together."""
    instances = int(Path("/proc/sys/fs/inotify/max_user_instances").read_text())
    signals = resource.getrlimit(resource.RLIMIT_SIGPENDING)[1]
    code = _TAKE_ALL % (instances, signals)
    done = sandbox.run(["python3", "-c", code], profile="untrusted", text=True, check=True)
    taken = [int(word) for word in done.stdout.split()]
    assert 0 < taken[0] <= instances // 4
    assert 0 < taken[1] <= signals // 16
