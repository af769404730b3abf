"""mmdebstrap: what it makes is imported, and what it says when it can't is told. It is replaced by a script
here, since the real one takes a minute and a network."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sandbox import host as hosts
from sandbox.errors import ImageError
from sandbox.image import garbage, listing
from sandbox.image.bootstrap import import_debian
from sandbox.image.store import Store
from tests.image.layer.archives import archive, directory, file
from tests.support.needs import need

pytestmark = pytest.mark.integration


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    need("userns", "plain user", "idrange")
    made = Store(str(tmp_path / "store"), host=hosts.probe())
    yield made
    garbage.prune(made, unpacked=True)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a script in place of mmdebstrap."""

    def write(script: str) -> None:
        path = tmp_path / "bin/mmdebstrap"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")

    return write


def test_a_root_that_it_made(store: Store, program: Callable[[str], None], tmp_path: Path) -> None:
    (tmp_path / "root.tar").write_bytes(archive(directory("etc"), file("etc/debian_version", b"12")))
    program(f'echo "$@" > {tmp_path}/arguments; echo working >&2; cat {tmp_path}/root.tar')
    image = import_debian(store, "bookworm", "localhost/debian:12", created=0)
    assert (
        tmp_path / "arguments"
    ).read_text() == "--mode=unshare --format=tar --variant=minbase bookworm -\n"
    assert listing.lookup(store, "localhost/debian:12").image
    assert image.config.config.cmd == ("bash",)


def test_what_it_says_when_it_fails(store: Store, program: Callable[[str], None]) -> None:
    program("echo part; echo 'E: no such suite' >&2; exit 25")
    with pytest.raises(ImageError, match="status 25:\nE: no such suite"):
        import_debian(store, "nonsense", "x:1")
    with pytest.raises(ImageError, match="no suite"):
        import_debian(store, "--help", "x:1")
    assert store.refs.all() == {}


def test_it_is_not_installed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ImageError) as error:
        import_debian(store, "bookworm", "x:1")
    assert error.value.mend == "sudo apt install mmdebstrap"
