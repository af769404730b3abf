"""The terminal: a real shell with job control on a pty, and the supervisor as its job."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import shlex
import signal
import struct
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helper import runs

pytestmark = [pytest.mark.integration]

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "READY> "

# What the command line does: Python becomes the supervisor.
LAUNCH = """
import os, sys
from sandbox.wire import Kind, encode
from tests.helper import runs
seconds, helper, *command = sys.argv[1:]
extra = [runs.limit("timeout", int(float(seconds) * 1e9), "clock")] if float(seconds) else []
plan = encode([*runs.records(), *extra, runs.slot(Kind.ARGV, *command)])
fd = os.memfd_create("plan", 0)
os.write(fd, plan)
os.set_inheritable(fd, True)
os.execve(helper, [helper, "run", str(fd)], {})
"""


class Shell:
    """A terminal, with an interactive bash (or another program) at its other end."""

    def __init__(self, launch: list[str], program: list[str]) -> None:
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            environ = {**os.environ, "PS1": PROMPT, "TERM": "dumb", "PYTHONPATH": str(ROOT)}
            os.execvpe(program[0], program, environ)
        self.launch = shlex.join(launch)
        self.seen = b""

    def expect(self, pattern: str) -> bytes:
        """Read until *pattern* comes; return everything up to its end."""
        end = time.monotonic() + runs.PATIENCE
        while not (match := re.search(pattern.encode(), self.seen, re.DOTALL)):
            ready = select.select([self.terminal], [], [], max(0.0, end - time.monotonic()))[0]
            assert ready, f"no {pattern!r} in {self.seen!r}"
            self.seen += os.read(self.terminal, 1 << 16)
        before, self.seen = self.seen[: match.end()], self.seen[match.end() :]
        return before

    def type(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def prompt(self) -> bytes:
        return self.expect(re.escape(PROMPT))

    def shell(self, line: str) -> bytes:
        """Have the shell execute a line, to its next prompt."""
        self.type(line + "\n")
        return self.prompt()

    def start(self, script: str, *, redirect: str = "", seconds: float = 0) -> None:
        """Run a script in a sandbox. It says when it runs: no word of the typed line looks like that.

        In bash, which forks. Ctrl-Z in the moment of dash's vfork(2) stops the child before its exec
        and leaves the parent waiting for that, in any terminal.
        """
        script = f"printf 'be%s\\n' gun; {script}"
        self.type(f'{self.launch} {seconds} "$HELPER" bash -c {shlex.quote(script)} {redirect}\n')
        self.expect("begun\r*\n")

    def job(self) -> int:
        """The supervisor: the only child of the shell."""
        (pid,) = runs.children(self.pid)
        return pid

    def is_raw(self) -> bool:
        # not ICANON, which a shell that edits its line turns off as well
        return not termios.tcgetattr(self.terminal)[3] & termios.ISIG

    def until_raw(self) -> None:
        end = time.monotonic() + runs.PATIENCE
        while not self.is_raw():
            assert time.monotonic() < end, "the terminal did not become raw"
            time.sleep(0.01)

    def status(self) -> int:
        found = re.search(rb"\nstatus=(\d+)\r", self.shell("echo status=$?"))
        assert found
        return int(found[1])

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.terminal)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)  # our own child, not waited for yet
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


@pytest.fixture
def launch(tmp_path: Path) -> list[str]:
    script = tmp_path / "launch.py"
    script.write_text(LAUNCH)
    return [sys.executable, str(script)]


@pytest.fixture
def shell(helper: Path, launch: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    monkeypatch.setenv("HELPER", str(helper))
    opened = Shell(launch, ["bash", "--norc", "--noprofile", "-i"])
    try:
        opened.prompt()
        yield opened
    finally:
        opened.close()


def size(shell: Shell, rows: int, columns: int) -> None:
    fcntl.ioctl(shell.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def test_a_terminal_of_its_own(shell):
    size(shell, 31, 97)
    shell.start("tty; stty size; readlink /proc/self/fd/[012]")
    seen = shell.prompt()
    assert seen.startswith(b"/dev/pts/0\r\n31 97\r\n")
    assert not shell.is_raw()


def test_lines_and_end_of_file(shell):
    shell.start("cat")
    shell.until_raw()
    shell.type("hello\n")
    shell.expect("hello\r\nhello\r\n")
    shell.type("\x04")
    shell.prompt()
    assert shell.status() == 0


def test_interrupt(shell):
    shell.start("exec sleep 1000")
    shell.until_raw()
    shell.type("\x03")
    shell.prompt()
    assert shell.status() == 130
    assert not shell.is_raw()


def test_resize(shell):
    shell.start("trap 'stty size; exit' WINCH; echo set; while :; do sleep 0.05; done")
    shell.expect("set\r\n")
    shell.until_raw()
    size(shell, 41, 121)
    shell.expect("41 121\r\n")
    shell.prompt()


def test_stop_and_foreground(shell):
    shell.start("read x; echo got $x")
    shell.until_raw()
    shell.type("\x1a")
    shell.expect("Stopped")
    shell.prompt()
    assert not shell.is_raw()
    shell.type("fg\n")
    shell.until_raw()
    shell.type("line\n")
    shell.expect("got line\r\n")
    shell.prompt()


def test_stop_background_foreground(shell):
    shell.start("sleep 1; echo lo'o'ped; read x; echo got $x")
    shell.until_raw()
    shell.type("\x1a")
    shell.expect("Stopped")
    shell.prompt()
    shell.shell("bg")
    shell.expect("looped\r")
    # what is typed meanwhile is the shell's
    assert b"\n5\r" in shell.shell("echo $((2 + 3))")
    assert b"Running" in shell.shell("jobs")
    shell.type("fg\n")
    shell.until_raw()
    shell.type("line\n")
    shell.expect("got line\r\n")
    shell.prompt()


def test_started_in_the_background(shell):
    shell.start("sleep 0.5; echo d'o'ne", redirect="&")
    assert b"\n5\r" in shell.shell("echo $((2 + 3))")
    shell.expect("done\r")


def test_without_a_pty_stop_and_continue(shell):
    shell.start("for i in 1 2 3 4 5; do sleep 0.1; done; echo d'o'ne", redirect="</dev/null")
    shell.type("\x1a")
    shell.expect("Stopped")
    shell.prompt()
    time.sleep(1.5)  # three times what it takes: stopped, it does not get there
    assert not re.search(rb"done\r", shell.shell("true"))
    shell.type("fg\n")
    shell.expect("done\r")
    shell.prompt()


def test_without_a_pty_no_terminal_gets_in(shell):
    shell.start("tty <&1; tty <&2; cat </dev/tty", redirect="</dev/null")
    seen = shell.prompt()
    assert seen.count(b"not a tty") == 2
    assert b"/dev/tty" in seen


def test_a_stopped_job_still_times_out(shell):
    shell.start("exec sleep 1000", seconds=2)
    shell.until_raw()
    shell.type("\x1a")
    shell.expect("Stopped")
    shell.prompt()
    shell.expect("killed: timeout 2s[^\\n]*\n")
    end = time.monotonic() + runs.PATIENCE
    while re.search(rb"Stopped|Running", shell.shell("jobs")):
        assert time.monotonic() < end, "the job is still there"


def test_pipeline_lines_do_not_run_down_like_stairs(shell):
    shell.start("sleep 0.3; seq 1 3", redirect="| cat")
    assert shell.prompt().startswith(b"1\r\n2\r\n3\r\n")


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGSEGV, 139), (signal.SIGABRT, 134)]
)
def test_restored_however_it_ends(shell, number, status):
    shell.start("exec sleep 1000")
    shell.until_raw()
    os.kill(shell.job(), number)
    shell.prompt()
    assert shell.status() == status
    assert not shell.is_raw()


def test_job_control_inside(shell):
    shell.start("exec bash --norc --noprofile -i")
    shell.expect(r"[#$] ")
    shell.type("sleep 1000\n")
    shell.expect("sleep 1000\r\n")
    time.sleep(0.3)
    shell.type("\x1a")
    shell.expect("Stopped.*[#$] ")
    shell.type("fg\n")
    time.sleep(0.3)
    shell.type("\x03")
    shell.expect("[#$] ")
    shell.type("exit\n")
    shell.prompt()


def test_hangup_ends_it(shell):
    shell.start("exec sleep 1000")
    shell.until_raw()
    supervisor = shell.job()
    family = [supervisor, *runs.descendants(supervisor)]
    os.close(shell.terminal)
    end = time.monotonic() + runs.PATIENCE
    while any(map(runs.is_alive, family)):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_no_shell_to_continue_it(helper, launch):
    """In a process group that nobody could continue Ctrl-Z has no effect, as ever."""
    script = "echo go; read x; echo got $x"
    terminal = Shell(launch, [*launch, "0", str(helper), "sh", "-c", script])
    try:
        terminal.expect("go\r\n")
        terminal.until_raw()
        terminal.type("\x1a")
        time.sleep(0.3)
        terminal.type("line\n")
        terminal.expect("got line\r\n")
    finally:
        terminal.close()
