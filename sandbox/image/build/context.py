"""The build's context: the directory that COPY takes files from, read by ourselves and as a hostile one.

It is opened once and everything in it is reached by descriptor, one name at a time, links not followed
(`sandbox.image.layer.select`). What was hashed is hashed again as it is sent: a file that changes in between
is an error, and never a layer under another file's key. Digests are remembered by what lstat(2) says of a
file, its change time among it, which nobody can set.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import time
from collections.abc import Iterator, Sequence
from typing import IO, NamedTuple

from sandbox.errors import BuildError, LayerError
from sandbox.image.build.place import Place
from sandbox.image.durable import make_directory, write_file
from sandbox.image.layer.merged import Shown
from sandbox.image.layer.patterns import Ignore, lines
from sandbox.image.layer.placing import is_archive
from sandbox.image.layer.select import Digests, Directory, Line, Selection, digest, find, items, select
from sandbox.image.layer.tar import Entry
from sandbox.image.layer.writer import Writer

__all__ = ["Context", "Taken"]

_MAX_IGNORE = 1 << 20  # bytes of an ignore file
_RECENT = 2_000_000_000  # nanoseconds: what changed since may change again within the clock's grain
_MAX_KNOWN = 200_000
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_HEAD = 512
_MAGIC = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")


class Taken(NamedTuple):
    """What a COPY takes of the context: `digest` of all, the `lines` that it is made of, and the
    `archives` among the files, by their names at the destination, that ADD takes apart."""

    selection: Selection
    digest: str
    lines: list[Line]
    archives: tuple[str, ...] = ()


class Context:
    """The directory *path*; *cache* is where digests are remembered, "" for nowhere. Close it at the end.

    Args:
        ignore_files: names in the context of which the first that is there says what is left out.

    Raises:
        BuildError: it is no directory that can be read, or the ignore file is wrong.
    """

    def __init__(self, path: str, cache: str = "", ignore_files: Sequence[str] = ()) -> None:
        self.path = os.path.realpath(path)
        try:
            self._fd = os.open(self.path, _DIRECTORY)
        except OSError as error:
            raise BuildError(f"the context {path} can't be read: {error.strerror}") from error
        self._tree = Directory(self._fd)
        self._digests = _Remembered(self.path, cache)
        try:
            self._ignore = self._read_ignore(ignore_files)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Remember the digests, and give everything back."""
        if self._fd >= 0:
            self._tree.close()
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *exception: object) -> None:
        if exception[0] is None:
            self._digests.save()
        self.close()

    def _read_ignore(self, names: Sequence[str]) -> Ignore:
        for name in names:
            data = self.read(name, _MAX_IGNORE)
            if data is None:
                continue
            listed = lines(data)
            try:
                return Ignore([pattern for _, pattern in listed])
            except LayerError:
                self._tell_wrong(name, data, listed)
        return Ignore()

    def _tell_wrong(self, name: str, data: bytes, listed: list[tuple[int, bytes]]) -> None:
        text = data.decode("utf-8", "surrogateescape")
        for number, pattern in listed:
            try:
                Ignore([pattern])
            except LayerError as error:
                begin = sum(len(line) + 1 for line in text.split("\n")[: number - 1])
                end = text.find("\n", begin)
                place = Place(name, text, begin, end if end > begin else len(text))
                raise place.error(error.message) from None

    def read(self, name: str, limit: int) -> bytes | None:
        """A small file of the context, ignored or not; None when there is none.

        Raises:
            BuildError: it is larger than *limit* bytes, or no file.
        """
        try:
            parts = tuple(os.fsencode(part) for part in name.split("/") if part not in ("", "."))
            shown = find(self._tree, parts)
            if shown is None:
                return None
            if not stat.S_ISREG(shown.status.st_mode):
                raise BuildError(f"{name} in the context is no file")
            fd = self._tree.open(shown)
        except LayerError as error:
            raise BuildError(error.message, error.mend) from error
        except OSError as error:
            raise BuildError(f"{name} in the context can't be read: {error.strerror}") from error
        with open(fd, "rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise BuildError(f"{name} has more than {limit >> 20} MiB: that is no such file")
        return data

    def take(
        self,
        sources: Sequence[str],
        exclude: Sequence[str] = (),
        *,
        parents: bool = False,
        unpack: bool = False,
    ) -> Taken:
        """What *sources* stand for, with its digest.

        Raises:
            LayerError: there is no such file, or it lies outside, or can't be read.
        """
        try:
            selection = select(
                self._tree,
                [os.fsencode(each) for each in sources],
                ignore=self._ignore,
                exclude=Ignore(map(os.fsencode, exclude)),
                parents=parents,
            )
            whole, listed = digest(self._tree, selection, self._digests, owners=False)
            archives = tuple(self._archives(selection, sources)) if unpack else ()
        except OSError as error:
            raise _unreadable(error) from error
        return Taken(selection, whole, listed, archives)

    def _archives(self, selection: Selection, sources: Sequence[str]) -> Iterator[str]:
        """The files among *sources* themselves, not in their directories, that begin as archives do."""
        for name, shown in selection.files:
            if len(name) != 1 or not stat.S_ISREG(shown.status.st_mode):
                continue
            if not any(_is_source(shown, each) for each in sources):
                continue
            fd = self._tree.open(shown)
            try:
                head = os.read(fd, _HEAD)
            finally:
                os.close(fd)
            if head.startswith(_MAGIC) or is_archive(head):
                yield os.fsdecode(name[0])

    def send(self, taken: Taken, out: IO[bytes], latest: int | None) -> None:
        """Write the files to *out*, as an archive.

        Raises:
            LayerError: one has changed, or can't be read.
        """
        contents = {name: line[2] for (name, _), line in zip(taken.selection.files, taken.lines, strict=True)}
        writer = Writer(out, latest=latest)  # type: ignore[arg-type]
        try:
            for item, content in items(self._tree, taken.selection, owners=False, contents=contents):
                writer.add(item, content)
            writer.finish()
        except BrokenPipeError:
            raise LayerError("what was sent was not read to the end") from None
        except OSError as error:
            raise _unreadable(error) from error

    def directory(self, name: str) -> str:
        """The real path of a directory of the context, for a mount: nothing of it leads out.

        Raises:
            BuildError: there is none.
        """
        try:
            parts = tuple(os.fsencode(part) for part in name.split("/") if part not in ("", "."))
            shown = find(self._tree, parts)
        except LayerError as error:
            raise BuildError(error.message, error.mend) from error
        if shown is None:
            raise BuildError(f"there is no {name} in the context")
        return os.path.join(self.path, os.fsdecode(b"/".join(shown.path))).rstrip("/")


def _is_source(shown: Shown, source: str) -> bool:
    from sandbox.image.layer.names import clean
    from sandbox.image.layer.patterns import glob, has_glob

    parts = clean(os.fsencode(source))
    return len(parts) == len(shown.path) and all(
        glob(part).match(name) is not None if has_glob(part) else part == name
        for part, name in zip(parts, shown.path, strict=True)
    )


def _unreadable(error: OSError) -> LayerError:
    name = error.filename if isinstance(error.filename, str | bytes) else b""
    shown = os.fsdecode(name) if name else "a file"
    mend = "leave it out with .dockerignore, or chmod it" if error.errno == errno.EACCES else None
    return LayerError(f"{shown} in the context can't be read: {error.strerror}", mend)


class _Remembered(Digests):
    """Digests of files' contents, remembered in a file from one build to the next."""

    def __init__(self, context: str, cache: str) -> None:
        import hashlib

        name = hashlib.sha256(os.fsencode(context)).hexdigest()[:32]
        self._path = os.path.join(cache, name) if cache else ""
        self._now = time.time_ns()
        self._known: dict[str, list[int | str]] = {}
        self._used: dict[str, list[int | str]] = {}
        if self._path:
            with contextlib.suppress(OSError, ValueError), open(self._path, "rb") as file:
                known = json.load(file)
                if isinstance(known, dict):
                    self._known = known

    def of(self, tree: Directory, shown: Shown) -> str:  # type: ignore[override]
        status = shown.status
        stamp = [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        name = os.fsdecode(b"/".join(shown.path))
        known = self._known.get(name)
        if isinstance(known, list) and known[:-1] == stamp and isinstance(known[-1], str):
            found = known[-1]
        else:
            found = super().of(tree, shown)
        if max(status.st_mtime_ns, status.st_ctime_ns) < self._now - _RECENT:
            self._used[name] = [*stamp, found]
        return found

    def save(self) -> None:
        """Remember them; that it can't be done is no harm."""
        if not self._path or self._used.items() <= self._known.items() or len(self._used) > _MAX_KNOWN:
            return
        with contextlib.suppress(OSError):
            make_directory(os.path.dirname(self._path))
            data = json.dumps({**self._known, **self._used} if len(self._known) < _MAX_KNOWN else self._used)
            write_file(f"{self._path}", data.encode())


def written(name: bytes, data: bytes, mode: int = 0o644) -> Entry:
    """An entry for a file that stands in the build file itself."""
    from sandbox.image.layer.writer import entry

    return entry("file", name, mode=mode, size=len(data), stored=len(data))
