"""Which ids a payload may have: set arithmetic, checked against sets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sandbox.host.model import IdMap, Range
from sandbox.host.spare import mapped, without

ranges = st.lists(st.builds(Range, st.integers(0, 60), st.integers(1, 20)), max_size=5)
maps = st.lists(st.builds(IdMap, st.integers(0, 60), st.integers(0, 1000), st.integers(1, 20)), max_size=4)


def members(parts: tuple[Range, ...] | list[Range]) -> set[int]:
    return {id for part in parts for id in range(part.start, part.start + part.count)}


@given(ranges, maps)
def test_mapped_is_the_intersection(parts: list[Range], lines: list[IdMap]) -> None:
    there = {id for line in lines for id in range(line.inside, line.inside + line.count)}
    assert members(mapped(parts, lines)) == members(parts) & there


@given(ranges, st.integers(0, 80))
def test_without_takes_out_one(parts: list[Range], id: int) -> None:
    left = without(parts, id)
    assert members(left) == members(parts) - {id}
    assert all(part.count > 0 for part in left)


@given(ranges)
def test_without_nothing(parts: list[Range]) -> None:
    assert without(parts, None) == tuple(parts)


def test_the_order_of_ranges_is_kept() -> None:
    assert mapped([Range(50, 2), Range(10, 2)], [IdMap(0, 0, 100)]) == (Range(50, 2), Range(10, 2))
