"""Compressed streams: bytes of a file in, uncompressed blocks out.

The format is told by the first bytes, never by a name or media type. `sandbox.image.layer.stream` and
`sandbox.image.layer.copied` do it beside whoever uses the blocks.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

from sandbox.errors import LayerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol, Self

    class Source(Protocol):
        """What bytes are read from."""

        def read(self, size: int, /) -> bytes: ...

    class Compressor(Protocol):
        """`zlib.compressobj` and zstd's have this in common."""

        def compress(self, data: bytes | memoryview, /) -> bytes: ...

        def flush(self) -> bytes: ...


__all__ = [
    "FORMATS",
    "Archive",
    "Budget",
    "Plain",
    "beginning",
    "compressor",
    "format_of",
    "uncompressed",
]

_INPUT = 1 << 18  # of what goes in, at most
#: a window of more than 128 MiB is refused, as by zstd(1): it would be memory that a stream demands
_WINDOW_LOG_MAX = 27

FORMATS = ("gzip", "zstd", "xz", "bzip2", "plain")

_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ\0": "xz", b"BZh": "bzip2"}


class Budget:
    """How far a stream may expand: to `floor` bytes in any case, beyond that to `ratio` times what
    was read, and never beyond `size`."""

    def __init__(self, size: int = 1 << 40, floor: int = 1 << 30, ratio: int = 200) -> None:
        self.size, self.floor, self.ratio = size, floor, ratio

    def check(self, read: int, made: int) -> None:
        """Raises `LayerError` when *made* bytes came of *read*, and that is too many."""
        if made > self.size:
            raise LayerError(f"the archive has more than {self.size} bytes when uncompressed")
        if made > self.floor and made > self.ratio * read:
            said = f"the archive expands to more than {self.ratio} times its {read} bytes"
            raise LayerError(f"{said}: it is taken for a bomb")


def format_of(head: bytes) -> str:
    """The format of a stream that begins with *head* (6 bytes): one of FORMATS."""
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            return name
    # zstd may begin with a frame that holds no data (RFC 8878, 3.1.2)
    if len(head) >= 4 and head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50:
        return "zstd"
    return "plain"


class Plain:
    """Blocks of an uncompressed stream: what `sandbox.image.layer.tar` reads.

    *chunks* are consumed as they are needed.
    """

    def __init__(self, chunks: Iterator[bytes | memoryview]) -> None:
        self._chunks = chunks
        self._chunk: bytes | memoryview = b""
        self._at = 0
        self._before = 0  # bytes of all chunks before this one

    def take(self, size: int) -> bytes:
        """Exactly *size* bytes; fewer at the end."""
        end = self._at + size
        if end <= len(self._chunk):
            data = bytes(self._chunk[self._at : end])
            self._at = end
            return data
        return b"".join(map(bytes, self.pieces(size)))

    def pieces(self, size: int) -> Iterator[memoryview]:
        """The next *size* bytes, in pieces, without copying; ends early at the end."""
        while size:
            if self._at == len(self._chunk):
                self._before += self._at
                self._chunk, self._at = next(self._chunks, b""), 0
                if not self._chunk:
                    return
            piece = memoryview(self._chunk)[self._at : self._at + size]
            self._at += len(piece)
            size -= len(piece)
            yield piece

    def skip(self, size: int) -> int:
        """Pass over the next *size* bytes; how many there were."""
        return sum(map(len, self.pieces(size)))

    def finish(self) -> None:
        """Read to the end."""
        self._at = len(self._chunk)
        for _ in self._chunks:
            pass


class Archive(Plain):
    """An archive with the digest of all its bytes, uncompressed. Use it in a `with` statement.

    `format` is what it is compressed with. After `finish()`, `digest` is "sha256:…" and `size` the number
    of bytes.
    """

    format = "plain"

    def __init__(self, chunks: Iterator[bytes | memoryview]) -> None:
        super().__init__(chunks)
        self.size = 0

    @property
    def digest(self) -> str:
        raise NotImplementedError

    def close(self) -> None:
        """End it; what was not read is lost."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def beginning(source: Source) -> bytes:
    """The beginning of a stream, enough to know its format."""
    head = source.read(_INPUT)
    while head and len(head) < 6 and (more := source.read(_INPUT)):
        head += more
    return head


def uncompressed(source: Source, head: bytes, budget: Budget, size: int) -> Iterator[bytes]:
    """What a stream is, uncompressed, that begins with *head*, the rest of which is read from *source*.
    It comes in chunks of up to *size* bytes; what is not compressed in such of twice that, or than *head*.

    Raises:
        LayerError: it is damaged, cut off, or over *budget*.
        OSError: *source* could not be read.
    """
    feed, data, read, made = _FEEDS[format_of(head[:6])](size), head, len(head), 0
    while True:
        for chunk in feed(data):
            made += len(chunk)
            budget.check(read, made)
            if chunk:
                yield chunk
        if not data:
            return
        data = source.read(min(size, _INPUT))
        read += len(data)


#: takes input (b"" at its end), gives output
_Feed = Callable[[bytes], Iterator[bytes]]


def _plain(size: int) -> _Feed:
    """Collects what a pipe gives in small parts: each chunk costs its reader something."""
    parts: list[bytes] = []

    def feed(data: bytes) -> Iterator[bytes]:
        parts.append(data)
        if not data or sum(map(len, parts)) >= size:
            whole = b"".join(parts)
            parts.clear()
            if whole:
                yield whole

    return feed


def _members(new: Callable[[], Any], what: str, size: int, errors: tuple[type[Exception], ...]) -> _Feed:
    """Any number of compressed members in a row, perhaps with zeros behind them (as tapes have).

    *new* makes a decompressor with `decompress(data, max_length)`, `eof` and `unused_data`.
    """
    current = new()
    begun = False  # whether the current one was given anything

    def feed(data: bytes) -> Iterator[bytes]:
        nonlocal current, begun
        if not data and begun:
            raise LayerError(f"the archive is cut off in the middle of its {what} stream")
        while data:
            if not begun and not data.strip(b"\0"):
                return
            begun = True
            try:
                chunk = current.decompress(data, size)
                yield chunk
                while len(chunk) == size and not current.eof:
                    chunk = current.decompress(b"", size)
                    yield chunk
            except errors as error:
                raise LayerError(f"the archive's {what} stream is damaged: {error}") from error
            if not current.eof:
                return
            data, current, begun = current.unused_data, new(), False

    return feed


class _Gzip:
    """zlib's object, which keeps what it did not use for its caller, behaving like the others."""

    def __init__(self) -> None:
        self._object = zlib.decompressobj(wbits=31)

    def decompress(self, data: bytes, size: int) -> bytes:
        return self._object.decompress(self._object.unconsumed_tail + data, size)

    @property
    def eof(self) -> bool:
        return self._object.eof

    @property
    def unused_data(self) -> bytes:
        return self._object.unused_data


def _zstd_module() -> Any:
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore] # Python 3.14
    except ImportError:
        try:
            from backports import zstd
        except ImportError:
            raise LayerError(
                "the archive is compressed with zstd, which this Python can't read",
                "pip install backports.zstd",
            ) from None
    return zstd


def _zstd(size: int) -> _Feed:
    zstd = _zstd_module()
    options = {zstd.DecompressionParameter.window_log_max: _WINDOW_LOG_MAX}
    return _members(lambda: zstd.ZstdDecompressor(options=options), "zstd", size, (zstd.ZstdError,))


def _gzip(size: int) -> _Feed:
    return _members(_Gzip, "gzip", size, (zlib.error,))


def _xz(size: int) -> _Feed:
    import lzma

    limit = 256 << 20  # bytes; `xz -9` needs 65 MiB
    return _members(lambda: lzma.LZMADecompressor(memlimit=limit), "xz", size, (lzma.LZMAError,))


def _bzip2(size: int) -> _Feed:
    import bz2

    return _members(bz2.BZ2Decompressor, "bzip2", size, (OSError, ValueError))


_FEEDS: dict[str, Callable[[int], _Feed]] = {
    "gzip": _gzip,
    "zstd": _zstd,
    "xz": _xz,
    "bzip2": _bzip2,
    "plain": _plain,
}


def compressor(name: str, level: int | None = None) -> Compressor:
    """A compressor for "gzip" or "zstd" whose output depends on nothing but its input (and the
    version of the library): gzip's header has no time and no name.

    Raises:
        LayerError: this Python has no zstd.
        ValueError: another format.
    """
    if name == "gzip":
        # A fresh object's header has an mtime of 0 and no name (zlib.h, deflateSetHeader).
        return zlib.compressobj(6 if level is None else level, zlib.DEFLATED, 31)
    if name == "zstd":
        made: Compressor = _zstd_module().ZstdCompressor(level=3 if level is None else level)
        return made
    raise ValueError(f"no compressor for {name}")
