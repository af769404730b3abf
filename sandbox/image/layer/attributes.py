"""What a file has besides its content: owner, mode, times and extended attributes.

All is set through an open descriptor, in the order in which the kernel lets it stand: chown(2)
clears set-user-ID bits and capabilities, write(2) too.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from typing import NamedTuple

from sandbox.errors import LayerError
from sandbox.image.layer.names import printable

__all__ = [
    "DRIVERS",
    "OPAQUE",
    "WHITEOUT",
    "Attributes",
    "clear_acls",
    "mark",
    "marked",
    "read_xattrs",
    "set_xattrs",
]

#: overlayfs's marks, as of a mount with `userxattr` (kernel: Documentation/filesystems/overlayfs.rst)
OPAQUE, WHITEOUT = "user.overlay.opaque", "user.overlay.whiteout"

#: Attributes by which overlayfs, fuse-overlayfs and its storage library take a file for another: no
#: archive sets them and none gets them.
DRIVERS = (b"user.overlay.", b"trusted.overlay.", b"user.fuseoverlayfs.", b"user.containers.")

_ACL = b"system.posix_acl_"
_CAPABILITY = b"security.capability"


class Attributes(NamedTuple):
    """Of a directory: set when nothing more is put in it, for each of them would change what is made
    there (set-group-ID and default ACLs are inherited) or be changed by it (the time)."""

    mode: int
    uid: int
    gid: int
    mtime: int
    xattrs: Mapping[bytes, bytes]


def read_xattrs(fd: int) -> dict[bytes, bytes]:
    """The extended attributes of an open file that belong to it, rather than to a driver."""
    found: dict[bytes, bytes] = {}
    for name in os.listxattr(fd):
        raw = os.fsencode(name)
        if not raw.startswith(DRIVERS):
            found[raw] = os.getxattr(fd, name)
    return found


def set_xattrs(fd: int, xattrs: Mapping[bytes, bytes], path: bytes, *, squash: bool) -> int:
    """Set them on the file or directory *path*, open as *fd*; the number of those that were left out.

    Left out is what no user can set (`trusted.`, labels of security modules), what a driver would obey,
    and, with *squash*, access lists, for they name ids. What users can set must be set.

    Raises:
        LayerError: one can't be set.
    """
    dropped = 0
    for name, value in xattrs.items():
        wanted = name.startswith((b"user.", _ACL)) or name == _CAPABILITY
        if not wanted or name.startswith(DRIVERS) or (squash and name.startswith(_ACL)):
            dropped += 1
            continue
        try:
            os.setxattr(fd, name, value)
        except OSError as error:
            if error.errno == errno.ENOTSUP:
                raise _unsupported(name) from error
            raise LayerError(
                f"cannot set the attribute {printable(name)} ({len(value)} bytes) of {printable(path)}: "
                f"{os.strerror(error.errno or 0)}"
            ) from error
    return dropped


def clear_acls(fd: int) -> None:
    """Take away what a directory inherited from the one that it was made in."""
    for name in ("system.posix_acl_default", "system.posix_acl_access"):
        try:
            os.removexattr(fd, name)
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.ENOTSUP):
                raise


def mark(fd: int, name: str, value: bytes = b"y") -> None:
    """Set one of overlayfs's own attributes.

    Raises:
        LayerError: the file system can't hold it, and so no layer that needs it.
    """
    try:
        os.setxattr(fd, name, value)
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM):
            raise _unsupported(name.encode()) from error
        raise


def marked(fd: int, name: str) -> bytes:
    """The value of one of overlayfs's own attributes, b"" without it."""
    try:
        return os.getxattr(fd, name)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return b""
        raise


def _unsupported(name: bytes) -> LayerError:
    return LayerError(
        f"the file system of the image store can't hold the attribute {printable(name)}",
        "put the store on ext4, xfs or btrfs (or tmpfs since Linux 6.6): export XDG_DATA_HOME=/another/disk",
    )
