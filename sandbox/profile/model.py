"""What a user wants: the profile, as frozen values. Knows nothing of this machine.

Sizes are bytes, durations seconds. `None` means "not asked for". Paths are as written;
`base` beside them is the directory that relative ones start from (None: the caller's
working directory). `sandbox.profile.settings` says how each field is written in TOML and
on the command line; `origins` says where each value came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

__all__ = [
    "Environment",
    "Limits",
    "Mount",
    "Net",
    "Origin",
    "Process",
    "Profile",
    "Root",
    "User",
]

MountMode = Literal["ro", "rw", "overlay", "tmpfs", "hide"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from: a file with line and column (from 1), or an option's name."""

    source: str
    line: int = 0
    column: int = 0
    #: a project's own file that is not trusted: its paths are opened beneath its directory
    hostile: bool = False

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


@dataclass(frozen=True, slots=True)
class Root:
    """`[root]`. `source` is "host", "empty", "dir:PATH" or "image:REF" (key `from`)."""

    source: str = "host"
    layers: tuple[str, ...] = ()
    writable: Literal["auto", "no", "memory", "disk"] = "auto"
    size: int | None = None
    driver: Literal["auto", "overlay", "fuse-overlayfs"] = "auto"
    base: str | None = None

    @property
    def layered(self) -> bool:
        """Whether it is made of layers: an image, or several directories."""
        return self.source.startswith("image:") or bool(self.layers)

    @property
    def changes(self) -> Literal["no", "memory", "disk"]:
        """Where changes are kept: as `writable` says; auto is memory for an image, else nowhere."""
        if self.writable != "auto":
            return self.writable
        images = self.source.startswith("image:") or any(each.startswith("image:") for each in self.layers)
        return "memory" if images else "no"


@dataclass(frozen=True, slots=True)
class Mount:
    """One entry of `[mounts]`. `destination` may begin with "~" or be relative (same path as
    on the host); `source` None means the same path as `destination`."""

    destination: str
    mode: MountMode
    source: str | None = None
    size: int | None = None
    optional: bool = False
    base: str | None = None


@dataclass(frozen=True, slots=True)
class User:
    """`[user]`. `map` is "keep", "root" or USER[:GROUP], ids or, with a root that has accounts, names."""

    map: str = "keep"
    ids: Literal["auto", "single", "range", "private"] = "auto"


@dataclass(frozen=True, slots=True)
class Limits:
    """`[limits]`. Sizes in bytes, times in seconds, `cpus` in CPUs, the rest counts."""

    memory: int | None = None
    #: above this the kernel slows down and takes memory back (memory.high), bytes
    memory_high: int | None = None
    swap: int | None = None
    pids: int | None = None
    cpus: float | None = None
    cpu_weight: int | None = None
    cpuset: str | None = None
    io: Mapping[str, Mapping[str, int]] = field(default_factory=lambda: MappingProxyType({}))
    timeout: float | None = None
    cpu_time: float | None = None
    disk: int | None = None
    files: int | None = None
    #: largest size of one file (RLIMIT_FSIZE), bytes
    file_size: int | None = None
    output: int | None = None
    core: int | None = None
    enforce: Literal["any", "kernel"] = "any"
    #: "auto", "none", or the directory of cgroup v2 in which the sandbox gets its own
    cgroup_parent: str = "auto"


@dataclass(frozen=True, slots=True)
class Net:
    """`[net]`. `mode` is "none", "user", "host" or the name of a network."""

    mode: str = "none"
    backend: Literal["auto", "pasta", "slirp4netns"] = "auto"
    publish: tuple[str, ...] = ()
    activate: tuple[str, ...] = ()
    allow: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    hosts: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    rate: str | None = None
    #: "private", "host", "loopback", "link-local": what can be reached besides the internet
    reach: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Environment:
    """`[env]`. `keep` are names or `PREFIX*` patterns taken from the caller."""

    keep: tuple[str, ...] = ()
    set: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Process:
    """`[process]`. `capabilities` None: none, or the default set for root on a range."""

    workdir: str | None = None
    hostname: str | None = None
    nested: bool = False
    seccomp: Literal["default", "strict", "off"] = "default"
    capabilities: tuple[str, ...] | None = None
    rlimits: Mapping[str, tuple[int, int]] = field(default_factory=lambda: MappingProxyType({}))
    tty: Literal["auto", "never", "always"] = "auto"
    init: bool = True
    umask: int | None = None
    nice: int | None = None


@dataclass(frozen=True, slots=True)
class Profile:
    """A merged and checked profile.

    `name` is what it was asked for by; `files` are all files that were read for it;
    `origins` maps dotted keys ("limits.memory", 'mounts."/work"') to where they were set.
    """

    name: str = ""
    schema: int = 1
    description: str = ""
    command: tuple[str, ...] = ()
    #: None: the image's own, if there is one
    entrypoint: tuple[str, ...] | None = None
    require: tuple[str, ...] = ()
    root: Root = field(default_factory=Root)
    mounts: tuple[Mount, ...] = ()
    user: User = field(default_factory=User)
    limits: Limits = field(default_factory=Limits)
    net: Net = field(default_factory=Net)
    env: Environment = field(default_factory=Environment)
    process: Process = field(default_factory=Process)
    files: tuple[str, ...] = ()
    #: files that were looked for and would have changed the profile, or may when they change (trust
    #: included): with `files` all that a cached plan depends on
    looked: tuple[str, ...] = ()
    origins: Mapping[str, Origin] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def load(
        cls,
        name: str | None = None,
        overrides: Mapping[str, object] = MappingProxyType({}),
        *,
        cwd: str | None = None,
    ) -> Profile:
        """As `sandbox.profile.load`."""
        from sandbox.profile import load

        return load(name, overrides, cwd=cwd)

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Profile:
        """As `sandbox.profile.from_dict`: a profile from what a TOML file would hold."""
        from sandbox.profile import from_dict

        return from_dict(data)

    def check(self) -> None:
        """Refuse values that are wrong or contradict each other; for profiles made by hand.

        Raises:
            ProfileError: with the key that is wrong.
            NotAvailableError: something has no mechanism yet.
        """
        from sandbox.profile.text import check_profile

        check_profile(self)
