"""Files that a crash leaves whole: written aside, flushed, renamed; and locks that die with their holder.

rename(2) replaces at once, but only what fsync(2) wrote before is there after a power cut, and the
rename itself only once its directory is flushed. All locks are flock(2): the kernel takes them back
however a process ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator

from sandbox.errors import ImageError
from sandbox.words import quote

__all__ = [
    "Waiting",
    "flush",
    "flush_filesystem",
    "is_at",
    "locked",
    "make_directory",
    "take",
    "try_lock",
    "wait_for_lock",
    "write_file",
]

#: called every so often while somebody else has the lock; may raise to give up
Waiting = Callable[[], None]

_PAUSE = 0.05  # seconds between two tries
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@contextlib.contextmanager
def telling(what: str) -> Iterator[None]:
    """Turn what the system says into an `ImageError`: "cannot WHAT: ...". Also a decorator."""
    try:
        yield
    except OSError as error:
        mend = None
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            mend = "free some space: sandbox image prune, or sandbox image prune --unpacked"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and error.filename:
            at = _closed(os.fsdecode(error.filename))
            mend = f"make {at} yours to write: ls -ld {quote(at)}"
        where = f" ({error.filename})" if error.filename else ""
        raise ImageError(f"cannot {what}: {error.strerror}{where}", mend) from error


def _closed(path: str) -> str:
    """The directory on the way to *path* that lets us do nothing in it; without one *path* itself."""
    above = path
    while (above := os.path.dirname(above)) not in ("", "/"):
        if os.path.isdir(above) and not os.access(above, os.W_OK | os.X_OK):
            return above
    return path


def flush(directory: str) -> None:
    """Make the names in *directory* durable."""
    fd = os.open(directory, _DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def flush_filesystem(path: str) -> None:
    """Make everything durable that was written to the file system of *path* (syncfs(2)).

    Raises:
        OSError: something could not be written (Linux 5.8).
    """
    fd = os.open(path, _DIRECTORY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), path)
    finally:
        os.close(fd)


def make_directory(path: str) -> None:
    """Make *path* and what is above it, 0700, durably; one that is there is fine."""
    if os.path.isdir(path):
        return
    above = os.path.dirname(path)
    make_directory(above)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    flush(above)


def write_file(path: str, data: bytes) -> None:
    """Put *data* in place of *path*. Only one process at a time may: whoever has the lock."""
    new = f"{path}.new"
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(fd)
    os.rename(new, path)
    flush(os.path.dirname(path))


def try_lock(fd: int, *, shared: bool = False) -> bool:
    """Lock an open file or directory, or say that somebody else has it."""
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN):
            raise
        return False
    return True


def wait_for_lock(fd: int, *, shared: bool = False, waiting: Waiting | None = None) -> None:
    """Lock an open file, however long that takes."""
    while not try_lock(fd, shared=shared):
        if waiting is not None:
            waiting()
        time.sleep(_PAUSE)


@contextlib.contextmanager
def locked(path: str, *, shared: bool = False, waiting: Waiting | None = None) -> Iterator[None]:
    """Hold the lock of the file *path*, made where it is missing, for the `with` statement's body."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        wait_for_lock(fd, shared=shared, waiting=waiting)
        yield
    finally:
        os.close(fd)


def take(
    path: str, make: Callable[[str], int], *, shared: bool = False, waiting: Waiting | None = None
) -> int:
    """The file or directory *path*, open and locked: the one that is there, or what *make* makes and
    opens there. Who had the lock before may have renamed or removed it; then it is another one.

    Raises:
        ImageError: it is replaced faster than it can be locked.
    """
    for _ in range(1000):
        try:
            fd = make(path)
        except FileNotFoundError:  # removed between its making and opening
            continue
        try:
            wait_for_lock(fd, shared=shared, waiting=waiting)
            if is_at(fd, path):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
    raise ImageError(f"cannot lock {path}: it does not stay the same")


def is_at(fd: int, path: str) -> bool:
    """Whether *path* is still the file or directory that is open as *fd*."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False
