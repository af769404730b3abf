"""Applying a layer: the entries of an archive become a directory that overlayfs can mount.

An entry replaces what is at its path, but a directory keeps what is in it. Whiteouts hide what the
lower layers have, wherever they stand in the archive, and never what this layer has itself
(image-spec, layer.md, "Whiteouts"). What an archive leaves out is looked up in the lower layers:
directories that no entry describes are as they are there; a name that goes through a symbolic link
of theirs goes where it points; a hard link to a file of theirs makes that a file of this layer, too.

A layer for which nothing had to be looked up means the same on top of any others.

Regular files are written by a process beside this one (`sandbox.image.layer.files`); whoever touches one
waits for it first.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable

from sandbox.errors import LayerError
from sandbox.image.layer.attributes import (
    IMPLIED,
    OPAQUE,
    WHITEOUT,
    Attributes,
    clear_acls,
    mark,
    read_xattrs,
    set_xattrs,
)
from sandbox.image.layer.copied import Copied
from sandbox.image.layer.files import Failed, Files
from sandbox.image.layer.merged import Merged, Shown
from sandbox.image.layer.names import OPAQUE as OPAQUE_NAME
from sandbox.image.layer.names import PATH_MAX, clean, is_plain, printable, steps
from sandbox.image.layer.names import WHITEOUT as WHITEOUT_NAME
from sandbox.image.layer.outcome import Applied, NotAlone, explain, no_directory, no_target
from sandbox.image.layer.tar import Entry, Limits, Reader
from sandbox.image.layer.tree import Dir, Tree

__all__ = ["Applied", "Below", "NotAlone", "apply"]

#: How many links in a path are followed; the kernel's own limit is 40 (path_resolution(7)).
_MAX_LINKS = 40
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SPECIAL = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX


class Below:
    """What is known of what a layer lies on: the layers, None for nothing. `alone`: there may be some."""

    def __init__(self, layers: Merged | None = None, alone: bool = False) -> None:
        self.layers, self.alone = layers, alone


def apply(
    archive: Copied,
    root: int,
    below: Below = Below(),  # noqa: B008
    *,
    limits: Limits = Limits(),  # noqa: B008
    squash: bool = False,
) -> Applied:
    """Make the layer that *archive* is in the empty directory open as *root*.

    With *squash* everything belongs to the caller, whoever it should belong to. umask(2) must be 0.

    Raises:
        NotAlone: it is to be made alone, and what is below it would have to be known.
        LayerError: an entry can't be what it says, or the archive is damaged.
    """
    reader = Reader(archive, limits)
    applier = _Applier(root, below, squash, archive)
    try:
        for entry in reader:
            try:
                applier.entry(entry, reader)
            except Failed as error:
                raise explain(error, error.path, error.uid, error.gid) from error
            except OSError as error:
                raise explain(error, entry.name, entry.uid, entry.gid) from error
        applier.finish()
    finally:
        applier.close()
    applier.result.entries, applier.result.size = reader.count, reader.size
    return applier.result


class _Applier:
    def __init__(self, root: int, below: Below, squash: bool, archive: Copied) -> None:
        self.result = Applied()
        lower, self._alone = below.layers, below.alone
        self._lower = lower
        self._squash = squash
        self._archive = archive
        self._reader: Reader
        self._files = Files(root, archive.fileno())
        archive.copied_by(self._files.mark)
        self._last: Dir | None = None  # that a file was written in
        clear_acls(root)
        os.fchmod(root, 0o700)  # without a set-group-ID bit, which what is made in it would inherit
        self.tree = Tree(root, self._root_attributes())
        self.tree.root.looked = True
        self.tree.root.below = lower.root() if lower else None
        #: devices that the archive has: (directory, name)
        self._devices: set[tuple[Dir, bytes]] = set()
        #: directories by their path, as far as no link is on it
        self._known: dict[tuple[bytes, ...], Dir] = {(): self.tree.root}
        #: one of them: what stood before the last slash of an entry's name, and the directory
        self._above: tuple[bytes, Dir | None] = b"", None
        self._makers: dict[str, Callable[[Dir, bytes, Entry], None]] = {
            "file": self._file,
            "dir": self._dir,
            "symlink": self._symlink,
            "hardlink": self._hardlink,
            "fifo": self._fifo,
            "char": self._device,
            "block": self._device,
        }

    def close(self) -> None:
        """Let go of what was opened here."""
        self._files.close()
        self.tree.close()

    def _root_attributes(self) -> Attributes:
        if self._lower is None:
            return IMPLIED
        return self._attributes_of(self._lower.root())

    def entry(self, entry: Entry, reader: Reader) -> None:
        self._reader = reader
        above, _, name = entry.name.rpartition(b"/")
        plain = is_plain(name) and len(entry.name) < PATH_MAX and not name.startswith(WHITEOUT_NAME)
        node = self._above[1] if plain and above == self._above[0] else None
        if node is None:
            path = clean(entry.name)
            if not path:
                self._describe_root(entry)
                return
            name = path[-1]
            if name.startswith(WHITEOUT_NAME):
                self._whiteout(path, name)
                return
            node = self._known.get(path[:-1]) or self._directory(path[:-1])
            if plain and path[:-1] in self._known:  # most entries are beside the one before
                self._above = above, node
        node.owned = True
        self._makers[entry.kind](node, name, entry)

    def _describe_root(self, entry: Entry) -> None:
        if entry.kind != "dir":
            raise LayerError(f"the archive makes the root directory a {entry.kind}")
        self._describe(self.tree.root, entry, _own(entry))
        self.result.own_root = True

    def _describe(self, node: Dir, entry: Entry, attributes: Attributes) -> None:
        self._count_owner(entry)
        node.explicit = True
        node.attributes = attributes

    def _count_owner(self, entry: Entry) -> None:
        if self._squash and (entry.uid or entry.gid):
            self.result.squashed += 1

    # --- kinds of entries -------------------------------------------------------------------------

    def _dir(self, node: Dir, name: bytes, entry: Entry) -> None:
        own = _own(entry)
        self._describe(node.children.get(name) or self._make_directory(node, name, own), entry, own)

    def _make_directory(self, node: Dir, name: bytes, attributes: Attributes = IMPLIED) -> Dir:
        """A directory where none is. In place of another file it has nothing of the lower layers, for
        that file had hidden them."""
        opaque = name in node.whiteouts
        if name in node.files:
            self._clear(node, name)
            opaque = True
        made = self.tree.make(node, name, attributes)
        made.opaque = opaque
        return made

    def _file(self, node: Dir, name: bytes, entry: Entry) -> None:
        self._make_room(node, name)
        node.files.add(name)
        if self._squash and (entry.uid or entry.gid):
            self.result.squashed += 1
        directory = None if node is self._last else node.path()
        self._last = node
        place = self._archive.place(entry.stored)
        content = self._reader.passing(self._archive.places) if place < 0 else place
        self.result.xattrs += self._files.add(directory, name, entry, content, squash=self._squash)

    def _symlink(self, node: Dir, name: bytes, entry: Entry) -> None:
        self._anew(node, name, lambda above: os.symlink(entry.link, name, dir_fd=above))
        self._finish_special(node, name, entry)

    def _fifo(self, node: Dir, name: bytes, entry: Entry) -> None:
        self._anew(node, name, lambda above: os.mkfifo(name, entry.mode & 0o777, dir_fd=above))
        self._finish_special(node, name, entry)

    def _finish_special(self, node: Dir, name: bytes, entry: Entry) -> None:
        """What can't be opened gets its owner and time by name; attributes it can't have."""
        above = self.tree.fd(node)
        self._count_owner(entry)
        if not self._squash and (entry.uid or entry.gid):
            os.chown(name, entry.uid, entry.gid, dir_fd=above, follow_symlinks=False)
        os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=above, follow_symlinks=False)
        self.result.xattrs += len(entry.xattrs)

    def _device(self, node: Dir, name: bytes, entry: Entry) -> None:
        """Nobody can make a device in a user namespace (mknod(2)), and 0/0 would be overlayfs's whiteout.
        It is left out, with what was there before."""
        self._make_room(node, name)
        node.whiteouts.add(name)
        self._devices.add((node, name))
        self._look_below()
        self.result.devices += 1

    def _anew(self, node: Dir, name: bytes, make: Callable[[int], None]) -> None:
        self._make_room(node, name)
        make(self.tree.fd(node))
        node.files.add(name)

    def _make_room(self, node: Dir, name: bytes) -> None:
        """Remove what this layer has there, if anything."""
        if name in node.files:
            self._clear(node, name)
        elif name in node.children:
            self._remove(node.children[name])

    def _clear(self, node: Dir, name: bytes) -> None:
        """Remove a file of this layer."""
        self._files.settle()
        os.unlink(name, dir_fd=self.tree.fd(node))
        node.files.discard(name)
        node.copied.discard(name)

    def _remove(self, node: Dir) -> None:
        self._files.settle()
        self._last, self._above = None, (b"", None)
        self.tree.remove(node)
        self._known = {(): self.tree.root}

    def _hardlink(self, node: Dir, name: bytes, entry: Entry) -> None:
        target = clean(entry.link)
        holder = self._find(target[:-1]) if target else None
        if holder is None or target[-1] in holder.children:
            raise no_target(entry)
        old = target[-1]
        if old not in holder.files:
            if (holder, old) in self._devices:
                self._device(node, name, entry)
                return
            if not self._copy_up(holder, old):
                raise no_target(entry)
        if (holder, old) == (node, name):
            return

        self._files.settle()

        def link(above: int) -> None:
            os.link(old, name, src_dir_fd=self.tree.fd(holder), dst_dir_fd=above, follow_symlinks=False)

        self._anew(node, name, link)

    # --- whiteouts --------------------------------------------------------------------------------

    def _whiteout(self, path: tuple[bytes, ...], name: bytes) -> None:
        self._look_below()
        hidden = name[len(WHITEOUT_NAME) :]
        if name != OPAQUE_NAME and name.startswith(WHITEOUT_NAME + WHITEOUT_NAME):
            return  # aufs's own: .wh..wh.plnk and the like, which docker passes over too
        if hidden in (b"", b".", b".."):
            raise LayerError(f"the whiteout {printable(b'/'.join(path))} names no file")
        node = self._find(path[:-1])
        if node is None:
            return  # there is nothing to hide
        if name != OPAQUE_NAME:
            self._hide_name(node, hidden)
        elif node is not self.tree.root:
            self._hide(node)
        elif self._lower:  # overlayfs merges root directories, whatever is on them (ovl_get_root)
            for each in self._lower.names(self._lower.root()):
                self._hide_name(node, each)

    def _hide_name(self, node: Dir, name: bytes) -> None:
        child = node.children.get(name)
        if child is not None and child.holds_own():
            self._hide(child)
        elif child is not None:
            self._remove(child)
        elif name in node.copied:
            self._clear(node, name)
        node.whiteouts.add(name)

    def _hide(self, node: Dir) -> None:
        """Make *node* opaque, and take from it what came of lower layers."""
        todo = [node]
        while todo:
            each = todo.pop()
            each.looked, each.below = True, None
            for name in list(each.copied):
                self._clear(each, name)
            for child in list(each.children.values()):
                if child.holds_own():
                    todo.append(child)
                else:
                    self._remove(child)
        node.opaque = True

    # --- finding directories ----------------------------------------------------------------------

    def _directory(self, path: tuple[bytes, ...]) -> Dir:
        """The directory that *path* leads to, made if there is none."""
        node = self._walk(path, make=True)
        assert node is not None
        return node

    def _find(self, path: tuple[bytes, ...]) -> Dir | None:
        """The directory that *path* leads to, if this layer or a lower one has it."""
        return self._known.get(path) or self._walk(path, make=False)

    def _walk(self, path: tuple[bytes, ...], *, make: bool) -> Dir | None:
        node, links = self.tree.root, 0
        todo = list(reversed(path))
        while todo:
            name = todo.pop()
            if name == b"..":  # of a link's target
                node = node.parent or self.tree.root
                continue
            if name.startswith(WHITEOUT_NAME):
                raise LayerError(f"{printable(b'/'.join(path))} is below a whiteout")
            child = node.children.get(name)
            if child is None:
                found = self._step(node, name, path, make)
                if found is None:
                    return None
                if isinstance(found, bytes):
                    links += 1
                    if links > _MAX_LINKS:
                        raise LayerError(f"{printable(b'/'.join(path))} leads through too many links")
                    if found.startswith(b"/"):
                        node = self.tree.root
                    todo += reversed(steps(found))
                    continue
                child = found
            node = child
        if not links:
            self._known[path] = node
        return node

    def _step(self, node: Dir, name: bytes, path: tuple[bytes, ...], make: bool) -> Dir | bytes | None:
        """What *name* is in *node*: the target of a link, or a directory; None: nothing, and none is to be
        made. It was no directory of this layer so far."""
        if name in node.files:
            self._files.settle()
            above = self.tree.fd(node)
            if stat.S_ISLNK(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode):
                return os.readlink(name, dir_fd=above)
            raise no_directory(path)
        self._look_below()
        shown = self._below(node, name)
        if shown is None:
            return self._make_directory(node, name) if make else None
        assert self._lower is not None
        if shown.is_directory:
            return self._make_directory(node, name, self._attributes_of(shown))
        if stat.S_ISLNK(shown.status.st_mode):
            return self._lower.link(shown)
        raise no_directory(path)

    # --- lower layers -----------------------------------------------------------------------------

    def _look_below(self) -> None:
        """What comes of this depends on the lower layers."""
        self.result.needs_lower = True
        if self._alone:
            raise NotAlone("the layer means something only on top of those below it")

    def _below(self, node: Dir, name: bytes) -> Shown | None:
        """What the lower layers show as *name* in *node*."""
        directory = None if name in node.whiteouts else self._directory_below(node)
        return self._lower.look(directory, name) if self._lower and directory else None

    def _directory_below(self, node: Dir) -> Shown | None:
        """What the lower layers have where *node* is, if it is a directory."""
        unknown: list[Dir] = []
        for each in node.above():
            if each.looked:
                break
            unknown.append(each)
        for each in reversed(unknown):
            each.looked = True
            directory = each.parent.below if each.parent else None
            if self._lower and directory and not each.opaque:
                shown = self._lower.look(directory, each.name)
                each.below = shown if shown and shown.is_directory else None
        return None if node.opaque else node.below

    def _attributes_of(self, shown: Shown) -> Attributes:
        assert self._lower is not None
        fd = self._lower.open(shown)
        try:
            status = os.fstat(fd)
            xattrs = read_xattrs(fd)
        finally:
            os.close(fd)
        mode = stat.S_IMODE(status.st_mode)
        return Attributes(mode, status.st_uid, status.st_gid, status.st_mtime_ns, xattrs)

    def _copy_up(self, node: Dir, name: bytes) -> bool:
        """Make a lower layer's file one of this layer. False: there is none, or it is a directory."""
        self._look_below()
        shown = self._below(node, name)
        if shown is None or shown.is_directory:
            return False
        assert self._lower is not None
        from sandbox.image.layer.copies import copy

        copy(self._lower, shown, self.tree.fd(node), squash=self._squash)
        node.files.add(name)
        node.copied.add(name)
        return True

    # --- the end ----------------------------------------------------------------------------------

    def finish(self) -> None:
        """Write whiteouts, and give all directories what is theirs, inner ones first."""
        try:
            self._files.settle()
        except Failed as error:
            raise explain(error, error.path, error.uid, error.gid) from error
        root = self.tree.root.attributes
        unlike = root.mode != IMPLIED.mode if self._squash else root.who_may != IMPLIED.who_may
        self.result.usual_root = not unlike and not root.xattrs
        if not (self.result.own_root or self.result.usual_root):
            self.result.needs_lower = True
        for node in reversed(list(self.tree.root.subtree())):
            own = node.attributes
            try:
                self._finish_directory(node)
            except OSError as error:
                raise explain(error, node.path(), own.uid, own.gid) from error

    def _finish_directory(self, node: Dir) -> None:
        own, parent = node.attributes, node.parent
        ours = self._squash or not (own.uid or own.gid)
        if parent and ours and node.mode == own.mode and not (own.xattrs or node.opaque or node.whiteouts):
            fd = self.tree.fd(parent)  # most are such, and were never opened
            os.utime(node.name, ns=(own.mtime, own.mtime), dir_fd=fd, follow_symlinks=False)
            return
        fd = self.tree.fd(node)
        self._write_whiteouts(node)
        if not self._squash:
            os.fchown(fd, own.uid, own.gid)
        if own.xattrs:
            self.result.xattrs += set_xattrs(fd, own.xattrs, node.path(), squash=self._squash)
        if node.opaque:
            mark(fd, OPAQUE)
        os.fchmod(fd, own.mode)
        os.utime(fd, ns=(own.mtime, own.mtime))

    def _write_whiteouts(self, node: Dir) -> None:
        """Only over a directory of the lower layers: elsewhere overlayfs shows them, as files that nobody
        can open (it filters them when it merges directories, and else lists the directory as it is)."""
        if node.whiteouts and self._directory_below(node):
            for name in sorted(node.whiteouts):
                self._write_whiteout(node, name)

    def _write_whiteout(self, node: Dir, name: bytes) -> None:
        """A device, or where the store is itself on an overlay, which allows none, what Linux 6.7 takes
        instead. Nothing where this layer has a file, which hides the lower one as well."""
        fd = self.tree.fd(node)
        with contextlib.suppress(FileExistsError):
            if self.result.whiteouts != "xattr" and self._make_device(fd, name):
                self.result.whiteouts = "device"
            else:
                self.result.whiteouts = "xattr"
                file = os.open(name, _NEW, 0, dir_fd=fd)
                try:
                    mark(file, WHITEOUT)
                    mark(fd, OPAQUE, b"x")
                finally:
                    os.close(file)
            os.utime(name, (0, 0), dir_fd=fd, follow_symlinks=False)

    def _make_device(self, fd: int, name: bytes) -> bool:
        try:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=fd)
        except PermissionError:
            return False
        return True


def _own(entry: Entry) -> Attributes:
    return Attributes(entry.mode, entry.uid, entry.gid, entry.mtime, entry.xattrs)
