"""The confined child: what it can reach, what it does with hostile archives, and what it answers."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox import host as hosts
from sandbox import ids
from sandbox.errors import ImageError, LayerError
from sandbox.image import confined as module
from sandbox.image.confined import Bound, Confined
from sandbox.launch.planned import running
from sandbox.profile.model import User
from tests.image.layer.archives import Item, archive, directory, file, hardlink, symlink
from tests.support.needs import need

pytestmark = [pytest.mark.integration, pytest.mark.as_root]

LIMITS = {"entries": 1000, "size": 1 << 30, "floor": 1 << 24, "ratio": 100}


@pytest.fixture(params=["range", "single"])
def child(request: pytest.FixtureRequest) -> Confined:
    need("userns")
    if request.param == "range" and os.geteuid():
        need("idrange")
    host = hosts.probe()
    return Confined(host, ids.plan_ids(User(map="root", ids=request.param), host))


def squashes(child: Confined) -> bool:
    return child._ids.single


@pytest.fixture
def layer(child: Confined, tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "layer"
    path.mkdir(0o700)
    if os.geteuid() == 0:
        os.chown(path, child._ids.host_uid, child._ids.host_gid)
    yield path
    child.run("remove", {}, [Bound(str(path), "/layer", True)])
    assert os.listdir(path) == []


Unpack = Callable[..., dict[str, Any]]


@pytest.fixture
def unpack(child: Confined, layer: Path, tmp_path: Path) -> Unpack:
    def run(data: bytes, lower: tuple[Path, ...] = (), **limits: int) -> dict[str, Any]:
        blob = tmp_path / "blob"
        blob.write_bytes(data)
        binds = [Bound(str(layer), "/layer", True)]
        binds += [Bound(str(path), f"/lower/{number}") for number, path in enumerate(lower)]
        with open(blob, "rb") as stream:
            return child.run("unpack", {**LIMITS, "squash": squashes(child), **limits}, binds, stdin=stream)

    return run


def test_owners_are_those_of_the_map(child: Confined, layer: Path, unpack: Unpack) -> None:
    items = [directory("d", 0o700, uid=1, gid=1), file("d/x", b"data"), file("y", uid=1000, gid=50)]
    answer = unpack(gzip.compress(archive(*items)))
    assert (answer["entries"], answer["format"]) == (3, "gzip")
    outside = [(m.inside, m.outside, m.count) for m in child._ids.uids]
    for name, uid in {"d": 1, "y": 1000}.items():
        expected = [o + uid - i for i, o, n in outside if i <= uid < i + n]
        if squashes(child):
            expected = [child._ids.host_uid]
        assert [(layer / name).stat().st_uid] == expected
    assert answer["squashed"] == (2 if squashes(child) else 0)


def test_the_lower_layers_are_read_and_not_written(tmp_path: Path, layer: Path, unpack: Unpack) -> None:
    lower = tmp_path / "lower"
    lower.mkdir(0o755)
    (lower / "file").write_text("below")
    assert unpack(archive(hardlink("link", "file")), (lower,))["needs_lower"]
    assert (layer / "link").stat().st_nlink == 2
    assert (lower / "file").stat().st_nlink == 1


HOSTILE = {
    "a path upwards": ([file("../../out")], "leads out"),
    "a link target upwards": ([hardlink("x", "../../../etc/passwd")], "leads out"),
    "a hard link to the host": ([hardlink("x", "/etc/passwd")], "hard link"),
    "a file through a link out": ([symlink("l", "/../../.."), file("l/out/x")], ""),
    "the root as a link": ([symlink(".", "/etc")], "root directory"),
    "a device": ([Item("block", "sda", device=(8, 0))], ""),
    "a whiteout device": ([Item("char", "x", device=(0, 0))], ""),
    "too many entries": ([directory(f"d{n}") for n in range(1001)], "more than 1000 entries"),
    "a deep path": ([file("d/" * 2100 + "x")], "more than 4096 bytes"),
    "a long name": ([file("x" * 256)], "more than 255 bytes"),
}


@pytest.mark.parametrize("items, error", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_archives(tmp_path: Path, unpack: Unpack, items: list[Item], error: str) -> None:
    before = {path.name for path in tmp_path.iterdir()}
    if error:
        with pytest.raises(LayerError, match=error):
            unpack(archive(*items))
    else:
        unpack(archive(*items))
    assert {path.name for path in tmp_path.iterdir()} - before <= {"blob"}
    assert not Path("/out").exists()


@pytest.mark.parametrize("compressed", [False, True])
def test_a_bomb(unpack: Unpack, compressed: bool) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        info = tarfile.TarInfo("zeros")
        info.size = 64 << 20
        tar.addfile(info, io.BytesIO(bytes(64 << 20)))
    bomb = gzip.compress(data.getvalue()) if compressed else data.getvalue()
    if compressed:
        with pytest.raises(LayerError, match="taken for a bomb"):
            unpack(bomb)
    with pytest.raises(LayerError, match="more than"):
        unpack(bomb, size=32 << 20, floor=1 << 30)


def test_too_many_entries(unpack: Unpack) -> None:
    """Empty directories, in one kilobyte of gzip a thousand; the commands meet the limit of 900000."""
    block = archive(directory("d"))[:512]
    data = io.BytesIO()
    with gzip.GzipFile(fileobj=data, mode="wb", compresslevel=1) as stream:
        for _ in range(1000):
            stream.write(block * 1000)
    with pytest.raises(LayerError, match="more than 9000 entries"):
        unpack(data.getvalue(), entries=9_000, ratio=10**6)


def test_what_it_can_reach(child: Confined, layer: Path) -> None:
    """Run any program in its plan: it sees the interpreter and what it was given, and talks to nobody."""
    program = """if True:
        import os, socket
        print(sorted(os.listdir("/")))
        for path in ("/home", "/root", "/etc/passwd", "/proc/self", "/dev/null", "/sys", "/run", "/var"):
            if os.path.exists(path): print("sees", path)
        for path in ("/usr/x", "/app/sandbox/x", "/lower/0/x"):
            try: open(path, "w")
            except OSError as error: print(path, error.errno)
        print([name for _, name in socket.if_nameindex()])
        try: socket.create_connection(("127.0.0.1", 1))
        except OSError as error: print(error.errno)
        print(os.getuid(), os.getgid(), os.listdir("/layer"))
        """
    lower = layer.parent / "lower"
    lower.mkdir(0o777)
    lower.chmod(0o777)
    plan = child._plan([Bound(str(layer), "/layer", True), Bound(str(lower), "/lower/0")])
    argv = [module.executable(), "-I", "-S", "-c", program]
    with running(plan, argv, stdin=-3, stdout=-1, stderr=-1) as process:
        out, err = process.communicate()
    lines = out.decode().splitlines()
    assert err == b""
    assert "sees" not in out.decode()
    assert not {"home", "root", "proc", "dev"} & set(eval(lines[0]))
    assert lines[1:4] == ["/usr/x 30", "/app/sandbox/x 30", "/lower/0/x 30"]
    assert lines[4:] == ["['lo']", "101", "0 0 []"]


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("print('nothing')", "no message"),
        ("import os; os.write(2, b'\\xff\\n{\"half')", "half"),
        ("import os; os.write(2, b'[1]')", "ended with status 0"),
        ("import os; os.write(2, b'x' * 9_000_000)", "ended with"),
        ("import os; os.kill(os.getpid(), 9)", "signal 9"),
        ('import os; os.write(2, b\'{"error": [1], "mend": 5}\')', r"\[1\]"),
        ("raise SystemExit('traceback')", "status 1: traceback"),
    ],
)
def test_answers_of_a_child_that_was_taken_over(
    child: Confined, monkeypatch: pytest.MonkeyPatch, program: str, message: str
) -> None:
    monkeypatch.setattr(module, "_START", program)
    with pytest.raises(ImageError, match=message):
        child.run("unpack", {}, [])


def test_the_body_may_stop_reading(child: Confined, tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError), child.start("unpack", {**LIMITS, "squash": True}, []):
        raise ZeroDivisionError
    assert threading.active_count() == before, "nobody reads a pipe that is closed"


def test_a_full_disk(child: Confined, tmp_path: Path) -> None:
    """/dev/full-like: a tmpfs of one megabyte, in a namespace of this test's."""
    need("plain user")
    program = f"""if True:
        import os, sys
        sys.path.insert(0, {os.getcwd()!r})
        from sandbox.image.layer.apply import apply
        from sandbox.image.layer.compress import Budget
        from sandbox.image.layer.copied import open_archive
        from sandbox.errors import LayerError
        try:
            with open_archive(sys.stdin.buffer, Budget()) as stream:
                apply(stream, os.open(sys.argv[1], os.O_RDONLY))
        except LayerError as error: print(error)
        """
    command = 'mount -t tmpfs -o size=1m none "$0" && exec "$@" "$0"'
    argv = ["unshare", "-Urm", "sh", "-c", command, tmp_path, "python3", "-c", program]
    done = subprocess.run(argv, input=archive(file("big", bytes(4 << 20))), capture_output=True, check=True)
    assert done.stdout.decode().splitlines() == [
        "cannot unpack big: No space left on device",
        "  mend: free space where the image store is: sandbox image prune",
    ]
