"""Small images made by hand, and a store for tests of transfers: files in a directory, and nothing clever."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import io
import json
import random
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from sandbox.errors import DigestError, ImageError
from sandbox.image.digest import Digest, digest_of
from sandbox.image.manifest import (
    DOCKER_CONFIG,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
)
from sandbox.image.platform import host_platform


def layer_tar(content: dict[str, bytes]) -> bytes:
    """An uncompressed layer with these files."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes that don't compress, always the same."""
    return random.Random(seed).randbytes(size)


@dataclass
class Made:
    """An image: its blobs, with the manifest and the configuration among them."""

    blobs: dict[Digest, bytes] = field(default_factory=dict)
    manifest: Descriptor = field(init=False)
    layers: list[Descriptor] = field(default_factory=list)
    config: Descriptor = field(init=False)

    def add(self, data: bytes, media_type: str = "") -> Descriptor:
        """Add a blob; its descriptor."""
        digest = digest_of(data)
        self.blobs[digest] = data
        return Descriptor(media_type, digest, len(data))

    @property
    def raw(self) -> bytes:
        """The manifest's bytes."""
        return self.blobs[self.manifest.digest]


def entry(descriptor: Descriptor, **more: object) -> dict[str, object]:
    """A descriptor as JSON."""
    return {
        "mediaType": descriptor.media_type,
        "digest": str(descriptor.digest),
        "size": descriptor.size,
        **more,
    }


def image(*contents: dict[str, bytes], architecture: str = "", docker: bool = False) -> Made:
    """An image with a gzip layer for each of *contents*."""
    made = Made()
    diff_ids = []
    for content in contents or ({"hello": b"hello\n"},):
        tar = layer_tar(content)
        diff_ids.append("sha256:" + hashlib.sha256(tar).hexdigest())
        kind = "application/vnd.docker.image.rootfs.diff.tar.gzip" if docker else _OCI_GZIP
        made.layers.append(made.add(gzip.compress(tar, 1, mtime=0), kind))
    config = {
        "architecture": architecture or host_platform().architecture,
        "os": "linux",
        "config": {"Cmd": ["/hello"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created_by": "a test"} for _ in diff_ids],
    }
    made.config = made.add(json.dumps(config).encode(), DOCKER_CONFIG if docker else OCI_CONFIG)
    media_type = DOCKER_MANIFEST if docker else OCI_MANIFEST
    manifest = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": entry(made.config),
        "layers": [entry(layer) for layer in made.layers],
    }
    made.manifest = made.add(json.dumps(manifest, indent=3).encode(), media_type)
    return made


_OCI_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"


def index(*images: tuple[Made, dict[str, str] | None]) -> Made:
    """An index of images with their platforms (`{"os": …, "architecture": …}`)."""
    made = Made()
    entries = []
    for each, platform in images:
        made.blobs.update(each.blobs)
        entries.append(entry(each.manifest, **({"platform": platform} if platform else {})))
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    made.manifest = made.add(json.dumps(document).encode(), OCI_INDEX)
    return made


# --- a store ---------------------------------------------------------------------------------------------


class DirectoryStore:
    """Blobs as files, names as files. What a pull needs of a store, and no more."""

    def __init__(self, directory: Path) -> None:
        self.blobs = directory / "blobs"
        self.partial = directory / "partial"
        self.refs = directory / "refs"
        for each in (self.blobs, self.partial, self.refs):
            each.mkdir(parents=True, exist_ok=True)

    def add(self, made: Made) -> None:
        """Have all blobs of an image."""
        for data in made.blobs.values():
            self.put_blob(data)

    def hold(self) -> Any:
        return nullcontext()

    def has_blob(self, digest: Digest, /) -> bool:
        return (self.blobs / digest).exists()

    def open_blob(self, digest: Digest, /) -> IO[bytes]:
        try:
            return (self.blobs / digest).open("rb")
        except FileNotFoundError:
            raise ImageError(f"there is no {digest}") from None

    def put_blob(self, data: bytes, /) -> Digest:
        digest = digest_of(data)
        (self.blobs / digest).write_bytes(data)
        return digest

    @contextmanager
    def ingest(
        self, digest: Digest, size: int, /, *, waiting: Callable[[], None] | None = None
    ) -> Iterator[FileIngest]:
        with (self.partial / f"{digest}.lock").open("w") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if waiting:
                        waiting()
                    time.sleep(0.02)
            with (self.partial / digest).open("ab+") as file:
                yield FileIngest(self, digest, size, file)

    def set_ref(self, name: str, descriptor: Descriptor, /) -> None:
        text = json.dumps(entry(descriptor))
        (self.refs / hashlib.sha256(name.encode()).hexdigest()).write_text(text)

    def get_ref(self, name: str, /) -> Descriptor | None:
        path = self.refs / hashlib.sha256(name.encode()).hexdigest()
        if not path.exists():
            return None
        data = json.loads(path.read_text())
        return Descriptor(data["mediaType"], Digest(data["digest"]), data["size"])


class FileIngest:
    """A blob on its way into a `DirectoryStore`."""

    def __init__(self, store: DirectoryStore, digest: Digest, size: int, file: IO[bytes]) -> None:
        self._store, self._digest, self._size, self._file = store, digest, size, file
        self.present = store.has_blob(digest)

    @property
    def offset(self) -> int:
        return self._file.seek(0, 2)

    def write(self, data: bytes, /) -> None:
        self._file.write(data)
        self._file.flush()

    def reset(self) -> None:
        self._file.truncate(0)

    def commit(self) -> None:
        path = self._store.partial / self._digest
        data = path.read_bytes()
        if len(data) != self._size or digest_of(data, self._digest.algorithm) != self._digest:
            self.reset()
            raise DigestError(f"{self._digest} is not what came")
        path.rename(self._store.blobs / self._digest)
