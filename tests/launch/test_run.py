"""run() and Sandbox with real sandboxes."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import sandbox
from sandbox.launch import broker
from sandbox.launch.api import _MAX_FILE
from sandbox.launch.options import KEYS
from sandbox.profile.settings import BY_KEY
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.as_root, pytest.mark.usefixtures("here")]


def open_fds() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def test_short_names_are_keys() -> None:
    assert set(KEYS.values()) <= set(BY_KEY)


def test_a_program_reads_and_writes() -> None:
    r = sandbox.run(["tr", "a-z", "A-Z"], input="hällo\n", text=True, encoding="utf-8")
    assert (r.stdout, r.stderr, r.returncode, r.verdict) == ("HäLLO\n", "", 0, "ok")
    assert r.usage.wall > 0
    assert r.enforced["pids"] == "rlimit"


def test_megabytes_pass_untouched() -> None:
    data = os.urandom(8 << 20)
    r = sandbox.run(["tee", "/dev/stderr"], input=data)
    assert (r.stdout == data, r.stderr == data) == (True, True)


@pytest.mark.parametrize(
    ("command", "returncode", "verdict"),
    [
        ("exit 3", 3, "nonzero"),
        ("kill -SEGV $$", -11, "signal"),
        ("exec sleep 60", -9, "timeout"),
        ("exec yes", None, "output"),  # ended by SIGKILL, or before that by SIGPIPE
        ("dd if=/dev/zero of=/tmp/x bs=1M count=64", 1, "disk"),
    ],
)
def test_how_it_ended_is_data(command: str, returncode: int | None, verdict: str) -> None:
    r = sandbox.run(["sh", "-c", command], timeout=1.0, output="1M", disk="16M")
    assert r.verdict == verdict
    assert r.returncode in ((-9, -13) if returncode is None else (returncode,))
    assert not r.ok
    if verdict in ("timeout", "output", "disk"):
        assert r.limit is not None
        assert r.limit.name == verdict
        assert verdict in r.hit
    with pytest.raises(subprocess.CalledProcessError):
        r.check_returncode()


def test_exactly_the_limit_of_output_is_kept() -> None:
    r = sandbox.run(["sh", "-c", "yes; true"], output=100_000)
    assert r.stdout == b"y\n" * 50_000
    assert r.verdict == "output"


def test_tasks_at_once_are_counted_or_none() -> None:
    """A command that ended before anybody looked has no peak; a look that saw nothing is none."""
    with sandbox.Sandbox("default", pids=50) as box:
        for _ in range(30):
            peak = box.run(["true"]).usage.pids_peak
            assert peak is None or peak >= 1
        assert box.run(["sh", "-c", "sleep 2 & sleep 2 & wait"]).usage.pids_peak == 3


@pytest.mark.parametrize(("name", "code"), [("no-such-program", 127), ("/etc/passwd", 126)])
def test_what_cannot_be_executed_says_so(name: str, code: int) -> None:
    r = sandbox.run([name])
    assert (r.returncode, r.verdict) == (code, "exec_failed")
    assert name in r.message


def test_env_and_cwd(here: Path) -> None:
    assert (
        sandbox.run(["/usr/bin/env"], env={"A": "1", "B": "ü"}, text=True, encoding="utf-8").stdout
        == "A=1\nB=ü\n"
    )
    (here / "sub").mkdir()
    assert sandbox.run(["pwd"], cwd=here / "sub", text=True).stdout == f"{here / 'sub'}\n"


def test_the_callers_environment_stays_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    monkeypatch.setenv("LANG", "C.UTF-8")
    lines = sandbox.run(["env"], text=True).stdout.splitlines()
    assert "LANG=C.UTF-8" in lines
    assert not [line for line in lines if "SECRET" in line]


def test_a_kept_plan_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("one", "two"):
        monkeypatch.setenv("TERM", value)
        assert f"TERM={value}\n" in sandbox.run(["env"], text=True).stdout


def test_binds_and_tmpfs(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x").write_text("seen")
    r = sandbox.run(
        ["sh", "-c", "cat /data/x; touch /data/y; touch /scratch/z && echo made"],
        binds=[f"{tmp_path}/data:/data:ro"],
        tmpfs=["/scratch:1M"],
        text=True,
    )
    assert r.stdout == "seenmade\n"
    assert "Read-only" in r.stderr


@pytest.mark.parametrize(
    ("wrong", "kind", "message"),
    [
        ({"memory": "12Q"}, sandbox.ProfileError, "argument memory.*12Q"),
        ({"profile": "nope"}, sandbox.ProfileError, 'no profile "nope"'),
        ({"binds": ["/x"]}, sandbox.ProfileError, "argument binds.*SRC:DST"),
        ({"binds": ["/nonexistent:/y"]}, sandbox.ProfileError, "argument binds.*does not exist"),
        ({"net": "lan"}, sandbox.ProfileError, "argument net: there is no network"),
        ({"overrides": {"limits.foo": 1}}, sandbox.ProfileError, 'unknown key "foo"'),
        ({"timeout": 0}, sandbox.ProfileError, "more than 0"),
        ({"cwd": "/nonexistent"}, sandbox.SetupError, "working directory"),
        ({"env": {"A": 1}}, TypeError, "value of environment variable 'A' must be str, not int"),
        ({"env": {1: "A"}}, TypeError, "name of environment variable 1 must be str, not int"),
    ],
)
def test_wrong_arguments_say_what_is_wrong(wrong: Any, kind: type[Exception], message: str) -> None:
    before = open_fds()
    with pytest.raises(kind, match=message):
        sandbox.run(["true"], **wrong)
    assert open_fds() == before


def test_a_loaded_profile_takes_what_a_name_takes(tmp_path: Path) -> None:
    profile = sandbox.Profile.load("untrusted")
    r = sandbox.run(["sleep", "60"], profile=profile, timeout="200ms")
    assert r.verdict == "timeout"
    with pytest.raises(sandbox.ProfileError, match="argument timeout"):
        sandbox.run(["true"], profile=profile, timeout="soon")
    (tmp_path / "x").write_text("seen")
    (tmp_path / "x").chmod(0o644)
    tmp_path.chmod(0o755)
    script = "cat /x/x; touch /t/made && echo $A"
    r = sandbox.run(
        ["sh", "-c", script],
        profile=profile,
        binds=[f"{tmp_path}:/x:ro"],
        mounts={"/t": "tmpfs"},
        overrides={"env.set": {"A": "1"}},
        text=True,
    )
    assert (r.stdout, r.stderr) == ("seen1\n", "")
    assert profile == sandbox.Profile.load("untrusted")


def test_loaded_profiles_are_told_apart() -> None:
    for name in ("one", "two", "three"):  # each may get the place in memory of the one before
        profile = sandbox.Profile.load("untrusted", {"process.hostname": name})
        assert sandbox.run(["hostname"], profile=profile, timeout=5, text=True).stdout == f"{name}\n"
        del profile


def test_a_plan_is_made_anew_when_the_project_changes(here: Path) -> None:
    script = ["sh", "-c", "echo $X"]
    assert sandbox.run(script, text=True).stdout == "\n"
    (here / "sandbox.toml").write_text('[process]\nhostname = "first"\n')
    assert sandbox.run(["hostname"], text=True).stdout == "first\n"
    (here / "sandbox.toml").write_text('[process]\nhostname = "second"\n')
    assert sandbox.run(["hostname"], text=True).stdout == "second\n"
    (here / "sandbox.toml").unlink()
    assert sandbox.run(["hostname"], text=True).stdout == "sandbox\n"


def test_many_threads_run_at_once() -> None:
    before = open_fds()
    results: list[tuple[int, sandbox.Result]] = []

    def work(number: int) -> None:
        for step in range(5):
            own = number * 5 + step
            results.append(
                (own, sandbox.run(["sh", "-c", f"cat; exit {own}"], input=str(own).encode() * 30_000))
            )

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(own for own, _ in results) == list(range(40))
    assert all(r.returncode == own and r.stdout == str(own).encode() * 30_000 for own, r in results)
    broker.stop()
    assert open_fds() == before


def test_the_callers_other_descriptors_stay_outside() -> None:
    extra = [os.open("/etc/passwd", os.O_RDONLY) for _ in range(20)]
    for fd in extra:
        os.set_inheritable(fd, True)
    try:
        # ls itself opens the directory, as 3.
        assert sandbox.run(["ls", "/proc/self/fd"], text=True).stdout.split() == ["0", "1", "2", "3"]
        with sandbox.Sandbox() as sb:
            assert sb.run(["ls", "/proc/self/fd"], text=True).stdout.split() == ["0", "1", "2", "3"]
    finally:
        for fd in extra:
            os.close(fd)


# --- what a caller may do to us -------------------------------------------------------------------


def python(code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run *code* in an interpreter of its own."""
    environ = {**os.environ, "PYTHONPATH": str(Path(sandbox.__file__).parent.parent)}
    command = [sys.executable, "-c", "import os, signal, sandbox\n" + code]
    return subprocess.run(command, capture_output=True, text=True, env=environ, timeout=60, **options)


def test_children_that_somebody_else_reaps() -> None:
    done = python(
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "print(sandbox.run(['sh', '-c', 'exit 3']).returncode)\n"
        "def reap(*_):\n"
        "    try:\n"
        "        while os.waitpid(-1, os.WNOHANG)[0]: pass\n"
        "    except ChildProcessError: pass\n"
        "signal.signal(signal.SIGCHLD, reap)\n"
        "for n in range(10): print(sandbox.run(['sh', '-c', f'exit {n}']).returncode, end=' ')\n"
    )
    assert (done.stdout, done.stderr) == ("3\n" + "".join(f"{n} " for n in range(10)), "")


def test_other_children_are_left_alone() -> None:
    done = python(
        "pid = os.posix_spawn('/bin/sh', ['sh', '-c', 'exit 7'], {})\n"
        "sandbox.run(['true'])\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    assert (done.stdout, done.stderr) == ("7\n", "")


def test_closed_standard_descriptors() -> None:
    done = python(
        "for fd in (0, 1, 2): os.close(fd)\n"
        "r = sandbox.run(['sh', '-c', 'cat; echo out; echo err >&2; ls /proc/self/fd'], stdin=None)\n"
        "with sandbox.Sandbox() as sb: s = sb.run(['cat'], input=b'x')\n"
        "ok = r.stdout == b'out\\n0\\n1\\n2\\n3\\n' and r.stderr == b'err\\n' and s.stdout == b'x'\n"
        "os._exit(0 if ok else 1)\n"
    )
    assert done.returncode == 0


def test_a_killed_caller_leaves_nothing() -> None:
    """The `leaks` fixture looks for what is left."""
    code = (
        "sb = sandbox.Sandbox()\n"
        "sb.popen(['sh', '-c', 'setsid sleep 1000 & exec sleep 1000'])\n"
        "import threading\n"
        "threading.Thread(target=sandbox.run, args=(['sleep', '1000'],), daemon=True).start()\n"
        "import time; time.sleep(0.5)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert python(code).returncode == -signal.SIGKILL


def test_an_exiting_caller_leaves_nothing() -> None:
    assert python("sb = sandbox.Sandbox()\nsb.popen(['sleep', '1000'])\n").returncode == 0


def test_the_thread_that_started_it_may_end() -> None:
    made: list[sandbox.Sandbox] = []
    thread = threading.Thread(target=lambda: made.append(sandbox.Sandbox()))
    thread.start()
    thread.join()
    time.sleep(0.1)
    with made[0] as sb:
        assert sb.run(["true"]).ok


def test_a_fork_of_the_caller_does_not_end_its_sandboxes() -> None:
    done = python(
        "sb = sandbox.Sandbox()\n"
        "if os.fork() == 0:\n"
        "    del sb\n"
        "    import gc; gc.collect()\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "print(sb.run(['echo', 'alive'], text=True).stdout)\n"
    )
    assert (done.stdout, done.stderr) == ("alive\n\n", "")


def test_ctrl_c_ends_the_command() -> None:
    environ = {**os.environ, "PYTHONPATH": str(Path(sandbox.__file__).parent.parent)}
    code = "import sandbox\nprint('go', flush=True)\nsandbox.run(['sleep', '1000'])"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"go\n"
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert errors.rstrip().endswith(b"KeyboardInterrupt")


# --- a sandbox that stays --------------------------------------------------------------------------


def test_commands_share_a_sandbox() -> None:
    with sandbox.Sandbox("untrusted") as sb:
        assert sb.enforced["pids"] == "rlimit"
        assert sb.profile.name == "untrusted"
        assert sb.run(["sh", "-c", "echo one > /tmp/x"]).ok
        assert sb.run(["cat", "/tmp/x"], text=True).stdout == "one\n"
        assert sb.run(["cat", "/proc/self/loginuid"]).returncode in (0, 1)
        assert sb.run(["pwd"], cwd="/tmp", text=True).stdout == "/tmp\n"
        assert sb.run(["env"], env={"A": "1"}, text=True).stdout == "A=1\n"
    assert sb.closed


def test_a_commands_own_timeout_ends_that_command_alone() -> None:
    with sandbox.Sandbox() as sb:
        other = sb.popen(["sleep", "1000"])
        r = sb.run(["sleep", "1000"], timeout="200ms")
        assert (r.verdict, r.limit is not None and r.limit.name) == ("timeout", "timeout")
        assert other.poll() is None
        other.kill()
        assert other.wait() == -signal.SIGKILL


def test_processes_end_with_their_command() -> None:
    with sandbox.Sandbox() as sb:
        r = sb.run(["sh", "-c", "sleep 1000 & echo started"], text=True)
        assert r.stdout == "started\n"
        assert "sleep" not in sb.run(["sh", "-c", "cat /proc/[0-9]*/comm"], text=True).stdout


def test_signals_reach_the_command() -> None:
    script = "trap 'echo caught; exit 5' TERM; echo ready; while :; do sleep 0.05; done"
    with sandbox.Sandbox() as sb, sb.popen(["sh", "-c", script], stdout=sandbox.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.communicate() == ("caught\n", None)
        assert process.returncode == 5


def test_closing_ends_what_runs() -> None:
    sb = sandbox.Sandbox()
    process = sb.popen(["sleep", "1000"])
    sb.run(["true"])  # so that the first has been started
    sb.close()
    assert process.wait() == -signal.SIGKILL
    assert process.result is not None
    assert process.result.verdict == "killed"
    with pytest.raises(sandbox.SetupError):
        sb.run(["true"])


def test_a_supervisor_killed_from_outside_is_a_verdict() -> None:
    sb = sandbox.Sandbox()
    process = sb.popen(["sleep", "1000"])
    sb.run(["true"])
    os.kill(sb._channel.helper.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert process.result is not None
    assert process.result.verdict == "killed"
    assert sb.closed
    sb.close()


def test_hundreds_of_commands_nobody_waits_for() -> None:
    with sandbox.Sandbox() as sb:
        processes = [sb.popen(["true"]) for _ in range(300)]
        codes = [process.wait() for process in processes]
    refused = [p for p in processes if p.result is not None and "already" in p.result.message]
    assert all(code == 0 for code, p in zip(codes, processes, strict=True) if p not in refused)


def test_threads_share_a_sandbox() -> None:
    wrong: list[Any] = []

    def work(number: int) -> None:
        for step in range(20):
            path, data = f"/tmp/{number}", f"{number}.{step}".encode() * 1000
            sb.write_file(path, data)
            r = sb.run(["sh", "-c", f"cat {path}; exit {number}"])
            if (r.stdout, r.returncode, sb.read_file(path)) != (data, number, data):
                wrong.append(r)

    with sandbox.Sandbox() as sb:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


# --- files -----------------------------------------------------------------------------------------


def test_files_go_in_and_out() -> None:
    data = os.urandom(3 << 20)
    with sandbox.Sandbox("untrusted") as sb:
        sb.write_file("/tmp/in", data, mode=0o751)
        assert sb.read_file("/tmp/in") == data
        sb.write_file("/tmp/in", "shorter")
        assert sb.read_file("/tmp/in") == b"shorter"
        r = sb.run(["stat", "-c", "%a %u", "/tmp/in"], text=True)
        assert r.stdout == f"751 {os.getuid()}\n"
        with pytest.raises(OSError, match="larger"):
            sb.read_file("/tmp/in", max_size=6)
    assert _MAX_FILE > 1 << 20


def test_files_are_opened_as_the_command(here: Path) -> None:
    (here / "x").write_text("relative")
    with sandbox.Sandbox("untrusted") as sb:
        assert sb.read_file("x") == b"relative"
        for path in ("x", "/usr/bin/x"):
            with pytest.raises(OSError, match=r"Read-only|denied"):
                sb.write_file(path, "y")
        with pytest.raises(FileNotFoundError):
            sb.read_file("/nowhere")


@pytest.mark.parametrize(
    "plant",
    [
        "ln -s /etc/hostname /tmp/bait",
        "ln -s /nonexistent /tmp/bait",
        "mkfifo /tmp/bait",
        "mkdir /tmp/bait",
        "ln -s /dev/zero /tmp/bait",
        "ln -s /proc/self/environ /tmp/bait",
        "ln /dev/null /tmp/bait || ln -s /dev/null /tmp/bait",
    ],
)
def test_planted_things_are_not_followed(plant: str) -> None:
    with sandbox.Sandbox("untrusted") as sb:
        sb.run(["sh", "-c", plant])
        for attempt in (lambda: sb.read_file("/tmp/bait"), lambda: sb.write_file("/tmp/bait", b"x")):
            with pytest.raises(OSError, match=r"bait"):
                attempt()
        assert sb.run(["true"]).ok


def test_links_lead_into_the_root_and_not_to_the_host(tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret").write_text("host")
    with sandbox.Sandbox("untrusted") as sb:
        sb.run(["ln", "-s", f"{'../' * 30}{outside}", "/tmp/dir"])
        with pytest.raises(FileNotFoundError):
            sb.read_file("/tmp/dir/secret")
        with pytest.raises(OSError, match="dir/planted"):
            sb.write_file("/tmp/dir/planted", b"x")
    assert not (outside / "planted").exists()


def test_dots_while_others_rename(tmp_path: Path) -> None:
    """The kernel is not sure of ".." then, and wants to be asked again (openat2(2), EAGAIN)."""
    script = "import os\nopen('a', 'w')\nwhile True: os.rename('a', 'b'); os.rename('b', 'a')"
    with sandbox.Sandbox("untrusted") as sb:
        sb.run(["ln", "-s", f"{'../' * 3}etc", "/tmp/etc"])
        renaming = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path)
        try:
            wait_until(lambda: {"a", "b"} & set(os.listdir(tmp_path)))
            assert all(sb.read_file("/tmp/etc/passwd") for _ in range(200))
        finally:
            renaming.kill()
            renaming.wait()


def test_kernel_files_are_not_read() -> None:
    with sandbox.Sandbox("untrusted") as sb:
        for path in ("/proc/version", "/proc/self/status", "/dev/null"):
            with pytest.raises(OSError, match=path):
                sb.read_file(path)


# --- a caller with few descriptors, and a fork of one ----------------------------------------------


def test_too_many_open_files_is_an_error_and_leaves_nothing() -> None:
    done = python(
        "import resource\n"
        "from sandbox.launch import broker\n"
        "def used(): return len(os.listdir('/proc/self/fd')) - 1\n"
        "def attempt(n, what):\n"
        "    before = used()\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (before + n, 1024))\n"
        "    try: answer = what()\n"
        "    except sandbox.SandboxError as error: answer = 'Too many open files' in str(error)\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))\n"
        "    broker.stop()\n"
        "    assert answer and used() == before, (n, answer)\n"
        "sandbox.run(['true'])\n"
        "for n in range(20): attempt(n, lambda: sandbox.run(['true']).ok)\n"
        "with sandbox.Sandbox() as sb:\n"
        "    for n in range(12): attempt(n, lambda: sb.run(['true']).ok)\n"
    )
    assert (done.stderr, done.returncode) == ("", 0)


def test_a_fork_can_not_use_its_parents_sandbox() -> None:
    done = python(
        "sb = sandbox.Sandbox()\n"
        "if (pid := os.fork()) == 0:\n"
        "    try: sb.run(['true'])\n"
        "    except sandbox.SetupError as error: os._exit('process that made it' in str(error))\n"
        "    os._exit(9)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), sb.run(['true']).ok)\n"
    )
    assert (done.stdout, done.stderr) == ("1 True\n", "")


def test_a_whole_second_of_cpu_time_is_the_limits_not_a_signal() -> None:
    """RLIMIT_CPU counts in ticks, which run ahead: it must not come first."""
    result = sandbox.run(["sh", "-c", "while :; do :; done"], profile="untrusted", cpu_time="1s")
    assert (result.verdict, result.limit.name) == ("cpu_time", "cpu_time")
