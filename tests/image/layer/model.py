"""What layers mean, as simply as it can be said: a tree in memory to which entries are applied in turn.

There are no overlays here. A name in a directory knows which layer put it there, which is all that
whiteouts have to know. The judge of `sandbox.image.layer.apply`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tests.image.layer.archives import Item

MAX_LINKS = 40


class Invalid(Exception):
    """The layer can't be applied."""


@dataclass(eq=False)
class Node:
    """A file. `names` of a directory: name -> (node, the layer that put it there)."""

    kind: str
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    data: bytes = b""
    link: str = ""
    xattrs: tuple[tuple[str, bytes], ...] = ()
    names: dict[str, tuple[Node, int]] = field(default_factory=dict)
    parent: Node | None = None
    #: the last layer that put something in it
    touched: int = -1


class Model:
    def __init__(self) -> None:
        self.root = Node("dir")
        self.layer = -1
        self.devices: set[tuple[Node, str]] = set()
        #: files of lower layers that links of this one made its own
        self.copied: set[Node] = set()

    def apply(self, items: list[Item]) -> None:
        self.layer += 1
        self.devices, self.copied = set(), set()
        for item in items:
            self.entry(item)

    def entry(self, item: Item) -> None:
        path = [part for part in item.name.split("/") if part not in ("", ".")]
        if any(part.startswith(".wh.") for part in path[:-1]):
            raise Invalid(item.name)
        if not path:
            if item.kind != "dir":
                raise Invalid("the root")
            self._describe(self.root, item)
            return
        name = path[-1]
        if name.startswith(".wh."):
            self._whiteout(path[:-1], name)
            return
        above = self._walk(path[:-1], make=True)
        assert above is not None
        above.touched = self.layer
        if item.kind == "dir":
            self._directory(above, name, item)
        elif item.kind == "hardlink":
            self._hardlink(above, name, item)
        elif item.kind in ("char", "block"):
            self._device(above, name)
        else:
            node = Node(
                item.kind, item.mode, item.uid, item.gid, item.mtime, item.data, item.link, item.xattrs
            )
            above.names[name] = (node, self.layer)

    def _describe(self, node: Node, item: Item) -> None:
        node.mode, node.uid, node.gid, node.mtime = item.mode, item.uid, item.gid, item.mtime
        node.xattrs = item.xattrs

    def _directory(self, above: Node, name: str, item: Item) -> None:
        node, _ = above.names.get(name, (None, 0))
        if node is None or node.kind != "dir":
            node = Node("dir", parent=above)
        self._describe(node, item)
        above.names[name] = (node, self.layer)

    def _device(self, above: Node, name: str) -> None:
        above.names.pop(name, None)
        self.devices.add((above, name))

    def _hardlink(self, above: Node, name: str, item: Item) -> None:
        path = [part for part in item.link.split("/") if part not in ("", ".")]
        holder = self._walk(path[:-1], make=False) if path else None
        if holder is None:
            raise Invalid(f"no {item.link}")
        if (holder, path[-1]) in self.devices and path[-1] not in holder.names:
            self._device(above, name)
            return
        node, layer = holder.names.get(path[-1], (None, 0))
        if node is None or node.kind == "dir":
            raise Invalid(f"no file {item.link}")
        if (holder, path[-1]) == (above, name):
            return
        old, _ = above.names.get(name, (None, 0))
        inside: Node | None = holder
        while inside is not None:
            if inside is old:
                raise Invalid("it takes the place of the directory that it links into")
            inside = inside.parent
        if layer != self.layer and node not in self.copied:
            # Further names that the file has in its own layer stay what they are: overlayfs would
            # have separated them as well, as soon as somebody wrote to one of them.
            node = replace(node)
            holder.names[path[-1]] = (node, layer)
            self.copied.add(node)
        above.names[name] = (node, self.layer)

    def _walk(self, path: list[str], *, make: bool) -> Node | None:
        node, links = self.root, 0
        todo = list(reversed(path))
        while todo:
            name = todo.pop()
            if name in ("", "."):
                continue
            if name == "..":
                node = node.parent or self.root
                continue
            if name.startswith(".wh."):
                raise Invalid("below a whiteout")
            found, _ = node.names.get(name, (None, 0))
            if found is None:
                if not make:
                    return None
                found = Node("dir", parent=node)
                node.names[name] = (found, self.layer)
            if found.kind == "symlink":
                links += 1
                if links > MAX_LINKS:
                    raise Invalid("too many links")
                if found.link.startswith("/"):
                    node = self.root
                todo += reversed(found.link.split("/"))
                continue
            if found.kind != "dir":
                raise Invalid("not a directory")
            node = found
        return node

    def _whiteout(self, path: list[str], name: str) -> None:
        hidden = name.removeprefix(".wh.")
        if name != ".wh..wh..opq" and hidden.startswith(".wh."):
            return
        if hidden in ("", ".", ".."):
            raise Invalid(name)
        above = self._walk(path, make=False)
        if above is None:
            return
        if name == ".wh..wh..opq":
            self._strip(above)
            return
        node, layer = above.names.get(hidden, (None, 0))
        if node is None:
            return
        if node.kind == "dir" and (layer == self.layer or self._holds(node)):
            self._strip(node)
        elif layer != self.layer:
            del above.names[hidden]

    def _holds(self, node: Node) -> bool:
        """Whether this layer put something in a directory, at any depth."""
        if node.touched == self.layer:
            return True
        return any(
            layer == self.layer or (child.kind == "dir" and self._holds(child))
            for child, layer in node.names.values()
        )

    def _strip(self, node: Node) -> None:
        """Take away what lower layers put in a directory."""
        for name, (child, layer) in list(node.names.items()):
            if child.kind == "dir" and (layer == self.layer or self._holds(child)):
                self._strip(child)
            elif layer != self.layer:
                del node.names[name]

    def listing(self) -> dict[str, list[object]]:
        """Every path with what is to be seen of it; files that are one have the same first name."""
        found: dict[str, list[object]] = {}
        first: dict[int, str] = {}
        todo = [("", self.root)]
        while todo:
            path, node = todo.pop()
            content: object = {"file": node.data.hex(), "symlink": node.link}.get(node.kind, "")
            mode = 0o777 if node.kind == "symlink" else node.mode
            xattrs = sorted((name, value.hex()) for name, value in node.xattrs)
            found[path] = [node.kind, mode, node.uid, node.gid, node.mtime, content, xattrs, node]
            todo += [(f"{path}/{name}", child) for name, (child, _) in node.names.items()]
        for path in sorted(found):
            node = found[path].pop()
            found[path].append(first.setdefault(id(node), path))
        return found
