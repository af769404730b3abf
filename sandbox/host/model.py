"""The values that describe a machine. Nothing here looks at one: see `facts` and `trials`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

__all__ = ["Check", "Host", "IdMap", "Range"]


@dataclass(frozen=True, slots=True, order=True)
class Range:
    """`count` ids from `start` on, as the caller's own user namespace numbers them."""

    start: int
    count: int


@dataclass(frozen=True, slots=True, order=True)
class IdMap:
    """One line of /proc/PID/uid_map or gid_map (user_namespaces(7)): `count` ids from `inside` on
    are those from `outside` on in the parent namespace."""

    inside: int
    outside: int
    count: int


@dataclass(frozen=True, slots=True)
class Check:
    """One row of `sandbox doctor`.

    `required` rows are those that `sandbox run -p default` can't do without. `detail` is what was
    found, with versions; `consequence` what does not work (whether or not it is so here); `mend`
    the exact commands or lines to add, empty when the row is fine or nothing can be done.
    """

    name: str
    ok: bool
    required: bool
    detail: str
    consequence: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Host:
    """What this machine can do, for this user.

    Ids are numbered as in the caller's own user namespace. `newuidmap` and `newgidmap` are paths of
    programs that can really raise their rights, else None. `overlay` and `proc` (a fresh proc can be
    mounted inside) are False only when that was tried and failed; before it was tried they are True,
    and the launch itself is the trial. `checks` has the rows that are known without starting
    anything. `key` changes when anything changes that could change an answer.
    """

    kernel: tuple[int, int]
    machine: str
    uid: int
    gid: int
    user: str = ""
    #: "docker", "podman", "lxc", "kubernetes", "systemd-nspawn" ...; "" outside of containers
    container: str = ""
    newuidmap: str | None = None
    newgidmap: str | None = None
    subuid: tuple[Range, ...] = ()
    subgid: tuple[Range, ...] = ()
    uid_map: tuple[IdMap, ...] = (IdMap(0, 0, 2**32 - 1),)
    gid_map: tuple[IdMap, ...] = (IdMap(0, 0, 2**32 - 1),)
    #: what uid 0 of the whole machine is called here; None: it has no id in this namespace
    machine_root: int | None = 0
    #: effective capabilities, a bit each (capabilities(7))
    capabilities: int = 0
    #: how kernel.core_pattern begins where core dumps go to a program (core(5)): "|" to one that the kernel
    #: starts, "@" to a socket (Linux 6.16); "" for files
    core_handler: str = ""
    overlay: bool = True
    proc: bool = True
    checks: Mapping[str, Check] = field(default_factory=lambda: MappingProxyType({}))
    key: str = ""
