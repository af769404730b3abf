"""Writing tar archives: the same files give the same bytes, whoever writes them and when.

ustar headers, with a pax header in front of what does not fit: names that are long or no ASCII, large
numbers, extended attributes (POSIX.1-2017 pax; image-spec, layer.md). No user or group names, whole
seconds, no holes (layer.md: "SHOULD NOT").
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import BinaryIO, NamedTuple

from sandbox.errors import LayerError
from sandbox.image.layer.names import printable
from sandbox.image.layer.tar import Entry

__all__ = ["Writer", "entry"]

_BLOCK = 512
_TYPES = {
    "file": b"0",
    "hardlink": b"1",
    "symlink": b"2",
    "char": b"3",
    "block": b"4",
    "dir": b"5",
    "fifo": b"6",
}
_MAX_ID = 0o7777777
_MAX_NUMBER = 0o77777777777
_SECOND = 1_000_000_000


def entry(kind: str, name: bytes, **fields: object) -> Entry:
    """An entry with nothing but what is given; see `Entry`."""
    made = Entry()
    made.kind, made.name, made.link = kind, name, b""
    made.mode, made.uid, made.gid, made.mtime = 0, 0, 0, 0
    made.size = made.stored = made.major = made.minor = 0
    made.xattrs, made.sparse = {}, None
    for field, value in fields.items():
        setattr(made, field, value)
    return made


class Writer:
    """Writes an archive to *file*. `limit`: how many bytes all files may have.

    `latest`: times after that, seconds since 1970, are written as that (SOURCE_DATE_EPOCH).
    """

    def __init__(self, file: BinaryIO, *, limit: int = 1 << 40, latest: int | None = None) -> None:
        self._file = file
        self._left = limit
        self._limit = limit
        self._latest = latest

    def add(self, item: Entry, content: Iterable[bytes | memoryview] = ()) -> None:
        """Write an entry, of a file with its *content*, which must have `size` bytes.

        Raises:
            LayerError: it is too much, or the content is not as long as it should be.
        """
        self._left -= item.size
        if self._left < 0:
            raise LayerError(
                f"the files have more than {self._limit} bytes with {printable(item.name)}, holes included"
            )
        seconds = item.mtime // _SECOND
        if self._latest is not None:
            seconds = min(seconds, self._latest)
        records = _records(item, seconds)
        if records:
            self._write(_Header(_pax_name(item.name), b"x", 0o644, len(records)).block(), records)
        self._write(_header_of(item, seconds))
        written = 0
        for piece in content:
            written += len(piece)
            self._file.write(piece)
        if written != item.size:
            raise LayerError(f"{printable(item.name)} changed while it was read")
        self._file.write(bytes(-written % _BLOCK))

    def finish(self) -> None:
        """Write the end of the archive."""
        self._file.write(bytes(2 * _BLOCK))
        self._file.flush()

    def _write(self, header: bytes, content: bytes = b"") -> None:
        self._file.write(header + content + bytes(-len(content) % _BLOCK))


def _records(item: Entry, seconds: int) -> bytes:
    """What the plain header can't say, as pax records; sorted, so that they are always the same."""
    wanted: dict[bytes, bytes] = {b"SCHILY.xattr." + name: value for name, value in item.xattrs.items()}
    if not _fits(item.name):
        wanted[b"path"] = item.name
    if not _fits(item.link):
        wanted[b"linkpath"] = item.link
    for key, number in ((b"uid", item.uid), (b"gid", item.gid)):
        if number > _MAX_ID:
            wanted[key] = b"%d" % number
    if item.size > _MAX_NUMBER:
        wanted[b"size"] = b"%d" % item.size
    if not 0 <= seconds <= _MAX_NUMBER:
        wanted[b"mtime"] = b"%d" % seconds
    return b"".join(_record(key, wanted[key]) for key in sorted(wanted))


def _record(key: bytes, value: bytes) -> bytes:
    body = b" %s=%s\n" % (key, value)
    length = len(body)
    while len(b"%d" % length) + len(body) != length:
        length = len(b"%d" % length) + len(body)
    return b"%d%s" % (length, body)


def _fits(name: bytes) -> bool:
    return len(name) <= 100 and name.isascii()


def _pax_name(name: bytes) -> bytes:
    """What the pax header itself is called: of interest only to those who don't know it."""
    return b"PaxHeaders.0/" + bytes(c for c in name.rstrip(b"/").rpartition(b"/")[2] if 32 < c < 127)[:80]


def _header_of(item: Entry, seconds: int) -> bytes:
    def number(value: int, most: int) -> int:
        return value if 0 <= value <= most else 0

    ids = number(item.uid, _MAX_ID), number(item.gid, _MAX_ID)
    size, mtime = number(item.size, _MAX_NUMBER), number(seconds, _MAX_NUMBER)
    name, link = (text if _fits(text) else _ascii(text) for text in (item.name, item.link))
    device = (item.major, item.minor)
    return _Header(name, _TYPES[item.kind], item.mode, size, ids, mtime, link, device).block()


def _ascii(name: bytes) -> bytes:
    return bytes(c if c < 128 else 0x5F for c in name)[:100]


class _Header(NamedTuple):
    """The fields of a header that are not always the same (pax(1), "ustar Interchange Format")."""

    name: bytes
    kind: bytes
    mode: int
    size: int
    ids: tuple[int, int] = (0, 0)
    mtime: int = 0
    link: bytes = b""
    device: tuple[int, int] = (0, 0)

    def block(self) -> bytes:
        """All of it, with its checksum."""
        block = b"%s%07o\0%07o\0%07o\0%011o\0%011o\0%s%s%sustar\x0000%s%07o\0%07o\0%s" % (
            self.name.ljust(100, b"\0"),
            self.mode,
            *self.ids,
            self.size,
            self.mtime,
            b" " * 8,
            self.kind,
            self.link.ljust(100, b"\0"),
            bytes(64),
            *self.device,
            bytes(167),
        )
        return block[:148] + b"%06o\0 " % sum(block) + block[156:]
