"""Why there is no cgroup of ours, or one without some controllers, and what mends it: texts.

Looked at only where something is missing. Where a cgroup can be had is found by `delegation`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from sandbox.host.causes import options
from sandbox.host.delegation import CONTROLLERS, Machine, bus_path, prepare
from sandbox.host.model import Cgroup

__all__ = ["DROP_IN", "KINDS", "explain"]

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

#: what `Hierarchy.kind` says, in words
KINDS = {
    "v2": "cgroup v2",
    "hybrid": "hybrid: cgroup v1 holds the controllers, v2 is mounted beside it",
    "v1": "cgroup v1 only",
    "none": "no cgroup file system is mounted",
}


def explain(here: Machine, found: Cgroup, *, container: str = "", user: str = "") -> tuple[str, str]:
    """Why *found* lacks controllers, or all, and what mends it; ("", "") when all that this kernel has
    is there."""
    absent = _absent(here)
    missing = [name for name in CONTROLLERS if name not in found.controllers and name not in absent]
    if here.kind in ("v1", "hybrid"):
        machine = "the machine under this container" if container else "it"
        return KINDS[here.kind], _UNIFIED_MEND.format(machine=machine)
    if here.kind == "none":
        return KINDS["none"], options(container, "cgroup") or "sudo mount -t cgroup2 cgroup2 /sys/fs/cgroup"
    if not missing:
        return _no_controller(absent)
    also = f"; {_no_controller(absent)[0]}" if absent else ""
    if found.kind == "systemd":
        reason = f"systemd does not delegate {', '.join(missing)}{also}"
        return reason, _DROP_IN_MEND.format(uid=here.uid) if here.uid else _NO_SCOPE_MEND
    if found.kind != "none":
        above = os.path.dirname(found.place) if found.place != here.mount else found.place
        names = " ".join(f"+{name}" for name in missing)
        reason = f"{found.place} was not given {', '.join(missing)}{also}"
        return reason, f"echo {names} | sudo tee {above}/cgroup.subtree_control"
    return _nowhere(here, container, user)


def _no_controller(absent: Sequence[str]) -> tuple[str, str]:
    """What this kernel does not have can't be mended, but for one that is only switched off."""
    if not absent:
        return "", ""
    # Raspberry Pi OS has it off
    mend = "boot with the kernel parameter cgroup_enable=memory" if "memory" in absent else ""
    return f"this kernel has no {', no '.join(absent)}", mend


def _nowhere(here: Machine, container: str, user: str) -> tuple[str, str]:
    if options(container, "cgroup"):
        return f"no cgroup of {container}'s is ours to divide", options(container, "cgroup")
    if not here.systemd:
        return "no cgroup is delegated to us", prepare(here.uid, f"{here.mount}/sandbox")
    path = bus_path(here.uid, os.environ)
    if not here.uid:
        return f"systemd can't be asked: there is no {path}", "sudo systemctl start dbus.socket"
    mend = f"sudo loginctl enable-linger {user or here.uid}"
    if os.path.isdir(f"{here.root}/run/user/{here.uid}/systemd"):
        mend = "sudo apt install dbus-user-session && systemctl --user start dbus.socket"
    return f"the user manager can't be asked for a cgroup: there is no {path}", mend


def _absent(here: Machine) -> tuple[str, ...]:
    """What the whole machine does not have, and so nobody can be given. Only the machine's own top
    tells; a container sees its own."""
    if os.path.exists(f"{here.root}{here.mount}/cgroup.type"):
        return ()
    there = here.words(here.mount, "cgroup.controllers")
    return tuple(name for name in CONTROLLERS if name not in there) if there else ()
