"""Reading files that somebody else may have put there, not without end and not for ever."""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from sandbox.words import quote

__all__ = ["MAX_BYTES", "blocked", "is_ours", "opening", "read", "read_once"]

#: The largest file that is read, bytes.
MAX_BYTES = 1 << 20
#: How long a FIFO may have no writer, milliseconds.
PATIENCE = 10_000


def read(path: str, flags: int = 0) -> tuple[bytes, os.stat_result]:
    """The content and status of a regular file; *flags* go to open(2). Never waits, as for a FIFO it would.

    Raises:
        OSError: it can't be opened, is no regular file, or has more than `MAX_BYTES`.
    """
    descriptor = _open(path, flags)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        return _rest(descriptor, path), status
    finally:
        os.close(descriptor)


def read_once(path: str) -> bytes:
    """The content of a regular file, or of a pipe that the user names, as in `--env-file <(...)`. Of that all
    until its writers have closed it, however long they take; but a FIFO that nobody opens is given up.

    Raises:
        OSError: as for `read`, and ETIMEDOUT when nobody came to write.
    """
    descriptor = _open(path)
    try:
        kind = os.fstat(descriptor).st_mode
        if stat.S_ISFIFO(kind):
            return _from_pipe(descriptor, path)
        if not stat.S_ISREG(kind):
            raise OSError(errno.EINVAL, "neither a regular file nor a pipe", path)
        return _rest(descriptor, path)
    finally:
        os.close(descriptor)


def blocked(path: str) -> str:
    """The first directory on the way to *path* (absolute) that we may not search, or ""."""
    above = []
    while path != "/":
        path = os.path.dirname(path)
        above.append(path)
    return next((each for each in reversed(above) if not os.access(each, os.X_OK)), "")


def is_ours(path: str) -> bool:
    """Whether a file that exists belongs to the caller."""
    return os.stat(path).st_uid == os.geteuid()


def opening(path: str) -> str:
    """The command that lets the caller look at *path*, or shows why not."""
    closed = blocked(path)
    return f"chmod u+rx {quote(closed)}" if closed and is_ours(closed) else f"ls -ld {quote(closed or path)}"


def _open(path: str, flags: int = 0) -> int:
    if "\0" in path:
        raise OSError(errno.EINVAL, "its name has a NUL in it", path)
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | flags)


def _from_pipe(descriptor: int, path: str) -> bytes:
    """All of a pipe. A FIFO without a writer is at its end for read(2), but neither readable nor hung up for
    poll(2) until one has come (pipe(7)); with one that is silent, read is EAGAIN."""
    import select

    events = select.poll()
    events.register(descriptor, select.POLLIN)
    first = b""
    if not events.poll(PATIENCE):
        with contextlib.suppress(BlockingIOError):
            first = os.read(descriptor, 1)
            if not first:
                raise OSError(errno.ETIMEDOUT, "nobody writes to it", path)
    os.set_blocking(descriptor, True)
    return first + _rest(descriptor, path)


def _rest(descriptor: int, path: str) -> bytes:
    data = b""
    while len(data) <= MAX_BYTES:
        part = os.read(descriptor, MAX_BYTES + 1 - len(data))
        if not part:
            return data
        data += part
    raise OSError(errno.EFBIG, "larger than 1 MiB", path)
