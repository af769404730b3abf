"""Layers by example: each stack has an answer that can be looked up, and kernel and model agree with it."""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.image.layer.archives import Item, archive, directory, file, hardlink, opaque, symlink, whiteout
from tests.image.layer.test_stacks import check

TMP = directory("tmp", 0o1777)
USR = [directory("usr"), directory("usr/lib"), symlink("lib", "usr/lib")]


def tree(answer: dict[str, Any]) -> dict[str, Any]:
    """What is to be seen: a file's content, a link's target, a directory's mode."""
    assert "error" not in answer, answer["error"]
    found: dict[str, Any] = {}
    for path, (kind, mode, _, _, _, content, *_) in answer["kernel"].items():
        found[path] = (
            oct(mode) if kind == "dir" else bytes.fromhex(content).decode() if kind == "file" else content
        )
    del found[""]
    return found


def need_kernel(*version: int) -> None:
    if tuple(map(int, os.uname().release.split(".")[:2])) < version:
        pytest.skip(f"Linux {version[0]}.{version[1]}")


# --- five legal layers on which today's tools disagree -----------------------------------------------


def test_a_directory_that_the_layer_leaves_out_stays_what_it_is(stack: Any) -> None:
    answer = check(stack, [[TMP, *USR], [file("tmp/x"), file("lib/foo", b"foo")]])
    assert tree(answer) == {
        "/tmp": "0o1777",
        "/tmp/x": "",
        "/usr": "0o755",
        "/usr/lib": "0o755",
        "/lib": "usr/lib",
        "/usr/lib/foo": "foo",
    }


def test_a_hard_link_to_a_file_of_a_lower_layer(stack: Any) -> None:
    answer = check(
        stack, [[directory("d", 0o700, uid=7), file("d/old", b"data", uid=5)], [hardlink("new", "d/old")]]
    )
    listing = answer["kernel"]
    assert tree(answer) == {"/d": "0o700", "/d/old": "data", "/new": "data"}
    assert listing["/new"] == listing["/d/old"], "one file, with one owner"
    assert listing["/d"][2] == 7


def test_a_file_and_then_its_whiteout(stack: Any) -> None:
    answer = check(stack, [[file("x", b"old")], [file("x", b"new"), whiteout("x")]])
    assert tree(answer) == {"/x": "new"}


def test_a_directory_that_was_deleted_and_made_again(stack: Any) -> None:
    answer = check(stack, [[directory("d"), file("d/old")], [whiteout("d"), directory("d"), file("d/new")]])
    assert tree(answer) == {"/d": "0o755", "/d/new": ""}


def test_an_opaque_whiteout_behind_what_it_does_not_hide(stack: Any) -> None:
    lower = [directory("d"), file("d/old"), directory("d/sub"), file("d/sub/old")]
    answer = check(stack, [lower, [directory("d"), file("d/new"), file("d/sub/new"), opaque("d")]])
    assert tree(answer) == {"/d": "0o755", "/d/new": "", "/d/sub": "0o755", "/d/sub/new": ""}


# --- whiteouts ----------------------------------------------------------------------------------------


def test_what_was_copied_for_a_link_goes_with_the_directory_that_it_was_in(stack: Any) -> None:
    lower = [directory("a"), directory("a/b"), file("a/b/c", b"c"), file("a/b/other")]
    answer = check(stack, [lower, [hardlink("a/b/x", "a/b/c"), whiteout("a")]])
    assert tree(answer) == {"/a": "0o755", "/a/b": "0o755", "/a/b/x": "c"}


def test_a_file_linked_and_then_deleted(stack: Any) -> None:
    answer = check(stack, [[file("a", b"a")], [hardlink("b", "a"), whiteout("a")]])
    assert tree(answer) == {"/b": "a"}


def test_a_directory_that_was_hidden_is_not_found_again(stack: Any) -> None:
    lower = [directory("a"), directory("a/b"), directory("a/b/c", 0o700), file("a/b/c/old")]
    answer = check(stack, [lower, [file("a/b/x"), whiteout("a"), file("a/b/c/y")]])
    assert tree(answer) == {"/a": "0o755", "/a/b": "0o755", "/a/b/x": "", "/a/b/c": "0o755", "/a/b/c/y": ""}


def test_a_whiteout_of_nothing_is_no_file(stack: Any) -> None:
    answer = check(stack, [[directory("d"), whiteout("d/none"), whiteout("none")], [whiteout("no/parent")]])
    assert tree(answer) == {"/d": "0o755"}


def test_the_root_made_opaque(stack: Any) -> None:
    lower = [file("x"), directory("d", 0o700), file("d/old")]
    answer = check(stack, [lower, [directory("d"), file("d/new"), opaque("")]])
    assert tree(answer) == {"/d": "0o755", "/d/new": ""}


def test_a_file_between_two_directories_hides_the_first(stack: Any) -> None:
    stages = [[directory("d"), file("d/x")], [file("d")], [directory("d"), file("d/y")]]
    assert tree(check(stack, stages)) == {"/d": "0o755", "/d/y": ""}
    assert tree(check(stack, [stages[0], stages[1] + stages[2]])) == {"/d": "0o755", "/d/y": ""}


def test_marks_of_aufs_are_passed_over(stack: Any) -> None:
    aufs = [Item("file", ".wh..wh.aufs"), directory(".wh..wh.plnk", 0o700)]
    assert tree(check(stack, [[file("x"), *aufs]])) == {"/x": ""}


@pytest.mark.parametrize("name", [".wh.", "d/.wh.", ".wh..", "d/.wh..."])
def test_a_whiteout_without_a_name(stack: Any, name: str) -> None:
    assert "names no file" in check(stack, [[directory("d"), Item("file", name)]])["error"]


def test_nothing_is_below_a_whiteout(stack: Any) -> None:
    assert "below a whiteout" in check(stack, [[directory("d")], [file("d/.wh.x/y")]])["error"]


def test_on_an_overlay_whiteouts_are_attributes(stack: Any) -> None:
    """As in a container whose own root is one: no device can be made there (Linux 6.7 for the others)."""
    need_kernel(6, 7)
    lower = [directory("d"), file("d/old"), file("d/kept"), file("x"), directory("e"), file("e/old")]
    upper = [
        whiteout("x"),
        whiteout("d/old"),
        whiteout("e"),
        directory("e"),
        file("e/new"),
        whiteout("e/none"),
    ]
    answer = check(stack, [lower, upper], nested=True)
    assert tree(answer) == {"/d": "0o755", "/d/kept": "", "/e": "0o755", "/e/new": ""}
    assert [each["whiteouts"] for each in answer["applied"]] == ["", "xattr"]
    assert check(stack, [lower, upper])["applied"][1]["whiteouts"] == "device"


# --- names, links, types --------------------------------------------------------------------------------


def test_odd_names_stay_what_they_are(stack: Any) -> None:
    names = ["new\nline", "\udcff\udc00"[:1], "ü", "-rf", " ", "a\\b", "~", "n" * 255, ".wh", "..."]
    answer = check(stack, [[file(name, name.encode("utf-8", "surrogateescape")[:3]) for name in names]])
    assert sorted(path[1:] for path in answer["kernel"] if path) == sorted(names)


def test_absolute_names_and_dots_lead_nowhere_else(stack: Any) -> None:
    items = [file("/etc/passwd", b"1"), file("./a/../b", b"2"), file(".//c", b"3"), file("/./d/.", b"4")]
    answer = stack([directory("etc"), *items])
    assert tree(answer) == {"/etc": "0o755", "/etc/passwd": "1", "/b": "2", "/c": "3", "/d": "4"}


def test_links_are_resolved_inside_the_root(stack: Any) -> None:
    lower = [
        directory("real"),
        symlink("abs", "/real"),
        symlink("up", "../../../real"),
        symlink("twice", "up"),
    ]
    answer = check(stack, [lower, [file("abs/1"), file("up/2"), file("twice/3")]])
    assert sorted(path for path in tree(answer) if path.startswith("/real/")) == [
        "/real/1",
        "/real/2",
        "/real/3",
    ]


def test_a_link_that_leads_to_what_is_not_there_yet(stack: Any) -> None:
    answer = check(stack, [[symlink("run", "/var/run")], [file("run/x/pid", b"1")]])
    assert tree(answer)["/var/run/x/pid"] == "1"


def test_links_in_a_circle(stack: Any) -> None:
    circle = [symlink("a", "b"), symlink("b", "a"), file("a/x")]
    assert "too many links" in check(stack, [circle])["error"]


def test_a_file_is_no_directory(stack: Any) -> None:
    assert "no directory" in check(stack, [[file("x"), file("x/y")]])["error"]
    assert "no directory" in check(stack, [[file("x")], [file("x/y")]])["error"]


@pytest.mark.parametrize("link", ["none", "none/none", "d", "/", "d/../x/y"])
def test_a_hard_link_to_no_file(stack: Any, link: str) -> None:
    assert "hard link" in stack([directory("d"), hardlink("x", link)])["error"]


def test_a_hard_link_through_a_symbolic_one_and_to_one(stack: Any) -> None:
    lower = [directory("real"), file("real/x", b"x"), symlink("dir", "real"), symlink("sym", "nowhere")]
    answer = check(stack, [lower, [hardlink("copy", "dir/x"), hardlink("same", "sym")]])
    assert (tree(answer)["/copy"], tree(answer)["/same"]) == ("x", "nowhere")


def test_every_type_replaces_every_other(stack: Any) -> None:
    makers = [
        lambda name: [file(name, b"f")],
        lambda name: [directory(name), file(f"{name}/in")],
        lambda name: [symlink(name, "to")],
        lambda name: [Item("fifo", name)],
        lambda name: [hardlink(name, "other")],
        lambda name: [Item("char", name)],
    ]
    one = [file("other", b"o")]
    two: list[Item] = []
    same = [file("other", b"o")]
    for n, first in enumerate(makers):
        for m, second in enumerate(makers):
            one += first(f"{n}{m}")
            two += second(f"{n}{m}")
            same += first(f"s{n}{m}") + second(f"s{n}{m}")
    check(stack, [one, two])
    check(stack, [same])


def test_devices_are_left_out_and_counted(stack: Any) -> None:
    devices = [
        directory("dev"),
        Item("char", "dev/null"),
        Item("block", "dev/sda"),
        hardlink("dev/n", "dev/null"),
    ]
    answer = check(stack, [[*devices, Item("char", "dev/whiteout", device=(0, 0))]])
    assert tree(answer) == {"/dev": "0o755"}
    assert answer["applied"][0]["devices"] == 4


# --- attributes -------------------------------------------------------------------------------------------


def test_modes_owners_and_times(stack: Any) -> None:
    items = [
        directory(".", 0o750, uid=9, mtime=5),
        directory("sgid", 0o2770, gid=50),
        file("sgid/root's", b"x"),
        directory("sgid/plain"),
        file("suid", b"x" * 5000, mode=0o4755, uid=33, gid=34),
        file("none", b"x", mode=0, uid=65535, gid=65535),
        directory("locked", 0, mtime=7),
        file("locked/in"),
        symlink("link", "to", uid=12, mtime=3),
        Item("fifo", "fifo", uid=3),
    ]
    listing = check(stack, [items])["kernel"]
    assert listing[""][:5] == ["dir", 0o750, 9, 0, 5]
    assert listing["/sgid/root's"][3] == 0, "a set-group-ID directory lends nothing"
    assert listing["/suid"][:4] == ["file", 0o4755, 33, 34]
    assert listing["/locked"][4] == 7


def test_a_default_access_list_is_not_inherited_while_unpacking(stack: Any) -> None:
    """acl(5), as the kernel keeps it: version 2, then (tag, permissions, id) of owner, group, others."""
    entries = [(0x01, 7), (0x04, 5), (0x20, 0)]
    acl = b"\2\0\0\0" + b"".join(
        tag.to_bytes(2, "little") + perm.to_bytes(2, "little") + b"\xff" * 4 for tag, perm in entries
    )
    items = [
        directory("d", xattrs=(("system.posix_acl_default", acl),)),
        file("d/x", mode=0o644),
        directory("d/e"),
    ]
    listing = check(stack, [items])["kernel"]
    assert listing["/d/x"][1] == 0o644
    assert listing["/d"][6] == [["system.posix_acl_default", acl.hex()]]
    assert listing["/d/e"][6] == []


def test_capabilities_are_kept_by_files_of_other_owners(stack: Any) -> None:
    """security.capability, version 2 (capabilities(7)): CAP_NET_RAW, permitted and effective."""
    value = bytes.fromhex("0100000200200000000000000000000000000000")
    answer = check(stack, [[file("ping", b"x", uid=5, xattrs=(("security.capability", value),))]])
    assert answer["kernel"]["/ping"][6] == [["security.capability", value.hex()]]
    answer = check(stack, [[file("p", b"x", xattrs=(("security.capability", value),))], [hardlink("q", "p")]])
    assert answer["kernel"]["/q"][6] == [["security.capability", value.hex()]]


def test_attributes_that_would_fool_a_driver_or_that_no_user_has_are_left_out(stack: Any) -> None:
    marks = (("user.overlay.opaque", b"y"), ("user.fuseoverlayfs.opaque", b"y"), ("trusted.x", b"1"))
    lower = [directory("d"), file("d/old")]
    upper = [directory("d", xattrs=marks), file("x", xattrs=(("user.overlay.whiteout", b"y"),))]
    answer = stack(lower, upper)
    assert tree(answer) == {"/d": "0o755", "/d/old": "", "/x": ""}
    assert answer["applied"][1]["xattrs"] == 4


def test_an_owner_beyond_the_range(stack: Any) -> None:
    error = stack([file("etc/x", uid=1_500_000_000)])["error"]
    assert "etc/x" in error
    assert "1500000000" in error
    assert "cannot unpack a/d: it belongs to user 70000" in stack([directory("a/d", uid=70000)])["error"]


def test_attributes_that_do_not_fit(stack: Any) -> None:
    error = stack([file("x", xattrs=(("user.big", b"x" * 70000),))])["error"]
    assert "user.big" in error
    assert "of x" in error


# --- one layer on others --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("items", "needs"),
    [
        ([directory("d"), file("d/x"), hardlink("d/y", "d/x"), symlink("l", "d"), Item("fifo", "f")], False),
        ([directory("d"), symlink("l", "d"), file("l/x")], False),
        ([file("d/x")], True),
        ([hardlink("y", "low")], True),
        ([whiteout("low")], True),
        ([directory("d"), opaque("d")], True),
        ([symlink("l", "d"), file("l/x")], True),
        ([Item("char", "c")], True),
    ],
)
def test_what_needs_the_layers_below(stack: Any, items: list[Item], needs: bool) -> None:
    answer = check(stack, [[directory("d"), file("low")], items])
    assert answer["applied"][1]["needs_lower"] is needs


def test_a_root_that_is_not_as_usual_is_inherited(stack: Any) -> None:
    answer = check(stack, [[directory(".", 0o700, uid=4)], [file("x")], [directory(".", 0o711)]])
    assert answer["kernel"][""][1:3] == [0o711, 0]
    assert [each["needs_lower"] for each in answer["applied"]] == [False, True, False]


def test_a_hundred_levels_and_a_hundred_layers(stack: Any) -> None:
    deep = "/".join(["d" * 20] * 100)
    answer = stack([file(deep, b"1")], [file(f"{deep[:-21]}/other", b"2")], [whiteout(deep)])
    assert "error" not in answer
    assert [path for path, said in answer["kernel"].items() if said[0] == "file"] == [f"/{deep[:-21]}/other"]
    answer = check(stack, [[file(f"f{n}", b"x"), file("same", b"%d" % n)] for n in range(20)])
    assert tree(answer)["/same"] == "19"


def test_the_same_entry_twice(stack: Any) -> None:
    items = [file("x", b"1"), file("x", b"22"), directory("d", 0o700), file("d/in"), directory("d", 0o711)]
    assert tree(check(stack, [items])) == {"/x": "22", "/d": "0o711", "/d/in": ""}


def test_the_archive_may_be_of_any_kind(stack: Any) -> None:
    import tarfile

    items = [directory("d"), file("d/" + "long" * 30, b"x", uid=1), symlink("l", "long" * 30)]
    seen = [
        stack(archive(*items, format=kind))["kernel"] for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
    ]
    assert seen[0] == seen[1]
