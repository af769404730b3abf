"""A project's own sandbox.toml, as it comes with a clone: what it asks for, and what it is."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.as_root]

Command = Callable[..., subprocess.CompletedProcess[str]]
#: for what should not wait: well under what a test may take
SOON = 30.0


@pytest.fixture
def project(tmp_home: Path) -> Path:
    directory = tmp_home / "project"
    directory.mkdir()
    for each in (tmp_home.parent, tmp_home, directory):
        each.chmod(0o755)
    (tmp_home / "secret").mkdir()
    (tmp_home / "secret" / "key").write_text("the key\n")
    (tmp_home / "link").symlink_to("secret")
    return directory


#: what a project asks for, and what prints the key when it has got that
HOSTILE = {
    "a mount of the home": ('mounts."~" = "ro"', "cat ~/secret/key"),
    "a mount beside it": ('mounts."/mnt" = { source = "../secret", mode = "ro" }', "cat /mnt/key"),
    "a link to a mount": ('mounts."~/link" = "ro"', "cat ~/link/key"),
    "a link at another path": ('mounts."/mnt" = { source = "../link", mode = "ro" }', "cat /mnt/key"),
    "the environment": ('env.extend-keep = ["THE_*"]', "echo $THE_KEY"),
    "the host's network": ('net.mode = "host"', "test $(readlink /proc/self/ns/net) != $0 || echo the key"),
    "no filter": ('process.seccomp = "off"', "grep -q Seccomp:.2 /proc/self/status || echo the key"),
    "a preload": ('env.set = { LD_PRELOAD = "/nowhere.so" }', "test ! $LD_PRELOAD || echo the key"),
    "a wider profile": ('extends = "dev"', "cat ~/secret/key"),
    "core dumps": ("limits.core = 1000000", "test $(ulimit -c) -le 1 || echo the key"),
}


@pytest.mark.parametrize(("text", "script"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_project_gets_nothing_that_the_default_profile_does_not_give(
    sandbox_cmd: Command, project: Path, text: str, script: str
) -> None:
    (project / "sandbox.toml").write_text(text)

    def attempt() -> subprocess.CompletedProcess[str]:
        words = ("run", "--", "sh", "-c", script, os.readlink("/proc/self/ns/net"))
        return sandbox_cmd(*words, cwd=project, env={"THE_KEY": "the key"})

    done = attempt()
    assert (done.returncode, done.stdout) == (125, "")
    assert "sandbox profile trust" in done.stderr
    # It is the want of trust that kept it from that, and nothing else.
    assert sandbox_cmd("profile", "trust", cwd=project).returncode == 0
    done = attempt()
    assert done.stdout == "the key\n", done.stderr


def test_a_change_after_the_trust_is_not_trusted(sandbox_cmd: Command, project: Path) -> None:
    """As a pull would bring it, or a command that runs here."""
    (project / "sandbox.toml").write_text('env.set = { A = "1" }')
    assert sandbox_cmd("profile", "trust", cwd=project).returncode == 0
    assert sandbox_cmd("run", "--", "true", cwd=project).returncode == 0
    (project / "sandbox.toml").write_text('mounts."~" = "rw"')
    assert sandbox_cmd("run", "--", "true", cwd=project).returncode == 125


def test_a_command_can_not_change_the_profile_that_it_runs_under(sandbox_cmd: Command, project: Path) -> None:
    project.chmod(0o777)
    profile = project / "sandbox.toml"
    profile.write_text('env.set = { A = "1" }')
    profile.chmod(0o666)
    assert sandbox_cmd("profile", "trust", cwd=project).returncode == 0
    script = (
        "echo x >sandbox.toml; rm -f sandbox.toml; mv sandbox.toml old; echo x >new; mv new sandbox.toml; :"
    )
    assert sandbox_cmd("run", "--", "sh", "-c", script, cwd=project).returncode == 0
    assert profile.read_text() == 'env.set = { A = "1" }'


@pytest.mark.parametrize("target", ["../secret/profile.toml", "/dev/zero", "/proc/self/environ"])
def test_a_project_file_that_is_a_link_out_is_not_read(
    sandbox_cmd: Command, project: Path, target: str
) -> None:
    """What stands in it would show in the message about its first error."""
    (project / "../secret/profile.toml").write_text("the key\n")
    (project / "sandbox.toml").symlink_to(target)
    done = sandbox_cmd("run", "--", "true", cwd=project, env={"THE_KEY": "the key"}, timeout=SOON)
    assert done.returncode == 125
    assert "the key" not in done.stderr


@pytest.mark.parametrize("where", ["sandbox.toml", "ci.toml"])
def test_a_fifo_keeps_nobody_waiting(sandbox_cmd: Command, project: Path, where: str) -> None:
    (project / "sandbox.toml").write_text('extends = "./ci.toml"')
    (project / where).unlink(missing_ok=True)
    os.mkfifo(project / where)
    done = sandbox_cmd("run", "--", "true", cwd=project, timeout=SOON)
    assert done.returncode == 125
    assert "not a regular file" in done.stderr


def test_a_command_of_a_project_is_no_option(sandbox_cmd: Command, project: Path) -> None:
    """CVE-2024-32462: what is to be executed must not be taken for an option of ours."""
    (project / "sandbox.toml").write_text('command = ["--net", "host"]')
    done = sandbox_cmd("run", cwd=project)
    assert done.returncode == 127
    assert "--net: not found" in done.stderr
