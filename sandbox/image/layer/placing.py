"""Files put into an image, as a layer: what COPY, ADD and WORKDIR make of the layers below.

Nothing is written but an archive. Where a file comes to lie is looked up in the lower layers, links followed
within their root as in a chroot; directories on the way are described again as they are there, for a layer
that leaves them out means different things to different tools. docker's rules: a destination that ends
with a slash, or is a directory, gets files under their own names; a directory takes only
directories' place, and a file only files' and links'.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from sandbox.errors import LayerError
from sandbox.image.layer.attributes import read_xattrs
from sandbox.image.layer.compress import Budget
from sandbox.image.layer.merged import Merged, Path, Shown
from sandbox.image.layer.names import WHITEOUT, clean, printable
from sandbox.image.layer.names import steps as components
from sandbox.image.layer.select import KEPT, find
from sandbox.image.layer.stream import Stream
from sandbox.image.layer.tar import Entry, Limits, Reader
from sandbox.image.layer.writer import Writer, entry

__all__ = ["Owner", "Ownership", "Placer", "Target", "entries", "find_owner", "is_archive", "place"]

_MAX_LINKS = 40
_MAX_FILE = 1 << 20  # bytes of /etc/passwd and /etc/group that are read
_BLOCK = 512


class Owner(NamedTuple):
    """Who owns a file."""

    uid: int
    gid: int


class Target(NamedTuple):
    """Where files go: the destination's path in the image, links resolved; whether it is a directory, and
    whether it is there."""

    path: Path
    directory: bool
    there: bool


class Placer:
    """Writes files to *writer* as a layer on top of *lower*. Directories that are made on the way are
    *owner*'s, 0755, and *now* old (nanoseconds since 1970)."""

    def __init__(self, lower: Merged | None, writer: Writer, *, owner: Owner, now: int) -> None:
        self._lower = lower
        self._writer = writer
        self._owner = owner
        self._now = now
        #: what is at a path by now
        self._kinds: dict[Path, str] = {(): "dir"}
        self.count = 0

    def resolve(self, destination: bytes) -> Target:
        """The place that *destination*, an absolute path, means.

        Raises:
            LayerError: something on the way is no directory.
        """
        todo, path, links = list(reversed(components(destination))), list[bytes](), 0
        shown = self._lower.root() if self._lower else None
        while todo:
            name = todo.pop()
            if name == b"..":
                path = path[:-1]
                shown = self._look(tuple(path))
                continue
            if shown is not None and not shown.is_directory:
                raise LayerError(f"{printable(b'/'.join(path))} in the image is no directory")
            path.append(name)
            shown = self._look(tuple(path))
            if shown is None or not stat.S_ISLNK(shown.status.st_mode):
                continue
            links += 1
            if links > _MAX_LINKS:
                raise LayerError(f"{printable(destination)} goes through too many links in the image")
            assert self._lower is not None
            target = self._lower.link(shown)
            path = [] if target.startswith(b"/") else path[:-1]
            shown = self._look(tuple(path))
            todo += reversed(components(target))
        slash = destination.endswith((b"/", b"/.")) or not path
        if shown is not None and not shown.is_directory and slash:
            raise LayerError(f"{printable(destination)} in the image is no directory")
        there = shown is not None or not path
        return Target(tuple(path), slash or (shown is not None and shown.is_directory), there)

    def _look(self, path: Path) -> Shown | None:
        """What the lower layers have at *path*, on which there is no link."""
        if self._lower is None:
            return None
        shown: Shown | None = self._lower.root()
        for name in path:
            if shown is None or not shown.is_directory:
                return None
            shown = self._lower.look(shown, name)
        return shown

    def kind(self, path: Path) -> str:
        """What is at *path*: "dir", "file" (anything else), or ""."""
        known = self._kinds.get(path)
        if known is None:
            shown = self._look(path)
            known = "" if shown is None else "dir" if shown.is_directory else "file"
        return known

    def directory(self, path: Path, like: Entry | None = None) -> None:
        """See that *path* is a directory: made as *like*, and what is above it, where it is not there.

        Raises:
            LayerError: it is something else.
        """
        if path in self._kinds and like is None:
            if self._kinds[path] != "dir":
                raise LayerError(f"{printable(b'/'.join(path))} is no directory")
            return
        if path:
            self.directory(path[:-1])
        kind = self.kind(path)
        if kind == "file":
            raise LayerError(f"{printable(b'/'.join(path))} in the image is no directory")
        if like is not None:
            made = like
        elif kind:
            made = self._as_it_is(path)
        else:
            made = entry("dir", b"", mode=0o755, uid=self._owner.uid, gid=self._owner.gid, mtime=self._now)
        made.name = b"/".join(path) + b"/" if path else b"./"
        if path or like is not None:
            self._write(made)
        self._kinds[path] = "dir"

    def _as_it_is(self, path: Path) -> Entry:
        """The entry of a directory of the lower layers."""
        shown = self._look(path)
        assert shown is not None and self._lower is not None
        status = shown.status
        fd = self._lower.open(shown)
        try:
            xattrs = {key: value for key, value in read_xattrs(fd).items() if key.startswith(KEPT)}
        finally:
            os.close(fd)
        mode, mtime = stat.S_IMODE(status.st_mode), status.st_mtime_ns
        return entry("dir", b"", mode=mode, uid=status.st_uid, gid=status.st_gid, mtime=mtime, xattrs=xattrs)

    def put(self, path: Path, item: Entry, content: Iterable[bytes | memoryview] = ()) -> None:
        """Put a file at *path*; a directory that is there already keeps what is in it.

        Raises:
            LayerError: a directory would take the place of something else, or the other way round.
        """
        if any(part.startswith(WHITEOUT) for part in path):
            raise LayerError(f"no layer can have a file named {printable(b'/'.join(path))}")
        if item.kind == "dir":
            self.directory(path, item)
            return
        self.directory(path[:-1])
        if self.kind(path) == "dir":
            raise LayerError(f"{printable(b'/'.join(path))} in the image is a directory, and would be a file")
        item.name = b"/".join(path)
        self._write(item, content)
        self._kinds[path] = "file"

    def put_as_it_is(self, path: Path, item: Entry, content: Iterable[bytes | memoryview]) -> None:
        """Put a file at *path*, whatever is there. Directories of the lower layers on the way are described.

        Raises:
            LayerError: it has a name that would be a deletion.
        """
        if any(part.startswith(WHITEOUT) for part in path):
            raise LayerError(f"no layer can have a file named {printable(b'/'.join(path))}")
        for length in range(1, len(path)):
            above = path[:length]
            if above in self._kinds:
                continue
            if self.kind(above) != "dir":
                break
            self.directory(above)
        item.name = b"/".join(path) + (b"/" if item.kind == "dir" else b"")
        self._write(item, content)
        self._kinds[path] = "dir" if item.kind == "dir" else "file"

    def _write(self, item: Entry, content: Iterable[bytes | memoryview] = ()) -> None:
        self._writer.add(item, content)
        self.count += 1


class Ownership(NamedTuple):
    """What files are given: an `owner` and a `mode`; None: those that they have."""

    owner: Owner | None = None
    mode: int | None = None

    def give(self, item: Entry) -> None:
        """Let *item* be so."""
        if self.owner is not None:
            item.uid, item.gid = self.owner
        if self.mode is not None and item.kind != "symlink":
            item.mode = self.mode


#: a file and its content
Item = tuple[Entry, Iterable["bytes | memoryview"]]


def place(
    placer: Placer,
    items: Iterable[Item],
    destination: bytes,
    ownership: Ownership,
    *,
    single: bool,
    archives: frozenset[bytes] = frozenset(),
) -> None:
    """Put *items*, named relative to it, below *destination*; of *archives* that which is in them.

    Raises:
        LayerError: something can't be put there.
    """
    target = placer.resolve(destination)
    for item, content in items:
        name = clean(item.name)
        if item.name in archives:
            rest = _unpack(placer, target.path, content, ownership.owner)
            if rest is None:
                continue
            content = rest
        if not name and item.kind == "dir" and target.there:
            placer.directory(target.path)  # it stays as it is
            continue
        ownership.give(item)
        if item.kind == "hardlink":
            item.link = b"/".join((*target.path, *clean(item.link)))
        placer.put(target.path if single and not target.directory else (*target.path, *name), item, content)


def entries(reader: Reader) -> Iterator[Item]:
    """What an archive has."""
    for item in reader:
        yield item, reader.content() if item.stored else ()


class _Pieces:
    """An entry's content as a file, which remembers what was read until it is told not to."""

    def __init__(self, pieces: Iterator[bytes | memoryview]) -> None:
        self._pieces = pieces
        self._rest = b""
        self.read_so_far: list[bytes] | None = []

    def read(self, size: int, /) -> bytes:
        if not self._rest:
            self._rest = bytes(next(self._pieces, b""))
        found, self._rest = self._rest[:size], self._rest[size:]
        if self.read_so_far is not None:
            self.read_so_far.append(found)
        return found

    def again(self) -> Iterator[bytes]:
        """All of it, from the beginning."""
        before, self.read_so_far = self.read_so_far or [], None
        yield from before
        while data := self.read(1 << 20):
            yield data


def _unpack(
    placer: Placer, base: Path, content: Iterable[bytes | memoryview], owner: Owner | None
) -> Iterator[bytes] | None:
    """Put what is in an archive below *base*; its content again, when it turns out to be none."""
    pieces = _Pieces(iter(content))
    with Stream(pieces, Budget()) as stream:
        head = b""
        with contextlib.suppress(LayerError):  # no such format after all
            head = stream.take(_BLOCK)
        if is_archive(head):
            pieces.read_so_far = None
            _put_archive(placer, base, Reader(_Pushed(stream, head), Limits()), owner)
            return None
    return pieces.again()


class _Pushed:
    """A stream from which the first block was taken already."""

    def __init__(self, stream: Stream, head: bytes) -> None:
        self._stream, self._head = stream, head

    def take(self, size: int) -> bytes:
        """Exactly *size* bytes; fewer at the end."""
        if not self._head:
            return self._stream.take(size)
        found, self._head = self._head[:size], self._head[size:]
        return found + self._stream.take(size - len(found)) if len(found) < size else found

    def pieces(self, size: int) -> Iterator[memoryview | bytes]:
        """The next *size* bytes, in pieces."""
        if self._head:
            head = self.take(min(size, len(self._head)))
            yield head
            size -= len(head)
        yield from self._stream.pieces(size)

    def skip(self, size: int) -> int:
        """Pass over the next *size* bytes; how many there were."""
        return sum(map(len, self.pieces(size)))

    def finish(self) -> None:
        """Read to the end."""
        self._head = b""
        self._stream.finish()


def is_archive(head: bytes) -> bool:
    """Whether *head* is the first block of a tar archive: its checksum says (POSIX.1-2017, pax, "ustar")."""
    if len(head) < _BLOCK:
        return False
    try:
        said = int(head[148:156].strip(b" \0") or b"x", 8)
    except ValueError:
        return False
    return sum(head[:148]) + sum(head[156:_BLOCK]) + 8 * 32 == said


def _put_archive(placer: Placer, base: Path, reader: Reader, owner: Owner | None) -> None:
    """What stands on the way to a file, a link of the archive or of the image, is for whoever unpacks the
    layer to follow, within its root. A later entry replaces an earlier one of its name, as ever in layers."""
    placer.directory(base)
    for item in reader:
        path = clean(item.name)
        if item.kind in ("char", "block"):
            raise LayerError(f"{printable(item.name)} in the archive is a device, which no user can make")
        if item.kind == "hardlink":
            item.link = b"/".join((*base, *clean(item.link)))
        if not path:
            continue  # the destination stays as it is
        if owner is not None:
            item.uid, item.gid = owner
        item.xattrs = {key: value for key, value in item.xattrs.items() if key.startswith(KEPT)}
        placer.put_as_it_is((*base, *path), item, reader.content() if item.stored else ())


# --- owners -------------------------------------------------------------------------------------------------


def find_owner(text: str, lower: Merged | None) -> Owner:
    """The ids of "USER[:GROUP]", by number or by a name that the image knows.

    Raises:
        LayerError: it does not know it.
    """
    user, colon, group = text.partition(":")
    uid, gid = _number(user), None
    if uid is None:
        found = _lookup(lower, b"passwd", user, 4)
        if found is None:
            raise LayerError(
                f"the image has no user {printable(user.encode())}: it is not in its /etc/passwd"
            )
        uid, gid = int(found[2]), int(found[3])
    if not colon or not group:
        return Owner(uid, uid if gid is None else gid)
    number = _number(group)
    if number is None:
        found = _lookup(lower, b"group", group, 3)
        if found is None:
            raise LayerError(
                f"the image has no group {printable(group.encode())}: it is not in its /etc/group"
            )
        number = int(found[2])
    return Owner(uid, number)


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 11 else None


def _lookup(lower: Merged | None, file: bytes, name: str, fields: int) -> list[bytes] | None:
    shown = find(lower, (b"etc", file), "the image") if lower else None
    if shown is None or lower is None or not stat.S_ISREG(shown.status.st_mode):
        return None
    fd = lower.open(shown)
    try:
        data = os.read(fd, _MAX_FILE)
    finally:
        os.close(fd)
    for line in data.split(b"\n"):
        parts = line.split(b":")
        if (
            len(parts) >= fields
            and parts[0] == name.encode()
            and all(part.isdigit() for part in parts[2:fields])
        ):
            return parts
    return None
