"""Core dumps: the program that a machine starts for them, as root and outside, is not started for a payload.

The setting is the whole machine's, so these are root's tests, and one at a time changes it. A crash of
somebody else meanwhile starts our handler, which only writes the program's name down.
"""

from __future__ import annotations

import fcntl
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import sandbox
from tests.security.inside import PYTHON
from tests.support.needs import CORE_PATTERN, need

pytestmark = [pytest.mark.integration, pytest.mark.as_root]

HANDLER = """#!/bin/sh
echo "$1" >>"${0%/*}/seen"
exec cat >/dev/null
"""
CRASH = """
import ctypes, os, resource, signal, sys
ctypes.CDLL(None).prctl(15, sys.argv[1].encode())  # PR_SET_NAME: what the handler is told
for limit in sys.argv[2:]:
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (int(limit), resource.getrlimit(resource.RLIMIT_CORE)[1]))
        resource.prlimit(0, resource.RLIMIT_CORE, (int(limit), int(limit)))
    except (OSError, ValueError):
        pass
os.kill(os.getpid(), signal.SIGSEGV)
"""
#: restores the setting when its stdin ends, so also when pytest is killed; holds the lock until then
RESTORE = f'read -r _; printf %s "$1" >{CORE_PATTERN}'
PATIENCE = 30.0


class Cores:
    """The programs whose core dumps the handler was started for."""

    def __init__(self, directory: Path) -> None:
        self.seen_by_handler = directory / "seen"
        self.crashes = 0

    def seen(self) -> list[str]:
        return self.seen_by_handler.read_text().split() if self.seen_by_handler.exists() else []

    def wait_for(self, name: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while name not in self.seen():
            assert time.monotonic() < deadline, f"no handler was started for {name}"
            time.sleep(0.02)

    def of_a_crash_outside(self) -> None:
        """Crash without a sandbox, and see the handler at work: what came before was seen by now, too."""
        self.crashes += 1
        name = f"outside-{self.crashes}"
        # as a command inside: unlimited up to the hard limit
        done = subprocess.run([PYTHON, "-I", "-S", "-c", CRASH, name])
        assert done.returncode == -signal.SIGSEGV
        self.wait_for(name)


@pytest.fixture
def cores() -> Iterator[Cores]:
    need("root", "core_pattern")
    directory = Path(tempfile.mkdtemp(prefix="core-", dir="/tmp"))  # a pattern is at most 127 bytes long
    with open(CORE_PATTERN) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = ["sh", "-c", RESTORE, "sh", lock.read().rstrip("\n")]
        restorer = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[lock.fileno()])
    try:
        (directory / "handler").write_text(HANDLER)
        (directory / "handler").chmod(0o755)
        CORE_PATTERN.write_text(f"|{directory}/handler %e")
        yield Cores(directory)
    finally:
        restorer.communicate()
        shutil.rmtree(directory)
    assert restorer.returncode == 0


def in_one_shot(profile: str, *crash: str) -> sandbox.Result:
    return sandbox.run([PYTHON, "-I", "-S", "-c", CRASH, *crash], profile=profile)


def in_a_box(profile: str, *crash: str) -> sandbox.Result:
    with sandbox.Sandbox(profile) as box:
        return box.run([PYTHON, "-I", "-S", "-c", CRASH, *crash])


@pytest.mark.parametrize("run", [in_one_shot, in_a_box])
@pytest.mark.parametrize(
    "limits", [(), ("0",), ("0", "1")], ids=["as it is", "lowered", "lowered and raised"]
)
@pytest.mark.parametrize("profile", ["base", "untrusted"])
def test_a_piped_core_handler_is_not_started(
    cores: Cores, run: Callable[..., sandbox.Result], profile: str, limits: tuple[str, ...]
) -> None:
    """With a limit of 0 it would be: the kernel looks for 1 alone (fs/coredump.c)."""
    cores.of_a_crash_outside()
    result = run(profile, "inside", *limits)
    assert (result.verdict, result.returncode) == ("signal", -signal.SIGSEGV)
    cores.of_a_crash_outside()
    assert "inside" not in cores.seen()


def test_it_is_started_when_core_dumps_are_wanted(cores: Cores) -> None:
    """So nothing else keeps it from being started in the tests above."""
    command = [PYTHON, "-I", "-S", "-c", CRASH, "wanted"]
    result = sandbox.run(command, profile="base", overrides={"limits.core": "1M"})
    assert result.verdict == "signal"
    assert "core_pattern" in result.enforced["core"]
    cores.wait_for("wanted")


def test_a_socket_that_takes_core_dumps_is_named(cores: Cores) -> None:
    """Linux 6.16 asks no limit before it connects to one, so that nothing can be promised."""
    assert sandbox.run(["true"], profile="base").enforced["core"] == "rlimit"
    CORE_PATTERN.write_text("@/run/nobody-listens-here")
    assert "core_pattern" in sandbox.run(["true"], profile="base").enforced["core"]
    with pytest.raises(sandbox.RequirementError):
        sandbox.run(["true"], profile="base", overrides={"require": ["core"]})
