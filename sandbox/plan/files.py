"""Looking at the host's files while planning: following links with a record of what decided where
they lead, and reading or making a few small things.

Not here: what any of it means for a sandbox.
"""

from __future__ import annotations

import errno
import os
import stat

from sandbox.errors import SetupError
from sandbox.plan.plan import FileStamp

__all__ = [
    "Tracer",
    "directories_in_root",
    "identity",
    "kind_of",
    "make_private",
    "mount_points",
    "read_in_root",
    "read_text",
]

#: Links followed before a path counts as a loop (the kernel's MAXSYMLINKS, path_resolution(7)).
MAX_LINKS = 40
#: Host files that are copied, and files of a root that are read, may have this many bytes.
MAX_COPY = 1 << 20


class Tracer:
    """Follows paths and remembers everything that decided where they lead."""

    def __init__(self) -> None:
        self._stamps: dict[str, FileStamp] = {}
        #: seen for what kind of file they are, not for what is in them
        self._passed: dict[str, FileStamp] = {}
        self._whole: set[str] = set()

    def stamps(self) -> tuple[FileStamp, ...]:
        """The stamps of all that was seen. What a directory's own stamp tells already (a name in it that is
        made, removed, or leads elsewhere changes its time) is left out: each costs time at every start."""
        passed = {
            path: stamp
            for path, stamp in self._passed.items()
            if path not in self._stamps and os.path.dirname(path) not in self._whole
        }
        return (*self._stamps.values(), *passed.values())

    def see(self, path: str, *, entries: bool = False) -> None:
        if entries:
            self._whole.add(path)
        if entries or path not in self._stamps:
            self._stamps[path] = FileStamp.take(path, entries=entries)

    def never(self) -> None:
        """What was seen can't be told by stamps: the plan is for this call alone."""
        self._stamps["/proc/self/mountinfo"] = FileStamp("/proc/self/mountinfo", 0, 0, 0)

    def see_again(self, path: str) -> None:
        """*path* and its parents were made by us since they were seen."""
        while path != "/":
            self._stamps[path] = FileStamp.take(path)
            path = os.path.dirname(path)

    def follow(self, path: str, *, root: str = "") -> tuple[str, list[str]]:
        """The real path of *path* (absolute) and the links that were followed, each by its own real
        place. What does not exist is taken as it is written. With *root*, *path* and the result are inside
        that directory, which no link leaves.

        Raises `OSError` (ELOOP) when there are too many links.
        """
        links: list[str] = []
        real = "/"
        rest = path.split("/")[::-1]
        while rest:
            name = rest.pop()
            if name in ("", "."):
                continue
            if name == "..":
                real = os.path.dirname(real)
                continue
            at = real.rstrip("/") + "/" + name
            if root + at not in self._passed:
                self._passed[root + at] = FileStamp.take(root + at)
            try:
                target = os.readlink(root + at)
            except OSError:
                real = at
                continue
            links.append(root + at)
            if len(links) > MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            if target.startswith("/"):
                real = "/"
            rest += target.split("/")[::-1]
        return real, links


def kind_of(path: str) -> int:
    """The file type of *path* (0: it does not exist), following links."""
    try:
        return stat.S_IFMT(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return 0


def identity(path: str) -> tuple[int, int]:
    """What file this is, by whatever name (device, inode); (0, 0) when it can't be told."""
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_dev, status.st_ino


def read_text(path: str, *, directory: int | None = None, flags: int = 0) -> str:
    """A small regular file as text; "" when it is missing, unreadable, no file, or too large."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | flags, dir_fd=directory)
    except OSError:
        return ""
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_COPY:
            return ""
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(MAX_COPY).decode("utf-8", "surrogateescape")
    finally:
        os.close(descriptor)


def read_in_root(root: str, name: str) -> str:
    """`/etc/NAME` of a root that may be hostile: through no link at all."""
    no_link = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        top = os.open(root, no_link)
    except OSError:
        return ""
    try:
        etc = os.open("etc", no_link, dir_fd=top)
    except OSError:
        return ""
    finally:
        os.close(top)
    try:
        return read_text(name, directory=etc, flags=os.O_NOFOLLOW)
    finally:
        os.close(etc)


def directories_in_root(root: str, path: str) -> dict[str, tuple[int, int]]:
    """The directories on the way to *path* in a root that may be hostile, up to the first that is missing
    or is a link, with their owners (uid, gid)."""
    found: dict[str, tuple[int, int]] = {}
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    at, descriptor = "", os.open(root, flags)
    try:
        for name in path.strip("/").split("/"):
            try:
                inner = os.open(name, flags, dir_fd=descriptor)
            except OSError:
                break
            os.close(descriptor)
            descriptor, at = inner, f"{at}/{name}"
            status = os.fstat(descriptor)
            found[at] = (status.st_uid, status.st_gid)
    finally:
        os.close(descriptor)
    return found


def mount_points() -> list[str]:
    """Where something is mounted, from /proc/self/mountinfo (proc(5): octal escapes)."""
    points = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            point = line.split(" ", 5)[4]
            for escape, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
                point = point.replace(escape, character)
            points.append(point)
    return points


def make_private(path: str, what: str) -> None:
    """Make a directory and its missing parents with mode 0700, as the XDG specification says."""
    missing = []
    while not os.path.lexists(path):
        missing.append(path)
        path = os.path.dirname(path)
    for each in reversed(missing):
        try:
            os.mkdir(each, 0o700)
        except FileExistsError:
            continue
        except OSError as error:
            raise SetupError(
                f"cannot make {each} ({what}), and the command could, because it lies below a writable "
                f"mount: {error.strerror}",
                f"mount a directory that does not hold {each}",
                errno=error.errno or 0,
            ) from error
