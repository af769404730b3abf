"""Runs in a user namespace of its own (unshare(1)), where layers are applied with all owners, and mounted.

One request a line on stdin, {"directory": path, "layers": [hexadecimal archive, ...]}, lowest first; one
answer a line: {"error": text} or {"merged": listing, "kernel": listing, "applied": [...]}. The second
listing is of a kernel overlay of the layers.

With "nested" all of that is done on an overlay, as in a container.

With "script", changes are made in a writable overlay of the layers, committed, and applied on top: then
"kernel" is what that overlay showed, and "merged" what all layers show, without it.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import os
import shutil
import stat
import sys
from typing import Any

from sandbox.errors import LayerError
from sandbox.image.layer.apply import Applied, Below, apply
from sandbox.image.layer.attributes import read_xattrs
from sandbox.image.layer.changes import Upper, changes, write_changes, write_tree
from sandbox.image.layer.compress import Budget
from sandbox.image.layer.copied import File, Ring
from sandbox.image.layer.merged import Merged
from sandbox.image.layer.writer import Writer

LIBC = ctypes.CDLL(None, use_errno=True)
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
Listing = dict[str, list[object]]


def describe(status: os.stat_result, content: object, xattrs: dict[bytes, bytes]) -> list[object]:
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "symlink", stat.S_IFIFO: "fifo"}
    kind = kinds.get(stat.S_IFMT(status.st_mode), oct(status.st_mode))
    shown = sorted([os.fsdecode(name), value.hex()] for name, value in xattrs.items())
    mtime = status.st_mtime_ns // 1_000_000_000
    return [kind, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, mtime, content, shown]


def with_links(found: Listing, inodes: dict[str, tuple[int, int]]) -> Listing:
    """Add to each the first name of those that are the same file."""
    first: dict[tuple[int, int], str] = {}
    for path in sorted(found):
        found[path].append(first.setdefault(inodes[path], path))
    return found


def list_mount(top: str) -> Listing:
    """What is to be seen in a directory."""
    found: Listing = {}
    inodes = {}
    for directory, _, _ in os.walk(top):
        inner = [os.path.join(directory, name) for name in os.listdir(directory)]
        for path in ([top] if directory == top else []) + inner:
            status = os.lstat(path)
            content: object = ""
            xattrs: dict[bytes, bytes] = {}
            if stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
                fd = os.open(path, os.O_RDONLY)
                xattrs = read_xattrs(fd)
                if stat.S_ISREG(status.st_mode):
                    content = os.pread(fd, 1 << 20, 0).hex()
                os.close(fd)
            short = path[len(top) :]
            found[short] = describe(status, content, xattrs)
            inodes[short] = (status.st_dev, status.st_ino)
    return with_links(found, inodes)


def list_merged(merged: Merged) -> Listing:
    """What `Merged` says is to be seen."""
    found: Listing = {}
    inodes = {}
    for shown in merged.walk():
        path = "".join(f"/{os.fsdecode(name)}" for name in shown.path)
        content: object = ""
        xattrs: dict[bytes, bytes] = {}
        if stat.S_ISLNK(shown.status.st_mode):
            content = os.fsdecode(merged.link(shown))
        elif stat.S_ISREG(shown.status.st_mode) or shown.is_directory:
            fd = merged.open(shown)
            xattrs = read_xattrs(fd)
            if not shown.is_directory:
                content = os.pread(fd, 1 << 20, 0).hex()
            os.close(fd)
        found[path] = describe(shown.status, content, xattrs)
        inodes[path] = (shown.status.st_dev, shown.status.st_ino)
    return with_links(found, inodes)


def raw(path: str) -> Listing:
    """A layer's own directory, with what overlayfs reads of it."""
    found: Listing = {}
    for directory, inner, files in os.walk(path):
        for name in [".", *inner, *files]:
            each = os.path.join(directory, name)
            status = os.lstat(each)
            marks = (
                {} if stat.S_ISLNK(status.st_mode) else {n: os.getxattr(each, n) for n in os.listxattr(each)}
            )
            found[each[len(path) :]] = describe(
                status, status.st_rdev, {os.fsencode(n): v for n, v in marks.items()}
            )
    return found


def apply_all(directory: str, layers: list[bytes]) -> tuple[list[str], list[Any]]:
    """Apply layers, the lowest first; their directories, uppermost first, and what was said of each."""
    made: list[str] = []
    said: list[Any] = []
    for number, layer in enumerate(layers):
        path = f"{directory}/{number}"
        os.mkdir(path)
        root = os.open(path, DIRECTORY)
        lower = Merged([os.open(each, DIRECTORY) for each in made]) if made else None
        try:
            done = apply_one(layer, root, lower, f"{path}.tar" if number % 2 else "")
        finally:
            os.close(root)
            if lower:
                lower.close()
                for fd in lower._roots:
                    os.close(fd)
        said.append(vars(done))
        if not done.needs_lower and made:
            check_alone(directory, layer, path)
        made.insert(0, path)
    return made, said


def apply_one(layer: bytes, root: int, lower: Merged | None, path: str) -> Applied:
    """Apply a layer; from a file *path* made for it, if it is to be copied from one."""
    if not path:
        with Ring(io.BytesIO(layer), Budget()) as archive:
            return apply(archive, root, Below(lower))
    with open(path, "wb+", buffering=0) as file:
        file.write(layer)
        with File(file.fileno(), 0, Budget()) as archive:
            return apply(archive, root, Below(lower))


def check_alone(directory: str, layer: bytes, path: str) -> None:
    """A layer that says it needs no other is the same without them."""
    alone = f"{path}.alone"
    os.mkdir(alone)
    root = os.open(alone, DIRECTORY)
    apply_one(layer, root, None, "")
    os.close(root)
    one, other = raw(alone), raw(path)
    one["/."][4] = other["/."][4] = 0  # the root's time is that of the layer below
    if one != other:
        raise AssertionError(f"it does need the layers below it: {one} is not {other}")


def mounted(directory: str, made: list[str]) -> Listing:
    """What an overlay of the layers shows."""
    empty, place = f"{directory}/empty", f"{directory}/mount"
    os.mkdir(empty)
    os.mkdir(place)
    options = f"userxattr,lowerdir={':'.join([*made, empty])}".encode()
    if LIBC.mount(b"overlay", place.encode(), b"overlay", 0, options) != 0:
        raise OSError(ctypes.get_errno(), "mount")
    try:
        return list_mount(place)
    finally:
        LIBC.umount2(place.encode(), 2)


def act(top: str, line: list[str]) -> None:
    """One change, as a payload would make it."""
    action, path, *rest = line
    path = os.path.join(top, path)
    if action == "write":
        with open(path, "w") as file:
            file.write(rest[0])
    elif action == "rm":
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    elif action == "setxattr":
        os.setxattr(path, rest[0], rest[1].encode("utf-8", "surrogateescape"))
    elif action == "hole":
        with open(path, "w") as file:
            file.truncate(int(rest[0]))
    elif action == "symlink":
        os.symlink(rest[0], path)
    elif action in ("link", "rename"):
        getattr(os, action)(path, os.path.join(top, rest[0]))
    elif action == "chmod":
        os.chmod(path, int(rest[0], 8))
    elif action == "chown":
        os.chown(path, *map(int, rest), follow_symlinks=False)
    elif action == "utime":
        os.utime(path, (int(rest[0]),) * 2)
    else:
        getattr(os, action)(path)


def change(directory: str, made: list[str], script: list[list[str]]) -> tuple[str, Listing]:
    """Make changes in an overlay; its writable layer, and what was to be seen in the end."""
    upper, place = f"{directory}/upper", f"{directory}/place"
    for path in (upper, place, f"{directory}/wk"):
        os.mkdir(path)
    shutil.copystat(made[0], upper)
    options = f"userxattr,lowerdir={':'.join(made)},upperdir={upper},workdir={directory}/wk".encode()
    if LIBC.mount(b"overlay", place.encode(), b"overlay", 0, options) != 0:
        raise OSError(ctypes.get_errno(), "mount")
    try:
        for line in script:
            with contextlib.suppress(OSError):
                act(place, line)
        return upper, list_mount(place)
    finally:
        LIBC.umount2(place.encode(), 2)


def committed(request: dict[str, Any], made: list[str]) -> dict[str, object]:
    directory = request["directory"]
    upper, seen = change(directory, made, request["script"])
    root = os.open(upper, DIRECTORY)
    upper_files = Upper(root)
    lower = Merged([os.open(path, DIRECTORY) for path in made])
    found = [
        {"kind": c.kind, "path": "/" + os.fsdecode(b"/".join(c.path))} for c in changes(upper_files, lower)
    ]
    buffer = io.BytesIO()
    writer = Writer(buffer, limit=request.get("size", 1 << 40), latest=request.get("latest"))
    write_changes(upper_files, lower, writer)
    path = f"{directory}/committed"
    os.mkdir(path)
    top = os.open(path, DIRECTORY)
    apply_one(buffer.getvalue(), top, lower, "")
    merged = Merged([top, *lower._roots])
    result = {
        "merged": list_merged(merged),
        "kernel": seen,
        "archive": buffer.getvalue().hex(),
        "changes": found,
    }
    for each in (lower, merged, upper_files.files):
        each.close()
    for fd in (root, *merged._roots):
        os.close(fd)
    return result


def exported(merged: Merged) -> str:
    buffer = io.BytesIO()
    write_tree(merged, Writer(buffer))
    return buffer.getvalue().hex()


def nested(directory: str) -> str:
    """A directory that is itself on an overlay."""
    for name in ("low", "up", "wk", "in"):
        os.mkdir(f"{directory}/{name}")
    options = f"userxattr,lowerdir={directory}/low,upperdir={directory}/up,workdir={directory}/wk".encode()
    place = f"{directory}/in"
    if LIBC.mount(b"overlay", place.encode(), b"overlay", 0, options) != 0:
        raise OSError(ctypes.get_errno(), "mount")
    return place


def answer(request: dict[str, Any]) -> dict[str, object]:
    directory = request["directory"]
    if request.get("nested"):
        request = {**request, "directory": nested(directory), "nested": False}
        try:
            return answer(request)
        finally:
            LIBC.umount2(request["directory"].encode(), 2)
    try:
        made, said = apply_all(directory, [bytes.fromhex(layer) for layer in request["layers"]])
        if "script" in request:
            return committed(request, made)
    except LayerError as error:
        return {"error": error.message}
    roots = [os.open(path, DIRECTORY) for path in made]
    merged = Merged(roots)
    result: dict[str, object] = {"merged": list_merged(merged), "applied": said}
    result["kernel"] = mounted(directory, made)
    if request.get("export"):
        result["export"] = exported(merged)
    merged.close()
    for fd in roots:
        os.close(fd)
    return result


def main() -> None:
    os.umask(0)
    for line in sys.stdin:
        request = json.loads(line)
        os.mkdir(request["directory"])
        try:
            said = answer(request)
        except (AssertionError, OSError) as error:
            said = {"error": f"FAILED: {error!r}"}
        shutil.rmtree(request["directory"])
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
