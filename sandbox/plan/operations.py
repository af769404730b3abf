"""The operations that build a root file system: what init does, in order, before exec.

Each is a small frozen value with two faces: `describe()` gives the words that fit behind
"cannot " in an error and stand in `explain`; `encode()` gives the record that the helper
reads. Nothing here decides or does anything; `sandbox.plan.compile` chooses operations, and
helpers/mounts.c executes them.

`dst` is an absolute path inside the sandbox, `origin` the profile line or option that asked
for it ("" when it belongs to every sandbox).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from sandbox.units import format_size
from sandbox.wire import Kind, Mount, Record

__all__ = [
    "Bind",
    "Cgroup2",
    "Devpts",
    "Directory",
    "File",
    "Mask",
    "Mqueue",
    "Operation",
    "Overlay",
    "Pin",
    "Proc",
    "ReadOnly",
    "Symlink",
    "Tmpfs",
]

NONE = Mount(0)
#: so many layers are only counted in words
_MANY = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """Base of all operations."""

    kind: ClassVar[Kind]

    dst: str
    origin: str = ""

    def describe(self) -> str:
        """What is done, in words that fit behind "cannot "."""
        raise NotImplementedError

    def arguments(self) -> Iterable[str | bytes | int]:
        """The fields behind `dst`, as wire.Kind lists them."""
        raise NotImplementedError

    def encode(self) -> Record:
        return Record(self.kind, self.describe(), self.origin, (self.dst, *self.arguments()))


def _readonly(flags: Mount) -> str:
    return " read-only" if flags & Mount.READONLY else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tmpfs(Operation):
    """An empty writable directory in memory: of the pool, or with `size` bytes of its own."""

    kind = Kind.TMPFS
    flags: Mount = NONE
    mode: int = 0o755
    size: int = 0
    inodes: int = 0

    def describe(self) -> str:
        limit = f" of {format_size(self.size)}" if self.size else ""
        return f"mount a tmpfs{limit} on {self.dst}"

    def arguments(self) -> Iterable[str | bytes | int]:
        return int(self.flags), self.mode, self.size, self.inodes


@dataclass(frozen=True, slots=True, kw_only=True)
class Bind(Operation):
    """A file or directory of the host. With `beneath`, `source` is relative to that directory
    and is opened without leaving it or following a link."""

    kind = Kind.BIND
    source: str
    flags: Mount = NONE
    beneath: str = ""

    def describe(self) -> str:
        source = f"{self.beneath}/{self.source}" if self.beneath else self.source
        return f"bind {source}{_readonly(self.flags)} on {self.dst}"

    def arguments(self) -> Iterable[str | bytes | int]:
        return int(self.flags), self.source, self.beneath


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlay(Operation):
    """Directories of the host (`lowers`, top first) with a writable layer over them: `upper` is
    a name in the launch's scratch directory on disk, the path of a directory that stays, or "" for memory
    (the pool, or `size` bytes)."""

    kind = Kind.OVERLAY
    lowers: tuple[str, ...]
    upper: str = ""
    size: int = 0
    flags: Mount = NONE

    def describe(self) -> str:
        layer = "on disk" if self.upper else f"of {format_size(self.size)}" if self.size else "in memory"
        layer = f"in {self.upper}" if self.upper.startswith("/") else layer
        lowers = ", ".join(self.lowers) if len(self.lowers) < _MANY else f"{len(self.lowers)} layers"
        by = " by fuse-overlayfs" if self.flags & Mount.FUSE else ""
        return f"mount an overlay{by} of {lowers} with its changes {layer} on {self.dst}"

    def arguments(self) -> Iterable[str | bytes | int]:
        return int(self.flags), self.upper, self.size, *self.lowers


@dataclass(frozen=True, slots=True, kw_only=True)
class _Instance(Operation):
    """A file system of one of the new namespaces."""

    name: ClassVar[str]
    flags: Mount = NONE

    def describe(self) -> str:
        return f"mount {self.name} on {self.dst}"

    def arguments(self) -> Iterable[str | bytes | int]:
        return (int(self.flags),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proc(_Instance):
    """A fresh procfs of the sandbox's pid namespace."""

    kind = Kind.PROC
    name = "a fresh proc"


@dataclass(frozen=True, slots=True, kw_only=True)
class Devpts(_Instance):
    """Pseudo terminals of the sandbox's own."""

    kind = Kind.DEVPTS
    name = "devpts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mqueue(_Instance):
    """POSIX message queues of the sandbox's ipc namespace."""

    kind = Kind.MQUEUE
    name = "mqueue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cgroup2(_Instance):
    """cgroup v2, whose top is the payload's own cgroup, in the sandbox's cgroup namespace."""

    kind = Kind.CGROUP2
    name = "the sandbox's cgroup"

    def describe(self) -> str:
        return f"mount {self.name}{_readonly(self.flags)} on {self.dst}"


@dataclass(frozen=True, slots=True, kw_only=True)
class File(Operation):
    """A small generated file, in a file system of ours, or `mounted` there: then nothing else changes."""

    kind = Kind.FILE
    content: bytes = b""
    mode: int = 0o644
    mounted: bool = False

    def describe(self) -> str:
        return f"mount a generated {self.dst}" if self.mounted else f"write {self.dst}"

    def arguments(self) -> Iterable[str | bytes | int]:
        return (self.mode, self.content, 1) if self.mounted else (self.mode, self.content)


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory(Operation):
    """A directory, in a file system of ours; one that is there already is fine, and with Mount.OPTIONAL
    also what is something else."""

    kind = Kind.DIRECTORY
    mode: int = 0o755
    flags: int = 0

    def describe(self) -> str:
        return f"make the directory {self.dst}"

    def arguments(self) -> Iterable[str | bytes | int]:
        return (self.mode, self.flags)


@dataclass(frozen=True, slots=True, kw_only=True)
class Symlink(Operation):
    """A symbolic link, in a file system of ours."""

    kind = Kind.SYMLINK
    target: str

    def describe(self) -> str:
        return f"link {self.dst} to {self.target}"

    def arguments(self) -> Iterable[str | bytes | int]:
        return (self.target,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mask(Operation):
    """Cover a file or directory with an empty one that nobody can read."""

    kind = Kind.MASK
    flags: Mount = NONE

    def describe(self) -> str:
        return f"hide {self.dst}"

    def arguments(self) -> Iterable[str | bytes | int]:
        return (int(self.flags),)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOnly(Operation):
    """Make the mount at `dst` read-only."""

    kind = Kind.READONLY
    flags: Mount = NONE

    def describe(self) -> str:
        return f"make {self.dst} read-only"

    def arguments(self) -> Iterable[str | bytes | int]:
        return (int(self.flags),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin(Operation):
    """Bind `dst` onto itself, so that it can't be renamed or removed (rename(2), EBUSY); with
    READONLY it can't be written either."""

    kind = Kind.PIN
    flags: Mount = NONE

    def describe(self) -> str:
        if self.flags & Mount.READONLY:
            return f"protect {self.dst} from writing"
        return f"protect {self.dst} from being renamed"

    def arguments(self) -> Iterable[str | bytes | int]:
        return (int(self.flags),)
