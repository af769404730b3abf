"""Patterns: by a table, by a matcher that tries everything, and with those that are made to take forever."""

from __future__ import annotations

import contextlib
import fnmatch
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.errors import LayerError
from sandbox.image.layer.patterns import Ignore, glob, lines, translate


def tried(pattern: list[str], path: list[str]) -> bool:
    """Whether the segments of a pattern match those of a path, by trying all there is."""
    if not pattern:
        return not path
    if pattern[0] == "**":
        if len(pattern) == 1:
            return bool(path)
        return any(tried(pattern[1:], path[count:]) for count in range(len(path) + 1))
    if not path or not fnmatch.fnmatchcase(path[0], pattern[0]):
        return False
    return tried(pattern[1:], path[1:])


_segment = st.text(alphabet="ab*?", min_size=1, max_size=5).filter(lambda text: "**" not in text)
_pattern = st.lists(_segment | st.just("**"), min_size=1, max_size=5)
_path = st.lists(st.text(alphabet="ab", min_size=1, max_size=4), min_size=1, max_size=5)


@given(_pattern, _path)
@settings(max_examples=600)
def test_the_same_as_trying_everything(pattern: list[str], path: list[str]) -> None:
    merged = [
        part for number, part in enumerate(pattern) if part != "**" or pattern[number - 1 : number] != ["**"]
    ]
    found = translate("/".join(pattern).encode()).match("/".join(path).encode()) is not None
    assert found == tried(merged, path)


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        (b"a/*.py", [b"a/x.py", b"a/.py"], [b"a/b/x.py", b"a/x.pyc"]),
        (b"**/x", [b"x", b"a/x", b"a/b/x"], [b"ax", b"x/a"]),
        (b"**x", [b"x", b"a/x"], [b"ax"]),
        (b"a/**", [b"a/b", b"a/b/c"], [b"a", b"b"]),
        (b"**", [b"a", b"a/b"], []),
        (b"[a-c][^x]", [b"az", b"c\xff"], [b"dz", b"ax", b"a/"]),
        (b"[]]", [b"]"], [b"["]),
        (b"[!a]", [b"b"], [b"a", b"/"]),
        (b"[a\\-z]", [b"-", b"z"], [b"b"]),
        (b"a\\*", [b"a*"], [b"ab"]),
        (b".", [b"."], [b"a"]),
        (b"a+(b)", [b"a+(b)"], [b"aab"]),
        (b"*\n", [b"a\n"], [b"a"]),
    ],
)
def test_patterns(pattern: bytes, matching: list[bytes], others: list[bytes]) -> None:
    compiled = translate(pattern)
    assert all(map(compiled.match, matching))
    assert not any(map(compiled.match, others))


@pytest.mark.parametrize("pattern", [b"[", b"a[b", b"[a-", b"[z-a]", b"a\\", b"[\\"])
def test_wrong(pattern: bytes) -> None:
    with pytest.raises(LayerError):
        translate(pattern)


@given(st.binary(max_size=30))
def test_any_bytes_are_a_pattern_or_refused(data: bytes) -> None:
    for make in (translate, glob):
        with contextlib.suppress(LayerError):
            assert isinstance(make(data), re.Pattern)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        (b"*a" * 100 + b"*b", b"a" * 255),
        (b"/".join([b"**", b"a"] * 100) + b"/b", b"a/" * 2000),
        (b"/".join([b"**", b"*a*"] * 100) + b"/b", b"aaa/" * 1000),
        (b"?*" * 100 + b"b", b"a" * 255),
        (b"**/" * 1000 + b"b", b"a/" * 2000),
        (b"[a-z]*" * 100 + b"0", b"a" * 255),
    ],
)
def test_none_takes_forever(pattern: bytes, path: bytes) -> None:
    began = time.process_time()
    ignore = Ignore([pattern, b"!" + pattern])
    assert not ignore.match(path.rstrip(b"/"))
    assert time.process_time() - began < 30


def test_the_last_line_decides() -> None:
    ignore = Ignore([b"d", b"!d/keep", b"d/keep/not"])
    above = ignore.match(b"d")
    assert ignore.ignores(above)
    kept = ignore.match(b"d/keep", above)
    assert not ignore.ignores(kept)
    assert ignore.ignores(ignore.match(b"d/keep/not", kept))
    assert not ignore.ignores(ignore.match(b"d/keep/x", kept))


def test_lines() -> None:
    data = b"\xef\xbb\xbf# comment\n a/ \n\n!/b/../c\n#x\n./d\r\n!\n.\n"
    assert lines(data) == [(2, b"a"), (4, b"!c"), (6, b"d")]
