"""Mounts and their protections, judged by a small model of what the mounts would do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sandbox.plan import operations as ops
from sandbox.plan.invocation import Guard, Invocation, Place, is_below
from sandbox.plan.mounts import host_writable, operations, seen
from sandbox.profile.model import Profile, Root
from sandbox.wire import Mount
from tests.plan.making import call, guard, place


@dataclass(frozen=True, eq=False)
class Mounted:
    """A mount: what of the host it shows ("" nothing), and whether it writes there."""

    dst: str
    host: str
    writes: bool


def mount_all(found: Sequence[ops.Operation], root: str = "") -> list[Mounted]:
    """What is mounted after the operations, by the rules of mount_setattr(2) and bind mounts; *root* is what
    a `dir:` root is made of."""
    table: list[Mounted] = [Mounted("/", root, False)] if root else []
    for each in found:
        assert not any(other.dst.startswith(each.dst + "/") for other in table), "a mount over its children"
        if isinstance(each, ops.Bind):
            table.append(Mounted(each.dst, each.source, not each.flags & Mount.READONLY))
        elif isinstance(each, ops.Overlay):
            table.append(Mounted(each.dst, each.lowers[0], False))
        elif isinstance(each, ops.Pin):
            below = look_up(table, each.dst)
            assert below is not None and below.host, f"nothing to protect on {each.dst}"
            host = translate(below, each.dst)
            table.append(Mounted(each.dst, host, below.writes and not each.flags & Mount.READONLY))
        else:
            assert isinstance(each, ops.Tmpfs | ops.Mask)
            table.append(Mounted(each.dst, "", False))
    return table


def look_up(table: Sequence[Mounted], path: str) -> Mounted | None:
    around = [each for each in table if is_below(path, each.dst)]
    return max(reversed(around), key=lambda each: len(each.dst), default=None)


def translate(mount: Mounted, inside: str) -> str:
    rest = inside[len(mount.dst.rstrip("/")) :]
    return (mount.host.rstrip("/") + rest) if mount.host else ""


def shown_at(mount: Mounted, host: str) -> str | None:
    if not mount.host or not is_below(host, mount.host):
        return None
    rest = host[len(mount.host.rstrip("/")) :].lstrip("/")
    return f"{mount.dst.rstrip('/')}/{rest}" if rest else mount.dst


def between(outer: str, inner: str) -> Iterator[str]:
    """The paths below *outer* on the way to *inner*, it included."""
    parts = inner[len(outer.rstrip("/")) :].lstrip("/").split("/")
    at = outer.rstrip("/")
    for part in parts:
        at += "/" + part
        yield at


def writable_or_movable(table: Sequence[Mounted], guarded: str) -> list[str]:
    """What a payload could write, or rename or replace, of a path that it must not."""
    points = {each.dst for each in table}
    faults = []
    for mount in table:
        if not mount.writes:
            continue
        if is_below(mount.host, guarded):
            faults.append(f"{mount.dst} writes to {mount.host}")
        inside = shown_at(mount, guarded)
        if inside is None or mount.host == guarded:
            continue
        if look_up(table, inside) is mount:
            faults.append(f"{inside} can be written")
        for path in between(mount.dst, inside):
            parent = path.rpartition("/")[0] or "/"
            if look_up(table, parent) is mount and path not in points:
                faults.append(f"{path} can be renamed")
    return faults


def visible(table: Sequence[Mounted], hidden: str) -> list[str]:
    found = []
    for mount in table:
        inside = shown_at(mount, hidden)
        if inside is not None and mount.host != hidden and look_up(table, inside) is mount:
            found.append(inside)
    return found


names = st.sampled_from(("a", "b", "c"))
paths = st.lists(names, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))
modes = st.sampled_from(("ro", "rw", "rw", "overlay", "tmpfs", "hide"))


@st.composite
def invocations(draw: st.DrawFn) -> Invocation:
    wanted = draw(st.lists(st.tuples(paths, modes, st.just("/") | paths), min_size=1, max_size=5))
    places: list[Place] = []
    for dst, mode, source in wanted:
        inside_hidden = any(
            (is_below(dst, each.destination) and each.mount.mode == "hide")
            or (is_below(each.destination, dst) and mode == "hide")
            for each in places
        )
        assume(not inside_hidden)
        assume(all(each.destination != dst for each in places))
        places.append(place(dst, mode, source))
    guards = tuple(guard(path) for path in draw(st.lists(paths, max_size=3, unique=True)))
    hidden = tuple(Guard(path, "hidden") for path in draw(st.lists(paths, max_size=2, unique=True)))
    return call(places, guards=guards, hidden=hidden, root=draw(st.just("") | paths))


@given(invocations())
def test_guards_can_neither_be_written_nor_replaced(invocation: Invocation) -> None:
    table = mount_all(operations(Profile(), invocation), invocation.root)
    for each in invocation.guards:
        assert writable_or_movable(table, each.path) == []


@given(invocations())
def test_hidden_paths_are_seen_nowhere_and_stay(invocation: Invocation) -> None:
    table = mount_all(operations(Profile(), invocation), invocation.root)
    for each in invocation.hidden:
        assert visible(table, each.path) == []
        if not any(is_below(mount.host, each.path) for mount in table if mount.writes):
            assert writable_or_movable(table, each.path) == []


@given(invocations())
def test_no_destination_twice_and_parents_first(invocation: Invocation) -> None:
    found = [each.dst for each in operations(Profile(), invocation)]
    assert len(found) == len(set(found))
    assert found == sorted(found, key=lambda dst: (dst.count("/"), dst))


@given(invocations())
def test_mount_points_below_a_writable_mount_stay(invocation: Invocation) -> None:
    """A payload can't move a nested mount's parents away and put its own directory there."""
    table = mount_all(operations(Profile(), invocation))
    points = {each.dst for each in table}
    for point in {each.destination for each in invocation.places}:
        for outer in table:
            if not outer.writes or not point.startswith(outer.dst + "/"):
                continue
            for path in between(outer.dst, point):
                parent = path.rpartition("/")[0]
                assert look_up(table, parent) is not outer or path in points


def test_the_judge_finds_faults() -> None:
    """What the model above says of mounts without protections."""
    table = mount_all([ops.Bind(dst="/w", source="/h")])
    assert writable_or_movable(table, "/h/s/t") == [
        "/w/s/t can be written",
        "/w/s can be renamed",
        "/w/s/t can be renamed",
    ]
    assert visible(table, "/h/s") == ["/w/s"]
    whole = mount_all([ops.Bind(dst="/w", source="/h/s")])
    assert writable_or_movable(whole, "/h") == ["/w writes to /h/s"]
    half = mount_all([ops.Bind(dst="/w", source="/h"), ops.Pin(dst="/w/s", flags=Mount.READONLY)])
    assert writable_or_movable(half, "/h/s") == []


def described(found: Sequence[ops.Operation]) -> list[str]:
    return [each.describe() for each in found]


def test_home_writable_protects_ours() -> None:
    invocation = call([place("/home/u", "rw")], guards=(guard("/home/u/.local/state/sandbox"),))
    assert described(operations(Profile(), invocation)) == [
        "bind /home/u on /home/u",
        "protect /home/u/.local from being renamed",
        "protect /home/u/.local/state from being renamed",
        "protect /home/u/.local/state/sandbox from writing",
    ]


def test_a_project_profile_is_read_only_in_a_writable_project() -> None:
    invocation = call([place("/p", "rw")], guards=(guard("/p/sandbox.toml", "the profile"),))
    assert described(operations(Profile(), invocation)) == [
        "bind /p on /p",
        "protect /p/sandbox.toml from writing",
    ]


def test_a_mount_inside_our_installation_is_read_only() -> None:
    invocation = call([place("/co/tests", "rw")], guards=(guard("/co", "where sandbox is installed"),))
    [operation] = operations(Profile(), invocation)
    assert operation.flags & Mount.READONLY  # type: ignore[attr-defined]
    assert host_writable(invocation) == ()


def test_hiding_follows_the_host_path_into_other_mounts() -> None:
    places = [place("/home/u", "ro"), place("/home/u/.ssh", "hide"), place("/mnt", "rw", "/home")]
    found = operations(Profile(), call(places, hidden=(Guard("/home/u/.ssh", "hidden"),)))
    assert described(found) == [
        "bind /home on /mnt",
        "bind /home/u read-only on /home/u",
        "protect /mnt/u from being renamed",
        "hide /home/u/.ssh",
        "hide /mnt/u/.ssh",
    ]


def test_hiding_follows_the_host_path_into_a_root() -> None:
    hidden = (Guard("/home/u/.ssh", "hidden"), Guard("/home/u/tmp/x", "hidden"), Guard("/home", "hidden"))
    places = [place("/tmp", "tmpfs"), place("/all", "ro", "/home")]
    found = operations(Profile(), call(places, hidden=hidden, root="/home/u"))
    assert described(found) == [
        "hide /.ssh",
        "bind /home read-only on /all",
        "mount a tmpfs on /tmp",
        "hide /all/u/.ssh",
        "hide /all/u/tmp/x",
    ]


def test_nothing_is_protected_in_what_is_hidden() -> None:
    """As where the copy of a checkout is in the cache: the helper would find nothing there."""
    hidden, guards = (Guard("/home/u/.cache", "cache"),), (guard("/home/u/.cache/a/b"), guard("/home/u/c/d"))
    found = operations(Profile(), call([place("/home/u", "rw")], hidden=hidden, guards=guards))
    assert described(found) == [
        "bind /home/u on /home/u",
        "hide /home/u/.cache",
        "protect /home/u/c from being renamed",
        "protect /home/u/c/d from writing",
    ]


def test_a_hidden_path_can_be_mounted_by_its_own_name() -> None:
    invocation = call([place("/r", "ro", "/run/user/1")], hidden=(Guard("/run", "runtime"),))
    assert described(operations(Profile(), invocation)) == ["bind /run/user/1 read-only on /r"]


@pytest.mark.parametrize(
    ("mode", "flags"),
    [
        ("ro", Mount.READONLY | Mount.RECURSIVE),
        ("rw", Mount.RECURSIVE),
        ("overlay", Mount(0)),
        ("tmpfs", Mount.OWNED),
    ],
)
def test_flags_of_the_modes(mode: str, flags: Mount) -> None:
    [operation] = operations(Profile(), call([place("/x", mode)]))  # type: ignore[arg-type]
    expected = flags | Mount.NOSUID | Mount.NODEV | Mount.CREATE
    assert operation.flags == expected  # type: ignore[attr-defined]


def test_devices_that_are_asked_for_can_be_used() -> None:
    [node] = operations(Profile(), call([place("/dev/kvm", "ro", devices=True)]))
    assert not node.flags & Mount.NODEV  # type: ignore[attr-defined]


def test_optional_source_stays_optional() -> None:
    """It was there when the plan was made, and may be gone when a cached one is used."""
    [operation] = operations(Profile(), call([place("/x", "ro", optional=True)]))
    assert operation.flags & Mount.OPTIONAL  # type: ignore[attr-defined]


@pytest.mark.parametrize(("writable", "uppers"), [("no", ["", ""]), ("disk", ["mount0", "mount1"])])
def test_overlays_keep_changes_in_memory_or_in_the_scratch_directory(
    writable: str, uppers: list[str]
) -> None:
    profile = Profile(root=Root(writable=writable))  # type: ignore[arg-type]
    found = operations(profile, call([place("/a", "overlay"), place("/b", "overlay")]))
    assert [each.upper for each in found if isinstance(each, ops.Overlay)] == uppers


def test_sticky_directories() -> None:
    found = operations(Profile(), call([place("/tmp", "tmpfs"), place("/work", "tmpfs", size=4096)]))
    assert [(each.dst, each.mode) for each in found if isinstance(each, ops.Tmpfs)] == [
        ("/tmp", 0o1777),
        ("/work", 0o755),
    ]


def test_untrusted_sources_are_opened_beneath() -> None:
    [operation] = operations(Profile(), call([place("/d", "ro", "data", beneath="/p")]))
    assert isinstance(operation, ops.Bind)
    assert (operation.source, operation.beneath) == ("data", "/p")
    [overlay] = operations(Profile(), call([place("/d", "overlay", "data", beneath="/p")]))
    assert isinstance(overlay, ops.Overlay) and overlay.lowers == ("/p/data",)


def test_protections_in_a_root_with_links_of_its_own_may_follow_them() -> None:
    places, guards = [place("/var/run/x", "rw", "/h")], (guard("/h/s"),)
    for source, strict in (("host", True), ("dir:/r", False)):
        found = operations(Profile(root=Root(source)), call(places, guards=guards))
        pins = [each for each in found if isinstance(each, ops.Pin)]
        assert pins and all(bool(each.flags & Mount.STRICT) == strict for each in pins)


def test_where_a_path_is_seen() -> None:
    invocation = call([place("/w", "ro", "/home/u"), place("/w/x", "tmpfs"), place("/all", "ro", "/")])
    assert seen(invocation, "/home/u/p") == "/w/p"
    assert seen(invocation, "/home/u/x") == "/all/home/u/x"
    assert seen(invocation, "/usr/lib") == "/all/usr/lib"
    assert seen(invocation, "/usr/lib", ["/usr"]) == "/usr/lib"
    assert seen(call(), "/home/u") is None
