"""The file of `--pcap`: what passed through a sandbox's network, for tcpdump(1) and the like.

It is opened here, with the caller's rights; helpers/capture.c writes it, out of the payload's reach.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from errno import EEXIST, EISDIR, ELOOP, EMLINK, ENOENT
from typing import NamedTuple

from sandbox import net
from sandbox.errors import ProfileError, SetupError
from sandbox.launch.backend import above_stdio
from sandbox.profile.model import Net
from sandbox.wire import Kind, Record
from sandbox.words import quote

__all__ = ["ROOM", "Capture", "opened"]

#: what a sandbox sends has no end: so much of it is kept, bytes
ROOM = 256 << 20


class Capture(NamedTuple):
    """An open file, which the command must not replace; none with descriptor -1."""

    path: str = ""
    fd: int = -1

    @property
    def guarded(self) -> tuple[str, ...]:
        return (self.path,) if self.path else ()

    @property
    def held(self) -> tuple[int, ...]:
        return (self.fd,) if self.path else ()

    @property
    def slots(self) -> tuple[Record, ...]:
        return (Record(Kind.PCAP, "", "", (self.fd, ROOM)),) if self.path else ()

    def give(self) -> tuple[int, int]:
        """The descriptor, for whoever this process becomes, and how much there is room for."""
        os.set_inheritable(self.fd, True)
        return self.fd, ROOM

    def check(self, wanted: Net) -> None:
        """Refuse what there is nothing to capture of.

        Raises:
            ProfileError: the network is the host's, which is not ours to listen to.
        """
        if self.path and net.shares_host(wanted):
            raise ProfileError(
                f'cannot capture to {self.path}: the network is the host\'s own (net.mode = "{wanted.mode}")',
                'mode = "user" in [net]',
            )


@contextlib.contextmanager
def opened(path: str | os.PathLike[str] | None) -> Iterator[Capture]:
    """The file at *path*, new or emptied; no link and none with other names, which an earlier command may
    have left. One that was made is removed again when what follows fails.

    Raises:
        SetupError: it can't be written.
        ValueError: *path* is empty.
    """
    if path is None:
        yield Capture()
        return
    name = os.fspath(path)
    if not name:
        raise ValueError("the name of the capture's file is empty")
    try:
        fd, made = _open(name)
    except OSError as error:
        raise _refused(name, error) from error
    try:
        yield Capture(os.path.abspath(name), fd)
    except BaseException:
        if made:
            with contextlib.suppress(OSError):
                os.unlink(name)
        raise
    finally:
        os.close(fd)


def _open(name: str) -> tuple[int, bool]:
    flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return above_stdio(os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o600)), True
    except OSError as error:
        if error.errno != EEXIST:
            raise
    fd = above_stdio(os.open(name, flags))
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(0, "it is no regular file")
        if status.st_nlink > 1:
            raise OSError(EMLINK, "it has other names (hard links), by which the command could write to it")
        os.ftruncate(fd, 0)
    except BaseException:
        os.close(fd)
        raise
    return fd, False


def _refused(name: str, error: OSError) -> SetupError:
    why, mend = error.strerror or str(error), "name another file"
    if error.errno == ELOOP and os.path.islink(name):
        why = "it is a symbolic link, which an earlier command may have left"
        mend = f"name {quote(os.path.realpath(name))}"
    elif error.errno == EMLINK:
        mend = f"rm {quote(name)}    (its other names keep what is in it)"
    elif error.errno == ENOENT:
        mend = f"mkdir -p {quote(os.path.dirname(name) or '.')}"
    elif error.errno == EISDIR:
        mend = f"name {quote(os.path.join(name, 'traffic.pcap'))}"
    return SetupError(f"cannot write the capture {name}: {why}", mend, errno=error.errno or 0)
