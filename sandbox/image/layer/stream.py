"""A compressed stream, read beside whoever uses its blocks.

Decompressing and hashing have a thread each: zlib, zstd and OpenSSL let go of the interpreter's lock.
Memory is bounded by the queue, whatever a stream expands to.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sandbox.image.layer.compress import Archive, Budget, beginning, format_of, uncompressed

if TYPE_CHECKING:
    from sandbox.image.layer.compress import Source

__all__ = ["Stream"]

_CHUNK = 1 << 20  # of what comes out, bytes
_DEPTH = 6  # chunks that wait for their reader


class Stream(Archive):
    """An archive that is read from *source*, uncompressed by one thread and hashed by another.

    Raises:
        LayerError: in reading: the stream is damaged, cut off, or over *budget*.
        OSError: *source* could not be read.
    """

    def __init__(self, source: Source, budget: Budget | None = None) -> None:
        super().__init__(self._arrive())
        self._hash = hashlib.sha256()
        self._head = beginning(source)
        self.format = format_of(self._head[:6])
        self._source = source
        self._budget = budget or Budget()
        self._stop = threading.Event()
        self._queue: queue.Queue[bytes | BaseException] = queue.Queue(_DEPTH)
        self._hashed: queue.Queue[bytes | None] = queue.Queue(_DEPTH)
        targets = {"uncompress": self._run, "hash": self._hash_all}
        self._threads = [
            threading.Thread(target=each, name=name, daemon=True) for name, each in targets.items()
        ]
        for thread in self._threads:
            thread.start()

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"

    def close(self) -> None:
        """End the threads; what was not read is lost."""
        self._stop.set()
        while any(thread.is_alive() for thread in self._threads):
            for waiting in (self._queue, self._hashed):
                while not waiting.empty():
                    waiting.get_nowait()
            with suppress(queue.Full):
                self._hashed.put_nowait(None)
            for thread in self._threads:
                thread.join(0.01)

    def _arrive(self) -> Iterator[bytes]:
        while chunk := self._queue.get():
            if isinstance(chunk, BaseException):
                raise chunk
            yield chunk
        self._threads[1].join()  # the digest is known now
        self._queue.put(b"")  # asked again, it is still the end

    def _run(self) -> None:
        try:
            chunks = uncompressed(self._source, self._head, self._budget, _CHUNK)
            for chunk in chunks:
                if self._stop.is_set():
                    break
                self.size += len(chunk)
                self._put(self._queue, chunk)
                self._put(self._hashed, chunk)
            self._put(self._hashed, None)
            self._put(self._queue, b"")
        except BaseException as error:
            self._put(self._hashed, None)
            self._put(self._queue, error)

    def _hash_all(self) -> None:
        while (chunk := self._hashed.get()) is not None:
            self._hash.update(chunk)

    def _put(self, waiting: queue.Queue[Any], item: object) -> None:
        while not self._stop.is_set():
            try:
                waiting.put(item, timeout=0.1)
                break
            except queue.Full:
                continue
