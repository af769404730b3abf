"""Archives whose content is copied by another process from the file that it is in.

Reading one here is for its headers alone. What it takes to get all of it, uncompressed and hashed, is done by
a process beside this one: a thread would wait for the interpreter's lock, and this one for it. Of an archive
that is not compressed the digest is the blob's own, which was verified when that came.
"""

from __future__ import annotations

import marshal
import mmap
import os
import stat
import struct
from contextlib import suppress
from itertools import count

from sandbox.errors import LayerError
from sandbox.image.layer.compress import Archive, Budget, beginning, format_of, uncompressed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import IO, Any

__all__ = ["Copied", "open_archive"]

_WINDOW = 1 << 14  # of what is read of a file of which most is passed over, bytes
_MAPPED = 1 << 24  # of what is hashed, at once, bytes
_PIECE = 1 << 15  # of what is uncompressed at once: more would be put together of such pieces
_CHUNK = 1 << 18  # of a ring, at least: as much as stays in a processor's cache until it is hashed
_SLOT = 1 << 20  # room for a chunk, which has all of the piece with which it is large enough
_SLOTS = 12
_KILL = 9
_LENGTH = struct.Struct("=I")


class Copied(Archive):
    """An archive for others to copy its content from the file `fileno()`. Use it in a `with` statement.

    Raises:
        LayerError: in reading: it is damaged, cut off, or over its budget.
        OSError: in reading: it could not be read.
    """

    def __init__(self, chunks: Iterator[bytes | memoryview], fd: int) -> None:
        super().__init__(chunks)
        self._fd = fd
        self._beside: _Beside | None = None
        self._digest = ""

    @property
    def digest(self) -> str:
        return self._digest

    def fileno(self) -> int:
        """The descriptor of the file that the content is in."""
        return self._fd

    def place(self, size: int) -> int:
        """Where in that file the next *size* bytes are; -1 when they are not there in a row by now."""
        raise NotImplementedError

    def places(self, size: int) -> Iterator[range]:
        """Pass over the next *size* bytes; where they are, in parts; ends early at the end."""
        raise NotImplementedError

    def copied_by(self, passed: Callable[[], int]) -> None:
        """*passed* is called when of some chunk no more will be copied than was told: of how many such chunks
        all is copied, since it was called last."""

    def close(self) -> None:
        if self._beside is not None:
            self._beside.close()

    def _end(self) -> None:
        """All was read: what was found on the way."""
        if self._beside is not None and not self._digest:
            self._digest, self.size = self._beside.result()


def open_archive(file: IO[bytes], budget: Budget, known: str = "") -> Copied:
    """The archive in *file*, of any format; *known* is the digest of the file, where that was verified."""
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        start = file.tell()
        if format_of(os.pread(file.fileno(), 6, start)) == "plain":
            return File(file.fileno(), start, budget, known)
    return Ring(file, budget)


class File(Copied):
    """An archive that is not compressed, in a regular file, from the byte *start*: content that is passed
    over is not read. The process beside hashes it, unless its digest is *known*.

    Raises:
        LayerError: it has more bytes than *budget* allows.
    """

    def __init__(self, fd: int, start: int, budget: Budget, known: str = "") -> None:
        super().__init__(iter(self._read, b""), fd)
        self._next = self._start = start
        self._last = os.fstat(fd).st_size
        budget.check(self._last, self._last - start)
        if known:
            self._digest, self.size = known, self._last - start
        else:
            self._beside = _Beside(lambda _: _hash_file(fd, start, self._last))

    def place(self, size: int) -> int:
        return self._start + self._before + self._at

    def places(self, size: int) -> Iterator[range]:
        begin = self.place(size)
        yield range(begin, begin + self.skip(size))

    def _read(self) -> bytes:
        data = os.pread(self._fd, _WINDOW, self._next)
        self._next += len(data)
        return data

    def skip(self, size: int) -> int:
        held = len(self._chunk) - self._at
        if size > held:
            size = min(size, held + max(0, self._last - self._next))
            self._next += size - held
            self._before += len(self._chunk) + size - held
            self._chunk, self._at = b"", 0
        else:
            self._at += size
        return size

    def finish(self) -> None:
        self._end()


class Ring(Copied):
    """A stream that the process beside uncompresses into a file in memory, a chunk after the other, and from
    its beginning again: in the place of a chunk all of which was copied."""

    def __init__(self, source: IO[bytes], budget: Budget) -> None:
        head = beginning(source)
        self.format = format_of(head[:6])
        ring = os.memfd_create("sandbox-ring", os.MFD_CLOEXEC)
        super().__init__(self._arrive(), ring)
        os.ftruncate(ring, _SLOTS * _SLOT)
        self._ring = mmap.mmap(ring, _SLOTS * _SLOT)
        self._slot = 0  # where the current chunk is
        self._passed: Callable[[], int] = lambda: 1
        pieces = uncompressed(source, head, budget, _PIECE)
        self._beside = _Beside(lambda beside: _fill(beside, self._ring, pieces))

    def close(self) -> None:
        super().close()
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def copied_by(self, passed: Callable[[], int]) -> None:
        self._passed = passed

    def place(self, size: int) -> int:
        return self._slot + self._at if self._at + size <= len(self._chunk) else -1

    def places(self, size: int) -> Iterator[range]:
        for piece in self.pieces(size):
            end = self._slot + self._at
            yield range(end - len(piece), end)

    def _arrive(self) -> Iterator[memoryview]:
        number, beside = 0, self._beside
        assert beside is not None
        with memoryview(self._ring) as ring:
            while size := beside.length():
                self._slot = number % _SLOTS * _SLOT
                yield ring[self._slot : self._slot + size]
                number += 1
                beside.free(self._passed())
        self._end()


# --- the process beside -------------------------------------------------------------------------------------


class _Beside:
    """A process that does *work* and ends. Its result is a digest and a number of bytes; before that it may
    tell of chunks, by their lengths."""

    def __init__(self, work: Callable[[_Beside], tuple[str, int]]) -> None:
        self._heard, self._said = os.pipe()
        self._freed, self._free = os.pipe()
        self._over = False
        self._pid = os.fork()
        if self._pid == 0:
            try:
                os.close(self._heard)
                os.close(self._free)
                self._run(work)
            finally:
                os._exit(1)
        os.close(self._said)
        os.close(self._freed)

    def length(self) -> int:
        """The next chunk's; 0: it was the last."""
        if self._over:
            return 0
        data = os.read(self._heard, _LENGTH.size)  # never a part: it is written at once (pipe(7), PIPE_BUF)
        if not data:
            raise ChildProcessError("the process that reads the archive ended")
        (length,) = _LENGTH.unpack(data)
        self._over = not length
        return int(length)

    def free(self, count: int) -> None:
        """So many chunks are not needed any more."""
        with suppress(BrokenPipeError):  # nor were they waited for
            os.write(self._free, bytes(count))

    def result(self) -> tuple[str, int]:
        """What came of it. Raises as `Copied`."""
        while self.length():
            pass
        said = b""
        while data := os.read(self._heard, 1 << 16):
            said += data
        found: dict[str, Any] = marshal.loads(said)  # ours: what that process is, this one is
        if "message" in found:
            raise LayerError(found["message"], found["mend"])
        if "errno" in found:
            raise OSError(found["errno"], os.strerror(found["errno"]))
        return found["digest"], found["size"]

    def close(self) -> None:
        """End it, whatever it is at."""
        if self._pid:
            os.kill(self._pid, _KILL)
            os.waitpid(self._pid, 0)
            os.close(self._heard)
            os.close(self._free)
        self._pid = 0

    # what it does itself

    def tell(self, length: int) -> None:
        """There is another chunk."""
        os.write(self._said, _LENGTH.pack(length))

    def wait(self) -> None:
        """Until one that was told is not needed any more."""
        if not os.read(self._freed, 1):
            os._exit(1)

    def _run(self, work: Callable[[_Beside], tuple[str, int]]) -> None:
        try:
            digest, size = work(self)
            found: dict[str, object] = {"digest": digest, "size": size}
        except LayerError as error:
            found = {"message": error.message, "mend": error.mend}
        except (OSError, MemoryError) as error:
            found = {"errno": getattr(error, "errno", None) or 12}
        os.write(self._said, _LENGTH.pack(0))
        with open(self._said, "wb") as out:
            out.write(marshal.dumps(found))
        os._exit(0)


def _hash_file(fd: int, start: int, end: int) -> tuple[str, int]:
    """Mapped, a part at a time, it is not copied for that. If it became shorter meanwhile, that ends us."""
    import hashlib

    found = hashlib.sha256()
    for offset in range(start - start % _MAPPED, end, _MAPPED):
        with (
            mmap.mmap(fd, min(_MAPPED, end - offset), prot=mmap.PROT_READ, offset=offset) as mapped,
            memoryview(mapped) as whole,
            whole[max(0, start - offset) :] as part,
        ):
            found.update(part)
    return f"sha256:{found.hexdigest()}", end - start


def _fill(beside: _Beside, ring: mmap.mmap, pieces: Iterator[bytes]) -> tuple[str, int]:
    """Put *pieces* into *ring*, where a thread hashes them, chunk by chunk."""
    import hashlib
    import queue
    import threading

    view = memoryview(ring)
    chunks: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
    room = threading.Semaphore(_SLOTS)
    found, size = hashlib.sha256(), 0

    def hash_all() -> None:
        while chunk := chunks.get():
            found.update(chunk)
            room.release()

    thread = threading.Thread(target=hash_all, daemon=True)
    thread.start()
    for number in count():
        room.acquire()
        if number >= _SLOTS:
            beside.wait()
        begin = end = number % _SLOTS * _SLOT
        while end - begin < _CHUNK and (piece := next(pieces, b"")):
            view[end : end + len(piece)] = piece
            end += len(piece)
        chunks.put(view[begin:end])
        if begin == end:
            break
        beside.tell(end - begin)
        size += end - begin
    thread.join()
    return f"sha256:{found.hexdigest()}", size
