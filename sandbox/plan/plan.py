"""The plan: everything a launch needs to know, as one frozen value.

Made by `sandbox.plan.compile`, turned into bytes for the helper by `encode()`, and into
lines for people by `describe()`. What is only known at the launch (the command, its stdio,
the scratch directory) is appended to the bytes as slots, by `wire.extend`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from sandbox import wire
from sandbox.plan.layers import Lease, Settings
from sandbox.plan.operations import Operation, Overlay
from sandbox.units import format_duration, format_size

if TYPE_CHECKING:
    from sandbox.ids import IdPlan
    from sandbox.net.private.member import Membership

__all__ = ["BEST_EFFORT", "CGROUP", "CLONE", "FileStamp", "Limit", "Plan"]

#: How the mechanism of a limit begins that can be got round, before its gap.
BEST_EFFORT = "best-effort: "
#: The mechanism of what the sandbox's own cgroup holds. The helper knows it by this word.
CGROUP = "cgroup"

#: clone(2) flags of the namespaces, <linux/sched.h>
CLONE: Mapping[str, int] = {
    "user": 0x10000000,
    "mnt": 0x00020000,
    "pid": 0x20000000,
    "ipc": 0x08000000,
    "uts": 0x04000000,
    "cgroup": 0x02000000,
    "net": 0x40000000,
}

_TIMES = frozenset(("timeout", "cpu_time"))
_SIZES = frozenset(("memory", "memory_high", "swap", "disk", "file_size", "output", "core"))


class FileStamp(NamedTuple):
    """What a file was when a plan was derived from it; taken without following a last link.

    Missing: (path, -1, 0, 0). A directory whose identity matters but not its entries: mtime_ns
    -1 and size 0 with its inode. Everything else: all three, as lstat(2) gives them.
    """

    path: str
    mtime_ns: int
    inode: int
    size: int

    @classmethod
    def take(cls, path: str, *, entries: bool = False) -> FileStamp:
        """The stamp of *path* now. With *entries* a directory's changes count too."""
        try:
            status = os.lstat(path)
        except OSError:
            return cls(path, -1, 0, 0)
        if stat.S_ISDIR(status.st_mode) and not entries:
            return cls(path, -1, status.st_ino, 0)
        return cls(path, status.st_mtime_ns, status.st_ino, status.st_size)

    def current(self) -> bool:
        """Whether the file is still what it was."""
        return self == FileStamp.take(self.path, entries=self.mtime_ns != -1)


class Limit(NamedTuple):
    """A limit and what holds it. `value` is bytes, a count, nanoseconds (timeout, cpu_time), or
    thousandths of a CPU (cpus); `words` are the value of what is no number (cpuset, io)."""

    name: str
    value: int
    mechanism: str
    origin: str = ""
    words: str = ""

    def describe(self) -> str:
        if self.words:
            value = self.words
        elif self.name == "cpus":
            value = f"{self.value / 1000:g}"
        elif self.name in _TIMES:
            value = format_duration(self.value / 1e9)
        else:
            value = format_size(self.value) if self.name in _SIZES else str(self.value)
        return f"limit {self.name} to {value}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be done. `notes` are what whoever runs this should know besides; `leases` what a launch takes
    first; `workdir_origin` who says where the command starts, when an image does; `settings` what an image
    says of its command, and `stop_signal` of its end (0: nothing);
    `addresses` where its servers are reached inside; `membership` the private network that a launch gets it
    onto."""

    namespaces: int
    ids: IdPlan
    operations: tuple[Operation, ...]
    attributes: tuple[wire.Record, ...]
    limits: tuple[Limit, ...]
    environment: Mapping[str, str]
    workdir: str
    workdir_origin: str = ""
    files: tuple[FileStamp, ...] = ()
    notes: tuple[str, ...] = ()
    leases: tuple[Lease, ...] = ()
    settings: Settings | None = None
    stop_signal: int = 0
    addresses: tuple[str, ...] = ()
    membership: Membership | None = None

    @property
    def enforced(self) -> dict[str, str]:
        """By which mechanism each limit is held."""
        return {limit.name: limit.mechanism for limit in self.limits}

    @property
    def needs_scratch(self) -> bool:
        """Whether the launch has to fill the SCRATCH slot: some overlay keeps its changes on disk."""
        uppers = [each.upper for each in self.operations if isinstance(each, Overlay)]
        return any(upper and not upper.startswith("/") for upper in uppers)

    def _records(self) -> Iterator[wire.Record]:
        yield wire.Record(wire.Kind.NAMESPACES, "make namespaces", "", (self.namespaces,))
        for which, maps, name in ((0, self.ids.uids, "user"), (1, self.ids.gids, "group")):
            for each in maps:
                fields = (which, each.inside, each.outside, each.count)
                yield wire.Record(wire.Kind.IDMAP, f"map {name} ids", "", fields)
        yield from self.attributes
        for limit in self.limits:
            values = (limit.name, limit.value, limit.mechanism)
            yield wire.Record(wire.Kind.LIMIT, limit.describe(), limit.origin, values)
        variables = tuple(f"{name}={value}" for name, value in self.environment.items())
        yield wire.Record(wire.Kind.ENVIRONMENT, "set the environment", "", variables)
        yield wire.Record(wire.Kind.WORKDIR, f"enter {self.workdir}", self.workdir_origin, (self.workdir,))
        if self.stop_signal:
            said = f"ask it to end with signal {self.stop_signal}"
            yield wire.Record(wire.Kind.STOP_SIGNAL, said, "", (self.stop_signal,))
        for operation in self.operations:
            yield operation.encode()

    @property
    def made_at(self) -> list[str]:
        """What setting up may have made in the root, to mount on: paths, and all that is above them."""
        found: set[str] = set()
        for operation in self.operations:
            path = operation.dst
            while path not in ("/", "") and path not in found:
                found.add(path)
                path = os.path.dirname(path)
        return sorted(found)

    def encode(self) -> bytes:
        """The plan for the helper, without slots.

        Raises `ValueError` when it would be larger than `wire.MAX_SIZE`.
        """
        return wire.encode(self._records())

    def describe(self) -> list[str]:
        """The plan in readable lines, for `explain` and `--dry-run`."""
        names = [name for name, flag in CLONE.items() if self.namespaces & flag]
        lines = [f"new namespaces: {' '.join(names)}"]
        for maps, name in ((self.ids.uids, "user"), (self.ids.gids, "group")):
            for each in maps:
                count = f" ({each.count} ids)" if each.count > 1 else ""
                lines.append(f"{name} {each.inside} inside is {each.outside} outside{count}")
        lines.append(f"run as user {self.ids.uid}, group {self.ids.gid}, in {self.workdir}")
        lines += [_line(each.describe(), each.origin) for each in self.operations]
        lines += [_line(each.description, each.origin) for each in self.attributes]
        lines += [_line(f"{each.describe()} ({each.mechanism})", each.origin) for each in self.limits]
        lines.append(f"set the environment: {' '.join(self.environment)}")
        if self.stop_signal:
            lines.append(f"ask it to end with signal {self.stop_signal}")
        lines += [f"note: {note}" for note in self.notes]
        return lines


def _line(text: str, origin: str) -> str:
    return f"{text}  [{origin}]" if origin else text
