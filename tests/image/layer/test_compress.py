"""Compressed streams."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import threading
import zlib

import pytest

from sandbox.errors import LayerError
from sandbox.image.layer.compress import Budget, Stream, compressor, format_of

DATA = os.urandom(70_000) + b"0123456789" * 300_000


def zstd(data: bytes) -> bytes:
    module = pytest.importorskip("backports.zstd") if not _has_zstd() else __import__("compression.zstd").zstd
    compressed: bytes = module.compress(data)
    return compressed


def _has_zstd() -> bool:
    try:
        import compression.zstd  # noqa: F401
    except ImportError:
        return False
    return True


WRITERS = {"gzip": gzip.compress, "zstd": zstd, "xz": lzma.compress, "bzip2": bz2.compress, "plain": bytes}


def read(data: bytes, budget: Budget | None = None) -> tuple[bytes, Stream]:
    with Stream(io.BytesIO(data), budget) as stream:
        found = b"".join(map(bytes, stream.pieces(1 << 40)))
        stream.finish()
        return found, stream


@pytest.mark.parametrize("name", WRITERS)
def test_all_that_comes_out_is_what_went_in(name: str) -> None:
    found, stream = read(WRITERS[name](DATA))
    assert found == DATA
    assert (stream.format, stream.size) == (name, len(DATA))
    assert stream.digest == f"sha256:{hashlib.sha256(DATA).hexdigest()}"


@pytest.mark.parametrize("name", WRITERS)
def test_several_members_and_zeros_at_the_end(name: str) -> None:
    write = WRITERS[name]
    expected = b"one" * 1000 + b"" + b"two"
    data = write(b"one" * 1000) + write(b"") + write(b"two")
    assert read(data)[0] == expected
    if name != "plain":
        assert read(data + bytes(5000))[0] == expected


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "plain"])
def test_cut_off_or_damaged(name: str) -> None:
    data = WRITERS[name](DATA)
    for end in (8, len(data) // 2, len(data) - 1):
        with pytest.raises(LayerError, match=f"cut off in the middle of its {name}"):
            read(data[:end])
    with pytest.raises(LayerError, match="damaged"):
        read(data[: len(data) // 2] + b"\0\1\2\3" * 20 + data[len(data) // 2 :])
    with pytest.raises(LayerError, match="damaged"):
        read(data + b"rubbish behind the end")


def test_an_empty_stream() -> None:
    found, stream = read(b"")
    assert (found, stream.format, stream.size) == (b"", "plain", 0)
    assert stream.digest == f"sha256:{hashlib.sha256().hexdigest()}"


@pytest.mark.parametrize("name", ["gzip", "zstd", "xz", "bzip2"])
def test_a_bomb_ends_early_and_in_little_memory(name: str) -> None:
    bomb = WRITERS[name](bytes(64 << 20))
    with pytest.raises(LayerError, match="taken for a bomb"):
        read(bomb, Budget(floor=8 << 20, ratio=10))
    with pytest.raises(LayerError, match="more than 9000000 bytes"):
        read(bomb, Budget(size=9_000_000))
    with Stream(io.BytesIO(bomb)) as stream:
        assert stream.take(10) == bytes(10)
        assert stream.size <= 16 << 20, "no further ahead than its queue is long"


def test_a_zstd_window_that_wants_all_memory() -> None:
    """RFC 8878, 3.1.1.1.2: a window of 2 GiB, in the header of an otherwise fine frame."""
    zstd(b"")  # or skip
    with pytest.raises(LayerError, match="zstd"):
        read(b"\x28\xb5\x2f\xfd\x00\xa8" + b"\x01\x00\x00")


def test_a_zstd_stream_that_begins_with_a_comment() -> None:
    assert format_of(b"\x52\x2a\x4d\x18\x00\x00") == "zstd"
    assert read(b"\x52\x2a\x4d\x18\x03\x00\x00\x00abc" + zstd(b"data"))[0] == b"data"


def test_a_pipe_that_gives_a_byte_at_a_time() -> None:
    source = io.BytesIO(gzip.compress(b"slow" * 100))

    class Slow:
        def read(self, size: int, /) -> bytes:
            return source.read(1)

    with Stream(Slow()) as stream:
        assert stream.take(1000) == b"slow" * 100


def test_a_source_that_fails() -> None:
    class Broken:
        def read(self, size: int, /) -> bytes:
            raise OSError(5, "Input/output error")

    with Stream(Broken()) as stream, pytest.raises(OSError, match="Input/output"):
        stream.take(1)


def test_closed_early_no_thread_stays() -> None:
    before = threading.active_count()
    with Stream(io.BytesIO(WRITERS["gzip"](bytes(100 << 20)))) as stream:
        stream.take(1)
    assert threading.active_count() == before


def test_at_the_end_it_stays_at_the_end() -> None:
    with Stream(io.BytesIO(b"x")) as stream:
        assert stream.take(5) == b"x"
        assert stream.take(5) == b""
        stream.finish()
        assert stream.take(5) == b""


@pytest.mark.parametrize("name", ["gzip", "zstd"])
def test_compressed_again_it_is_the_same(name: str) -> None:
    def make() -> bytes:
        made = compressor(name)
        return made.compress(DATA) + made.flush()

    assert make() == make()
    assert read(make())[0] == DATA
    if name == "gzip":
        assert make()[4:8] == bytes(4), "no time in the header"
        assert zlib.decompress(make(), 31) == DATA
