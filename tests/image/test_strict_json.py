"""JSON from strangers."""

from __future__ import annotations

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.errors import ImageError
from sandbox.image import strict_json

LIMIT = 1 << 20


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"1", "not a JSON object"),
        (b'{"a": 1,}', "not JSON"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": -Infinity}', "Infinity"),
        (b'{"a": 1, "b": 2, "a": 3}', "'a' stands twice"),
        (b'{"b": {"a": 1, "a": 1}}', "'a' stands twice"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b'\xef\xbb\xbf{"a": 1}', "not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}", "nested more than 64 deep"),
        (b"[" * LIMIT, "nested more than 64 deep"),
        (b'{"a":' * 1000, "nested more than 64 deep"),
        (b"x" * (LIMIT + 1), "more than 1048576"),
        (b"<html>", "not JSON"),
    ],
)
def test_refused(raw: bytes, said: str) -> None:
    with pytest.raises(ImageError, match=said) as caught:
        strict_json.parse(raw, "the thing", LIMIT)
    assert caught.value.message.startswith("the thing ")
    assert len(caught.value.message) < 500


def test_depth_is_told_before_the_stack_is_in_danger() -> None:
    old = sys.getrecursionlimit()
    sys.setrecursionlimit(10**6)  # json would go down a million levels of C
    try:
        with pytest.raises(ImageError, match="nested"):
            strict_json.parse(b'{"a":' + b"[" * 900_000, "it", LIMIT)
    finally:
        sys.setrecursionlimit(old)


@pytest.mark.parametrize(
    "raw", [b'{"' + b"\\" * 500_001, b'"' * 500_000, b'{"a": "' + b'\\"' * 500_000, b'"\\n' * 300_000]
)
def test_no_text_makes_the_scan_slow(raw: bytes) -> None:
    with pytest.raises(ImageError):  # a quadratic scan would take hours, and pytest's timeout would end it
        strict_json.parse(raw, "it", 2 * LIMIT)


def test_brackets_in_strings_are_no_depth() -> None:
    fields = strict_json.parse(json.dumps({"a": "[" * 1000 + '"\\{'}).encode(), "it", LIMIT)
    assert fields.text("a") == "[" * 1000 + '"\\{'


_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=5), _values, max_size=5))
def test_what_json_writes_is_read(data: dict[str, object]) -> None:
    raw = json.dumps(data).encode()
    fields = strict_json.parse(raw, "it", LIMIT)
    for key, value in data.items():
        assert (key in fields) == (value is not None)
        if isinstance(value, str):
            assert fields.text(key) == value


@given(st.binary(max_size=200) | st.text('{}[]",:\\abu0123 ').map(str.encode))
def test_anything_is_read_or_refused(raw: bytes) -> None:
    try:
        fields = strict_json.parse(raw, "it", LIMIT)
    except ImageError:
        return
    assert isinstance(json.loads(raw), dict)
    assert set(json.loads(raw)) >= {key for key in json.loads(raw) if key in fields}


def fields(**data: object) -> strict_json.Fields:
    return strict_json.Fields(data, "it")


@pytest.mark.parametrize("value", [True, -1, 1.0, "1", 2**63, []])
def test_numbers(value: object) -> None:
    with pytest.raises(ImageError, match="it: a is not a whole number"):
        fields(a=value).number("a")


@pytest.mark.parametrize("value", ["x\0", "\ud800", 1, [], {}])
def test_texts(value: object) -> None:
    with pytest.raises(ImageError, match="it: a "):
        fields(a=value).text("a")


def test_what_is_missing() -> None:
    assert fields(a=None).text("a", "default") == "default"
    assert fields().strings("a") == ()
    assert fields().mapping("a") == {}
    assert fields().objects("a", 1) == []
    assert fields().flag("a") is False
    assert not fields().fields("a").keys()
    with pytest.raises(ImageError, match='it has no "a"'):
        fields(a=None).text("a")


@pytest.mark.parametrize(
    ("method", "value"),
    [
        ("strings", ["a", 1]),
        ("strings", "abc"),
        ("strings", ["a\0"]),
        ("mapping", {"a": 1}),
        ("mapping", ["a"]),
        ("mapping", {"a\0": "b"}),
        ("fields", []),
        ("flag", 1),
    ],
)
def test_wrong_types(method: str, value: object) -> None:
    with pytest.raises(ImageError, match="it: a "):
        getattr(fields(a=value), method)("a")


def test_lists_are_bounded() -> None:
    with pytest.raises(ImageError, match="3 entries, more than 2"):
        fields(a=[{}] * 3).objects("a", 2)
