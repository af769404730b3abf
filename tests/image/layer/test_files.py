"""The process that writes a layer's files: it stays below its root, and what it can't do is told."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox import paths
from sandbox.errors import LayerError
from sandbox.image.layer.files import _EXTENT, _HEAD, _PART, _PARTS, Failed, Files
from sandbox.image.layer.tar import Entry


def entry(size: int = 0, **more: object) -> Entry:
    made = Entry()
    made.kind, made.name, made.link = "file", b"", b""
    made.mode, made.uid, made.gid, made.mtime = 0o640, 0, 0, 1_500_000_000
    made.size = made.stored = size
    made.xattrs, made.sparse = {}, None
    for key, value in more.items():
        setattr(made, key, value)
    return made


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "root").mkdir()
    fd = os.open(tmp_path / "root", os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.fixture
def source() -> Iterator[int]:
    fd = os.memfd_create("source")
    yield fd
    os.close(fd)


@pytest.fixture
def files(root: int, source: int) -> Iterator[Files]:
    made = Files(root, source)
    yield made
    made.close()


def parts(source: int, *pieces: bytes) -> list[range]:
    """Where these are in the file that is copied from."""
    places = []
    for piece in pieces:
        at = os.lseek(source, 0, os.SEEK_END)
        os.write(source, piece)
        places.append(range(at, at + len(piece)))
    return places


def test_files_are_what_they_were_told_to_be(files: Files, source: int, tmp_path: Path) -> None:
    os.mkdir(tmp_path / "root/d")
    large = bytes(range(256)) * 4096
    files.add(b"", b"one", entry(3, mtime=-1), parts(source, b"o", b"ne"), squash=True)
    files.add(b"d", b"large", entry(len(large), mode=0o4755), parts(source, large), squash=True)
    files.add(None, b"empty", entry(), [], squash=True)
    sparse = [(10, 2), (4000, 1)]
    files.add(None, b"holes", entry(5000, sparse=sparse), parts(source, b"ab", b"c"), squash=True)
    files.settle()
    top = tmp_path / "root"
    assert (top / "one").read_bytes() == b"one"
    assert (top / "one").stat().st_mtime_ns == -1
    assert (top / "d/large").read_bytes() == large
    assert (top / "d/large").stat().st_mode & 0o7777 == 0o4755
    assert (top / "d/empty").read_bytes() == b""
    holes = bytearray(5000)
    holes[10:12], holes[4000:4001] = b"ab", b"c"
    assert (top / "d/holes").read_bytes() == holes


@pytest.mark.parametrize(("count", "size"), [(1025, 1), (4, 1 << 16)])
def test_more_attributes_than_it_holds(files: Files, count: int, size: int) -> None:
    many = {b"user.%d" % number: bytes(size) for number in range(count)}
    with pytest.raises(LayerError, match=rf"x has {count} attributes of [0-9]+ bytes; 1024 of 262144 are"):
        files.add(b"", b"x", entry(xattrs=many), [], squash=True)
    files.add(b"", b"y", entry(), [], squash=True)
    files.settle()


def test_content_is_copied_from_where_it_is(root: int, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"0123456789")
    with open(tmp_path / "source", "rb") as source:
        files = Files(root, source.fileno())
        files.add(b"", b"x", entry(4), 3, squash=True)
        files.settle()
        assert (tmp_path / "root/x").read_bytes() == b"3456"
        files.add(b"", b"y", entry(4), 8, squash=True)
        with pytest.raises(Failed) as raised:  # the source ends before the content does
            files.settle()
        assert raised.value.errno == errno.ENODATA
        files.close()


def test_a_mark_is_done_when_all_before_it_is(files: Files, source: int, tmp_path: Path) -> None:
    """In the middle of a file, too; what it was copied from is then anything else, however slow that is."""
    done = 0

    def content() -> Iterator[range]:
        nonlocal done
        for number in range(20):
            yield from parts(source, b"%04d" % number)
            before, done = done, done + files.mark()
            for each in range(before, done):
                os.pwrite(source, b"....", 4 * each)
            if number == 0:
                os.kill(files._pid, signal.SIGSTOP)
                threading.Timer(0.2, os.kill, (files._pid, signal.SIGCONT)).start()

    files.add(b"", b"x", entry(80), content(), squash=True)
    assert 10 < done < 20
    files.settle()
    assert (tmp_path / "root/x").read_bytes() == b"".join(b"%04d" % number for number in range(20))
    assert files.mark() == 1, "none is forgotten"


def test_a_directory_deeper_than_a_path_may_be_long(files: Files, source: int, tmp_path: Path) -> None:
    step = b"x" * 200
    fd = os.open(tmp_path / "root", os.O_RDONLY)
    for _ in range(30):
        os.mkdir(step, dir_fd=fd)
        below = os.open(step, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    files.add(b"/".join([step] * 30), b"deep", entry(1), parts(source, b"x"), squash=True)
    files.settle()
    assert os.listdir(fd) == ["deep"]
    os.close(fd)


@pytest.mark.parametrize(
    ("directory", "name", "number"),
    [
        (b"link", b"x", errno.ELOOP),
        (b"d/../..", b"x", errno.EXDEV),
        (b"/tmp", b"x", errno.EXDEV),
        (b"none", b"x", errno.ENOENT),
        (b"file", b"x", errno.ENOTDIR),
        (b"", b"link", errno.EEXIST),
        (b"", b"file", errno.EEXIST),
    ],
)
def test_nothing_is_written_outside_or_through_links(
    files: Files, source: int, tmp_path: Path, directory: bytes, name: bytes, number: int
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "root/link").symlink_to(outside)
    (tmp_path / "root/file").write_text("kept")
    (tmp_path / "root/d").mkdir()
    files.add(directory, name, entry(1, uid=7, gid=8), parts(source, b"x"), squash=True)
    with pytest.raises(Failed) as raised:
        files.settle()
    assert raised.value.errno == number
    assert raised.value.path == b"/".join(part for part in (directory, name) if part)
    assert not list(outside.iterdir())
    assert (tmp_path / "root/file").read_text() == "kept"


def test_a_failure_is_told_to_whoever_goes_on(files: Files, source: int) -> None:
    content = parts(source, bytes(1 << 16))
    files.add(b"none", b"x", entry(), [], squash=True)
    with pytest.raises(Failed, match="No such file"):
        while True:
            files.add(None, b"y", entry(1 << 16), content, squash=True)


def test_an_attribute_that_cannot_be_set_is_named(files: Files) -> None:
    files.add(b"", b"x", entry(xattrs={b"user.a": b"1", b"user.b": bytes(1 << 17)}), [], squash=True)
    with pytest.raises(LayerError, match=r"user\.b \(131072 bytes\) of x"):
        files.settle()


@pytest.mark.parametrize(
    "told",
    [
        b"cut",
        _HEAD.pack(0, 0, 2, 2, 0, 0, 0, 0, 0, 0) + b"xx",  # a path without an end
        _HEAD.pack(0, 0, 0, 4, 0, 0, 0, 0, 0, 0) + b"../\0",
        _HEAD.pack(0, 0, 0, 4, 0, 0, 0, 0, 0, 0) + b"a\0b\0",
        _HEAD.pack(0, 0, 0, 1 << 31, 0, 0, 0, 0, 0, 0),
        _HEAD.pack(0, 0, 1 << 31, 2, 0, 0, 0, 0, 0, 0),
        _HEAD.pack(0, 0, 0, 2, 0, 0, 0, 1 << 31, 0, 0) + b"x\0",
        _HEAD.pack(0, 0, 0, 2, 0, 0, 0, 1, 0, 0) + b"x\0" + b"\xff" * 64,
        _HEAD.pack(9, 0, 0, 2, 0, 0, 0, 0, 1, 0) + b"x\0" + b"\0" * 8 + b"\xff" * 32,
        _HEAD.pack(9, 0, 0, 2, 0, 0, 0, 0, 1, 0) + b"x\0" + _EXTENT.pack(0, 9, 1 << 63),  # there is no source
        _HEAD.pack(9, 0, 0, 2, 0, 0, 0, 0, 1, 0) + b"x\0" + _EXTENT.pack(0, 9, _PARTS) + _PART.pack(0, 10),
    ],
)
def test_what_makes_no_sense_ends_it(root: int, tmp_path: Path, told: bytes) -> None:
    """No signal: its memory is its own. What was begun may be left; the layer is thrown away."""

    script = 'exec 3<"$1"; exec "$0" files'
    command = ["sh", "-c", script, paths.helper(), tmp_path / "root"]
    done = subprocess.run(command, input=told, capture_output=True, timeout=60)
    assert done.returncode in (0, 125)
    assert set(os.listdir(tmp_path / "root")) <= {"x"}
