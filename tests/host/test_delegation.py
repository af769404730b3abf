"""Where cgroups can be made: on machines made of files, and below the real cgroup v2 tree."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.host import delegation
from sandbox.host.delegation import Hierarchy, Machine, discover
from tests.host.cgroup_tree import OTHER, UNIFIED, V1, V2, Tree

not_as_root = pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")


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
        ("30 2 0:2 /a\\040b /c\\134d rw - cgroup2 cgroup2 rw\n", Hierarchy("v2", "/c\\d", "/a b")),
    ],
)
def test_hierarchies(mountinfo: str, expected: Hierarchy) -> None:
    assert delegation.hierarchy(mountinfo) == expected


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("0::/user.slice/session-1.scope\n", "/user.slice/session-1.scope"),
        ("9:name=systemd:/\n0::/\n", "/"),
        ("0::/a:b\n", "/a:b"),
        ("0::/first\n1:cpu:/last\n", "/first"),
        ("1:cpu:/x\n", ""),
        ("0::/../other\n", ""),
        ("0::/..\n", ""),
        ("0::/..other\n", "/..other"),
        ("0::/gone (deleted)\n", ""),
        ("10::/x\n", ""),
        ("", ""),
    ],
)
def test_own_paths(text: str, path: str) -> None:
    assert delegation.own_path(text) == path


@pytest.fixture
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="cg.", dir="/tmp") as name:  # short: sun_path has 108 bytes
        yield Path(name)
        for path, _, _ in os.walk(name):
            os.chmod(path, 0o755)


# --- already inside -----------------------------------------------------------------------------


@not_as_root
def test_the_nearest_ancestor_that_is_empty_and_ours(root: Path) -> None:
    tree = Tree(root, "/box/shell")
    tree.add("box", "cpu memory pids")
    tree.add("box/shell", "", procs="1\n2\n")
    found = tree.discover()
    assert (found.kind, found.place) == ("inside", "/sys/fs/cgroup/box")
    assert found.controllers == ("memory", "pids", "cpu") and found.own == "/box/shell"
    assert "io, cpuset" in found.reason and found.mend.startswith("echo +io +cpuset | sudo tee")


@not_as_root
def test_who_is_alone_in_its_cgroup_may_leave_it(root: Path) -> None:
    tree = Tree(root, "/mine")
    tree.add("mine", procs=f"{os.getpid()}\n")
    assert tree.discover(alone=True).controllers
    found = tree.discover()  # a caller of the API is never moved
    assert found.controllers == () and str(os.getpid()) in found.reason and "/mine/main" in found.mend


@not_as_root
def test_others_in_our_cgroup_are_not_moved(root: Path) -> None:
    tree = Tree(root, "/mine")
    tree.add("mine", procs=f"{os.getpid()}\n0\n")
    found = tree.discover(alone=True)
    assert found.place == "/sys/fs/cgroup/mine"  # it can still be frozen and killed
    assert found.controllers == () and "has processes in it" in found.reason and "cgroup.procs" in found.mend


@not_as_root
def test_what_was_handed_down_already_is_enough(root: Path) -> None:
    tree = Tree(root, "/a/b")
    tree.add("a", given="memory pids", procs="7\n")
    tree.add("a/b", procs="8\n")
    assert tree.discover().controllers == ("memory", "pids")


@not_as_root
def test_an_ancestor_behind_one_that_is_not_ours_is_not_looked_at(root: Path) -> None:
    tree = Tree(root, "/a/b/c")
    tree.add("a")
    tree.add("a/b", ours=False)
    tree.add("a/b/c", procs="8\n")
    assert tree.discover().controllers == ()


@not_as_root
def test_below_a_unit_only_what_systemd_delegated(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = Tree(root, "/user.slice/user-1000.slice/user@1000.service/app.slice/x.scope/leaf")
    tree.systemd("cpu memory pids", bus=False)
    unit = tree.add("user.slice/user-1000.slice/user@1000.service/app.slice/x.scope")
    tree.add("user.slice/user-1000.slice/user@1000.service/app.slice/x.scope/leaf", procs="8\n")
    assert tree.discover().kind == "none"
    marks = {str(unit): b"1"}
    monkeypatch.setattr(os, "getxattr", lambda path, name: marks.get(path, b"0"))
    found = tree.discover()
    assert found.kind == "inside" and found.place.endswith("/x.scope") and len(found.controllers) == 5
    # What is above the unit is the user manager's, although it belongs to the user.
    marks.clear()
    marks[str(unit.parent.parent)] = b"1"
    assert tree.discover().kind == "none"


@not_as_root
def test_the_user_managers_own_cgroup_is_not_ours(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = Tree(root, "/user.slice/user-1000.slice/user@1000.service")
    tree.systemd(bus=False)
    monkeypatch.setattr(os, "getxattr", lambda path, name: b"1")
    assert tree.discover().kind == "none"


@not_as_root
def test_inside_comes_before_systemd(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = Tree(root, "/x.scope/leaf")
    tree.systemd()
    tree.add("x.scope", "memory")
    tree.add("x.scope/leaf", procs="8\n")
    monkeypatch.setattr(os, "getxattr", lambda path, name: b"1")
    assert tree.discover().kind == "inside"


# --- systemd --------------------------------------------------------------------------------------


@not_as_root
def test_a_session_asks_its_user_manager(root: Path) -> None:
    tree = Tree(root, "/user.slice/user-1000.slice/session-3.scope")
    tree.systemd("cpu memory pids")
    tree.add("user.slice/user-1000.slice/session-3.scope", ours=False)
    found = tree.discover()
    assert (found.kind, found.place) == ("systemd", f"{root}/run/user/1000/bus")
    assert found.controllers == ("memory", "pids", "cpu") and found.own == ""
    assert "does not delegate io, cpuset" in found.reason
    assert r"Delegate=cpu cpuset io memory pids\n'" in found.mend and "user@1000.service" in found.mend


@not_as_root
def test_without_a_bus_lingering_is_the_mend(root: Path) -> None:
    tree = Tree(root, "/user.slice/user-1000.slice/session-3.scope")
    tree.systemd(bus=False)
    tree.add("user.slice/user-1000.slice/session-3.scope", ours=False)
    found = tree.discover()
    assert found.kind == "none" and "there is no /run/user/1000/bus" in found.reason
    assert found.mend == "sudo loginctl enable-linger me"
    assert found.watched == (f"{root}/run/user/1000/bus",)  # a plan made without it is not for ever
    (root / "run/user/1000/systemd").mkdir()  # a manager, and nothing to reach it by
    assert "dbus-user-session" in tree.discover().mend


def test_the_variable_counts_only_for_a_socket_of_our_own(root: Path) -> None:
    usual = "/run/user/1000/bus"
    assert delegation.bus_path(1000, {}) == usual
    assert delegation.bus_path(1000, {"XDG_RUNTIME_DIR": str(root)}) == usual
    (root / "bus").write_text("")
    assert delegation.bus_path(os.geteuid() or 1, {"XDG_RUNTIME_DIR": str(root)}).startswith("/run/user")
    (root / "bus").unlink()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "bus"))
    uid = os.geteuid() or 1
    os.chown(root / "bus", uid, -1)
    assert delegation.bus_path(uid, {"XDG_RUNTIME_DIR": str(root)}) == f"{root}/bus"
    assert delegation.bus_path(0, {"XDG_RUNTIME_DIR": str(root)}) == "/run/dbus/system_bus_socket"


# --- others ---------------------------------------------------------------------------------------


def test_the_top_of_the_machine_is_taken_as_it_is(root: Path) -> None:
    tree = Tree(root, "/", uid=0)
    for path in (tree.mount, tree.mount / "cgroup.procs"):
        path.chmod(0o755)
    (tree.mount / "cgroup.subtree_control").write_text("memory pids\n")
    found = tree.discover()
    assert (found.kind, found.place) == ("root", "/sys/fs/cgroup")
    assert found.controllers == ("memory", "pids")  # all five could be had, but it is not ours to change


def test_root_in_a_container_with_a_writable_tree(root: Path) -> None:
    tree = Tree(root, "/", uid=0)
    for path in (tree.mount, tree.mount / "cgroup.procs"):
        path.chmod(0o755)
    (tree.mount / "cgroup.type").write_text("domain\n")
    (tree.mount / "cgroup.subtree_control").write_text("")
    (tree.mount / "cgroup.procs").write_text(f"{os.getpid()}\n")
    assert tree.discover(alone=True, container="docker").controllers == delegation.CONTROLLERS
    found = tree.discover(container="docker")
    assert found.controllers == () and "mkdir -p /sys/fs/cgroup/main" in found.mend


@not_as_root
@pytest.mark.parametrize("container", ["docker", "podman"])
def test_in_containers_the_engine_has_an_option(root: Path, container: str) -> None:
    found = Tree(root, "/").discover(container=container)
    assert found.kind == "none" and found.mend.startswith(f"{container} run --cgroup")


@not_as_root
def test_without_systemd_a_directory_can_be_prepared(root: Path) -> None:
    found = Tree(root, "/").discover()
    assert (
        found.kind == "none" and "echo $$ | sudo tee /sys/fs/cgroup/sandbox/login/cgroup.procs" in found.mend
    )


def test_v1_hybrid_and_no_cgroups(root: Path) -> None:
    for number, (mounts, word) in enumerate(
        ((V1, "v1 only"), (V1 + UNIFIED, "hybrid"), (OTHER, "no cgroup"))
    ):
        found = Tree(root / str(number), "/", mounts).discover()
        assert word in found.reason and found.mend
        assert ("unified_cgroup_hierarchy" in found.mend) == (mounts != OTHER)


@not_as_root
def test_a_v2_tree_without_controllers_is_used_for_what_it_has(root: Path) -> None:
    tree = Tree(root, "/a/b", V1 + UNIFIED)
    tree.add("a", "")
    tree.add("a/b", "", procs="8\n")
    found = tree.discover()
    assert (found.kind, found.place, found.controllers) == ("inside", "/sys/fs/cgroup/unified/a/b", ())
    assert "hybrid" in found.reason


def test_a_tree_that_shows_a_part_only(root: Path) -> None:
    mountinfo = V2.replace(" / /sys", " /docker/abc /sys")
    assert Machine.look(root=str(Tree(root, "/docker/abc/x", mountinfo).root)).own == "/sys/fs/cgroup/x"
    (root / "proc/self/cgroup").write_text("0::/docker/abcd\n")
    assert Machine.look(root=str(root)).own == ""


def test_none_is_none(root: Path) -> None:
    tree = Tree(root, "/mine")
    tree.add("mine")
    assert tree.discover("none").kind == "none"


# --- a directory with a name ----------------------------------------------------------------------


@not_as_root
def test_a_prepared_directory(root: Path) -> None:
    tree = Tree(root, "/judge/login")
    tree.add("judge", "memory pids")
    tree.add("judge/login", procs="8\n")
    found = tree.discover("/sys/fs/cgroup/judge/")
    assert (found.kind, found.place, found.named) == ("directory", "/sys/fs/cgroup/judge", True)
    assert found.controllers == ("memory", "pids")


@not_as_root
@pytest.mark.parametrize(
    ("parent", "reason", "mend"),
    [
        ("/srv/judge", "not below /sys/fs/cgroup", "name one below"),
        ("judge", "not an absolute path", "name one below"),
        ("/sys/fs/cgroup/../../srv", "not below", "name one below"),
        ("/sys/fs/cgroup/missing", "does not exist", "sudo mkdir -p /sys/fs/cgroup/missing"),
        ("/sys/fs/cgroup/roots", "not ours to write to", "sudo chown 1000"),
        ("/sys/fs/cgroup/full", "has processes in it (8)", "/full/main"),
        ("/sys/fs/cgroup/judge", "can't be entered from /sys/fs/cgroup/elsewhere", "echo $$ | sudo tee"),
    ],
)
def test_directories_that_are_of_no_use(root: Path, parent: str, reason: str, mend: str) -> None:
    tree = Tree(root, "/elsewhere")
    tree.add("elsewhere", procs="7\n", ours=False)
    tree.add("roots", ours=False)
    tree.add("full", procs="8\n")
    tree.add("judge")
    found = tree.discover(parent)
    assert found.kind == "none" and found.named and reason in found.reason and mend in found.mend


# --- the real tree --------------------------------------------------------------------------------


def test_this_machine() -> None:
    found = discover()
    assert found.kind in ("inside", "systemd", "root", "none")
    assert found.reason or set(found.controllers) == set(delegation.CONTROLLERS)
    if found.kind in ("inside", "root"):
        assert os.path.exists(f"{found.place}/cgroup.procs")
