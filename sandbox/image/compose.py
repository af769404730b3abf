"""New images in the store: from an archive, from what a sandbox changed, from another image and a new layer.

The documents that are written here are ours; those that came from elsewhere are never written anew.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypedDict, Unpack

from sandbox.errors import ImageError, LayerError, SetupError
from sandbox.image.bound import Bound
from sandbox.image.digest import Digest
from sandbox.image.durable import telling
from sandbox.image.garbage import discard
from sandbox.image.layer.compress import compressor
from sandbox.image.layer.tar import MOST_REST
from sandbox.image.manifest import OCI_CONFIG, OCI_MANIFEST, Descriptor
from sandbox.image.platform import Platform, host_platform
from sandbox.image.refs import to_json
from sandbox.image.store import Image, Stack, Store
from sandbox.words import quote

if TYPE_CHECKING:
    from sandbox.image.layer.compress import Source

__all__ = [
    "Changed",
    "Packed",
    "Says",
    "add_layer",
    "commit",
    "diff",
    "document_of",
    "export",
    "import_directory",
    "import_rootfs",
    "new_document",
    "pack",
    "rfc3339",
    "source_date",
    "store_image",
]

_CHUNK = 1 << 20
_MAX_LINE = 1 << 16  # bytes of a path as JSON; PATH_MAX is a sixteenth
_PIPE = -1  # subprocess.PIPE
#: a layer's media type by how it is compressed
LAYER_TYPES = {
    "plain": "application/vnd.oci.image.layer.v1.tar",
    "gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    "zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
}


class Packed(NamedTuple):
    """A layer in the store: what it is, and the digest of it uncompressed."""

    descriptor: Descriptor
    diff_id: Digest


class Changed(NamedTuple):
    """One path that a writable layer changed: `kind` is "A" added, "C" changed or "D" deleted."""

    kind: str
    path: str


class Says(TypedDict, total=False):
    """What an image's documents say of a new layer.

    config: values that replace those of the configuration's "config" ("Env", "Cmd" ...); None takes one away
    step: the history's line: "created_by", "comment", "author"
    created: seconds since 1970 (`source_date`); None: now
    """

    config: Mapping[str, Any] | None
    step: Mapping[str, str] | None
    created: int | None


class Imported(TypedDict, total=False):
    """What an image's documents say of a file system that was imported.

    config, created: as in `Says`
    message: a comment for the history
    platform: what it is for; by default this machine's
    """

    config: Mapping[str, Any] | None
    message: str
    created: int | None
    platform: Platform | None


def source_date(environ: Mapping[str, str] = os.environ) -> int | None:
    """SOURCE_DATE_EPOCH (reproducible-builds.org), seconds since 1970; None when it is not set.

    Raises:
        ImageError: it is no number.
    """
    text = environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise ImageError(
            f"SOURCE_DATE_EPOCH is {text[:40]!r}, and not seconds since 1970",
            "export SOURCE_DATE_EPOCH=$(date +%s)",
        )
    return int(text)


@telling("store a layer")
def pack(store: Store, archive: Source, compression: str = "gzip") -> Packed:
    """Store an uncompressed *archive* as a layer. Nothing of it is interpreted."""
    squeeze = compressor(compression) if compression != "plain" else None
    plain = hashlib.sha256()
    with store.blobs.create() as blob:
        while data := archive.read(_CHUNK):
            plain.update(data)
            blob.write(squeeze.compress(data) if squeeze else data)
        if squeeze:
            blob.write(squeeze.flush())
        digest = blob.commit()
        descriptor = Descriptor(LAYER_TYPES[compression], digest, blob.size)
    return Packed(descriptor, Digest(f"sha256:{plain.hexdigest()}"))


def add_layer(
    store: Store,
    base: Image | None,
    layer: Packed | None,
    *,
    config: Mapping[str, Any] | None = None,
    step: Mapping[str, str] | None = None,
    created: int | None = None,
    platform: Platform | None = None,
) -> Image:
    """The image *base* with one more *layer* (None: none, but a line in its history).

    Args:
        config: values that replace those of the configuration's "config" ("Env", "Cmd" ...); None takes
            one away.
        step: what the history says of it: "created_by", "comment", "author".
        created: seconds since 1970; None: now.
        platform: of an image that has no base; this machine's by default.
    """
    document = document_of(base) if base else new_document(platform)
    layers = list(base.manifest.layers) if base else []
    if layer is not None:
        layers.append(layer.descriptor)
        document["rootfs"]["diff_ids"].append(layer.diff_id)
    when = rfc3339(created)
    entry = {"created": when, **(step or {}), **({} if layer else {"empty_layer": True})}
    document["created"] = when
    document["history"].append(entry)
    values = {**document["config"], **(config or {})}
    document["config"] = {key: value for key, value in values.items() if value is not None}
    return store_image(store, document, layers)


def new_document(platform: Platform | None) -> dict[str, Any]:
    """The configuration of an image without layers."""
    platform = platform or host_platform()
    document: dict[str, Any] = {"architecture": platform.architecture, "os": platform.os}
    if platform.variant:
        document["variant"] = platform.variant
    return {**document, "config": {}, "history": [], "rootfs": {"type": "layers", "diff_ids": []}}


def document_of(image: Image) -> dict[str, Any]:
    """The configuration of *image*, to be changed. What its maker left out, or wrote null for, is there."""
    document: dict[str, Any] = json.loads(image.config.raw)
    rootfs = {**(document.get("rootfs") or {}), "type": "layers", "diff_ids": list(image.config.diff_ids)}
    settings, history = dict(document.get("config") or {}), list(document.get("history") or ())
    return {**document, "config": settings, "history": history, "rootfs": rootfs}


def store_image(store: Store, document: Mapping[str, Any], layers: Sequence[Descriptor]) -> Image:
    """Store the image whose configuration is *document*, with *layers*, which are there."""
    raw = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    config = Descriptor(OCI_CONFIG, store.put_blob(raw), len(raw))
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": to_json(config),
        "layers": [to_json(layer) for layer in layers],
    }
    data = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    return store.image(Descriptor(OCI_MANIFEST, store.put_blob(data), len(data)))


def rfc3339(seconds: int | None) -> str:
    """A time as the documents of images have it; None: now."""
    zone = datetime.UTC
    when = datetime.datetime.now(zone) if seconds is None else datetime.datetime.fromtimestamp(seconds, zone)
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


# --- from and to file systems -------------------------------------------------------------------------------


def import_rootfs(
    store: Store,
    file: BinaryIO,
    name: str,
    **says: Unpack[Imported],
) -> Image:
    """Make the root file system in the archive *file*, compressed or not, an image of one layer.

    It is unpacked at once: what can't be unpacked is no image.

    Raises:
        LayerError: the archive is no good.
    """
    with _bringing(store) as brought:
        with uncompressed(store, file) as plain:
            layer = pack(store, _Begun(plain))
            brought.add(layer.descriptor.digest)  # whether it was a bomb is known now
        return _name_layer(store, layer, name, brought, says)


class _Begun:
    """An archive that has begun, and, where it begins with its end, ends: nothing is to be stored of
    /dev/zero, nor is what has no bytes an archive."""

    def __init__(self, archive: Source) -> None:
        self._archive = archive
        self._head = archive.read(512)
        if not self._head:
            raise LayerError(
                "the archive is empty, not a byte of it is there",
                "tar -C DIR -c . | sandbox image import - NAME",
            )
        self._left = MOST_REST if not self._head.strip(b"\0") else None

    def read(self, size: int, /) -> bytes:
        data, self._head = self._head or self._archive.read(size), b""
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                raise LayerError(f"the archive has more than {MOST_REST >> 20} MiB behind its end")
        return data


@telling("read the directory")
def import_directory(
    store: Store,
    directory: str,
    name: str,
    **says: Unpack[Imported],
) -> Image:
    """Make the root file system in *directory* an image of one layer. What is the caller's is root's there.

    Raises:
        LayerError: there is a file that no layer can have, or that can't be read.
    """
    binds = [Bound(os.path.realpath(directory), "/lower/0")]
    with _bringing(store) as brought:
        request = {"size": store.limits.size}
        try:
            with store.confined.start("export", request, binds, stdout=_PIPE) as job:
                assert job.stdout is not None
                layer = pack(store, job.stdout)
                brought.add(layer.descriptor.digest)
        except SetupError as error:
            if error.errno != errno.EINVAL:
                raise
            # mount_namespaces(7): what is mounted below can't be left out
            mend = f"tar -C {quote(directory)} --one-file-system -cf - . | sandbox image import - NAME"
            raise ImageError(
                f"something is mounted below {directory}, and can't be left out", mend
            ) from error
        return _name_layer(store, layer, name, brought, says)


@contextlib.contextmanager
def _bringing(store: Store) -> Iterator[set[Digest]]:
    """Hold the store, and remove the blobs that are put in this set if they come to nothing."""
    brought: set[Digest] = set()
    try:
        with store.hold():
            yield brought
    except BaseException:
        discard(store, brought)
        raise


def _name_layer(store: Store, layer: Packed, name: str, brought: set[Digest], says: Imported) -> Image:
    """An image of one layer, called *name* if it can be unpacked."""
    step = {"created_by": "sandbox image import"}
    if says.get("message"):
        step["comment"] = says["message"]
    image = add_layer(
        store,
        None,
        layer,
        config=says.get("config"),
        step=step,
        created=says.get("created"),
        platform=says.get("platform"),
    )
    brought.update((image.id, image.descriptor.digest))
    store.stack(image).lease.close()
    store.set_ref(name, image.descriptor)
    return image


@contextlib.contextmanager
def uncompressed(store: Store, file: IO[bytes]) -> Iterator[IO[bytes]]:
    """*file*, an open file with a descriptor, uncompressed by the confined child.

    Raises:
        LayerError: at the end: it is damaged, or a bomb.
    """
    limits = store.limits
    request = {"size": limits.size, "floor": limits.floor, "ratio": limits.ratio}
    with store.confined.start("uncompress", request, [], stdin=file, stdout=_PIPE) as job:
        assert job.stdout is not None
        yield job.stdout


def export(store: Store, image: Image, out: int | IO[bytes]) -> None:
    """Write the image's root file system to *out*, an open file with a descriptor, as one archive.

    Raises:
        ImageError: it can't be unpacked.
        OSError: *out* can't be written to.
    """
    stack, fd = store.stack(image), out if isinstance(out, int) else out.fileno()
    request = {"size": store.limits.size}
    with stack.lease, store.confined.start("export", request, _lower(stack), stdout=_PIPE) as job:
        assert job.stdout is not None
        while data := job.stdout.read(_CHUNK):  # by us: who writes for another can't say why it failed
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]


def diff(
    store: Store, base: Image, upper: str, driver: str = "overlay", ours: Sequence[str] | None = None
) -> list[Changed]:
    """What the writable layer in the directory *upper* changes of *base*: a directory before what is in it.

    *driver* is what mounted it: "overlay" or "fuse-overlayfs"; *ours* are paths that setting up the sandbox
    made, which do not count while they are empty. Paths are absolute; bytes that are no text
    are as `os.fsdecode` has them.
    """
    stack = store.stack(base)
    binds = [Bound(os.path.realpath(upper), "/layer"), *_lower(stack)]
    found = []
    with (
        stack.lease,
        store.confined.start("changes", {"driver": driver, "ours": ours}, binds, stdout=_PIPE) as job,
    ):
        assert job.stdout is not None
        while line := job.stdout.readline(_MAX_LINE):
            if len(line) == _MAX_LINE and not line.endswith(b"\n"):
                raise ImageError(
                    f"a path has changed that can't be shown: it has more than {_MAX_LINE} bytes"
                )
            try:
                said = json.loads(line)
                found.append(Changed(str(said["kind"]), str(said["path"])))
            except (ValueError, KeyError, TypeError):
                raise ImageError("the list of changes makes no sense") from None
    return found


def commit(
    store: Store,
    base: Image,
    upper: str,
    name: str,
    *,
    driver: str = "overlay",
    ours: Sequence[str] | None = None,
    compression: str = "gzip",
    **says: Unpack[Says],
) -> Image:
    """Make the writable layer in *upper*, which *driver* mounted, the top layer of an image called *name*.

    Nobody may be writing to it. *ours* as for `diff`. With `created` no file is younger, and the same
    changes give the same image.

    Raises:
        LayerError: there is a file that no layer can have.
    """
    with _bringing(store) as brought:
        stack = store.stack(base)
        binds = [Bound(os.path.realpath(upper), "/layer"), *_lower(stack)]
        request = {"driver": driver, "size": store.limits.size, "latest": says.get("created")}
        request["ours"] = ours
        with stack.lease, store.confined.start("commit", request, binds, stdout=_PIPE) as job:
            assert job.stdout is not None
            layer = pack(store, job.stdout, compression)
            brought.add(layer.descriptor.digest)  # whether all of it could be read is known now
        empty = not job.answer.get("entries")
        says["step"] = {"created_by": "sandbox commit", **(says.get("step") or {})}
        image = add_layer(store, base, None if empty else layer, **says)
        store.set_ref(name, image.descriptor)
    return image


def _lower(stack: Stack) -> list[Bound]:
    return [Bound(path, f"/lower/{number}") for number, path in enumerate(stack.lowers)]
