"""Leases on unpacked layers of an image store: what a sandbox uses is not removed meanwhile.

A lease is a file in the store's `leases/`, named after the layers that are listed in it, and locked by
flock(2), shared, by everybody who uses them: the lock goes with the last descriptor, however its process
ends. It is taken under the store's own lock, which whoever removes layers holds, too: so layers that are
there then stay. What one sandbox alone has, a slice of ids, is a lease on no layers, locked by one at a time.

A bottom module that imports next to nothing, because a cached `sandbox run` takes one.
"""

# No `from __future__ import annotations`, no annotations of other modules: each would be an import.
import fcntl
import os

__all__ = ["DIRECTORY", "LAYERS", "take"]

#: below the store: where leases are, and where the layers
DIRECTORY, LAYERS = "leases", "layers"

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


def take(store: str, name: str, keys: "tuple[str, ...]") -> int:
    """Take the lease *name* on the unpacked layers *keys* of *store*: a descriptor, which keeps it; -1 when
    one of them is not there (any more). With no *keys*, the file *name* in *store* for nobody else, and -1
    when somebody has it.

    Raises:
        OSError: the store can't be used.
    """
    if not keys:
        return _alone(store + "/" + name)
    lock = os.open(store + "/lock", _FLAGS, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not all(os.path.exists(f"{store}/{LAYERS}/{key}/files") for key in keys):
            return -1
        try:
            fd = os.open(f"{store}/{DIRECTORY}/{name}", _FLAGS, 0o600)
        except FileNotFoundError:
            os.mkdir(f"{store}/{DIRECTORY}", 0o700)
            fd = os.open(f"{store}/{DIRECTORY}/{name}", _FLAGS, 0o600)
        try:
            text = "\n".join(keys).encode()
            if os.read(fd, len(text) + 1) != text:  # new, or a crash left half of it: then nobody has it
                os.ftruncate(fd, 0)
                os.pwrite(fd, text, 0)
            fcntl.flock(fd, fcntl.LOCK_SH)
        except BaseException:
            os.close(fd)
            raise
        return fd
    finally:
        os.close(lock)


def _alone(path: str) -> int:
    fd = os.open(path, _FLAGS, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return -1
    except BaseException:
        os.close(fd)
        raise
    return fd
