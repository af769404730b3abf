"""Reading archives: what other programs write, and what nobody should."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.errors import LayerError
from sandbox.image.layer.compress import Plain
from sandbox.image.layer.tar import Entry, Limits, Reader
from tests.image.layer.archives import archive, directory, file, hardlink, symlink
from tests.support.needs import need


def read(data: bytes, limits: Limits = Limits()) -> list[tuple[Entry, bytes]]:  # noqa: B008
    chunks = (data[at : at + 700] for at in range(0, len(data), 700))  # never in step with the blocks
    reader = Reader(Plain(chunks), limits)
    return [(entry, b"".join(reader.content())) for entry in reader]


def whole(entry: Entry, data: bytes) -> bytes:
    """The content of a file, its holes filled with zeros."""
    if entry.sparse is None:
        return data
    result, at = bytearray(entry.size), 0
    for offset, length in entry.sparse:
        result[offset : offset + length] = data[at : at + length]
        at += length
    return bytes(result)


def header(**fields: bytes) -> bytes:
    """A header with some fields as given, and a checksum that is right."""
    info = tarfile.TarInfo("name")
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    places = {"name": 0, "mode": 100, "uid": 108, "size": 124, "mtime": 136, "type": 156, "prefix": 345}
    for field, value in fields.items():
        block[places[field] : places[field] + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax(records: bytes, kind: bytes = b"x") -> bytes:
    size = b"%011o\0" % len(records)
    return header(type=kind, size=size) + records + bytes(-len(records) % 512)


def record(key: str, value: bytes) -> bytes:
    body = b" " + key.encode() + b"=" + value + b"\n"
    length = len(body)
    while len(str(length)) + len(body) != length:
        length = len(str(length)) + len(body)
    return str(length).encode() + body


END = bytes(1024)

NAMES = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=300),
    st.sampled_from(["d" * 99, "d" * 100, "d" * 101, "p" * 90 + "/" + "n" * 90, "p" * 155 + "/" + "n" * 100]),
)


@given(
    st.lists(
        st.builds(
            file,
            NAMES.filter(lambda name: not name.endswith("/")),
            st.binary(max_size=1500),
            mode=st.integers(0, 0o7777),
            uid=st.integers(0, 2**32 - 2),
            gid=st.integers(0, 2**21 - 1),
            mtime=st.integers(-(2**31), 2**33),
        ),
        max_size=4,
    ),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_what_pythons_tarfile_writes(items: list[Any], format: int) -> None:
    found = read(archive(*items, format=format))
    assert [(os.fsdecode(e.name), data, e.mode, e.uid, e.gid, e.mtime) for e, data in found] == [
        (i.name, i.data, i.mode, i.uid, i.gid, i.mtime * 10**9) for i in items
    ]


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("things")
    (top / "dir").mkdir(mode=0o750)
    (top / "dir" / ("long" * 60)).write_bytes(b"x" * 3000)
    (top / "link").symlink_to("to" * 100)
    os.link(top / "dir" / ("long" * 60), top / "hard")
    os.mkfifo(top / "fifo")
    (top / "new\nline").touch()
    with open(top / "holes", "wb") as holes:
        for at in range(40):
            holes.seek(at * (1 << 17))
            holes.write(b"data%d" % at)
        holes.truncate(50 << 17)
    (top / "empty-but-long").touch()
    os.truncate(top / "empty-but-long", 1 << 20)
    os.utime(top / "hard", ns=(0, 123_456_789_012_345_678))
    return top


@pytest.mark.parametrize(
    "options",
    [
        ["--format=gnu"],
        ["--format=oldgnu"],
        ["--format=posix"],
        ["--format=posix", "--sparse", "--sparse-version=0.0"],
        ["--format=posix", "--sparse", "--sparse-version=0.1"],
        ["--format=posix", "--sparse", "--sparse-version=1.0"],
        ["--format=gnu", "--sparse"],
    ],
    ids=" ".join,
)
def test_what_gnu_tar_writes(things: Path, options: list[str]) -> None:
    need("tar")
    done = subprocess.run(["tar", *options, "-C", things, "-cf", "-", "."], capture_output=True, check=True)
    found = {os.fsdecode(entry.name): (entry, data) for entry, data in read(done.stdout)}
    for path in things.rglob("*"):
        entry, data = found["./" + str(path.relative_to(things)) + ("/" if path.is_dir() else "")]
        status = path.lstat()
        assert (entry.mode, entry.uid) == (status.st_mode & 0o7777, status.st_uid)
        if "posix" in options[0]:
            assert entry.mtime == status.st_mtime_ns
        else:
            assert entry.mtime // 10**9 == status.st_mtime_ns // 10**9
        if entry.kind == "file":
            assert whole(entry, data) == path.read_bytes()
            assert (entry.sparse is not None) == (
                "--sparse" in options and path.name in ("holes", "empty-but-long")
            )
    kinds = {name: entry.kind for name, (entry, _) in found.items()}
    assert (kinds["./link"], kinds["./fifo"], kinds["./dir/"]) == ("symlink", "fifo", "dir")
    assert os.fsdecode(found["./link"][0].link) == "to" * 100
    assert "hardlink" in kinds.values()


def test_holes_are_holes_again(stack: Any, things: Path) -> None:
    done = subprocess.run(
        ["tar", "--sparse", "--format=posix", "-C", things, "-cf", "-", "holes"],
        capture_output=True,
        check=True,
    )
    answer = stack(done.stdout)
    assert answer["kernel"]["/holes"][5] == (things / "holes").read_bytes()[: 1 << 20].hex()


def test_fields_in_all_their_forms() -> None:
    ((entry, _),) = read(header(uid=b" 17 \0\0\0\0", mtime=b"\x80" + bytes(6) + b"\1\0\0\0\0") + END)
    assert (entry.uid, entry.mtime) == (0o17, 2**32 * 10**9)
    ((entry, _),) = read(header(mtime=b"\xff" * 12, prefix=b"pre/fix") + END)
    assert (entry.name, entry.mtime) == (b"pre/fix/name", -(10**9))
    ((entry, _),) = read(header(type=b"\0", name=b"old/\0") + END)
    assert entry.kind == "dir"


def test_pax_records() -> None:
    said = record("path", b"p\xff") + record("mtime", b"-1.5") + record("uid", b"77") + record("uname", b"x")
    said += record("SCHILY.xattr.user.a", b"1=\n2") + record("SCHILY.xattr.user.empty", b"")
    ((entry, _),) = read(pax(said) + header() + END)
    assert (entry.name, entry.mtime, entry.uid) == (b"p\xff", -1_500_000_000, 77)
    assert entry.xattrs == {b"user.a": b"1=\n2", b"user.empty": b""}
    ((entry, _),) = read(pax(record("path", b"p") + record("path", b"")) + header() + END)
    assert entry.name == b"name", "an empty value takes the record back"
    ((entry, _),) = read(pax(record("path", b"p"), b"g") + header() + END)
    assert entry.name == b"name", "a global header counts for nothing"


def test_an_archive_may_end_without_zeros_and_have_anything_behind_them() -> None:
    assert len(read(header())) == 1
    assert len(read(header() + END + b"rubbish" * 1000)) == 1
    assert read(b"") == []


BAD = {
    "cut off in a header": header()[:300],
    "cut off in a file": header(size=b"00000001000\0") + b"x" * 100,
    "cut off behind an extended header": pax(record("path", b"x")),
    "no archive": b"this is no tar archive" * 100,
    "a wrong checksum": b"m" + header()[1:],
    "a size that is no number": header(size=b"12x45678901\0"),
    "a size with a sign": header(size=b"-0000000001\0"),
    "a negative size": header(size=b"\xff" * 12),
    "an endless size": header(size=b"\x80" + b"\xff" * 11),
    "a uid of no one": header(uid=b"\x80\0\0\0\xff\xff\xff\xff"),
    "an unknown type": header(type=b"N"),
    "one block of zeros": bytes(512) + header(),
    "a long extended header": header(type=b"x", size=b"00010000001\0") + bytes(3 << 20),
    "pax without a number": pax(b"x path=a\n") + header(),
    "pax that goes on too long": pax(b"99 path=a\n") + header(),
    "pax without an end of line": pax(b"9 path=ab") + header(),
    "pax of length zero": pax(b"0 path=a\n") + header(),
    "pax without an equals sign": pax(b"7 path\n") + header(),
    "a null byte in a name": pax(record("path", b"a\0b")) + header(),
    "a pax size that is negative": pax(record("size", b"-1")) + header(),
    "a pax time that is none": pax(record("mtime", b"1e9")) + header(),
    "a sparse file of the future": pax(record("GNU.sparse.major", b"2") + record("GNU.sparse.minor", b"0"))
    + header(),
    "a sparse map with no end": pax(record("GNU.sparse.major", b"1") + record("GNU.sparse.minor", b"0"))
    + header(size=b"77777777777\0")
    + b"1048575\n" * 200,
    "a sparse map out of order": pax(record("GNU.sparse.map", b"5,1,0,1") + record("GNU.sparse.size", b"9"))
    + header(size=b"00000000002\0")
    + bytes(512),
    "a sparse map beyond the end": pax(record("GNU.sparse.map", b"8,2") + record("GNU.sparse.size", b"9"))
    + header(size=b"00000000002\0")
    + bytes(512),
    "a sparse map that is not all": pax(record("GNU.sparse.map", b"0,1") + record("GNU.sparse.size", b"9"))
    + header(size=b"00000000002\0")
    + bytes(512),
    "half a piece": pax(record("GNU.sparse.map", b"0") + record("GNU.sparse.size", b"9")) + header(),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_archives_that_nobody_should_write(data: bytes) -> None:
    with pytest.raises(LayerError):
        read(data)


def test_limits() -> None:
    data = archive(*[file(f"f{n}", b"x" * 100) for n in range(20)])
    assert len(read(data, Limits(20, 2000))) == 20
    with pytest.raises(LayerError, match="more than 19 entries"):
        read(data, Limits(19, 2000))
    with pytest.raises(LayerError, match="more than 1999 bytes"):
        read(data, Limits(20, 1999))


def test_what_follows_the_end_is_not_read_for_ever() -> None:
    zeros = bytes(1 << 20)
    assert list(Reader(Plain(zeros for _ in range(60)))) == []
    with pytest.raises(LayerError, match="more than 64 MiB behind its end"):
        list(Reader(Plain(zeros for _ in range(100))))


def test_holes_count_for_the_limit() -> None:
    sparse = (
        pax(record("GNU.sparse.map", b"0,0") + record("GNU.sparse.size", b"9000000000000")) + header() + END
    )
    with pytest.raises(LayerError, match="bytes"):
        read(sparse, Limits(20, 1 << 40))


SAMPLE = archive(
    directory("d"), file("d/f" * 60, b"data" * 200), symlink("s", "t" * 120), hardlink("h", "d/f")
)


@given(
    st.lists(st.tuples(st.integers(0, len(SAMPLE) - 1), st.integers(0, 255)), max_size=8),
    st.integers(0, len(SAMPLE)),
)
def test_a_damaged_archive_is_an_error_or_another_archive(changes: list[tuple[int, int]], end: int) -> None:
    data = bytearray(SAMPLE)
    for at, value in changes:
        data[at] = value
    try:
        read(bytes(data[:end]), Limits(1000, 1 << 30))
    except LayerError as error:
        assert error.message


@given(st.binary(max_size=600), st.binary(max_size=200))
def test_any_extended_header(records: bytes, behind: bytes) -> None:
    try:
        read(pax(records) + header() + behind)
    except LayerError as error:
        assert error.message


def test_python_reads_the_same_names() -> None:
    data = archive(directory("d"), file("ü" * 120, b"1"), symlink("l", "x" * 300), format=tarfile.GNU_FORMAT)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        theirs = tar.getnames()
    assert [os.fsdecode(entry.name).rstrip("/") for entry, _ in read(data)] == theirs
