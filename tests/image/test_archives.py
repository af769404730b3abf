"""Images to files and back, and between us and other tools: skopeo, umoci, oci-image-tool."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox import host as hosts
from sandbox.errors import ImageError
from sandbox.image import garbage, listing
from sandbox.image.compose import import_rootfs
from sandbox.image.digest import digest_of
from sandbox.image.load import load
from sandbox.image.save import save, save_directory
from sandbox.image.store import Store
from tests.image.layer.archives import archive, directory, file, symlink, whiteout
from tests.image.stored import put_image
from tests.support.needs import need

pytestmark = [pytest.mark.integration, pytest.mark.as_root]

NAME = "docker.io/library/one:1"
BASE = [directory("etc", mode=0o700), file("etc/x", b"base" * 5000), symlink("l", "etc")]
MORE = [file("etc/y", b"more"), whiteout("l")]


def new_store(path: Path) -> Store:
    need("userns")
    if os.geteuid():
        need("idrange")
    return Store(str(path), host=hosts.probe())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = new_store(tmp_path / "store")
    put_image(made, NAME, [BASE, MORE], {"Cmd": ["sh"], "Env": ["A=b"]})
    yield made
    garbage.prune(made, unpacked=True)


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Store]:
    made = new_store(tmp_path / "other")
    yield made
    garbage.prune(made, unpacked=True)


def saved(store: Store, form: str, path: Path, *names: str) -> Path:
    with open(path, "wb") as out:
        save(store, [listing.lookup(store, name) for name in names or (NAME,)], out, form)
    return path


def run(*command: str | Path) -> str:
    """Run a judge; what it says is part of a failure."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


# --- ourselves ------------------------------------------------------------------------------------------


def test_an_oci_archive_comes_back_byte_for_byte(store: Store, other: Store, tmp_path: Path) -> None:
    path = saved(store, "oci", tmp_path / "one.tar")
    assert load(other, str(path)) == [NAME]
    assert other.refs.all() == store.refs.all()
    assert other.blobs.all() == store.blobs.all()
    assert saved(other, "oci", tmp_path / "again.tar").read_bytes() == path.read_bytes()


def test_a_layout_in_a_directory(store: Store, other: Store, tmp_path: Path) -> None:
    save_directory(store, [listing.lookup(store, NAME)], str(tmp_path / "layout"))
    assert load(other, str(tmp_path / "layout")) == [NAME]
    assert other.refs.all() == store.refs.all()
    with pytest.raises(ImageError, match="not empty"):
        save_directory(store, [], str(tmp_path / "layout"))


@pytest.mark.parametrize("damage", ["missing", "wrong"])
@pytest.mark.parametrize("there", [True, False])
def test_a_layout_that_can_not_be_finished_leaves_nothing(
    store: Store, tmp_path: Path, damage: str, there: bool
) -> None:
    one, out = listing.lookup(store, NAME), tmp_path / "layout"
    assert one.image
    path = Path(store.blobs.path(one.image.manifest.layers[0].digest))
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(bytes(path.stat().st_size))
    if there:
        out.mkdir()
    with pytest.raises(ImageError):
        save_directory(store, [one], str(out))
    assert out.exists() == there
    assert list(tmp_path.rglob("layout/*")) == []


def test_a_name_by_digest_is_by_its_own(store: Store, other: Store, tmp_path: Path) -> None:
    lied = f"docker.io/library/debian@sha256:{'a' * 64}"
    image = listing.lookup(store, NAME).image
    assert image
    save_directory(store, [listing.lookup(store, NAME)], str(tmp_path / "layout"))
    index = json.loads((tmp_path / "layout/index.json").read_text())
    index["manifests"][0]["annotations"] = {"org.opencontainers.image.ref.name": lied}
    (tmp_path / "layout/index.json").write_text(json.dumps(index))
    assert load(other, str(tmp_path / "layout")) == [f"docker.io/library/debian@{image.descriptor.digest}"]
    # the same files, listed as docker does it
    blobs = [image.manifest.config, *image.manifest.layers]
    config, *layers = (f"blobs/sha256/{each.digest.hex}" for each in blobs)
    (tmp_path / "layout/index.json").unlink()
    saved = [{"Config": config, "RepoTags": [lied], "Layers": layers}]
    (tmp_path / "layout/manifest.json").write_text(json.dumps(saved))
    (name,) = load(other, str(tmp_path / "layout"))
    assert name == f"docker.io/library/debian@{other.refs.all()[name].digest}"
    with pytest.raises(ImageError, match="no image debian@"):
        listing.resolve(other, lied.removeprefix("docker.io/library/"))


def test_dockers_archive_keeps_the_images_id(store: Store, other: Store, tmp_path: Path) -> None:
    store.set_ref("docker.io/library/two:latest", store.refs.all()[NAME])
    path = saved(store, "docker", tmp_path / "d.tar", NAME, "docker.io/library/two:latest")
    with tarfile.open(path) as tar:
        manifest = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
        assert [entry["RepoTags"] for entry in manifest] == [["one:1"], ["two:latest"]]
        assert len(tar.getnames()) == 4, "config, two layers, manifest"
    assert load(other, str(path)) == [NAME, "docker.io/library/two:latest"]
    mine, theirs = (listing.lookup(each, NAME).image for each in (store, other))
    assert mine and theirs
    assert mine.id == theirs.id
    with other.stack(theirs).lease:
        assert (Path(other.stack(theirs).lowers[1]) / "l").is_symlink()


@pytest.mark.parametrize("compress", [gzip.compress, bytes])
@pytest.mark.parametrize("form", ["oci", "docker"])
def test_from_a_pipe_compressed_or_not(
    store: Store, other: Store, tmp_path: Path, compress: Any, form: str
) -> None:
    data = compress(saved(store, form, tmp_path / "one.tar").read_bytes())
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as cat:
        assert cat.stdin and cat.stdout
        # A pipe's capacity is less than the archive.
        import threading

        writer = threading.Thread(target=lambda: (cat.stdin.write(data), cat.stdin.close()))  # type: ignore[union-attr]
        writer.start()
        assert load(other, cat.stdout) == [NAME]
        writer.join()


def test_another_name_and_no_name(store: Store, other: Store, tmp_path: Path) -> None:
    path = saved(store, "docker", tmp_path / "My-Image.tar")
    assert load(other, str(path), "localhost/mine") == ["localhost/mine:latest"]
    data = path.read_bytes().replace(b'["one:1"]', b"null     ")
    path.write_bytes(data)
    assert load(other, str(path)) == ["docker.io/library/my-image:latest"]
    with open(path, "rb") as stream, pytest.raises(ImageError, match="does not say") as error:
        load(other, stream)
    assert error.value.mend


def test_one_name_for_several_images(store: Store, other: Store, tmp_path: Path) -> None:
    store.set_ref("docker.io/library/two:2", store.refs.all()[NAME])
    path = saved(store, "oci", tmp_path / "two.tar", NAME, "docker.io/library/two:2")
    with pytest.raises(ImageError, match="it has 2 images"):
        load(other, str(path), "one-name")


def test_old_archives_of_docker_with_links(store: Store, other: Store, tmp_path: Path) -> None:
    """Before 25, docker wrote ID/layer.tar, and links where a layer came twice."""
    plain = archive(*BASE)
    config = json.loads(listing.lookup(store, NAME).image.config.raw)  # type: ignore[union-attr]
    config["rootfs"]["diff_ids"] = [digest_of(plain)] * 2
    manifest = [{"Config": "c.json", "RepoTags": ["old:1"], "Layers": ["a/layer.tar", "b/layer.tar"]}]
    items = [
        directory("a"),
        file("a/VERSION", b"1.0"),
        file("a/layer.tar", plain),
        directory("b"),
        symlink("b/layer.tar", "../a/layer.tar"),
        file("c.json", json.dumps(config).encode()),
        file("manifest.json", json.dumps(manifest).encode()),
    ]
    (tmp_path / "old.tar").write_bytes(archive(*items))
    assert load(other, str(tmp_path / "old.tar")) == ["docker.io/library/old:1"]
    assert len(other.blobs.all()) == 3, "what no image needs is gone again"


def test_an_archive_with_very_many_names(store: Store, other: Store, tmp_path: Path) -> None:
    """The list of names of the store has room for ten thousand."""
    config = listing.lookup(store, NAME).image.config.raw  # type: ignore[union-attr]
    empty = {**json.loads(config), "rootfs": {"type": "layers", "diff_ids": []}, "history": []}
    manifest = [{"Config": "c.json", "RepoTags": [f"a:{n}" for n in range(1001)], "Layers": []}]
    files = {"c.json": json.dumps(empty).encode(), "manifest.json": json.dumps(manifest).encode()}
    path = tmp_path / "many.tar"
    path.write_bytes(archive(*(file(name, data) for name, data in files.items())))
    with pytest.raises(ImageError, match="more than 1000 names"):
        load(other, str(path))
    assert (other.refs.all(), other.blobs.all()) == ({}, [])


def hostile(store: Store, **changes: Any) -> dict[str, bytes]:
    """The files of a layout, with some replaced."""
    data = io.BytesIO()
    save(store, [listing.lookup(store, NAME)], data)
    data.seek(0)
    with tarfile.open(fileobj=data) as tar:
        return {each.name: tar.extractfile(each).read() for each in tar if each.isfile()}  # type: ignore[union-attr]


def test_archives_that_are_not_what_they_say(store: Store, other: Store, tmp_path: Path) -> None:
    files = hostile(store)
    manifest = store.refs.all()[NAME].digest
    config = listing.lookup(store, NAME).image.manifest.config.digest  # type: ignore[union-attr]
    index = json.loads(files["index.json"])
    index["manifests"][0]["size"] += 1
    bad: dict[str, dict[str, bytes]] = {
        "has no blobs/": {k: v for k, v in files.items() if config.hex not in k},
        "is another": {**files, f"blobs/sha256/{config.hex}": b"{}"},
        "is not the": {**files, "index.json": json.dumps(index).encode()},
        "is not JSON": {**files, "index.json": b"{"},
        "no index.json": {k: v for k, v in files.items() if k != "oci-layout"},
        "is no digest|is not a digest": {
            **files,
            "index.json": files["index.json"].replace(manifest.encode(), b"sha256:../../x"),
        },
    }
    for number, (message, content) in enumerate(bad.items()):
        path = tmp_path / f"bad{number}.tar"
        path.write_bytes(archive(*(file(name, data) for name, data in content.items())))
        with pytest.raises(ImageError, match=message):
            load(other, str(path))
        assert (other.blobs.all(), other.refs.all()) == ([], {}), message


@pytest.mark.parametrize("way", ["link", "dots", "absolute"])
def test_nothing_outside_of_a_directory_becomes_an_image(
    store: Store, other: Store, tmp_path: Path, way: str
) -> None:
    top = tmp_path / "docker"
    top.mkdir()
    with tarfile.open(saved(store, "docker", tmp_path / "a.tar", NAME)) as tar:
        tar.extractall(top)  # our own
    manifest = json.loads((top / "manifest.json").read_text())
    config = manifest[0]["Config"]
    outside = (top / config).rename(tmp_path / "secret.json")
    manifest[0]["Config"] = {"link": config, "dots": "../secret.json", "absolute": str(outside)}[way]
    if way == "link":
        (top / config).symlink_to(outside)
    (top / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ImageError, match="leads out of"):
        load(other, str(top))
    assert list(other.blobs.all()) == [] and other.refs.all() == {}
    (top / "inside.json").write_bytes(outside.read_bytes())  # a link that stays inside is followed
    (top / "link.json").symlink_to("inside.json")
    manifest[0]["Config"] = "link.json"
    (top / "manifest.json").write_text(json.dumps(manifest))
    assert load(other, str(top)) == [NAME]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"no archive at all" * 100, "no tar archive"),
        (gzip.compress(archive(*BASE))[:-30], "cut off in the middle of its gzip"),
        (archive(*BASE)[:2000], "ends in the middle"),
        (archive(file("../index.json", b"{}")), "leads out"),
        (archive(symlink("manifest.json", "manifest.json")), "no index.json"),
        (archive(*BASE), "sandbox image import"),
        (b"", "no index.json"),
        (archive(file("manifest.json", b'[{"Config": "../c", "Layers": []}]')), "archive has no"),
        (archive(file("manifest.json", b'[{"Config": 5}]')), "not a string"),
        (archive(file("manifest.json", b'[], "images": [1')), "is not JSON|twice"),
    ],
)
def test_what_is_no_archive_of_images(other: Store, tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(data)
    with pytest.raises(ImageError) as error:
        load(other, str(path))
    assert any(part in str(error.value) for part in message.split("|")), str(error.value)
    assert other.blobs.all() == []


def test_zeros_without_end(other: Store) -> None:
    with pytest.raises(ImageError, match="the archive has more than 64 MiB behind its end"):
        load(other, "/dev/zero")
    with open("/dev/zero", "rb", 0) as file, pytest.raises(ImageError, match="behind its end"):
        import_rootfs(other, file, "x:1")


def test_a_damaged_blob_is_not_saved(store: Store, tmp_path: Path) -> None:
    layer = listing.lookup(store, NAME).image.manifest.layers[0].digest  # type: ignore[union-attr]
    with open(store.blobs.path(layer), "r+b") as blob:
        blob.write(b"damage")
    for form in ("oci", "docker"):
        with pytest.raises(ImageError):
            saved(store, form, tmp_path / "x.tar")


# --- judges ---------------------------------------------------------------------------------------------


def test_oci_image_tool_validates_what_we_write(store: Store, tmp_path: Path) -> None:
    need("oci-image-tool")
    save_directory(store, [listing.lookup(store, NAME)], str(tmp_path / "layout"))
    run("oci-image-tool", "validate", "--type", "image", "--ref", f"name={NAME}", tmp_path / "layout")


@pytest.mark.parametrize("form", ["oci", "docker"])
def test_skopeo_takes_our_archives_and_gives_them_back(
    store: Store, other: Store, tmp_path: Path, form: str
) -> None:
    need("skopeo")
    path = saved(store, form, tmp_path / "ours.tar")
    back = tmp_path / "back.tar"
    name = "one:1" if form == "docker" else NAME
    run(
        "skopeo",
        "--insecure-policy",
        "copy",
        f"{form}-archive:{path}:{name}",
        f"{form}-archive:{back}:{name}",
    )
    assert load(other, str(back)) == [NAME]
    mine, theirs = (listing.lookup(each, NAME).image for each in (store, other))
    assert mine and theirs
    assert mine.config.diff_ids == theirs.config.diff_ids
    if form == "oci":
        assert mine.descriptor.digest == theirs.descriptor.digest


def test_what_skopeo_and_umoci_make(other: Store, tmp_path: Path) -> None:
    need("umoci", "skopeo")
    layout = tmp_path / "made"
    run("umoci", "init", "--layout", layout)
    run("umoci", "new", "--image", f"{layout}:tag")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_text("theirs")
    run("umoci", "insert", "--rootless", "--image", f"{layout}:tag", tmp_path / "tree", "/dir")
    assert load(other, str(layout)) == ["docker.io/library/made:tag"]
    image = listing.lookup(other, "docker.io/library/made:tag").image
    assert image
    with other.stack(image).lease:
        assert (Path(other.stack(image).lowers[0]) / "dir/file").read_text() == "theirs"
    run(
        "skopeo",
        "--insecure-policy",
        "copy",
        f"oci:{layout}:tag",
        f"docker-archive:{tmp_path}/d.tar:theirs:2",
    )
    assert load(other, f"{tmp_path}/d.tar") == ["docker.io/library/theirs:2"]


def test_umoci_unpacks_what_we_write(store: Store, tmp_path: Path) -> None:
    need("umoci")
    save_directory(store, [listing.lookup(store, NAME)._replace(name="one")], str(tmp_path / "layout"))
    run("umoci", "unpack", "--rootless", "--image", f"{tmp_path}/layout:one", tmp_path / "bundle")
    assert (tmp_path / "bundle/rootfs/etc/y").read_text() == "more"
    assert not (tmp_path / "bundle/rootfs/l").exists()
    (tmp_path / "bundle/rootfs/etc").chmod(0o755)
