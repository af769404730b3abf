"""sandbox.profile.merge: layers on top of each other."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.errors import ProfileError
from sandbox.profile.build import build
from sandbox.profile.document import Document
from sandbox.profile.merge import Merged, apply, read
from sandbox.profile.model import Mount, Profile


def document(data: dict[str, Any], name: str = "f", base: str | None = None) -> Document:
    return Document(name, data, base=base)


def merged(*layers: dict[str, Any] | Document) -> Merged:
    found = Merged()
    for layer in layers:
        each = layer if isinstance(layer, Document) else document(layer)
        apply(found, each, read(each))
    return found


def profile(*layers: dict[str, Any] | Document) -> Profile:
    return build(merged(*layers))


def mounts(*layers: dict[str, Any] | Document) -> dict[str, Mount]:
    return {
        mount.destination: mount
        for mount in profile(
            *[{"mounts": each} if isinstance(each, dict) else each for each in layers]
        ).mounts
    }


def test_scalars_replace_and_tables_merge() -> None:
    found = profile({"limits": {"pids": 5, "memory": "1M"}}, {"limits": {"pids": 7}, "net": {"mode": "host"}})
    assert (found.limits.pids, found.limits.memory, found.net.mode) == (7, 1 << 20, "host")


def test_lists_replace_and_extend_appends() -> None:
    first = {"env": {"keep": ["A", "B"]}}
    assert profile(first, {"env": {"keep": ["C"]}}).env.keep == ("C",)
    assert profile(first, {"env": {"extend-keep": ["C", "A"]}}).env.keep == ("A", "B", "C")
    assert profile({"env": {"extend-keep": ["C"]}}).env.keep == ("C",)
    assert profile({"command": ["a", "a"]}, {"extend-command": ["a"]}).command == ("a", "a", "a")


def test_extending_what_has_no_list_sets_it() -> None:
    assert profile({"process": {"extend-capabilities": ["CHOWN"]}}).process.capabilities == ("CHOWN",)


def test_false_takes_away() -> None:
    assert profile({"limits": {"memory": "1M"}}, {"limits": {"memory": False}}).limits.memory is None
    assert profile({"limits": {"memory": False}}).limits.memory is None
    assert profile({"env": {"set": {"A": "1", "B": "2"}}}, {"env": {"set": {"A": False}}}).env.set == {
        "B": "2"
    }
    assert profile({"env": {"set": {"A": "1"}}}, {"env": {"set": False}}).env.set == {}
    assert mounts({"/a": "ro", "/b": "ro"}, {"/a": False}).keys() == {"/b"}
    assert profile({"process": {"nested": True}}, {"process": {"nested": False}}).process.nested is False


def test_taking_away_what_is_not_there_is_an_error() -> None:
    with pytest.raises(ProfileError, match='no inherited "/bb" to take away; did you mean "/b"'):
        mounts({"/b": "ro"}, {"/bb": False})


def test_mounts_merge_by_normal_destination() -> None:
    assert mounts({"/a/": {"mode": "ro", "source": "/x"}}, {"//a/./": "rw"})["/a"] == Mount("/a", "rw", "/x")
    assert mounts({"./a": "ro"}, {"a": "rw"}).keys() == {"a"}


def test_a_new_mode_leaves_behind_what_it_has_no_use_for() -> None:
    bind = {"/a": {"mode": "rw", "source": "/x", "optional": True}}
    assert mounts(bind, {"/a": "tmpfs"})["/a"] == Mount("/a", "tmpfs")
    assert mounts(bind, {"/a": "hide"})["/a"] == Mount("/a", "hide", optional=True)
    sized = {"/a": {"mode": "tmpfs", "size": "1M"}}
    assert mounts(sized, {"/a": {"mode": "ro", "source": "/x"}})["/a"] == Mount("/a", "ro", "/x")
    assert mounts(sized, {"/a": {"size": "2M"}})["/a"] == Mount("/a", "tmpfs", size=2 << 20)


def test_a_mount_starts_from_the_directory_of_who_named_its_source() -> None:
    user = document({"mounts": {"/a": {"mode": "rw", "source": "x"}}})
    narrowed = document({"mounts": {"/a": "ro"}}, base="/p")
    assert mounts(user, narrowed)["/a"] == Mount("/a", "ro", "x", base=None)
    moved = document({"mounts": {"/a": {"source": "y"}}}, base="/p")
    assert mounts(user, moved)["/a"] == Mount("/a", "rw", "y", base="/p")


def test_a_relative_destination_of_another_directory_is_another_place() -> None:
    user = document({"mounts": {".": {"mode": "rw", "source": "/x"}}})
    project = document({"mounts": {".": "ro"}}, base="/p")
    assert mounts(user, project)["."] == Mount(".", "ro", base="/p")


def test_origins_and_hostility_of_mounts() -> None:
    user = document({"mounts": {"/a": {"mode": "rw", "source": "/x"}, "/t": "tmpfs"}}, "user")
    hostile = document(
        {"mounts": {"/a": "ro", "/t": {"mode": "ro"}, "/b": {"mode": "ro", "source": "b"}}}, "p", "/p"
    )
    hostile.hostile = True
    origins = profile(user, hostile).origins
    # Narrowed only: the source is the user's, and may be outside of the project.
    assert (origins['mounts."/a"'].source, origins['mounts."/a"'].hostile) == ("p", False)
    # What showed nothing of the host now would: that is the project's doing.
    assert origins['mounts."/t"'].hostile
    assert origins['mounts."/b"'].hostile


KEYS = {
    "limits": st.fixed_dictionaries(
        {},
        optional={
            "pids": st.integers(1, 99),
            "memory": st.sampled_from(["1M", "2M", False]),
            "timeout": st.sampled_from([1, 2.5, False]),
        },
    ),
    "env": st.one_of(
        st.fixed_dictionaries({}, optional={"keep": st.lists(st.sampled_from("ABC"), max_size=3)}),
        st.fixed_dictionaries({}, optional={"extend-keep": st.lists(st.sampled_from("CDE"), max_size=3)}),
    ),
    "mounts": st.dictionaries(
        st.sampled_from(["/a", "/a/", "b", "./b", "~"]),
        st.sampled_from(
            [
                "ro",
                "tmpfs",
                "hide",
                {"mode": "rw", "source": "/x"},
                {"mode": "tmpfs", "size": "1M"},
                {"mode": "overlay"},
            ]
        ),
        max_size=1,
    ),
}
LAYERS = st.fixed_dictionaries({}, optional=KEYS)


@given(st.lists(LAYERS, max_size=5))
def test_a_layer_twice_in_a_row_is_as_good_as_once(layers: list[dict[str, Any]]) -> None:
    for number in range(len(layers)):
        again = [*layers[: number + 1], *layers[number:]]
        assert profile(*again) == profile(*layers)


@given(LAYERS, LAYERS, LAYERS)
def test_merging_is_associative(one: dict[str, Any], two: dict[str, Any], three: dict[str, Any]) -> None:
    """One and two merged, written out as a profile of its own, and then three: the same as all three."""
    from sandbox.profile.text import to_dict

    together = profile(one, two)
    written = to_dict(together)
    # A profile that is written out says nothing of what it took away, and it does not need to.
    left, right = profile(written, three), profile(one, two, three)
    assert to_dict(left) == to_dict(right)


@given(LAYERS)
def test_an_empty_layer_changes_nothing(layer: dict[str, Any]) -> None:
    assert profile({}, layer, {}) == profile(layer)


@given(LAYERS, LAYERS)
def test_the_input_is_left_alone(one: dict[str, Any], two: dict[str, Any]) -> None:
    before = repr((one, two))
    base = merged(one)
    snapshot = build(base)
    copy = Merged(dict(base.rows), {key: dict(table) for key, table in base.tables.items()})
    apply(copy, document(two), read(document(two)))
    assert build(base) == snapshot
    assert repr((one, two)) == before
