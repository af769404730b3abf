"""Names in archives."""

from __future__ import annotations

import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.errors import LayerError
from sandbox.image.layer.names import clean, printable, steps


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        (b"a/b", (b"a", b"b")),
        (b"/a//./b/", (b"a", b"b")),
        (b"./", ()),
        (b"/", ()),
        (b"a/../b/..", ()),
        (b"\xff/\n", (b"\xff", b"\n")),
        (b"...", (b"...",)),
    ],
)
def test_what_a_name_comes_to(name: bytes, parts: tuple[bytes, ...]) -> None:
    assert clean(name) == parts


@pytest.mark.parametrize("name", [b"..", b"../x", b"/..", b"a/../../x", b"a/b/../../.."])
def test_a_name_that_leads_out(name: bytes) -> None:
    with pytest.raises(LayerError, match="leads out of the root"):
        clean(name)


@pytest.mark.parametrize("name", [b"x" * 256, b"/".join([b"x" * 200] * 21), b"a\0b"])
def test_a_name_that_no_file_has(name: bytes) -> None:
    with pytest.raises(LayerError):
        clean(name)


@given(st.lists(st.sampled_from([b"a", b"b", b".", b"..", b""]), max_size=12).map(b"/".join))
def test_as_posixpath_has_it(name: bytes) -> None:
    inside = posixpath.normpath(b"root/" + name)
    if inside == b"root" or inside.startswith(b"root/"):
        if b".." not in name.split(b"/") or _never_above(name):
            assert clean(name) == tuple(steps(inside[5:]))
    else:
        with pytest.raises(LayerError):
            clean(name)


def _never_above(name: bytes) -> bool:
    depth = 0
    for part in name.split(b"/"):
        depth += (part not in (b"", b".", b"..")) - (part == b"..")
        if depth < 0:
            return False
    return True


@given(st.binary(max_size=400))
def test_what_is_shown_is_one_safe_line(name: bytes) -> None:
    shown = printable(name)
    assert shown.isprintable()
    assert len(shown) <= 160
