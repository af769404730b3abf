"""kill -9 at every step of the commands that change the store, and then a start that recovers.

strace(1) kills the command as it enters the N-th of the system calls that change anything, for N from 1 until
it comes to its end. After each death what is named is whole, nothing unpacked is half there, the command
does its work when it is run again, and nothing is left in the end. `tests/image/test_crash.py` does the
same to the libraries.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import sandbox
from sandbox import host as hosts
from sandbox.box import Boxes
from sandbox.image import garbage, listing
from sandbox.image.digest import digest_of
from sandbox.image.reference import parse_reference
from sandbox.image.store import Store
from tests.cli.image.conftest import here, rootfs
from tests.conftest import ROOT
from tests.image import peers

pytestmark = [pytest.mark.integration]

Command = Callable[..., subprocess.CompletedProcess[str]]

STEPS = "rename,renameat,renameat2,mkdir,mkdirat,unlink,unlinkat,rmdir,fsync,syncfs,ftruncate"
#: more than any of them has
MOST = 150


@pytest.fixture
def store(tmp_home: Path, need: Callable[..., None]) -> Store:
    """The store of the command, for a look at it."""
    need("strace", "userns", "plain user", "idrange")
    return Store(str(tmp_home / ".local/share/sandbox/images"), host=hosts.probe())


def die(step: int, *words: str) -> bool:
    """`sandbox WORDS`, which dies at a step; whether it came to its end before that."""
    # Threads are followed where no child is: under ptrace(2) newuidmap has no rights.
    strace = [
        "strace",
        *(["-f"] if "--no-unpack" in words else []),
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        f"trace={STEPS}",
    ]
    strace += ["-e", f"inject={STEPS}:signal=KILL:when={step}"]
    command = [*strace, sys.executable, "-B", "-m", "sandbox", *words]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environ)
    assert done.returncode in (0, -9, 137), done.stderr
    return done.returncode == 0


def check(store: Store) -> list[str]:
    """What is there is whole: blobs by their digests, images with all that they need; the names."""
    for digest in store.blobs.all():
        with store.open_blob(digest) as file:
            assert digest_of(file.read()) == digest
    found = listing.images(store)
    for listed in found:
        assert listed.image, listed.problem
        assert all(store.has_blob(layer.digest) for layer in listed.image.manifest.layers)
    assert all(store.unpacked.load(key) for key in store.unpacked.all())
    return [listed.name for listed in found]


def nothing_left(store: Store) -> None:
    garbage.prune(store)
    for place in ("work", "partial", "leases"):
        path = Path(store.path, place)
        assert not path.exists() or os.listdir(path) == [], place


def sweep(store: Store, again: Callable[[], object], *words: str) -> int:
    """Let the command die at every step; after each death *again* makes it whole, and all is put back."""
    for step in range(1, MOST):
        if die(step, *words):
            return step
        check(store)
        again()
        check(store)
        nothing_left(store)
    raise AssertionError(f"more than {MOST} steps")


@pytest.mark.parametrize(("words", "least"), [(["--no-unpack"], 5), ([], 10)])
def test_a_pull_dies(
    image: Command, store: Store, work: Path, plain_registry: peers.Registry, words: list[str], least: int
) -> None:
    """Download, and then unpacking and naming; it is pulled again, used and removed."""
    name = f"{plain_registry.name}/tool:1"
    here("image", "import", rootfs(work / "root.tar"), name)
    here("image", "push", name)
    here("image", "rm", name)

    def again() -> None:
        here("image", "pull", "-q", name)
        use(store, name)
        here("image", "rm", "-q", name)

    assert sweep(store, again, "image", "pull", "-q", *words, name) > least


def use(store: Store, name: str) -> None:
    image = listing.lookup(store, parse_reference(name).key).image
    assert image
    stack = store.stack(image)
    with stack.lease:
        assert sorted(os.listdir(stack.lowers[0])) == ["etc", "home"]


def test_an_import_dies(image: Command, store: Store, work: Path) -> None:
    rootfs(work / "root.tar")

    def again() -> None:
        here("image", "import", "-q", "root.tar", "tool:1")
        use(store, "tool:1")
        here("image", "rm", "-q", "tool:1")

    assert sweep(store, again, "image", "import", "-q", "root.tar", "tool:1") > 10


def test_a_removal_dies(image: Command, store: Store, work: Path) -> None:
    """What had the other name stays; what is half removed can be removed, or had again."""
    archive = rootfs(work / "root.tar")
    other = rootfs(work / "other.tar", {"etc/other": b"o\n"})
    here("image", "import", "-q", other, "other:1")
    here("image", "import", "-q", archive, "tool:1")

    def again() -> None:
        here("image", "rm", "-f", "-q", "tool:1")
        assert check(store) == ["docker.io/library/other:1"]
        use(store, "other:1")
        here("image", "import", "-q", archive, "tool:1")
        use(store, "tool:1")

    assert sweep(store, again, "image", "rm", "tool:1") > 5
    assert check(store) == ["docker.io/library/other:1"]


def test_a_tag_dies(image: Command, store: Store, work: Path) -> None:
    here("image", "import", "-q", rootfs(work / "root.tar"), "tool:1")

    def again() -> None:
        assert "docker.io/library/tool:1" in check(store)
        here("image", "rm", "-f", "-q", "new:1")

    assert sweep(store, again, "image", "tag", "tool:1", "new:1") > 2
    assert check(store) == ["docker.io/library/new:1", "docker.io/library/tool:1"]


def test_a_commit_dies(
    image: Command, sandbox_cmd: Command, store: Store, work: Path, need: Callable[..., None]
) -> None:
    """What was changed in the sandbox stays there, and can be committed after all."""
    need("busybox")
    (work / "root/bin").mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "", work / "root/bin/busybox")
    here("image", "import", "-q", "root", "base:1")
    change = ["busybox", "sh", "-c", "echo hello > /new"]
    assert sandbox_cmd("run", "--image", "base:1", "--name", "box", "--keep", "--", *change).returncode == 0
    before = {name for name in check(store) if not name.startswith("@")}
    try:

        def again() -> None:
            assert before <= set(check(store))
            here("commit", "box", "new:1")
            read = sandbox.run(["busybox", "cat", "/new"], profile="base", image="new:1")
            assert read.stdout == b"hello\n", read.stderr
            here("image", "rm", "-q", "new:1")

        assert sweep(store, again, "commit", "box", "new:1") > 5
        here("image", "rm", "-q", "new:1", "base:1")
    finally:
        sandbox_cmd("rm", "box")


def _image_with_busybox(image: Command, work: Path) -> None:
    (work / "root/bin").mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "", work / "root/bin/busybox")
    here("image", "import", "-q", "root", "base:1")


def _boxes_left(names: list[str]) -> None:
    """*names* are there, and nothing half made or half gone; each keeps its image, and nothing else does."""
    boxes = Boxes()
    assert [each.name for each in boxes.all()] == names
    assert sorted(os.listdir(boxes.path)) == names
    pins = {name for name in boxes.store.refs.all() if name.startswith("@")}
    assert pins == {boxes._pin(name) for name in names}


def _use_box() -> None:
    busybox = ["busybox", "touch", "/new"]
    done = sandbox.run(busybox, profile="base", image="base:1", name="box", keep=True)
    assert done.returncode == 0, done.stderr
    _boxes_left(["box"])


def _is_used() -> bool:
    with Boxes().open("box") as box:
        return "/new" in [each.path for each in box.diff()]


def test_making_a_box_dies(
    image: Command, store: Store, work: Path, monkeypatch: pytest.MonkeyPatch, need: Callable[..., None]
) -> None:
    """It is there or not; the same call makes it, or goes on in it."""
    need("busybox")
    _image_with_busybox(image, work)
    monkeypatch.chdir(work)
    words = [
        "run",
        "-q",
        "-p",
        "base",
        "--image",
        "base:1",
        "--name",
        "box",
        "--keep",
        "busybox",
        "true",
    ]

    def again() -> None:
        _boxes_left(["box"] if Boxes().exists("box") else [])
        _use_box()
        assert _is_used()
        Boxes().remove("box")
        _boxes_left([])

    assert sweep(store, again, *words) > 5
    Boxes().remove("box")
    here("image", "rm", "-q", "base:1")


def test_the_removal_of_a_box_dies(
    image: Command, store: Store, work: Path, monkeypatch: pytest.MonkeyPatch, need: Callable[..., None]
) -> None:
    """It is there with all its changes, or gone."""
    need("busybox")
    _image_with_busybox(image, work)
    monkeypatch.chdir(work)

    def again() -> None:
        there = Boxes().exists("box")
        _boxes_left(["box"] if there else [])
        assert not there or _is_used()
        _use_box()

    _use_box()
    assert sweep(store, again, "rm", "box") > 3
    _boxes_left([])
    here("image", "rm", "-q", "base:1")
