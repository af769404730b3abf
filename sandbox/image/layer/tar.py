"""Reading tar archives: blocks of bytes in, entries out.

Understands ustar, pax and GNU archives with all of their sparse formats (POSIX.1-2017 pax,
tar(5) of libarchive, "Basic Tar Format" of GNU tar). The standard library's tarfile is not used:
it takes four times as long for an entry, guesses where an archive is wrong, and has no limits. Where
an archive leaves room for two readings, this one is that of Go's archive/tar, for that is what
images are made with: global pax headers count for nothing, an empty pax value takes the record back.

Names stay bytes, exactly as they are. Nothing here touches a file system.
"""

from __future__ import annotations

from sandbox.errors import LayerError
from sandbox.image.layer.fields import (
    SPARSE,
    XATTR,
    add_up,
    checksum,
    decimal,
    decimal_id,
    number,
    owner,
    records,
    seconds,
    time,
    total,
)
from sandbox.image.layer.names import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sized
    from typing import Protocol, TypeVar

    _Piece = TypeVar("_Piece", bound=Sized)

    class Blocks(Protocol):
        """The uncompressed bytes of an archive."""

        def take(self, size: int) -> bytes:
            """Exactly *size* bytes; fewer at the end."""
            ...

        def pieces(self, size: int) -> Iterator[memoryview | bytes]:
            """The next *size* bytes, in pieces; ends early at the end."""
            ...

        def skip(self, size: int) -> int:
            """Pass over the next *size* bytes; how many there were."""
            ...

        def finish(self) -> None:
            """Read to the end."""
            ...


__all__ = ["MOST_REST", "Blocks", "Entry", "Limits", "Reader"]

_BLOCK = 512
_ZERO = bytes(_BLOCK)
#: The largest pax header or long name that is read into memory, bytes (Go's is the same).
_MAX_SPECIAL = 1 << 20
#: More pieces than this has no sparse file that anybody made.
_MAX_PIECES = 1 << 20
#: bytes after its end that an archive may have: it is filled up to a record of whatever size its writer likes
MOST_REST = 64 << 20

KINDS = {
    b"0": "file",
    b"\0": "file",
    b"7": "file",
    b"S": "file",
    b"1": "hardlink",
    b"2": "symlink",
    b"3": "char",
    b"4": "block",
    b"5": "dir",
    b"6": "fifo",
}


#: headers that say something of the entry after them, or of all
_EXTENSIONS = frozenset((b"x", b"X", b"g", b"L", b"K"))


class Limits:
    """What an archive may make us do. `size`: bytes of all files as they say they are, holes
    included; `entries`: their number."""

    def __init__(self, entries: int = 900_000, size: int = 1 << 40) -> None:
        self.entries, self.size = entries, size


class Entry:
    """One entry. Its content, if it has one, must be read (or passed over) before the next is asked for.

    `kind` is one of the values of KINDS; `name` and `link` are as written; `mtime` is in nanoseconds
    since 1970; `size` in bytes, holes included; `sparse` lists (offset, length) of the data, None for
    a file without holes.
    """

    __slots__ = (
        "gid",
        "kind",
        "link",
        "major",
        "minor",
        "mode",
        "mtime",
        "name",
        "size",
        "sparse",
        "stored",
        "uid",
        "xattrs",
    )

    kind: str
    name: bytes
    link: bytes
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int
    #: bytes of content in the archive
    stored: int
    major: int
    minor: int
    xattrs: dict[bytes, bytes]
    sparse: list[tuple[int, int]] | None


class Reader:
    """Iterates over the entries of an archive.

    Raises:
        LayerError: from every method: the archive is damaged, cut off, or beyond *limits*.
    """

    def __init__(self, blocks: Blocks, limits: Limits = Limits()) -> None:  # noqa: B008
        self.count = 0
        self.size = 0
        self._blocks = blocks
        self._limits = limits
        self._left = 0  # bytes of the current entry's content, and its padding
        self._pad = 0

    def __iter__(self) -> Iterator[Entry]:
        while (entry := self._next()) is not None:
            self.count += 1
            self.size += entry.size
            if self.count > self._limits.entries:
                raise LayerError(f"the archive has more than {self._limits.entries} entries")
            if self.size > self._limits.size:
                raise LayerError(f"the archive's files have more than {self._limits.size} bytes")
            yield entry
        if self._blocks.skip(MOST_REST + 1) > MOST_REST:
            raise LayerError(f"the archive has more than {MOST_REST >> 20} MiB behind its end")
        self._blocks.finish()

    def content(self) -> Iterator[memoryview | bytes]:
        """The content of the current entry, as stored: for a sparse file its data without the holes."""
        return self.passing(self._blocks.pieces)

    def passing(self, pieces: Callable[[int], Iterator[_Piece]]) -> Iterator[_Piece]:
        """The same, as *pieces* gives so many bytes."""
        size, self._left = self._left, 0
        for piece in pieces(size):
            size -= len(piece)
            yield piece
        if size:
            raise _cut_off()
        self._skip_padding()

    def _skip(self) -> None:
        size, pad, self._left, self._pad = self._left, self._pad, 0, 0
        if self._blocks.skip(size + pad) < size:  # as in _skip_padding
            raise _cut_off()

    def _skip_padding(self) -> None:
        """Up to the next block. It may be missing at the end of an archive, as umoci 0.4 writes them."""
        pad, self._pad = self._pad, 0
        self._blocks.skip(pad)

    def _next(self) -> Entry | None:
        pax: dict[bytes, bytes] = {}
        sparse: list[tuple[bytes, bytes]] = []
        long: dict[bytes, bytes] = {}
        while True:
            if self._left or self._pad:
                self._skip()
            header = self._header()
            if header is None:
                if pax or long:
                    raise LayerError("the archive ends after a header that belongs to the next entry")
                return None
            kind = header[156:157]
            if kind in _EXTENSIONS:
                data = self._special(header)
                if kind in (b"L", b"K"):
                    long[kind] = data.split(b"\0", 1)[0]
                elif kind == b"g":
                    records(data)
                else:
                    pax, sparse = records(data)
                continue
            if kind == b"V":  # the name of a GNU archive
                self._content_follows(number(header[124:136], "size"))
                continue
            return self._entry(header, pax, sparse, long)

    def _header(self) -> bytes | None:
        """The next header, None at the end: two blocks of zeros, or nothing more."""
        header = self._blocks.take(_BLOCK)
        if header == _ZERO:
            second = self._blocks.take(_BLOCK)
            if second not in (b"", _ZERO):
                raise LayerError("the archive goes on after a block of zeros")
            return None
        if not header:
            return None
        if len(header) < _BLOCK:
            raise _cut_off()
        if add_up(header) != total(header[148:156]):
            signed = sum(each - 256 if each > 127 else each for each in header[:148] + header[156:])
            if signed + 256 != checksum(header[148:156]):
                raise LayerError("it is no tar archive, or a damaged one: a header's checksum is wrong")
        return header

    def _content_follows(self, size: int) -> None:
        self._left, self._pad = size, -size % _BLOCK

    def _special(self, header: bytes) -> bytes:
        size = number(header[124:136], "size")
        if size > _MAX_SPECIAL:
            raise LayerError(
                f"the archive has an extended header of {size} bytes; {_MAX_SPECIAL} are allowed"
            )
        data = self._blocks.take(size)
        self._pad = -size % _BLOCK
        if len(data) < size:
            raise _cut_off()
        self._skip_padding()
        return data

    def _entry(
        self,
        header: bytes,
        pax: dict[bytes, bytes],
        sparse: list[tuple[bytes, bytes]],
        long: dict[bytes, bytes],
    ) -> Entry:
        entry = _plain(header)
        if b"L" in long:
            entry.name = long[b"L"]
        if b"K" in long:
            entry.link = long[b"K"]
        if pax:
            _extend(entry, pax)
        # What is no file has no content: a link's size, say, is that of the file (POSIX).
        entry.stored = entry.size if entry.kind == "file" else 0
        self._content_follows(entry.stored)
        if header[156:157] == b"\0" and entry.name.endswith(b"/"):
            entry.kind = "dir"  # before ustar there was no type for directories
        if entry.kind != "file":
            entry.size = 0
        if header[156:157] == b"S":
            self._old_sparse(entry, header)
        elif sparse or SPARSE + b"major" in pax or SPARSE + b"map" in pax:
            self._pax_sparse(entry, pax, sparse)
        return entry

    # --- sparse files -------------------------------------------------------------------------------

    def _old_sparse(self, entry: Entry, header: bytes) -> None:
        """GNU's own: four pieces in the header, and then 21 in each block that follows it."""
        pieces = _old_pieces(header, 386, 4)
        more = header[482] != 0
        while more and len(pieces) <= _MAX_PIECES:
            block = self._blocks.take(_BLOCK)
            if len(block) < _BLOCK:
                raise _cut_off()
            pieces += _old_pieces(block, 0, 21)
            more = block[504] != 0
        entry.size = number(header[483:495], "size")
        _set_sparse(entry, pieces)

    def _pax_sparse(self, entry: Entry, pax: dict[bytes, bytes], sparse: list[tuple[bytes, bytes]]) -> None:
        """GNU's formats 0.0, 0.1 and 1.0 in pax headers (GNU tar manual, "Storing Sparse Files")."""
        entry.name = pax.get(SPARSE + b"name") or entry.name
        real = pax.get(SPARSE + b"realsize") or pax.get(SPARSE + b"size")
        version = pax.get(SPARSE + b"major", b""), pax.get(SPARSE + b"minor", b"")
        if version == (b"1", b"0"):
            numbers = self._map_in_content(entry)
        elif version in ((b"0", b"0"), (b"0", b"1"), (b"", b"")):
            text = pax.get(SPARSE + b"map")
            values = text.split(b",") if text else [value for _, value in sparse]
            numbers = [decimal(value, "sparse map") for value in values]
            names = [name for name, _ in sparse]
            if not text and names != [b"offset", b"numbytes"] * (len(names) // 2):
                raise _bad_sparse(entry)
        else:
            raise LayerError(f"{printable(entry.name)} is a sparse file of an unknown format")
        if len(numbers) % 2:
            raise _bad_sparse(entry)
        entry.size = decimal(real, "size") if real else entry.size
        _set_sparse(entry, list(zip(numbers[::2], numbers[1::2], strict=True)))

    def _map_in_content(self, entry: Entry) -> list[int]:
        """Format 1.0: the content begins with the map, a decimal number a line, filled up to a block."""
        buffer, wanted = b"", 1
        lines: list[int] = []
        while len(lines) < wanted:
            newline = buffer.find(b"\n")
            if newline < 0:
                block = self._blocks.take(_BLOCK) if self._left >= _BLOCK else b""
                if len(buffer) > _BLOCK or len(block) < _BLOCK:
                    raise _bad_sparse(entry)
                buffer += block
                self._left -= _BLOCK
                entry.stored -= _BLOCK
                continue
            line, buffer = buffer[:newline], buffer[newline + 1 :]
            lines.append(decimal(line, "sparse map"))
            if len(lines) == 1:
                wanted += 2 * lines[0]
                if lines[0] > _MAX_PIECES:
                    raise _bad_sparse(entry)
        return lines[1:]


# --- fields -------------------------------------------------------------------------------------------


def _plain(header: bytes) -> Entry:
    """What the header alone says."""
    entry = Entry()
    kind = KINDS.get(header[156:157])
    entry.name = header[:100].split(b"\0", 1)[0]
    if header[345] and header[257:263] == b"ustar\0":
        # star(1) uses the end of the prefix for times, and says so at the end of the block.
        prefix = header[345:476] if header[508:512] == b"tar\0" else header[345:500]
        prefix = prefix.split(b"\0", 1)[0]
        if prefix:
            entry.name = prefix + b"/" + entry.name
    if kind is None:
        shown = printable(header[156:157])
        raise LayerError(f"{printable(entry.name)} is of a type that no image has, {shown}")
    entry.kind = kind
    entry.link = header[157:257].split(b"\0", 1)[0] if header[157] else b""
    entry.mode, entry.uid, entry.gid = owner(header[100:124])
    entry.size = number(header[124:136], "size")
    entry.mtime = seconds(header[136:148])
    entry.major = entry.minor = 0
    if kind in ("char", "block"):
        entry.major = number(header[329:337], "device")
        entry.minor = number(header[337:345], "device")
    entry.xattrs = {}
    entry.sparse = None
    return entry


def _extend(entry: Entry, pax: dict[bytes, bytes]) -> None:
    """What the entry's pax header says instead."""
    for key, value in pax.items():
        if key == b"path":
            entry.name = value
        elif key == b"linkpath":
            entry.link = value
        elif key == b"size":
            entry.size = decimal(value, "size")
        elif key == b"uid":
            entry.uid = decimal_id(value, "uid")
        elif key == b"gid":
            entry.gid = decimal_id(value, "gid")
        elif key == b"mtime":
            entry.mtime = time(value)
        elif key.startswith(XATTR):
            entry.xattrs[key[len(XATTR) :]] = value
    if b"\0" in entry.name or b"\0" in entry.link:
        raise LayerError(f"the entry {printable(entry.name)} has a null byte in its name or link")


def _old_pieces(block: bytes, at: int, count: int) -> list[tuple[int, int]]:
    pieces = []
    for place in range(at, at + 24 * count, 24):
        if block[place] == 0:
            break
        offset = number(block[place : place + 12], "sparse map")
        pieces.append((offset, number(block[place + 12 : place + 24], "sparse map")))
    return pieces


def _set_sparse(entry: Entry, pieces: list[tuple[int, int]]) -> None:
    """Pieces must be in order, within the file, and what is stored must be just them."""
    end = total = 0
    for offset, length in pieces:
        if offset < end or offset + length > entry.size:
            raise _bad_sparse(entry)
        end = offset + length
        total += length
    if entry.kind != "file" or total != entry.stored:
        raise _bad_sparse(entry)
    entry.sparse = pieces


def _bad_sparse(entry: Entry) -> LayerError:
    return LayerError(f"{printable(entry.name)} is a sparse file whose map makes no sense")


def _cut_off() -> LayerError:
    return LayerError("the archive ends in the middle of an entry")
