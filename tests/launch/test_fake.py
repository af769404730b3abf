"""run() and Sandbox over the real control protocol, with a function in place of a sandbox."""

from __future__ import annotations

import gc
import io
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import sandbox
from sandbox import wire
from sandbox.launch import plans
from sandbox.launch.backend import Started, pair
from sandbox.launch.fake import Command, Fake, Outcome
from sandbox.launch.kept import Keeping
from sandbox.launch.prepare import Prepared
from sandbox.launch.result import CalledProcessError, Result
from sandbox.profile.model import Profile

ECHO = Fake(lambda command: Outcome(stdout=command.stdin, stderr=os.fsencode(" ".join(command.argv))))


@pytest.fixture(autouse=True)
def plan(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """No profile is read: the fake looks at the slots alone. The value gathers what was asked for."""
    asked: list[Any] = []

    def prepared(profile: Any, kept: Keeping, cwd: Any) -> Prepared:
        asked.append((profile, dict(kept.overrides), cwd))
        ids = SimpleNamespace(host_uid=os.geteuid(), host_gid=os.getegid())
        plan: Any = SimpleNamespace(
            enforced={"pids": "rlimit"},
            workdir="/work",
            needs_scratch=False,
            ids=ids,
            namespaces=0,
            settings=None,
            addresses=(),
            stop_signal=0,
            membership=None,
            leases=(),
        )
        return Prepared(Profile(name="x"), plan, wire.encode([]), (("A", "1"), ("HOME", None)), ())

    monkeypatch.setattr(plans, "_prepare", prepared)
    return asked


def open_fds() -> set[str]:
    gc.collect()
    return set(os.listdir("/proc/self/fd"))


def test_run_captures_both_streams_by_default() -> None:
    r = sandbox.run(["cat", "x"], input=b"hello", backend=ECHO)
    assert (r.stdout, r.stderr, r.returncode, r.verdict) == (b"hello", b"cat x", 0, "ok")
    assert r.ok
    assert isinstance(r, subprocess.CompletedProcess)


def test_text_mode_decodes_and_translates_newlines() -> None:
    r = sandbox.run("cat", input="é\r\nx\r", text=True, encoding="utf-8", backend=ECHO)
    assert r.stdout == "é\nx\n"


@pytest.mark.parametrize(("data", "text"), [("str", False), (b"bytes", True)])
def test_input_must_fit_the_mode(data: Any, text: bool) -> None:
    with pytest.raises(TypeError, match="input is"):
        sandbox.run("cat", input=data, text=text, backend=ECHO)


def test_large_data_both_ways_does_not_deadlock() -> None:
    data = os.urandom(5_000_000)
    backend = Fake(lambda command: Outcome(stdout=command.stdin, stderr=command.stdin[::-1]))
    r = sandbox.run("cat", input=data, backend=backend)
    assert r.stdout == data
    assert r.stderr == data[::-1]


def test_input_that_nobody_reads_is_no_error() -> None:
    class Deaf(Fake):
        def start(self, plan: bytes, fds: Any, **options: Any) -> Any:
            import sandbox.launch.fake as fake

            reader, fake._read = fake._read, lambda fd: b""
            try:
                return super().start(plan, fds)
            finally:
                time.sleep(0.05)
                fake._read = reader

    assert sandbox.run("true", input=b"x" * 1_000_000, backend=Deaf()).ok


def test_streams_go_where_they_are_sent(tmp_path: Path) -> None:
    with open(tmp_path / "out", "wb") as file:
        r = sandbox.run(["x"], input=b"abc", stdout=file, stderr=sandbox.STDOUT, backend=ECHO)
    assert (r.stdout, r.stderr) == (None, None)
    assert sorted((tmp_path / "out").read_bytes()) == sorted(b"abcx")


def test_stdout_to_a_file_leaves_stderr_captured(tmp_path: Path) -> None:
    with open(tmp_path / "out", "wb") as file:
        r = sandbox.run(["x"], stdout=file, backend=ECHO)
    assert (r.stdout, r.stderr) == (None, b"x")


def test_without_capture_the_callers_streams_are_inherited(capfd: pytest.CaptureFixture[str]) -> None:
    r = sandbox.run(["x"], input=b"seen", capture_output=False, backend=ECHO)
    assert (r.stdout, r.stderr) == (None, None)
    assert capfd.readouterr() == ("seen", "x")


@pytest.mark.parametrize(
    "wrong",
    [
        {"input": b"", "stdin": sandbox.PIPE},
        {"capture_output": True, "stdout": sandbox.PIPE},
        {"stdin": 987},
        {"stdin": sandbox.STDOUT},
    ],
)
def test_contradicting_streams_are_refused(wrong: Any) -> None:
    before = open_fds()
    with pytest.raises(ValueError, match=r"may not|not an open"):
        sandbox.run("x", backend=ECHO, **wrong)
    assert open_fds() == before


@pytest.mark.parametrize("args", [[], [""], ["a\0b"]])
def test_no_command_is_refused(args: Any) -> None:
    with pytest.raises(ValueError, match=r"command|null"):
        sandbox.run(args, backend=ECHO)


def test_paths_and_bytes_are_arguments() -> None:
    r = sandbox.run([Path("/bin/x"), b"\xff", "ü"], backend=ECHO)
    assert r.stderr == b"/bin/x \xff \xc3\xbc"


def test_overrides_reach_the_profile(plan: list[Any]) -> None:
    sandbox.run("x", profile="untrusted", memory="1M", net="none", timeout=2, cwd="/", backend=ECHO)
    sandbox.run("x", pids=3, overrides={"limits.pids": 4, "process.nice": 5}, backend=ECHO)
    assert plan == [
        ("untrusted", {"limits.memory": "1M", "net.mode": "none", "limits.timeout": 2}, "/"),
        (None, {"limits.pids": 4, "process.nice": 5}, None),
    ]


def test_misspelt_keyword_names_the_nearest() -> None:
    wrong: Any = {"memroy": 1}
    with pytest.raises(TypeError, match=r"run\(\) .*'memroy'; did you mean 'memory'\?"):
        sandbox.run("x", **wrong)


def test_env_replaces_the_environment() -> None:
    with sandbox.Sandbox(backend=(fake := Fake())) as sb:
        sb.run("x", env={"B": "2"}, cwd="sub")
        sb.run("x", timeout="500ms")
    first, second = fake.commands
    assert (first.environment, first.workdir, first.timeout) == (["B=2"], "/work/sub", None)
    assert (second.environment, second.workdir, second.timeout) == (None, None, 0.5)


@pytest.mark.parametrize("env", [{"": "x"}, {"a=b": "x"}, {"a": "x\0"}])
def test_wrong_env_is_refused(env: Any) -> None:
    before = open_fds()
    with sandbox.Sandbox(backend=Fake()) as sb, pytest.raises(ValueError, match="illegal"):
        sb.run("x", env=env)
    assert open_fds() == before


def test_check_raises_with_the_result() -> None:
    limit = {"name": "memory", "value": 100, "mechanism": "cgroup"}
    outcome = Outcome(
        None, verdict="memory", fields={"signal": 9, "limit": limit, "message": "memory limit 100"}
    )
    with pytest.raises(subprocess.CalledProcessError, match="memory limit 100") as caught:
        sandbox.run("x", check=True, backend=Fake(lambda command: outcome))
    assert isinstance(caught.value, CalledProcessError)
    result = caught.value.result
    assert (result.returncode, result.limit, result.ok) == (-9, sandbox.Limit("memory", 100, "cgroup"), False)
    assert sandbox.run("x", check=True, backend=Fake()).ok


def test_a_failed_setup_is_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    from sandbox import host

    monkeypatch.setattr(host, "explain", lambda *_: None)

    def fails(command: Command) -> Outcome:
        raise RuntimeError("cannot bind /x on /y: No such file or directory")

    before = open_fds()
    with pytest.raises(sandbox.SetupError, match="cannot bind /x on /y"):
        sandbox.run("x", backend=Fake(fails))
    row = sandbox.Check("userns", False, True, "off", "nothing works", "sysctl -w x=1")
    monkeypatch.setattr(host, "explain", lambda *_: row)
    with pytest.raises(sandbox.HostError, match=r"nothing works\n  mend: sysctl -w x=1") as caught:
        sandbox.run("x", backend=Fake(fails))
    assert caught.value.row == "userns"
    del caught
    assert open_fds() == before


def test_a_supervisor_that_dies_is_told_apart() -> None:
    class Dies(Fake):
        def start(self, plan: bytes, fds: Any, **options: Any) -> Any:
            control, theirs = pair()
            os.close(theirs)
            return Started(control, SimpleNamespace(pid=1, wait=lambda timeout=None: True, kill=lambda: None))

    with pytest.raises(sandbox.SetupError, match="before the command ran"):
        sandbox.run("x", backend=Dies())
    with pytest.raises(sandbox.SetupError, match="while it was made"):
        sandbox.Sandbox(backend=Dies())


def test_a_result_sent_before_an_unread_request_counts() -> None:
    """The kernel reports such an end (ECONNRESET) before it hands out what was sent before it."""

    class Hasty(Fake):
        def start(self, plan: bytes, fds: Any, **options: Any) -> Any:
            import socket

            ours, theirs = pair()
            control = socket.socket(fileno=theirs)

            def live() -> None:
                control.send(b'{"event":"ready"}')
                control.recv(1, socket.MSG_PEEK)  # a request has come, and stays unread
                control.send(b'{"event":"result","id":1,"verdict":"nonzero","exit_code":3}')
                control.close()

            threading.Thread(target=live).start()
            return Started(ours, SimpleNamespace(pid=1, wait=lambda timeout=None: True, kill=lambda: None))

    for _ in range(20):
        assert sandbox.Sandbox(backend=Hasty()).run("x").returncode == 3


def test_nothing_is_left_open() -> None:
    before = open_fds(), threading.active_count()
    for _ in range(3):
        sandbox.run("x", input=b"1", backend=ECHO)
        with sandbox.Sandbox(backend=ECHO) as sb:
            sb.run("x", input=b"1")
            with sb.popen("x", stdin=sandbox.PIPE, stdout=sandbox.PIPE, stderr=sandbox.PIPE) as p:
                p.communicate(b"2")
            sb.popen("x")
    while threading.active_count() > before[1]:
        time.sleep(0.01)
    assert open_fds() == before[0]


def test_dropping_the_last_reference_ends_the_sandbox() -> None:
    before = open_fds()
    sb = sandbox.Sandbox(backend=ECHO)
    gone = sb._channel.helper
    del sb
    gc.collect()
    assert gone.wait(10)
    assert open_fds() == before


def test_many_threads_share_one_sandbox() -> None:
    def handler(command: Command) -> Outcome:
        time.sleep(int(command.argv[1]) % 7 / 1000)
        return Outcome(int(command.argv[1]) % 2, stdout=command.stdin)

    results: dict[int, Result] = {}

    def work(first: int) -> None:
        for number in range(first, first + 20):
            results[number] = sb.run(["x", str(number)], input=str(number).encode() * 50_000)

    with sandbox.Sandbox(backend=Fake(handler)) as sb:
        threads = [threading.Thread(target=work, args=(first,)) for first in range(0, 200, 20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert sorted(results) == list(range(200))
    for number, result in results.items():
        assert result.stdout == str(number).encode() * 50_000
        assert result.returncode == number % 2


def test_two_threads_may_wait_for_one_command() -> None:
    release = threading.Event()

    def handler(command: Command) -> Outcome:
        release.wait(30)
        return Outcome(3)

    codes: list[int] = []
    with sandbox.Sandbox(backend=Fake(handler)) as sb:
        process = sb.popen("x")
        threads = [threading.Thread(target=lambda: codes.append(process.wait())) for _ in range(5)]
        for thread in threads:
            thread.start()
        assert process.poll() is None
        assert process.returncode is None
        release.set()
        for thread in threads:
            thread.join(30)
    assert codes == [3] * 5
    assert process.result is not None
    assert process.result.verdict == "nonzero"


def test_closing_wakes_those_who_wait() -> None:
    outcomes: list[int] = []

    hang = threading.Event()
    sb = sandbox.Sandbox(backend=Fake(lambda command: Outcome(int(hang.wait(60)))))
    processes = [sb.popen("x") for _ in range(3)]
    threads = [threading.Thread(target=lambda p=each: outcomes.append(p.wait())) for each in processes]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    sb.close()
    sb.close()
    for thread in threads:
        thread.join(30)
    hang.set()
    assert sb.closed
    assert outcomes == [-9, -9, -9]
    assert all(each.result is not None and each.result.verdict == "killed" for each in processes)
    with pytest.raises(sandbox.SetupError, match=r"closed|ended"):
        sb.run("x")


def test_wait_and_communicate_time_out_and_go_on() -> None:
    release = threading.Event()

    def handler(command: Command) -> Outcome:
        release.wait(30)
        return Outcome(stdout=b"late")

    with sandbox.Sandbox(backend=Fake(handler)) as sb:
        process = sb.popen("x", stdout=sandbox.PIPE)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        with pytest.raises(subprocess.TimeoutExpired):
            process.communicate(timeout=0.01)
        release.set()
        assert process.communicate() == (b"late", None)
        assert process.wait() == 0


def test_popen_pipes_are_files() -> None:
    with sandbox.Sandbox(backend=ECHO) as sb, sb.popen("x", stdin=-1, stdout=-1, text=True) as process:
        assert isinstance(process.stdin, io.TextIOWrapper)
        assert process.stdout is not None
        process.stdin.write("one\ntwo\n")
        process.stdin.close()
        assert process.stdout.readlines() == ["one\n", "two\n"]
        assert process.wait() == 0


def test_write_and_read_file() -> None:
    with sandbox.Sandbox(backend=Fake()) as sb:
        sb.write_file("in", "é")
        assert sb.read_file("/work/in") == b"\xc3\xa9"
        assert sb.read_file("in", max_size=2) == b"\xc3\xa9"
        with pytest.raises(OSError, match="larger than 1 bytes"):
            sb.read_file("in", max_size=1)
        with pytest.raises(FileNotFoundError):
            sb.read_file("/missing")
        with pytest.raises(ValueError, match="null"):
            sb.read_file("/a\0b")


def test_a_request_larger_than_a_datagram() -> None:
    with sandbox.Sandbox(backend=(fake := Fake())) as sb:
        assert sb.run(["x", "y" * 1_000_000]).ok
    assert len(fake.commands[0].argv[1]) == 1_000_000


@pytest.mark.parametrize("wrong", [{"memory": 1}, {"binds": []}])
def test_a_sandboxs_values_are_not_a_commands(wrong: Any) -> None:
    with sandbox.Sandbox(backend=Fake()) as sb, pytest.raises(TypeError, match="give it to Sandbox"):
        sb.run("x", **wrong)


def test_interrupt_ends_the_command_and_goes_on() -> None:
    main = threading.get_ident()

    def handler(command: Command) -> Outcome:
        import signal

        time.sleep(0.1)  # until the main thread waits
        signal.pthread_kill(main, signal.SIGINT)
        time.sleep(0.2)
        return Outcome()

    before = open_fds()
    with pytest.raises(KeyboardInterrupt):
        sandbox.run("x", backend=Fake(handler))
    time.sleep(0.3)
    assert open_fds() == before


def test_terminal_as_stdin_only_without_capture() -> None:
    """A child whose stdin is a terminal: what the supervisor is given as the command's stdin."""
    import pty

    code = (
        "import os, sys\n"
        "from sandbox.launch.arguments import streams_of\n"
        "cases = {}, {'capture_output': False}, {'stdin': -3}\n"
        "kinds = [os.isatty(streams_of(c).given[0]) for c in cases]\n"
        "print(kinds)\n"
    )
    master, slave = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", code], stdin=slave, capture_output=True, text=True, check=True
    )
    os.close(master)
    os.close(slave)
    assert done.stdout == "[False, True, False]\n"
