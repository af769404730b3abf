"""The files of a layer, written by a process beside the one that reads the archive: the helper's `files`.

What is to be written is decided here and told to it, a file after the other; it does what it is told. So a
processor reads the archive while another one makes files. What it can't do is known when it is asked
whether all is done, or at the file after that at the soonest.

helpers/files.h says what goes over the pipes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections import deque

from sandbox.errors import LayerError
from sandbox.image.layer.attributes import settable, xattr_error
from sandbox.image.layer.names import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sandbox.image.layer.tar import Entry

__all__ = ["Failed", "Files"]

_HEAD = struct.Struct("=QqIIIIIIII")
_XATTR = struct.Struct("=II")
_EXTENT = struct.Struct("=QQQ")
_ANSWER = struct.Struct("=iIIIIII")
_PART = struct.Struct("=QQ")
_PARTS = (1 << 64) - 1
_NOBODY = (1 << 32) - 1
_NONE: dict[bytes, bytes] = {}
_ASK = _HEAD.pack(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
_ASK_AMID = _PART.pack(0, 0)
#: how many answers may be outstanding when more is told
_BEHIND = 4
#: bytes that are told at once: so few that files are written from the beginning
_TOLD = 1 << 15
_PIPE = 1 << 20
_MAX_DIRECTORY = 1 << 16
#: attributes of a file, and bytes of them, that helpers/files.c holds; file systems hold less
_MOST_XATTRS, _MAX_XATTRS = 1024, 1 << 18
#: fcntl(2), F_SETPIPE_SZ
_SET_PIPE_SIZE = 1031
_HELPER = os.path.join(os.path.dirname(__file__), "..", "..", "_helper", "sandbox-helper")


class Failed(OSError):
    """A file could not be written: errno, and whose it was; `path` is that in the layer."""

    def __init__(self, error: int, path: bytes, uid: int, gid: int) -> None:
        super().__init__(error, os.strerror(error))
        self.path, self.uid, self.gid = path, uid, gid


class Files:
    """Writes files below the directory open as *root*. Content is copied from the file open as *source*."""

    def __init__(self, root: int, source: int = -1) -> None:
        self._fds = (root, source)
        self._pid = 0
        self._out = self._answers = -1
        self._told = bytearray()
        self._asked = True  # nothing was told since
        self._amid = False  # a file's content is being told
        self._marks: deque[bool] = deque()  # whether an answer will come

    def add(
        self,
        directory: bytes | None,
        name: bytes,
        entry: Entry,
        content: Iterable[range] | int,
        *,
        squash: bool,
    ) -> int:
        """Write the file that *entry* describes as *name* in *directory*, a path below the root; None: in
        that of the last one. *content* is as it is stored, or where it is in `source`. With *squash* it
        belongs to the caller. How many attributes were left out, because no user can set them.

        Raises:
            Failed, LayerError: this file or one before can't be written.
        """
        xattrs, dropped = settable(entry.xattrs, squash=squash) if entry.xattrs else (_NONE, 0)
        if xattrs:
            _check_xattrs(xattrs, name)
        extents = entry.sparse
        if extents is None:
            extents = [(0, entry.stored)] if entry.stored else []
        uid, gid = (_NOBODY, _NOBODY) if squash or not (entry.uid or entry.gid) else (entry.uid, entry.gid)
        length = 0 if directory is None else len(directory) + 1
        if length > _MAX_DIRECTORY:
            raise Failed(errno.ENAMETOOLONG, directory or b"", uid, gid)
        told = self._told
        told += _HEAD.pack(
            entry.size, entry.mtime, length, len(name) + 1, entry.mode, uid, gid, len(xattrs), len(extents), 0
        )
        if directory is not None:
            told += directory + b"\0"
        told += name + b"\0"
        for key, value in xattrs.items():
            told += _XATTR.pack(len(key) + 1, len(value)) + key + b"\0" + value
        self._asked = False
        if isinstance(content, int):
            for offset, length in extents:
                told += _EXTENT.pack(offset, length, content)
                content += length
        else:
            self._tell_parts(extents, content)
        if len(told) > _TOLD:
            self._flush()
        return dropped

    def _tell_parts(self, extents: list[tuple[int, int]], parts: Iterable[range]) -> None:
        self._amid = True
        rest, part = iter(parts), range(0)
        for offset, length in extents:
            self._told += _EXTENT.pack(offset, length, _PARTS)
            while length:
                part = part or next(rest)
                now, part = part[:length], part[length:]
                self._told += _PART.pack(now.start, len(now))
                length -= len(now)
        self._amid = False
        for _ in rest:
            pass

    def mark(self) -> int:
        """What of `source` was told of so far will not be told of again; of how many marks all is done since
        the last one. Raises as `add`."""
        if not self._asked:
            self._told += _ASK_AMID if self._amid else _ASK
            self._flush()
        self._marks.append(not self._asked)
        self._asked = not self._amid
        done = 0
        while len(self._marks) > _BEHIND:
            if self._marks.popleft():
                self._hear()
            done += 1
        return done

    def settle(self) -> None:
        """Wait until all is done. Raises as `add`."""
        asked = sum(self._marks)
        if not self._asked:
            self._asked = True
            self._told += _ASK
            self._flush()
            asked += 1
        for _ in range(asked):
            self._hear()
        self._marks = deque(False for _ in self._marks)

    def close(self) -> None:
        """End it; what is not done by now may never be."""
        for fd in (self._out, self._answers):
            if fd >= 0:
                os.close(fd)
        self._out = self._answers = -1
        if self._pid:
            os.waitpid(self._pid, 0)
            self._pid = 0

    # --- the process ------------------------------------------------------------------------------------

    def _start(self) -> None:
        import fcntl

        told, self._out = os.pipe()
        self._answers, said = os.pipe()
        ours = [told, said]
        try:
            with contextlib.suppress(OSError):  # the user has many pipes: it is slower, and no more
                fcntl.fcntl(self._out, _SET_PIPE_SIZE, _PIPE)
            for fd in [told, said, *self._fds]:  # out of the way of the numbers that they are to have
                ours.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) if fd >= 0 else -1)
            actions = [
                (os.POSIX_SPAWN_DUP2, fd, number)
                for fd, number in zip(ours[2:], (0, 1, 3, 4), strict=True)
                if fd >= 0
            ]
            self._pid = os.posix_spawn(_HELPER, ["sandbox-helper", "files"], {}, file_actions=actions)
        finally:
            for fd in ours:
                if fd >= 0:
                    os.close(fd)

    def _flush(self) -> None:
        if not self._pid:
            self._start()
        with memoryview(self._told) as view:
            at = 0
            try:
                while at < len(view):
                    at += os.write(self._out, view[at:])
            except BrokenPipeError:
                while True:  # what was asked before it is answered first
                    self._hear()
        self._told.clear()

    def _hear(self) -> None:
        """Take an answer. Raises: it is an error."""
        error, uid, gid, directory, name, xattr, size = _ANSWER.unpack(self._read(_ANSWER.size))
        if not error:
            return
        above, last, key = (self._read(length) for length in (directory, name, xattr))
        path = b"/".join(part for part in (above, last) if part)
        if xattr:
            raise xattr_error(error, key, size, path)
        raise Failed(error, path, uid, gid)

    def _read(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            piece = os.read(self._answers, size - len(found))
            if not piece:
                raise OSError(errno.EIO, "the process that writes files ended")
            found += piece
        return found


def _check_xattrs(xattrs: Mapping[bytes, bytes], name: bytes) -> None:
    size = sum(len(key) + 1 + len(value) for key, value in xattrs.items())
    if len(xattrs) > _MOST_XATTRS or size > _MAX_XATTRS:
        raise LayerError(
            f"{printable(name)} has {len(xattrs)} attributes of {size} bytes; {_MOST_XATTRS} of "
            f"{_MAX_XATTRS} are allowed"
        )
