"""Following links: the same answer as the kernel's, with everything that decided it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.plan.files import Tracer, directories_in_root, kind_of, make_private, mount_points, read_text

names = st.sampled_from(("a", "b", "c", "..", "."))
written = st.lists(names, min_size=1, max_size=5).map("/".join)


@given(links=st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), written), max_size=4), path=written)
def test_agrees_with_realpath(
    tmp_path_factory: pytest.TempPathFactory, links: list[tuple[str, bool, str]], path: str
) -> None:
    top = Path(os.path.realpath(tmp_path_factory.mktemp("t")))
    (top / "a" / "b").mkdir(parents=True)
    (top / "c").mkdir()
    for number, (directory, absolute, target) in enumerate(links):
        place = top / ("a" if directory == "b" else directory)
        if place.is_dir() and not place.is_symlink():
            (place / "abc"[number % 3]).is_symlink() or (place / "abc"[number % 3]).exists() or (
                place / "abc"[number % 3]
            ).symlink_to(f"{top}/{target}" if absolute else target)
    asked = f"{top}/{path}"
    try:
        os.stat(asked)
    except FileNotFoundError:
        return  # what is missing is taken as it is written, which realpath does otherwise
    except OSError:
        with pytest.raises(OSError, match="symbolic links"):
            Tracer().follow(asked)
        return
    tracer = Tracer()
    real, followed = tracer.follow(asked)
    assert real == os.path.realpath(asked)
    assert all(os.path.islink(link) for link in followed)
    assert set(followed) <= {stamp.path for stamp in tracer.stamps()}


def test_links_are_named_by_their_real_place(tmp_path: Path) -> None:
    top = os.path.realpath(tmp_path)
    os.makedirs(f"{top}/d/e")
    os.symlink("d", f"{top}/one")
    os.symlink("e", f"{top}/d/two")
    assert Tracer().follow(f"{top}/one/two/new") == (f"{top}/d/e/new", [f"{top}/one", f"{top}/d/two"])


def test_kind_of(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    (tmp_path / "dangling").symlink_to("gone")
    assert kind_of(str(tmp_path)) == 0o040000
    assert kind_of(str(tmp_path / "f")) == 0o100000
    assert kind_of(str(tmp_path / "f" / "x")) == kind_of(str(tmp_path / "dangling")) == 0


def test_read_text_reads_only_small_files(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"a\xff")
    assert read_text(str(path)) == "a\udcff"
    path.write_bytes(bytes((1 << 20) + 1))
    assert read_text(str(path)) == ""
    assert read_text(str(tmp_path)) == read_text("/dev/zero") == read_text(str(tmp_path / "gone")) == ""


def test_mount_points_are_unescaped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "/" in mount_points() or mount_points()
    table = tmp_path / "mountinfo"
    table.write_text("36 35 98:0 /mnt1 /a\\040b\\134c rw,noatime master:1 - ext3 /dev/root rw\n")
    real_open = open
    monkeypatch.setattr(
        "builtins.open",
        lambda path, *a, **k: real_open(table if path == "/proc/self/mountinfo" else path, *a, **k),
    )
    assert mount_points() == ["/a b\\c"]


def test_directories_in_root_stop_at_links(tmp_path: Path) -> None:
    (tmp_path / "r" / "a" / "b").mkdir(parents=True)
    (tmp_path / "r" / "l").symlink_to("a")
    (tmp_path / "r" / "f").touch()
    root, owner = str(tmp_path / "r"), (os.getuid(), tmp_path.stat().st_gid)
    assert directories_in_root(root, "/a/b/c/d") == {"/a": owner, "/a/b": owner}
    assert directories_in_root(root, "/l/b") == directories_in_root(root, "/f/x") == {}


def test_make_private(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        make_private(str(tmp_path / "a" / "b"), "x")
        make_private(str(tmp_path / "a" / "b"), "x")
    finally:
        os.umask(old)
    assert [(tmp_path / name).stat().st_mode & 0o7777 for name in ("a", "a/b")] == [0o700, 0o700]


def test_what_a_directory_tells_is_not_stamped_twice(tmp_path: Path) -> None:
    """And still every change that matters makes a stamp stale."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("file")
    tracer = Tracer()
    tracer.see(str(tmp_path), entries=True)
    tracer.see(str(tmp_path / "file"))
    tracer.follow(str(tmp_path / "link"))
    tracer.follow(str(tmp_path / "missing"))
    stamps = tracer.stamps()
    below = [stamp.path for stamp in stamps if os.path.dirname(stamp.path) == str(tmp_path)]
    assert below == [str(tmp_path / "file")]
    assert all(stamp.current() for stamp in stamps)
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("/etc")
    assert not all(stamp.current() for stamp in stamps)
