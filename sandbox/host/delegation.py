"""Where this process can have cgroups made for its sandboxes: what the files of the machine tell.

Nothing is made, moved or asked here: it is the launch that tries, and its failure is an error. The
rules are the kernel's (Documentation/admin-guide/cgroup-v2.rst, "Delegation", "No Internal Process
Constraint") and systemd's (CGROUP_DELEGATION): a process may be moved by who can write cgroup.procs of
the common ancestor; a cgroup with processes in it hands down no controllers; below a systemd unit only
who has it delegated makes cgroups. All functions take `root`, a directory in front of every path, so
that tests can show them another machine.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from sandbox.host.facts import read
from sandbox.host.model import Cgroup

__all__ = [
    "CONTROLLERS",
    "Hierarchy",
    "Machine",
    "bus_path",
    "discover",
    "hierarchy",
    "own_path",
    "prepare",
]

#: What limits need, in the order in which they are missed.
CONTROLLERS = ("memory", "pids", "cpu", "io", "cpuset")

_SYSTEMD = "/run/systemd/system"
_UNITS = (".scope", ".service", ".slice")


class Hierarchy(NamedTuple):
    """The machine's cgroup mounts: `kind` is "v2", "hybrid", "v1" or "none"; `mount` the cgroup2 mount
    point, "" when there is none; `top` the cgroup that is seen there."""

    kind: str
    mount: str
    top: str = "/"


def hierarchy(mountinfo: str) -> Hierarchy:
    """Which cgroup versions are mounted, from /proc/self/mountinfo (proc(5))."""
    kinds: dict[str, tuple[str, str]] = {}
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, fstype = before.split(" "), after.split(" ")[0]
        if fstype in ("cgroup", "cgroup2") and len(fields) > 4:
            kinds.setdefault(fstype, (_unescape(fields[4]), _unescape(fields[3])))
    mount, top = kinds.get("cgroup2", ("", "/"))
    if "cgroup" in kinds:
        return Hierarchy("hybrid" if mount else "v1", mount, top)
    return Hierarchy("v2" if mount else "none", mount, top)


def _unescape(field: str) -> str:
    """proc(5) writes space, tab, newline and backslash in octal."""
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, char)
    return field


def own_path(text: str) -> str:
    """Our cgroup in the v2 hierarchy, from /proc/self/cgroup: the line of hierarchy 0, and no other. ""
    when there is none, when it was removed, or when it lies outside of our cgroup namespace
    (cgroup_namespaces(7))."""
    for line in text.splitlines():
        if line.startswith("0::"):
            path = line[3:]
            outside = path == "/.." or path.startswith("/../") or path.endswith(" (deleted)")
            return "" if outside else path
    return ""


def bus_path(uid: int, environ: Mapping[str, str]) -> str:
    """The socket of the user manager's D-Bus; for root, of the system's. After su(1) the variable names
    another user's directory, and cron(8) sets none: then it is the usual place."""
    if uid == 0:
        return "/run/dbus/system_bus_socket"
    directory = environ.get("XDG_RUNTIME_DIR", "")
    if directory.startswith("/") and _is_own_socket(f"{directory}/bus", uid):
        return f"{directory}/bus"
    return f"/run/user/{uid}/bus"


def _is_own_socket(path: str, uid: int) -> bool:
    try:
        status = os.stat(path)
    except OSError:
        return False
    return stat.S_ISSOCK(status.st_mode) and status.st_uid in (uid, 0)


class Machine(NamedTuple):
    """What all looking begins with.

    `path` is our own cgroup, and `own` its directory, "" when it can't be seen; `whole`: the mount
    shows the tree from its top; `alone`: the process that asks will itself make the cgroups, and may
    leave the one it is in.
    """

    root: str
    kind: str
    mount: str
    path: str
    own: str
    whole: bool
    uid: int
    pid: int
    alone: bool
    systemd: bool

    @classmethod
    def look(cls, *, root: str = "", uid: int | None = None, alone: bool = False) -> Machine:
        kind, mount, top = hierarchy(read(f"{root}/proc/self/mountinfo"))
        path = own_path(read(f"{root}/proc/self/cgroup"))
        top = top.rstrip("/")
        seen = bool(mount and path) and (path == top or path.startswith(top + "/"))
        own = f"{mount}{path.removeprefix(top)}".rstrip("/") if seen else ""
        systemd = os.path.isdir(root + _SYSTEMD)
        uid = os.geteuid() if uid is None else uid
        return cls(root, kind, mount, path, own, not top, uid, os.getpid(), alone, systemd)

    def words(self, directory: str, name: str) -> tuple[str, ...]:
        return tuple(read(f"{self.root}{directory}/{name}").split())


class _Place(NamedTuple):
    """A directory in which cgroups can be made, and what they get."""

    directory: str
    controllers: tuple[str, ...]
    #: processes that keep it from handing down more
    occupied: tuple[str, ...] = ()


def discover(
    parent: str = "auto",
    *,
    alone: bool = False,
    environ: Mapping[str, str] = os.environ,
    container: str = "",
    user: str = "",
    machine: Machine | None = None,
) -> Cgroup:
    """The best place for cgroups of ours.

    Args:
        parent: "auto"; "none", which is not to look; or the directory to make them in.
        alone: the process that asks will become the supervisor, and may leave the cgroup that it is in;
            a caller of the API is never moved.
        container, user: as `Host` has them, for the mend.

    Raises nothing: without a place the kind is "none", with the reason.
    """
    from dataclasses import replace

    if parent == "none":
        return Cgroup(reason='limits.cgroup_parent is "none"', mend='limits.cgroup_parent = "auto"')
    here = machine or Machine.look(alone=alone)
    swap = len(read(f"{here.root}/proc/swaps").splitlines()) > 1
    found = _named(here, parent) if parent != "auto" else _automatic(here, environ)
    found = replace(found, mount=here.mount, swap=swap)
    if not found.reason and not set(CONTROLLERS) - set(found.controllers):
        return found
    from sandbox.host.undelegated import explain

    reason, mend = explain(here, found, container=container, user=user)
    return replace(found, reason=found.reason or reason, mend=found.mend or mend)


def _automatic(here: Machine, environ: Mapping[str, str]) -> Cgroup:
    """Inside, else systemd, else whatever is ours without any controller."""
    places = sorted(_places(here), key=lambda place: -len(place.controllers))  # stable: the nearest first
    inside = places[0] if places else None
    by_unit = here.systemd and _unit(here) != ""
    kind = "root" if here.uid == 0 and not by_unit else "inside"
    if inside and inside.controllers:
        return Cgroup(kind, inside.directory, controllers=inside.controllers, own=here.path)
    asked = _manager(here, environ)
    if asked and asked.controllers:
        return asked
    if inside:
        reason, mend = _occupied(inside) if inside.occupied else ("", "")
        return Cgroup(kind, inside.directory, reason=reason, mend=mend, own=here.path)
    watched = (here.root + bus_path(here.uid, environ),) if here.systemd else ()
    return Cgroup(own=here.path, watched=watched)


def _manager(here: Machine, environ: Mapping[str, str]) -> Cgroup | None:
    """What a scope of systemd's would have: all that the manager itself was given (it hands down to a
    delegated unit whatever it has, systemd.resource-control(5))."""
    path = here.root + bus_path(here.uid, environ)
    if not here.systemd or not here.mount or not here.whole or not os.path.exists(path):
        return None
    directory = here.mount
    if here.uid:
        directory += f"/user.slice/user-{here.uid}.slice/user@{here.uid}.service"
    controllers = tuple(name for name in CONTROLLERS if name in here.words(directory, "cgroup.controllers"))
    return Cgroup("systemd", path, controllers=controllers, watched=(path, here.root + directory))


# --- directories of our own ------------------------------------------------------------------------


def _unit(here: Machine) -> str:
    """The directory of the systemd unit that we are in, "" when it is none's."""
    path = here.own
    while len(path) > len(here.mount):
        if path.endswith(_UNITS):
            return path
        path = os.path.dirname(path)
    return ""


def is_delegated(here: Machine, unit: str) -> bool:
    """Whether systemd leaves the inside of *unit* to us. It marks what it delegates (since 251); before
    that nobody can tell, and then it is asked for a scope."""
    if os.path.basename(unit) == f"user@{here.uid}.service":
        return False  # the user manager's own, who divides it
    for name in ("user.delegate", "trusted.delegate"):
        try:
            if os.getxattr(here.root + unit, name) == b"1":
                return True
        except OSError:
            continue
    return False


def _places(here: Machine) -> Iterator[_Place]:
    """Directories from our own cgroup upwards that are ours to divide, as far as systemd lets us."""
    if not here.own:
        return
    last = here.mount
    if here.systemd and (unit := _unit(here)):
        if not is_delegated(here, unit):
            return
        last = unit
    path = here.own
    while True:
        place = _look_at(here, path)
        if place is None:
            return  # an ancestor of what is not ours is not ours
        yield place
        if path == last or len(path) <= len(here.mount):
            return
        path = os.path.dirname(path)


def _look_at(here: Machine, path: str) -> _Place | None:
    """Whether cgroups can be made in *path*, and entered from below it."""
    directory = here.root + path
    if not (os.access(directory, os.W_OK | os.X_OK) and os.access(f"{directory}/cgroup.procs", os.W_OK)):
        return None
    given = here.words(path, "cgroup.subtree_control")
    mine = {str(here.pid)} if here.alone and path == here.own else set()
    others = tuple(pid for pid in here.words(path, "cgroup.procs") if pid not in mine)
    if not os.path.exists(f"{directory}/cgroup.type"):
        # The top of the whole hierarchy: exempt from the constraint, and the machine's, not ours, to change.
        return _Place(path, _known(given))
    could = _known(here.words(path, "cgroup.controllers"))
    if others:
        return _Place(path, _known(given), others if set(could) - set(given) else ())
    if not os.access(f"{directory}/cgroup.subtree_control", os.W_OK):
        return _Place(path, _known(given))
    return _Place(path, could)


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in CONTROLLERS if name in names)


# --- a directory that somebody named ------------------------------------------------------------


def _named(here: Machine, parent: str) -> Cgroup:
    """A directory that an administrator prepared, or the reason why it is of no use."""
    own, path = here.own, os.path.normpath(parent)

    def refuse(reason: str, mend: str) -> Cgroup:
        return Cgroup(reason=reason, mend=mend, named=True)

    if not here.mount:
        return refuse("no cgroup v2 is mounted", "")
    other = f"name one below {here.mount}"
    if not os.path.isabs(parent):
        return refuse(f"{parent} is not an absolute path", other)
    if path != here.mount and not path.startswith(here.mount + "/"):
        return refuse(f"{parent} is not below {here.mount}, where cgroup v2 is mounted", other)
    if not os.path.isdir(here.root + path):
        return refuse(f"{parent} does not exist", prepare(here.uid, path))
    place = _look_at(here, path)
    if place is None:
        return refuse(f"{parent} is not ours to write to", prepare(here.uid, f"{here.mount}/sandbox"))
    if place.occupied:
        return refuse(*_occupied(place))
    if not own or not os.access(f"{here.root}{_common(own, path)}/cgroup.procs", os.W_OK):
        return refuse(
            f"{parent} can't be entered from {own or 'outside'}: that takes the right to write to "
            f"cgroup.procs of {_common(own, path) if own else 'what they have in common'}",
            enter(here.uid, parent),
        )
    return Cgroup("directory", path, controllers=place.controllers, named=True, own=here.path)


def _occupied(place: _Place) -> tuple[str, str]:
    """(reason, mend) for a cgroup that would be ours if it were empty."""
    pids, path = place.occupied, place.directory
    shown = " ".join(pids[:4]) + (" ..." if len(pids) > 4 else "")
    reason = f"{path} has processes in it ({shown}), and so it can hand down no controllers"
    move = f"for p in $(cat {path}/cgroup.procs); do echo $p > {path}/main/cgroup.procs; done"
    return reason, f"mkdir -p {path}/main && {move}"


def _common(first: str, second: str) -> str:
    return os.path.commonpath([first, second])


def prepare(uid: int, directory: str) -> str:
    """The commands with which an administrator gives *directory* to a user, whose shell goes into it."""
    above = os.path.dirname(directory)
    files = " ".join(f"{directory}{name}" for name in ("", "/cgroup.procs", "/cgroup.subtree_control"))
    return (
        f"echo +memory +pids +cpu | sudo tee {above}/cgroup.subtree_control\n"
        f"sudo mkdir -p {directory} && sudo chown {uid} {files}\n{enter(uid, directory)}"
    )


def enter(uid: int, directory: str) -> str:
    """The commands with which a user's shell goes into a leaf of *directory*."""
    leaf = f"{directory}/login"
    return f"sudo mkdir -p {leaf} && sudo chown -R {uid} {leaf}\necho $$ | sudo tee {leaf}/cgroup.procs"
