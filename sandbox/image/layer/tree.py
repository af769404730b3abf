"""The directory of a layer while it is being made.

Its directories are kept in memory, for what they are to become is known only at the end; its other
files are not. All is done by descriptor, one name at a time, and no link is ever followed here: what a
link means inside the root is `sandbox.image.layer.apply`'s to know.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator

from sandbox.image.layer.attributes import Attributes
from sandbox.image.layer.merged import DIRECTORY, Shown

__all__ = ["Dir", "Tree"]

#: open descriptors that are kept
_KEPT = 128


class Dir:
    """A directory of the layer.

    `explicit`: the archive has an entry for it; else it was implied by something in it. `owned`: an
    entry was put in it. `opaque`: nothing of the lower layers shows through. `whiteouts`: names that the
    lower layers must not show. `copied`: files that are copies of a lower layer's. `below`: what the
    lower layers have here, None for nothing; unknown until `looked`.
    """

    __slots__ = (
        "attributes",
        "below",
        "children",
        "copied",
        "explicit",
        "fd",
        "looked",
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
        self.fd = -1
        self.explicit = self.owned = self.opaque = self.looked = False
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


class Tree:
    """The directory open as *root*, which stays the caller's, and is empty at first."""

    def __init__(self, root: int, attributes: Attributes) -> None:
        self.root = Dir(b"", None, attributes)
        self.root.fd = root
        self._open: OrderedDict[int, Dir] = OrderedDict()

    def fd(self, node: Dir) -> int:
        """A descriptor of *node*; two in a row are good together."""
        if node.fd < 0:
            node.fd = self._reach(node)
            self._open[node.fd] = node
            if len(self._open) > _KEPT:
                self._forget(self._open.popitem(last=False)[1])
        elif node is not self.root:
            self._open.move_to_end(node.fd)
        return node.fd

    def _reach(self, node: Dir) -> int:
        path = []
        while node.fd < 0:
            path.append(node)
            assert node.parent is not None
            node = node.parent
        fd, ours = node.fd, -1
        for each in reversed(path):
            try:
                fd = os.open(each.name, DIRECTORY, dir_fd=fd)
            finally:
                if ours >= 0:
                    os.close(ours)
            ours = fd
        return fd

    def _forget(self, node: Dir) -> None:
        os.close(node.fd)
        node.fd = -1

    def make(self, parent: Dir, name: bytes, attributes: Attributes) -> Dir:
        """A new directory, for now nobody's but ours."""
        os.mkdir(name, 0o700, dir_fd=self.fd(parent))
        node = parent.children[name] = Dir(name, parent, attributes)
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
