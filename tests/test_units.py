"""sandbox.units: sizes and durations, as written and as shown."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.units import MAX_DURATION, MAX_SIZE, format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("512", 512),
        ("512B", 512),
        ("1K", 1024),
        ("1k", 1024),
        ("512M", 512 << 20),
        ("512MiB", 512 << 20),
        ("1.5G", 3 << 29),
        ("2 G", 2 << 30),
        ("0.3K", 307),
        ("7E", 7 << 60),
        (4096, 4096),
        ("9223372036854775807", MAX_SIZE),
        ("4503599627370497K", 4503599627370497 << 10),  # not exact as a float
    ],
)
def test_sizes(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "M",
        "-1",
        "-1M",
        "1.5",
        "1,5G",
        "1e3",
        "0x10",
        "1_000",
        "512X",
        "1 2",
        "+5",
        "nan",
        " 5",
        "5 ",
        "\uff11",
        "5\n",
        "9223372036854775808",
        "8E",
        "1" * 30,
        -1,
        2**63,
        True,
        False,
        1.5,
        None,
        [],
        b"5",
    ],
)
def test_what_is_no_size(text: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_size(text)  # type: ignore[arg-type]


def test_two_meanings_are_refused_with_the_one_we_have() -> None:
    with pytest.raises(ValueError, match='"512M", which is 1024-based'):
        parse_size("512MB")


@given(st.integers(0, MAX_SIZE))
def test_a_shown_size_can_be_read_again(size: int) -> None:
    again = parse_size(format_size(size)) if format_size(size) != "8.0E" else MAX_SIZE
    assert abs(again - size) <= max(size * 0.05, 0)


@given(st.integers(0, 1023), st.integers(0, 5))
def test_round_sizes_are_shown_exactly(count: int, power: int) -> None:
    assert parse_size(format_size(count * 1024**power)) == count * 1024**power


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0"),
        (1023, "1023"),
        (268435456, "256M"),
        (3 << 29, "1536M"),
        (1 << 40, "1T"),
        (1500, "1500"),
        (1048575, "1.0M"),
        (1234567, "1.2M"),
        (MAX_SIZE, "8.0E"),
    ],
)
def test_shown_sizes(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("10s", 10),
        ("2m", 120),
        ("1h", 3600),
        ("1d", 86400),
        ("1.5h", 5400),
        ("1m30s", 90),
        ("1h30m", 5400),
        ("2", 2),
        ("0.25", 0.25),
        (3, 3),
        (0.5, 0.5),
        ("0.1s", 0.1),
        ("1d2h3m4s5ms", 93784.005),
    ],
)
def test_durations(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == seconds
    assert isinstance(parse_duration(text), float)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s",
        "0",
        "0s",
        "-1",
        "-1s",
        "1x",
        "30m1h",
        "1m1m",
        "1 2",
        "1e3",
        "inf",
        "nan",
        "10 sec",
        "1s ",
        "\uff11s",
        "1s\n",
        0,
        -1,
        0.0,
        math.inf,
        -math.inf,
        math.nan,
        True,
        None,
        [],
        MAX_DURATION + 1,
        "1000000d",
        10**400,
    ],
)
def test_what_is_no_duration(text: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_duration(text)  # type: ignore[arg-type]


def test_the_longest_duration_fits_twice_into_64_bits_of_nanoseconds() -> None:
    assert parse_duration(MAX_DURATION) * 1e9 < 2**62
    with pytest.raises(ValueError, match="more than the longest duration, 146 years"):
        parse_duration("73000d")


@given(st.integers(1, 10**9))
def test_shown_whole_seconds_can_be_read_again(seconds: int) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.integers(1, 59_999))
def test_shown_milliseconds_can_be_read_again(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == milliseconds / 1000


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"),
        (0.5, "500ms"),
        (0.0015, "1.5ms"),
        (0.9999999, "1s"),
        (1.25, "1.25s"),
        (59.9999, "1m"),
        (90, "1m30s"),
        (3600, "1h"),
        (5400, "1h30m"),
        (93784, "1d2h3m4s"),
    ],
)
def test_shown_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
