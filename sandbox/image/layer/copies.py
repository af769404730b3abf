"""Files of lower layers, copied."""

from __future__ import annotations

import errno
import os
import stat

from sandbox.image.layer.attributes import read_xattrs, set_xattrs
from sandbox.image.layer.merged import Merged, Shown

__all__ = ["copy", "data_extents"]

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK = 1 << 20


def data_extents(fd: int, size: int) -> list[tuple[int, int]]:
    """(offset, length) of what is not a hole, as far as the file system tells (lseek(2), SEEK_DATA)."""
    found, at = [], 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            raise
        at = os.lseek(fd, start, os.SEEK_HOLE)
        found.append((start, min(at, size) - start))
    return found


def copy(source: Merged, shown: Shown, directory: int, *, squash: bool) -> None:
    """Copy a file that is no directory into *directory*, under its own name, with all that belongs to it.

    Raises:
        OSError: it can't be read or written.
        LayerError: it has attributes that can't be set.
    """
    name, status = shown.path[-1], shown.status
    kind = stat.S_IFMT(status.st_mode)
    times = (status.st_mtime_ns, status.st_mtime_ns)
    if kind == stat.S_IFREG:
        _copy_regular(source, shown, directory, squash)
        return
    if kind == stat.S_IFLNK:
        os.symlink(source.link(shown), name, dir_fd=directory)
    else:
        os.mknod(name, stat.S_IFIFO | stat.S_IMODE(status.st_mode), dir_fd=directory)
    if not squash:
        os.chown(name, status.st_uid, status.st_gid, dir_fd=directory, follow_symlinks=False)
    os.utime(name, ns=times, dir_fd=directory, follow_symlinks=False)


def _copy_regular(source: Merged, shown: Shown, directory: int, squash: bool) -> None:
    status = shown.status
    old = source.open(shown)
    try:
        new = os.open(shown.path[-1], _NEW, 0o600, dir_fd=directory)
        try:
            for offset, length in data_extents(old, status.st_size):
                _copy_extent(old, new, offset, length)
            os.ftruncate(new, status.st_size)
            if not squash:
                os.fchown(new, status.st_uid, status.st_gid)
            os.fchmod(new, stat.S_IMODE(status.st_mode))
            set_xattrs(new, read_xattrs(old), shown.path[-1], squash=squash)
            os.utime(new, ns=(status.st_mtime_ns, status.st_mtime_ns))
        finally:
            os.close(new)
    finally:
        os.close(old)


def _copy_extent(old: int, new: int, offset: int, length: int) -> None:
    """By copy_file_range(2), which shares the blocks where the file system can; by hand else."""
    while length:
        try:
            done = os.copy_file_range(old, new, length, offset, offset)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            done = os.pwrite(new, os.pread(old, min(length, _CHUNK), offset), offset)
        if not done:
            return
        offset, length = offset + done, length - done
