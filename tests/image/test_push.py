"""Pushing: what comes out of the registry is what went in, also by skopeo's judgement."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.errors import DigestError, ImageError, RegistryError
from sandbox.image.digest import Digest
from sandbox.image.platform import parse_platform
from sandbox.image.pull import pull
from sandbox.image.push import push
from sandbox.image.reference import parse_reference
from sandbox.image.transfer import Options
from tests.image.images import DirectoryStore, image, index, noise
from tests.image.peers import PASSWORD, USER, Registry, token_server
from tests.image.scripted import Exchange, Scripted
from tests.image.test_pull import has_all, skopeo

Make = Callable[..., Options]
Start = Callable[..., Registry]


@pytest.mark.parametrize("docker", [False, True])
def test_byte_for_byte_by_skopeo(
    registry: Start,
    options: Make,
    image_store: DirectoryStore,
    tmp_path: Path,
    need: Callable[..., None],
    docker: bool,
) -> None:
    need("skopeo")
    made = image({"a": noise(200_000)}, {"b": b"2"}, docker=docker)
    image_store.add(made)
    name = f"{registry().name}/team/x:1"
    done = push(parse_reference(name), image_store, options(name.partition("/")[0]), made.manifest)
    assert (done.sent, done.there) == (3, 0)
    skopeo("copy", "--preserve-digests", "--src-tls-verify=false", f"docker://{name}", f"dir:{tmp_path}/copy")
    copied = {path.name: path.read_bytes() for path in (tmp_path / "copy").iterdir()}
    assert copied["manifest.json"] == made.raw
    for digest, data in made.blobs.items():
        assert digest == made.manifest.digest or copied[digest.hex] == data


def test_an_index_as_skopeo_sees_it(
    registry: Start, options: Make, image_store: DirectoryStore, tmp_path: Path, need: Callable[..., None]
) -> None:
    need("skopeo")
    made = index(
        (image({"a": b"1"}, architecture="amd64"), {"os": "linux", "architecture": "amd64"}),
        (image({"a": b"2"}, architecture="arm64"), {"os": "linux", "architecture": "arm64"}),
    )
    image_store.add(made)
    name = f"{registry().name}/x:all"
    push(parse_reference(name), image_store, options(name.partition("/")[0]), made.manifest)
    raw = skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{name}")
    assert raw.encode() == made.raw
    skopeo("copy", "--all", "--src-tls-verify=false", f"docker://{name}", f"dir:{tmp_path}/copy")
    names = {path.name for path in (tmp_path / "copy").iterdir()}
    assert {digest.hex for digest in made.blobs} - names == {
        made.manifest.digest.hex,
        *(json_entry["digest"].partition(":")[2] for json_entry in json.loads(made.raw)["manifests"]),
    }


def test_what_is_there_is_not_sent(registry: Start, options: Make, image_store: DirectoryStore) -> None:
    made = image({"a": b"1"}, {"b": b"2"})
    more = image({"a": b"1"}, {"b": b"2"}, {"c": b"3"})
    image_store.add(made)
    image_store.add(more)
    name = registry().name
    reference = parse_reference(f"{name}/x:1")
    assert push(reference, image_store, options(name), made.manifest).sent == 3
    assert push(reference, image_store, options(name), made.manifest).there == 3
    done = push(reference.with_tag("2"), image_store, options(name), more.manifest)
    assert (done.sent, done.there) == (2, 2)


def test_mounted_from_another_repository(
    registry: Start, options: Make, image_store: DirectoryStore, tmp_path: Path
) -> None:
    made = image({"a": noise(100_000)})
    image_store.add(made)
    name = registry().name
    push(parse_reference(f"{name}/one:1"), image_store, options(name), made.manifest)
    two = parse_reference(f"{name}/two:1")

    def mount_from(digest: Digest) -> str:
        return "one" if digest == made.layers[0].digest else "nowhere"

    done = push(two, image_store, options(name), made.manifest, mount_from)
    assert (done.mounted, done.sent) == (1, 1)
    target = DirectoryStore(tmp_path / "target")
    pull(two, target, None, options(name))
    assert has_all(target, made)


def test_where_mounting_is_not_allowed_it_is_sent(
    registry: Start, options: Make, image_store: DirectoryStore, tmp_path: Path
) -> None:
    directory = tmp_path / "tokened"
    with token_server(directory) as tokens:
        running = registry(directory=directory, auth="token", token_server=tokens.url)
        auth_file = tmp_path / "auth.json"
        auth_file.write_text(json.dumps({"auths": {running.name: {"username": USER, "password": PASSWORD}}}))
        settings = options(running.name, auth_file=str(auth_file))
        made = image({"a": noise(100_000)})
        image_store.add(made)
        push(parse_reference(f"{running.name}/mine:1"), image_store, settings, made.manifest)
        done = push(
            parse_reference(f"{running.name}/two:1"),
            image_store,
            settings,
            made.manifest,
            lambda digest: "mine",
        )
        assert done.mounted == 2
        assert ["repository:three:pull,push", "repository:mine:pull"] not in [
            x["scopes"] for x in tokens.asked
        ]
        tokens.allowed = lambda user, scope: scope != "repository:mine:pull"
        done = push(
            parse_reference(f"{running.name}/three:1"),
            image_store,
            settings,
            made.manifest,
            lambda digest: "mine",
        )
        assert (done.mounted, done.sent) == (0, 2)


def test_what_is_not_here(hostile: Scripted, options: Make, image_store: DirectoryStore) -> None:
    reference = parse_reference(f"{hostile.name}/x:1")
    with pytest.raises(ImageError, match=r"there is no image .*/x:1 here") as caught:
        push(reference, image_store, options(hostile.name))
    assert caught.value.mend == "see which there are: sandbox image ls"
    made = index((image(), {"os": "linux", "architecture": "amd64"}))
    image_store.put_blob(made.raw)
    with pytest.raises(ImageError, match=r"\(linux/amd64\), which is not here") as caught:
        push(reference, image_store, options(hostile.name), made.manifest)
    other = parse_reference(f"{hostile.name}/x@{image().manifest.digest}")
    with pytest.raises(ImageError, match="names another digest"):
        push(other, image_store, options(hostile.name), made.manifest)
    assert not hostile.seen


def test_what_was_pulled_can_be_pushed_by_name(
    registry: Start, options: Make, image_store: DirectoryStore, tmp_path: Path
) -> None:
    made = image()
    image_store.add(made)
    name = registry().name
    reference = parse_reference(f"{name}/x:1")
    push(reference, image_store, options(name), made.manifest)
    target = DirectoryStore(tmp_path / "target")
    pull(reference, target, parse_platform(made_for(made)), options(name))
    assert push(reference, target, options(name)).descriptor.digest == made.manifest.digest


def made_for(made: object) -> str:
    from sandbox.image.platform import host_platform

    return str(host_platform())


# --- chunks ------------------------------------------------------------------------------------------------


class Uploads:
    """An upload as the specification has it, with faults."""

    def __init__(self, registry: Scripted, *, largest: int = 0, break_after: int = 0) -> None:
        self.data = b""
        self.done: dict[str, bytes] = {}
        self.largest = largest
        self.break_after = break_after
        self.sessions = 0
        registry.on(r"HEAD /v2/x/blobs/.*", lambda exchange: exchange.reply(404))
        registry.on(r"POST /v2/x/blobs/uploads/.*", self.start)
        registry.on(r"(PATCH|PUT|GET) /session/.*", self.session)
        registry.on(r"PUT /v2/x/manifests/.*", lambda exchange: exchange.reply(201))

    def start(self, exchange: Exchange) -> None:
        self.sessions += 1
        self.data = b""
        exchange.reply(202, headers={"Location": f"/session/{self.sessions}?state=a%2Fb"})

    def session(self, exchange: Exchange) -> None:
        location = {"Location": exchange.path.partition("&")[0], "Range": f"0-{len(self.data) - 1}"}
        if exchange.command == "GET":
            exchange.reply(204, headers=location if self.data else {**location, "Range": "0-0"})
            return
        body = exchange.request_body
        if self.largest and len(body) > self.largest:
            exchange.reply(413)
            return
        wanted = exchange.headers.get("Content-Range")
        if wanted and int(wanted.partition("-")[0]) != len(self.data):
            exchange.reply(416, headers=location)
            return
        if self.break_after and len(self.data) >= self.break_after:
            self.break_after = 0
            self.data += body[:1000]
            exchange.close_connection = True
            return
        self.data += body
        if exchange.command == "PUT":
            self.done[exchange.path.partition("digest=")[2].replace("%3A", ":")] = self.data
            exchange.reply(201)
        else:
            exchange.reply(202, headers={**location, "Range": f"0-{len(self.data) - 1}"})


def upload(registry: Scripted, options: Make, image_store: DirectoryStore, size: int) -> tuple[Digest, bytes]:
    """Push an image whose layer has about *size* bytes; the layer."""
    made = image({"a": noise(size)})
    image_store.add(made)
    push(
        parse_reference(f"{registry.name}/x:1"),
        image_store,
        options(registry.name, parallel=1),
        made.manifest,
    )
    layer = made.layers[0].digest
    return layer, made.blobs[layer]


def test_one_request_if_that_works(hostile: Scripted, options: Make, image_store: DirectoryStore) -> None:
    uploads = Uploads(hostile)
    digest, data = upload(hostile, options, image_store, 1_000_000)
    assert uploads.done[digest] == data
    assert len(hostile.asked("PUT /session/.*")) == 2
    assert not hostile.asked("PATCH .*")
    assert all("state=a%2Fb&digest=sha256%3A" in each.path for each in hostile.asked("PUT /session/.*"))


@pytest.mark.parametrize("break_after", [0, 150_000])
def test_chunks_where_a_request_is_too_large(
    hostile: Scripted,
    options: Make,
    image_store: DirectoryStore,
    monkeypatch: pytest.MonkeyPatch,
    break_after: int,
) -> None:
    """Also with a connection that breaks in the middle of a chunk, of which the registry keeps some."""
    from sandbox.image.registry import upload as module

    monkeypatch.setattr(module, "CHUNK", 100_000)
    uploads = Uploads(hostile, largest=100_000, break_after=break_after)
    digest, data = upload(hostile, options, image_store, 1_000_000)
    assert uploads.done[digest] == data
    ranges = [each.headers["Content-Range"] for each in hostile.asked("PATCH .*")]
    assert ranges[:3] == ["0-99999", "100000-199999", "200000-299999"]
    assert ranges[3] == ("201000-300999" if break_after else "300000-399999")


def test_a_registry_that_forgets(
    hostile: Scripted, options: Make, image_store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gives up with an error, however often it seems to get somewhere."""
    from sandbox.image.registry import upload as module

    monkeypatch.setattr(module, "CHUNK", 100_000)
    uploads = Uploads(hostile, largest=100_000)

    def forget(exchange: Exchange) -> None:
        if len(uploads.data) > 300_000:
            uploads.data = b""
        uploads.session(exchange)

    hostile.on(r"(PATCH|GET) /session/.*", forget)
    with pytest.raises(RegistryError):
        upload(hostile, options, image_store, 1_000_000)
    assert len(hostile.seen) < 100


def test_a_damaged_blob_is_not_passed_on(
    hostile: Scripted, options: Make, image_store: DirectoryStore
) -> None:
    uploads = Uploads(hostile)
    made = image({"a": noise(300_000)})
    image_store.add(made)
    path = image_store.blobs / made.layers[0].digest
    data = bytearray(path.read_bytes())
    data[7] ^= 1
    path.write_bytes(data)
    with pytest.raises(DigestError, match="the content of"):
        push(parse_reference(f"{hostile.name}/x:1"), image_store, options(hostile.name), made.manifest)
    assert made.layers[0].digest not in uploads.done
    assert not hostile.asked("PUT /v2/x/manifests/.*")


def test_a_registry_that_wants_larger_chunks(
    hostile: Scripted, options: Make, image_store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sandbox.image.registry import upload as module

    monkeypatch.setattr(module, "CHUNK", 10_000)
    uploads = Uploads(hostile, largest=400_000)

    def start(exchange: Exchange) -> None:
        uploads.sessions += 1
        uploads.data = b""
        location = f"/session/{uploads.sessions}?state=x"
        exchange.reply(202, headers={"Location": location, "OCI-Chunk-Min-Length": "400000"})

    hostile.on(r"POST /v2/x/blobs/uploads/.*", start)
    digest, data = upload(hostile, options, image_store, 1_000_000)
    assert uploads.done[digest] == data
    assert [len(each.body) for each in hostile.asked("PATCH .*")] == [400_000, 400_000, len(data) - 800_000]


def test_a_real_registry_takes_chunks(
    registry: Start,
    options: Make,
    image_store: DirectoryStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from sandbox.image.registry import upload as module

    def broken(*arguments: object) -> None:
        raise RegistryError("too large", status=413)

    monkeypatch.setattr(module, "CHUNK", 100_000)
    monkeypatch.setattr(module, "_send_whole", broken)
    made = image({"a": noise(1_234_567)})
    image_store.add(made)
    name = registry().name
    reference = parse_reference(f"{name}/x:1")
    push(reference, image_store, options(name), made.manifest)
    target = DirectoryStore(tmp_path / "target")
    pull(reference, target, None, options(name))
    assert has_all(target, made)
