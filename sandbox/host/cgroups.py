"""The rows of `doctor` about cgroups and the systemd user manager, which hold limits by the kernel.

Where there can be cgroups of ours is found in `delegation`; here it is tried and explained. Nothing is
moved or limited: where systemd is the way it is asked for a delegated scope, and otherwise a cgroup is
made and removed again.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import replace

from sandbox.host.delegation import CONTROLLERS, Machine, bus_path, discover
from sandbox.host.model import Cgroup, Check
from sandbox.host.tools import Runner, output
from sandbox.host.undelegated import KINDS

__all__ = ["cgroup", "tried", "user_manager"]

#: without these `memory`, `pids` and `cpus` are best-effort or can't be had
_NEEDED = CONTROLLERS[:3]

_NO_SYSTEMD_MEND = "use a machine that is run by systemd, with cgroup v2"

_CONSEQUENCE = (
    'limits on memory and CPU time are best-effort (polling), `limits.enforce = "kernel"` is refused, and '
    "cpus, cpu_weight, swap and io can't be had"
)


def _controllers_by_systemd(mount: str, run: Runner) -> tuple[str, ...] | None:
    """What a scope of ours that the user manager delegates has; None: it gives none."""
    script = 'p=$(sed -n s/^0:://p /proc/self/cgroup); echo "got: $(cat "$1$p/cgroup.controllers")"'
    scope = ["--scope", "--quiet", "--collect", "-p", "Delegate=yes"]
    done = run([*_manager_command("systemd-run"), *scope, "sh", "-c", script, "sh", mount])
    if done is None or done[0] != 0:
        return None
    lines = [line for line in done[1].splitlines() if line.startswith("got: ")]
    return tuple(lines[-1].split()[1:]) if lines else None


def _can_make(directory: str) -> bool:
    """Make a cgroup in *directory* and remove it."""
    child = f"{directory}/sandbox-doctor-{os.getpid()}"
    try:
        os.mkdir(child)
        os.rmdir(child)
    except OSError:
        return False
    return True


def tried(
    container: str,
    *,
    user: str = "",
    machine: Machine | None = None,
    run: Runner = output,
    parent: str = "auto",
    environ: Mapping[str, str] = os.environ,
) -> Cgroup:
    """Where a launch would make cgroups, after trying it: of kind "none" when it does not work."""
    here = machine or Machine.look(alone=True)
    found = discover(parent, alone=True, environ=environ, container=container, user=user, machine=here)
    if found.kind == "systemd":
        got = _controllers_by_systemd(here.mount, run)
        if got is None:
            return replace(
                found,
                kind="none",
                controllers=(),
                reason="systemd refuses a delegated scope",
                mend=_refused(here, user),
            )
        return replace(found, controllers=got)
    if found.kind != "none" and not _can_make(here.root + found.place):
        reason = found.reason or f"no cgroup can be made in {found.place}"
        return replace(found, kind="none", controllers=(), reason=reason)
    return found


def cgroup(found: Cgroup, machine: Machine | None = None) -> Check:
    """The row about *found*, which was `tried`."""
    here = machine or Machine.look(alone=True)
    how = "no cgroup of our own" if found.kind == "none" else _how(found)
    states = ", ".join(f"{name} {'yes' if name in found.controllers else 'no'}" for name in CONTROLLERS)
    own = here.own.removeprefix(here.mount) or "/" if here.own else "none"
    detail = f"{KINDS[here.kind]}; own cgroup {own}, {how}: {states}" if here.mount else KINDS[here.kind]
    if found.reason and found.reason not in detail:
        detail += f" ({found.reason})"
    ok = not set(_NEEDED) - set(found.controllers)
    return Check("cgroup", ok, False, detail, _CONSEQUENCE, found.mend)


def _how(found: Cgroup) -> str:
    if found.kind == "systemd":
        return "delegated by systemd"
    return f"ours to divide is {found.place}"


def _refused(here: Machine, user: str) -> str:
    manager = "systemd-run --user" if here.uid else "systemd-run"
    return f"{manager} --scope -p Delegate=yes true   (says why)"


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
    path = bus_path(uid, environ)
    if not os.path.isdir(systemd):
        return _manager_row(False, "this machine is not run by systemd", _NO_SYSTEMD_MEND)
    problem = speak(path)
    if problem:
        mend = f"sudo loginctl enable-linger {user or uid}"
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
