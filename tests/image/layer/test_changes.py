"""From writable layers to archives and back: what was changed in an overlay, applied again, is the same."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox.image.layer.changes import Upper, settled
from sandbox.image.layer.merged import Merged, Shown
from tests.image.layer.archives import Item, directory, file, hardlink, symlink
from tests.image.layer.test_stacks import NAMES, PATHS, as_json

BASE = [
    directory("d", 0o750, uid=3),
    file("d/one", b"1", uid=4),
    file("d/two", b"2"),
    directory("d/sub"),
    file("d/sub/deep", b"deep"),
    symlink("link", "d"),
    file("x", b"x" * 100, mode=0o4755),
    file("b", b"b"),
]


def commit(stack: Any, layers: list[list[Item]], script: list[list[str]], **options: Any) -> dict[str, Any]:
    """Run *script* in an overlay of *layers*: lines such as ["rm", "x"]; then commit it, and apply that.

    The answer has what the overlay showed ("kernel"), what the layers and the committed one show
    ("merged"), the "archive" and the "changes".
    """
    answer: dict[str, Any] = stack(*layers, script=script, **options)
    assert "error" not in answer, answer["error"]
    return answer


def same(answer: dict[str, Any]) -> None:
    """What the overlay showed is what the layers show; but for links that overlayfs itself has broken, and
    the time of the root directory, which changes with everything."""

    def plain(listing: dict[str, list[Any]]) -> dict[str, list[Any]]:
        found = {path: said[:-1] for path, said in as_json(listing).items()}
        found[""][4] = 0
        return found

    assert plain(answer["merged"]) == plain(answer["kernel"])


def names(answer: dict[str, Any]) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(bytes.fromhex(answer["archive"]))) as tar:
        return tar.getnames()


def test_all_kinds_of_changes(stack: Any) -> None:
    script = [
        ["write", "new", "new"],
        ["write", "d/one", "changed"],
        ["rm", "x"],
        ["rm", "d/sub"],
        ["mkdir", "d/sub"],
        ["write", "d/sub/other", "other"],
        ["chmod", "b", "600"],
        ["symlink", "d/link", "../new"],
        ["link", "new", "same"],
        ["setxattr", "new", "user.a", "1"],
        ["chown", "d/two", "1000", "50"],
        ["mkfifo", "fifo"],
        ["utime", "d", "77"],
    ]
    answer = commit(stack, [BASE], script)
    same(answer)
    assert [(each["kind"], each["path"]) for each in answer["changes"]] == [
        ("D", "/x"),
        ("C", "/b"),
        ("C", "/d"),
        ("A", "/fifo"),
        ("A", "/new"),
        ("A", "/same"),
        ("A", "/d/link"),
        ("C", "/d/one"),
        ("C", "/d/sub"),
        ("C", "/d/two"),
        ("D", "/d/sub/deep"),
        ("A", "/d/sub/other"),
    ]
    assert names(answer)[0] == ".wh.x", "deletions come before what is beside them"
    assert "d/sub/.wh.deep" in names(answer)
    assert ".wh..wh..opq" not in str(names(answer)), "only explicit whiteouts"


def test_nothing_changed_is_an_empty_layer(stack: Any) -> None:
    answer = commit(stack, [BASE], [])
    assert (answer["changes"], names(answer)) == ([], [])
    same(answer)


def test_what_was_made_and_deleted_again_leaves_no_trace(stack: Any) -> None:
    answer = commit(stack, [BASE], [["write", "t", ""], ["rm", "t"], ["mkdir", "td"], ["rm", "td"]])
    assert answer["changes"] == []


def test_a_hidden_directory_inside_a_hidden_one(stack: Any) -> None:
    script = [
        ["rm", "d"],
        ["mkdir", "d"],
        ["mkdir", "d/sub"],
        ["write", "d/sub/mine", "m"],
        ["write", "d/two", "2"],
    ]
    answer = commit(stack, [BASE], script)
    same(answer)
    assert {"d/.wh.one", "d/sub/.wh.deep"} <= set(names(answer))
    assert "d/.wh.two" not in names(answer)


def test_types_that_changed(stack: Any) -> None:
    script = [["rm", "d"], ["write", "d", "file now"], ["rm", "x"], ["mkdir", "x"], ["write", "x/in", "1"]]
    answer = commit(stack, [BASE], script)
    same(answer)


def test_the_root_directory(stack: Any) -> None:
    answer = commit(stack, [BASE], [["chmod", ".", "711"]])
    same(answer)
    assert names(answer) == ["."]


def test_the_same_changes_give_the_same_bytes(stack: Any) -> None:
    """Made in another order, at another time."""
    one = [["write", "a", "1"], ["write", "z", "2"], ["mkdir", "m"], ["link", "z", "m/l"], ["rm", "b"]]
    two = [["rm", "b"], ["mkdir", "m"], ["write", "z", "2"], ["link", "z", "m/l"], ["write", "a", "1"]]
    first, second = (commit(stack, [BASE], script, latest=1_000_000) for script in (one, two))
    assert first["archive"] == second["archive"]
    with tarfile.open(fileobj=io.BytesIO(bytes.fromhex(first["archive"]))) as tar:
        for info in tar:
            assert info.mtime <= 1_000_000
            assert (info.uname, info.gname) == ("", "")


def test_a_name_that_means_something_else_in_an_archive(stack: Any) -> None:
    answer = stack(BASE, script=[["write", "d/.wh.x", ""]])
    assert "no layer can have a file named d/.wh.x" in answer["error"]


def test_holes_are_filled_within_the_limit(stack: Any) -> None:
    answer = commit(stack, [BASE], [["hole", "sparse", "100000"]])
    same(answer)
    answer = stack(BASE, script=[["hole", "sparse", "1000000000000"]], size=1 << 30)
    assert "more than 1073741824 bytes with sparse" in answer["error"]


def test_long_names_and_large_numbers(stack: Any) -> None:
    deep = "/".join(["n" * 100] * 3)
    script = [["mkdir", "n" * 100], ["mkdir", "/".join(["n" * 100] * 2)], ["write", deep, "deep"]]
    script += [["write", "ü\n", "u"], ["link", "ü\n", "second" * 30], ["symlink", "s", "t" * 200]]
    script += [["utime", "x", "9000000000"], ["setxattr", "b", "user.bin", "\udcff\n=\0"]]
    answer = commit(stack, [BASE], script)
    same(answer)


WORDS = st.sampled_from(["", "1", "22"])
ACTIONS = st.one_of(
    st.tuples(st.just("write"), PATHS, WORDS),
    st.tuples(st.just("mkdir"), PATHS),
    st.tuples(st.just("rm"), PATHS),
    st.tuples(st.just("rename"), PATHS, PATHS),
    st.tuples(st.just("link"), PATHS, PATHS),
    st.tuples(st.just("symlink"), PATHS, NAMES),
    st.tuples(st.just("chmod"), PATHS, st.sampled_from(["700", "1755", "4711"])),
    st.tuples(st.just("chown"), PATHS, st.sampled_from(["0", "9"]), st.just("5")),
)
TREE = [
    *(directory(name) for name in ("a", "a/a", "a/b", "b", "b/c")),
    *(file(name, name.encode()) for name in ("a/a/a", "a/a/b", "a/c", "b/a", "b/c/a", "c")),
]


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ACTIONS.map(list), max_size=10))
def test_random_changes(stack: Any, script: list[list[str]]) -> None:
    """What fails in the overlay (no such file, not empty ...) is passed over there."""
    same(commit(stack, [TREE], script))


@pytest.mark.parametrize("layers", [[BASE], [BASE, [file("d/one", b"2"), hardlink("h", "d/two")]]])
def test_a_whole_tree_as_one_layer(stack: Any, layers: list[list[Item]]) -> None:
    """Exported, it is the only layer of another stack, and shows the same."""
    answer = stack(*layers, export=True)
    again = stack(bytes.fromhex(answer["export"]))
    assert as_json(again["kernel"]) == as_json(answer["kernel"])
    assert os.path.basename(names({"archive": answer["export"]})[0]) == "."


class Counting(Merged):
    """Counts what is looked up in it."""

    looked = 0

    def look(self, directory: Shown, name: bytes) -> Shown | None:
        self.looked += 1
        return super().look(directory, name)


def looked_up(top: Path, depth: int) -> int:
    """How often the lower layers are asked about so many directories in each other, none of them changed."""
    for layer in ("upper", "lower"):
        (top / layer / "/".join(["d"] * depth)).mkdir(parents=True)
    roots = [os.open(top / layer, os.O_RDONLY | os.O_DIRECTORY) for layer in ("upper", "lower")]
    upper, lower = Upper(roots[0]), Counting(roots[1:])
    try:
        assert settled(upper, lower, ()) == []
        return lower.looked
    finally:
        upper.files.close()
        lower.close()
        for root in roots:
            os.close(root)


def test_what_is_below_a_directory_is_looked_up_once(tmp_path: Path) -> None:
    """A sandbox's overlay may have paths as long as the kernel allows."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert looked_up(tmp_path / "b", 80) == 2 * looked_up(tmp_path / "a", 40)
