"""A hostile root: what set-up would follow out of it (runc CVE-2021-30465, CVE-2025-31133, CVE-2025-52565,
CVE-2019-19921, bubblewrap CVE-2026-87766 and their like)."""

from __future__ import annotations

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


@pytest.mark.parametrize("place", ["dev", "proc"])
def test_a_root_whose_dev_or_proc_is_a_link_is_refused(tmp_path: Path, canary: Path, place: str) -> None:
    root = busybox_root(tmp_path)
    (root / place).symlink_to("tmp")
    with pytest.raises(sandbox.SandboxError, match="link"):
        run(root, "true", tmp_path)


def test_masks_and_devices_are_ours_whatever_the_root_has(tmp_path: Path) -> None:
    root = busybox_root(tmp_path)
    (root / "dev").mkdir()
    (root / "dev" / "null").symlink_to("/proc/self/mem")
    (root / "dev" / "console").symlink_to("/tmp")
    (root / "dev" / "pts").mkdir()
    (root / "dev" / "pts" / "0").symlink_to("/tmp")
    result = run(root, "stat -c %t:%T /dev/null; stat -f -c %T /proc; cat /proc/keys; ls /dev/pts", tmp_path)
    lines = result.stdout.split()
    assert lines[0] == "1:3"
    assert lines[1] == "proc"
    assert lines[2:] == ["ptmx"]


def test_nothing_may_be_mounted_over_proc(tmp_path: Path) -> None:
    with pytest.raises(sandbox.ProfileError):
        sandbox.run(["true"], profile="base", cwd=tmp_path, overrides={"mounts": {"/proc/self": "tmpfs"}})
