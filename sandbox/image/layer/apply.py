"""Applying a layer: the entries of an archive become a directory that overlayfs can mount.

An entry replaces what is at its path, but a directory keeps what is in it. Whiteouts hide what the
lower layers have, wherever they stand in the archive, and never what this layer has itself
(image-spec, layer.md, "Whiteouts"). What an archive leaves out is looked up in the lower layers:
directories that no entry describes are as they are there; a name that goes through a symbolic link
of theirs goes where it points; a hard link to a file of theirs makes that a file of this layer, too.

A layer for which nothing had to be looked up means the same on top of any others.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable

from sandbox.errors import LayerError
from sandbox.image.layer import copies
from sandbox.image.layer.attributes import (
    OPAQUE,
    WHITEOUT,
    Attributes,
    clear_acls,
    mark,
    read_xattrs,
    set_xattrs,
)
from sandbox.image.layer.merged import Merged, Shown
from sandbox.image.layer.names import OPAQUE as OPAQUE_NAME
from sandbox.image.layer.names import WHITEOUT as WHITEOUT_NAME
from sandbox.image.layer.names import clean, printable, steps
from sandbox.image.layer.tar import Entry, Reader
from sandbox.image.layer.tree import Dir, Tree

__all__ = ["Applied", "apply"]

#: How many links in a path are followed; the kernel's own limit is 40 (path_resolution(7)).
_MAX_LINKS = 40
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SPECIAL = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX

#: A directory that nothing describes: the mode is that of mkdir(1), the time none in particular.
IMPLIED = Attributes(0o755, 0, 0, 0, {})


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


def apply(reader: Reader, root: int, lower: Merged | None = None, *, squash: bool = False) -> Applied:
    """Make the layer that *reader* reads in the empty directory open as *root*, on top of *lower*.

    With *squash* everything belongs to the caller, whoever it should belong to. umask(2) must be 0.

    Raises:
        LayerError: an entry can't be what it says, or the archive is damaged.
    """
    applier = _Applier(root, lower, squash)
    try:
        for entry in reader:
            try:
                applier.entry(entry, reader)
            except OSError as error:
                raise explain(error, entry.name, entry.uid, entry.gid) from error
        applier.finish()
    finally:
        applier.tree.close()
    applier.result.entries, applier.result.size = reader.count, reader.size
    return applier.result


class _Applier:
    def __init__(self, root: int, lower: Merged | None, squash: bool) -> None:
        self.result = Applied()
        self._lower = lower
        self._squash = squash
        self._reader: Reader
        clear_acls(root)
        self.tree = Tree(root, self._root_attributes())
        self.tree.root.looked = True
        self.tree.root.below = lower.root() if lower else None
        #: devices that the archive has: (directory, name)
        self._devices: set[tuple[Dir, bytes]] = set()
        #: directories by their path, as far as no link is on it
        self._known: dict[tuple[bytes, ...], Dir] = {(): self.tree.root}
        self._makers: dict[str, Callable[[Dir, bytes, Entry], None]] = {
            "file": self._file,
            "dir": self._dir,
            "symlink": self._symlink,
            "hardlink": self._hardlink,
            "fifo": self._fifo,
            "char": self._device,
            "block": self._device,
        }

    def _root_attributes(self) -> Attributes:
        if self._lower is None:
            return IMPLIED
        return self._attributes_of(self._lower.root())

    def entry(self, entry: Entry, reader: Reader) -> None:
        self._reader = reader
        path = clean(entry.name)
        if not path:
            self._describe_root(entry)
            return
        name = path[-1]
        if name.startswith(WHITEOUT_NAME):
            self._whiteout(path, name)
            return
        node = self._known.get(path[:-1]) or self._directory(path[:-1])
        node.owned = True
        self._makers[entry.kind](node, name, entry)

    def _describe_root(self, entry: Entry) -> None:
        if entry.kind != "dir":
            raise LayerError(f"the archive makes the root directory a {entry.kind}")
        self._describe(self.tree.root, entry)
        self.result.own_root = True

    def _describe(self, node: Dir, entry: Entry) -> None:
        self._count_owner(entry)
        node.explicit = True
        node.attributes = Attributes(entry.mode, entry.uid, entry.gid, entry.mtime, entry.xattrs)

    def _count_owner(self, entry: Entry) -> None:
        if self._squash and (entry.uid or entry.gid):
            self.result.squashed += 1

    # --- kinds of entries -------------------------------------------------------------------------

    def _dir(self, node: Dir, name: bytes, entry: Entry) -> None:
        self._describe(node.children.get(name) or self._make_directory(node, name), entry)

    def _make_directory(self, node: Dir, name: bytes, attributes: Attributes = IMPLIED) -> Dir:
        """A directory where none is. In place of another file it has nothing of the lower layers, for
        that file had hidden them."""
        try:
            made = self.tree.make(node, name, attributes)
            made.opaque = name in node.whiteouts
        except FileExistsError:
            self._clear(node, name)
            made = self.tree.make(node, name, attributes)
            made.opaque = True
        return made

    def _file(self, node: Dir, name: bytes, entry: Entry) -> None:
        above = self.tree.fd(node)
        mode = entry.mode & 0o777
        try:
            fd = os.open(name, _NEW, mode, dir_fd=above)
        except FileExistsError:
            self._clear(node, name)
            fd = os.open(name, _NEW, mode, dir_fd=above)
        try:
            if entry.sparse is not None:
                copies.write_sparse(fd, self._reader.content(), entry.sparse, entry.size)
            elif entry.stored:
                for piece in self._reader.content():
                    while (written := os.write(fd, piece)) < len(piece):
                        piece = piece[written:]
            if entry.uid or entry.gid:
                self._own(fd, entry.uid, entry.gid)
            if entry.mode & _SPECIAL:
                os.fchmod(fd, entry.mode)
            if entry.xattrs:
                self.result.xattrs += set_xattrs(fd, entry.xattrs, entry.name, squash=self._squash)
            os.utime(fd, ns=(entry.mtime, entry.mtime))
        finally:
            os.close(fd)

    def _own(self, fd: int, uid: int, gid: int) -> None:
        if self._squash:
            self.result.squashed += 1
        else:
            os.fchown(fd, uid, gid)

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
        self._clear(node, name)
        node.whiteouts.add(name)
        self._devices.add((node, name))
        self.result.needs_lower = True
        self.result.devices += 1

    def _anew(self, node: Dir, name: bytes, make: Callable[[int], None]) -> None:
        above = self.tree.fd(node)
        try:
            make(above)
        except FileExistsError:
            self._clear(node, name)
            make(self.tree.fd(node))

    def _clear(self, node: Dir, name: bytes) -> None:
        """Remove what this layer has there."""
        child = node.children.get(name)
        if child is not None:
            self._remove(child)
        else:
            node.copied.discard(name)
            try:
                os.unlink(name, dir_fd=self.tree.fd(node))
            except FileNotFoundError:
                return

    def _remove(self, node: Dir) -> None:
        self.tree.remove(node)
        self._known = {(): self.tree.root}

    def _hardlink(self, node: Dir, name: bytes, entry: Entry) -> None:
        target = clean(entry.link)
        holder = self._find(target[:-1]) if target else None
        if holder is None or target[-1] in holder.children:
            raise _no_target(entry)
        old = target[-1]
        try:
            os.stat(old, dir_fd=self.tree.fd(holder), follow_symlinks=False)
        except FileNotFoundError:
            if (holder, old) in self._devices:
                self._device(node, name, entry)
                return
            if not self._copy_up(holder, old):
                raise _no_target(entry) from None
        if (holder, old) == (node, name):
            return

        def link(above: int) -> None:
            os.link(old, name, src_dir_fd=self.tree.fd(holder), dst_dir_fd=above, follow_symlinks=False)

        self._anew(node, name, link)

    # --- whiteouts --------------------------------------------------------------------------------

    def _whiteout(self, path: tuple[bytes, ...], name: bytes) -> None:
        self.result.needs_lower = True
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
        if child is not None and _holds(child):
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
            for name in each.copied:
                os.unlink(name, dir_fd=self.tree.fd(each))
            each.copied.clear()
            for child in list(each.children.values()):
                if _holds(child):
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
        above = self.tree.fd(node)
        try:
            status = os.stat(name, dir_fd=above, follow_symlinks=False)
        except FileNotFoundError:
            pass
        else:
            if stat.S_ISLNK(status.st_mode):
                return os.readlink(name, dir_fd=above)
            raise _no_directory(path)
        self.result.needs_lower = True
        shown = self._below(node, name)
        if shown is None:
            return self._make_directory(node, name) if make else None
        assert self._lower is not None
        if shown.is_directory:
            return self._make_directory(node, name, self._attributes_of(shown))
        if stat.S_ISLNK(shown.status.st_mode):
            return self._lower.link(shown)
        raise _no_directory(path)

    # --- lower layers -----------------------------------------------------------------------------

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
        self.result.needs_lower = True
        shown = self._below(node, name)
        if shown is None or shown.is_directory:
            return False
        assert self._lower is not None
        copies.copy(self._lower, shown, self.tree.fd(node), squash=self._squash)
        node.copied.add(name)
        return True

    # --- the end ----------------------------------------------------------------------------------

    def finish(self) -> None:
        """Write whiteouts, and give all directories what is theirs, inner ones first."""
        root = self.tree.root.attributes
        unlike = root.mode != IMPLIED.mode if self._squash else root[:3] != IMPLIED[:3]
        self.result.usual_root = not unlike and not root.xattrs
        if not (self.result.own_root or self.result.usual_root):
            self.result.needs_lower = True
        for node in reversed(list(self.tree.root.subtree())):
            own = node.attributes
            path = b"/".join(each.name for each in reversed(node.above()))[1:]
            try:
                self._finish_directory(node, path)
            except OSError as error:
                raise explain(error, path, own.uid, own.gid) from error

    def _finish_directory(self, node: Dir, path: bytes) -> None:
        fd, own = self.tree.fd(node), node.attributes
        self._write_whiteouts(node)
        if not self._squash:
            os.fchown(fd, own.uid, own.gid)
        if own.xattrs:
            self.result.xattrs += set_xattrs(fd, own.xattrs, path, squash=self._squash)
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


def _holds(node: Dir) -> bool:
    """Whether something in *node* is this layer's own."""
    return any(each.explicit or each.owned for each in node.subtree())


# --- errors -------------------------------------------------------------------------------------------


def _no_target(entry: Entry) -> LayerError:
    name, link = printable(entry.name), printable(entry.link)
    return LayerError(f"{name} is a hard link to {link}, which is no file of this layer or of those below it")


def _no_directory(path: tuple[bytes, ...]) -> LayerError:
    return LayerError(f"{printable(b'/'.join(path))} is, or is below, a file that is no directory")


def explain(error: OSError, name: bytes, uid: int, gid: int) -> LayerError:
    """What the system said about the entry *name* of that owner, and what mends it."""
    what = f"cannot unpack {printable(name) or 'the root directory'}"
    reason = os.strerror(error.errno or 0)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return LayerError(f"{what}: {reason}", "free space where the image store is: sandbox image prune")
    if error.errno in (errno.EINVAL, errno.EOVERFLOW) and (uid or gid):
        return LayerError(
            f"{what}: it belongs to user {uid} and group {gid}, and the image store's range of ids does not "
            "have both",
            "unpack it with all files as your own: sandbox image pull --squash",
        )
    return LayerError(f"{what}: {reason}")
