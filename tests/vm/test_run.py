"""Sandboxes on a kernel that is older than the machines' own: 6.1, as a plain user of a systemd host."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import sandbox
from tests.vm import guest

pytestmark = [pytest.mark.guest, pytest.mark.integration]

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "work"
    (directory / "dist").mkdir(parents=True)  # what `build` writes to
    monkeypatch.chdir(directory)
    return directory


@pytest.mark.parametrize("profile", ["default", "untrusted", "test", "build"])
def test_the_built_in_profiles_run(sandbox_cmd: Command, profile: str) -> None:
    done = sandbox_cmd("run", "-p", profile, "--", "sh", "-c", "echo $((6 * 7)); exit 3")
    assert (done.stdout, done.returncode) == ("42\n", 3), done.stderr


def test_nothing_changes_outside(here: Path) -> None:
    (here / "file").write_text("before")
    done = sandbox.run(["sh", "-c", "echo after >file && cat file"], profile="untrusted", text=True)
    assert done.returncode != 0
    assert (here / "file").read_text() == "before"


def test_limits_of_time_and_scratch_hold() -> None:
    assert sandbox.run(["sleep", "60"], profile="untrusted", timeout=1.0).verdict == "timeout"
    fill = sandbox.run(["dd", "if=/dev/zero", "of=/tmp/x", "bs=1M", "count=64"], disk="8M")
    assert (fill.verdict, fill.returncode) == ("disk", 1)


def test_from_wherever_it_is_called() -> None:
    """A session, a service of the user manager, and a user who does not linger."""
    run = (*guest.SANDBOX, "run", "-p", "untrusted", "--", "id", "-un")
    assert guest.call(*run).stdout == "user\n"
    assert guest.service("sh", "-c", f"cd /tmp && {' '.join(run)}").stdout == "user\n"
    elsewhere = f"mkdir -p ~/work && cd ~/work && {' '.join(run)}"
    assert guest.session("other", "sh", "-c", elsewhere).stdout == "other\n"
    guest.log_out("other", 1001)


def test_scripts_sandbox_works_from_the_checkout() -> None:
    done = guest.call(
        str(guest.CHECKOUT / "scripts/sandbox"), "run", "-p", "untrusted", "--", "echo", "hello"
    )
    assert done.stdout == "hello\n"
