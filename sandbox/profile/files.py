"""Reading files that somebody else may have put there: regular ones, and not without end."""

from __future__ import annotations

import errno
import os
import stat

__all__ = ["MAX_BYTES", "read"]

#: The largest file that is read, bytes.
MAX_BYTES = 1 << 20


def read(path: str, flags: int = 0) -> tuple[bytes, os.stat_result]:
    """The content and status of a regular file; *flags* go to open(2). Never waits, as for a FIFO it would.

    Raises:
        OSError: it can't be opened, is no regular file, or has more than `MAX_BYTES`.
    """
    if "\0" in path:
        raise OSError(errno.EINVAL, "its name has a NUL in it", path)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | flags)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        data = b""
        while len(data) <= MAX_BYTES:
            part = os.read(descriptor, MAX_BYTES + 1 - len(data))
            if not part:
                return data, status
            data += part
    finally:
        os.close(descriptor)
    raise OSError(errno.EFBIG, "larger than 1 MiB", path)
