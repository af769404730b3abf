"""A hostile root: what set-up would follow out of it (runc CVE-2021-30465, CVE-2025-31133, CVE-2025-52565,
CVE-2019-19921, bubblewrap CVE-2026-87766 and their like)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import sandbox
from tests.security.inside import unchanged

pytestmark = [pytest.mark.integration, pytest.mark.as_root]

PLACES = ["dev", "proc", "etc", "tmp", "sys", "run", "work", "etc/resolv.conf", "etc/passwd", "dev/pts"]
TRICKS = ["{canary}", "../../../../../../../../../../../..{canary}", "/proc/self/root{canary}", "/proc/1/cwd"]


def busybox_root(top: Path) -> Path:
    """A root that can run something: one static program under many names."""
    busybox = shutil.which("busybox")
    assert busybox, "busybox-static is needed"
    root = top / "root"
    for name in ("bin", "etc", "tmp", "work"):
        (root / name).mkdir(parents=True)
    shutil.copy(busybox, root / "bin" / "busybox")
    for name in ("sh", "cat", "ls", "stat", "true", "id", "touch", "mkdir"):
        (root / "bin" / name).symlink_to("busybox")
    return root


def run(root: Path, script: str, cwd: Path, **overrides: object) -> sandbox.Result:
    values: dict[str, object] = {
        "root.from": f"dir:{root}",
        "root.writable": "memory",
        "process.workdir": "/",
    }
    values.update(overrides)
    return sandbox.run(["/bin/sh", "-c", script], profile="base", text=True, overrides=values, cwd=str(cwd))


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    directory = tmp_path / "canary"
    (directory / "below").mkdir(parents=True)
    for name in ("hosts", "passwd", "x", "0"):
        (directory / name).write_text("canary")
    return directory


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("trick", TRICKS)
def test_a_link_in_the_root_never_leads_set_up_out(
    tmp_path: Path, canary: Path, place: str, trick: str
) -> None:
    root = busybox_root(tmp_path)
    target = root / place
    if target.is_dir():
        target.rmdir() if not any(target.iterdir()) else shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(trick.format(canary=canary))
    with unchanged(canary, root):
        try:
            result = run(root, "echo x > /work/new; echo x > /tmp/new; mkdir /etc/new; true", tmp_path)
        except sandbox.SandboxError:
            return
    assert result.verdict in ("ok", "nonzero")


@pytest.mark.parametrize("place", ["work", "etc", "home"])
@pytest.mark.parametrize("trick", TRICKS)
def test_mounts_and_working_directories_never_lead_out(
    tmp_path: Path, canary: Path, place: str, trick: str
) -> None:
    """runc's CVE-2021-30465 (a mount's destination) and CVE-2024-21626 (the working directory)."""
    root = busybox_root(tmp_path)
    shutil.rmtree(root / place, ignore_errors=True)
    (root / place).symlink_to(trick.format(canary=canary))
    script = "pwd; cat x hosts below/../x; echo x >planted; ls .."
    below = {"mounts": {f"/{place}/below": "tmpfs"}}
    for more in ({}, below, {**below, "process.workdir": f"/{place}/below"}):
        with unchanged(canary, root):
            try:
                result = run(root, script, tmp_path, **{"process.workdir": f"/{place}", **more})
            except sandbox.SandboxError:
                continue
        assert "canary" not in result.stdout, more


@pytest.mark.parametrize("place", ["dev", "proc"])
def test_a_root_whose_dev_or_proc_is_a_link_is_refused(tmp_path: Path, canary: Path, place: str) -> None:
    root = busybox_root(tmp_path)
    (root / place).symlink_to("tmp")
    with pytest.raises(sandbox.SandboxError, match="link") as caught:
        run(root, "true", tmp_path)
    assert "no link" in str(caught.value.mend)
    (root / place).unlink()
    os.mkfifo(root / place)
    with pytest.raises(sandbox.SandboxError, match="is a directory") as caught:
        run(root, "true", tmp_path)
    assert "make it a directory" in str(caught.value.mend)


def test_masks_and_devices_are_ours_whatever_the_root_has(tmp_path: Path) -> None:
    root = busybox_root(tmp_path)
    (root / "dev").mkdir()
    (root / "dev" / "null").symlink_to("/proc/self/mem")
    (root / "dev" / "console").symlink_to("/tmp")
    (root / "dev" / "pts").mkdir()
    (root / "dev" / "pts" / "0").symlink_to("/tmp")
    (root / "proc" / "sys").mkdir(parents=True)
    (root / "proc" / "self").symlink_to("/tmp")
    (root / "proc" / "keys").write_text("the root's")
    result = run(root, "stat -c %t:%T /dev/null; stat -f -c %T /proc; cat /proc/keys; ls /dev/pts", tmp_path)
    lines = result.stdout.split()
    assert lines[0] == "1:3"
    assert lines[1] == "proc"
    assert lines[2:] == ["ptmx"]


@pytest.mark.parametrize("writable", ["no", "memory", "disk"])
def test_a_root_shows_nothing_that_is_hidden(tmp_home: Path, writable: str) -> None:
    """A home as the root: keys, the agent's socket, and what sandbox keeps of other runs."""
    tmp_home.chmod(0o755)  # root's commands are not root
    home = tmp_home / "me"
    root = busybox_root(home)
    secrets = (root / "real" / ".ssh", root / "agent", root / "cache", root / "state", root / "link")
    for secret in secrets[:-1]:
        secret.mkdir(parents=True)
    (root / "link").symlink_to("real")
    for secret in secrets[1:-1]:
        (secret / "sandbox").mkdir()
    for secret in (
        root / "real/.ssh/id",
        root / "agent/socket",
        *(root / f"{x}/sandbox/x" for x in ("cache", "state")),
    ):
        secret.write_text("secret")
    for path in home.rglob("*"):
        path.chmod(0o777) if path.is_dir() and not path.is_symlink() else None
    environ = {
        "XDG_CACHE_HOME": root / "cache",
        "XDG_STATE_HOME": root / "state",
        "SSH_AUTH_SOCK": root / "agent",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environ.items():
            patch.setenv(name, str(value))
        script = """for f in /real/.ssh/id /link/.ssh/id /agent/socket /cache/sandbox/x /state/sandbox/x; do
            cat $f; d=${f%/*}; mv $d $d.old; cat $d.old/*; chmod 777 $d; ls $d
        done 2>/dev/null; echo end"""
        with unchanged(root / "real", root / "agent"):
            result = run(
                root,
                script,
                tmp_home,
                **{"root.writable": writable, "mounts": {str(root / "link" / ".ssh"): "hide"}},
            )
    assert result.stdout == "end\n"


@pytest.mark.parametrize("place", ["/proc", "/proc/self", "/proc/sys/kernel", "//proc/self", "/dev", "/"])
def test_nothing_may_be_mounted_over_what_every_sandbox_has(tmp_path: Path, place: str) -> None:
    """runc's CVE-2019-16884 and CVE-2025-52881: what is written to proc must not go elsewhere."""
    with pytest.raises(sandbox.ProfileError, match="a mount can't replace"):
        sandbox.run(["true"], profile="base", cwd=tmp_path, overrides={"mounts": {place: "tmpfs"}})


@pytest.mark.parametrize("source", ["/proc", "/proc/self", "/proc/1/root"])
def test_the_hosts_proc_is_no_source(tmp_path: Path, source: str) -> None:
    mounts = {"/mnt": {"source": source, "mode": "ro"}}
    with pytest.raises(sandbox.ProfileError):
        sandbox.run(["true"], profile="base", cwd=tmp_path, overrides={"mounts": mounts})
