"""Where archives go to and come from: a file of the user's, or a pipe."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Iterator
from typing import BinaryIO

from sandbox.cli.common import UsageError
from sandbox.errors import ImageError
from sandbox.words import quote

__all__ = ["naming", "reading", "writing"]


@contextlib.contextmanager
def writing(path: str | None, verb: str) -> Iterator[BinaryIO]:
    """The file *path*, which appears when all of it is written and was not an error; None or "-": stdout.

    Raises:
        UsageError: stdout is a terminal.
        ImageError: the file can't be made.
    """
    if path in (None, "-"):
        if _is_terminal(1):
            raise UsageError("an archive does not go to a terminal: name a file, -o FILE", verb)
        with _written("standard output"), open(1, "wb", closefd=False) as out:
            yield out
        return
    assert path is not None
    with _explained(path):
        if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
            if os.path.isdir(path):
                raise ImageError(f"{path} is a directory", f"-o {quote(os.path.join(path, 'image.tar'))}")
            with _written(path), open(path, "wb") as out:  # a pipe, or a device
                yield out
            return
        real = os.path.realpath(path)
        fresh = f"{real}.{os.urandom(4).hex()}.part"
        fd, named = _create(fresh)
    try:
        with _written(path), open(fd, "wb") as out:
            yield out
            out.flush()
            if not named:
                os.link(
                    f"/proc/self/fd/{fd}", fresh, src_dir_fd=fd, follow_symlinks=True
                )  # open(2), O_TMPFILE
        os.rename(fresh, real)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(fresh)
        raise


def _create(path: str) -> tuple[int, bool]:
    """A new file, and whether it has the name *path*: where the file system can, it has none yet, and goes
    with us however we end."""
    with contextlib.suppress(OSError):
        return os.open(os.path.dirname(path), os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o666), False
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(path, flags, 0o666), True


@contextlib.contextmanager
def reading(path: str | None, verb: str) -> Iterator[BinaryIO]:
    """The file *path*; None or "-": stdin.

    Raises:
        UsageError: stdin is a terminal.
        ImageError: the file can't be read.
    """
    if path in (None, "-"):
        if sys.stdin is None or _is_terminal(0):
            raise UsageError("name an archive, or pipe one in", verb)
        with open(0, "rb", 0, closefd=False) as file, naming("stdin"):
            yield file
        return
    assert path is not None
    with _explained(path):
        file = open(path, "rb", 0)  # noqa: SIM115
    with file, naming(path):
        yield file


@contextlib.contextmanager
def naming(source: str) -> Iterator[None]:
    """Say which archive it is that an error is about."""
    try:
        yield
    except ImageError as error:
        if error.message.startswith(("it ", "the archive ")):
            error.message = f"{source}: {error.message}"
        raise


def _is_terminal(descriptor: int) -> bool:
    try:
        return os.isatty(descriptor)
    except OSError:
        return False


@contextlib.contextmanager
def _written(where: str) -> Iterator[None]:
    """Nobody reads on, as in `sandbox image save x | head -c 9`: that is no error of ours."""
    try:
        yield
    except BrokenPipeError:
        raise SystemExit(141) from None
    except ImageError as error:
        if isinstance(error.__cause__, BrokenPipeError):
            raise SystemExit(141) from None
        raise
    except OSError as error:
        raise ImageError(
            f"cannot write to {where}: {error.strerror}", "make room, or name another file"
        ) from None


@contextlib.contextmanager
def _explained(path: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise ImageError(
            f"{path}: {error.strerror}", f"ls -ld {quote(os.path.dirname(path) or '.')}"
        ) from None
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}", f"ls -ld {quote(path)}") from None
