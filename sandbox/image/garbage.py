"""What no name and no record of a build reaches: found and removed.

Removal is in two steps: under the store's lock files are taken out of reach, by name, and only those
that nobody uses; then, without it, they are deleted. A crash in between leaves what the next
`Unpacked.recover()` finds. Nothing goes while somebody holds the store: it may be about to name what no
name reaches yet, or unpack a layer on top of one that nobody uses.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from sandbox.errors import ImageError
from sandbox.image.build.records import KEEP_DAYS, Records
from sandbox.image.digest import Digest
from sandbox.image.durable import telling
from sandbox.image.manifest import (
    CONFIG_LIMIT,
    MANIFEST_LIMIT,
    Descriptor,
    Index,
    parse_config,
    parse_manifest,
)
from sandbox.image.store import Store
from sandbox.image.unpacked import chain_ids

__all__ = ["Freed", "Reach", "discard", "prune", "reach", "remove"]


class Freed(NamedTuple):
    """What was removed: `blobs` and `layers` (numbers), `bytes` of blobs and of interrupted downloads.
    `kept`: unpacked layers that stay because a sandbox uses them; `busy`: nothing was removed, because
    images are being added or unpacked."""

    blobs: int = 0
    layers: int = 0
    bytes: int = 0
    kept: int = 0
    busy: bool = False


class Reach(NamedTuple):
    """What images reach: their blobs, and the diffIDs and chainIDs of their layers."""

    blobs: set[Digest]
    layers: set[Digest]


def reach(store: Store, roots: Iterable[Descriptor]) -> Reach:
    """Everything that *roots* need, as far as it is there. What can't be read needs nothing.

    Images are hostile: one may call another's manifest its layer, or say of it that it is something else. So
    a manifest is read where it is one's manifest, whatever else has named it, and by its own words.
    """
    found = Reach(set(), set())
    seen: set[Digest] = set()
    todo = list(roots)
    while todo:
        descriptor = todo.pop()
        if descriptor.digest in seen:
            continue
        seen.add(descriptor.digest)
        found.blobs.add(descriptor.digest)
        try:
            document = parse_manifest(store.blobs.read(descriptor.digest, MANIFEST_LIMIT))
        except ImageError:
            continue
        if isinstance(document, Index):
            todo += document.manifests
            continue
        found.blobs.update((document.config.digest, *(layer.digest for layer in document.layers)))
        try:
            config = parse_config(store.blobs.read(document.config.digest, CONFIG_LIMIT))
        except ImageError:
            continue
        found.layers.update(config.diff_ids, chain_ids(config.diff_ids))
    return found


@telling("clean up the image store")
def prune(store: Store, *, unpacked: bool = False, builds: bool = False) -> Freed:
    """Remove blobs and unpacked layers that no name reaches, interrupted downloads, and what crashes left;
    and what builds did not use for two weeks.

    With *unpacked* also the unpacked layers of images that no sandbox uses now; they are made again when
    they are needed. With *builds* also all that builds keep for the next time.
    """
    store.unpacked.recover()
    records = Records(store.path)
    days = 0 if builds else KEEP_DAYS
    records.forget(days)
    for path in records.old_mounts(days):
        store.unpacked.discard(path)
    return _sweep(store, None, unpacked)


@telling("remove an image")
def remove(store: Store, name: str) -> Freed:
    """Forget *name*, and remove what only it reached.

    Raises:
        ImageError: there is no such name.
    """
    descriptor = store.remove_ref(name)
    if descriptor is None:
        raise ImageError(f"there is no image {name}", "sandbox image ls")
    return _sweep(store, reach(store, [descriptor]), False)


def discard(store: Store, blobs: Collection[Digest]) -> Freed:
    """Remove those of *blobs* that no name reaches."""
    return _sweep(store, Reach(set(blobs), set()), False) if blobs else Freed()


def _sweep(store: Store, only: Reach | None, cache: bool) -> Freed:
    """Remove what no name reaches, of *only* if that is given."""
    with store.alone() as alone:
        if not alone:
            return Freed(busy=True)
        with store.locked():
            needed = reach(store, store.refs.all().values())
            built = Records(store.path).reached()
            needed.blobs.update(built.blobs)
            needed.layers.update(built.layers)
            used = store.leased()
            aside, kept = _take_layers(store, set() if cache else needed.layers, used, only and only.layers)
            blobs = [each for each in store.blobs.all() if each not in needed.blobs]
            blobs = [each for each in blobs if only is None or each in only.blobs]
            freed = sum(store.blobs.remove(each) for each in blobs)
        if only is None:
            freed += store.blobs.remove_partials()
    for path in aside:
        store.unpacked.discard(path)
    return Freed(len(blobs), len(aside), freed, kept)


def _take_layers(
    store: Store, needed: Collection[Digest], used: Collection[str], only: Collection[Digest] | None
) -> tuple[list[str], int]:
    """Take unpacked layers out of reach: where they are now, and how many must stay."""
    aside, kept = [], 0
    for key in store.unpacked.all():
        name = key.partition(".")[0].replace("-", ":", 1)
        if name in needed or (only is not None and name not in only):
            continue
        if key in used:
            kept += 1
        else:
            aside.append(store.unpacked.set_aside(key))
    return aside, kept
