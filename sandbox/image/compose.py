"""New images in the store: from an archive, from what a sandbox changed, from another image and a new layer.

The documents that are written here are ours; those that came from elsewhere are never written anew.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, BinaryIO, NamedTuple

from sandbox.errors import ImageError
from sandbox.image.confined import Bound
from sandbox.image.digest import Digest
from sandbox.image.durable import telling
from sandbox.image.layer.compress import compressor
from sandbox.image.manifest import OCI_CONFIG, OCI_MANIFEST, Descriptor
from sandbox.image.platform import Platform, host_platform
from sandbox.image.refs import to_json
from sandbox.image.store import Image, Stack, Store

__all__ = [
    "Changed",
    "Packed",
    "add_layer",
    "commit",
    "diff",
    "export",
    "import_rootfs",
    "pack",
    "source_date",
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
def pack(store: Store, archive: IO[bytes], compression: str = "gzip") -> Packed:
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
    document: dict[str, Any] = json.loads(base.config.raw) if base else _new_document(platform)
    layers = list(base.manifest.layers) if base else []
    if layer is not None:
        layers.append(layer.descriptor)
        document["rootfs"]["diff_ids"].append(layer.diff_id)
    when = _rfc3339(created)
    entry = {"created": when, **(step or {}), **({} if layer else {"empty_layer": True})}
    document["created"] = when
    document.setdefault("history", []).append(entry)
    values = {**(document.get("config") or {}), **(config or {})}
    document["config"] = {key: value for key, value in values.items() if value is not None}
    return _store_image(store, document, layers)


def _new_document(platform: Platform | None) -> dict[str, Any]:
    platform = platform or host_platform()
    document: dict[str, Any] = {"architecture": platform.architecture, "os": platform.os}
    if platform.variant:
        document["variant"] = platform.variant
    return {**document, "rootfs": {"type": "layers", "diff_ids": []}}


def _store_image(store: Store, document: Mapping[str, Any], layers: Sequence[Descriptor]) -> Image:
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


def _rfc3339(seconds: int | None) -> str:
    zone = datetime.UTC
    when = datetime.datetime.now(zone) if seconds is None else datetime.datetime.fromtimestamp(seconds, zone)
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


# --- from and to file systems -------------------------------------------------------------------------------


def import_rootfs(
    store: Store,
    file: BinaryIO,
    name: str,
    *,
    config: Mapping[str, Any] | None = None,
    message: str = "",
    created: int | None = None,
    platform: Platform | None = None,
) -> Image:
    """Make the root file system in the archive *file*, compressed or not, an image of one layer.

    It is unpacked at once: what can't be unpacked is no image.

    Raises:
        LayerError: the archive is no good.
    """
    with store.hold():
        with uncompressed(store, file) as plain:
            layer = pack(store, plain)
        step = {"created_by": "sandbox image import", **({"comment": message} if message else {})}
        image = add_layer(store, None, layer, config=config, step=step, created=created, platform=platform)
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
        ImageError: it can't be unpacked or written.
    """
    stack = store.stack(image)
    with stack.lease:
        store.confined.run("export", {"size": store.limits.size}, _lower(stack), stdout=out)


def diff(store: Store, base: Image, upper: str, driver: str = "overlay") -> list[Changed]:
    """What the writable layer in the directory *upper* changes of *base*: a directory before what is in it.

    *driver* is what mounted it: "overlay" or "fuse-overlayfs". Paths are absolute; bytes that are no text
    are as `os.fsdecode` has them.
    """
    stack = store.stack(base)
    binds = [Bound(os.path.realpath(upper), "/layer"), *_lower(stack)]
    found = []
    with stack.lease, store.confined.start("changes", {"driver": driver}, binds, stdout=_PIPE) as job:
        assert job.stdout is not None
        while line := job.stdout.readline(_MAX_LINE):
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
    config: Mapping[str, Any] | None = None,
    step: Mapping[str, str] | None = None,
    compression: str = "gzip",
    created: int | None = None,
) -> Image:
    """Make the writable layer in *upper* the uppermost layer of an image called *name*.

    Nobody may be writing to it. With *created* (`source_date()`), in seconds since 1970, no file is younger,
    and the same changes give the same image.

    Raises:
        LayerError: there is a file that no layer can have.
    """
    with store.hold():
        stack = store.stack(base)
        binds = [Bound(os.path.realpath(upper), "/layer"), *_lower(stack)]
        request = {"driver": driver, "size": store.limits.size, "latest": created}
        with stack.lease, store.confined.start("commit", request, binds, stdout=_PIPE) as job:
            assert job.stdout is not None
            layer = pack(store, job.stdout, compression)
        empty = not job.answer.get("entries")
        said = {"created_by": "sandbox commit", **(step or {})}
        image = add_layer(store, base, None if empty else layer, config=config, step=said, created=created)
        store.set_ref(name, image.descriptor)
    return image


def _lower(stack: Stack) -> list[Bound]:
    return [Bound(path, f"/lower/{number}") for number, path in enumerate(stack.lowers)]
