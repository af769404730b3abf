"""Blobs: files named by the digest of their content, and what is on its way to become one.

A blob gets its name only when all of it was read and had the size and digest that it should, and is on
disk. What arrives is kept in `partial/` and can be continued by whoever comes next, after a crash too:
what is there is hashed again first. A digest's lock keeps two from fetching the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from typing import BinaryIO

from sandbox.errors import DigestError, ImageError
from sandbox.image.digest import Digest, VerifiedReader, digest_of
from sandbox.image.durable import Waiting, flush, is_at, make_directory, take, try_lock

__all__ = ["Blobs", "Ingest", "New"]

_CHUNK = 1 << 20


class Blobs:
    """The blobs below *top*, in the places where an OCI image layout has them (image-layout.md)."""

    def __init__(self, top: str) -> None:
        self._top = top
        self._partial = os.path.join(top, "partial")

    def path(self, digest: Digest) -> str:
        """Where the blob is, if it is there."""
        return os.path.join(self._top, "blobs", digest.algorithm, digest.hex)

    def has(self, digest: Digest) -> bool:
        return os.path.exists(self.path(digest))

    def size(self, digest: Digest) -> int | None:
        """Bytes of a blob, None when it is not there."""
        try:
            return os.stat(self.path(digest)).st_size
        except FileNotFoundError:
            return None

    def open(self, digest: Digest) -> BinaryIO:
        """Open a blob. It was verified when it came.

        Raises:
            ImageError: it is not there.
        """
        try:
            return open(self.path(digest), "rb")
        except FileNotFoundError:
            raise ImageError(
                f"the image store has no blob {digest}", "sandbox image check --repair"
            ) from None

    def read(self, digest: Digest, limit: int) -> bytes:
        """A small blob, verified once more.

        Raises:
            ImageError: it is not there, or has more than *limit* bytes.
            DigestError: it is damaged.
        """
        with self.open(digest) as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise ImageError(f"{digest} has {size} bytes, more than {limit}")
            return VerifiedReader(file, digest, size).read()

    def put(self, data: bytes) -> Digest:
        """Store *data*; its digest."""
        digest = digest_of(data)
        if not self.has(digest):
            with self.create() as new:
                new.write(data)
                new.commit()
        return digest

    @contextlib.contextmanager
    def create(self) -> Iterator[New]:
        """Write a blob whose digest nobody knows yet. Without `commit()` nothing is kept."""
        make_directory(self._partial)
        self._forget_new()
        path = os.path.join(self._partial, f"new-{os.urandom(8).hex()}")
        fd = take(path, _open_partial)
        try:
            new = New(self, fd, path)
            yield new
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            os.close(fd)

    def _forget_new(self) -> None:
        """Remove what was being made when somebody was killed: unlike a download, nobody goes on with it."""
        for name in _names(self._partial):
            if not name.startswith("new-"):
                continue
            path = os.path.join(self._partial, name)
            with contextlib.suppress(FileNotFoundError):
                fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    if try_lock(fd) and is_at(fd, path):
                        os.unlink(path)
                finally:
                    os.close(fd)

    def all(self) -> list[Digest]:
        """Every blob there is."""
        found = []
        top = os.path.join(self._top, "blobs")
        for algorithm in _names(top):
            for name in _names(os.path.join(top, algorithm)):
                with contextlib.suppress(DigestError):
                    found.append(Digest(f"{algorithm}:{name}"))
        return sorted(found)

    def remove(self, digest: Digest) -> int:
        """Remove a blob; how many bytes it had."""
        size = self.size(digest) or 0
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path(digest))
        return size

    @contextlib.contextmanager
    def ingest(self, digest: Digest, size: int, *, waiting: Waiting | None = None) -> Iterator[Ingest]:
        """Receive a blob. Left without `commit()`, what came stays for the next time.

        *waiting* is called while another process receives the same; it may raise.
        """
        make_directory(self._partial)
        path = os.path.join(self._partial, f"{digest.algorithm}-{digest.hex}")
        fd = take(path, _open_partial, waiting=waiting)
        try:
            ingest = Ingest(fd, path, self.path(digest), digest, size)
            yield ingest
            ingest.leave()
        finally:
            os.close(fd)

    def partials(self) -> list[str]:
        """Paths of what nobody receives at present."""
        found = []
        for name in _names(self._partial):
            path = os.path.join(self._partial, name)
            with contextlib.suppress(FileNotFoundError):
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    if try_lock(fd):
                        found.append(path)
                finally:
                    os.close(fd)
        return found

    def partial_size(self) -> int:
        """Bytes of downloads, those that are going on included."""
        total = 0
        for name in _names(self._partial):
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(os.path.join(self._partial, name)).st_size
        return total

    def remove_partials(self) -> int:
        """Remove what nobody receives at present; how many bytes that were."""
        freed = 0
        for path in self.partials():
            fd = take(path, _open_partial)
            try:
                freed += os.fstat(fd).st_size
                os.unlink(path)
            finally:
                os.close(fd)
        return freed


class Ingest:
    """A blob that is being received.

    `offset` is how many bytes are there already; `present`: somebody else was faster, and there is
    nothing to do.
    """

    def __init__(self, fd: int, partial: str, final: str, digest: Digest, size: int) -> None:
        self.offset = 0
        self._fd, self._partial, self._final = fd, partial, final
        self._digest, self._size = digest, size
        self._hash = digest.hasher()
        self._named = False
        self.present = os.path.exists(final)
        if not self.present:
            self._resume()

    def _resume(self) -> None:
        """Hash what an earlier run left. More than there should be is no beginning of it."""
        if os.fstat(self._fd).st_size > self._size:
            self.reset()
        os.lseek(self._fd, 0, os.SEEK_SET)
        while data := os.read(self._fd, _CHUNK):
            self._hash.update(data)
            self.offset += len(data)

    def reset(self) -> None:
        """Forget what is there."""
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._hash = self._digest.hasher()
        self.offset = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append *data*.

        Raises:
            DigestError: that is more than the blob has; what was there is gone.
            OSError: it could not be written (ENOSPC ...).
        """
        if self.offset + len(data) > self._size:
            self.reset()
            raise DigestError(f"{self._digest} goes on after the {self._size} bytes that were announced")
        view = memoryview(data)
        while view:
            written = os.write(self._fd, view)
            self._hash.update(view[:written])
            self.offset += written
            view = view[written:]

    def commit(self) -> None:
        """All came: verify it, make it durable, and give it its name.

        Raises:
            DigestError: it is not what it should be; what was there is gone.
        """
        found = self._hash.hexdigest()
        if self.offset != self._size:
            wrong = f"{self._digest} ends after {self.offset} of {self._size} bytes"
        elif found != self._digest.hex:
            wrong = (
                f"the content of {self._digest} is another: its digest is {self._digest.algorithm}:{found}"
            )
        else:
            wrong = ""
        if wrong:
            self.reset()
            raise DigestError(wrong)
        _name(self._fd, self._partial, self._final)
        self.present = self._named = True

    def leave(self) -> None:
        """An empty file is no beginning of anything; neither is one of a blob that is there."""
        if not self._named and (self.offset == 0 or self.present):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._partial)


class New:
    """A blob that is being made."""

    def __init__(self, blobs: Blobs, fd: int, path: str) -> None:
        self.size = 0
        self._blobs, self._fd, self._path = blobs, fd, path
        self._hash = hashlib.sha256()

    def write(self, data: bytes | memoryview) -> None:
        """Append *data*. Raises `OSError`, with the directory, when it can't be written."""
        view = memoryview(data)
        self._hash.update(view)
        self.size += len(view)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            error.filename = os.path.dirname(self._path)
            raise

    @property
    def digest(self) -> Digest:
        """Its sha256, so far."""
        return Digest(f"sha256:{self._hash.hexdigest()}")

    def commit(self) -> Digest:
        """Give it its name, its sha256."""
        digest = self.digest
        if not self._blobs.has(digest):
            _name(self._fd, self._path, self._blobs.path(digest))
        return digest


def _name(fd: int, path: str, final: str) -> None:
    """Make a file durable and give it its name."""
    os.fsync(fd)
    make_directory(os.path.dirname(final))
    os.rename(path, final)
    flush(os.path.dirname(final))


def _open_partial(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
