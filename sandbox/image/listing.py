"""What is in the store: images with what they take, an image's history, all of it.

Sizes are true about sharing: what several images have counts once in a total, and each image says how
much of it only it has.
"""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sandbox.errors import ImageError
from sandbox.image.build.records import Records
from sandbox.image.digest import Digest
from sandbox.image.durable import telling
from sandbox.image.manifest import Descriptor, History
from sandbox.image.reference import Reference, parse_reference
from sandbox.image.store import Image, Store
from sandbox.image.unpacked import Layer
from sandbox.words import printable

__all__ = [
    "Listed",
    "Step",
    "Usage",
    "familiar",
    "history",
    "images",
    "inspect",
    "lookup",
    "own_sizes",
    "resolve",
    "usage",
]

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
        return sum(_blobs(self).values())


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
    """Bytes on disk: of `images` by name, and in all; `unreached`: what `prune` would remove; `builds`: what
    only builds keep, for the next time."""

    images: dict[str, Share]
    blobs: int
    unpacked: int
    partial: int
    unreached: int
    builds: int = 0


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


def resolve(store: Store, text: str) -> tuple[str, Descriptor]:
    """The name and what it stands for that *text* means: a name as people write it or as the store has it,
    with a digest or not, or the beginning of an image's ID or digest.

    Raises:
        ImageError: none, or several.
    """
    refs = {name: each for name, each in store.refs.all().items() if not name.startswith("@")}
    if text in refs:
        return text, refs[text]
    digits = text.removeprefix("sha256:")
    is_number = len(digits) >= _SHORTEST and set(digits) <= set("0123456789abcdef")
    reference = None
    if not is_number or (not text.startswith("sha256:") and len(digits) < 64):
        reference = parse_reference(text)
        found = _named(refs, reference)
        if found is not None:
            return found, refs[found]
    if is_number:
        called = [each for each in images(store) if _is_called(each, digits)]
        if len({each.descriptor.digest for each in called}) == 1:
            return called[0].name, called[0].descriptor
        if called:
            raise ImageError(f"{text} could be {', '.join(each.name for each in called)}", "write more of it")
    raise _missing(refs, text, reference)


def lookup(store: Store, text: str) -> Listed:
    """The image that *text* means; see `resolve`.

    Raises:
        ImageError: none, several, or one that can't be used.
    """
    name, descriptor = resolve(store, text)
    return Listed(name, descriptor, store.image(descriptor, name))


def familiar(name: str) -> str:
    """A name of the store as people write it."""
    try:
        return parse_reference(name).familiar
    except ImageError:
        return name


def _named(refs: Mapping[str, Descriptor], reference: Reference) -> str | None:
    """The name of the store that *reference* means; with a digest any name of that repository will do."""
    if reference.key in refs:
        return reference.key
    for name, descriptor in refs.items():
        same = name.startswith((f"{reference.name}:", f"{reference.name}@"))
        if same and descriptor.digest == reference.digest:
            return name
    return None


def _missing(refs: Mapping[str, Descriptor], text: str, reference: Reference | None) -> ImageError:
    names = [familiar(name) for name in refs if not name.startswith("@")]
    others = [
        familiar(name)
        for name in refs
        if reference and name.startswith((f"{reference.name}:", f"{reference.name}@"))
    ]
    mend = f"sandbox image pull {printable(text)}" if reference else "sandbox image ls"
    if others:
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        what = f"there is no image {reference.familiar if reference else text} in the image store"
        return ImageError(
            f"{what}, but {', '.join(sorted(others)[:5])}{more}", f"name one of these, or {mend}"
        )
    near = difflib.get_close_matches(reference.familiar if reference else text, names, 1, 0.75)
    hint = f"; did you mean {near[0]}?" if near else ""
    return ImageError(f"there is no image {printable(text)} in the image store{hint}", mend)


def _is_called(listed: Listed, digits: str) -> bool:
    names = [listed.descriptor.digest]
    if listed.image is not None:
        names += [listed.image.id, listed.image.descriptor.digest]
    return any(name.hex.startswith(digits) for name in names)


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


def own_sizes(found: Sequence[Listed]) -> dict[str, int]:
    """By name: bytes of blobs that no image of another content has."""
    needs = {each.name: frozenset(_blobs(each).items()) for each in found}
    users = Counter(blob for blobs in set(needs.values()) for blob, _ in blobs)
    return {name: sum(size for blob, size in blobs if users[blob] == 1) for name, blobs in needs.items()}


def _blobs(listed: Listed) -> dict[Digest, int]:
    """What an image consists of, with sizes in bytes."""
    found = {listed.descriptor.digest: listed.descriptor.size}
    if listed.image is not None:
        manifest = listed.image.manifest
        needed = (listed.image.descriptor, manifest.config, *manifest.layers)
        found |= {each.digest: each.size for each in needed}
    return found


@telling("measure the image store")
def usage(store: Store) -> Usage:
    """What is on disk, and whose it is. Layers that were not measured before are now."""
    with store.hold():  # or they could be removed while they are
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
    built = Records(store.path).reached()
    kept = {key for key in measured if key.partition(".")[0].replace("-", ":", 1) in built.layers}
    loose = {blob: size for blob, size in sizes.items() if blob not in blob_users}
    loose_layers = {key: size for key, size in measured.items() if key not in layer_users}
    builds = sum(size for blob, size in loose.items() if blob in built.blobs)
    builds += sum(size for key, size in loose_layers.items() if key in kept)
    unreached = sum(loose.values()) + sum(loose_layers.values()) - builds
    partial = store.blobs.partial_size()
    return Usage(shares, sum(sizes.values()), sum(measured.values()), partial, unreached + partial, builds)


def _needs(store: Store, listed: Listed) -> tuple[set[Digest], set[str]]:
    blobs = set(_blobs(listed))
    if listed.image is None:
        return blobs, set()
    layers: list[Layer | None] = store.unpacked.find(listed.image.sources())
    return blobs, {layer.key for layer in layers if layer}


def _disk(store: Store, key: str) -> int:
    layer = store.unpacked.load(key)
    return store.unpacked.measure(layer) if layer else 0
