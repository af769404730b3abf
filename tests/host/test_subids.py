"""/etc/subuid: what grants ids, and what must not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.host.model import Range
from sandbox.host.subids import LIMIT, parse

GOOD = """\
# ranges
me:100000:65536

other:300000:65536
1000:500000:10
me:200000:1
"""


def test_by_name_and_by_number_in_the_order_of_the_file() -> None:
    found = parse(GOOD, "me", 1000)
    assert found.ranges == (Range(100000, 65536), Range(500000, 10), Range(200000, 1))
    assert found.problems == ()


def test_other_users_get_theirs_only() -> None:
    assert parse(GOOD, "other", 1001).ranges == (Range(300000, 65536),)
    assert parse(GOOD, "nobody", 7).ranges == ()


def test_a_user_without_a_name_is_found_by_number() -> None:
    assert parse("1000:5:6\n", "", 1000).ranges == (Range(5, 6),)
    assert parse(":5:6\n", "", 1000).ranges == ()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("me:100000", "form"),
        ("me:1:2:3", "form"),
        ("me", "form"),
        (":1:2", "name"),
        (" me:1:2", "name"),
        ("me :1:2", "name"),
        ("me:-1:2", "decimal"),
        ("me:+1:2", "decimal"),
        ("me:0x10:2", "decimal"),
        ("me:1:", "decimal"),
        ("me: 1:2", "decimal"),
        ("me:1:2 ", "decimal"),
        ("me:1:2\r", "decimal"),
        ("me:1:2 # comment", "decimal"),
        ("me:1_0:2", "decimal"),
        ("me:\u0661:2", "decimal"),
        ("me:99999999999:1", "decimal"),
        ("me:5:0", "empty"),
        ("me:0:5", "id 0"),
        ("me:4294967295:1", "beyond"),
        ("me:4294967000:65536", "beyond"),
    ],
)
def test_a_bad_line_grants_nothing_and_is_told(line: str, why: str) -> None:
    found = parse(f"# head\n{line}\nme:100000:5\n", "me", 1000)
    assert found.ranges == (Range(100000, 5),)
    assert len(found.problems) == 1
    assert found.problems[0].startswith("line 2: ")
    assert why in found.problems[0]


def test_the_last_id_that_can_be_had() -> None:
    assert parse("me:4294967294:1", "me", 1).ranges == (Range(4294967294, 1),)


def test_overlapping_ranges_of_one_user_count_once() -> None:
    found = parse("me:100:10\n1000:105:10\nother:100:10\n", "me", 1000)
    assert found.ranges == (Range(100, 10),)
    assert len(found.problems) == 1 and "line 2" in found.problems[0]


numbers = st.integers(-2, 2**33).map(str)
fields = st.one_of(st.sampled_from(["me", "1000", "", "x", "0x1"]), numbers, st.text(max_size=5))
lines = st.one_of(
    st.tuples(st.sampled_from(["me", "1000", "you"]), numbers, numbers).map(":".join),
    st.lists(fields, max_size=5).map(":".join),
    st.text(max_size=20),
)


@given(st.lists(lines, max_size=10).map("\n".join))
def test_whatever_the_file_holds_ranges_are_sound(text: str) -> None:
    found = parse(text, "me", 1000)
    taken: list[Range] = []
    for part in found.ranges:
        assert part.start > 0 and part.count > 0 and part.start + part.count <= LIMIT
        assert all(
            part.start + part.count <= other.start or other.start + other.count <= part.start
            for other in taken
        )
        taken.append(part)
