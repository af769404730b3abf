"""The image store: what the user's sandboxes share.

    index.json, oci-layout, blobs/   an OCI image layout: names, manifests, configurations, layers
    layers/                          unpacked layers (`sandbox.image.unpacked`)
    partial/, work/                  what is on its way, in or out
    leases/                          which unpacked layers are in use

The layout is the truth; everything else can be made again. One lock, held for moments, guards the names
and what is deleted because of them; `hold()` is held by whoever adds what no name reaches yet, so
that it is not taken for garbage. Nothing is locked while layers are unpacked but their own places.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, BinaryIO, Protocol

from sandbox import leases, paths
from sandbox.errors import HostError, ImageError
from sandbox.image.blobs import Blobs, Ingest
from sandbox.image.digest import Digest
from sandbox.image.durable import Waiting, locked, make_directory, telling, try_lock, write_file
from sandbox.image.manifest import (
    CONFIG_LIMIT,
    MANIFEST_LIMIT,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    parse_config,
    parse_manifest,
)
from sandbox.image.platform import Platform, choose, host_platform
from sandbox.image.refs import Refs
from sandbox.image.unpacked import Ids, Layer, Limits, Source, Unpacked

if TYPE_CHECKING:  # what launches is imported when something is unpacked
    from sandbox.host.model import Host
    from sandbox.image.confined import Confined
    from sandbox.launch.backend import Backend

__all__ = ["LAYOUT", "Image", "Layered", "Lease", "Stack", "Store", "lease_of"]

#: the file that marks an OCI layout
LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


class Image:
    """An image for one platform, as it is in a store. `descriptor` is its manifest's."""

    def __init__(self, descriptor: Descriptor, manifest: Manifest, config: ImageConfig) -> None:
        self.descriptor = descriptor
        self.manifest = manifest
        self.config = config

    @property
    def id(self) -> Digest:
        """The digest of its configuration: what docker calls the image's ID."""
        return self.manifest.config.digest

    def sources(self) -> list[Source]:
        """Its layers, lowest first."""
        pairs = zip(self.manifest.layers, self.config.diff_ids, strict=True)
        return [Source(layer.digest, diff_id) for layer, diff_id in pairs]


class Layered(Protocol):
    """What has layers: an image, or what is to become one."""

    def sources(self) -> list[Source]:
        """Its layers, lowest first."""


class Lease:
    """Keeps unpacked layers from being removed for as long as its descriptor, `fd`, is open, in this
    process or in one that it was given to."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        """Give the layers up; again is no error."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def lease_of(layers: Sequence[Layer]) -> tuple[str, tuple[str, ...]]:
    """The name of the lease on *layers*, and what it is on, for `sandbox.leases.take`."""
    keys = tuple(sorted({layer.key for layer in layers}))
    return hashlib.sha256("\n".join(keys).encode()).hexdigest(), keys


class Stack:
    """Unpacked layers to be mounted: `layers`, lowest first, under `ids`, for as long as `lease` is kept.

    `notes` are what whoever uses them should know, in sentences.
    """

    def __init__(self, layers: list[Layer], ids: Ids, lease: Lease, notes: list[str]) -> None:
        self.layers = layers
        self.ids = ids.plan
        self.lease = lease
        self.notes = notes

    @property
    def lowers(self) -> tuple[str, ...]:
        """Their directories, uppermost first, as overlayfs wants them."""
        return tuple(layer.files for layer in reversed(self.layers))


class Store:
    """The store at *path*; by default the user's own. Made when it is not there.

    Args:
        host: the machine; found out when it is needed.
        squash: unpack everything as the user's own files; None: only where there is no range of ids.
        limits: what one layer may have.

    Raises:
        ImageError: it can't be made or used.
    """

    def __init__(
        self,
        path: str | None = None,
        *,
        host: Host | None = None,
        squash: bool | None = None,
        limits: Limits = Limits(),  # noqa: B008
        backend: Backend | None = None,
    ) -> None:
        path = path or os.path.join(paths.data_dir(), "images")
        with telling(f"use the image store {path}"):
            make_directory(os.path.abspath(path))
            self.path = os.path.realpath(path)
            self.blobs = Blobs(self.path)
            self.refs = Refs(os.path.join(self.path, "index.json"))
            if not os.path.exists(os.path.join(self.path, "oci-layout")):
                self._make()
        self._host = host
        self._squash = squash
        self.limits = limits
        self._backend = backend
        self._unpacked: Unpacked | None = None
        #: why files do not belong to whom they should, "" when they do
        self.squashed = ""

    def _make(self) -> None:
        with self.locked():
            make_directory(os.path.join(self.path, "blobs", "sha256"))
            self.refs.make()
            write_file(os.path.join(self.path, "oci-layout"), LAYOUT)

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Hold the store's lock: for moments, and never while waiting for anything else."""
        return locked(os.path.join(self.path, "lock"))

    def hold(self) -> contextlib.AbstractContextManager[None]:
        """While this is held nothing is removed, even if no name reaches it yet. To be held around whatever
        adds blobs and then names them."""
        return locked(os.path.join(self.path, "sessions"), shared=True)

    @contextlib.contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether nobody holds the store; if so, nobody does meanwhile."""
        fd = os.open(os.path.join(self.path, "sessions"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            yield try_lock(fd)
        finally:
            os.close(fd)

    # --- blobs and names ------------------------------------------------------------------------------

    def has_blob(self, digest: Digest) -> bool:
        """Whether the blob is there, whole."""
        return self.blobs.has(digest)

    def open_blob(self, digest: Digest) -> BinaryIO:
        """Open a blob, which was verified when it came. Raises `ImageError` when it is not there."""
        return self.blobs.open(digest)

    def ingest(
        self, digest: Digest, size: int, *, waiting: Waiting | None = None
    ) -> contextlib.AbstractContextManager[Ingest]:
        """Receive a blob; see `Blobs.ingest`."""
        return self.blobs.ingest(digest, size, waiting=waiting)

    @telling("store a blob")
    def put_blob(self, data: bytes) -> Digest:
        """Store a small blob; its digest."""
        return self.blobs.put(data)

    def get_ref(self, name: str) -> Descriptor | None:
        """What *name* stands for."""
        return self.refs.all().get(name)

    def set_ref(self, name: str, descriptor: Descriptor) -> None:
        """Let *name* stand for *descriptor*.

        Raises:
            ImageError: the manifest is not there, or there are too many names.
        """
        self.set_refs({name: descriptor})

    @telling("name an image")
    def set_refs(self, new: Mapping[str, Descriptor]) -> None:
        """Let names stand for images: all of them, or none. Raises as `set_ref`."""
        for name, descriptor in new.items():
            if not self.blobs.has(descriptor.digest):
                raise ImageError(f"cannot name {descriptor.digest} {name}: it is not in the image store")
        with self.locked():
            self.refs.write({**self.refs.all(), **new})

    @telling("forget an image's name")
    def remove_ref(self, name: str) -> Descriptor | None:
        """Forget *name*; what it stood for."""
        with self.locked():
            refs = self.refs.all()
            found = refs.pop(name, None)
            if found is not None:
                self.refs.write(refs)
        return found

    # --- images ---------------------------------------------------------------------------------------

    def document(self, descriptor: Descriptor, where: str) -> Manifest | Index:
        """The manifest or index that *descriptor* names; *where* is for messages."""
        raw = self.blobs.read(descriptor.digest, MANIFEST_LIMIT)
        return parse_manifest(raw, descriptor.media_type, where)

    @telling("read an image")
    def image(self, descriptor: Descriptor, where: str = "", platform: Platform | None = None) -> Image:
        """The image that *descriptor* names, of an index the one for *platform* (this machine's).

        Raises:
            ImageError: it is not there, or is no image.
        """
        where = where or str(descriptor.digest)
        document = self.document(descriptor, where)
        if isinstance(document, Index):
            descriptor = choose(document.manifests, platform or host_platform(), where)
            document = self.document(descriptor, where)
        if isinstance(document, Index):
            raise ImageError(f"{where} is an index of an index")
        document.check_image(where)
        config = parse_config(self.blobs.read(document.config.digest, CONFIG_LIMIT), where)
        if len(config.diff_ids) != len(document.layers):
            raise ImageError(
                f"{where} has {len(document.layers)} layers, and its configuration {len(config.diff_ids)}"
            )
        return Image(descriptor, document, config)

    # --- unpacked layers --------------------------------------------------------------------------------

    @property
    def unpacked(self) -> Unpacked:
        """The unpacked layers, for this machine's ids."""
        if self._unpacked is None:
            host, ids = self._ids()
            from sandbox.image.confined import Confined

            confined = Confined(host, ids.plan, self._backend)
            self._unpacked = Unpacked(self.path, host, confined, ids, self.limits)
        return self._unpacked

    @property
    def confined(self) -> Confined:
        """What runs the programs that touch archives and other ids' files."""
        return self.unpacked.confined

    def _ids(self) -> tuple[Host, Ids]:
        """Root of the images is the user, the other ids are those of /etc/subuid; without them all are the
        user's."""
        from sandbox.ids import plan_ids
        from sandbox.profile.model import User

        if self._host is None:
            from sandbox import host as hosts

            self._host = hosts.probe()
        host = self._host
        try:
            plan = plan_ids(User(map="root", ids="range"), host)
        except HostError as error:
            plan = plan_ids(User(map="root", ids="single"), host)
            mend = f" ({error.mend})" if error.mend else ""
            self.squashed = f"{error.message}{mend}"
        return host, Ids(plan, plan.single if self._squash is None else self._squash or plan.single)

    @telling("unpack an image")
    def stack(self, image: Layered, *, waiting: Waiting | None = None) -> Stack:
        """The image's layers, unpacked, for as long as the stack's lease is kept.

        Raises:
            ImageError, SandboxError: as `Unpacked.ensure`.
        """
        unpacked, sources = self.unpacked, image.sources()
        for _ in range(10):
            with self.hold():
                layers = unpacked.ensure(sources, self.open_blob, waiting=waiting)
                fd = leases.take(self.path, *lease_of(layers))
                if fd >= 0:
                    return Stack(layers, unpacked.ids, Lease(fd), self.notes(layers))
        raise ImageError("the image's unpacked layers are removed again and again: is something cleaning up?")

    def leased(self) -> set[str]:
        """The names of all unpacked layers that are in use. Under the store's lock. Forgets leases that
        nobody keeps any more."""
        used: set[str] = set()
        directory = os.path.join(self.path, leases.DIRECTORY)
        for name in os.listdir(directory) if os.path.isdir(directory) else ():
            path = os.path.join(directory, name)
            with open(path, "rb") as file:
                if try_lock(file.fileno()):
                    os.unlink(path)
                else:
                    used.update(file.read().decode().splitlines())
        return used

    def notes(self, layers: Sequence[Layer]) -> list[str]:
        """What whoever uses *layers* should know, in sentences."""
        squashed, devices = sum(each.squashed for each in layers), sum(each.devices for each in layers)
        notes = []
        if squashed:
            why = f": {self.squashed}" if self.squashed else ""
            notes.append(f"{squashed} files belong to other users in the image, and to root here{why}")
        if devices:
            notes.append(f"{devices} devices of the image are left out: a user can make none")
        return notes
