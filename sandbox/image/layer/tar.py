"""Reading tar archives: blocks of bytes in, entries out.

Understands ustar, pax and GNU archives with all of their sparse formats (POSIX.1-2017 pax,
tar(5) of libarchive, "Basic Tar Format" of GNU tar). The standard library's tarfile is not used:
it takes four times as long for an entry, guesses where an archive is wrong, and has no limits. Where
an archive leaves room for two readings, this one is that of Go's archive/tar, for that is what
images are made with: global pax headers count for nothing, an empty pax value takes the record back.

Names stay bytes, exactly as they are. Nothing here touches a file system.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from sandbox.errors import LayerError
from sandbox.image.layer.names import printable

__all__ = ["Blocks", "Entry", "Limits", "Reader"]

_BLOCK = 512
_ZERO = bytes(_BLOCK)
#: The largest pax header or long name that is read into memory, bytes (Go's is the same).
_MAX_SPECIAL = 1 << 20
#: More pieces than this has no sparse file that anybody made.
_MAX_PIECES = 1 << 20
_MAX_SIZE = (1 << 63) - 1
_MAX_ID = (1 << 32) - 2
#: what fits in 64 bits of nanoseconds: the year 2262
_LAST_SECOND = _MAX_SIZE // 1_000_000_000
_XATTR = b"SCHILY.xattr."
_SPARSE = b"GNU.sparse."

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


class Limits(NamedTuple):
    """What an archive may make us do. `size`: bytes of all files as they say they are, holes
    included; `entries`: their number."""

    entries: int = 900_000
    size: int = 1 << 40


class Blocks(Protocol):
    """The uncompressed bytes of an archive."""

    def take(self, size: int) -> bytes:
        """Exactly *size* bytes; fewer at the end."""
        ...

    def pieces(self, size: int) -> Iterator[memoryview | bytes]:
        """The next *size* bytes, in pieces; ends early at the end."""
        ...

    def finish(self) -> None:
        """Read to the end."""
        ...


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
        self._blocks.finish()

    def content(self) -> Iterator[memoryview | bytes]:
        """The content of the current entry, as stored: for a sparse file its data without the holes."""
        size, self._left = self._left, 0
        for piece in self._blocks.pieces(size):
            size -= len(piece)
            yield piece
        if size:
            raise _cut_off()
        self._skip_padding()

    def _skip_padding(self) -> None:
        """Up to the next block. It may be missing at the end of an archive, as umoci 0.4 writes them."""
        pad, self._pad = self._pad, 0
        self._blocks.take(pad)

    def _next(self) -> Entry | None:
        pax: dict[bytes, bytes] = {}
        sparse: list[tuple[bytes, bytes]] = []
        long: dict[bytes, bytes] = {}
        while True:
            if self._left or self._pad:
                for _ in self.content():
                    pass
            header = self._header()
            if header is None:
                if pax or long:
                    raise LayerError("the archive ends after a header that belongs to the next entry")
                return None
            kind = header[156:157]
            if kind in (b"x", b"X", b"g", b"L", b"K"):
                data = self._special(header)
                if kind in (b"L", b"K"):
                    long[kind] = data.split(b"\0", 1)[0]
                elif kind == b"g":
                    _records(data)
                else:
                    pax, sparse = _records(data)
                continue
            if kind == b"V":  # the name of a GNU archive
                self._content_follows(_number(header[124:136], "size"))
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
        rest = header[:148], header[156:]
        if sum(rest[0]) + sum(rest[1]) + 256 != _checksum(header[148:156]):
            signed = sum(each - 256 if each > 127 else each for part in rest for each in part) + 256
            if signed != _checksum(header[148:156]):
                raise LayerError("it is no tar archive, or a damaged one: a header's checksum is wrong")
        return header

    def _content_follows(self, size: int) -> None:
        self._left, self._pad = size, -size % _BLOCK

    def _special(self, header: bytes) -> bytes:
        size = _number(header[124:136], "size")
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
        elif sparse or _SPARSE + b"major" in pax or _SPARSE + b"map" in pax:
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
        entry.size = _number(header[483:495], "size")
        _set_sparse(entry, pieces)

    def _pax_sparse(self, entry: Entry, pax: dict[bytes, bytes], sparse: list[tuple[bytes, bytes]]) -> None:
        """GNU's formats 0.0, 0.1 and 1.0 in pax headers (GNU tar manual, "Storing Sparse Files")."""
        entry.name = pax.get(_SPARSE + b"name") or entry.name
        real = pax.get(_SPARSE + b"realsize") or pax.get(_SPARSE + b"size")
        version = pax.get(_SPARSE + b"major", b""), pax.get(_SPARSE + b"minor", b"")
        if version == (b"1", b"0"):
            numbers = self._map_in_content(entry)
        elif version in ((b"0", b"0"), (b"0", b"1"), (b"", b"")):
            text = pax.get(_SPARSE + b"map")
            values = text.split(b",") if text else [value for _, value in sparse]
            numbers = [_decimal(value, "sparse map") for value in values]
            names = [name for name, _ in sparse]
            if not text and names != [b"offset", b"numbytes"] * (len(names) // 2):
                raise _bad_sparse(entry)
        else:
            raise LayerError(f"{printable(entry.name)} is a sparse file of an unknown format")
        if len(numbers) % 2:
            raise _bad_sparse(entry)
        entry.size = _decimal(real, "size") if real else entry.size
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
            lines.append(_decimal(line, "sparse map"))
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
    magic = header[257:265]
    if magic[:6] == b"ustar\0":
        # star(1) uses the end of the prefix for times, and says so at the end of the block.
        prefix = header[345:476] if header[508:512] == b"tar\0" else header[345:500]
        prefix = prefix.split(b"\0", 1)[0]
        if prefix:
            entry.name = prefix + b"/" + entry.name
    if kind is None:
        shown = printable(header[156:157])
        raise LayerError(f"{printable(entry.name)} is of a type that no image has, {shown}")
    entry.kind = kind
    entry.link = header[157:257].split(b"\0", 1)[0]
    entry.mode = _number(header[100:108], "mode") & 0o7777
    entry.uid = _id(header[108:116], "uid")
    entry.gid = _id(header[116:124], "gid")
    entry.size = _number(header[124:136], "size")
    seconds = _number(header[136:148], "mtime", signed=True)
    entry.mtime = max(-_LAST_SECOND, min(seconds, _LAST_SECOND)) * 1_000_000_000
    entry.major = entry.minor = 0
    if kind in ("char", "block"):
        entry.major = _number(header[329:337], "device")
        entry.minor = _number(header[337:345], "device")
    entry.xattrs = {}
    entry.sparse = None
    return entry


def _number(field: bytes, what: str, *, signed: bool = False) -> int:
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


def _checksum(field: bytes) -> int:
    digits = field.strip(b" \0")
    return int(digits, 8) if digits and not digits.strip(b"01234567") else -1


def _id(field: bytes, what: str) -> int:
    value = _number(field, what)
    if value > _MAX_ID:
        raise LayerError(f"the archive has a file whose {what} is {value}; the largest is {_MAX_ID}")
    return value


def _decimal(text: bytes, what: str) -> int:
    if not text.isdigit() or len(text) > 19 or int(text) > _MAX_SIZE:
        raise LayerError(f"the archive has an extended header whose {what} is no number")
    return int(text)


def _time(text: bytes) -> int:
    """Seconds with a fraction, perhaps negative, as nanoseconds; further digits are dropped."""
    whole, dot, fraction = text.partition(b".")
    digits = whole[1:] if whole[:1] == b"-" else whole
    if not digits.isdigit() or (dot and fraction and not fraction.isdigit()) or len(text) > 64:
        raise LayerError("the archive has an extended header whose time is no number")
    seconds = min(int(digits), _LAST_SECOND - 1)
    value = seconds * 1_000_000_000 + int(fraction[:9].ljust(9, b"0") or b"0")
    return -value if whole[:1] == b"-" else value


def _records(data: bytes) -> tuple[dict[bytes, bytes], list[tuple[bytes, bytes]]]:
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
        if key in (_SPARSE + b"offset", _SPARSE + b"numbytes"):
            sparse.append((key[len(_SPARSE) :], value))
        elif value or key.startswith(_XATTR):
            pax[key] = value
        else:
            pax.pop(key, None)
    return pax, sparse


def _extend(entry: Entry, pax: dict[bytes, bytes]) -> None:
    """What the entry's pax header says instead."""
    for key, value in pax.items():
        if key == b"path":
            entry.name = value
        elif key == b"linkpath":
            entry.link = value
        elif key == b"size":
            entry.size = _decimal(value, "size")
        elif key == b"uid":
            entry.uid = _checked_id(value, "uid")
        elif key == b"gid":
            entry.gid = _checked_id(value, "gid")
        elif key == b"mtime":
            entry.mtime = _time(value)
        elif key.startswith(_XATTR):
            entry.xattrs[key[len(_XATTR) :]] = value
    if b"\0" in entry.name or b"\0" in entry.link:
        raise LayerError(f"the entry {printable(entry.name)} has a null byte in its name or link")


def _checked_id(text: bytes, what: str) -> int:
    value = _decimal(text, what)
    if value > _MAX_ID:
        raise LayerError(f"the archive has a file whose {what} is {value}; the largest is {_MAX_ID}")
    return value


def _old_pieces(block: bytes, at: int, count: int) -> list[tuple[int, int]]:
    pieces = []
    for place in range(at, at + 24 * count, 24):
        if block[place] == 0:
            break
        offset = _number(block[place : place + 12], "sparse map")
        pieces.append((offset, _number(block[place + 12 : place + 24], "sparse map")))
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


def _bad_pax() -> LayerError:
    return LayerError("the archive has an extended header that is damaged")


def _cut_off() -> LayerError:
    return LayerError("the archive ends in the middle of an entry")
