"""kill -9 at every step of what changes the store, and then a start that loses nothing.

strace(1) kills the process as it enters the N-th of the system calls that change anything, for N from 1
until it comes to its end. After each death the store is held to what it promises; then the same is done
again, to its end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sandbox import host as hosts
from sandbox.image import garbage, listing
from sandbox.image.digest import digest_of
from sandbox.image.store import Store
from tests.conftest import ROOT
from tests.image import actions
from tests.support.needs import need

pytestmark = pytest.mark.integration

STEPS = "rename,renameat,renameat2,mkdir,mkdirat,unlink,unlinkat,rmdir,fsync,syncfs,ftruncate"
#: more than any of them has
MOST = 120


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    need("strace", "userns", "plain user", "idrange")
    made = Store(str(tmp_path / "store"), host=hosts.probe())
    yield made
    made.unpacked.recover()
    for key in made.unpacked.all():
        made.unpacked.discard(made.unpacked.set_aside(key))


def die(store: Store, what: str, step: int) -> bool:
    """Do *what* in a process that dies at a step; whether it came to its end before that."""
    trace = ["-e", f"trace={STEPS}", "-e", f"inject={STEPS}:signal=KILL:when={step}"]
    command = [
        "strace",
        "-qq",
        "-o",
        "/dev/null",
        *trace,
        sys.executable,
        "-B",
        actions.__file__,
        store.path,
        what,
    ]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environ, check=False)
    assert done.returncode in (0, -9, 137), done.stderr
    return done.returncode == 0


def check(store: Store) -> None:
    """What is named is there and is what it should be; what is unpacked is whole."""
    for digest in store.blobs.all():
        with store.open_blob(digest) as file:
            assert digest_of(file.read()) == digest
    for listed in listing.images(store):
        assert listed.image, listed.problem
        for layer in listed.image.manifest.layers:
            assert store.has_blob(layer.digest)
    assert all(store.unpacked.load(key) for key in store.unpacked.all())


def whole(store: Store) -> None:
    """The image is there and can be used."""
    image = listing.lookup(store, "one").image
    assert image
    stack = store.stack(image)
    assert sorted(os.listdir(stack.lowers[-1])) == ["d", "y"]
    assert json.loads((Path(stack.layers[1].files).parent / "layer.json").read_bytes())["entries"] == 2
    stack.lease.close()


def nothing_left(store: Store) -> None:
    garbage.prune(store)
    for place in ("work", "partial", "leases"):
        path = Path(store.path, place)
        assert not path.exists() or os.listdir(path) == [], place


def present(store: Store) -> None:
    actions.pull(store)


def unpacked(store: Store) -> None:
    present(store)
    whole(store)


def gone(store: Store) -> None:
    assert store.refs.all() == {}
    nothing_left(store)
    assert (store.blobs.all(), store.unpacked.all()) == ([], [])


CASES: dict[str, tuple[Callable[[Store], None], Callable[[Store], None]]] = {
    "pull": (lambda store: None, whole),
    "unpack": (present, whole),
    "remove": (unpacked, gone),
    "prune": (unpacked, whole),
}


@pytest.mark.parametrize("what", CASES)
def test_a_death_at_every_step(store: Store, what: str) -> None:
    before, after = CASES[what]
    for step in range(1, MOST):
        for name in list(store.refs.all()):
            garbage.remove(store, name)
        garbage.prune(store)
        before(store)
        ended = die(store, what, step)
        check(store)
        if not (ended or (what == "remove" and not store.refs.all())):
            actions.ACTIONS[what](store)
        after(store)
        nothing_left(store)
        if ended:
            assert step > 3, "no step was a step"
            return
    pytest.fail(f"more than {MOST} steps")
