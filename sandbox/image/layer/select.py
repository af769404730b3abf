"""What COPY takes of a tree: which files, and by which names below the destination.

Runs over the build's context in our own process, and over the layers of another image in the confined
child. All is done by descriptor, and no link is followed but those that a source's own path goes through,
and these only within the tree.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from sandbox.errors import LayerError
from sandbox.image.layer.attributes import read_xattrs
from sandbox.image.layer.merged import Merged, Path, Shown
from sandbox.image.layer.names import clean, printable, steps
from sandbox.image.layer.patterns import Ignore, glob, has_glob
from sandbox.image.layer.tar import Entry
from sandbox.image.layer.writer import entry

__all__ = [
    "Changed",
    "Chosen",
    "Digests",
    "Directory",
    "Line",
    "Selection",
    "digest",
    "find",
    "items",
    "select",
]

_MAX_LINKS = 40
#: files of one COPY; a layer has no more
MOST = 900_000
#: attributes that stay with a file when it is copied from another image
KEPT = (b"user.", b"security.capability", b"system.posix_acl_")


class Directory(Merged):
    """A directory as it is, open as *root*: nothing in it stands for anything else."""

    def __init__(self, root: int) -> None:
        super().__init__([root])

    def look(self, directory: Shown, name: bytes) -> Shown | None:
        """The file *name* in it."""
        try:
            status = os.stat(name, dir_fd=self.directory(0, directory.path), follow_symlinks=False)
        except FileNotFoundError:
            return None
        return Shown((*directory.path, name), status, (0,))

    def names(self, directory: Shown) -> list[bytes]:
        """The names of all that is in it, sorted."""
        return sorted(map(os.fsencode, os.listdir(self.directory(0, directory.path))))


class Chosen(NamedTuple):
    """A file and its name below the destination, () for the destination itself."""

    name: Path
    shown: Shown


class Selection(NamedTuple):
    """`files`, sorted by name. `single`: one file that is no directory; where the destination is none
    either, it is what the destination's name will stand for."""

    files: list[Chosen]
    single: bool


def select(
    tree: Merged,
    sources: Sequence[bytes],
    *,
    ignore: Ignore | None = None,
    exclude: Ignore | None = None,
    parents: bool = False,
    where: str = "the context",
) -> Selection:
    """What *sources*, paths or patterns, stand for in *tree*: of a directory what is in it.

    *ignore* holds for the whole tree, *exclude* for what is in a source. With *parents* names keep their
    directories.

    Raises:
        LayerError: there is no such file, or it lies outside.
    """
    taken = _Taken(tree, ignore or Ignore(), exclude or Ignore())
    found = []
    for source in sources:
        path = _inside(source, where)
        matched: list[Shown | None] = (
            [*_expand(tree, path, taken.ignored, where)]
            if any(map(has_glob, path))
            else [find(tree, path, where)]
        )
        for shown in matched:
            if shown is None or taken.ignored(shown.path):
                why = " (an ignore file leaves it out)" if shown is not None else ""
                raise LayerError(f"there is no {printable(source)} in {where}{why}")
            found.append(shown)
    if not found:
        raise LayerError(f"nothing in {where} matches {' '.join(map(printable, sources))}")
    for shown in found:
        taken.take(shown, shown.path if parents else None)
    single = len(found) == 1 and not found[0].is_directory and not parents
    return Selection([Chosen(name, taken.files[name]) for name in sorted(taken.files)], single)


def _inside(source: bytes, where: str) -> Path:
    try:
        return clean(source)
    except LayerError as error:
        if b".." in source.split(b"/"):
            raise LayerError(
                f"{printable(source)} lies outside {where}", "build from a directory that has it, with -f"
            ) from error
        raise


def find(tree: Merged, path: Path, where: str = "the context") -> Shown | None:
    """What *path* stands for, links followed; None: nothing.

    Raises:
        LayerError: a link leads out of the tree, or there are too many.
    """
    shown = tree.root()
    todo, links = list(reversed(path)), 0
    while todo:
        name = todo.pop()
        if name == b"..":
            if not shown.path:
                raise LayerError(f"{_shown(path)}: a link leads out of {where}")
            above = find(tree, shown.path[:-1], where)
            assert above is not None
            shown = above
            continue
        if not shown.is_directory:
            return None
        each = tree.look(shown, name)
        if each is None:
            return None
        if not stat.S_ISLNK(each.status.st_mode):
            shown = each
            continue
        links += 1
        target = tree.link(each)
        if links > _MAX_LINKS:
            raise LayerError(f"{_shown(path)}: too many links")
        if target.startswith(b"/"):
            if where == "the context":
                raise LayerError(f"{_shown(path)}: a link leads out of {where}, to {printable(target)}")
            shown = tree.root()
        todo += reversed(steps(target))
    return shown


def _shown(path: Path) -> str:
    return printable(b"/".join(path))


def _expand(tree: Merged, path: Path, ignored: Callable[[Path], bool], where: str) -> Iterator[Shown]:
    """All that a pattern matches, by name; links at its end are followed, too."""
    level = [tree.root()]
    for number, part in enumerate(path):
        last = number == len(path) - 1
        following: list[Shown] = []
        matches = glob(part).match if has_glob(part) else None
        for shown in level:
            if not shown.is_directory:
                continue
            names = [name for name in tree.names(shown) if matches(name)] if matches else [part]
            for name in names:
                each = find(tree, (*shown.path, name), where)
                if each is not None and not (last and ignored((*shown.path, name))):
                    following.append(each)
        level = following
    yield from level


class _Taken:
    """The files so far, by their names below the destination."""

    def __init__(self, tree: Merged, ignore: Ignore, exclude: Ignore) -> None:
        self.files: dict[Path, Shown] = {}
        self._tree = tree
        self._ignore = ignore
        self._exclude = exclude

    def ignored(self, path: Path) -> bool:
        """Whether the ignore file leaves *path* out, with all that is in it."""
        if not self._ignore or not path:
            return False
        matched = self._matched(path)
        return self._ignore.ignores(matched) and not (self._ignore.keeps and self._is_directory(path))

    def _matched(self, path: Path) -> int:
        matched = 0
        for number in range(len(path)):
            matched = self._ignore.match(b"/".join(path[: number + 1]), matched)
        return matched

    def _is_directory(self, path: Path) -> bool:
        shown = find(self._tree, path)
        return shown is not None and shown.is_directory

    def take(self, shown: Shown, keep: Path | None) -> None:
        """Take a source: a file by its last name, of a directory the contents; with *keep* by that name."""
        if keep is not None:
            for number in range(1, len(keep)):
                above = find(self._tree, keep[:number])
                assert above is not None
                self._put(keep[:number], above)
        if not shown.is_directory:
            if not self._excluded(shown.path[-1:]):
                self._put(shown.path[-1:] if keep is None else keep, shown)
            return
        base = () if keep is None else keep
        self._put(base, shown)
        todo = [(shown, self._matched(shown.path), 0)]
        skip = len(shown.path)
        while todo:
            directory, matched, excluded = todo.pop()
            for name in self._tree.names(directory):
                each = self._tree.look(directory, name)
                if each is None or stat.S_ISSOCK(each.status.st_mode):
                    continue
                ignored = self._ignore.match(b"/".join(each.path), matched) if self._ignore else 0
                inner = each.path[skip:]
                left = self._exclude.match(b"/".join(inner), excluded) if self._exclude else 0
                out = self._ignore.ignores(ignored) or self._exclude.ignores(left)
                if not out:
                    self._put_with_parents(base, inner, each)
                if each.is_directory and (not out or self._ignore.keeps or self._exclude.keeps):
                    todo.append((each, ignored, left))

    def _excluded(self, path: Path) -> bool:
        return bool(self._exclude) and self._exclude.ignores(self._exclude.match(b"/".join(path)))

    def _put_with_parents(self, base: Path, inner: Path, shown: Shown) -> None:
        """A file that `!` brings back has its directories, too."""
        for number in range(1, len(inner)):
            name = (*base, *inner[:number])
            if name not in self.files:
                above = find(self._tree, shown.path[: number - len(inner)])
                assert above is not None
                self._put(name, above)
        self._put((*base, *inner), shown)

    def _put(self, name: Path, shown: Shown) -> None:
        before = self.files.get(name)
        if before is not None and before.is_directory != shown.is_directory:
            kinds = ("a file", "a directory")
            raise LayerError(
                f"{printable(b'/'.join(name))} would be {kinds[before.is_directory]} of one source and "
                f"{kinds[shown.is_directory]} of another"
            )
        if len(self.files) >= MOST:
            raise LayerError(f"it has more than {MOST} files")
        self.files[name] = shown


# --- contents -----------------------------------------------------------------------------------------------


class Changed(LayerError):
    """A file is not what it was when it was looked at."""


def items(
    tree: Merged, selection: Selection, *, owners: bool, contents: Mapping[Path, str] | None = None
) -> Iterator[tuple[Entry, Iterable[bytes | memoryview]]]:
    """The selected files as entries of an archive, with their contents. With *owners* whose they are and
    their attributes are kept, and what is one file stays one; else all are root's.

    *contents* are the digests that files must have.

    Raises:
        LayerError: a file is of a kind that can't be copied.
        Changed: a file has another digest than it should, once its content was read.
    """
    first: dict[tuple[int, int], bytes] = {}
    for path, shown in selection.files:
        status = shown.status
        kind = _KINDS.get(stat.S_IFMT(status.st_mode))
        name = b"/".join(path) or b"."
        if kind is None:
            raise LayerError(
                f"{printable(b'/'.join(shown.path))} is a device or a socket, and can't be copied"
            )
        ids = {"uid": status.st_uid, "gid": status.st_gid} if owners else {}
        made = entry(kind, name, mode=stat.S_IMODE(status.st_mode), mtime=status.st_mtime_ns, **ids)
        content: Iterable[bytes | memoryview] = ()
        if owners and status.st_nlink > 1 and kind != "dir":
            one = first.setdefault((status.st_dev, status.st_ino), name)
            if one != name:
                made.kind, made.link = "hardlink", one
                yield made, ()
                continue
        if kind == "symlink":
            made.link, made.mode = tree.link(shown), 0o777
        elif kind == "file":
            yield from _file(tree, shown, made, owners, (contents or {}).get(path))
            continue
        elif kind == "dir" and owners:
            made.xattrs = _kept(tree, shown)
        yield made, content


_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "symlink", stat.S_IFIFO: "fifo"}
_CHUNK = 1 << 20


def _file(
    tree: Merged, shown: Shown, made: Entry, owners: bool, known: str | None
) -> Iterator[tuple[Entry, Iterable[bytes | memoryview]]]:
    fd = tree.open(shown)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise Changed(f"{printable(b'/'.join(shown.path))} was replaced while it was read")
        made.size = made.stored = status.st_size
        if owners:
            made.xattrs = _kept(tree, shown)
        yield made, _read(fd, status.st_size, shown, known)
    finally:
        os.close(fd)


def _read(fd: int, size: int, shown: Shown, known: str | None) -> Iterator[bytes]:
    seen = hashlib.sha256()
    while size and (data := os.read(fd, min(size, _CHUNK))):
        size -= len(data)
        if known:
            seen.update(data)
        yield data
    if size or (known and seen.hexdigest() != known):
        raise Changed(f"{printable(b'/'.join(shown.path))} changed while it was read", "build again")


def _kept(tree: Merged, shown: Shown) -> dict[bytes, bytes]:
    fd = tree.open(shown)
    try:
        return {key: value for key, value in read_xattrs(fd).items() if key.startswith(KEPT)}
    finally:
        os.close(fd)


# --- digests ------------------------------------------------------------------------------------------------


#: (name, "kind mode ...", digest of the content) of a file
Line = tuple[str, str, str]


class Digests:
    """Digests of files' contents, as sha256 in hexadecimal. A subclass may remember them."""

    def of(self, tree: Merged, shown: Shown) -> str:
        """The digest of a regular file's content."""
        fd = tree.open(shown)
        try:
            with open(fd, "rb", buffering=0, closefd=False) as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        finally:
            os.close(fd)


def digest(tree: Merged, selection: Selection, digests: Digests, *, owners: bool) -> tuple[str, list[Line]]:
    """One digest of what a selection has: names, kinds, modes and contents, with *owners* also who owns it
    and its attributes; no times. And the lines that it is made of."""
    lines = []
    for name, shown in selection.files:
        status = shown.status
        said = f"{stat.S_IFMT(status.st_mode):o} {stat.S_IMODE(status.st_mode):o}"
        if owners:
            said += f" {status.st_uid} {status.st_gid}{_xattrs(tree, shown)}"
        content = ""
        if stat.S_ISREG(status.st_mode):
            content = digests.of(tree, shown)
        elif stat.S_ISLNK(status.st_mode):
            said = "120000"
            content = os.fsdecode(tree.link(shown))
        lines.append((os.fsdecode(b"/".join(name)), said, content))
    whole = hashlib.sha256(b"single" if selection.single else b"")
    for line in lines:
        whole.update("\0".join(line).encode("utf-8", "surrogateescape") + b"\0\n")
    return whole.hexdigest(), lines


def _xattrs(tree: Merged, shown: Shown) -> str:
    if not (shown.is_directory or stat.S_ISREG(shown.status.st_mode)):
        return ""
    kept = _kept(tree, shown)
    return f" {sorted(kept.items())}" if kept else ""
