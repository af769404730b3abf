"""scripts/vm: how a command in the guest is run, what comes back, and what it leaves: nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import xml.etree.ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import leaks
from tests.support.needs import need
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
#: for a guest that boots on a busy machine; scripts/vm has bounds of its own
PATIENCE = 200.0

Done = subprocess.CompletedProcess[bytes]


class Runner:
    """scripts/vm with a TMPDIR of its own."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.environ = {**os.environ, "TMPDIR": str(scratch), "SANDBOX_TEST_PASSED": "on"}

    def command(self, *arguments: str | Path) -> list[str]:
        return [sys.executable, "-B", str(ROOT / "scripts/vm"), *map(str, arguments)]

    def __call__(self, *arguments: str | Path) -> Done:
        command = self.command(*arguments)
        return subprocess.run(
            command, env=self.environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE
        )

    def start(self, *arguments: str | Path) -> subprocess.Popen[bytes]:
        null = subprocess.DEVNULL
        return subprocess.Popen(self.command(*arguments), env=self.environ, stdin=null, stderr=null)

    def left(self) -> list[str]:
        return sorted(path.name for path in self.scratch.iterdir())


@pytest.fixture
def vm(tmp_path: Path) -> Iterator[Runner]:
    """Nothing of it may be there afterwards: no process, and no file."""
    scratch = tmp_path / "with a space"
    scratch.mkdir()
    before = leaks.State.take()
    runner = Runner(scratch)
    yield runner
    assert runner.left() == []
    assert leaks.left_since(before, ()) == []


@pytest.fixture
def guest(vm: Runner) -> Runner:
    need("linux.uml", "mke2fs")
    return vm


# --- what needs no guest ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "nothing to run"),
        (["--"], "nothing to run"),
        (["--pytest"], "nothing to run"),
        (["--root"], "nothing to run"),
        (["--user", "nobody", "--", "true"], "invalid choice: 'nobody'"),
        (["--memory", "much", "--", "true"], "invalid int value: 'much'"),
        (["--timeout", "soon", "--", "true"], "invalid float value: 'soon'"),
        (["--nosuch", "--", "true"], "unrecognized arguments: --nosuch"),
        (["true"], "unrecognized arguments: true"),
    ],
)
def test_wrong_arguments(vm: Runner, arguments: list[str], why: str) -> None:
    done = vm(*arguments)
    assert done.returncode == 2
    assert why in done.stderr.decode() and b"usage: scripts/vm" in done.stderr


def test_what_is_not_installed_is_named(vm: Runner) -> None:
    vm.environ["PATH"] = "/nowhere"
    done = vm("--", "true")
    assert done.returncode == 125
    # The last part of PATH is /sbin: there may be some of them.
    assert b"scripts/vm: not installed: " in done.stderr and b"linux.uml" in done.stderr
    assert b"mend: apt install" in done.stderr and b"user-mode-linux" in done.stderr


def test_what_a_killed_run_left_is_removed_and_nothing_else(guest: Runner) -> None:
    killed, other, running = (guest.scratch / name for name in ("sandbox-vm-1", "other", "sandbox-vm-2"))
    for path in (killed, other, running):
        path.mkdir()
        (path / "disk").write_bytes(b"x")
    with subprocess.Popen(["flock", running, "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin and holder.stdout
        holder.stdin.write(b"x")
        holder.stdin.flush()
        assert holder.stdout.read(1) == b"x"  # it has the lock
        assert guest("--memory", "9000000", "--", "true").returncode == 125
        assert guest.left() == ["other", "sandbox-vm-2"]
        holder.stdin.close()
    assert guest("--memory", "9000000", "--", "true").returncode == 125
    assert guest.left() == ["other"]
    (other / "disk").unlink()
    other.rmdir()


def test_a_guest_that_has_no_room(guest: Runner) -> None:
    done = guest("--memory", "9000000", "--", "true")
    assert done.returncode == 125
    assert b"no room for a guest of 9000000 MiB" in done.stderr and b"mend: --memory" in done.stderr


# --- guests -------------------------------------------------------------------------------------------


@pytest.mark.guest
def test_output_status_and_arguments_are_the_commands_own(guest: Runner) -> None:
    script = (
        'printf "%s\\n" "$@"; printf "a\\r\\n\\000\\377"; echo "to stderr" >&2; '
        "id -un; pwd; echo $SANDBOX_TEST_PASSED $SANDBOX_TEST_GUEST; cat; kill -TERM $$"
    )
    done = guest("--", "sh", "-c", script, "sh", "two words", "$HOME %n", "line\nbreak", "")
    expected = (
        b"two words\n$HOME %n\nline\nbreak\n\na\r\n\x00\xffuser\n/home/user/checkout\non 1\n"  # and no stdin
    )
    assert done.stdout == expected
    assert done.stderr == b"to stderr\n"
    assert done.returncode == 128 + signal.SIGTERM


@pytest.mark.guest
def test_pytest_brings_its_junit_file_back(guest: Runner, tmp_path: Path) -> None:
    junit = tmp_path / "junit.xml"
    chosen = ("tests/vm/test_guest.py", "-k", "whole_disk or delegation_is")
    done = guest("--pytest", *chosen, f"--junitxml={junit}")
    assert done.returncode == 0 and b"2 passed" in done.stdout
    [suite] = xml.etree.ElementTree.parse(junit).iter("testsuite")
    assert (suite.get("tests"), suite.get("failures")) == ("2", "0")
    assert suite.get("hostname") == "guest"


@pytest.mark.guest
def test_a_junit_file_that_was_not_made(guest: Runner, tmp_path: Path) -> None:
    """pytest did not get so far: here as root, and with other controllers."""
    junit = tmp_path / "junit.xml"
    done = guest("--root", "--delegate", "cpu io", "--pytest", "--nosuch", f"--junitxml={junit}")
    assert done.returncode == 125 and not junit.exists()
    assert b"pytest left no JUnit file" in done.stderr and b"exit status was 4" in done.stderr


@pytest.mark.guest
def test_a_guest_that_takes_too_long(guest: Runner) -> None:
    done = guest("--timeout", "5", "--", "sh", "-c", "echo begun; exec sleep 600")
    assert done.returncode == 124
    assert b"the guest did not end in time (--timeout); the end of its console:" in done.stderr


@pytest.mark.guest
def test_a_guest_that_does_not_boot(guest: Runner) -> None:
    done = guest("--memory", "24", "--", "true")
    assert done.returncode == 125
    assert b"the guest ended before the command did; the end of its console:\n  | " in done.stderr


@pytest.mark.guest
def test_a_guest_that_gives_up_is_told_at_once_and_tried_once_more(guest: Runner) -> None:
    done = guest("--kernel", "systemd.unit=emergency.target", "--", "true")
    assert done.returncode == 125 and done.stdout == b""
    first, again, second = done.stderr.partition(b"it is tried once more\n")
    assert again
    for told in (first, second):
        assert b"the guest's boot ended in emergency mode; the end of its console:\n  | " in told


@pytest.mark.guest
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_killed(guest: Runner, number: signal.Signals) -> None:
    before = leaks.State.take().processes
    run = guest.start("--", "sleep", "600")

    def boots() -> bool:
        return any(b"systemd" in path.read_bytes() for path in guest.scratch.glob("*/console"))

    wait_until(boots, PATIENCE)
    run.send_signal(number)
    run.wait(PATIENCE)
    wait_until(lambda: leaks.State.take().processes <= before, PATIENCE)
    assert run.returncode == (-number if number == signal.SIGKILL else 128 + number)
    if number == signal.SIGKILL:
        assert len(guest.left()) == 1  # which the next one removes
        assert guest("--memory", "9000000", "--", "true").returncode == 125
