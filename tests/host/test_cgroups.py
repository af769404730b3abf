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
from sandbox.host.delegation import Machine
from sandbox.host.model import Check
from sandbox.host.tools import Runner
from tests.host.cgroup_tree import OTHER, UNIFIED, V1, V2, Tree

not_as_root = pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")


def row(tree: Tree, run: Runner = lambda args: None) -> Check:
    machine = Machine.look(root=str(tree.root), uid=tree.uid, alone=True)
    return cgroups.cgroup(cgroups.tried("", user="me", machine=machine, run=run, environ={}), machine)


@pytest.fixture
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="cg.", dir="/tmp") as name:
        yield Path(name)
        for path, _, _ in os.walk(name):
            os.chmod(path, 0o755)


def test_a_cgroup_that_is_ours_has_all(root: Path) -> None:
    tree = Tree(root, "/mine")
    mine = tree.add("mine", procs=f"{os.getpid()}\n")
    found = row(tree)
    assert found.ok and found.mend == "" and "cpuset yes" in found.detail and "/mine" in found.detail
    assert not list(mine.glob("sandbox*"))


@not_as_root
def test_one_in_which_none_can_be_made_after_all(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = Tree(root, "/mine")
    tree.add("mine")

    def refuse(*args: object, **keywords: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "mkdir", refuse)
    found = row(tree)
    assert not found.ok and "memory no" in found.detail


def test_what_the_kernel_does_not_have_cannot_be_mended(root: Path) -> None:
    tree = Tree(root, "/mine")
    (tree.mount / "cgroup.controllers").write_text("cpu io memory pids\n")
    tree.add("mine", "cpu io memory pids")
    found = row(tree)
    assert found.ok and found.mend == "" and "no cpuset)" in found.detail


def test_a_kernel_with_its_memory_controller_off(root: Path) -> None:
    tree = Tree(root, "/mine")
    (tree.mount / "cgroup.controllers").write_text("cpu cpuset io pids\n")
    tree.add("mine", "cpu cpuset io pids")
    found = row(tree)
    assert not found.ok and "no memory)" in found.detail and "cgroup_enable=memory" in found.mend


@not_as_root
def test_nothing_of_ours_is_told_with_its_mend(root: Path) -> None:
    for number, mounts in enumerate((V1, V1 + UNIFIED, OTHER, V2)):
        found = row(Tree(root / str(number), "/", mounts))
        assert not found.ok and found.mend and "best-effort" in found.consequence


@not_as_root
def test_systemd_is_asked_for_a_scope(root: Path) -> None:
    asked: list[Sequence[str]] = []

    def run(args: Sequence[str]) -> tuple[int, str]:
        asked.append(args)
        return 0, "Running scope as unit: x\ngot: cpu memory pids\n"

    tree = Tree(root, "/user.slice/user-1000.slice/session-3.scope")
    tree.systemd()
    found = row(tree, run)
    assert found.ok and "delegated by systemd: memory yes, pids yes, cpu yes, io no" in found.detail
    assert {"--scope", "Delegate=yes"} <= set(asked[0])
    assert r"Delegate=cpu cpuset io memory pids\n'" in found.mend


@not_as_root
def test_a_systemd_that_refuses_the_scope(root: Path) -> None:
    tree = Tree(root, "/user.slice/user-1000.slice/session-3.scope")
    tree.systemd()
    found = row(tree, lambda args: (1, "got: nothing; Access denied"))
    assert not found.ok and "memory no" in found.detail and "refuses a delegated scope" in found.detail
    assert "systemd-run --user --scope" in found.mend


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
    uid = os.geteuid() or 1000
    return cgroups.user_manager("me", environ=variables, uid=uid, systemd=str(directory), run=run)


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
