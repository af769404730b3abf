"""What pulling and pushing have in common: the store they work on, their options, doing things in parallel.

`pull.pull` and `push.push` are what is called. The store keeps the bytes; how it does is its own business:
`Store` is all that is asked of it.
"""

from __future__ import annotations

import errno
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import IO, Protocol

from sandbox.errors import DigestError, ImageError
from sandbox.image.auth import Keyring
from sandbox.image.config import Registries
from sandbox.image.digest import Digest
from sandbox.image.manifest import Descriptor
from sandbox.image.progress import Progress
from sandbox.image.registry.connection import Patience
from sandbox.image.registry.session import Context, Retry, Session, Stop, Stopped

__all__ = [
    "DEPTH",
    "Ingest",
    "Options",
    "StorageError",
    "Store",
    "has",
    "in_parallel",
    "label",
    "read_small",
    "storing",
]

#: How deep indexes may contain indexes.
DEPTH = 4


class StorageError(ImageError):
    """The store can't take what came; another registry would not help."""


class Ingest(Protocol):
    """A blob on its way into a store. Leaving it without `commit` keeps what there is for the next time.

    `present`: it is there already, nothing is to be written. `offset`: how many bytes of it are there.
    """

    @property
    def present(self) -> bool: ...

    @property
    def offset(self) -> int: ...

    def write(self, data: bytes, /) -> object: ...

    def reset(self) -> None: ...

    def commit(self) -> object:
        """Verify and keep it; raises `DigestError` and forgets it if it is not what it should be."""


class Store(Protocol):
    """Where blobs and names are kept."""

    def hold(self) -> AbstractContextManager[object]:
        """While this is held, nothing is removed for not being reached by a name."""

    def has_blob(self, digest: Digest, /) -> bool: ...

    def open_blob(self, digest: Digest, /) -> IO[bytes]: ...

    def put_blob(self, data: bytes, /) -> object:
        """Keep *data* under its sha256."""

    def ingest(
        self, digest: Digest, size: int, /, *, waiting: Callable[[], None] | None = None
    ) -> AbstractContextManager[Ingest]:
        """Begin or go on with a blob. While somebody else is at it, *waiting* is called again and again."""

    def set_ref(self, name: str, descriptor: Descriptor, /) -> object: ...

    def get_ref(self, name: str, /) -> Descriptor | None: ...


@dataclass(frozen=True, slots=True)
class Options:
    """How to transfer.

    Attributes:
        progress: who is told about it.
        parallel: how many blobs at once.
        limit: most bytes of an image's layers, as they are transferred; 0 for no limit.
        retry, patience: how often, and how long.
    """

    registries: Registries = field(default_factory=Registries)
    progress: Progress = field(default_factory=Progress)
    parallel: int = 4
    limit: int = 0
    retry: Retry = field(default_factory=Retry)
    patience: Patience = field(default_factory=Patience)

    def context(self) -> Context:
        """A new one, for one session or several."""
        registries = self.registries
        helpers = {name: host.credential_helper for name, host in registries.hosts.items()}
        helpers = {name: helper for name, helper in helpers.items() if helper}
        keyring = Keyring(registries.auth_file, helpers)
        return Context(registries, keyring, Stop(), self.retry, self.patience)


@contextmanager
def storing(what: str) -> Iterator[None]:
    """Turns the system's errors at writing *what* into errors for people."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                f"no space is left for {what}; what came is kept, and the next pull goes on from there",
                "sandbox image prune",
            ) from None
        raise StorageError(f"{what} can't be stored: {error}") from None


def label(blob: Descriptor) -> str:
    """A blob's short name for people."""
    return blob.digest.hex[:12]


def has(store: Store, blob: Descriptor) -> bool:
    """Whether the store has *blob*.

    Raises:
        DigestError: it has, and of another size than is said here.
    """
    if not store.has_blob(blob.digest):
        return False
    with store.open_blob(blob.digest) as file:
        size = file.seek(0, 2)
    if size != blob.size:
        raise DigestError(f"{blob.digest} has {size} bytes, and not {blob.size} as the manifest says")
    return True


def read_small(store: Store, digest: Digest, limit: int) -> bytes:
    """A blob of the store of at most *limit* bytes, verified once more.

    Raises:
        ImageError: it is not there, larger, or damaged.
    """
    with store.open_blob(digest) as file:
        raw = file.read(limit + 1)
    if len(raw) > limit:
        raise ImageError(f"{digest} has more than {limit} bytes")
    hasher = digest.hasher()
    hasher.update(raw)
    if hasher.hexdigest() != digest.hex:
        raise DigestError(f"{digest} is damaged in the store", "sandbox image check --repair")
    return raw


def in_parallel(jobs: Iterable[Callable[[], None]], threads: int, session: Session) -> None:
    """Do all *jobs*; the first that fails ends the others, and is what is raised.

    The threads are daemons, and an interrupt waits only shortly for them: one may be connecting.
    """
    left = deque(jobs)
    failed: list[BaseException] = []

    def end() -> None:
        left.clear()
        session.context.stop.set()
        session.abort()

    def work() -> None:
        try:
            while job := _next(left):
                job()
        except BaseException as error:
            failed.append(error)
            end()

    workers = [threading.Thread(target=work, daemon=True) for _ in range(min(max(threads, 1), len(left)))]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    except BaseException:
        end()
        for worker in workers:
            if worker.ident is not None:
                worker.join(2.0)
        raise
    if failed:
        raise next((error for error in failed if not isinstance(error, Stopped)), failed[0])


def _next(left: deque[Callable[[], None]]) -> Callable[[], None] | None:
    try:
        return left.popleft()
    except IndexError:
        return None
