"""What `resolve` gathers for one call, as values, and the few questions that all of planning asks of them.

Nothing here looks at files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple

from sandbox.plan.layers import Layered, Lease
from sandbox.plan.plan import FileStamp
from sandbox.profile.model import Mount, Origin, Profile

if TYPE_CHECKING:
    from sandbox.net.private.store import PrivateNetwork

__all__ = [
    "Entry",
    "Guard",
    "Interpreter",
    "Invocation",
    "Place",
    "Slice",
    "at",
    "by_depth",
    "is_below",
    "origin_of",
    "real_source",
    "root_places",
]

#: What loading a profile gives as the source of values that nobody set.
DEFAULT_SOURCE = "built-in default"
_NOWHERE = Origin("")


@dataclass(frozen=True, slots=True)
class Entry:
    """A path of the host-root tables that exists: a directory, a file, or a link whose target is
    inside the shown trees. `source` is what to bind (a link that leads elsewhere: its real path)."""

    kind: Literal["dir", "file", "link"]
    target: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """One entry of `[mounts]`, settled. Paths are absolute and normal; `source` is a real path ("" for
    tmpfs). `beneath` is set for an untrusted project's: the directory that may not be left."""

    mount: Mount
    origin: Origin
    destination: str
    source: str = ""
    directory: bool = True
    beneath: str = ""
    socket: bool = False
    #: a device node, or a directory of them
    devices: bool = False


@dataclass(frozen=True, slots=True)
class Guard:
    """A file or directory of ours on the host, or one that a profile hides. `links` are the symbolic
    links that lead to it: whoever can replace one of them can replace what it leads to."""

    path: str
    what: str
    links: tuple[str, ...] = ()


class Interpreter(NamedTuple):
    """The Python that a program of ours runs with, beside the sandbox: `python` is the program, `directory`
    the one that this package is in, `views` all that both need (paths); of `files` a plan depends."""

    python: str = ""
    directory: str = ""
    views: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


_NO_INTERPRETER = Interpreter()


class Slice(NamedTuple):
    """A part of the caller's ids that no running sandbox had (`sandbox.ids.slices`): which, and what is held
    so that none gets it."""

    number: int
    lease: Lease


@dataclass(frozen=True, slots=True)
class Invocation:
    """What was gathered for one call.

    `cwd` is a real path. `environ` holds kept variables only. `entries` are the host-root paths that
    exist; `places` the mounts, without optional ones whose source is missing; `guards` what must not be
    written or replaced; `hidden` what must not be seen; `hard_limits` the caller's own (resource number
    to value; unlimited ones are left out); `texts` copies of host files by their path; `disks` the disk
    (MAJOR:MINOR) of each path of `limits.io`. Of a `dir:` root, `root` is the real path; of one of layers,
    `layered`. Of both, `directories` exist there, with their owners, and `parts` are what they are made of,
    uppermost first. `upper` is the directory in which a writable layer stays, `fuse` the program
    that makes overlays where the kernel is not to.
    """

    cwd: str
    home: str
    user: str
    group: str
    shell: str = "/bin/sh"
    environ: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    entries: Mapping[str, Entry] = field(default_factory=lambda: MappingProxyType({}))
    places: tuple[Place, ...] = ()
    guards: tuple[Guard, ...] = ()
    hidden: tuple[Guard, ...] = ()
    root: str = ""
    layered: Layered | None = None
    upper: str = ""
    fuse: str = ""
    directories: Mapping[str, tuple[int, int]] = field(default_factory=lambda: MappingProxyType({}))
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    hard_limits: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))
    texts: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    disks: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    files: tuple[FileStamp, ...] = ()
    #: ids of the sandbox's own, where the profile asks for such
    slice: Slice | None = None
    #: that `net.mode` names
    network: PrivateNetwork | None = None
    #: where a program of ours runs beside the sandbox
    interpreter: Interpreter = _NO_INTERPRETER

    @property
    def lowers(self) -> tuple[str, ...]:
        """The directories that the root shows together, uppermost first; none of another root."""
        if self.layered is not None:
            return self.layered.lowers
        return (self.root,) if self.root else ()

    @property
    def host_layers(self) -> tuple[str, ...]:
        """Those of them that are the host's own."""
        return self.layered.directories if self.layered is not None else self.lowers


def is_below(path: str, directory: str) -> bool:
    """Whether *path* is *directory* or lies below it; both absolute and normal."""
    return path == directory or directory == "/" or path.startswith(directory + "/")


def at(origin: Origin) -> str:
    """How a message about what came from *origin* begins: "file:line: ", or nothing."""
    return f"{origin}: " if origin.source else ""


def origin_of(profile: Profile, key: str) -> Origin:
    """Where *key* was set; an empty origin for a default."""
    found = profile.origins.get(key, _NOWHERE)
    return _NOWHERE if found.source == DEFAULT_SOURCE else found


def by_depth(place: Place) -> tuple[int, str]:
    """A sorting key that puts parents before what lies in them."""
    return place.destination.count("/"), place.destination


def root_places(directories: Iterable[str]) -> tuple[Place, ...]:
    """Directories of the host that the root shows, as what they are for files in them: overlays on "/"."""
    return tuple(Place(Mount("/", "overlay"), _NOWHERE, "/", each) for each in directories)


def real_source(place: Place) -> str:
    """The real path of a place's source."""
    return os.path.normpath(f"{place.beneath}/{place.source}") if place.beneath else place.source
