"""What `resolve` gathers for one call, as values, and the few questions that all of planning asks of them.

Nothing here looks at files.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from sandbox.plan.plan import FileStamp
from sandbox.profile.model import Mount, Origin, Profile

__all__ = [
    "Entry",
    "Guard",
    "Invocation",
    "Place",
    "at",
    "by_depth",
    "is_below",
    "origin_of",
    "real_source",
    "root_place",
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


@dataclass(frozen=True, slots=True)
class Invocation:
    """What was gathered for one call.

    `cwd` is a real path. `environ` holds kept variables only. `entries` are the host-root paths that
    exist; `places` the mounts, without optional ones whose source is missing; `guards` what must not be
    written or replaced; `hidden` what must not be seen; `hard_limits` the caller's own (resource number
    to value; unlimited ones are left out); `texts` copies of host files by their path; `disks` the disk
    (MAJOR:MINOR) of each path of `limits.io`. Of a `dir:` root, `root` is the real path and `directories`
    what exists there, with the owners.
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
    directories: Mapping[str, tuple[int, int]] = field(default_factory=lambda: MappingProxyType({}))
    hard_limits: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))
    texts: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    disks: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    files: tuple[FileStamp, ...] = ()


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


def root_place(root: str) -> tuple[Place, ...]:
    """A `dir:` root as what it is for the files in it, an overlay on "/"; none for any other root."""
    return (Place(Mount("/", "overlay"), _NOWHERE, "/", root),) if root else ()


def real_source(place: Place) -> str:
    """The real path of a place's source."""
    return os.path.normpath(f"{place.beneath}/{place.source}") if place.beneath else place.source
