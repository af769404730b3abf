"""cgroups and the user manager: on machines made of files, and with a bus that is a socket."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from sandbox.host import cgroups
from sandbox.host.cgroups import Hierarchy
from sandbox.host.model import Check
from sandbox.host.tools import Runner

V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "32 31 0:29 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
UNIFIED = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
OTHER = "23 1 8:1 / / rw - ext4 /dev/sda1 rw\n"


@pytest.mark.parametrize(
    ("mountinfo", "expected"),
    [
        (OTHER + V2, Hierarchy("v2", "/sys/fs/cgroup")),
        (V1 + UNIFIED, Hierarchy("hybrid", "/sys/fs/cgroup/unified")),
        (UNIFIED + V1, Hierarchy("hybrid", "/sys/fs/cgroup/unified")),
        (V1, Hierarchy("v1", "")),
        (OTHER, Hierarchy("none", "")),
        ("", Hierarchy("none", "")),
        ("- cgroup2\nshort - cgroup2 x\n", Hierarchy("none", "")),
    ],
)
def test_hierarchies(mountinfo: str, expected: Hierarchy) -> None:
    assert cgroups.hierarchy(mountinfo) == expected


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("0::/user.slice/session-1.scope\n", "/user.slice/session-1.scope"),
        ("9:name=systemd:/\n0::/\n", "/"),
        ("0::/a:b\n", "/a:b"),
        ("1:cpu:/x\n", ""),
        ("0::/../other\n", ""),
        ("0::/..\n", ""),
        ("10::/x\n", ""),
        ("", ""),
    ],
)
def test_own_paths(text: str, path: str) -> None:
    assert cgroups.own_path(text) == path


class Tree:
    """A cgroup file system made of files. `mkdir` works where the test may write."""

    def __init__(self, root: Path, mountinfo: str = V2, path: str = "/mine") -> None:
        self.root = root
        self.own = root / "sys/fs/cgroup" / path.lstrip("/")
        self.own.mkdir(parents=True)
        (root / "proc/self").mkdir(parents=True)
        (root / "proc/self/mountinfo").write_text(mountinfo)
        (root / "proc/self/cgroup").write_text(f"0::{path}\n")

    def delegate(self, controllers: str) -> None:
        (self.own / "cgroup.subtree_control").write_text("")
        (self.own / "cgroup.controllers").write_text(controllers + "\n")

    def row(self, container: str = "", run: Runner = lambda args: None, manager: bool = False) -> Check:
        return cgroups.cgroup(container, root=str(self.root), uid=1000, run=run, manager=manager)


def test_a_cgroup_that_is_ours_has_all(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.delegate("cpuset cpu io memory pids")
    row = tree.row()
    assert row.ok and row.mend == "" and "cpuset yes" in row.detail and "/mine" in row.detail
    assert not list(tree.own.glob("sandbox*"))


def test_without_io_and_cpuset_limits_work_and_the_drop_in_is_told(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.delegate("cpu memory pids")
    row = tree.row(manager=True)
    assert row.ok and "io no" in row.detail
    assert r"'[Service]\nDelegate=cpu cpuset io memory pids\n'" in row.mend
    assert "user@.service.d/delegate.conf" in row.mend and "user@1000.service" in row.mend


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cgroup_of_roots_is_not_delegated(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.delegate("cpu memory pids")
    tree.own.chmod(0o555)
    row = tree.row()
    assert not row.ok and "not delegated" in row.detail and row.mend
    tree.own.chmod(0o755)


def test_what_the_kernel_does_not_have_cannot_be_mended(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    (tmp_path / "sys/fs/cgroup/cgroup.controllers").write_text("cpu io memory pids\n")
    tree.delegate("cpu io memory pids")
    row = tree.row(manager=True)
    assert row.ok and row.mend == "" and "no cpuset)" in row.detail


def test_a_kernel_with_its_memory_controller_off(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    (tmp_path / "sys/fs/cgroup/cgroup.controllers").write_text("cpu cpuset io pids\n")
    tree.delegate("cpu cpuset io pids")
    row = tree.row(manager=True)
    assert not row.ok and "no memory)" in row.detail and "cgroup_enable=memory" in row.mend


def test_root_is_given_no_drop_in_of_users(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    row = cgroups.cgroup("", root=str(tmp_path), uid=0, run=lambda args: None, manager=True)
    assert not row.ok and "user@" not in row.mend and "systemd-run --scope" in row.mend
    assert tree.own.exists()


def test_v1_hybrid_and_none(tmp_path: Path) -> None:
    for number, (mounts, word) in enumerate(((V1, "v1 only"), (V1 + V2, "hybrid"), ("", "no cgroup file"))):
        row = Tree(tmp_path / str(number), mounts).row()
        assert not row.ok and word in row.detail and row.mend
        assert ("unified_cgroup_hierarchy" in row.mend) == (mounts != "")


@pytest.mark.parametrize("container", ["docker", "podman"])
def test_in_containers_the_engine_has_an_option(tmp_path: Path, container: str) -> None:
    row = Tree(tmp_path).row(container)
    assert not row.ok and row.mend.startswith(f"{container} run --cgroup")


def test_systemd_is_asked_for_a_scope(tmp_path: Path) -> None:
    asked: list[Sequence[str]] = []

    def run(args: Sequence[str]) -> tuple[int, str]:
        asked.append(args)
        return 0, "Running scope as unit: x\ngot: cpu memory pids\n"

    row = Tree(tmp_path).row(run=run, manager=True)
    assert row.ok and "delegated by systemd: memory yes, pids yes, cpu yes, io no" in row.detail
    assert {"--scope", "Delegate=yes"} <= set(asked[0])


def test_a_systemd_that_refuses_the_scope(tmp_path: Path) -> None:
    row = Tree(tmp_path).row(run=lambda args: (1, "got: nothing; Access denied"), manager=True)
    assert not row.ok and "memory no" in row.detail and "Delegate=" in row.mend


# --- the user manager ---------------------------------------------------------------------------


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bus.", dir="/tmp") as name:  # short: sun_path has 108 bytes
        yield Path(name)


class Bus(threading.Thread):
    """A socket that answers once. `heard` is what it was told."""

    def __init__(self, path: Path, answer: bytes) -> None:
        super().__init__(daemon=True)
        self.answer, self.heard = answer, b""
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(1)
        self.start()

    def run(self) -> None:
        connection, _ = self.listener.accept()
        with connection, self.listener:
            while not self.heard.endswith(b"\r\n"):
                self.heard += connection.recv(100)
            connection.sendall(self.answer)


def manager(directory: Path, run: Runner = lambda args: None, **environ: str) -> Check:
    variables = {"XDG_RUNTIME_DIR": str(directory), **environ}
    return cgroups.user_manager("me", environ=variables, uid=1000, systemd=str(directory), run=run)


def test_a_bus_that_lets_us_in(directory: Path) -> None:
    bus = Bus(directory / "bus", b"OK 1234deadbeef\r\n")
    row = manager(directory, run=lambda args: (1, "degraded\n"))
    bus.join(10)
    assert row.ok and "degraded" in row.detail
    assert bus.heard == b"\0AUTH EXTERNAL " + str(os.geteuid()).encode().hex().encode() + b"\r\n"


def test_a_bus_that_refuses_us(directory: Path) -> None:
    bus = Bus(directory / "bus", b"REJECTED EXTERNAL\r\n")
    row = manager(directory)
    bus.join(10)
    assert not row.ok and "REJECTED" in row.detail


def test_no_bus_asks_for_lingering(directory: Path) -> None:
    row = manager(directory)
    assert not row.ok and "sudo loginctl enable-linger me" in row.mend
    assert "export XDG_RUNTIME_DIR=/run/user/1000" in row.mend  # the one that is set is not the user's


def test_without_xdg_runtime_dir_the_usual_place_is_looked_at(directory: Path) -> None:
    row = cgroups.user_manager(
        "me",
        environ={},
        uid=1000,
        systemd=str(directory),
        speak=lambda path: f"no {path}",
        run=lambda a: None,
    )
    assert "/run/user/1000/bus" in row.detail and "export" not in row.mend


def test_a_machine_without_systemd(directory: Path) -> None:
    row = cgroups.user_manager("me", environ={}, uid=1000, systemd=str(directory / "none"))
    assert not row.ok and "not run by systemd" in row.detail
