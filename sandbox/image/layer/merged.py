"""What layers on top of each other show: overlayfs's rules for looking up, without a mount.

Whiteouts are character devices 0/0, or empty files with an attribute in directories that say so;
an opaque directory hides what is below it; directories merge with directories only (kernel:
Documentation/filesystems/overlayfs.rst, with `userxattr`). Reads only, by descriptor, and follows no
link.
"""

from __future__ import annotations

import os
import stat
from collections import OrderedDict
from collections.abc import Iterator, Sequence

from sandbox.image.layer.attributes import OPAQUE, WHITEOUT, marked

__all__ = ["DIRECTORY", "Merged", "Path", "Shown", "is_whiteout"]

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: open descriptors that are kept
_KEPT = 256

#: the names on the way from the root
Path = tuple[bytes, ...]


class Shown:
    """A file that is visible: its path, its status, and the layers that have it, uppermost first: all
    those that merge in a directory, one for anything else."""

    __slots__ = ("layers", "path", "status")

    def __init__(self, path: Path, status: os.stat_result, layers: tuple[int, ...]) -> None:
        self.path, self.status, self.layers = path, status, layers

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.status.st_mode)


class Merged:
    """Layers whose root directories are *roots*, open descriptors that stay the caller's, uppermost first."""

    def __init__(self, roots: Sequence[int]) -> None:
        self._roots = roots
        self._open: OrderedDict[tuple[int, Path], int] = OrderedDict()

    def root(self) -> Shown:
        """The root directory: the uppermost layer's. All merge there, even where one says it is opaque."""
        return Shown((), os.fstat(self._roots[0]), tuple(range(len(self._roots))))

    def look(self, directory: Shown, name: bytes) -> Shown | None:
        """What *directory* shows as *name*."""
        found: list[int] = []
        top: os.stat_result | None = None
        path = (*directory.path, name)
        for layer in directory.layers:
            above = self.directory(layer, directory.path)
            try:
                status = os.stat(name, dir_fd=above, follow_symlinks=False)
            except FileNotFoundError:
                continue
            if is_whiteout(above, name, status):
                break
            if not stat.S_ISDIR(status.st_mode):
                if not found:
                    return Shown(path, status, (layer,))
                break
            found.append(layer)
            top = top or status
            if layer != directory.layers[-1] and marked(self.directory(layer, path), OPAQUE) == b"y":
                break
        return Shown(path, top, tuple(found)) if top else None

    def names(self, directory: Shown) -> list[bytes]:
        """The names of all that *directory* shows, sorted."""
        seen: set[bytes] = set()
        for layer in directory.layers:
            seen.update(map(os.fsencode, os.listdir(self.directory(layer, directory.path))))
        return sorted(name for name in seen if self.look(directory, name))

    def walk(self) -> Iterator[Shown]:
        """Everything that is visible: a directory, then what is in it, by name."""
        todo = [self.root()]
        while todo:
            shown = todo.pop()
            yield shown
            if shown.is_directory:
                inside = (self.look(shown, name) for name in self.names(shown))
                todo += reversed([each for each in inside if each])

    def directory(self, layer: int, path: Path) -> int:
        """A descriptor of a layer's own directory; good until the next one is asked for."""
        if not path:
            return self._roots[layer]
        fd = self._open.get((layer, path))
        if fd is None:
            fd = self._reach(layer, path)
            self._open[layer, path] = fd
            if len(self._open) > _KEPT:
                os.close(self._open.popitem(last=False)[1])
        else:
            self._open.move_to_end((layer, path))
        return fd

    def _reach(self, layer: int, path: Path) -> int:
        known = len(path) - 1
        while known and (layer, path[:known]) not in self._open:
            known -= 1
        fd = self._open[layer, path[:known]] if known else self._roots[layer]
        ours = -1
        for name in path[known:]:
            try:
                fd = os.open(name, DIRECTORY, dir_fd=fd)
            finally:
                if ours >= 0:
                    os.close(ours)
            ours = fd
        return fd

    def open(self, shown: Shown) -> int:
        """A new descriptor of a regular file or directory, for reading."""
        above = self.directory(shown.layers[0], shown.path[:-1])
        if not shown.path:
            return os.dup(above)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(shown.path[-1], flags, dir_fd=above)

    def link(self, shown: Shown) -> bytes:
        """Where a symbolic link points to."""
        above = self.directory(shown.layers[0], shown.path[:-1])
        return os.readlink(shown.path[-1], dir_fd=above)

    def close(self) -> None:
        """Close what was opened here."""
        while self._open:
            os.close(self._open.popitem()[1])


def is_whiteout(above: int, name: bytes, status: os.stat_result) -> bool:
    """Whether the file *name* of the directory open as *above* stands for a deleted one."""
    if stat.S_ISCHR(status.st_mode):
        return status.st_rdev == 0
    if not stat.S_ISREG(status.st_mode) or status.st_size or marked(above, OPAQUE) != b"x":
        return False
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
    try:
        return bool(marked(fd, WHITEOUT))
    finally:
        os.close(fd)
