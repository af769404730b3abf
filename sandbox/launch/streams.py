"""A command's standard streams: subprocess's ways to give them, and moving what flows in them.

`open_streams` makes the descriptors, `Pump` feeds input and collects output without ever
blocking, and `Text` turns bytes into what the caller asked for. Nothing here waits.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import select
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from sandbox.errors import SetupError
from sandbox.launch.backend import above_stdio

__all__ = ["Pump", "Stream", "Streams", "Text", "open_streams"]

#: what `stdin=` and friends take: None (the caller's), PIPE, DEVNULL, STDOUT (stderr only), a
#: descriptor, or a file with one
Stream = int | IO[Any] | None

_CHUNK = 64 * 1024


@dataclass
class Streams:
    """The descriptors of one command. `given` are the command's ends (as the supervisor gets
    them), `owned` those of them that we opened; `ours` the other ends where there is a pipe."""

    given: list[int] = field(default_factory=list)
    owned: list[int] = field(default_factory=list)
    ours: list[io.FileIO | None] = field(default_factory=list)

    def close_given(self) -> None:
        """Close the command's ends that we opened: the supervisor has them now."""
        while self.owned:
            os.close(self.owned.pop())

    def close(self) -> None:
        """Close everything that is ours."""
        self.close_given()
        for file in self.ours:
            if file is not None:
                file.close()


def open_streams(
    stdin: Stream, stdout: Stream, stderr: Stream, owner: tuple[int, int] | None = None
) -> Streams:
    """Open what *stdin*, *stdout* and *stderr* ask for.

    *owner* (uid and gid) is to own the pipes, when that is not us: else the command could not open
    /dev/stderr again, as scripts do.

    Raises:
        SetupError: there can't be more pipes (too many open files).
        ValueError: STDOUT for anything but stderr, a negative descriptor, or a closed one.
    """
    streams = Streams()
    try:
        for number, wanted in enumerate((stdin, stdout, stderr)):
            if wanted == subprocess.STDOUT and number == 2:
                streams.given.append(streams.given[1])
                streams.ours.append(None)
            else:
                streams.ours.append(None)
                given, fd = _open(number, wanted, streams.owned, owner)
                streams.given.append(given)
                if fd >= 0:
                    streams.ours[-1] = io.FileIO(fd, "rb" if number else "wb")
    except OSError as error:
        streams.close()
        raise SetupError(f"cannot make pipes: {error.strerror}", errno=error.errno or 0) from error
    except BaseException:
        streams.close()
        raise
    return streams


def _open(number: int, wanted: Stream, owned: list[int], owner: tuple[int, int] | None) -> tuple[int, int]:
    """Return the command's end and ours (-1: none) of stream *number*."""
    if wanted is None and _is_open(number):
        return number, -1
    if wanted is None or wanted == subprocess.DEVNULL:
        owned.append(above_stdio(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)))
        return owned[-1], -1
    if wanted == subprocess.PIPE:
        read, write = os.pipe2(os.O_CLOEXEC)
        ends = (read, write) if number == 0 else (write, read)
        if owner is not None:
            with contextlib.suppress(PermissionError):  # root without CAP_CHOWN
                os.fchown(read, *owner)
        owned.append(above_stdio(ends[0]))
        return owned[-1], above_stdio(ends[1])
    fd = wanted if isinstance(wanted, int) else wanted.fileno()
    if fd < 0 or not _is_open(fd):
        raise ValueError(f"not an open file descriptor: {fd}")
    return fd, -1


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


class Pump:
    """Writes *data* to a command's stdin and gathers its stdout and stderr in memory.

    The memory is bounded by `limits.output` alone. All pipes are set non-blocking, which concerns
    only our ends of them: each end is an open file description of its own.
    """

    def __init__(self, files: Sequence[io.FileIO | None], data: bytes | None) -> None:
        self._files = files
        self._input = memoryview(data or b"")
        self._output: list[list[bytes]] = [[], [], []]
        for file in files:
            if file is not None and not file.closed:
                os.set_blocking(file.fileno(), False)
        if not self._input:
            self._close(0)

    def wanted(self) -> Iterator[tuple[int, int]]:
        """Each descriptor that is still open, and the poll(2) events it waits for."""
        for number, fd in self._open():
            yield fd, select.POLLIN if number else select.POLLOUT

    def serve(self, fd: int) -> None:
        """Move what can be moved now through *fd*, which poll(2) named."""
        number = next((number for number, own in self._open() if own == fd), None)
        if number == 0:
            self._write(fd)
        elif number is not None:
            self._read(number, fd)

    def drain(self) -> None:
        """The command has ended: take what it left in the pipes, and close them.

        Not until the end of file: a descriptor may have been passed on to somebody outside (over a
        bound unix socket), who could keep us waiting, or busy: a pipe's capacity is the most that
        the command can have left.
        """
        for number, fd in list(self._open()):
            if number:
                left = fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
                while left > 0 and (count := self._read(number, fd)) > 0:
                    left -= count
            self._close(number)

    def output(self, number: int) -> bytes | None:
        """What came from stdout (1) or stderr (2) so far; None where there is no pipe."""
        return None if self._files[number] is None else b"".join(self._output[number])

    def _open(self) -> Iterator[tuple[int, int]]:
        for number, file in enumerate(self._files):
            if file is not None and not file.closed:
                yield number, file.fileno()

    def _write(self, fd: int) -> None:
        try:
            self._input = self._input[os.write(fd, self._input[:_CHUNK]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:  # it does not want to read more: no error, as in subprocess
            self._input = self._input[:0]
        if not self._input:
            self._close(0)

    def _read(self, number: int, fd: int) -> int:
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return 0
        if data:
            self._output[number].append(data)
        else:
            self._close(number)
        return len(data)

    def _close(self, number: int) -> None:
        file = self._files[number]
        if file is not None:
            file.close()


@dataclass(frozen=True)
class Text:
    """How bytes become str, as subprocess does it: None for bytes, universal newlines else."""

    encoding: str | None = None
    errors: str = "strict"

    @classmethod
    def of(cls, text: bool | None, encoding: str | None, errors: str | None) -> Text | None:
        """None when neither *text* nor *encoding* nor *errors* asks for text."""
        if not (text or encoding or errors):
            return None
        import locale

        return cls(encoding or locale.getpreferredencoding(False), errors or "strict")

    def decode(self, data: bytes) -> str:
        text = data.decode(self.encoding or "utf-8", self.errors)
        return text.replace("\r\n", "\n").replace("\r", "\n")

    def encode(self, text: str) -> bytes:
        return text.encode(self.encoding or "utf-8", self.errors)

    def wrap(self, raw: IO[bytes]) -> io.TextIOWrapper:
        return io.TextIOWrapper(raw, encoding=self.encoding, errors=self.errors, write_through=True)
