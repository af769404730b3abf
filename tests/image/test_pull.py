"""Pulling: from docker-registry, and from registries that break."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sandbox.errors import DigestError, ImageError, RegistryError
from sandbox.image.config import Host
from sandbox.image.digest import digest_of
from sandbox.image.manifest import Descriptor, Index, parse_manifest
from sandbox.image.platform import parse_platform
from sandbox.image.pull import pull, remote_digest
from sandbox.image.push import push
from sandbox.image.reference import parse_reference
from sandbox.image.registry.session import Retry
from sandbox.image.transfer import Options
from tests.image.images import DirectoryStore, Made, entry, image, index, noise
from tests.image.peers import PASSWORD, USER, Registry, authority, token_server
from tests.image.scripted import Exchange, Scripted, in_turn, replying

Make = Callable[..., Options]
Start = Callable[..., Registry]


def has_all(store: DirectoryStore, made: Made) -> bool:
    return all((store.blobs / digest).read_bytes() == data for digest, data in made.blobs.items())


def pushed(registry: Registry, made: Made, tmp_path: Path, make: Make, name: str = "team/x:1") -> str:
    """Have an image in a registry; its reference."""
    source = DirectoryStore(tmp_path / "source")
    source.add(made)
    push(parse_reference(f"{registry.name}/{name}"), source, make(registry.name), made.manifest)
    return f"{registry.name}/{name}"


# --- the real registry -------------------------------------------------------------------------------------


@pytest.mark.parametrize("docker", [False, True])
def test_a_pull(
    registry: Start, options: Make, image_store: DirectoryStore, tmp_path: Path, docker: bool
) -> None:
    made = image({"a": b"1"}, {"b": noise(300_000)}, docker=docker)
    name = pushed(registry(), made, tmp_path, options)
    reference = parse_reference(name)
    found = pull(reference, image_store, None, options(reference.registry))
    assert has_all(image_store, made)
    assert found.descriptor.digest == made.manifest.digest
    assert image_store.get_ref(reference.key) == made.manifest
    [one] = found.images
    assert one.config.config.cmd == ("/hello",)
    assert one.manifest.raw == made.raw
    assert remote_digest(reference, options(reference.registry)) == made.manifest.digest
    missing = remote_digest(reference.with_tag("other"), options(reference.registry))
    assert missing is None


def test_by_digest(registry: Start, options: Make, image_store: DirectoryStore, tmp_path: Path) -> None:
    made = image()
    name = pushed(registry(), made, tmp_path, options)
    reference = parse_reference(f"{name}@{made.manifest.digest}")
    pull(reference, image_store, None, options(reference.registry))
    assert image_store.get_ref(f"{name.rpartition(':')[0]}@{made.manifest.digest}") == made.manifest


def test_what_skopeo_pushed(
    registry: Start, options: Make, image_store: DirectoryStore, tmp_path: Path, need: Callable[..., None]
) -> None:
    need("skopeo")
    made = image({"a": noise(100_000)}, {"b": b""})
    layout = tmp_path / "layout"
    write_layout(layout, made)
    name = f"{registry().name}/by/skopeo:1"
    skopeo("copy", "--dest-tls-verify=false", f"oci:{layout}:1", f"docker://{name}")
    pull(parse_reference(name), image_store, None, options(name.partition("/")[0]))
    assert has_all(image_store, made)


def write_layout(layout: Path, made: Made) -> None:
    """An OCI layout with one image, under the name "1"."""
    (layout / "blobs/sha256").mkdir(parents=True)
    for digest, data in made.blobs.items():
        (layout / "blobs/sha256" / digest.hex).write_bytes(data)
    named = entry(made.manifest, annotations={"org.opencontainers.image.ref.name": "1"})
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def skopeo(*arguments: str) -> str:
    command = ["skopeo", "--insecure-policy", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_index(registry: Start, options: Make, image_store: DirectoryStore, tmp_path: Path) -> None:
    arm, amd = image({"a": b"arm"}, architecture="arm64"), image({"a": b"amd"}, architecture="amd64")
    made = index(
        (arm, {"os": "linux", "architecture": "arm64", "variant": "v8"}),
        (amd, {"os": "linux", "architecture": "amd64"}),
    )
    name = pushed(registry(), made, tmp_path, options)
    reference, settings = parse_reference(name), options(name.partition("/")[0])
    found = pull(reference, image_store, parse_platform("arm64"), settings)
    assert found.descriptor.digest == arm.manifest.digest
    assert str(found.descriptor.platform) == "linux/arm64"
    assert has_all(image_store, arm)
    assert image_store.has_blob(made.manifest.digest)
    assert not image_store.has_blob(amd.manifest.digest)
    with pytest.raises(ImageError) as caught:
        pull(reference, image_store, parse_platform("riscv64"), settings)
    assert "no image for linux/riscv64; it has linux/amd64, linux/arm64" in caught.value.message
    found = pull(reference, image_store, "all", settings)
    assert has_all(image_store, made)
    assert found.descriptor.digest == made.manifest.digest
    assert [each.descriptor.digest for each in found.images] == [arm.manifest.digest, amd.manifest.digest]


def test_another_architecture_without_an_index(
    registry: Start, options: Make, image_store: DirectoryStore, tmp_path: Path
) -> None:
    name = pushed(registry(), image(architecture="s390x"), tmp_path, options)
    reference, settings = parse_reference(name), options(name.partition("/")[0])
    with pytest.raises(ImageError, match=r"is for linux/s390x, and .* is what this machine runs") as caught:
        pull(reference, image_store, None, settings)
    assert caught.value.mend == "ask for it: --platform linux/s390x"
    assert image_store.get_ref(reference.key) is None
    with pytest.raises(ImageError, match="and linux/arm was asked for"):
        pull(reference, image_store, parse_platform("arm"), settings)
    pull(reference, image_store, parse_platform("s390x"), settings)
    pull(reference, image_store, "all", settings)


def test_no_such_image(registry: Start, options: Make, image_store: DirectoryStore, tmp_path: Path) -> None:
    name = pushed(registry(), image(), tmp_path, options)
    settings = options(name.partition("/")[0])
    for other in (name + "2", name.replace("team", "other")):
        with pytest.raises(RegistryError, match=f"there is no {other}: ") as caught:
            pull(parse_reference(other), image_store, None, settings)
        assert caught.value.status == 404
    gone = parse_reference(name).with_digest(digest_of(b"never"))
    with pytest.raises(RegistryError, match="there is no "):
        pull(gone, image_store, None, settings)


def test_a_damaged_registry(
    registry: Start, options: Make, image_store: DirectoryStore, tmp_path: Path
) -> None:
    made = image({"a": noise(100_000)})
    running = registry()
    name = pushed(running, made, tmp_path, options)
    path = running.blob(made.layers[0].digest)
    data = bytearray(path.read_bytes())
    data[50_000] ^= 1
    path.write_bytes(data)
    with pytest.raises(DigestError):
        pull(parse_reference(name), image_store, None, options(running.name))
    assert not image_store.has_blob(made.layers[0].digest)
    assert image_store.get_ref(parse_reference(name).key) is None


# --- logins ------------------------------------------------------------------------------------------------


def test_a_password(
    registry: Start, options: Make, image_store: DirectoryStore, tmp_path: Path, need: Callable[..., None]
) -> None:
    """Told to skopeo, which writes podman's file."""
    need("skopeo")
    running = registry(auth="htpasswd")
    made = image()
    name = f"{running.name}/x:1"
    with pytest.raises(RegistryError, match="none was found for it") as caught:
        pull(parse_reference(name), image_store, None, options(running.name))
    assert caught.value.mend == f"podman login {running.name}  (or docker login {running.name})"
    auth_file = str(tmp_path / "auth.json")
    login = ("--authfile", auth_file, "--tls-verify=false")
    skopeo("login", *login, "-u", USER, "-p", PASSWORD, running.name)
    image_store.add(made)
    settings = options(running.name, auth_file=auth_file)
    push(parse_reference(name), image_store, settings, made.manifest)
    target = DirectoryStore(tmp_path / "target")
    pull(parse_reference(name), target, None, settings)
    assert has_all(target, made)
    Path(auth_file).write_text(json.dumps({"auths": {running.name: {"username": USER, "password": "wrong"}}}))
    with pytest.raises(RegistryError, match=r"the credentials of .*auth\.json .* do not suffice") as caught:
        pull(parse_reference(name), target, None, settings)
    assert "wrong" not in str(caught.value)


@pytest.mark.parametrize(
    "entry",
    [{"username": USER, "password": PASSWORD}, {"identitytoken": "an identity token", "auth": "MDA6"}],
)
def test_tokens(
    registry: Start, options: Make, image_store: DirectoryStore, tmp_path: Path, entry: dict[str, str]
) -> None:
    directory = tmp_path / "tokened"
    with token_server(directory) as tokens:
        running = registry(directory=directory, auth="token", token_server=tokens.url)
        auth_file = tmp_path / "auth.json"
        auth_file.write_text(json.dumps({"auths": {running.name: entry}}))
        settings = options(running.name, auth_file=str(auth_file))
        made = image({"a": noise(100)}, {"b": noise(200)}, {"c": noise(300)})
        image_store.add(made)
        reference = parse_reference(f"{running.name}/team/x:1")
        push(reference, image_store, settings, made.manifest)
        target = DirectoryStore(tmp_path / "target")
        pull(reference, target, None, settings)
        assert has_all(target, made)
        # one token for a push, and one for a pull, however many layers there are
        assert [each["scopes"] for each in tokens.asked] == [
            ["repository:team/x:pull,push"],
            ["repository:team/x:pull"],
        ]
        method = "POST" if "identitytoken" in entry else "GET"
        assert {each["method"] for each in tokens.asked} == {method}


def test_tokens_for_nobody(
    registry: Start, options: Make, image_store: DirectoryStore, tmp_path: Path
) -> None:
    """Anybody may pull; to push takes a login."""
    directory = tmp_path / "tokened"
    with token_server(directory) as tokens:
        tokens.allowed = lambda user, scope: bool(user) or scope.endswith(":pull")
        running = registry(directory=directory, auth="token", token_server=tokens.url)
        made = image()
        image_store.add(made)
        reference = parse_reference(f"{running.name}/team/x:1")
        with pytest.raises(RegistryError, match=r"refuses team/x.*none was found") as caught:
            push(reference, image_store, options(running.name), made.manifest)
        assert caught.value.status == 401
        auth_file = tmp_path / "auth.json"
        auth_file.write_text(json.dumps({"auths": {running.name: {"username": USER, "password": PASSWORD}}}))
        push(reference, image_store, options(running.name, auth_file=str(auth_file)), made.manifest)
        target = DirectoryStore(tmp_path / "target")
        pull(reference, target, None, options(running.name))
        assert has_all(target, made)
        auth_file.write_text(json.dumps({"auths": {running.name: {"username": USER, "password": "no"}}}))
        with pytest.raises(RegistryError, match=r"refuses team/x: wrong password; .* do not suffice"):
            pull(reference, target, None, options(running.name, auth_file=str(auth_file)))


# --- TLS ---------------------------------------------------------------------------------------------------


def test_tls(registry: Start, options: Make, image_store: DirectoryStore, tmp_path: Path) -> None:
    ca, certificate, key = authority(tmp_path / "ca")
    running = registry(tls=(certificate, key))
    made = image()
    image_store.add(made)
    reference = parse_reference(f"{running.name}/x:1")
    trusted = options(Host(running.name, ca=str(ca)))
    push(reference, image_store, trusted, made.manifest)
    pull(reference, DirectoryStore(tmp_path / "trusted"), None, trusted)
    pull(reference, DirectoryStore(tmp_path / "any"), None, options(Host(running.name, tls="unverified")))
    with pytest.raises(RegistryError, match="its certificate is not accepted") as caught:
        pull(reference, image_store, None, options(Host(running.name)))
    assert f'[registry."{running.name}"]\nca = ' in str(caught.value.mend)


def test_a_certificate_for_another_name(
    registry: Start, options: Make, image_store: DirectoryStore, tmp_path: Path
) -> None:
    ca, certificate, key = authority(tmp_path / "ca", "elsewhere.example")
    running = registry(tls=(certificate, key))
    with pytest.raises(RegistryError, match="certificate is not accepted: Hostname mismatch"):
        pull(
            parse_reference(f"{running.name}/x:1"), image_store, None, options(Host(running.name, ca=str(ca)))
        )


def test_plain_http_is_never_fallen_back_to(
    hostile: Scripted, options: Make, image_store: DirectoryStore
) -> None:
    reference = parse_reference(f"{hostile.name}/x")
    with pytest.raises(RegistryError, match="does not speak TLS") as caught:
        pull(reference, image_store, None, options(Host(hostile.name)))
    assert caught.value.mend == f'in /registries.toml:\n[registry."{hostile.name}"]\ntls = "off"'
    assert not hostile.seen


# --- mirrors -----------------------------------------------------------------------------------------------


def test_mirrors_go_first(hostile: Scripted, options: Make, image_store: DirectoryStore) -> None:
    made = image()
    hostile.serve(made, "hub/library/x")
    hub = Host("docker.io", mirrors=("localhost:1", f"{hostile.name}/hub"))
    settings = options(hostile.name, hub, Host("localhost:1", tls="off"))
    reference = parse_reference("x")
    pull(reference, image_store, None, settings)
    assert has_all(image_store, made)
    assert image_store.get_ref("docker.io/library/x:latest") == made.manifest


def test_what_a_mirror_lacks_or_spoils_comes_from_the_registry(
    hostile: Scripted, options: Make, image_store: DirectoryStore, registry: Start, tmp_path: Path
) -> None:
    made = image({"a": noise(50_000)}, {"b": noise(60_000)})
    running = registry()
    name = pushed(running, made, tmp_path, options)
    hostile.serve(made, "team/x", "1")
    bad = bytearray(made.blobs[made.layers[1].digest])
    bad[5] ^= 1
    hostile.on(f"GET /v2/team/x/blobs/{made.layers[1].digest}", replying(bytes(bad)))
    said: list[str] = []
    settings = options(hostile.name, Host(running.name, tls="off", mirrors=(hostile.name,)), parallel=1)
    settings.progress.say = said.append  # type: ignore[method-assign]
    pull(parse_reference(name), image_store, None, settings)
    assert has_all(image_store, made)
    assert said and f"not from the mirror {hostile.name}" in said[0]


def test_when_all_fail_all_is_told(hostile: Scripted, options: Make, image_store: DirectoryStore) -> None:
    settings = options(Host(hostile.name, tls="off", mirrors=("localhost:1",)), "localhost:1")
    with pytest.raises(RegistryError) as caught:
        pull(parse_reference(f"{hostile.name}/x"), image_store, None, settings)
    assert f"there is no {hostile.name}/x:latest" in caught.value.message
    assert "the mirror localhost:1: localhost:1 can't be reached" in caught.value.message


# --- going on ----------------------------------------------------------------------------------------------


@pytest.fixture
def large() -> Made:
    return image({"a": noise(400_000)})


def ranged(exchange: Exchange, data: bytes, *, stop: int = 0) -> None:
    """Serve a range as a good registry does, but break the connection before byte *stop*."""
    wanted = exchange.headers.get("Range")
    begin = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
    rest = data[begin:]
    exchange.send_response(206 if wanted else 200)
    if wanted:
        exchange.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
    exchange.send_header("Content-Length", str(len(rest)))
    exchange.end_headers()
    exchange.wfile.write(data[begin : stop or None])
    exchange.close_connection = bool(stop)


def test_across_runs(hostile: Scripted, options: Make, image_store: DirectoryStore, large: Made) -> None:
    blob, data = large.layers[0], large.blobs[large.layers[0].digest]
    hostile.serve(large)
    path = f"GET /v2/x/blobs/{blob.digest}"
    hostile.on(path, lambda exchange: ranged(exchange, data, stop=200_000))
    reference, settings = parse_reference(f"{hostile.name}/x"), options(hostile.name)
    with pytest.raises(RegistryError):
        pull(reference, image_store, None, settings)
    assert image_store.get_ref(reference.key) is None
    assert (image_store.partial / blob.digest).stat().st_size == 200_000
    hostile.seen.clear()
    hostile.on(path, lambda exchange: ranged(exchange, data))
    pull(reference, image_store, None, settings)
    assert [each.headers.get("Range") for each in hostile.asked(path)] == ["bytes=200000-"]
    assert has_all(image_store, large)


def test_within_a_run(hostile: Scripted, options: Make, image_store: DirectoryStore, large: Made) -> None:
    blob, data = large.layers[0], large.blobs[large.layers[0].digest]
    hostile.serve(large)
    path = f"GET /v2/x/blobs/{blob.digest}"
    hostile.on(
        path,
        in_turn(
            lambda exchange: ranged(exchange, data, stop=100_000),
            lambda exchange: ranged(exchange, data, stop=300_000),
            lambda exchange: ranged(exchange, data),
        ),
    )
    pull(parse_reference(f"{hostile.name}/x"), image_store, None, options(hostile.name))
    assert [each.headers.get("Range") for each in hostile.asked(path)] == [
        None,
        "bytes=100000-",
        "bytes=300000-",
    ]
    assert has_all(image_store, large)


@pytest.mark.parametrize("how", ["ignored", "416", "another range", "another size", "no range"])
def test_a_server_that_can_not_go_on(
    hostile: Scripted, options: Make, image_store: DirectoryStore, large: Made, how: str
) -> None:
    blob, data = large.layers[0], large.blobs[large.layers[0].digest]
    (image_store.partial / blob.digest).write_bytes(data[:1000])
    hostile.serve(large)
    size = len(data)
    headers = {
        "another range": f"bytes 0-{size - 1}/{size}",
        "another size": f"bytes 1000-{size - 1}/{size + 1}",
        "no range": "",
    }

    def act(exchange: Exchange) -> None:
        if not exchange.headers.get("Range") or how == "ignored":
            exchange.reply(200, data)
        elif how == "416":
            exchange.reply(416)
        else:
            exchange.reply(206, data[1000:], {"Content-Range": headers[how]})

    hostile.on(f"GET /v2/x/blobs/{blob.digest}", act)
    pull(parse_reference(f"{hostile.name}/x"), image_store, None, options(hostile.name))
    assert has_all(image_store, large)


@pytest.mark.parametrize("length", [1000, None])
def test_a_beginning_that_was_spoilt(
    hostile: Scripted, options: Make, image_store: DirectoryStore, large: Made, length: int | None
) -> None:
    """Shorter than the blob, and as long: then nothing is asked for before it is found out."""
    blob, data = large.layers[0], large.blobs[large.layers[0].digest]
    (image_store.partial / blob.digest).write_bytes((b"x" * len(data))[:length])
    hostile.serve(large)
    hostile.on(f"GET /v2/x/blobs/{blob.digest}", lambda exchange: ranged(exchange, data))
    pull(parse_reference(f"{hostile.name}/x"), image_store, None, options(hostile.name))
    assert has_all(image_store, large)


def test_what_is_there_is_not_asked_for(
    hostile: Scripted, options: Make, image_store: DirectoryStore, large: Made
) -> None:
    hostile.serve(large)
    reference, settings = parse_reference(f"{hostile.name}/x"), options(hostile.name)
    pull(reference, image_store, None, settings)
    hostile.seen.clear()
    pull(reference, image_store, None, settings)
    assert [each.path for each in hostile.seen] == ["/v2/x/manifests/latest"]
    hostile.seen.clear()
    pull(reference.with_digest(large.manifest.digest), image_store, None, settings)
    assert hostile.seen == []


def test_what_somebody_else_pulls_is_waited_for(
    hostile: Scripted, options: Make, image_store: DirectoryStore, large: Made
) -> None:
    import threading

    blob, data = large.layers[0], large.blobs[large.layers[0].digest]
    hostile.serve(large)
    said = threading.Event()
    settings = options(hostile.name)
    settings.progress.say = lambda text: said.set()  # type: ignore[method-assign]
    reference = parse_reference(f"{hostile.name}/x")
    with image_store.ingest(blob.digest, blob.size) as other:
        thread = threading.Thread(target=pull, args=(reference, image_store, None, settings))
        thread.start()
        assert said.wait(60)
        other.write(data)
        other.commit()
    thread.join()
    assert has_all(image_store, large)
    assert not hostile.asked(f"GET /v2/x/blobs/{blob.digest}")


# --- what is no image, and limits --------------------------------------------------------------------------


def serve_document(registry: Scripted, document: dict[str, Any], kind: str = "") -> Descriptor:
    """Have a manifest as "x:latest"."""
    made = Made()
    made.manifest = made.add(json.dumps(document).encode(), kind)
    registry.serve(made)
    return made.manifest


def test_a_chart(hostile: Scripted, options: Make, image_store: DirectoryStore) -> None:
    made = image()
    document = json.loads(made.raw)
    document["config"]["mediaType"] = "application/vnd.cncf.helm.config.v1+json"
    serve_document(hostile, document)
    with pytest.raises(ImageError, match=r"no container image: .*helm"):
        pull(parse_reference(f"{hostile.name}/x"), image_store, None, options(hostile.name))
    assert not list(image_store.refs.iterdir())


def test_as_many_layers_as_the_configuration_says(
    hostile: Scripted, options: Make, image_store: DirectoryStore
) -> None:
    made = image({"a": b""}, {"b": b""})
    hostile.serve(made)
    document = json.loads(made.raw)
    document["layers"].pop()
    serve_document(hostile, document)
    with pytest.raises(ImageError, match="has 1 layers, and its configuration names 2"):
        pull(parse_reference(f"{hostile.name}/x"), image_store, None, options(hostile.name))


def test_a_limit(hostile: Scripted, options: Make, image_store: DirectoryStore, large: Made) -> None:
    hostile.serve(large)
    with pytest.raises(ImageError, match="more than the limit of 1K"):
        pull(parse_reference(f"{hostile.name}/x"), image_store, None, options(hostile.name, limit=1024))
    assert not hostile.asked(f"GET /v2/x/blobs/{large.layers[0].digest}")


def test_an_index_without_end(hostile: Scripted, options: Make, image_store: DirectoryStore) -> None:
    """A chain of indexes; one that names itself can't be made, but its tag can name it by a wrong digest."""
    inner = Made()
    inner.manifest = inner.add(
        b'{"schemaVersion": 2, "manifests": []}', "application/vnd.oci.image.index.v1+json"
    )
    for _ in range(10):
        inner = index((inner, {"os": "linux", "architecture": "amd64"}))
        for digest, data in inner.blobs.items():
            kind = "application/vnd.oci.image.index.v1+json"
            hostile.on(f"GET /v2/x/manifests/{digest}", replying(data, kind))
    hostile.on("GET /v2/x/manifests/latest", replying(inner.raw, inner.manifest.media_type))
    for platform in (parse_platform("amd64"), "all"):
        with pytest.raises(ImageError, match="more than 4 deep"):
            pull(parse_reference(f"{hostile.name}/x"), image_store, platform, options(hostile.name))  # type: ignore[arg-type]
    assert len(hostile.seen) < 20


def test_an_index_that_names_itself(hostile: Scripted, options: Make, image_store: DirectoryStore) -> None:
    kind = "application/vnd.oci.image.index.v1+json"
    platform = {"os": "linux", "architecture": "amd64"}
    wrong = Descriptor(kind, digest_of(b"itself"), 300)
    document: dict[str, Any] = {"schemaVersion": 2, "manifests": [entry(wrong, platform=platform)]}
    document["manifests"][0]["size"] = len(json.dumps(document))
    itself = serve_document(hostile, document)
    raw = json.dumps(document).encode()
    hostile.on(f"GET /v2/x/manifests/{wrong.digest}", replying(raw))
    with pytest.raises(DigestError, match="is not what its digest says"):
        pull(
            parse_reference(f"{hostile.name}/x"), image_store, parse_platform("amd64"), options(hostile.name)
        )
    assert isinstance(parse_manifest(raw), Index)
    assert itself.digest != wrong.digest


def test_an_index_with_thousands_of_manifests(
    hostile: Scripted, options: Make, image_store: DirectoryStore
) -> None:
    made = index(*[(image({"a": str(number).encode()}), None) for number in range(250)])
    hostile.serve(made)
    with pytest.raises(ImageError, match="more than 200 manifests"):
        pull(parse_reference(f"{hostile.name}/x"), image_store, "all", options(hostile.name))


FULL = """
import os, subprocess, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from sandbox.errors import SandboxError
from sandbox.image.config import Host, Registries
from sandbox.image.pull import pull
from sandbox.image.reference import parse_reference
from sandbox.image.transfer import Options
from tests.image.images import DirectoryStore
name, directory = sys.argv[2:]
options = Options(Registries("", {name: Host(name, tls="off")}))
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "small", directory], check=True)
ballast = Path(directory, "ballast")
ballast.write_bytes(bytes(1_700_000))
for turn in range(2):
    try:
        pull(parse_reference(name + "/x"), DirectoryStore(Path(directory)), None, options)
        print("pulled")
    except SandboxError as error:
        print(error)
        ballast.unlink()
"""


def test_a_full_disk(hostile: Scripted, large: Made, need: Callable[..., None], tmp_path: Path) -> None:
    """What came is kept, and gone on from when there is room."""
    need("userns")
    layer = large.layers[0]
    data = large.blobs[layer.digest]
    hostile.serve(large)
    hostile.on(f"GET /v2/x/blobs/{layer.digest}", lambda exchange: ranged(exchange, data))
    root = Path(__file__).resolve().parents[2]
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    done = subprocess.run(
        [*unshare, sys.executable, "-c", FULL, root, hostile.name, tmp_path],
        capture_output=True,
        text=True,
        timeout=100,
    )
    said, mend, end = done.stdout.splitlines() or [done.stderr] * 3
    assert said.startswith(f"no space is left for {hostile.name}/x:latest; what came is kept")
    assert (mend, end) == ("  mend: sandbox image prune", "pulled")
    first, second = hostile.asked(f"GET /v2/x/blobs/{layer.digest}")
    assert "Range" not in first.headers
    assert int(second.headers["Range"].removeprefix("bytes=").rstrip("-")) > 200_000


def test_layers_are_pulled_at_once(hostile: Scripted, options: Make, image_store: DirectoryStore) -> None:
    """One is answered only when the other was asked for."""
    import threading

    made = image({"a": noise(10_000)}, {"b": noise(20_000)})
    hostile.serve(made)
    asked = [threading.Event(), threading.Event()]

    def answer(exchange: Exchange) -> None:
        number = exchange.path.endswith(made.layers[1].digest.hex)
        asked[number].set()
        together = asked[not number].wait(20)
        exchange.reply(200 if together else 404, made.blobs[made.layers[number].digest])

    hostile.on(f"GET /v2/x/blobs/({made.layers[0].digest}|{made.layers[1].digest})", answer)
    pull(parse_reference(f"{hostile.name}/x"), image_store, None, options(hostile.name))


def test_the_first_failure_ends_the_other_layers(
    hostile: Scripted, options: Make, image_store: DirectoryStore
) -> None:
    """One layer is refused while another never comes: the pull fails at once, with the reason."""
    import threading

    made = image({"a": noise(10_000)}, {"b": noise(20_000)})
    hostile.serve(made)
    first, second = made.layers
    waiting, over = threading.Event(), threading.Event()

    def hang(exchange: Exchange) -> None:
        waiting.set()
        over.wait(60)

    def refuse(exchange: Exchange) -> None:
        waiting.wait(60)
        exchange.reply(404)

    hostile.on(f"GET /v2/x/blobs/{first.digest}", hang)
    hostile.on(f"GET /v2/x/blobs/{second.digest}", refuse)
    settings = options(hostile.name)
    settings = replace(settings, patience=replace(settings.patience, header=1000.0), retry=Retry(3, 0.01))
    with pytest.raises(RegistryError, match="answers 404"):
        pull(parse_reference(f"{hostile.name}/x"), image_store, None, settings)
    over.set()
