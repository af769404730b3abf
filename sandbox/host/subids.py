"""/etc/subuid and /etc/subgid (subuid(5)): which further ids a user may map.

Only the files: a host that keeps ranges elsewhere (`subid:` in nsswitch.conf, as with FreeIPA) is
out of scope, because asking for them means starting a program. Parsing is strict: a line that is
not exactly right grants nothing, and is kept with the reason so that `doctor` can show it.
"""

from __future__ import annotations

from typing import NamedTuple

from sandbox.host.model import Range

__all__ = ["SubIds", "parse"]

#: Ids are 32 bits and the last one means "no id" (chown(2)).
LIMIT = 2**32 - 1


class SubIds(NamedTuple):
    """`ranges` of one user, in the order of the file, and what is wrong with the file's lines."""

    ranges: tuple[Range, ...]
    problems: tuple[str, ...]


def parse(text: str, user: str, uid: int) -> SubIds:
    """The ranges that *text* gives to *user*, written by name or as decimal *uid*.

    Comments, empty lines and other users' lines are passed over. Never raises.
    """
    ranges: list[Range] = []
    problems: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        owner, problem, found = _line(line)
        if problem:
            problems.append(f"line {number}: {problem}")
        elif found and owner in (user, str(uid)) and owner:
            if any(_overlap(found, other) for other in ranges):
                problems.append(f"line {number}: overlaps an earlier range of {owner}")
            else:
                ranges.append(found)
    return SubIds(tuple(ranges), tuple(problems))


def _line(line: str) -> tuple[str, str, Range | None]:
    """(owner, what is wrong, the range) of one line."""
    fields = line.split(":")
    if len(fields) != 3:
        return "", "not of the form user:start:count", None
    owner, start, count = fields
    if not owner or owner != owner.strip():
        return "", "no user name", None
    if not (_decimal(start) and _decimal(count)):
        return owner, "start and count must be decimal numbers", None
    found = Range(int(start), int(count))
    if found.count == 0:
        return owner, "an empty range", None
    if found.start == 0:
        return owner, "a range with id 0", None
    if found.start + found.count > LIMIT:
        return owner, "a range beyond the last id", None
    return owner, "", found


def _decimal(text: str) -> bool:
    # str.isdigit alone is true for digits of any script; more than ten are no 32-bit number
    return text.isascii() and text.isdigit() and len(text) <= 10


def _overlap(one: Range, other: Range) -> bool:
    return one.start < other.start + other.count and other.start < one.start + one.count
