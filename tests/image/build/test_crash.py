"""kill -9 in the middle of a build, a full disk: the next one finds nothing wrong, and leaves nothing."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.errors import ImageError
from sandbox.image import garbage
from tests.conftest import ROOT
from tests.image.build import actions
from tests.image.build.conftest import Build
from tests.image.build.rootfs import busybox
from tests.image.stored import put_image
from tests.support.needs import need

pytestmark = pytest.mark.integration

#: system calls that change anything, or start something
STEPS = "rename,mkdir,unlink,fsync,syncfs,vfork,clone,clone3,flock,pipe2"
#: of all their calls, every so many-th is the last; coprime to what repeats
STRIDE, MOST = 7, 2000


@pytest.fixture
def project(build: Build, tmp_home: Path) -> Iterator[Build]:
    need("strace", "busybox")
    put_image(build.store, "base:1", [busybox()])
    build.write({"d/f": "F"})
    yield build


def die(project: Build, step: int) -> bool:
    """Build in a process that dies; whether it came to its end before that."""
    trace = ["-e", f"trace={STEPS}", "-e", f"inject={STEPS}:signal=KILL:when={step}"]
    program = [sys.executable, "-B", actions.__file__, project.store.path, str(project.context)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = ["strace", "-qq", "-o", "/dev/null", *trace, *program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environ, check=False)
    assert done.returncode in (0, -9, 137), done.stderr
    return done.returncode == 0


def test_a_death_at_any_step(project: Build) -> None:
    store = project.store
    deaths = 0
    for step in range(1, MOST, STRIDE):
        if store.get_ref("built:latest"):
            garbage.remove(store, "built:latest")
        garbage.prune(store, builds=True)
        ended = die(project, step)
        deaths += not ended
        actions.build(store, str(project.context))
        descriptor = store.get_ref("built:latest")
        assert descriptor
        image = store.image(descriptor)
        tree = project.tree(image)
        assert (tree["made/f"].uid, tree["made/x"].mode, "home" in tree) == (7, 0, False)
        garbage.prune(store)
        for place in ("work", "partial", "leases"):
            assert list(Path(store.path).glob(f"{place}/*")) == [], f"step {step}: {place}"
        if ended:
            break
    assert deaths > 3


def test_a_full_disk(project: Build) -> None:
    """A process that may write no more than so much to a file gets the same errors."""
    project.write({"large": os.urandom(3_000_000)})
    text = "FROM base:1\nCOPY d /d\nCOPY large /large\n"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    first = project("FROM base:1\nCOPY d /d\n")
    project.store.stack(first).lease.close()  # it is unpacked
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(ImageError, match=r"file:3:1: cannot store a layer: File too large"):
            project(text)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    garbage.prune(project.store)
    assert list(Path(project.store.path).glob("partial/*")) == []
    image = project(text)
    assert project.told.ran == ["COPY large /large"]
    assert project.tree(image)["large"].size == 3_000_000
