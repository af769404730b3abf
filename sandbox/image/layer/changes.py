"""From directories to archives: an overlay's writable layer as a layer, and stacked layers as one tree.

Deleted names become explicit whiteouts, before their siblings (image-spec, layer.md, "Whiteouts": no
other form means the same to all tools). A directory that hides the lower one is written as whiteouts of
all that the lower one has and it does not.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from typing import NamedTuple

from sandbox.errors import LayerError
from sandbox.image.layer.attributes import OPAQUE, marked, read_xattrs
from sandbox.image.layer.merged import Merged, Path, Shown, is_whiteout
from sandbox.image.layer.names import OPAQUE as OPAQUE_NAME
from sandbox.image.layer.names import WHITEOUT, printable
from sandbox.image.layer.writer import Writer, entry

__all__ = ["Change", "Upper", "changes", "settled", "write_changes", "write_tree"]

_CHUNK = 1 << 20
#: how fuse-overlayfs says that a directory is opaque, where it can't say it as overlayfs does
_FUSE_MARK = "user.fuseoverlayfs.opaque"
_FUSE_FILES = frozenset((OPAQUE_NAME, b".wh..opq"))
#: attributes that belong to a file wherever it is; labels of security modules do not
_KEPT = (b"user.", b"security.capability", b"system.posix_acl_")

#: what mends a file that belongs to none of the reader's ids; in layers there is none
_READABLE = "read it as whoever may: sudo tar -C DIR -cf - . | sandbox image import - NAME"

_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
}


class Change(NamedTuple):
    """One path that an upper layer changed: `kind` is "A" added, "C" changed, or "D" deleted. `shown`
    is the upper layer's file, None for "D"; `below` of a directory the lower layers' one, if they have it."""

    kind: str
    path: tuple[bytes, ...]
    shown: Shown | None
    below: Shown | None = None


class Upper:
    """A writable layer, open as *root*, read with the marks of its *driver* ("overlay", "fuse-overlayfs")."""

    def __init__(self, root: int, driver: str = "overlay") -> None:
        self.files = Merged([root])
        self._fuse = driver == "fuse-overlayfs"

    def is_opaque(self, path: tuple[bytes, ...]) -> bool:
        """Whether a directory hides the lower one."""
        fd = self.files.directory(0, path)
        if marked(fd, OPAQUE) == b"y":
            return True
        if not self._fuse:
            return False
        return bool(marked(fd, _FUSE_MARK)) or not _FUSE_FILES.isdisjoint(map(os.fsencode, os.listdir(fd)))

    def names(self, path: tuple[bytes, ...]) -> tuple[list[bytes], list[bytes]]:
        """The names that a directory deletes, and those of its files, both sorted.

        Raises:
            LayerError: a file has a name that would be a deletion in an archive.
        """
        fd = self.files.directory(0, path)
        gone, there = [], []
        for name in sorted(map(os.fsencode, os.listdir(fd))):
            if name.startswith(WHITEOUT):
                if not self._fuse:
                    shown = printable(b"/".join((*path, name)))
                    raise LayerError(f"no layer can have a file named {shown}", f"remove or rename {shown}")
                if name not in _FUSE_FILES:
                    gone.append(name[len(WHITEOUT) :])
            elif is_whiteout(fd, name, os.stat(name, dir_fd=fd, follow_symlinks=False)):
                gone.append(name)
            else:
                there.append(name)
        return gone, there


def changes(upper: Upper, lower: Merged | None) -> Iterator[Change]:
    """What *upper* changes of what *lower* shows: a directory before what is in it; of that first what is
    deleted, then the rest, by name. The root directory itself only where its attributes have changed."""
    root = upper.files.root()
    below = lower.root() if lower else None
    if lower is None or below is None or _state(upper.files, root) != _state(lower, below):
        yield Change("C", (), root, below)
    todo: list[tuple[Shown, Shown | None, bool]] = [(root, below, False)]
    while todo:
        shown, below, hidden = todo.pop()
        hidden = hidden or (bool(shown.path) and upper.is_opaque(shown.path))
        gone, there = upper.names(shown.path)
        old = _names_below(lower, below)
        for name in old if hidden else gone:
            if name in old and name not in there:
                yield Change("D", (*shown.path, name), None)
        inner = []
        for name in there:
            each = upper.files.look(shown, name)
            if each is None:
                continue
            under = None
            if each.is_directory:
                if lower and below and name in old:
                    under = lower.look(below, name)
                    under = under if under and under.is_directory else None
                inner.append((each, under, hidden))
            yield Change("C" if name in old else "A", each.path, each, under)
        todo += reversed(inner)


def _names_below(lower: Merged | None, below: Shown | None) -> list[bytes]:
    return lower.names(below) if lower and below else []


def _state(files: Merged, shown: Shown) -> tuple[object, ...]:
    fd = files.open(shown)
    try:
        return stat.S_IMODE(shown.status.st_mode), shown.status.st_uid, shown.status.st_gid, read_xattrs(fd)
    finally:
        os.close(fd)


def settled(upper: Upper, lower: Merged | None, ours: Collection[Path]) -> list[Change]:
    """`changes`, but for what only setting up a sandbox did: *ours* are paths that something was mounted on
    or made at. Those that are new and empty do not count, nor do directories in which nothing else changed.
    """
    kept: list[Change] = []
    needed: set[Path] = set()
    for change in reversed(list(changes(upper, lower))):
        shown = change.shown
        if shown is not None and change.path not in needed:
            if shown.is_directory:
                mine = change.kind == "A" and change.path in ours
                if mine or (change.kind == "C" and _is_same(upper, lower, change)):
                    continue
            elif change.path in ours and stat.S_ISREG(shown.status.st_mode) and not shown.status.st_size:
                continue
        kept.append(change)
        needed.add(change.path[:-1])  # and what that is in is needed by it
    return kept[::-1]


def _is_same(upper: Upper, lower: Merged | None, change: Change) -> bool:
    """Whether a directory's attributes are those that it has below."""
    if lower is None or change.shown is None or change.below is None:
        return False
    return _state(upper.files, change.shown) == _state(lower, change.below)


def write_changes(
    upper: Upper, lower: Merged | None, writer: Writer, ours: Collection[Path] | None = None
) -> int:
    """Write what *upper* changes as a layer; how many entries it has. With *ours* what `settled` says."""
    count = 0
    files = _Files(upper.files, writer)
    for change in changes(upper, lower) if ours is None else settled(upper, lower, ours):
        if change.shown is not None:
            count += files.write(change.shown)
        else:
            name = b"/".join((*change.path[:-1], WHITEOUT + change.path[-1]))
            writer.add(entry("file", name))
            count += 1
    writer.finish()
    return count


def write_tree(merged: Merged, writer: Writer) -> int:
    """Write everything that *merged* shows; how many entries that are."""
    files = _Files(merged, writer)
    count = sum(files.write(shown) for shown in merged.walk())
    writer.finish()
    return count


class _Files:
    """Writes files to an archive; those with several names once, and then as links to the first."""

    def __init__(self, source: Merged, writer: Writer) -> None:
        self._source = source
        self._writer = writer
        self._first: dict[tuple[int, int], bytes] = {}

    def write(self, shown: Shown) -> bool:
        """Write one; False for a socket, which no archive has."""
        status = shown.status
        kind = _KINDS.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            return False
        name = b"/".join(shown.path) if shown.path else b"."
        fields: dict[str, object] = {
            "mode": stat.S_IMODE(status.st_mode),
            "uid": status.st_uid,
            "gid": status.st_gid,
            "mtime": status.st_mtime_ns,
        }
        if kind == "dir":
            name += b"/"
        elif status.st_nlink > 1:
            first = self._first.setdefault((status.st_dev, status.st_ino), name)
            if first != name:
                self._writer.add(entry("hardlink", name, link=first, **fields))
                return True
        if kind == "symlink":
            self._writer.add(entry(kind, name, link=self._source.link(shown), **fields | {"mode": 0o777}))
        elif kind in ("file", "dir"):
            self._open_and_write(shown, kind, name, fields)
        else:
            device = {"major": os.major(status.st_rdev), "minor": os.minor(status.st_rdev)}
            self._writer.add(entry(kind, name, **fields, **device))
        return True

    def _open_and_write(self, shown: Shown, kind: str, name: bytes, fields: dict[str, object]) -> None:
        try:
            fd = self._source.open(shown)
        except PermissionError as error:
            raise LayerError(f"{printable(name)} can't be read: {error.strerror}", _READABLE) from error
        try:
            size = os.fstat(fd).st_size if kind == "file" else 0
            xattrs = {key: value for key, value in read_xattrs(fd).items() if key.startswith(_KEPT)}
            made = entry(kind, name, **fields, size=size, xattrs=xattrs)
            self._writer.add(made, _content(fd, size))
        finally:
            os.close(fd)


def _content(fd: int, size: int) -> Iterator[bytes]:
    while size and (data := os.read(fd, min(size, _CHUNK))):
        size -= len(data)
        yield data
