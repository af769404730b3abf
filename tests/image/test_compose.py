"""New images: from root file systems, and from what was changed in an overlay."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox import host as hosts
from sandbox.errors import ImageError, LayerError
from sandbox.image import garbage, listing
from sandbox.image.build.state import State
from sandbox.image.compose import (
    add_layer,
    commit,
    diff,
    document_of,
    export,
    import_rootfs,
    pack,
    source_date,
    store_image,
)
from sandbox.image.layer.removal import empty
from sandbox.image.save import save_directory
from sandbox.image.store import Store
from tests.image.layer.archives import archive, directory, file, hardlink, symlink
from tests.image.stored import put_image
from tests.support.needs import need

pytestmark = pytest.mark.integration

BASE = [
    directory("etc", uid=1, mode=0o750),
    file("etc/conf", b"old", uid=1),
    file("bin", b"x" * 3000, mode=0o755),
    directory("tmp", 0o1777),
    file("tmp/gone"),
]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    need("userns", "plain user", "idrange")
    made = Store(str(tmp_path / "store"), host=hosts.probe())
    yield made
    garbage.prune(made, unpacked=True)
    subprocess.run([*UNSHARE, "rm", "-rf", str(tmp_path / "overlay")], check=True)


UNSHARE = ["unshare", "--user", "--map-root-user", "--map-auto", "--mount"]
Change = Callable[..., str]


@pytest.fixture
def change(store: Store, tmp_path: Path) -> Change:
    """`change(image, script)` runs a shell script in an overlay of the image; where its changes are."""

    def run(
        image: Any, script: str, name: str = "1", mount: str = "mount -t overlay none -o userxattr,"
    ) -> str:
        top = tmp_path / "overlay" / name
        for part in ("upper", "work", "mount"):
            (top / part).mkdir(parents=True)
        with store.stack(image).lease:
            lower = ":".join(store.stack(image).lowers)
            options = f"lowerdir={lower},upperdir={top}/upper,workdir={top}/work"
            line = f"{mount}{options} {top}/mount && cd {top}/mount && {script}"
            subprocess.run([*UNSHARE, "sh", "-ec", line], check=True)
        return str(top / "upper")

    return run


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {each.name: each for each in tar}


def exported(store: Store, image: Any, tmp_path: Path) -> bytes:
    with open(tmp_path / "export.tar", "wb") as out:
        export(store, image, out)
    return (tmp_path / "export.tar").read_bytes()


# --- root file systems ------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_imported_and_exported(store: Store, tmp_path: Path, compress: Any) -> None:
    (tmp_path / "root.tar").write_bytes(compress(archive(directory("."), *BASE, hardlink("same", "bin"))))
    with open(tmp_path / "root.tar", "rb") as source:
        image = import_rootfs(store, source, "root:1", config={"Cmd": ["/bin"]}, message="hello", created=0)
    assert listing.lookup(store, "root:1").image
    assert image.config.config.cmd == ("/bin",)
    assert image.config.created == "1970-01-01T00:00:00Z"
    assert listing.history(image)[0].history.comment == "hello"
    found = members(exported(store, image, tmp_path))
    assert sorted(found) == [".", "bin", "etc", "etc/conf", "same", "tmp", "tmp/gone"]
    assert (found["etc"].uid, found["etc"].mode, found["tmp"].mode) == (1, 0o750, 0o1777)
    assert found["same"].linkname == "bin"


def test_twice_the_same_import_is_the_same_image(store: Store, tmp_path: Path) -> None:
    (tmp_path / "root.tar").write_bytes(archive(*BASE))
    images = []
    for name in ("a", "b"):
        with open(tmp_path / "root.tar", "rb") as source:
            images.append(import_rootfs(store, source, name, created=5))
    assert images[0].descriptor == images[1].descriptor


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (archive(*BASE)[:3000], "ends in the middle"),
        (gzip.compress(archive(*BASE))[:-9], "cut off"),
        (b"rubbish" * 1000, "no tar archive"),
        (b"", "the archive is empty"),
        (gzip.compress(bytes(80 << 20)), "more than 64 MiB behind its end"),
        (archive(hardlink("x", "y")), "hard link"),
        (archive(file("x", uid=70000)), "user 70000"),
    ],
)
def test_what_can_not_be_unpacked_is_no_image(
    store: Store, tmp_path: Path, data: bytes, message: str
) -> None:
    (tmp_path / "root.tar").write_bytes(data)
    with open(tmp_path / "root.tar", "rb") as source, pytest.raises(LayerError, match=message):
        import_rootfs(store, source, "root:1")
    assert store.refs.all() == {}
    garbage.prune(store)
    assert store.blobs.all() == []


# --- commit -----------------------------------------------------------------------------------------------


SCRIPT = """
echo new > new; chown 7:8 new; echo changed > etc/conf; rm tmp/gone; ln new etc/link
mkdir dir; chmod 2770 dir; ln -s ../new dir/sym; rm bin; mkdir bin; echo in > bin/file
"""


def test_what_was_changed_becomes_a_layer(store: Store, change: Change, tmp_path: Path) -> None:
    base = put_image(store, "base:1", [BASE], {"Env": ["A=1"], "Cmd": ["old"]})
    upper = change(base, SCRIPT)
    assert [f"{each.kind} {each.path}" for each in diff(store, base, upper)] == [
        "C /bin",
        "A /dir",
        "C /etc",
        "A /new",
        "C /tmp",
        "A /bin/file",
        "A /dir/sym",
        "C /etc/conf",
        "A /etc/link",
        "D /tmp/gone",
    ]
    image = commit(store, base, upper, "next:1", config={"Cmd": ["new"]}, step={"comment": "why"})
    assert image.manifest.layers[:-1] == base.manifest.layers
    assert image.config.config.env == ("A=1",)
    assert image.config.config.cmd == ("new",)
    assert listing.history(image)[0].history.comment == "why"
    found = members(exported(store, image, tmp_path))
    assert "tmp/gone" not in found
    assert (found["new"].uid, found["new"].gid) == (7, 8)
    assert found["dir"].mode == 0o2770
    assert found["etc/link"].size or found["new"].size
    with store.stack(image).lease:
        assert (Path(store.stack(image).lowers[0]) / "bin/file").read_text() == "in\n"


def test_the_same_changes_and_date_give_the_same_image(store: Store, change: Change) -> None:
    base = put_image(store, "base:1", [BASE])
    one = commit(store, base, change(base, SCRIPT, "1"), "one", created=1_000_000_000)
    two = commit(store, base, change(base, SCRIPT, "2"), "two", created=1_000_000_000)
    assert one.descriptor == two.descriptor
    assert one.config.created == "2001-09-09T01:46:40Z"


def test_no_changes_make_no_layer(store: Store, change: Change) -> None:
    base = put_image(store, "base:1", [BASE])
    image = commit(store, base, change(base, "true"), "same:1")
    assert image.manifest.layers == base.manifest.layers
    assert listing.history(image)[0].history.empty_layer


def test_capabilities_of_files_are_committed(store: Store, change: Change, tmp_path: Path) -> None:
    """setcap(8) of Debian is in libcap2-bin; Python sets the same bytes."""
    value = "0100000200200000000000000000000000000000"
    line = f"""python3 -c 'import os; os.setxattr("ping", "security.capability", bytes.fromhex("{value}"))'"""
    base = put_image(store, "base:1", [BASE])
    image = commit(store, base, change(base, f"cp bin ping; {line}"), "cap:1", compression="plain")
    with store.open_blob(image.manifest.layers[-1].digest) as layer, tarfile.open(fileobj=layer) as tar:
        said = tar.getmember("ping").pax_headers["SCHILY.xattr.security.capability"]
    assert said.encode("utf-8", "surrogateescape").hex() == value, "version 2, as in other images"


def test_a_name_that_no_layer_can_have(store: Store, change: Change) -> None:
    base = put_image(store, "base:1", [BASE])
    with pytest.raises(LayerError, match=r"named etc/\.wh\.x"):
        commit(store, base, change(base, "touch etc/.wh.x"), "bad:1")
    assert store.get_ref("bad:1") is None


def test_changes_made_through_fuse_overlayfs(store: Store, change: Change, tmp_path: Path) -> None:
    need("fuse", "fuse-overlayfs")
    base = put_image(store, "base:1", [BASE])
    script = SCRIPT + "rm -r etc; mkdir etc; echo mine > etc/mine; cd /; umount $OLDPWD"
    upper = change(base, script, mount="fuse-overlayfs -o ")
    image = commit(store, base, upper, "next:1", driver="fuse-overlayfs")
    found = members(exported(store, image, tmp_path))
    assert sorted(found) == [".", "bin", "bin/file", "dir", "dir/sym", "etc", "etc/mine", "new", "tmp"]
    assert not any("fuseoverlayfs" in key for info in found.values() for key in info.pax_headers)


@pytest.mark.parametrize("compression", ["gzip", "zstd", "plain"])
def test_judges_accept_what_was_committed(
    store: Store, change: Change, tmp_path: Path, compression: str
) -> None:
    need("oci-image-tool", "umoci", "skopeo")
    base = put_image(store, "base:1", [BASE])
    commit(store, base, change(base, SCRIPT), "next", compression=compression)
    layout = tmp_path / "layout"
    save_directory(store, [listing.lookup(store, "next")], str(layout))
    if compression == "zstd":  # which of these only skopeo knows
        to = [
            "skopeo",
            "--insecure-policy",
            "copy",
            "--dest-decompress",
            f"oci:{layout}:next",
            f"dir:{tmp_path}/d",
        ]
        subprocess.run(to, capture_output=True, check=True)
        return
    validate = ["oci-image-tool", "validate", "--type", "image", "--ref", "name=next", str(layout)]
    done = subprocess.run(validate, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    unpack = ["umoci", "unpack", "--rootless", "--image", f"{layout}:next", str(tmp_path / "bundle")]
    subprocess.run(unpack, capture_output=True, check=True)
    root = tmp_path / "bundle/rootfs"
    assert (root / "bin/file").read_text() == "in\n"
    assert not (root / "tmp/gone").exists()
    assert (root / "etc/link").stat().st_ino == (root / "new").stat().st_ino


def test_layers_one_by_one(store: Store) -> None:
    """As a build makes them."""
    first = add_layer(store, None, pack(store, io.BytesIO(archive(*BASE))), created=0)
    second = add_layer(store, first, None, config={"Env": ["A=1"]}, step={"created_by": "ENV A=1"}, created=0)
    third = add_layer(
        store, second, pack(store, io.BytesIO(archive(symlink("l", "x")))), config={"Env": None}
    )
    assert len(third.manifest.layers) == 2
    assert [step.history.empty_layer for step in listing.history(third)] == [False, True, False]
    assert json.loads(third.config.raw)["config"] == {}
    with store.stack(third).lease as lease:
        assert os.path.islink(os.path.join(store.stack(third).lowers[0], "l"))
        assert lease.fd >= 0


@pytest.mark.parametrize("left_out", [{"history": None}, {"config": None}, {"rootfs": None}, {"rootfs": {}}])
def test_what_a_base_leaves_out_is_there(store: Store, left_out: dict[str, Any]) -> None:
    one = put_image(store, "one", [] if "rootfs" in left_out else [BASE])
    document = {**json.loads(one.config.raw), **left_out}
    base = store_image(store, document, one.manifest.layers)
    image = add_layer(store, base, pack(store, io.BytesIO(archive(symlink("l", "x")))))
    assert len(image.sources()) == len(base.sources()) + 1
    assert [step.history.empty_layer for step in listing.history(image)][:1] == [False]
    assert State(base).document == document_of(base)


def test_a_commit_that_fails_leaves_no_layer(store: Store, change: Change) -> None:
    base = put_image(store, "base:1", [BASE])
    upper = change(base, "head -c 100000 /dev/urandom > first; touch etc/.wh.x")
    before = store.blobs.all()
    with pytest.raises(LayerError):
        commit(store, base, upper, "bad:1")
    assert store.blobs.all() == before


def test_a_path_that_is_too_long_to_be_shown(store: Store, tmp_path: Path) -> None:
    upper, name = tmp_path / "upper", "d" * 250
    upper.mkdir()
    at = os.open(upper, os.O_RDONLY)
    for _ in range(270):
        os.mkdir(name, dir_fd=at)
        inner = os.open(name, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(at)
    base = put_image(store, "base:1", [BASE])
    with pytest.raises(ImageError, match="more than 65536 bytes"):
        diff(store, base, str(upper))
    at = os.open(upper, os.O_RDONLY)
    empty(at)
    os.close(at)


def test_source_date_epoch() -> None:
    assert source_date({}) is None
    assert source_date({"SOURCE_DATE_EPOCH": "12"}) == 12
    for wrong in ("x", "-1", "1.5", "9" * 20, "१"):
        with pytest.raises(ImageError, match="SOURCE_DATE_EPOCH"):
            source_date({"SOURCE_DATE_EPOCH": wrong})
