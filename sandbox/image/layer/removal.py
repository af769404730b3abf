"""Emptying a directory, whatever is in it: any depth, any modes, names that are no text.

By descriptor, following no link. Deep trees are cut off at the top instead of being descended: a
directory that is not empty gives its own directories to the top one, and is empty then.
"""

from __future__ import annotations

import contextlib
import errno
import os
from itertools import count

__all__ = ["empty"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def empty(top: int) -> None:
    """Remove everything in the directory open as *top*.

    Raises:
        OSError: something can't be removed; as much as possible was.
    """
    numbers = count()
    while names := os.listdir(top):
        before, problem = set(names), None
        for name in names:
            try:
                _remove(top, name, numbers)
            except FileNotFoundError:
                continue
            except OSError as error:
                problem = error
        if problem is not None and set(os.listdir(top)) >= before:
            raise problem


def _remove(top: int, name: str, numbers: count[int]) -> None:
    if _unlink(top, name):
        return
    fd = _open(top, name)
    try:
        for inner in os.listdir(fd):
            if not _unlink(fd, inner):
                os.close(_open(fd, inner))  # to move it away needs permission to write in it
                _move(fd, inner, top, numbers)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=top)


def _unlink(directory: int, name: str) -> bool:
    """Remove a file or an empty directory; False for one with something in it."""
    try:
        os.unlink(name, dir_fd=directory)
        return True
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.EPERM):
            raise
    try:
        os.rmdir(name, dir_fd=directory)
        return True
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    return False


def _open(directory: int, name: str) -> int:
    """Open a directory that is to go, whatever its mode says."""
    with contextlib.suppress(PermissionError):
        fd = os.open(name, _DIRECTORY, dir_fd=directory)
        if os.fstat(fd).st_mode & 0o700 == 0o700:
            return fd
        os.close(fd)
    handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    try:
        # Only its owner changes it, or who has CAP_FOWNER: then the mode did not matter.
        with contextlib.suppress(OSError):
            os.chmod(f"/proc/self/fd/{handle}", 0o700)
        return os.open(".", _DIRECTORY, dir_fd=handle)
    finally:
        os.close(handle)


def _move(directory: int, name: str, top: int, numbers: count[int]) -> None:
    while True:
        new = f"removing-{next(numbers)}"
        try:
            os.rename(name, new, src_dir_fd=directory, dst_dir_fd=top)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
