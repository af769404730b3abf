"""What stands in the headers of a tar archive: numbers and times in their several forms, pax records.

Most fields are the same again and again, from one header to the next: what they mean is kept.
"""

from __future__ import annotations

from functools import lru_cache
from zlib import adler32

from sandbox.errors import LayerError

__all__ = [
    "SPARSE",
    "XATTR",
    "add_up",
    "checksum",
    "decimal",
    "decimal_id",
    "number",
    "owner",
    "records",
    "seconds",
    "time",
    "total",
]

_MAX_SIZE = (1 << 63) - 1
_MAX_ID = (1 << 32) - 2
#: what fits in 64 bits of nanoseconds: the year 2262
_LAST_SECOND = _MAX_SIZE // 1_000_000_000
#: what the keys of pax records begin with that are attributes, or of a sparse file
XATTR = b"SCHILY.xattr."
SPARSE = b"GNU.sparse."


def add_up(data: bytes) -> int:
    """The sum of up to 512 bytes. Adler-32's lower half is just that and 1, modulo 65521 (RFC 1950, 9), which
    two more can't reach in half of them; and it is ten times as fast as sum()."""
    return (adler32(data[:256]) & 0xFFFF) + (adler32(data[256:]) & 0xFFFF) - 2


@lru_cache(1024)  # most are the same again and again
def owner(fields: bytes) -> tuple[int, int, int]:
    """Mode, uid and gid."""
    mode = number(fields[:8], "mode") & 0o7777
    return mode, _id(fields[8:16], "uid"), _id(fields[16:], "gid")


@lru_cache(4096)
def seconds(field: bytes) -> int:
    """Seconds, as nanoseconds; no more of them than fit."""
    value = number(field, "mtime", signed=True)
    return max(-_LAST_SECOND, min(value, _LAST_SECOND)) * 1_000_000_000


@lru_cache(4096)
def number(field: bytes, what: str, *, signed: bool = False) -> int:
    """Octal digits, or GNU's binary form: the first bit set, then two's complement."""
    digits = field.strip(b" \0")
    if digits.isdigit():  # int() takes signs and underscores as well
        try:
            return int(digits, 8)
        except ValueError:
            pass
    elif field[0] & 0x80:
        value = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
        if field[0] & 0x40:
            value -= 1 << (8 * len(field) - 1)
        if (value < 0 and not signed) or abs(value) > _MAX_SIZE:
            raise LayerError(f"the archive has a header whose {what} is out of range")
        return value
    elif not digits:
        return 0
    raise LayerError(f"the archive has a header whose {what} is no number")


def checksum(field: bytes) -> int:
    """What it says; -1 when it is no number."""
    digits = field.strip(b" \0")
    return int(digits, 8) if digits and not digits.strip(b"01234567") else -1


@lru_cache(4096)
def total(field: bytes) -> int:
    """What a header with this checksum adds up to; in the checksum it counts as eight spaces."""
    return checksum(field) - 256 + add_up(field)


def _id(field: bytes, what: str) -> int:
    value = number(field, what)
    if value > _MAX_ID:
        raise LayerError(f"the archive has a file whose {what} is {value}; the largest is {_MAX_ID}")
    return value


def decimal(text: bytes, what: str) -> int:
    """A number of a pax record."""
    if not text.isdigit() or len(text) > 19 or int(text) > _MAX_SIZE:
        raise LayerError(f"the archive has an extended header whose {what} is no number")
    return int(text)


def time(text: bytes) -> int:
    """Seconds with a fraction, perhaps negative, as nanoseconds; further digits are dropped."""
    whole, dot, fraction = text.partition(b".")
    digits = whole[1:] if whole[:1] == b"-" else whole
    if not digits.isdigit() or (dot and fraction and not fraction.isdigit()) or len(text) > 64:
        raise LayerError("the archive has an extended header whose time is no number")
    seconds = min(int(digits), _LAST_SECOND - 1)
    value = seconds * 1_000_000_000 + int(fraction[:9].ljust(9, b"0") or b"0")
    return -value if whole[:1] == b"-" else value


def records(data: bytes) -> tuple[dict[bytes, bytes], list[tuple[bytes, bytes]]]:
    """The records "length key=value\\n" of a pax header, and the pairs that stand for a sparse map,
    which alone may be repeated. An empty value takes the key back."""
    pax: dict[bytes, bytes] = {}
    sparse: list[tuple[bytes, bytes]] = []
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        digits = data[at:space]
        if space < 0 or not digits.isdigit():
            raise _bad_pax()
        end = at + int(digits)
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if end <= space or end > len(data) or data[end - 1 : end] != b"\n" or not equals or not key:
            raise _bad_pax()
        at = end
        if key in (SPARSE + b"offset", SPARSE + b"numbytes"):
            sparse.append((key[len(SPARSE) :], value))
        elif value or key.startswith(XATTR):
            pax[key] = value
        else:
            pax.pop(key, None)
    return pax, sparse


def decimal_id(text: bytes, what: str) -> int:
    """A user or group."""
    value = decimal(text, what)
    if value > _MAX_ID:
        raise LayerError(f"the archive has a file whose {what} is {value}; the largest is {_MAX_ID}")
    return value


def _bad_pax() -> LayerError:
    return LayerError("the archive has an extended header that is damaged")
