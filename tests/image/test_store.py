"""The store: names, images, unpacked layers, what is removed and what is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox import host as hosts
from sandbox.errors import DigestError, ImageError, LayerError
from sandbox.image import garbage, listing, unpacked
from sandbox.image.digest import digest_of
from sandbox.image.durable import try_lock
from sandbox.image.manifest import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, Descriptor
from sandbox.image.refs import to_json
from sandbox.image.store import Store
from tests.image.layer.archives import Item, directory, file, hardlink, whiteout
from tests.image.stored import put_blob, put_image
from tests.support.needs import need

pytestmark = [pytest.mark.integration, pytest.mark.as_root]

BASE = [directory("etc", uid=1, mode=0o700), file("etc/x", b"base"), directory("tmp", 0o1777)]
MORE = [directory("opt"), file("opt/new", b"more", uid=1000)]
ON_TOP = [file("etc/y", b"on top"), whiteout("tmp")]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    need("userns")
    if os.geteuid():
        need("idrange")
    made = Store(str(tmp_path / "store"), host=hosts.probe())
    yield made
    for key in made.unpacked.all():
        made.unpacked.discard(made.unpacked.set_aside(key))
    made.unpacked.recover()


def contents(store: Store, stack: Any) -> dict[str, str]:
    """The files of a stack, by the child's own export."""
    import io
    import tarfile

    from sandbox.image.confined import Bound

    binds = [Bound(path, f"/lower/{n}") for n, path in enumerate(stack.lowers)]
    with store.confined.start("export", {"size": 1 << 30}, binds, stdout=-1) as job:
        assert job.stdout
        data = job.stdout.read()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {
            each.name: tar.extractfile(each).read().decode() if each.isfile() else each.type.decode()  # type: ignore[union-attr]
            for each in tar
        }


def test_names_are_an_oci_layout(store: Store, tmp_path: Path) -> None:
    image = put_image(store, "docker.io/library/a:1", [BASE])
    assert store.get_ref("docker.io/library/a:1") == image.descriptor
    assert store.get_ref("docker.io/library/b:1") is None
    assert json.loads((tmp_path / "store/oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    store.set_ref("again", image.descriptor)
    assert sorted(store.refs.all()) == ["again", "docker.io/library/a:1"]
    assert store.remove_ref("again") == image.descriptor
    assert store.remove_ref("again") is None


def test_skopeo_reads_the_store(store: Store, tmp_path: Path) -> None:
    need("skopeo")
    image = put_image(store, "one", [BASE, MORE])
    done = subprocess.run(
        ["skopeo", "inspect", "--raw", f"oci:{tmp_path}/store:one"], capture_output=True, check=True
    )
    assert digest_of(done.stdout) == image.descriptor.digest


def test_a_name_needs_something_to_name(store: Store) -> None:
    with pytest.raises(ImageError, match="not in the image store"):
        store.set_ref("x", Descriptor(OCI_MANIFEST, digest_of(b"nothing"), 7))


def test_many_names_at_once(store: Store) -> None:
    image = put_image(store, "first", [BASE])

    def name(number: int) -> None:
        for each in range(5):
            store.set_ref(f"n{number}-{each}", image.descriptor)

    threads = [threading.Thread(target=name, args=(n,)) for n in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(store.refs.all()) == 21


def test_a_damaged_list_of_names(store: Store, tmp_path: Path) -> None:
    (tmp_path / "store/index.json").write_bytes(b'{"schemaVersion": 2, "manifests": [')
    with pytest.raises(ImageError, match=r"index\.json.*is not JSON"):
        store.refs.all()


def test_no_more_names_than_can_be_read(store: Store) -> None:
    image = put_image(store, "one", [BASE])
    with pytest.raises(ImageError, match="there is no room for more names"):
        store.set_refs({f"name{n}": image.descriptor for n in range(10_000)})
    assert list(store.refs.all()) == ["one"]
    store.set_refs({f"name{n}": image.descriptor for n in range(9_999)})
    assert len(store.refs.all()) == 10_000
    with pytest.raises(ImageError, match="there is no room for more names"):
        store.set_ref("another", image.descriptor)


FULL = """if True:
    import contextlib, os, sys
    from sandbox.errors import ImageError
    from sandbox.image.manifest import OCI_MANIFEST, Descriptor
    from sandbox.image.store import Store
    store = Store(sys.argv[1])
    large = store.put_blob(bytes(1 << 18))
    for name in ("one", "two"):
        store.set_ref(name, Descriptor(OCI_MANIFEST, large, 1 << 18))
    with contextlib.suppress(OSError), open(sys.argv[1] + "/fill", "wb", 0) as file:
        while file.write(bytes(4096)):
            pass
    try:
        store.set_ref("three", Descriptor(OCI_MANIFEST, large, 1 << 18))
    except ImageError as error:
        print(error.message)
    store.remove_ref("one")
    store.blobs.remove(large)
    store.remove_ref("two")
    print(store.refs.all(), os.path.exists(sys.argv[1] + "/index.json.spare"))
    """


def test_a_name_can_be_forgotten_on_a_full_disk(tmp_path: Path) -> None:
    """That is how room is made."""
    need("userns")
    command = 'mount -t tmpfs -o size=1m none "$0" && exec "$@" "$0"'
    argv = ["unshare", "-Urm", "sh", "-c", command, tmp_path, sys.executable, "-c", FULL]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    said = done.stdout.splitlines()
    assert len(said) == 2 and said[0].startswith("cannot name an image: No space left on device"), done.stderr
    assert said[1] == "{} True"


def test_a_store_that_can_not_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ImageError, match="cannot use the image store"):
        Store(str(tmp_path / "file/store"))


# --- unpacking ------------------------------------------------------------------------------------------


def test_a_stack(store: Store) -> None:
    image = put_image(store, "one", [BASE, MORE, ON_TOP])
    with store.stack(image).lease:
        stack = store.stack(image)
        assert contents(store, stack) == {
            ".": "5",
            "etc": "5",
            "etc/x": "base",
            "etc/y": "on top",
            "opt": "5",
            "opt/new": "more",
        }
        assert [layer.alone for layer in stack.layers] == [True, True, False]
        stack.lease.close()


def test_what_means_the_same_anywhere_is_unpacked_once(store: Store) -> None:
    one = store.stack(put_image(store, "one", [BASE, MORE]))
    two = store.stack(put_image(store, "two", [MORE, BASE]))
    three = store.stack(put_image(store, "three", [BASE, ON_TOP]))
    four = store.stack(put_image(store, "four", [BASE, MORE, ON_TOP]))
    assert {each.key for each in one.layers} == {each.key for each in two.layers}
    assert three.layers[1].key != four.layers[2].key, "it has whiteouts, of what is below it"
    assert len(store.unpacked.all()) == 4
    for stack in (one, two, three, four):
        stack.lease.close()


def test_below_an_unusual_root_a_layer_is_another(store: Store) -> None:
    usual = store.stack(put_image(store, "usual", [BASE, MORE]))
    unusual = store.stack(put_image(store, "unusual", [[directory(".", 0o711), *BASE], MORE]))
    assert usual.layers[1].key != unusual.layers[1].key
    assert os.stat(unusual.lowers[0]).st_mode & 0o777 == 0o711
    usual.lease.close()
    unusual.lease.close()


def test_a_base_that_needs_nothing_is_not_taken_for_one_that_does(store: Store) -> None:
    """The lowest layer's diffID is its chainID; higher up, this layer looks elsewhere for `etc`."""
    odd = [file("etc/y", b"odd")]
    alone = store.stack(put_image(store, "alone", [odd]))
    above = store.stack(put_image(store, "above", [BASE, odd]))
    assert alone.layers[0].key != above.layers[1].key
    assert oct(os.stat(f"{above.lowers[0]}/etc").st_mode)[-3:] == "700"
    alone.lease.close()
    above.lease.close()


def test_a_layer_that_is_not_what_its_image_says(store: Store, tmp_path: Path) -> None:
    image = put_image(store, "one", [BASE])
    sources = [image.sources()[0]._replace(diff_id=digest_of(b"another"))]
    with pytest.raises(DigestError, match="another content"):
        store.unpacked.ensure(sources, store.open_blob)
    assert store.unpacked.all() == []
    assert os.listdir(tmp_path / "store/work") == []


def test_a_layer_that_says_it_is_not_compressed(store: Store) -> None:
    """By a diffID that is its blob's digest, which was verified, and is that of something else."""
    source = put_image(store, "one", [BASE]).sources()[0]
    with pytest.raises(DigestError, match="another content"):
        store.unpacked.ensure([source._replace(diff_id=source.blob)], store.open_blob)
    assert store.unpacked.all() == []


def test_a_layer_that_can_not_be_unpacked_leaves_nothing(store: Store, tmp_path: Path) -> None:
    image = put_image(store, "one", [[*BASE, hardlink("x", "none")]])
    with pytest.raises(LayerError, match="hard link"):
        store.stack(image)
    assert (store.unpacked.all(), os.listdir(tmp_path / "store/work")) == ([], [])


def test_a_blob_that_is_missing(store: Store) -> None:
    image = put_image(store, "one", [BASE])
    store.blobs.remove(image.manifest.layers[0].digest)
    with pytest.raises(ImageError, match="no blob") as error:
        store.stack(image)
    assert error.value.mend


def test_several_at_once_unpack_it_once(store: Store, tmp_path: Path) -> None:
    program = f"""if True:
        from sandbox.image.store import Store
        from sandbox.image import listing
        store = Store({str(tmp_path / "store")!r})
        stack = store.stack(listing.lookup(store, "one").image)
        print(stack.layers[0].files)
        """
    put_image(store, "one", [[file(f"f{n}", b"x" * 100) for n in range(2000)], MORE])
    processes = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    said = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0] * 4
    assert len(said) == 1
    assert len(store.unpacked.all()) == 2
    assert os.listdir(tmp_path / "store/work") == []


def test_a_place_that_another_has_by_now_is_left_alone(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was made in one has its name, and the next who unpacks the same has begun there."""
    with store.unpacked.workplace("unpack-x") as work:
        os.rename(work, tmp_path / "done")
        os.mkdir(work)
    assert os.listdir(tmp_path / "store/work") == ["unpack-x"]

    def late(fd: int) -> bool:
        os.rename(work, tmp_path / "done too")
        os.mkdir(work)
        return True

    monkeypatch.setattr(unpacked, "try_lock", late)
    store.unpacked.recover()
    monkeypatch.undo()
    assert os.listdir(tmp_path / "store/work") == ["unpack-x"]


def test_without_a_range_all_files_are_the_users_and_that_is_told(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "single"), squash=True)
    stack = store.stack(put_image(store, "one", [BASE, MORE]))
    assert {path.stat().st_uid for path in Path(stack.lowers[0]).rglob("*")} == {
        store.unpacked.ids.plan.host_uid
    }
    assert any("belong to other users" in note for note in stack.notes)
    stack.lease.close()
    assert garbage.prune(store, unpacked=True).layers == 2


def test_squashed_and_not_are_different_layers(store: Store, tmp_path: Path) -> None:
    image = put_image(store, "one", [BASE])
    other = Store(str(tmp_path / "store"), squash=True)
    one, two = store.stack(image), other.stack(image)
    assert one.layers[0].key != two.layers[0].key
    one.lease.close()
    two.lease.close()


def test_devices_that_are_left_out_are_told(store: Store) -> None:
    stack = store.stack(put_image(store, "one", [[directory("dev"), Item("char", "dev/null")]]))
    assert any("1 devices" in note for note in stack.notes)
    stack.lease.close()


# --- removing ---------------------------------------------------------------------------------------------


def test_remove_takes_what_only_it_had(store: Store) -> None:
    one = put_image(store, "one", [BASE, MORE])
    two = put_image(store, "two", [BASE, ON_TOP])
    for image in (one, two):
        store.stack(image).lease.close()
    with pytest.raises(ImageError, match="no image three"):
        garbage.remove(store, "three")
    freed = garbage.remove(store, "one")
    assert (freed.layers, freed.blobs, freed.kept) == (1, 3, 0)
    assert freed.bytes > 0
    assert store.image(two.descriptor).sources() == two.sources()
    assert all(store.has_blob(layer.digest) for layer in two.manifest.layers)
    assert garbage.remove(store, "two").layers == 2
    assert (store.blobs.all(), store.unpacked.all()) == ([], [])


def test_a_second_name_keeps_everything(store: Store) -> None:
    put_image(store, "one", [BASE])
    store.set_ref("two", listing.resolve(store, "one")[1])
    assert garbage.remove(store, "one") == garbage.Freed()
    assert garbage.remove(store, "two").blobs == 3


def test_what_a_sandbox_uses_stays(store: Store) -> None:
    image = put_image(store, "one", [BASE])
    stack = store.stack(image)
    copy = os.dup(stack.lease.fd)
    stack.lease.close()
    freed = garbage.remove(store, "one")
    assert (freed.layers, freed.kept) == (0, 1)
    assert os.path.exists(stack.layers[0].files), "somebody has a copy of the descriptor"
    os.close(copy)
    assert garbage.prune(store).layers == 1
    assert not os.path.exists(stack.layers[0].files)


@pytest.mark.parametrize("way", ["a layer", "another type"])
def test_what_one_image_says_of_anothers_manifest_takes_nothing_from_it(store: Store, way: str) -> None:
    image = put_image(store, "good", [BASE, MORE])
    said = to_json(image.descriptor)
    hostile: dict[str, Any]
    if way == "a layer":
        said["mediaType"] = "application/vnd.oci.image.layer.v1.tar"
        kind, hostile = OCI_MANIFEST, {**json.loads(image.manifest.raw), "layers": [said]}
    else:
        said["mediaType"] = OCI_CONFIG
        kind, hostile = OCI_INDEX, {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [said]}
    raw = json.dumps(hostile).encode()
    for name in ("evil", "last"):  # whichever is looked at first
        store.set_ref(name, Descriptor(kind, put_blob(store, raw), len(raw)))
    assert garbage.prune(store).blobs == 0
    garbage.remove(store, "last")
    assert all(store.has_blob(source.blob) for source in image.sources())
    assert store.has_blob(image.id)


def test_nothing_goes_while_something_comes(store: Store) -> None:
    with store.hold():
        digest = put_blob(store, b"no name yet")
        assert garbage.prune(store).busy
    assert store.has_blob(digest)
    assert garbage.prune(store).blobs == 1


def test_prune_removes_leftovers(store: Store, tmp_path: Path) -> None:
    image = put_image(store, "one", [BASE])
    store.stack(image).lease.close()
    put_blob(store, b"no name")
    with store.ingest(digest_of(b"12345"), 5) as ingest:
        ingest.write(b"123")
    work = tmp_path / "store/work/unpack-x"
    work.mkdir(parents=True)
    freed = garbage.prune(store)
    assert (freed.blobs, freed.bytes) == (1, len(b"no name") + 3)
    assert not work.exists()
    assert len(store.unpacked.all()) == 1
    assert garbage.prune(store, unpacked=True).layers == 1
    stack = store.stack(image)
    assert contents(store, stack)["etc/x"] == "base", "made again"
    stack.lease.close()


def test_what_was_unpacked_for_other_ids_can_be_removed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a change of /etc/subuid: half of the range is not there any more."""
    from dataclasses import replace

    store.stack(put_image(store, "one", [BASE])).lease.close()
    assert store._host
    half = (
        [replace(r, count=100) for r in store._host.subuid],
        [replace(r, count=100) for r in store._host.subgid],
    )
    other = Store(store.path, host=replace(store._host, subuid=tuple(half[0]), subgid=tuple(half[1])))
    if other.unpacked.ids == store.unpacked.ids:
        pytest.skip("root's ids come from elsewhere")
    other.stack(listing.images(other)[0].image).lease.close()  # type: ignore[arg-type]
    assert len(store.unpacked.all()) == 2
    assert garbage.prune(other, unpacked=True).layers == 2


# --- looking --------------------------------------------------------------------------------------------


def test_listing_and_lookup(store: Store) -> None:
    one = put_image(store, "docker.io/library/one:latest", [BASE, MORE], {"Cmd": ["sh"]})
    two = put_image(store, "two", [BASE])
    store.set_ref("@box/x", two.descriptor)
    found = listing.images(store)
    assert [each.name for each in found] == ["docker.io/library/one:latest", "two"]
    assert found[0].image and found[0].image.id == one.id
    assert found[0].size > found[1].size > 0
    assert listing.lookup(store, one.id.hex[:12]).name == "docker.io/library/one:latest"
    assert listing.lookup(store, str(two.descriptor.digest)).name == "two"
    with pytest.raises(ImageError, match="no image"):
        listing.lookup(store, "three")
    shown = listing.inspect(found[0])
    assert shown["config"]["config"] == {"Cmd": ["sh"]}
    assert [step.history.created_by for step in listing.history(one)] == ["layer 1", "layer 0"]
    assert listing.history(one)[0].layer == one.manifest.layers[1].digest


def test_an_image_with_something_missing_is_listed_as_such(store: Store) -> None:
    image = put_image(store, "one", [BASE])
    store.blobs.remove(image.manifest.config.digest)
    (listed,) = listing.images(store)
    assert listed.image is None
    assert "no blob" in listed.problem
    garbage.remove(store, "one")
    assert store.blobs.all() == []


def test_disk_use_is_true_about_sharing(store: Store) -> None:
    big = [file("big", os.urandom(200_000))]
    for name, layers in {"one": [big, MORE], "two": [big, ON_TOP]}.items():
        store.stack(put_image(store, name, layers)).lease.close()
    store.set_ref("also", listing.resolve(store, "one")[1])
    used = listing.usage(store)
    one, two = used.images["one"], used.images["two"]
    assert used.images["also"] == one
    assert one.blobs > 200_000 > one.own_blobs > 0
    assert one.unpacked > 200_000 > one.own_unpacked > 0
    assert used.blobs == one.own_blobs + two.blobs
    assert used.unpacked == one.own_unpacked + two.unpacked
    assert used.unreached == 0
    put_blob(store, bytes(1000))
    assert listing.usage(store).unreached == 1000


def test_nothing_goes_while_it_is_measured(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.stack(put_image(store, "one", [BASE])).lease.close()
    measure = store.unpacked.measure

    def measured(layer: Any) -> int:
        with Store(store.path).alone() as alone:
            assert not alone
        return measure(layer)

    monkeypatch.setattr(store.unpacked, "measure", measured)
    assert listing.usage(store).unpacked > 0


def test_a_place_that_can_not_be_cleaned_is_given_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    left = os.path.join(store.path, "work", "x")
    os.makedirs(os.path.join(left, "files"))

    def can_not(path: str) -> None:
        raise ImageError(f"cannot remove {path}")

    with monkeypatch.context() as patched:
        patched.setattr(store.unpacked, "_remove", can_not)
        with pytest.raises(ImageError, match="cannot remove"), store.unpacked.workplace("x"):
            pass
    fd = os.open(left, os.O_RDONLY)
    try:
        assert try_lock(fd), "who comes next waits for nobody"
    finally:
        os.close(fd)


def test_an_image_with_more_layers_than_it_says(store: Store) -> None:
    image = put_image(store, "one", [BASE, MORE])
    config = json.loads(image.config.raw)
    config["rootfs"]["diff_ids"].pop()
    raw = json.dumps(config).encode()
    manifest = json.loads(image.manifest.raw)
    manifest["config"] |= {"digest": put_blob(store, raw), "size": len(raw)}
    data = json.dumps(manifest).encode()
    with pytest.raises(ImageError, match="2 layers, and its configuration 1"):
        store.image(Descriptor(OCI_MANIFEST, put_blob(store, data), len(data)))


@pytest.mark.parametrize("processors", [1, 4])
def test_layers_unpacked_ahead_are_those_unpacked_in_turn(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, processors: int
) -> None:
    """Those that need what is below them wait for their turn, and come out right."""
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(processors)))
    unusual = [directory("", mode=0o700), directory("a"), file("a/1", b"1")]
    layers = [BASE, MORE, ON_TOP, unusual, MORE, [directory("b"), file("b/2", b"2"), hardlink("b/x", "a/1")]]
    image = put_image(store, "many", layers)
    stack = store.stack(image)
    with stack.lease:
        assert contents(store, stack) == {
            ".": "5",
            "a": "5",
            "a/1": "1",
            "b": "5",
            "b/2": "2",
            "b/x": "1",
            "etc": "5",
            "etc/x": "base",
            "etc/y": "on top",
            "opt": "5",
            "opt/new": "more",
        }
        assert [layer.alone for layer in stack.layers] == [True, True, False, True, False, False]
        assert len({layer.key for layer in stack.layers}) == 6
    assert os.listdir(tmp_path / "store/work") == []


def test_an_error_ahead_is_told_in_its_turn(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(4)))
    image = put_image(store, "many", [BASE, MORE, [file("../out")], MORE, [directory("c")]])
    with pytest.raises(LayerError, match="leads out"):
        store.stack(image)
    assert os.listdir(tmp_path / "store/work") == []
