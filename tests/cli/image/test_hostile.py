"""Archives and registries that want more than they should, through the commands: each is one clear error, of
which nothing is kept, and the host stays as it was. What each defence is, is tested with the libraries."""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import json
import os
import subprocess
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sandbox.image.digest import Digest
from sandbox.image.manifest import OCI_CONFIG, OCI_MANIFEST
from sandbox.image.platform import host_platform
from tests.cli.image.conftest import entries, here, say
from tests.image import images
from tests.image.images import Made, entry
from tests.image.layer.archives import Item, archive, directory, file, hardlink, symlink, whiteout
from tests.image.scripted import Exchange, Scripted, replying, scripted

pytestmark = [pytest.mark.integration]

Command = Callable[..., subprocess.CompletedProcess[str]]

#: what an archive tries -> what it has, and what is said of it
REFUSED: dict[str, tuple[list[Item], str]] = {
    "a name that leads out": ([file("../../../../tmp/evil", b"x")], "leads out of the root directory"),
    "a name below a file": ([file("a"), file("a/b")], "is, or is below, a file that is no directory"),
    "a hard link out": ([hardlink("a", "../../etc/passwd")], "leads out of the root directory"),
    "a hard link to nothing": ([hardlink("a", "etc/passwd")], "which is no file of this layer"),
    "links in a circle": ([symlink("a", "b"), symlink("b", "a"), file("a/x")], "too many links"),
    "a root that is a file": ([file(".", b"x")], "makes the root directory a file"),
    "an owner that is none": ([file("a", uid=4_000_000_000)], "range of ids does not have both"),
    "a whiteout of nothing": ([file("d/.wh.", b"")], "names no file"),
    "a name too long": ([file("x" * 300)], "more than 255 bytes"),
}


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A directory that archives aim at; it must stay as it is."""
    target = tmp_path / "outside"
    target.mkdir()
    (target / "victim").write_text("untouched")
    target.chmod(0o755)
    yield target
    assert {path.name: path.read_text() for path in target.iterdir()} == {"victim": "untouched"}
    assert target.stat().st_mode & 0o7777 == 0o755


#: for what reads a gigabyte on a busy machine, seconds
LONG = 250.0


def nothing_is_kept(home: Path) -> None:
    store = home / ".local/share/sandbox/images"
    for place in ("blobs/sha256", "layers", "work", "partial"):
        found = list((store / place).iterdir()) if (store / place).exists() else []
        assert found == [], place


# --- archives ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", REFUSED)
def test_an_archive_that_is_imported(image: Command, work: Path, tmp_home: Path, what: str) -> None:
    items, error = REFUSED[what]
    (work / "evil.tar").write_bytes(archive(*items))
    told = image("import", "evil.tar", "evil", fails=True).stderr
    assert error in told and len(told.splitlines()) <= 2
    assert here("image", "ls", "-q") == ""
    nothing_is_kept(tmp_home)


def test_links_lead_nowhere_but_into_the_root(image: Command, work: Path, outside: Path) -> None:
    """What is written through them lands inside."""
    above = str(outside.parent)
    items = [
        symlink("abs", str(outside)),
        symlink("rel", "../" * 30 + str(outside)[1:]),
        file("abs/victim", b"inside"),
        file("rel/new", b"inside"),
        symlink("etc", above),
        file("etc/outside/third", b"inside"),
        directory("abs", mode=0o777),
    ]
    (work / "evil.tar").write_bytes(archive(*items))
    image("import", "evil.tar", "evil")
    found = entries(image("export", "evil", text=False).stdout)  # type: ignore[arg-type]
    assert found[f"{outside}/new"[1:]][2] == b"inside"
    image("rm", "evil")


def test_devices_and_what_fools_a_driver_are_left_out(image: Command, work: Path) -> None:
    marks = (("user.overlay.opaque", b"y"), ("trusted.overlay.redirect", b"/etc"))
    items = [Item("block", "sda", device=(8, 0)), Item("char", "null"), file("d/x", xattrs=marks)]
    (work / "evil.tar").write_bytes(archive(directory("d"), *items))
    image("import", "evil.tar", "evil")
    assert set(entries(image("export", "evil", text=False).stdout)) == {".", "d", "d/x"}  # type: ignore[arg-type]


@functools.cache
def bomb() -> bytes:
    """A file of 1.1 GiB of zeros, in about a megabyte."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    zeros = bytes(1 << 22)
    member = tarfile.TarInfo("a")
    member.size = 282 * len(zeros)
    data = packer.compress(member.tobuf())
    return data + b"".join(packer.compress(zeros) for _ in range(283)) + packer.flush()


@pytest.mark.parametrize("verb", ["import", "load"])
def test_a_bomb(image: Command, work: Path, tmp_home: Path, verb: str) -> None:
    (work / "bomb.tar.gz").write_bytes(bomb())
    words = ["bomb.tar.gz"] if verb == "load" else ["bomb.tar.gz", "evil"]
    told = image(verb, *words, fails=True, timeout=LONG).stderr
    assert "bomb.tar.gz: " in told
    if verb == "import":
        assert "it is taken for a bomb" in told
    nothing_is_kept(tmp_home)


def test_a_million_entries(image: Command, work: Path, tmp_home: Path) -> None:
    one = archive(directory("d"))[:512]
    with gzip.open(work / "many.tar.gz", "wb", 1) as out:
        for _ in range(100):
            out.write(one * 10_000)
        out.write(bytes(1024))
    told = image("import", "many.tar.gz", "evil", fails=True, timeout=LONG).stderr
    assert "the archive has more than 900000 entries" in told
    nothing_is_kept(tmp_home)


@pytest.mark.parametrize("where", ["manifest.json", "index.json", "config", "layer"])
def test_images_archives_whose_names_lead_out(image: Command, work: Path, tmp_home: Path, where: str) -> None:
    """Names in an archive are names in the archive, and no paths of ours."""
    name = "../../../../../../etc/passwd"
    documents = {
        "manifest.json": [{"Config": name, "RepoTags": ["x"], "Layers": [name]}],
        "index.json": {"schemaVersion": 2, "manifests": [{"digest": f"sha256:{name}", "size": 1}]},
        "config": [{"Config": f"/{name}", "RepoTags": ["../x"], "Layers": []}],
        "layer": [{"Config": "c", "RepoTags": ["x"], "Layers": [name]}],
    }
    items = [file(name, b"{}"), file("c", b"{}"), symlink("l", name)]
    if where == "index.json":
        items += [file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')]
    document = "index.json" if where == "index.json" else "manifest.json"
    (work / "evil.tar").write_bytes(archive(*items, file(document, json.dumps(documents[where]).encode())))
    told = image("load", "evil.tar", fails=True).stderr
    assert "root:" not in told
    assert here("image", "ls", "-q") == ""
    nothing_is_kept(tmp_home)


# --- registries -------------------------------------------------------------------------------------------


@pytest.fixture
def hostile(tmp_home: Path) -> Iterator[Scripted]:
    """A registry that does what the test says."""
    with scripted() as registry:
        say(tmp_home, f'[registry."{registry.name}"]\ntls = "off"\n')
        yield registry


def made_of(*layers: bytes, diff_ids: list[str] | None = None) -> Made:
    """An image whose layers are these archives, as they are."""
    made = Made()
    kind = "application/vnd.oci.image.layer.v1.tar"
    made.layers = [made.add(layer, kind + ("+gzip" if layer[:2] == b"\x1f\x8b" else "")) for layer in layers]
    plain = (
        [gzip.decompress(layer) if layer[:2] == b"\x1f\x8b" else layer for layer in layers]
        if not diff_ids
        else []
    )
    ids = diff_ids or [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in plain]
    config = {
        "architecture": host_platform().architecture,
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": ids},
    }
    made.config = made.add(json.dumps(config).encode(), OCI_CONFIG)
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": entry(made.config),
        "layers": [entry(layer) for layer in made.layers],
    }
    made.manifest = made.add(json.dumps(manifest).encode(), OCI_MANIFEST)
    return made


@pytest.mark.parametrize("what", REFUSED)
def test_a_layer_that_is_pulled(
    image: Command, hostile: Scripted, tmp_home: Path, outside: Path, what: str
) -> None:
    """An image that can't be unpacked gets no name, and one that had it keeps it."""
    good = made_of(archive(file("a", b"good")))
    hostile.serve(good)
    name = f"{hostile.name}/x"
    here("image", "pull", "-q", name)
    before = here("image", "inspect", name)
    items, error = REFUSED[what]
    hostile.serve(made_of(archive(directory("d"), whiteout("a")), archive(*items)))
    told = image("pull", name, fails=True).stderr
    assert error in told
    assert here("image", "inspect", name) == before
    here("image", "prune")
    here("image", "check")
    here("image", "rm", name)
    nothing_is_kept(tmp_home)


def test_a_bomb_that_is_pulled(image: Command, hostile: Scripted, tmp_home: Path) -> None:
    hostile.serve(made_of(bomb(), diff_ids=[f"sha256:{'0' * 64}"]))
    told = image("pull", f"{hostile.name}/x", fails=True, timeout=LONG).stderr
    assert "it is taken for a bomb" in told
    here("image", "prune")
    nothing_is_kept(tmp_home)


def test_a_layer_that_is_another_than_its_image_says(
    image: Command, hostile: Scripted, tmp_home: Path
) -> None:
    hostile.serve(made_of(archive(file("a")), diff_ids=[f"sha256:{'0' * 64}"]))
    told = image("pull", f"{hostile.name}/x", fails=True).stderr
    assert "has another content than its image says" in told
    here("image", "prune")
    nothing_is_kept(tmp_home)


def endless(exchange: Exchange) -> None:
    exchange.close_connection = True
    exchange.wfile.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.oci.image.manifest.v1+json\r\n\r\n"
    )
    with contextlib.suppress(OSError):
        while True:
            exchange.wfile.write(b" " * 65536)


MANIFEST = r"GET /v2/x/manifests/.*"
BLOB = r"GET /v2/x/blobs/.*"
ANSWERS: dict[str, tuple[str, Callable[[Exchange], None], str]] = {
    "an endless manifest": (MANIFEST, endless, "more than the 4194304 bytes that it may"),
    "an endless blob": (BLOB, endless, "sends more than"),
    "no manifest": (MANIFEST, replying(b"<html>", "text/html"), ""),
    "a manifest of nonsense": (MANIFEST, replying(b'{"schemaVersion": 2}', OCI_MANIFEST), "is no manifest"),
    "an index within itself": (MANIFEST, replying(b"[" * 100_000, OCI_MANIFEST), ""),
    "another blob": (BLOB, replying(b"x" * 100), ""),
    "a wrong manifest": (MANIFEST, replying(b"\x1b[2Jevil", OCI_MANIFEST), ""),
    "a short blob": (BLOB, lambda it: it.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\nx"), ""),
    "a login without end": (r".*", replying(b"{}", status=401, WWW_Authenticate="Basic realm=x"), ""),
    "a redirect in a circle": (
        MANIFEST,
        replying(b"", status=307, Location="/v2/x/manifests/latest"),
        "redirects more than",
    ),
    "no HTTP": (MANIFEST, lambda it: it.raw(b"SSH-2.0-OpenSSH_9\r\n"), ""),
    "a message for the terminal": (
        MANIFEST,
        replying(b'{"errors":[{"code":"DENIED","message":"\\u001b]0;evil\\u0007"}]}', status=403),
        "",
    ),
}


@pytest.mark.parametrize("what", ANSWERS)
def test_answers_of_a_registry(image: Command, hostile: Scripted, tmp_home: Path, what: str) -> None:
    hostile.serve(images.image())
    pattern, action, error = ANSWERS[what]
    hostile.on(pattern, action)
    told = image("pull", "-q", f"{hostile.name}/x", fails=True).stderr
    assert error in told
    assert told.startswith("sandbox: ") and "\x1b" not in told and len(told) < 1500
    here("image", "prune")
    nothing_is_kept(tmp_home)


def test_a_redirect_to_another_host_gets_no_credentials(
    image: Command, hostile: Scripted, tmp_home: Path, work: Path
) -> None:
    made = images.image()
    hostile.serve(made)
    (work / "auth.json").write_text(json.dumps({"auths": {hostile.name: {"auth": "YWxpOnNlY3JldA=="}}}))
    with scripted(name="127.0.0.1") as other:
        other.serve(made)
        hostile.on(BLOB, lambda it: it.reply(307, b"", {"Location": f"http://{other.name}{it.path}"}))

        def login(exchange: Exchange) -> None:
            if exchange.headers.get("Authorization"):
                exchange.reply(200, made.raw, {"Content-Type": OCI_MANIFEST})
            else:
                exchange.reply(401, b"{}", {"WWW-Authenticate": 'Basic realm="x"'})

        hostile.on(MANIFEST, login)
        image("pull", "--authfile", "auth.json", f"{hostile.name}/x")
        assert any(each.headers.get("Authorization") for each in hostile.seen)
        assert other.asked(BLOB)
        assert [each for each in other.seen if each.headers.get("Authorization")] == []


def test_a_digest_that_is_asked_for_is_what_comes(image: Command, hostile: Scripted, tmp_home: Path) -> None:
    made, other = images.image(), images.image({"a": b"another"})
    hostile.serve(made)
    path = f"/v2/x/manifests/{made.manifest.digest}"
    hostile.paths[path] = (other.raw, other.manifest.media_type)
    told = image("pull", f"{hostile.name}/x@{made.manifest.digest}", fails=True).stderr
    assert str(Digest(made.manifest.digest)) in told
    nothing_is_kept(tmp_home)


def test_a_push_to_one_that_lies(image: Command, hostile: Scripted, work: Path) -> None:
    (work / "good.tar").write_bytes(archive(file("a", b"x")))
    name = f"{hostile.name}/x"
    image("import", "good.tar", name)
    hostile.on(r"HEAD .*", replying(b"", status=404))
    for location in ("http://127.0.0.2:1/steal", "file:///etc/passwd", ""):
        hostile.rules[1:] = []
        hostile.on(r"POST .*", replying(b"", status=202, Location=location))
        told = image("push", name, fails=True).stderr
        assert "Traceback" not in told


def test_the_environment_is_as_it_was() -> None:
    """Nothing of the above got where it wanted."""
    assert not os.path.exists("/tmp/evil")
