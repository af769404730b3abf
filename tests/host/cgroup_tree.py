"""Machines whose cgroup file system is made of files, for tests that look where cgroups can be made."""

from __future__ import annotations

import socket
from pathlib import Path

from sandbox.host import delegation
from sandbox.host.delegation import Machine, discover
from sandbox.host.model import Cgroup

V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "32 31 0:29 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
UNIFIED = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
OTHER = "23 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
ALL = "cpuset cpu io memory pids"


class Tree:
    """A machine whose cgroup file system is made of files; `here` is the cgroup that we are in."""

    def __init__(self, root: Path, path: str, mountinfo: str = V2, *, uid: int = 1000) -> None:
        self.root, self.uid = root, uid
        self.mount = root / delegation.hierarchy(mountinfo).mount.lstrip("/")
        (root / "proc/self").mkdir(parents=True)
        (root / "proc/self/mountinfo").write_text(mountinfo)
        (root / "proc/self/cgroup").write_text(f"0::{path}\n")
        if self.mount == root:
            return
        self.mount.mkdir(parents=True)
        (self.mount / "cgroup.controllers").write_text(ALL)
        (self.mount / "cgroup.procs").write_text("1\n")
        (self.mount / "cgroup.procs").chmod(0o444)
        self.mount.chmod(0o555)

    def add(
        self, path: str, controllers: str = ALL, *, given: str = "", procs: str = "", ours: bool = True
    ) -> Path:
        """A cgroup, and those above it."""
        made = self.mount
        for name in path.strip("/").split("/"):
            child, mode = made / name, made.stat().st_mode
            if not child.exists():
                made.chmod(0o755)
                child.mkdir()
                made.chmod(mode)
                for file in ("controllers", "subtree_control", "procs", "type"):
                    (child / f"cgroup.{file}").write_text("domain\n" if file == "type" else "")
                    (child / f"cgroup.{file}").chmod(0o444)
                child.chmod(0o555)
            made = child
        for file, text in (("controllers", controllers), ("subtree_control", given), ("procs", procs)):
            (made / f"cgroup.{file}").chmod(0o644)
            (made / f"cgroup.{file}").write_text(text)
            (made / f"cgroup.{file}").chmod(0o644 if ours else 0o444)
        made.chmod(0o755 if ours else 0o555)
        return made

    def systemd(self, controllers: str = "cpu memory pids", *, bus: bool = True) -> None:
        (self.root / "run/systemd/system").mkdir(parents=True)
        self.add(f"user.slice/user-{self.uid}.slice/user@{self.uid}.service", controllers)
        path = self.root / f"run/user/{self.uid}/bus"
        path.parent.mkdir(parents=True)
        if bus:
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(str(path))

    def discover(self, parent: str = "auto", *, alone: bool = False, container: str = "") -> Cgroup:
        machine = Machine.look(root=str(self.root), uid=self.uid, alone=alone)
        return discover(parent, environ={}, container=container, user="me", machine=machine)
