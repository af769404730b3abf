"""Pushing images out of a store.

Blobs go before the manifest that names them, manifests before their index, and the tag is set last: nobody
can pull something incomplete.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from sandbox.errors import ImageError
from sandbox.image.digest import Digest
from sandbox.image.manifest import MANIFEST_LIMIT, Descriptor, Index, parse_manifest
from sandbox.image.reference import Reference
from sandbox.image.registry import upload
from sandbox.image.registry.session import Session
from sandbox.image.transfer import DEPTH, Options, Store, has, in_parallel, label, read_small

__all__ = ["Pushed", "push"]


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push did: the manifest's or index's descriptor, and how many blobs were sent, mounted, there."""

    descriptor: Descriptor
    sent: int = 0
    mounted: int = 0
    there: int = 0


def push(
    reference: Reference,
    store: Store,
    options: Options,
    source: Descriptor | None = None,
    mount_from: Callable[[Digest], str] | None = None,
) -> Pushed:
    """Bring an image or an index, with all it names, from *store* into the registry of *reference*.

    Args:
        source: what to push; None for what *reference* names in the store.
        mount_from: a repository of the same registry that probably has a blob, or "".

    Raises:
        RegistryError: the registry refuses, or can't be reached.
        ImageError: it isn't in the store, or not all of it.
    """
    source = source or store.get_ref(reference.key)
    if source is None:
        raise ImageError(
            f"there is no image {reference.familiar} here", "see which there are: sandbox image ls"
        )
    if reference.digest and reference.digest != source.digest:
        raise ImageError(
            f"{reference.familiar} names another digest than that of what is pushed, {source.digest}"
        )
    endpoint = options.registries.target(reference)
    with store.hold(), Session(endpoint, options.context()) as session:
        work = _Push(session, store, options, mount_from or (lambda digest: ""))
        work.document(source, reference.identifier, 0)
        return Pushed(source, work.counts["sent"], work.counts["mounted"], work.counts["there"])


class _Push:
    def __init__(
        self, session: Session, store: Store, options: Options, mount_from: Callable[[Digest], str]
    ) -> None:
        self._session = session
        self._store = store
        self._options = options
        self._mount_from = mount_from
        self._lock = threading.Lock()
        self.counts: dict[upload.Pushed, int] = {"sent": 0, "mounted": 0, "there": 0}

    def document(self, descriptor: Descriptor, identifier: str, depth: int) -> None:
        """Push a manifest or index, after all that it names."""
        if depth > DEPTH:
            raise ImageError(f"{descriptor.digest} is an index of indexes, more than {DEPTH} deep")
        if not has(self._store, descriptor):
            raise ImageError(
                f"the index names {descriptor.digest} ({descriptor.platform}), which is not here",
                "pull it with everything: sandbox pull --platform all",
            )
        raw = read_small(self._store, descriptor.digest, MANIFEST_LIMIT)
        found = parse_manifest(raw, descriptor.media_type, str(descriptor.digest))
        if isinstance(found, Index):
            for entry in found.manifests:
                self.document(entry, entry.digest, depth + 1)
        else:
            blobs = {each.digest: each for each in (found.config, *found.layers) if not each.is_foreign}
            jobs = [partial(self._blob, each) for each in blobs.values()]
            in_parallel(jobs, self._options.parallel, self._session)
        upload.push_manifest(self._session, identifier, raw, found.media_type)

    def _blob(self, blob: Descriptor) -> None:
        progress = self._options.progress
        progress.begin(blob.digest, label(blob), blob.size)
        outgoing = upload.Outgoing(
            blob.digest,
            blob.size,
            partial(self._store.open_blob, blob.digest),
            partial(progress.at, blob.digest),
        )
        outcome = upload.push_blob(self._session, outgoing, self._mount_from(blob.digest))
        with self._lock:
            self.counts[outcome] += 1
        notes = {"sent": "done", "mounted": "mounted from another repository", "there": "already there"}
        progress.end(blob.digest, notes[outcome])
