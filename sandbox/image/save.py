"""Images to files: OCI layouts in directories and archives, and docker's archives.

The same images always give the same bytes. Whatever is written was verified on the way.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import IO, BinaryIO

from sandbox.errors import DigestError, ImageError
from sandbox.image.digest import Digest, VerifiedReader
from sandbox.image.durable import telling
from sandbox.image.garbage import reach
from sandbox.image.layer.writer import Writer, entry
from sandbox.image.listing import Listed
from sandbox.image.manifest import OCI_INDEX, Descriptor
from sandbox.image.reference import parse_reference
from sandbox.image.refs import FULL_NAME, NAME, to_json
from sandbox.image.store import LAYOUT, Image, Store
from sandbox.image.unpacked import Source
from sandbox.words import quote

__all__ = ["save", "save_directory"]

_CHUNK = 1 << 20

#: path, size in bytes, and content
_File = tuple[str, int, Iterator[bytes]]


@telling("save images")
def save(store: Store, images: Sequence[Listed], out: BinaryIO, form: str = "oci") -> None:
    """Write *images* to *out* as one archive: an OCI layout ("oci"), or docker's format ("docker").

    The same images always give the same bytes.

    Raises:
        ImageError: something is missing or damaged.
    """
    writer = Writer(out)
    if form == "docker":
        _save_docker(store, images, writer)
    else:
        # Directories, too: skopeo 1.9 makes missing ones root's, which a user can't.
        for path in ("blobs/", "blobs/sha256/"):
            writer.add(entry("dir", path.encode(), mode=0o755))
        documents, blobs = _layout(store, images)
        for path, size, content in (*documents, *blobs):
            _add(writer, path, size, content)
    writer.finish()


@telling("save images")
def save_directory(store: Store, images: Sequence[Listed], path: str) -> None:
    """Write *images* as an OCI layout into the directory *path*, which must be new or empty.

    The list of images comes last: before it the directory is no layout. When something fails, what was
    written is removed again.
    """
    documents, blobs = _layout(store, images)
    was_there = os.path.isdir(path)
    os.makedirs(path, exist_ok=True)
    if os.listdir(path):
        raise ImageError(f"{path} is not empty", f"rm -r {quote(path)}")
    try:
        for name, _, content in (*blobs, *documents):
            file = os.path.join(path, name)
            os.makedirs(os.path.dirname(file), exist_ok=True)
            with open(file, "xb") as out:
                out.writelines(content)
    except BaseException:
        shutil.rmtree(os.path.join(path, "blobs"), ignore_errors=True)
        for name, *_ in documents:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(path, name))
        if not was_there:
            os.rmdir(path)
        raise


def _layout(store: Store, images: Sequence[Listed]) -> tuple[list[_File], list[_File]]:
    """The files of an OCI layout (image-spec, image-layout.md): documents, which name the images, and blobs.

    Raises:
        ImageError: something is missing.
    """
    roots = [(each.name, _complete(store, each)) for each in images]
    entries = []
    for name, root in roots:
        entries.append(to_json(replace(root, annotations={NAME: name, FULL_NAME: name})))
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    blobs = []
    for digest in sorted(reach(store, [root for _, root in roots]).blobs):
        size = store.blobs.size(digest)
        if size is None:
            raise ImageError(f"the image store has no blob {digest}", "sandbox image check --repair")
        blobs.append((f"blobs/{digest.algorithm}/{digest.hex}", size, _verified(store, digest, size)))
    return [_document("oci-layout", LAYOUT), _document("index.json", json.dumps(index).encode())], blobs


def _complete(store: Store, listed: Listed) -> Descriptor:
    """What the name stands for, if all of it is there; of an index else this machine's image."""
    if all(store.has_blob(digest) for digest in reach(store, [listed.descriptor]).blobs):
        return listed.descriptor
    return _usable(listed).descriptor


def _usable(listed: Listed) -> Image:
    if listed.image is None:
        raise ImageError(listed.problem)
    return listed.image


def _document(path: str, data: bytes) -> _File:
    return path, len(data), iter([data])


def _verified(store: Store, digest: Digest, size: int) -> Iterator[bytes]:
    with VerifiedReader(store.open_blob(digest), digest, size) as reader:
        while data := reader.read(_CHUNK):
            yield data


def _save_docker(store: Store, images: Sequence[Listed], writer: Writer) -> None:
    entries, written = [], set[str]()
    for listed in images:
        image = _usable(listed)
        config = image.manifest.config
        path = f"{config.digest.hex}.json"
        if path not in written:
            _add(writer, path, config.size, _verified(store, config.digest, config.size))
        for source in image.sources():
            if f"{source.diff_id.hex}.tar" not in written:
                _add_layer(store, writer, source)
        layers = [f"{source.diff_id.hex}.tar" for source in image.sources()]
        written.update((path, *layers))
        tag = _repo_tag(listed.name)
        entries.append({"Config": path, "RepoTags": [tag] if tag else None, "Layers": layers})
    _add(writer, *_document("manifest.json", json.dumps(entries).encode()))


def _add(writer: Writer, path: str, size: int, content: Iterator[bytes]) -> None:
    writer.add(entry("file", path.encode(), mode=0o644, size=size, stored=size), content)


def _add_layer(store: Store, writer: Writer, source: Source) -> None:
    with _uncompressed_layer(store, source) as file:
        size = os.fstat(file.fileno()).st_size
        _add(writer, f"{source.diff_id.hex}.tar", size, iter(lambda: file.read(_CHUNK), b""))


def _repo_tag(name: str) -> str:
    """A name as docker writes it; "" for one that has no tag."""
    try:
        reference = parse_reference(name)
    except ImageError:
        return ""
    return "" if reference.digest else reference.familiar


@contextlib.contextmanager
def _uncompressed_layer(store: Store, source: Source) -> Iterator[IO[bytes]]:
    """A layer, uncompressed, as a file without a name; verified."""
    with tempfile.TemporaryFile(dir=store.path) as file:
        limits = store.limits
        request = {"size": limits.size, "floor": limits.floor, "ratio": limits.ratio}
        with store.open_blob(source.blob) as blob:
            answer = store.confined.run("uncompress", request, [], stdin=blob, stdout=file)
        if answer.get("digest") != source.diff_id:
            raise DigestError(f"the layer {source.blob} has another content than its image says")
        file.seek(0)
        yield file
