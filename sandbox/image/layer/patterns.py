"""Patterns of names: those of `.dockerignore`, and the globs of COPY.

`*` and `?` stop at a slash, `[a-z]` and `[^a-z]` are classes, a backslash takes a character as it is (Go's
path/filepath.Match); in `.dockerignore` also `**`, any number of directories, and `!`, which takes back
what lines before it say (moby/patternmatcher). Each is translated so that a match takes no more than the
product of the lengths: what can be decided at the first try is never tried again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sandbox.errors import LayerError
from sandbox.image.layer.names import printable

__all__ = ["Ignore", "Matched", "glob", "has_glob", "lines", "translate"]

_MAGIC = re.compile(rb"[*?\[\\]")


def has_glob(text: bytes) -> bool:
    """Whether *text* is a pattern, rather than a name."""
    return _MAGIC.search(text) is not None


def glob(pattern: bytes) -> re.Pattern[bytes]:
    """A pattern of one name, without slashes."""
    return re.compile(_segment(pattern) + rb"\Z", re.DOTALL)


def translate(pattern: bytes) -> re.Pattern[bytes]:
    """A pattern of a whole path, with `**`.

    Raises:
        LayerError: a class is not closed.
    """
    parts: list[bytes] = []
    for part in pattern.split(b"/"):
        if part.startswith(b"**") and part.strip(b"*"):
            parts += [b"**", part.lstrip(b"*")]  # "**name" is "**/name"
        elif not part.strip(b"*") and len(part) > 1:
            if parts[-1:] != [b"**"]:
                parts.append(b"**")
        else:
            parts.append(part)
    return re.compile(_path(parts), re.DOTALL)


def _path(parts: Sequence[bytes]) -> bytes:
    """Runs of segments between `**`: each but the last is taken where it is first found."""
    runs: list[list[bytes]] = [[]]
    for part in parts:
        if part == b"**":
            runs.append([])
        else:
            runs[-1].append(part)
    texts = [b"/".join(map(_segment, run)) for run in runs]
    if len(texts) == 1:
        return texts[0] + rb"\Z"
    found = texts[0] + b"/" if texts[0] else b""
    for text in texts[1:-1]:
        found += rb"(?>(?:[^/]*+/)*?" + text + b"/)" if text else b""
    if not texts[-1]:
        return found + rb".*\Z"
    return found + rb"(?:[^/]*+/)*?" + texts[-1] + rb"\Z"


def _segment(part: bytes) -> bytes:
    """A segment: what stands between two `*` is taken where it is first found."""
    pieces: list[bytes] = [b""]
    at = 0
    while at < len(part):
        char = part[at : at + 1]
        if char == b"*":
            if pieces[-1] or len(pieces) == 1:
                pieces.append(b"")
        elif char == b"?":
            pieces[-1] += b"[^/]"
        elif char == b"[":
            text, at = _class(part, at)
            pieces[-1] += text
        else:
            if char == b"\\":
                at += 1
                char = part[at : at + 1]
                if not char:
                    raise LayerError(f"the pattern {printable(part)} ends with a backslash")
            pieces[-1] += re.escape(char)
        at += 1
    if len(pieces) == 1:
        return pieces[0]
    middle = b"".join(rb"(?>[^/]*?" + piece + b")" for piece in pieces[1:-1] if piece)
    last = rb"[^/]*" + pieces[-1] if pieces[-1] else rb"[^/]*+"
    return pieces[0] + middle + last + (rb"(?=/|\Z)" if pieces[-1] else b"")


def _class(part: bytes, at: int) -> tuple[bytes, int]:
    """`[...]`; and where its end is."""
    begin = at
    at += 1
    negated = part[at : at + 1] in (b"^", b"!")
    at += negated
    ranges: list[bytes] = []
    while at < len(part) and (part[at : at + 1] != b"]" or not ranges):
        low, at = _class_char(part, at)
        high = low
        if part[at : at + 1] == b"-" and part[at + 1 : at + 2] not in (b"]", b""):
            high, at = _class_char(part, at + 1)
        if high < low:
            raise LayerError(f"the pattern {printable(part)} has a range that goes backwards")
        ranges.append(b"\\x%02x-\\x%02x" % (low, high))
    if at >= len(part):
        raise LayerError(f"the pattern {printable(part)} has a '[' at {begin + 1} that is not closed")
    listed = b"".join(ranges)
    return (b"[^/" + listed + b"]" if negated else b"(?!/)[" + listed + b"]"), at


def _class_char(part: bytes, at: int) -> tuple[int, int]:
    if part[at : at + 1] == b"\\" and at + 1 < len(part):
        at += 1
    return part[at], at + 1


# --- .dockerignore ------------------------------------------------------------------------------------------


class _Line(NamedTuple):
    keep: bool
    pattern: re.Pattern[bytes]


#: which lines a directory matches: what is in it does, too
Matched = int


class Ignore:
    """What `.dockerignore` leaves out: the last line decides that matches a path or a directory above it.

    Raises:
        LayerError: a pattern is wrong.
    """

    def __init__(self, patterns: Iterable[bytes] = ()) -> None:
        self._lines = [
            _Line(pattern.startswith(b"!"), translate(_cleaned(pattern.removeprefix(b"!"))))
            for pattern in patterns
        ]
        self.keeps = any(line.keep for line in self._lines)
        self._keeps_mask = sum(1 << n for n, line in enumerate(self._lines) if line.keep)

    def __bool__(self) -> bool:
        return bool(self._lines)

    def match(self, path: bytes, above: Matched = 0) -> Matched:
        """Which lines *path* matches, where the directory that it is in matches *above*."""
        found = above
        for number, line in enumerate(self._lines):
            if not found >> number & 1 and line.pattern.match(path):
                found |= 1 << number
        return found

    def ignores(self, matched: Matched) -> bool:
        """Whether that leaves it out."""
        return bool(matched) and not self._keeps_mask >> (matched.bit_length() - 1) & 1


def _cleaned(pattern: bytes) -> bytes:
    """As Go's filepath.Clean, below the root."""
    parts: list[bytes] = []
    for part in pattern.split(b"/"):
        if part == b"..":
            if parts:
                parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


def lines(data: bytes) -> list[tuple[int, bytes]]:
    """The patterns of an ignore file with the numbers of their lines, from 1; without comments."""
    found = []
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if line.startswith(b"#"):
            continue
        text = line.strip()
        kept = text[:1] == b"!"
        cleaned = _cleaned(text[kept:].strip())
        if cleaned:
            found.append((number, b"!" * kept + cleaned))
    return found
