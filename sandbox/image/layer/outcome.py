"""What came of applying a layer: what there was in it, or why it could not be."""

from __future__ import annotations

import errno
import os

from sandbox.errors import LayerError
from sandbox.image.layer.names import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.image.layer.tar import Entry

__all__ = ["Applied", "NotAlone", "explain", "no_directory", "no_target"]


class Applied:
    """What came of it.

    `entries` and `size` (bytes of the files) of the archive; `needs_lower`: the result is right only on top
    of these lower layers; `own_root`: the archive describes the root directory itself; `usual_root`: that
    is root's, 0755, with no attributes; `devices`, `xattrs`: how many of them were left out, because no
    user can make them; `squashed`: how many files have another owner than they should; `whiteouts`:
    "device" or "xattr", how they are written, "" when there are none.
    """

    def __init__(self) -> None:
        self.entries = self.size = 0
        self.needs_lower = self.own_root = False
        self.usual_root = True
        self.devices = self.xattrs = self.squashed = 0
        self.whiteouts = ""


class NotAlone(LayerError):
    """What a layer is depends on those below it, which were not given."""


# --- errors -------------------------------------------------------------------------------------------


def no_target(entry: Entry) -> LayerError:
    """A hard link of which there is no other end."""
    name, link = printable(entry.name), printable(entry.link)
    return LayerError(f"{name} is a hard link to {link}, which is no file of this layer or of those below it")


def no_directory(path: tuple[bytes, ...]) -> LayerError:
    """Something is to be in what is no directory."""
    return LayerError(f"{printable(b'/'.join(path))} is, or is below, a file that is no directory")


def explain(error: OSError, name: bytes, uid: int, gid: int) -> LayerError:
    """What the system said about the entry *name* of that owner, and what mends it."""
    what = f"cannot unpack {printable(name) or 'the root directory'}"
    reason = os.strerror(error.errno or 0)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return LayerError(f"{what}: {reason}", "free space where the image store is: sandbox image prune")
    if error.errno in (errno.EINVAL, errno.EOVERFLOW) and (uid or gid):
        last = [100_000 + max(id, 65_535) for id in (uid, gid)]
        return LayerError(
            f"{what}: it belongs to user {uid} and group {gid}, and the image store's range of ids does not "
            "have both",
            f"sudo usermod --add-subuids 100000-{last[0]} --add-subgids 100000-{last[1]} $USER",
        )
    return LayerError(f"{what}: {reason}")
