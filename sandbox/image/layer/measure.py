"""What a layer's directory takes on disk, and whether it is what it was: sizes and digests of trees.

Nothing is interpreted: whiteouts and overlayfs's marks count like any other files and attributes.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator

from sandbox.image.layer.merged import Merged, Path

__all__ = ["disk", "tree_digest"]

_CHUNK = 1 << 20


def disk(root: int) -> int:
    """Bytes on disk of everything in the directory open as *root*; a file with several names counts once."""
    blocks, seen = os.fstat(root).st_blocks, set()
    files = Merged([root])
    for _, status in _walk(files):
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            inode = (status.st_dev, status.st_ino)
            if inode in seen:
                continue
            seen.add(inode)
        blocks += status.st_blocks
    files.close()
    return blocks * 512


def tree_digest(root: int) -> str:
    """A digest of all names, types, owners, modes, times, attributes, links and contents."""
    files, links = Merged([root]), dict[tuple[int, int], Path]()
    total = hashlib.sha256(_attributes(root, os.fstat(root)))
    for path, status in _walk(files):
        total.update(b"/".join(path) + b"\0")
        first = links.setdefault((status.st_dev, status.st_ino), path)
        if first != path:
            total.update(b"/".join(first))
        elif stat.S_ISLNK(status.st_mode):
            above = files.directory(0, path[:-1])
            total.update(_attributes(-1, status) + os.readlink(path[-1], dir_fd=above))
        elif stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
            total.update(_opened(files, path, status))
        else:
            total.update(_attributes(-1, status))
    files.close()
    return total.hexdigest()


def _walk(files: Merged) -> Iterator[tuple[Path, os.stat_result]]:
    """Every file below the root, by name; directories before what is in them."""
    todo: list[Path] = [()]
    while todo:
        path = todo.pop()
        inner = []
        for name in sorted(map(os.fsencode, os.listdir(files.directory(0, path)))):
            status = os.stat(name, dir_fd=files.directory(0, path), follow_symlinks=False)
            yield (*path, name), status
            if stat.S_ISDIR(status.st_mode):
                inner.append((*path, name))
        todo += reversed(inner)


def _opened(files: Merged, path: Path, status: os.stat_result) -> bytes:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(path[-1], flags, dir_fd=files.directory(0, path[:-1]))
    try:
        content = hashlib.sha256()
        while stat.S_ISREG(status.st_mode) and (data := os.read(fd, _CHUNK)):
            content.update(data)
        return _attributes(fd, status) + content.digest()
    finally:
        os.close(fd)


def _attributes(fd: int, status: os.stat_result) -> bytes:
    xattrs = sorted((name, os.getxattr(fd, name)) for name in os.listxattr(fd)) if fd >= 0 else []
    size = status.st_size if stat.S_ISREG(status.st_mode) else 0
    said = (status.st_mode, status.st_uid, status.st_gid, size, status.st_mtime_ns, status.st_rdev, xattrs)
    return ascii(said).encode()
