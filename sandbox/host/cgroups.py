"""The rows of `doctor` about cgroups and the systemd user manager, which hold limits by the kernel.

Nothing is moved or limited here: where there is a user manager it is asked for a delegated scope,
as a launch would ask, and otherwise a cgroup is made below our own and removed again.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from sandbox.host.causes import options
from sandbox.host.facts import read
from sandbox.host.model import Check
from sandbox.host.tools import Runner, output

__all__ = ["CONTROLLERS", "DROP_IN", "Hierarchy", "cgroup", "hierarchy", "own_path", "user_manager"]

#: What limits need, those without which `memory`, `pids` and `cpus` are best-effort first.
CONTROLLERS = ("memory", "pids", "cpu", "io", "cpuset")
_NEEDED = CONTROLLERS[:3]

#: systemd delegates cpu from version 252 on, and io and cpuset never by itself (systemd.resource-control(5)).
DROP_IN = "[Service]\nDelegate=cpu cpuset io memory pids\n"

_DIRECTORY = "/etc/systemd/system/user@.service.d"

_DROP_IN_MEND = f"""sudo mkdir -p {_DIRECTORY}
printf '{DROP_IN.encode("unicode_escape").decode()}' | sudo tee {_DIRECTORY}/delegate.conf
sudo systemctl daemon-reload && sudo systemctl restart user@{{uid}}.service   (this ends your session)"""

_UNIFIED_MEND = (
    "boot {machine} with the kernel parameter systemd.unified_cgroup_hierarchy=1 (in GRUB_CMDLINE_LINUX of "
    "/etc/default/grub, then: sudo update-grub && sudo reboot)"
)

_NO_SCOPE_MEND = "systemd-run --scope -p Delegate=yes true  (says why it does not work)"

_NO_SYSTEMD_MEND = "use a machine that is run by systemd, with cgroup v2"

_CONSEQUENCE = (
    'limits on memory and CPU are best-effort (polling), `limits.enforce = "kernel"` is refused, and '
    "cpuset, io and cpu_weight can't be had"
)


class Hierarchy(NamedTuple):
    """The machine's cgroup mounts: `kind` is "v2", "hybrid", "v1" or "none"; `mount` the cgroup2 mount
    point, "" when there is none."""

    kind: str
    mount: str


def hierarchy(mountinfo: str) -> Hierarchy:
    """Which cgroup versions are mounted, from /proc/self/mountinfo (proc(5))."""
    kinds: dict[str, str] = {}
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, fstype = before.split(" "), after.split(" ")[0]
        if fstype in ("cgroup", "cgroup2") and len(fields) > 4:
            kinds.setdefault(fstype, fields[4])
    mount = kinds.get("cgroup2", "")
    if "cgroup" in kinds:
        return Hierarchy("hybrid" if mount else "v1", mount)
    return Hierarchy("v2" if mount else "none", mount)


def own_path(text: str) -> str:
    """Our cgroup in the v2 hierarchy, from /proc/self/cgroup; "" when there is none, or when it lies
    outside of our cgroup namespace (cgroup_namespaces(7))."""
    for line in text.splitlines():
        if line.startswith("0::"):
            path = line[3:]
            return "" if path == "/.." or path.startswith("/../") else path
    return ""


def _controllers_by_systemd(mount: str, run: Runner) -> tuple[str, ...] | None:
    """What a scope of ours that the user manager delegates has; None: it gives none."""
    script = 'p=$(sed -n s/^0:://p /proc/self/cgroup); echo "got: $(cat "$1$p/cgroup.controllers")"'
    scope = ["--scope", "--quiet", "--collect", "-p", "Delegate=yes"]
    done = run([*_manager_command("systemd-run"), *scope, "sh", "-c", script, "sh", mount])
    if done is None or done[0] != 0:
        return None
    lines = [line for line in done[1].splitlines() if line.startswith("got: ")]
    return tuple(lines[-1].split()[1:]) if lines else None


def _controllers_by_mkdir(directory: str) -> tuple[str, ...] | None:
    """What a cgroup made below *directory* would get, once our own is out of the way; None: none can
    be made. A new cgroup's own list is what the parent has handed down so far, which may be nothing."""
    child = f"{directory}/sandbox-doctor-{os.getpid()}"
    try:
        os.mkdir(child)
    except OSError:
        return None
    os.rmdir(child)
    if not os.access(f"{directory}/cgroup.subtree_control", os.W_OK):
        return None
    return tuple(read(f"{directory}/cgroup.controllers").split())


def cgroup(
    container: str,
    *,
    root: str = "",
    uid: int | None = None,
    run: Runner = output,
    manager: bool = False,
) -> Check:
    """cgroup v2, delegated to us, with which controllers. *manager*: there is a systemd to ask."""
    uid = os.geteuid() if uid is None else uid
    kind, mount = hierarchy(read(f"{root}/proc/self/mountinfo"))
    path = own_path(read(f"{root}/proc/self/cgroup"))
    got: tuple[str, ...] | None = None
    how = "not delegated to us"
    if mount and manager:
        got, how = _controllers_by_systemd(mount, run), "delegated by systemd"
    if mount and got is None and path:
        got = _controllers_by_mkdir(f"{root}{mount}{path}".rstrip("/"))
        how = "ours to divide" if got is not None else "not delegated to us"
    missing = [name for name in CONTROLLERS if name not in (got or ())]
    states = ", ".join(f"{name} {'no' if name in missing else 'yes'}" for name in CONTROLLERS)
    place = f"{_KINDS[kind]}; own cgroup {path or 'none'}"
    detail = f"{place}, {how}: {states}" if mount else place
    absent = _absent(f"{root}{mount}") if kind == "v2" and not container else ()
    if absent:
        detail += f" (this kernel has no {', no '.join(absent)})"
    ok = kind != "v1" and not set(_NEEDED) & set(missing)
    mend = ""
    if set(missing) - set(absent):
        mend = _mend(kind, container, uid, got, manager=manager)
    elif not ok:
        mend = "boot with the kernel parameter cgroup_enable=memory"  # Raspberry Pi OS has it off
    return Check("cgroup", ok, False, detail, _CONSEQUENCE, mend)


def _absent(mount: str) -> tuple[str, ...]:
    """What the whole machine does not have, and so nobody can be given."""
    there = read(f"{mount}/cgroup.controllers").split()
    return tuple(name for name in CONTROLLERS if name not in there) if there else ()


_KINDS = {
    "v2": "cgroup v2",
    "hybrid": "hybrid: cgroup v1 holds the controllers, v2 is mounted beside it",
    "v1": "cgroup v1 only",
    "none": "no cgroup file system is mounted",
}


def _mend(kind: str, container: str, uid: int, got: Sequence[str] | None, *, manager: bool) -> str:
    if kind in ("v1", "hybrid"):
        return _UNIFIED_MEND.format(machine="the machine under this container" if container else "it")
    if options(container, "cgroup"):
        return options(container, "cgroup")
    if kind == "none":
        return "sudo mount -t cgroup2 cgroup2 /sys/fs/cgroup"
    if got is None and not manager:
        return "mend user-manager first" if os.path.isdir("/run/systemd/system") else _NO_SYSTEMD_MEND
    return _DROP_IN_MEND.format(uid=uid) if uid else _NO_SCOPE_MEND


def _manager_command(program: str) -> list[str]:
    """systemctl or systemd-run, for the user manager where we are not root. Where nobody has set
    XDG_RUNTIME_DIR (su, cron) they don't look in the usual place, as we do."""
    uid = os.geteuid()
    if uid == 0:
        return [program]
    directory = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{uid}"
    return ["env", f"XDG_RUNTIME_DIR={directory}", program, "--user"]


# --- the user manager --------------------------------------------------------------------------


def _speak(path: str) -> str:
    """What goes wrong in talking to a D-Bus daemon at *path*, "" when it lets us in (D-Bus specification,
    "Authentication Protocol": EXTERNAL)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as bus:
        bus.settimeout(5.0)
        try:
            bus.connect(path)
            bus.sendall(b"\0AUTH EXTERNAL " + str(os.geteuid()).encode().hex().encode() + b"\r\n")
            answer = bus.recv(512)
        except OSError as error:
            return error.strerror or str(error)
    return "" if answer.startswith(b"OK ") else f"it answers {answer[:60]!r}"


def user_manager(
    user: str,
    *,
    environ: Mapping[str, str] = os.environ,
    uid: int | None = None,
    systemd: str = "/run/systemd/system",
    run: Runner = output,
    speak: Callable[[str], str] = _speak,
) -> Check:
    """The systemd user manager (for root: the system's), by talking to its bus."""
    uid = os.geteuid() if uid is None else uid
    directory = environ.get("XDG_RUNTIME_DIR") or f"/run/user/{uid}"
    path = f"{directory}/bus" if uid else "/run/dbus/system_bus_socket"
    if not os.path.isdir(systemd):
        return _manager_row(False, "this machine is not run by systemd", _NO_SYSTEMD_MEND)
    problem = speak(path)
    if problem:
        mend = f"sudo loginctl enable-linger {user or uid}"
        if uid and environ.get("XDG_RUNTIME_DIR") not in (None, "", f"/run/user/{uid}"):
            mend += f"\nexport XDG_RUNTIME_DIR=/run/user/{uid}"
        if not uid:
            mend = "sudo systemctl start dbus.socket"
        elif os.path.isdir(f"/run/user/{uid}/systemd"):
            mend += "\nsudo apt install dbus-user-session"
        return _manager_row(False, f"{path}: {problem}", mend)
    asked = run([*_manager_command("systemctl"), "is-system-running"])
    words = asked[1].split() if asked else []
    state = words[0] if words else "not asked: no systemctl"
    lingers = os.path.exists(f"/var/lib/systemd/linger/{user}") if user else False
    ends = ", lingers" if lingers else ", ends with the last session (loginctl enable-linger)"
    return _manager_row(True, f"{path} answers; {state}{ends if uid else ''}", "")


def _manager_row(ok: bool, detail: str, mend: str) -> Check:
    consequence = "no cgroup of our own, so limits on memory and CPU are best-effort"
    return Check("user-manager", ok, False, detail, consequence, mend)
