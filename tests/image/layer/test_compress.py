"""Compressed streams, uncompressed by a thread or by a process beside this one."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import signal
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sandbox.errors import LayerError
from sandbox.image.layer.compress import Archive, Budget, compressor, format_of
from sandbox.image.layer.copied import Ring, open_archive
from sandbox.image.layer.stream import Stream

Kind = Callable[[Any, Budget], Archive]
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


#: Python 3.12 warns of it: the process does no more than C code does without the interpreter
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture(params=[Stream, Ring])
def kind(request: pytest.FixtureRequest) -> Kind:
    made: Kind = request.param
    return made


def read(data: bytes, budget: Budget | None = None, kind: Kind = Stream) -> tuple[bytes, Archive]:
    with kind(io.BytesIO(data), budget or Budget()) as stream:
        found = b"".join(map(bytes, stream.pieces(1 << 40)))
        stream.finish()
        return found, stream


@pytest.mark.parametrize("name", WRITERS)
def test_all_that_comes_out_is_what_went_in(name: str, kind: Kind) -> None:
    found, stream = read(WRITERS[name](DATA), kind=kind)
    assert found == DATA
    assert (stream.format, stream.size) == (name, len(DATA))
    assert stream.digest == f"sha256:{hashlib.sha256(DATA).hexdigest()}"


@pytest.mark.parametrize("name", WRITERS)
def test_several_members_and_zeros_at_the_end(name: str, kind: Kind) -> None:
    write = WRITERS[name]
    expected = b"one" * 1000 + b"" + b"two"
    data = write(b"one" * 1000) + write(b"") + write(b"two")
    assert read(data, kind=kind)[0] == expected
    if name != "plain":
        assert read(data + bytes(5000), kind=kind)[0] == expected


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "plain"])
def test_cut_off_or_damaged(name: str, kind: Kind) -> None:
    data = WRITERS[name](DATA)
    for end in (8, len(data) // 2, len(data) - 1):
        with pytest.raises(LayerError, match=f"cut off in the middle of its {name}"):
            read(data[:end], kind=kind)
    with pytest.raises(LayerError, match="damaged"):
        read(data[: len(data) // 2] + b"\0\1\2\3" * 20 + data[len(data) // 2 :], kind=kind)
    with pytest.raises(LayerError, match="damaged"):
        read(data + b"rubbish behind the end", kind=kind)


def test_an_empty_stream(kind: Kind) -> None:
    found, stream = read(b"", kind=kind)
    assert (found, stream.format, stream.size) == (b"", "plain", 0)
    assert stream.digest == f"sha256:{hashlib.sha256().hexdigest()}"


@pytest.mark.parametrize("name", ["gzip", "zstd", "xz", "bzip2"])
def test_a_bomb_ends_early_and_in_little_memory(name: str, kind: Kind) -> None:
    bomb = WRITERS[name](bytes(64 << 20))
    with pytest.raises(LayerError, match="taken for a bomb"):
        read(bomb, Budget(floor=8 << 20, ratio=10), kind)
    with pytest.raises(LayerError, match="more than 9000000 bytes"):
        read(bomb, Budget(size=9_000_000), kind)
    with kind(io.BytesIO(bomb), Budget()) as stream:
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


def test_a_source_that_fails(kind: Kind) -> None:
    class Broken:
        begun = False

        def read(self, size: int, /) -> bytes:
            if self.begun:
                raise OSError(5, "Input/output error")
            self.begun = True
            return b"x" * 6

    with pytest.raises(OSError, match="Input/output"), kind(Broken(), Budget()) as stream:
        stream.take(7)


def test_closed_early_no_thread_stays() -> None:
    before = threading.active_count()
    with Stream(io.BytesIO(WRITERS["gzip"](bytes(32 << 20)))) as stream:
        stream.take(1)
    assert threading.active_count() == before


def test_closed_early_no_process_stays(tmp_path: Path) -> None:
    for archive in (bytes(16 << 20), WRITERS["gzip"](bytes(32 << 20))):
        (tmp_path / "archive").write_bytes(archive)
        with open(tmp_path / "archive", "rb") as file, open_archive(file, Budget()) as stream:
            beside = stream._beside._pid
            stream.take(1)
        with pytest.raises(ChildProcessError):
            os.waitpid(beside, os.WNOHANG)


def test_the_process_beside_ends_too_early(tmp_path: Path) -> None:
    """Killed, say, when memory is short."""
    for archive in (bytes(16 << 20), WRITERS["gzip"](bytes(32 << 20))):
        (tmp_path / "archive").write_bytes(archive)
        with open(tmp_path / "archive", "rb") as file, open_archive(file, Budget()) as stream:
            os.kill(stream._beside._pid, signal.SIGKILL)
            with pytest.raises(OSError, match="the process that reads the archive ended"):
                stream.finish()


def test_what_is_taken_across_chunks_stays() -> None:
    """Their places in the ring are used again meanwhile."""
    data = os.urandom(20_000_000)
    with Ring(io.BytesIO(data), Budget()) as stream:
        assert [stream.take(7_777_777) for _ in range(3)] == [
            data[:7_777_777],
            data[7_777_777:15_555_554],
            data[15_555_554:],
        ]


def test_at_the_end_it_stays_at_the_end(kind: Kind) -> None:
    with kind(io.BytesIO(b"x"), Budget()) as stream:
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
