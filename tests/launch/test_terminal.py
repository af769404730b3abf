"""run() from a program that has a terminal, as a job of a shell."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import sandbox

pytestmark = [pytest.mark.integration, pytest.mark.as_root]

ROOT = Path(sandbox.__file__).parent.parent
#: prints "begun" when the command runs, and its result at the end
PROGRAM = """
import sandbox, sys
command = ["sh", "-c", "tty; echo be''gun; " + sys.argv[2]]
if sys.argv[1] == "run":
    r = sandbox.run(command, capture_output=sys.argv[3] == "captured")
else:
    with sandbox.Sandbox() as sb:
        r = sb.run(command, capture_output=False)
print("ended", r.returncode, r.verdict, r.stdout)
"""


class Terminal:
    """A terminal with an interactive shell at its other end."""

    def __init__(self, program: Path) -> None:
        self.program = program
        self.seen = b""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            environ = {**os.environ, "PS1": "READY> ", "TERM": "dumb", "PYTHONPATH": str(ROOT)}
            os.execvpe("bash", ["bash", "--norc", "--noediting", "-i"], environ)

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def expect(self, pattern: str) -> str:
        """Read until *pattern* comes; return everything up to it."""
        end = time.monotonic() + 30
        while not (match := re.search(pattern.encode(), self.seen)):
            assert select.select([self.fd], [], [], max(0.0, end - time.monotonic()))[0], self.seen
            self.seen += os.read(self.fd, 1 << 16)
        before, self.seen = self.seen[: match.end()], self.seen[match.end() :]
        return before.decode(errors="replace")

    def start(self, way: str, script: str, captured: str = "seen") -> None:
        self.expect("READY> ")
        self.type(f"{sys.executable} {self.program} {way} '{script}' {captured}\n")


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    (work / "program.py").write_text(PROGRAM)
    made = Terminal(work / "program.py")
    yield made
    os.close(made.fd)
    with contextlib.suppress(ProcessLookupError):
        os.kill(made.pid, signal.SIGKILL)
    os.waitpid(made.pid, 0)


def test_it_gets_a_terminal_of_its_own(terminal: Terminal) -> None:
    terminal.start("run", "read line; echo got $line; exit 3")
    assert "/dev/pts/0" in terminal.expect("begun\r\n")
    terminal.type("typed\n")
    terminal.expect("got typed\r\n")
    terminal.expect("ended 3 nonzero None")


def test_captured_it_gets_none(terminal: Terminal) -> None:
    terminal.start("run", "read line; echo got $line", "captured")
    assert "not a tty" in terminal.expect("ended 0 ok .*\n")


def test_a_sandbox_that_stays_gives_none(terminal: Terminal) -> None:
    terminal.start("sandbox", "read line; echo got $line; exit 3")
    assert "not a tty" in terminal.expect("ended 3 nonzero None")


def test_ctrl_c_is_the_commands(terminal: Terminal) -> None:
    terminal.start("run", 'trap "echo caught; exit 4" INT; echo set; while :; do sleep 0.1; done')
    terminal.expect("begun\r\n")
    terminal.expect("set\r\n")
    terminal.type("\x03")
    terminal.expect("caught\r\n")
    terminal.expect("ended 4 nonzero None")


def test_ctrl_z_and_fg(terminal: Terminal) -> None:
    terminal.start("run", "exec sleep 1000")
    terminal.expect("begun\r\n")
    time.sleep(0.2)
    terminal.type("\x1a")
    terminal.expect("Stopped")
    terminal.expect("READY> ")
    terminal.type("fg\n")
    terminal.expect("program.py.*\n")
    time.sleep(0.5)
    terminal.type("\x03")
    terminal.expect("ended -2 signal None")


def test_a_caller_who_ignores_ctrl_z_goes_on(terminal: Terminal) -> None:
    code = terminal.program.read_text()
    terminal.program.write_text("import signal; signal.signal(signal.SIGTSTP, signal.SIG_IGN)\n" + code)
    terminal.start("run", 'read line; echo got $line; trap "" TSTP; kill -STOP $$; echo on')
    terminal.expect("begun\r\n")
    terminal.type("x\n")
    terminal.expect("got x\r\n")
    terminal.expect("on\r\n")
    terminal.expect("ended 0 ok None")
