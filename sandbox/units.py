"""Sizes, durations and rates as people write them, and back. No other units, no policy on their range.

Sizes are 1024-based, like the K, M and G of ulimit(1), systemd and mount(8).
"""

from __future__ import annotations

import math
import re

__all__ = [
    "MAX_DURATION",
    "MAX_RATE",
    "MAX_SIZE",
    "MIN_RATE",
    "bytes_per_second",
    "format_duration",
    "format_size",
    "parse_duration",
    "parse_size",
]

#: Largest size, bytes: what the kernel's signed 64-bit fields hold.
MAX_SIZE = 2**63 - 1
#: Longest duration, seconds: 146 years. Nanoseconds stay below 2**62, so that the helper can add one to
#: the time of a clock in signed 64 bits.
MAX_DURATION = 2**62 // 10**9

#: Rates, bytes per second: within what tc-tbf(8) can count.
MIN_RATE, MAX_RATE = 1000, 125_000_000_000

_RATE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)([kmg]?)bit", re.ASCII)
_THOUSANDS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_LETTERS = "KMGTPE"
_SIZE = re.compile(
    r"([0-9]{1,24})(?:\.([0-9]{1,24}))?(?: ?(?:([KMGTPE])(i?B)?|B))?", re.IGNORECASE | re.ASCII
)
_TERM = re.compile(r"([0-9]{1,24})(?:\.([0-9]{1,24}))? ?(ms|s|m|h|d)", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,24}(?:\.[0-9]{1,24})?", re.ASCII)
_MILLISECONDS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def parse_size(text: str | int) -> int:
    """Bytes of a size such as "512M", "1.5G", "64KiB" or a number of bytes; fractions of a byte are dropped.

    Raises:
        ValueError: it is no size, negative, or more than `MAX_SIZE`; the message says what to write.
    """
    if isinstance(text, bool) or not isinstance(text, str | int):
        raise ValueError('not a size; write bytes as a number, or a text such as "512M"')
    if isinstance(text, int):
        return _in_range(text, text)
    match = _SIZE.fullmatch(text)
    if not match:
        raise ValueError(f'"{text}" is not a size; write a number with K, M, G or T, such as "512M"')
    whole, fraction, letter, suffix = match.groups()
    if suffix in ("B", "b"):
        raise ValueError(f'"{text}" may mean two sizes; write "{text[:-1]}", which is 1024-based')
    if fraction and not letter:
        raise ValueError(f'"{text}" is not a whole number of bytes')
    unit = 1024 ** (_LETTERS.index(letter.upper()) + 1) if letter else 1
    return _in_range(_scaled(whole, fraction, unit), text)


def _scaled(whole: str, fraction: str | None, unit: int) -> int:
    """Exact, which a float would not be."""
    digits = fraction or ""
    scaled: int = int(whole + digits) * unit // 10 ** len(digits)
    return scaled


def _in_range(size: int, text: str | int) -> int:
    if size < 0:
        raise ValueError(f"a size can't be negative, and {text} is")
    if size > MAX_SIZE:
        raise ValueError(f"{text} is more than the largest size, {MAX_SIZE} bytes")
    return size


def parse_duration(text: str | int | float) -> float:
    """Seconds of a duration such as "500ms", "10s", "2m", "1h30m", or a number of seconds; never 0.

    Raises:
        ValueError: it is no duration, not above 0, or above `MAX_DURATION`; the message says what to write.
    """
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        raise ValueError('not a duration; write seconds as a number, or a text such as "10s"')
    if isinstance(text, str):
        seconds = _seconds(text)
    elif isinstance(text, float) and not math.isfinite(text):
        raise ValueError(f"a duration can't be {text}")
    else:
        seconds = text
    if seconds <= 0:
        raise ValueError(f"a duration must be more than 0, and {text} is not")
    if seconds > MAX_DURATION:
        raise ValueError(f"{text} is more than the longest duration, 146 years")
    return float(seconds)


def _seconds(text: str) -> float:
    if _NUMBER.fullmatch(text):
        return float(text)
    milliseconds = 0.0
    at, last = 0, math.inf
    while match := _TERM.match(text, at):
        unit = _MILLISECONDS[match[3]]
        if unit >= last:  # 1h30m, but not 30m1h and not 1m1m
            break
        digits = match[2] or ""
        milliseconds += int(match[1] + digits) * unit / 10 ** len(digits)
        at, last = match.end(), unit
    if at < len(text) or not text:
        raise ValueError(
            f'"{text}" is not a duration; write a number with ms, s, m, h or d, such as "10s" or "1m30s"'
        )
    return milliseconds / 1000


def format_size(n: int) -> str:
    """A size for people: 268435456 is "256M". Exact where few digits can be, else with one decimal."""
    power = 0
    while power < len(_LETTERS) and n >= 1024 ** (power + 1):
        power += 1
    for down in (power, power - 1):
        unit = 1024 ** max(down, 0)
        if n % unit == 0 and n // unit < 10_000:
            return f"{n // unit}{_letter(down)}"
    tenths = (n * 20 + 1024**power) // (2 * 1024**power)
    if tenths >= 10_240 and power < len(_LETTERS):
        tenths, power = 10, power + 1
    return f"{tenths // 10}.{tenths % 10}{_letter(power)}"


def _letter(power: int) -> str:
    return _LETTERS[power - 1] if power > 0 else ""


def format_duration(s: float) -> str:
    """A duration in seconds for people: 0.5 is "500ms", 90 is "1m30s". To milliseconds at best."""
    if s < 1:
        milliseconds = round(s * 1000, 3)
        return _trim(milliseconds, 3) + "ms" if milliseconds < 1000 else "1s"
    if s < 60 and round(s, 3) < 60:
        return _trim(round(s, 3), 3) + "s"
    left = round(s)
    parts = []
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def _trim(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".")


def bytes_per_second(rate: str | None) -> int:
    """Of a rate in bits per second with the units of tc(8), as in "10mbit"; 0 for None.

    Raises:
        ValueError: it is none, or less than `MIN_RATE` or more than `MAX_RATE`.
    """
    if rate is None:
        return 0
    match = _RATE.fullmatch(rate)
    if not match:
        raise ValueError(f'"{rate}" is not a rate, as in "10mbit"')
    found = int(float(match[1]) * _THOUSANDS[match[2]]) // 8
    if not MIN_RATE <= found <= MAX_RATE:
        raise ValueError(f'"{rate}" is not between 8kbit and 1000gbit')
    return found
