"""Pulling images into a store.

The mirrors are asked, then the registry; all that comes is verified, and the name is set last. What was
interrupted leaves blobs and beginnings of blobs, which the next pull goes on from, and never the name of
something incomplete.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from sandbox.errors import DigestError, ImageError
from sandbox.image.config import Endpoint
from sandbox.image.digest import Digest
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
from sandbox.image.platform import Platform, accepts, choose, host_platform
from sandbox.image.reference import Reference
from sandbox.image.registry import client
from sandbox.image.registry.session import Session
from sandbox.image.transfer import (
    DEPTH,
    Ingest,
    Options,
    StorageError,
    Store,
    has,
    in_parallel,
    label,
    read_small,
    storing,
)
from sandbox.units import format_size

__all__ = ["Image", "Pulled", "Wanted", "pull", "remote_digest"]

#: A platform, None for this machine's, "all" for an index with everything in it.
Wanted = Platform | Literal["all"] | None

#: How many manifests may be read for one pull.
_DOCUMENTS = 200


@dataclass(frozen=True, slots=True)
class Image:
    """An image for one platform, in the store."""

    descriptor: Descriptor
    manifest: Manifest
    config: ImageConfig


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull brought: the name, what it stands for now, and the images in it (one, or an index's)."""

    reference: Reference
    descriptor: Descriptor
    images: tuple[Image, ...]


def pull(
    reference: Reference,
    store: Store,
    platform: Wanted,
    options: Options,
    ready: Callable[[Descriptor], object] | None = None,
) -> Pulled:
    """Bring an image into *store* under the name of *reference*, and with it all its blobs.

    *ready* is called with what the name is going to stand for, when all of it is there. When it raises, the
    name stands for what it stood for before.

    Raises:
        RegistryError: no mirror and no registry could give it.
        DigestError: what came is not what it should be.
        ImageError: there is none for the platform, it is no image, or the store can't take it.
    """
    with store.hold():
        pulled = _from_somewhere(reference, store, platform, options)
        if ready is not None:
            ready(pulled.descriptor)
        store.set_ref(reference.key, pulled.descriptor)
    return pulled


def _from_somewhere(reference: Reference, store: Store, platform: Wanted, options: Options) -> Pulled:
    """From the first mirror that has it, or the registry."""
    *mirrors, registry = options.registries.sources(reference)
    before = ""
    for mirror in mirrors:
        try:
            return _pull_from(mirror, reference, store, platform, options)
        except StorageError:
            raise
        except ImageError as error:
            options.progress.say(f"not from the mirror {mirror.host.name}: {error.message}")
            before += f"; the mirror {mirror.host.name}: {error.message}"
    try:
        return _pull_from(registry, reference, store, platform, options)
    except ImageError as error:
        error.message += before
        raise


def _pull_from(
    endpoint: Endpoint, reference: Reference, store: Store, platform: Wanted, options: Options
) -> Pulled:
    with Session(endpoint, options.context()) as session:
        return _Pull(session, reference, store, platform, options).run()


def remote_digest(reference: Reference, options: Options) -> Digest | None:
    """What a name stands for in the registry now, without reading it; None: it isn't there.

    Raises:
        RegistryError: the registry does not say.
    """
    with Session(options.registries.target(reference), options.context()) as session:
        return client.find_manifest(session, reference.identifier)


class _Pull:
    def __init__(
        self, session: Session, reference: Reference, store: Store, platform: Wanted, options: Options
    ) -> None:
        self._session = session
        self._reference = reference
        self._where = reference.familiar
        self._store = store
        self._platform = platform
        self._wanted = platform if isinstance(platform, Platform) else host_platform()
        self._options = options
        self._documents = 0

    def run(self) -> Pulled:
        raw, descriptor = self._top()
        parsed = parse_manifest(raw, descriptor.media_type, self._where)
        descriptor = replace(descriptor, media_type=parsed.media_type)
        if isinstance(parsed, Index) and self._platform == "all":
            images = self._everything(parsed, descriptor, 0)
        else:
            images = [self._one(parsed, descriptor)]
            descriptor = images[0].descriptor
        return Pulled(self._reference, descriptor, tuple(images))

    def _one(self, parsed: Manifest | Index, descriptor: Descriptor) -> Image:
        """The image for the platform, all of it in the store."""
        manifest = parsed
        if isinstance(manifest, Index):
            descriptor, manifest = self._choose(manifest, descriptor)
        config = self._config(manifest)
        if manifest is parsed and self._platform != "all":
            self._check_platform(config)
        self._layers(manifest)
        self._keep(descriptor, manifest.raw)
        platform = config.platform if config.architecture else None
        return Image(replace(descriptor, annotations={}, platform=platform, urls=()), manifest, config)

    # -- documents ----------------------------------------------------------------------------------------

    def _top(self) -> tuple[bytes, Descriptor]:
        """What the reference names."""
        digest = self._reference.digest
        if digest is not None and self._store.has_blob(digest):
            raw = read_small(self._store, digest, MANIFEST_LIMIT)
            return raw, Descriptor("", digest, len(raw))
        document = client.fetch_manifest(self._session, self._reference.identifier)
        return document.raw, Descriptor(document.media_type, document.digest, len(document.raw))

    def _document(self, descriptor: Descriptor) -> Manifest | Index:
        """What an index's entry names, from the store if it is there."""
        self._documents += 1
        if self._documents > _DOCUMENTS:
            raise ImageError(f"{self._where} has more than {_DOCUMENTS} manifests")
        if has(self._store, descriptor):
            raw = read_small(self._store, descriptor.digest, MANIFEST_LIMIT)
        else:
            raw = client.fetch_manifest(self._session, descriptor.digest, descriptor).raw
        return parse_manifest(raw, descriptor.media_type, f"{self._where} ({descriptor.digest})")

    def _choose(self, index: Index, descriptor: Descriptor, depth: int = 0) -> tuple[Descriptor, Manifest]:
        """The manifest for the platform, however deep it lies; the indexes on the way are kept."""
        self._check_depth(depth)
        self._keep(descriptor, index.raw)
        entry = choose(index.manifests, self._wanted, self._where)
        found = self._document(entry)
        return self._choose(found, entry, depth + 1) if isinstance(found, Index) else (entry, found)

    def _everything(self, index: Index, descriptor: Descriptor, depth: int) -> list[Image]:
        """All that an index names, images or not; those that are."""
        self._check_depth(depth)
        images: list[Image] = []
        for entry in index.manifests:
            found = self._document(entry)
            if isinstance(found, Index):
                images += self._everything(found, entry, depth + 1)
                continue
            if found.is_image:
                images.append(Image(entry, found, self._config(found)))
            elif not has(self._store, found.config):
                self._keep(found.config, client.fetch_document(self._session, found.config, CONFIG_LIMIT))
            self._layers(found)
            self._keep(entry, found.raw)
        self._keep(descriptor, index.raw)
        return images

    def _check_depth(self, depth: int) -> None:
        if depth >= DEPTH:
            raise ImageError(f"{self._where} is an index of indexes, more than {DEPTH} deep")

    def _config(self, manifest: Manifest) -> ImageConfig:
        manifest.check_image(self._where)
        if has(self._store, manifest.config):
            raw = read_small(self._store, manifest.config.digest, CONFIG_LIMIT)
        else:
            raw = client.fetch_document(self._session, manifest.config, CONFIG_LIMIT)
        config = parse_config(raw, f"the configuration of {self._where}")
        count = len(manifest.layers)
        if len(config.diff_ids) != count:
            names = len(config.diff_ids)
            raise ImageError(f"{self._where} has {count} layers, and its configuration names {names}")
        self._keep(manifest.config, raw)
        return config

    def _check_platform(self, config: ImageConfig) -> None:
        """An image without an index has one platform, which may be another than ours."""
        if not config.architecture or accepts(self._wanted, config.platform):
            return
        there = config.platform
        reason = "was asked for" if self._platform else "is what this machine runs"
        mend = f"ask for it: --platform {there}" if there.os == "linux" else None
        raise ImageError(f"{self._where} is for {there}, and {self._wanted} {reason}", mend)

    def _keep(self, descriptor: Descriptor, raw: bytes) -> None:
        """Put a small blob that was verified into the store."""
        if self._store.has_blob(descriptor.digest):
            return
        with storing(self._where):
            if descriptor.digest.algorithm == "sha256":
                self._store.put_blob(raw)
                return
            waiting = self._session.context.stop.check
            with self._store.ingest(descriptor.digest, len(raw), waiting=waiting) as ingest:
                if not ingest.present:
                    ingest.reset()
                    ingest.write(raw)
                    ingest.commit()

    # -- layers -------------------------------------------------------------------------------------------

    def _layers(self, manifest: Manifest) -> None:
        layers = {layer.digest: layer for layer in manifest.layers if not layer.is_foreign}
        total = sum(layer.size for layer in layers.values())
        if self._options.limit and total > self._options.limit:
            raise ImageError(
                f"the layers of {self._where} have {format_size(total)}, "
                f"more than the limit of {format_size(self._options.limit)}"
            )
        jobs = []
        for layer in layers.values():
            if has(self._store, layer):
                self._options.progress.begin(layer.digest, label(layer), layer.size)
                self._options.progress.end(layer.digest, "already there")
            else:
                jobs.append(partial(self._layer, layer))
        in_parallel(jobs, self._options.parallel, self._session)

    def _layer(self, layer: Descriptor) -> None:
        progress = self._options.progress
        progress.begin(layer.digest, label(layer), layer.size)
        with (
            storing(self._where),
            self._store.ingest(layer.digest, layer.size, waiting=self._waiting(layer)) as ingest,
        ):
            note = "already there" if ingest.present else self._fetch(layer, ingest)
        progress.end(layer.digest, note)

    def _fetch(self, layer: Descriptor, ingest: Ingest) -> str:
        at = partial(self._options.progress.at, layer.digest)
        kept = ingest.offset
        try:
            client.fetch_blob(self._session, layer, ingest, at)
            ingest.commit()
        except DigestError:
            if not kept:
                raise
            # What an earlier run left may have been wrong.
            ingest.reset()
            client.fetch_blob(self._session, layer, ingest, at)
            ingest.commit()
        return f"done, {format_size(kept)} of it earlier" if kept else "done"

    def _waiting(self, layer: Descriptor) -> Callable[[], None]:
        said: list[bool] = []

        def waiting() -> None:
            self._session.context.stop.check()
            if not said:
                said.append(True)
                self._options.progress.say(f"{label(layer)}: waiting for another pull of it")

        return waiting
