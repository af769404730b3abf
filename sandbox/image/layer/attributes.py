"""What a file has besides its content: owner, mode, times and extended attributes.

All is set through an open descriptor, in the order in which the kernel lets it stand: chown(2)
clears set-user-ID bits and capabilities, write(2) too.
"""

from __future__ import annotations

import errno
import os

from sandbox.errors import LayerError
from sandbox.image.layer.names import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "DRIVERS",
    "IMPLIED",
    "OPAQUE",
    "WHITEOUT",
    "Attributes",
    "clear_acls",
    "mark",
    "marked",
    "read_xattrs",
    "set_xattrs",
    "settable",
    "xattr_error",
]

#: overlayfs's marks, as of a mount with `userxattr` (kernel: Documentation/filesystems/overlayfs.rst)
OPAQUE, WHITEOUT = "user.overlay.opaque", "user.overlay.whiteout"

#: Attributes by which overlayfs, fuse-overlayfs and its storage library take a file for another: no
#: archive sets them and none gets them.
DRIVERS = (b"user.overlay.", b"trusted.overlay.", b"user.fuseoverlayfs.", b"user.containers.")

_ACL = b"system.posix_acl_"
_CAPABILITY = b"security.capability"


class Attributes:
    """Of a directory: set when nothing more is put in it, for each of them would change what is made
    there (set-group-ID and default ACLs are inherited) or be changed by it (the time)."""

    __slots__ = ("gid", "mode", "mtime", "uid", "xattrs")

    def __init__(self, mode: int, uid: int, gid: int, mtime: int, xattrs: Mapping[bytes, bytes]) -> None:
        self.mode, self.uid, self.gid = mode, uid, gid
        self.mtime, self.xattrs = mtime, xattrs

    @property
    def who_may(self) -> tuple[int, int, int]:
        return self.mode, self.uid, self.gid


#: A directory that nothing describes: the mode is that of mkdir(1), the time none in particular.
IMPLIED = Attributes(0o755, 0, 0, 0, {})


def read_xattrs(fd: int) -> dict[bytes, bytes]:
    """The extended attributes of an open file that belong to it, rather than to a driver."""
    found: dict[bytes, bytes] = {}
    for name in os.listxattr(fd):
        raw = os.fsencode(name)
        if not raw.startswith(DRIVERS):
            found[raw] = os.getxattr(fd, name)
    return found


def settable(xattrs: Mapping[bytes, bytes], *, squash: bool) -> tuple[Mapping[bytes, bytes], int]:
    """Those of them that are to be set, and how many are left out.

    Left out is what no user can set (`trusted.`, labels of security modules), what a driver would obey,
    and, with *squash*, access lists, for they name ids. What users can set must be set.
    """
    found = {}
    for name, value in xattrs.items():
        wanted = name.startswith((b"user.", _ACL)) or name == _CAPABILITY
        if wanted and not name.startswith(DRIVERS) and not (squash and name.startswith(_ACL)):
            found[name] = value
    return found, len(xattrs) - len(found)


def set_xattrs(fd: int, xattrs: Mapping[bytes, bytes], path: bytes, *, squash: bool) -> int:
    """Set them on the file or directory *path*, open as *fd*; how many were left out, see `settable`.

    Raises:
        LayerError: one can't be set.
    """
    found, dropped = settable(xattrs, squash=squash)
    for name, value in found.items():
        try:
            os.setxattr(fd, name, value)
        except OSError as error:
            raise xattr_error(error.errno or 0, name, len(value), path) from error
    return dropped


def xattr_error(error: int, name: bytes, size: int, path: bytes) -> LayerError:
    """Why the attribute *name* of *size* bytes can't be set: errno *error* says so."""
    if error == errno.ENOTSUP:
        return _unsupported(name)
    what = f"the attribute {printable(name)} ({size} bytes) of {printable(path)}"
    return LayerError(f"cannot set {what}: {os.strerror(error)}")


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
