"""What is in the store: images with what they take, an image's history, all of it.

Sizes are true about sharing: what several images have counts once in a total, and each image says how
much of it only it has.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, NamedTuple

from sandbox.errors import ImageError
from sandbox.image.digest import Digest
from sandbox.image.durable import telling
from sandbox.image.manifest import Descriptor, History
from sandbox.image.store import Image, Store
from sandbox.image.unpacked import Layer

__all__ = ["Listed", "Step", "Usage", "history", "images", "inspect", "lookup", "tag", "usage"]

_SHORTEST = 4  # digits of an image's ID


class Listed(NamedTuple):
    """An image's name and what it is. `problem` says why it can't be used, "" when it can; then the other
    values are known."""

    name: str
    descriptor: Descriptor
    image: Image | None
    problem: str = ""

    @property
    def size(self) -> int:
        """Bytes of its blobs, as they are transferred."""
        if self.image is None:
            return 0
        manifest = self.image.manifest
        return sum(each.size for each in (self.descriptor, manifest.config, *manifest.layers))


class Step(NamedTuple):
    """One line of an image's history, with its layer's `size` in bytes as transferred, 0 for none."""

    history: History
    layer: Digest | None
    size: int


class Share(NamedTuple):
    """Bytes on disk that an image needs: compressed blobs and unpacked layers; of each what only it has."""

    blobs: int
    own_blobs: int
    unpacked: int
    own_unpacked: int


class Usage(NamedTuple):
    """Bytes on disk: of `images` by name, and in all; `unreached`: what `prune` would remove."""

    images: dict[str, Share]
    blobs: int
    unpacked: int
    partial: int
    unreached: int


@telling("list images")
def images(store: Store) -> list[Listed]:
    """Every name, sorted; those of ours for other purposes, which begin with "@", are left out."""
    found = []
    for name, descriptor in sorted(store.refs.all().items()):
        if name.startswith("@"):
            continue
        try:
            found.append(Listed(name, descriptor, store.image(descriptor, name)))
        except ImageError as error:
            found.append(Listed(name, descriptor, None, error.message))
    return found


def lookup(store: Store, text: str) -> Listed:
    """The image that *text* means: a name as `Reference.key` gives it, or the beginning of an ID or digest.

    Raises:
        ImageError: none, or several.
    """
    refs = store.refs.all()
    if text in refs:
        return Listed(text, refs[text], store.image(refs[text], text))
    digits = text.removeprefix("sha256:")
    if len(digits) >= _SHORTEST and set(digits) <= set("0123456789abcdef"):
        found = [each for each in images(store) if each.image and _is_called(each, digits)]
        different = {each.descriptor.digest for each in found}
        if len(different) == 1:
            return found[0]
        if found:
            raise ImageError(f"{text} could be {', '.join(each.name for each in found)}", "write more of it")
    raise ImageError(f"there is no image {text} in the image store", f"sandbox image pull {text}")


def _is_called(listed: Listed, digits: str) -> bool:
    assert listed.image is not None
    names = (listed.image.id, listed.descriptor.digest, listed.image.descriptor.digest)
    return any(name.hex.startswith(digits) for name in names)


def tag(store: Store, text: str, name: str) -> None:
    """Give the image that *text* means the further *name*.

    Raises:
        ImageError: there is no such image.
    """
    store.set_ref(name, lookup(store, text).descriptor)


def history(image: Image) -> list[Step]:
    """How the image came to be, newest first. Layers that the history does not mention come at the end."""
    layers = iter(image.manifest.layers)
    steps = []
    for each in image.config.history:
        layer = None if each.empty_layer else next(layers, None)
        steps.append(Step(each, layer.digest if layer else None, layer.size if layer else 0))
    steps += [Step(History(), layer.digest, layer.size) for layer in layers]
    return steps[::-1]


def inspect(listed: Listed) -> dict[str, Any]:
    """All that is known of an image, as JSON: the documents as they came, and what they are called."""
    image = listed.image
    if image is None:
        raise ImageError(listed.problem)
    return {
        "name": listed.name,
        "id": str(image.id),
        "digest": str(listed.descriptor.digest),
        "platform": str(image.config.platform),
        "size": listed.size,
        "manifest": json.loads(image.manifest.raw),
        "config": json.loads(image.config.raw),
    }


@telling("measure the image store")
def usage(store: Store) -> Usage:
    """What is on disk, and whose it is. Layers that were not measured before are now."""
    measured = {key: _disk(store, key) for key in store.unpacked.all()}
    needs: dict[str, tuple[set[Digest], set[str]]] = {}
    for listed in images(store):
        needs[listed.name] = _needs(store, listed)
    # Two names of one image share nothing with each other: they are the same.
    groups = {frozenset(blobs): (blobs, keys) for blobs, keys in needs.values()}
    blob_users = Counter(blob for blobs, _ in groups.values() for blob in blobs)
    layer_users = Counter(key for _, keys in groups.values() for key in keys)
    sizes = {blob: store.blobs.size(blob) or 0 for blob in {*store.blobs.all(), *blob_users}}
    shares = {
        name: Share(
            sum(sizes[blob] for blob in blobs),
            sum(sizes[blob] for blob in blobs if blob_users[blob] == 1),
            sum(measured[key] for key in keys),
            sum(measured[key] for key in keys if layer_users[key] == 1),
        )
        for name, (blobs, keys) in needs.items()
    }
    unreached = sum(size for blob, size in sizes.items() if blob not in blob_users)
    unreached += sum(size for key, size in measured.items() if key not in layer_users)
    partial = store.blobs.partial_size()
    return Usage(shares, sum(sizes.values()), sum(measured.values()), partial, unreached + partial)


def _needs(store: Store, listed: Listed) -> tuple[set[Digest], set[str]]:
    blobs = {listed.descriptor.digest}
    if listed.image is None:
        return blobs, set()
    manifest = listed.image.manifest
    blobs |= {listed.image.descriptor.digest, manifest.config.digest}
    blobs |= {layer.digest for layer in manifest.layers}
    layers: list[Layer | None] = store.unpacked.find(listed.image.sources())
    return blobs, {layer.key for layer in layers if layer}


def _disk(store: Store, key: str) -> int:
    layer = store.unpacked.load(key)
    return store.unpacked.measure(layer) if layer else 0
