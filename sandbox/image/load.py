"""Images from files: OCI layouts in directories and archives, and docker's archives.

What is read becomes blobs as it comes, each named by its digest; then the documents that came along say
which of them make an image. Names in an archive only find things in it: nothing is written by them.
What no image needed is removed again.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import IO, Protocol

from sandbox.errors import DigestError, ImageError
from sandbox.image import strict_json
from sandbox.image.compose import LAYER_TYPES, uncompressed
from sandbox.image.digest import Digest
from sandbox.image.durable import telling
from sandbox.image.garbage import discard
from sandbox.image.layer.compress import Plain, format_of
from sandbox.image.layer.names import clean, printable
from sandbox.image.layer.tar import Limits, Reader
from sandbox.image.manifest import (
    CONFIG_LIMIT,
    MANIFEST_LIMIT,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    parse_config,
    parse_manifest,
)
from sandbox.image.reference import parse_reference
from sandbox.image.refs import FULL_NAME, NAME, to_json
from sandbox.image.store import Store

__all__ = ["load"]

_CHUNK = 1 << 20
#: Images in one archive.
_MOST_IMAGES = 1000
_MOST_LINKS = 40
_MOST_FILES = 100_000


@telling("load images")
def load(store: Store, source: str | IO[bytes], name: str | None = None) -> list[str]:
    """Take images from *source*: a directory with an OCI layout, or an archive, as a path or an open file
    with a descriptor. Returns their names in the store.

    *name* is for a source with one image; by default it is what the source says.

    Raises:
        ImageError: it is none of these, or damaged; then nothing of it is kept.
    """
    stem = _stem(source) if isinstance(source, str) else ""
    brought: set[Digest] = set()
    try:
        with store.hold(), contextlib.ExitStack() as stack:
            parts: _Parts
            if isinstance(source, str) and os.path.isdir(source):
                parts = _Directory(store, brought, source)
            else:
                file = stack.enter_context(open(source, "rb", 0)) if isinstance(source, str) else source
                parts = _Archive(store, brought, stack.enter_context(uncompressed(store, file)))
            named = list(_images(store, parts, name, stem))
            if name is not None and len(named) > 1:
                raise ImageError(f"it has {len(named)} images, which can't all be called {name}")
            store.set_refs(dict(named))
            return [key for key, _ in named]
    finally:
        discard(store, brought)


def _stem(path: str) -> str:
    """What an image without a name is called, by the file that it came in."""
    name = os.path.basename(os.path.abspath(path)).lower()
    for end in (".gz", ".zst", ".xz", ".bz2", ".tar", ".tgz", ".oci"):
        name = name.removesuffix(end)
    return name


# --- what images come in ------------------------------------------------------------------------------------


class _Parts(Protocol):
    """Files by their names in the source. `brought`: blobs that go again unless an image needs them."""

    brought: set[Digest]

    def has(self, path: str) -> bool:
        """Whether there is such a file."""
        ...

    def bring(self, path: str) -> Digest:
        """Make a file a blob of the store, unless it is one. Raises `ImageError` when it isn't there."""
        ...


class _Archive:
    """A tar archive, read once, from the front to the back: every file becomes a blob."""

    def __init__(self, store: Store, brought: set[Digest], file: IO[bytes]) -> None:
        self.brought = brought
        self._files: dict[str, Digest] = {}
        self._links: dict[str, str] = {}
        chunks = iter(lambda: file.read(_CHUNK), b"")
        reader = Reader(Plain(chunks), Limits(_MOST_FILES, store.limits.size))
        for each in reader:
            path = os.fsdecode(b"/".join(clean(each.name)))
            if each.kind == "file" and each.sparse is None:
                with store.blobs.create() as blob:
                    for piece in reader.content():
                        blob.write(piece)
                    new = blob.digest not in brought and not store.has_blob(blob.digest)
                    self._files[path] = blob.commit()
                    if new:
                        brought.add(self._files[path])
            elif each.kind in ("symlink", "hardlink"):
                above = os.path.dirname(path) if each.kind == "symlink" else ""
                self._links[path] = os.path.normpath(os.path.join(above, os.fsdecode(each.link)))

    def _follow(self, path: str) -> str:
        for _ in range(_MOST_LINKS):
            if path not in self._links:
                break
            path = self._links[path]
        return path

    def has(self, path: str) -> bool:
        return self._follow(path) in self._files

    def bring(self, path: str) -> Digest:
        try:
            return self._files[self._follow(path)]
        except KeyError:
            raise ImageError(f"the archive has no {printable(os.fsencode(path))}") from None


class _Directory:
    """A directory; its blobs are read when they are needed. No name and no link in it leads out."""

    def __init__(self, store: Store, brought: set[Digest], top: str) -> None:
        self._store, self.brought, self._top = store, brought, os.path.realpath(top)

    def has(self, path: str) -> bool:
        whole = os.path.realpath(os.path.join(self._top, path))
        return self._has_inside(whole) and os.path.isfile(whole)

    def _has_inside(self, real: str) -> bool:
        return os.path.commonpath((self._top, real)) == self._top

    def bring(self, path: str) -> Digest:
        whole = os.path.realpath(os.path.join(self._top, path))
        if not self._has_inside(whole):
            raise ImageError(f"{printable(os.fsencode(path))} leads out of {self._top}")
        try:
            fd = os.open(whole, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            raise ImageError(f"there is no {whole}") from None
        with open(fd, "rb", 0) as file, self._store.blobs.create() as blob:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ImageError(f"{whole} is no file")
            while data := file.read(_CHUNK):
                blob.write(data)
            if not self._store.has_blob(blob.digest):
                self.brought.add(blob.digest)
            return blob.commit()


# --- which files make an image --------------------------------------------------------------------------


def _images(store: Store, parts: _Parts, name: str | None, stem: str) -> Iterator[tuple[str, Descriptor]]:
    """(name in the store, what it stands for) of every image."""
    if parts.has("index.json") and parts.has("oci-layout"):
        yield from _from_layout(store, parts, name, stem)
    elif parts.has("manifest.json"):
        yield from _from_docker(store, parts, name, stem)
    else:
        raise ImageError(
            "it has no index.json with an oci-layout, as OCI has them, nor docker's manifest.json",
            "if it is a root file system: sandbox image import FILE NAME",
        )


def _from_layout(
    store: Store, parts: _Parts, name: str | None, stem: str
) -> Iterator[tuple[str, Descriptor]]:
    raw = store.blobs.read(parts.bring("index.json"), MANIFEST_LIMIT)
    index = parse_manifest(raw, OCI_INDEX, "index.json")
    assert isinstance(index, Index)
    if len(index.manifests) > _MOST_IMAGES:
        raise ImageError(f"index.json has more than {_MOST_IMAGES} images")
    for each in index.manifests:
        _bring_image(store, parts, each, 0)
        told = each.annotations.get(FULL_NAME) or each.annotations.get(NAME, "")
        yield _name(name, told, stem, each.digest), replace(each, annotations={})


def _bring_image(store: Store, parts: _Parts, descriptor: Descriptor, depth: int) -> None:
    """Bring what an image needs. Of an index what is there, which must be something."""
    _bring_blob(store, parts, descriptor)
    document = store.document(descriptor, str(descriptor.digest))
    if isinstance(document, Manifest):
        for each in (document.config, *document.layers):
            _bring_blob(store, parts, each)
        return
    there = [each for each in document.manifests if parts.has(_blob_path(each.digest))]
    if depth > 1 or not there:
        raise ImageError(f"{descriptor.digest} is an index of which nothing is there")
    for each in there:
        _bring_image(store, parts, each, depth + 1)


def _blob_path(digest: Digest) -> str:
    return f"blobs/{digest.algorithm}/{digest.hex}"


def _bring_blob(store: Store, parts: _Parts, descriptor: Descriptor) -> None:
    if not store.has_blob(descriptor.digest):
        found = parts.bring(_blob_path(descriptor.digest))
        if found != descriptor.digest:
            _check_other(store, found, descriptor)
            parts.brought.add(descriptor.digest)
    if store.blobs.size(descriptor.digest) != descriptor.size:
        raise DigestError(f"{descriptor.digest} is not the {descriptor.size} bytes that were announced")


def _check_other(store: Store, found: Digest, descriptor: Descriptor) -> None:
    """Files are taken by their sha256; what has another digest is looked at again."""
    if descriptor.digest.algorithm == "sha256":
        raise DigestError(f"the content of {descriptor.digest} is another: its digest is {found}")
    with store.open_blob(found) as file, store.ingest(descriptor.digest, descriptor.size) as ingest:
        if not ingest.present:
            ingest.reset()
            while data := file.read(_CHUNK):
                ingest.write(data)
            ingest.commit()


def _from_docker(
    store: Store, parts: _Parts, name: str | None, stem: str
) -> Iterator[tuple[str, Descriptor]]:
    """docker save's format: manifest.json lists configurations and uncompressed layers by their names."""
    raw = store.blobs.read(parts.bring("manifest.json"), MANIFEST_LIMIT)
    document = strict_json.parse(b'{"images":' + raw + b"}", "manifest.json", MANIFEST_LIMIT + 20)
    count = 0
    for each in document.objects("images", _MOST_IMAGES):
        config = parts.bring(each.text("Config"))
        layers = [parts.bring(path) for path in each.strings("Layers")]
        descriptor = _manifest_for(store, config, layers)
        parts.brought.add(descriptor.digest)
        names = each.strings("RepoTags") if name is None else ()
        count += len(names)
        if count > _MOST_IMAGES:
            raise ImageError(f"manifest.json has more than {_MOST_IMAGES} names")
        for told in names or ("",):
            yield _name(name, told, stem, descriptor.digest), descriptor


def _manifest_for(store: Store, config: Digest, layers: Sequence[Digest]) -> Descriptor:
    """A manifest for a configuration and layers that came without one."""
    raw = store.blobs.read(config, CONFIG_LIMIT)
    diff_ids = parse_config(raw).diff_ids
    if len(diff_ids) != len(layers):
        raise ImageError(f"the archive has {len(layers)} layers, and its configuration {len(diff_ids)}")
    entries = []
    for number, (digest, diff_id) in enumerate(zip(layers, diff_ids, strict=True), 1):
        with store.open_blob(digest) as file:
            form = format_of(file.read(6))
        if form not in LAYER_TYPES:
            raise ImageError(f"layer {number} is compressed with {form}, which no image's is")
        if form == "plain" and digest != diff_id:
            raise DigestError(f"layer {number} is {digest}, and its configuration says {diff_id}")
        entries.append(to_json(Descriptor(LAYER_TYPES[form], digest, store.blobs.size(digest) or 0)))
    described = to_json(Descriptor(OCI_CONFIG, config, len(raw)))
    manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described, "layers": entries}
    data = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    return Descriptor(OCI_MANIFEST, store.put_blob(data), len(data))


def _name(given: str | None, told: str, stem: str, digest: Digest) -> str:
    """What an image is called in the store: as it was *given*; as the archive has *told*, whole or only a
    tag; or by the file it came in. A name by digest is by its own, whatever the archive says: who asks for
    that image by its digest must get no other."""
    text = given or told or stem
    if not given and told and not set(":/@") & set(told):
        text = f"{stem}:{told}" if stem else told
    if not text:
        raise ImageError("the archive does not say what its image is called", "say it: --name NAME")
    reference = parse_reference(text)
    return reference.with_digest(digest).key if reference.digest else reference.key
