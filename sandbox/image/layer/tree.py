"""The directory of a layer while it is being made.

Its directories are kept in memory, for what they are to become is known only at the end; its other
files are not. All is done by descriptor, one name at a time, and no link is ever followed here: what a
link means inside the root is `sandbox.image.layer.apply`'s to know.
"""

from __future__ import annotations

import os
import resource
from collections import OrderedDict
from collections.abc import Iterator

from sandbox.image.layer.attributes import Attributes
from sandbox.image.layer.merged import DIRECTORY, Shown

__all__ = ["Dir", "Tree"]

#: open descriptors that are kept at most
_KEPT = 512


class Dir:
    """A directory of the layer.

    `explicit`: the archive has an entry for it; else it was implied by something in it. `owned`: an
    entry was put in it. `files`: the names of what this layer has in it besides directories. `opaque`:
    nothing of the lower layers shows through. `whiteouts`: names that the lower layers must not show.
    `copied`: files that are copies of a lower layer's. `mode`: what it has by now. `below`: what the lower
    layers have here, None for nothing; unknown until `looked`.
    """

    __slots__ = (
        "attributes",
        "below",
        "children",
        "copied",
        "explicit",
        "fd",
        "files",
        "looked",
        "mode",
        "name",
        "opaque",
        "owned",
        "parent",
        "whiteouts",
    )

    def __init__(self, name: bytes, parent: Dir | None, attributes: Attributes) -> None:
        self.name = name
        self.parent = parent
        self.attributes = attributes
        self.children: dict[bytes, Dir] = {}
        self.fd = self.mode = -1
        self.explicit = self.owned = self.opaque = self.looked = False
        self.files: set[bytes] = set()
        self.whiteouts: set[bytes] = set()
        self.copied: set[bytes] = set()
        self.below: Shown | None = None

    def subtree(self) -> Iterator[Dir]:
        """This directory and all below it, parents first."""
        todo = [self]
        while todo:
            node = todo.pop()
            yield node
            todo.extend(node.children.values())

    def above(self) -> list[Dir]:
        """This directory and all that it is in, innermost first."""
        found: list[Dir] = []
        node: Dir | None = self
        while node is not None:
            found.append(node)
            node = node.parent
        return found

    def holds_own(self) -> bool:
        """Whether something in it is this layer's own."""
        return any(each.explicit or each.owned for each in self.subtree())

    def path(self) -> bytes:
        """From the root, which is b""."""
        return b"/".join([each.name for each in reversed(self.above())][1:])


class Tree:
    """The directory open as *root*, which stays the caller's, and is empty at first."""

    def __init__(self, root: int, attributes: Attributes) -> None:
        self.root = Dir(b"", None, attributes)
        self.root.fd = root
        self._open: OrderedDict[int, Dir] = OrderedDict()
        self._kept = min(_KEPT, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 3)

    def fd(self, node: Dir) -> int:
        """A descriptor of *node*; two in a row are good together."""
        if node.fd < 0:
            self._reach(node)
            while len(self._open) > self._kept:
                self._forget(self._open.popitem(last=False)[1])
        elif node is not self.root:
            self._open.move_to_end(node.fd)
        return node.fd

    def _reach(self, node: Dir) -> None:
        """Open a directory, and keep the one that it is in as well: what is beside it comes next."""
        path = []
        above: Dir = node
        while above.fd < 0:
            path.append(above)
            assert above.parent is not None
            above = above.parent
        fd, ours = above.fd, -1
        for each in reversed(path):
            try:
                fd = os.open(each.name, DIRECTORY, dir_fd=fd)
            finally:
                if ours >= 0:
                    os.close(ours)
            ours = -1
            if each is node or each is node.parent:
                each.fd = fd
                self._open[fd] = each
            else:
                ours = fd

    def _forget(self, node: Dir) -> None:
        os.close(node.fd)
        node.fd = -1

    def make(self, parent: Dir, name: bytes, attributes: Attributes) -> Dir:
        """A new directory, for now our own, and with no more of its mode than lets us write in it."""
        mode = attributes.mode & 0o777 | 0o700
        os.mkdir(name, mode, dir_fd=self.fd(parent))
        node = parent.children[name] = Dir(name, parent, attributes)
        node.mode = mode
        return node

    def remove(self, node: Dir) -> None:
        """Remove a directory with all that is in it."""
        assert node.parent is not None
        for each in reversed(list(node.subtree())):
            fd = self.fd(each)
            for name in os.listdir(fd):
                os.unlink(name, dir_fd=fd)
            del self._open[fd]
            self._forget(each)
            assert each.parent is not None
            os.rmdir(each.name, dir_fd=self.fd(each.parent))
            del each.parent.children[each.name]

    def close(self) -> None:
        """Close what was opened here."""
        while self._open:
            self._forget(self._open.popitem()[1])
