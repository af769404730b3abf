"""Checking and repairing the store: whatever was damaged is noticed, and comes back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from sandbox import host as hosts
from sandbox.errors import ImageError
from sandbox.image import garbage, listing
from sandbox.image.check import check
from sandbox.image.store import Image, Store
from tests.image.layer.archives import directory, file, whiteout
from tests.image.stored import put_image
from tests.support.needs import need

pytestmark = pytest.mark.integration

BASE = [directory("d", 0o755), file("d/x", b"data"), file("y", mode=0o644)]
MORE = [file("d/z", b"more"), whiteout("y")]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    need("userns", "plain user", "idrange")
    made = Store(str(tmp_path / "store"), host=hosts.probe())
    yield made
    garbage.prune(made, unpacked=True)


@pytest.fixture
def image(store: Store) -> Image:
    made = put_image(store, "one", [BASE, MORE])
    store.stack(made).lease.close()
    return made


def problems(store: Store, *, repair: bool = False) -> list[str]:
    return [("repaired: " if each.repaired else "") + each.what for each in check(store, repair=repair)]


def test_all_is_well(store: Store, image: Image) -> None:
    assert check(store) == []
    assert check(store, repair=True) == []
    assert os.listdir(os.path.join(store.path, "work")) == []


@pytest.mark.parametrize("change", ["content", "mode", "time", "new", "removed", "attribute"])
def test_an_unpacked_layer_that_was_changed(store: Store, image: Image, change: str) -> None:
    target = Path(store.stack(image).lowers[1]) / "d/x"
    status = target.stat()
    if change == "content":
        target.write_bytes(b"DATA")
    elif change == "mode":
        target.chmod(0o600)
    elif change == "new":
        (target.parent / "new").touch()
    elif change == "removed":
        target.unlink()
    elif change == "attribute":
        os.setxattr(target, "user.x", b"1")
    if change != "removed":
        moved = 5 if change == "time" else 0
        os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns + moved))
    (said,) = problems(store)
    assert "its files are not those" in said
    (said,) = problems(store, repair=True)
    assert said.startswith("repaired: ")
    assert check(store) == []
    with store.stack(image).lease:
        assert (Path(store.stack(image).lowers[1]) / "d/x").read_bytes() == b"data"


def test_what_is_in_use_is_not_removed(store: Store, image: Image) -> None:
    with store.stack(image).lease:
        (Path(store.stack(image).lowers[1]) / "y").chmod(0o600)
        (problem,) = check(store, repair=True)
        assert not problem.repaired
        assert "no sandbox uses it" in problem.mend


def test_a_blob_that_was_damaged(store: Store, image: Image) -> None:
    layer = image.manifest.layers[0]
    path = store.blobs.path(layer.digest)
    good = Path(path).read_bytes()
    Path(path).write_bytes(good[:-1] + b"x")
    assert any("is another" in each for each in problems(store))
    said = problems(store, repair=True)
    assert said[0].startswith("repaired: a blob is damaged")
    assert f"one can't be used: its layer {layer.digest} is missing" in said
    assert listing.images(store)[0].name == "one", "the name says what to fetch"
    with store.ingest(layer.digest, layer.size) as ingest:
        ingest.write(good)
        ingest.commit()
    assert check(store) == []


@pytest.mark.parametrize("part", ["manifest", "config", "layer"])
def test_a_blob_that_can_not_be_read(store: Store, image: Image, part: str) -> None:
    parts = {"manifest": image.descriptor, "config": image.manifest.config, "layer": image.manifest.layers[0]}
    path = Path(store.blobs.path(parts[part].digest))
    path.chmod(0)  # in place of a disk that fails
    said = problems(store)
    assert f"a blob is damaged: {parts[part].digest} can't be read: Permission denied" in said
    assert any(each.startswith("one can't be used: ") for each in said) == (part != "layer")
    assert bool(listing.images(store)[0].problem) == (part != "layer")
    said = problems(store, repair=True)
    assert said[0].startswith("repaired: ") and not path.exists()


def test_two_repairs_at_once(store: Store, image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(store.path, "index.json").write_bytes(b"\0\0\0")
    lock = store.locked

    def locked() -> AbstractContextManager[None]:
        monkeypatch.setattr(store, "locked", lock)
        check(Store(store.path, host=hosts.probe()), repair=True)
        store.set_ref("mine", image.descriptor)
        return lock()

    monkeypatch.setattr(store, "locked", locked)
    check(store, repair=True)
    assert store.get_ref("mine") == image.descriptor, "the second repairs nothing"
    assert Path(store.path, "index.json.damaged").read_bytes() == b"\0\0\0"


def test_nothing_goes_while_it_is_compared(
    store: Store, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = store.unpacked.compare

    def compared(*arguments: Any) -> str:
        with Store(store.path).alone() as alone:
            assert not alone
        return compare(*arguments)

    monkeypatch.setattr(store.unpacked, "compare", compared)
    assert check(store) == []


def test_a_layer_of_another_size(store: Store, image: Image) -> None:
    os.truncate(store.blobs.path(image.manifest.layers[0].digest), 10)
    said = problems(store)
    assert any("has 10 bytes rather than" in each for each in said)


def test_a_list_of_names_that_was_damaged(store: Store, image: Image) -> None:
    Path(store.path, "index.json").write_bytes(b"\0\0\0")
    (said,) = problems(store)
    assert "is not JSON" in said
    (said,) = problems(store, repair=True)
    (listed,) = listing.images(store)
    assert listed.name in said
    assert listed.image
    assert listed.image.id == image.id
    assert Path(store.path, "index.json.damaged").read_bytes() == b"\0\0\0"
    assert check(store) == []


def test_a_list_of_names_that_is_gone(store: Store, image: Image) -> None:
    """It is not one without names: then everything would be garbage."""
    Path(store.path, "index.json").unlink()
    blobs = store.blobs.all()
    with pytest.raises(ImageError, match="is gone"):
        garbage.prune(store)
    assert store.blobs.all() == blobs
    (said,) = problems(store)
    assert "is gone" in said
    (said,) = problems(store, repair=True)
    assert "localhost/recovered/" in said
    assert "index.json.damaged" not in said
    assert [each.image and each.image.id for each in listing.images(store)] == [image.id]


def test_a_repair_of_names_that_dies(store: Store, image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a list at every moment."""
    path = Path(store.path, "index.json")
    path.write_bytes(b"\0\0\0")
    Path(store.path, "index.json.damaged").write_bytes(b"of an earlier time")

    def die(refs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(store.refs, "write", die)
        check(store, repair=True)
    assert path.read_bytes() == b"\0\0\0"
    problems(store, repair=True)
    assert check(store) == []


def test_an_unpacked_layer_without_its_record(store: Store, image: Image) -> None:
    with store.stack(image).lease:
        key = store.stack(image).layers[0].key
    record = Path(store.path, "layers", key, "layer.json")
    record.write_bytes(b"{}")
    assert problems(store, repair=True) == [
        f"repaired: the unpacked layer {key} is damaged: it has no record"
    ]
    assert check(store) == []
    store.stack(image).lease.close()
    record.write_bytes(b"{}")
    store.stack(image).lease.close()  # whoever uses it makes it again
    assert check(store) == []


def test_leftovers_are_no_problem_and_repair_takes_them(store: Store, image: Image) -> None:
    os.makedirs(os.path.join(store.path, "work", "unpack-x", "files"))
    assert check(store) == []
    assert check(store, repair=True) == []
    assert os.listdir(os.path.join(store.path, "work")) == []
