"""Names in archives: bytes that become paths below a directory and never lead out of it."""

from __future__ import annotations

from functools import lru_cache

from sandbox import words
from sandbox.errors import LayerError

__all__ = ["NAME_MAX", "OPAQUE", "PATH_MAX", "WHITEOUT", "clean", "is_plain", "printable", "steps"]

#: What a whiteout's name begins with, and the name of an opaque one (image-spec, layer.md).
WHITEOUT, OPAQUE = b".wh.", b".wh..wh..opq"

#: limits.h, bytes: nothing longer could be opened by its name.
NAME_MAX, PATH_MAX = 255, 4096


def printable(name: bytes) -> str:
    """*name* for a message: on one line, without what a terminal obeys, and not endless."""
    shown = words.printable(name.decode("utf-8", "surrogateescape"), keep="")
    return shown if len(shown) <= 160 else f"{shown[:120]}…{shown[-30:]}"


def steps(path: bytes) -> list[bytes]:
    """The components of *path* that say something: a link's target, say. ".." stays."""
    return [part for part in path.split(b"/") if part not in (b"", b".")]


def clean(name: bytes) -> tuple[bytes, ...]:
    """The components of an entry's name: relative to the root, "." and ".." resolved by the letter.

    Raises:
        LayerError: it leads out of the root, or no file can have it.
    """
    above, slash, last = name.rpartition(b"/")
    if slash and is_plain(last) and len(name) < PATH_MAX:
        try:
            return (*_clean(above), last)  # one directory has many entries
        except LayerError:
            pass  # which is to name the whole
    return _clean(name)


def is_plain(name: bytes) -> bool:
    """Whether *name*, without a slash, is one that a file can have."""
    return 0 < len(name) <= NAME_MAX and name not in (b".", b"..") and b"\0" not in name


@lru_cache(256)
def _clean(name: bytes) -> tuple[bytes, ...]:
    parts = name.split(b"/")
    if b".." in parts or b"." in parts or b"" in parts:
        parts = _resolve(name, parts)
    for part in parts:
        if len(part) > NAME_MAX:
            raise LayerError(f"the entry {printable(name)} has a name of more than {NAME_MAX} bytes")
    if len(name) >= PATH_MAX and sum(map(len, parts)) + len(parts) >= PATH_MAX:
        raise LayerError(f"the entry {printable(name)} has a path of more than {PATH_MAX} bytes")
    if b"\0" in name:
        raise LayerError(f"the entry {printable(name)} has a null byte in its name")
    return tuple(parts)


def _resolve(name: bytes, parts: list[bytes]) -> list[bytes]:
    resolved: list[bytes] = []
    for part in parts:
        if part == b"..":
            if not resolved:
                raise LayerError(f"the entry {printable(name)} leads out of the root directory")
            resolved.pop()
        elif part not in (b"", b"."):
            resolved.append(part)
    return resolved
