"""Is the store what it should be? And the mending of what is not.

Blobs are read whole and held against their digests; every name is followed to the last layer; unpacked
layers are unpacked once more beside the first time, and compared. What is damaged and can be made or
fetched again is removed by a repair; a name is never removed, for it says what to fetch.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import NamedTuple

from sandbox.errors import DigestError, ImageError, SandboxError
from sandbox.image.digest import Digest, VerifiedReader
from sandbox.image.durable import telling
from sandbox.image.manifest import Descriptor, Manifest, parse_manifest
from sandbox.image.store import Store
from sandbox.image.unpacked import Source, chain_ids

__all__ = ["Problem", "check"]

_CHUNK = 1 << 20
#: what a disk or a file system that is damaged says of a file, and a file whose mode was changed
_UNREADABLE = (errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.EACCES, errno.EPERM)


class Problem(NamedTuple):
    """`what` is wrong, in a sentence; `repaired`: it is mended now; `mend`: what mends it otherwise."""

    what: str
    repaired: bool = False
    mend: str = ""


@telling("check the image store")
def check(store: Store, *, repair: bool = False) -> list[Problem]:
    """Everything that is wrong with the store; with *repair* what can be mended here is.

    Reads all of it and unpacks every layer: this takes as long as that does. Images may be used and added
    meanwhile; a repair removes nothing that is in use.
    """
    found = list(_names(store, repair))
    found += _blobs(store, repair)
    found += _images(store)
    found += _layers(store, repair)
    if repair:
        store.unpacked.recover()
    return found


def _names(store: Store, repair: bool) -> Iterator[Problem]:
    try:
        store.refs.all()
    except ImageError as error:
        if not repair:
            yield Problem(error.message, mend="sandbox image check --repair")
            return
        with store.locked():
            if _is_whole(store):  # somebody else has mended it meanwhile
                return
            names = _recovered(store)
            kept = _keep_damaged(os.path.join(store.path, "index.json"))
            store.refs.write(names)
        said = f"{error.message}; its images are called {', '.join(names) or 'nothing'} now"
        yield Problem(f"{said}, and the file is index.json.damaged" if kept else said, True)


def _keep_damaged(path: str) -> bool:
    """Give the list a second name, if there is one. It keeps the first until it is replaced: without a list
    nothing would be reached, and all of it garbage."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{path}.damaged")
    try:
        os.link(path, f"{path}.damaged")
    except FileNotFoundError:
        return False
    return True


def _is_whole(store: Store) -> bool:
    try:
        store.refs.all()
    except ImageError:
        return False
    return True


def _recovered(store: Store) -> dict[str, Descriptor]:
    """Names for all images of which the manifests are there: what they were called is lost."""
    found: dict[str, Descriptor] = {}
    for digest in store.blobs.all():
        if (store.blobs.size(digest) or 0) > _CHUNK:
            continue
        try:
            document = parse_manifest(store.blobs.read(digest, _CHUNK))
        except ImageError:
            continue
        if isinstance(document, Manifest):
            with contextlib.suppress(ImageError):
                document.check_image("")
                found[f"localhost/recovered/{digest.hex[:12]}:latest"] = document.descriptor
    return found


def _blobs(store: Store, repair: bool) -> Iterator[Problem]:
    for digest in store.blobs.all():
        try:
            _verify(store, digest)
        except FileNotFoundError:
            continue  # removed meanwhile
        except DigestError as error:
            wrong = error.message
        except OSError as error:
            if error.errno not in _UNREADABLE:
                raise
            wrong = f"{digest} can't be read: {error.strerror}"
        else:
            continue
        if repair:
            store.blobs.remove(digest)
        yield Problem(f"a blob is damaged: {wrong}", repair, "sandbox image check --repair")


def _verify(store: Store, digest: Digest) -> None:
    with open(store.blobs.path(digest), "rb") as file:
        reader = VerifiedReader(file, digest, os.fstat(file.fileno()).st_size)
        while reader.read(_CHUNK):
            pass


def _refs(store: Store) -> list[tuple[str, Descriptor]]:
    """All names, sorted; none when the list is damaged, which was told."""
    try:
        return sorted(store.refs.all().items())
    except ImageError:
        return []


def _images(store: Store) -> Iterator[Problem]:
    """Names that lead to what is not there, after damaged blobs were removed."""
    for name, descriptor in _refs(store):
        try:
            image = store.image(descriptor, name)
        except ImageError as error:
            yield Problem(f"{name} can't be used: {error.message}", mend=_fetch(name))
            continue
        for layer in image.manifest.layers:
            size = store.blobs.size(layer.digest)
            if size != layer.size:
                wrong = "is missing" if size is None else f"has {size} bytes rather than {layer.size}"
                yield Problem(f"{name} can't be used: its layer {layer.digest} {wrong}", mend=_fetch(name))


def _fetch(name: str) -> str:
    """What brings it again; nothing where the name is one that we gave it."""
    ours = ("@", "localhost/recovered/", "localhost/build:")
    return "" if name.startswith(ours) else f"sandbox image pull {name}"


def _layers(store: Store, repair: bool) -> Iterator[Problem]:
    """Unpacked layers: those of images are compared with what the images say, lower ones first; others are
    garbage, and no problem."""
    stacks = _stacks(store)
    known = [key for key in store.unpacked.all() if _digest(key) in stacks]
    damaged: set[str] = set()
    for key in sorted(known, key=lambda key: len(stacks[_digest(key)])):
        wrong = _wrong(store, key, stacks[_digest(key)], damaged)
        if wrong:
            damaged.add(key)
            repaired = repair and _remove(store, key)
            mend = "" if repaired else "sandbox image check --repair, while no sandbox uses it"
            yield Problem(f"the unpacked layer {key} is damaged: {wrong}", repaired, mend)


def _digest(key: str) -> str:
    """The diffID or chainID that an unpacked layer is named by."""
    return key.partition(".")[0].replace("-", ":", 1)


def _wrong(store: Store, key: str, stack: list[Source], damaged: set[str]) -> str:
    """What is wrong with an unpacked layer, "" for nothing, or when it can't be told."""
    if store.unpacked.load(key) is None:
        return "it has no record"
    if not key.endswith(store.unpacked.ids.tag) or not all(store.has_blob(each.blob) for each in stack):
        return ""
    with store.hold():  # or those below it could be removed meanwhile
        lower = store.unpacked.find(stack[:-1])
        if not all(layer and layer.key not in damaged for layer in lower):
            return ""
        try:
            return store.unpacked.compare(key, stack, store.open_blob)
        except SandboxError as error:
            return f"it can't be unpacked any more: {error.message}"
        except OSError as error:
            if error.errno not in _UNREADABLE:
                raise
            return ""  # one of the blobs can't be read, which was told


def _stacks(store: Store) -> dict[str, list[Source]]:
    """By the diffID and the chainID of each layer of each image: the layer with all below it."""
    found: dict[str, list[Source]] = {}
    for sources in _usable(store):
        for number, chain_id in enumerate(chain_ids([source.diff_id for source in sources])):
            stack = sources[: number + 1]
            found.setdefault(chain_id, stack)
            found.setdefault(stack[-1].diff_id, stack)
    return found


def _usable(store: Store) -> Iterator[list[Source]]:
    for _, descriptor in _refs(store):
        try:
            yield store.image(descriptor).sources()
        except ImageError:
            continue


def _remove(store: Store, key: str) -> bool:
    with store.alone() as alone:
        if not alone:
            return False
        with store.locked():
            if key in store.leased():
                return False
            aside = store.unpacked.set_aside(key)
    store.unpacked.discard(aside)
    return True
