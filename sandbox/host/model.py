"""The values that describe a machine. Nothing here looks at one: see `facts` and `trials`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

__all__ = ["Cgroup", "Check", "Host", "IdMap", "Network", "Range"]


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
class Cgroup:
    """Where a sandbox of this process can have a cgroup of its own (cgroups(7)), found without making one.

    `kind`, in the order in which they are preferred:

        "inside"     this process is in a subtree that is delegated to it; `place` is the directory in it
                     where cgroups can be made
        "systemd"    a manager can be asked for a delegated scope; `place` is the socket of its D-Bus
        "directory"  somebody named a directory; `place` is that
        "root"       as "inside", for uid 0 on a machine or in a container that no systemd divides
        "none"       nowhere: `reason` says why, and `mend` what to do about it

    `controllers` are those that a cgroup there gets; none of them where cgroup v1 has them (a cgroup
    without controllers can still be frozen, killed, and tells its CPU time).
    """

    kind: str = "none"
    place: str = ""
    #: where cgroup v2 is mounted
    mount: str = ""
    controllers: tuple[str, ...] = ()
    #: why controllers are missing, or all is; and what mends it
    reason: str = ""
    mend: str = ""
    #: whether `place` was named by the caller, who then wants it or an error
    named: bool = False
    #: whether the machine can swap (/proc/swaps)
    swap: bool = False
    #: our own cgroup (cgroups(7), /proc/PID/cgroup) when the answer holds for processes in that alone
    own: str = ""
    #: files by which the answer can be seen to have changed
    watched: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Network:
    """What a sandbox's own network can be made with (`sandbox.host.network`). `backend` is "pasta",
    "slirp4netns" or "", `path` and `nft` those of programs; `reason` says what is missing, and `mend` what
    to do about it."""

    backend: str = ""
    path: str = ""
    #: whether pasta is of 2024-08 or newer, and when it was made ("2023-03"), if it says so
    modern: bool = False
    date: str = ""
    #: a pasta that is there and was not taken, since it is older
    old: str = ""
    nft: str = ""
    #: whether the kernel has IPv6
    ipv6: bool = True
    #: of the host's resolv.conf(5), and where that really is
    name_servers: tuple[str, ...] = ()
    resolv_conf: str = ""
    reason: str = "it was not looked for"
    mend: str = ""
    #: files by which the answer can be seen to have changed
    watched: tuple[str, ...] = ()


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
    #: fs.inotify.max_user_instances and max_user_watches: a user's own, of which sandboxes take a part
    inotify: tuple[int, int] = (0, 0)
    overlay: bool = True
    proc: bool = True
    #: looked for only when asked for (`sandbox.host.probe`)
    cgroup: Cgroup = Cgroup()
    network: Network = Network()
    checks: Mapping[str, Check] = field(default_factory=lambda: MappingProxyType({}))
    key: str = ""
