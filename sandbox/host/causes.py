"""Why something does not work here, and what mends it: the texts of `doctor`.

Each function gives (cause, mend) for a trial that failed. The causes are looked for in the order in
which they hide each other. Texts say exactly what to type; a mend that needs root begins with sudo.
"""

from __future__ import annotations

from sandbox.host.facts import Facts, read
from sandbox.host.rows import idrange

__all__ = ["apparmor", "apparmor_restricts", "masked_proc", "options", "overlay", "proc", "seccomp", "userns"]

_MOUNTINFO = "/proc/self/mountinfo"

#: What to give to the engine that made the container, by what it keeps from us.
_OPTIONS = {
    "docker": {
        "userns": "docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined ...",
        "proc": "docker run --security-opt systempaths=unconfined ...",
        "seccomp": "docker run --security-opt seccomp=unconfined ...",
        "fuse": "docker run --device /dev/fuse ...",
        "tun": "docker run --device /dev/net/tun ...",
        "cgroup": "docker run --cgroupns=private --security-opt writable-cgroups=true ...  (docker 28)",
    },
    "podman": {
        "userns": "podman run --security-opt seccomp=unconfined --security-opt label=disable ...",
        "proc": "podman run --security-opt unmask=ALL ...",
        "seccomp": "podman run --security-opt seccomp=unconfined ...",
        "fuse": "podman run --device /dev/fuse ...",
        "tun": "podman run --device /dev/net/tun ...",
        "cgroup": "podman run --cgroups=split --security-opt unmask=/sys/fs/cgroup ...",
    },
    "kubernetes": {
        "userns": "in the pod: securityContext: {seccompProfile: {type: Unconfined}, "
        "appArmorProfile: {type: Unconfined}}",
        "proc": "in the pod: hostUsers: false, and in the container: securityContext: {procMount: Unmasked}",
        "seccomp": "in the pod: securityContext: {seccompProfile: {type: Unconfined}}",
    },
    "lxc": {
        "userns": "lxc config set NAME security.nesting true && lxc restart NAME",
        "proc": "lxc config set NAME security.nesting true && lxc restart NAME",
    },
    "sandbox": {
        "userns": "give the outer sandbox: process.nested = true",
        "proc": "not to be had in a sandbox within a sandbox: run both from outside",
    },
}


def options(container: str, what: str) -> str:
    """What to give to the container's engine to allow *what*; "" when we don't know."""
    return _OPTIONS.get(container, {}).get(what, "")


def _sysctl(setting: str, value: str) -> str:
    return (
        f"sudo sysctl -w {setting}={value}\n"
        f"for good: echo '{setting} = {value}' | sudo tee /etc/sysctl.d/60-sandbox.conf"
    )


def apparmor(helper: str) -> str:
    """How to let our helper, and nothing else, make user namespaces where AppArmor restricts them."""
    return f"""write /etc/apparmor.d/sandbox-helper:
  abi <abi/4.0>,
  include <tunables/global>
  profile sandbox-helper "{helper}" flags=(unconfined) {{
    userns,
  }}
then: sudo apparmor_parser -r /etc/apparmor.d/sandbox-helper
or, for every program: {_sysctl("kernel.apparmor_restrict_unprivileged_userns", "0")}"""


def apparmor_restricts(found: Facts) -> bool:
    """Whether AppArmor forbids user namespaces to programs without a profile that allows them."""
    return found.sysctls.get("kernel/apparmor_restrict_unprivileged_userns", "") not in ("", "0")


def userns(
    found: Facts, helper: str, errno_name: str, message: str, *, mountinfo: str = _MOUNTINFO
) -> tuple[str, str]:
    """Why no sandbox could be made."""
    host, sysctls = found.host, found.sysctls
    filtered = found.status.get("Seccomp", "0") != "0"
    if "of its own" in message:
        row = idrange(host, found.problems)
        return row.detail, row.mend
    if sysctls.get("kernel/unprivileged_userns_clone") == "0" and host.uid != 0:
        return "kernel.unprivileged_userns_clone is 0", _sysctl("kernel.unprivileged_userns_clone", "1")
    if sysctls.get("user/max_user_namespaces") == "0":
        return "user.max_user_namespaces is 0", _limit_mend(found)
    if errno_name in ("ENOSPC", "EUSERS"):
        limit = sysctls.get("user/max_user_namespaces", "?")
        return f"the limit of {limit} user namespaces, or of 32 levels, is reached", _limit_mend(found)
    if apparmor_restricts(found) and host.uid != 0:
        return "AppArmor restricts user namespaces (kernel.apparmor_restrict_unprivileged_userns)", apparmor(
            helper
        )
    if errno_name == "ENOSYS" or (filtered and errno_name in ("EPERM", "EACCES")):
        return _filter_cause(found)
    if errno_name in ("EPERM", "EACCES"):
        return _refused(found, message, read(mountinfo))
    if errno_name == "EINVAL":
        return "the kernel was built without a kind of namespace", (
            "use a kernel with CONFIG_USER_NS, CONFIG_PID_NS, CONFIG_IPC_NS, CONFIG_UTS_NS, CONFIG_NET_NS"
        )
    return "", ""


def _limit_mend(found: Facts) -> str:
    if found.host.container == "sandbox":
        return options("sandbox", "userns")
    return _sysctl("user.max_user_namespaces", "15000")


def _filter_cause(found: Facts) -> tuple[str, str]:
    container = found.host.container
    if not container and found.status.get("Seccomp", "0") == "0":
        return "the kernel has no clone3", "use a kernel of 5.14 or newer"
    mend = options(container, "userns") or (
        "start us without the seccomp filter that whatever started us has set (a service: remove "
        "SystemCallFilter= and RestrictNamespaces=)"
    )
    return f"a seccomp filter {f'of {container} ' if container else ''}forbids namespaces", mend


def _refused(found: Facts, message: str, mounts: str) -> tuple[str, str]:
    """No filter, no sysctl: a chroot, or a security module. Engines of containers have these forbid
    mounts, but not namespaces."""
    container = found.host.container
    if _in_chroot(mounts):
        return "this is a chroot, in which the kernel allows no user namespaces", (
            "enter the directory with pivot_root instead of chroot: sudo systemd-nspawn -D DIR"
        )
    if options(container, "userns") and not message.startswith("cannot make namespaces"):
        return f"{container} forbids mounting", options(container, "userns")
    return "a security module forbids it, or this is a chroot", (
        "look for the denial (sudo dmesg | grep -iE 'apparmor|selinux|avc') and allow our helper user "
        "namespaces; instead of chroot, use: sudo systemd-nspawn -D DIR"
    )


def _in_chroot(mountinfo: str) -> bool:
    """create_user_ns() refuses whoever's root is not the root of its mount namespace; then no mount
    that we see is on "/"."""
    lines = [line.split(" ") for line in mountinfo.splitlines()]
    return bool(lines) and all(len(fields) > 4 and fields[4] != "/" for fields in lines)


def masked_proc(mountinfo: str) -> tuple[str, ...]:
    """What is mounted over parts of /proc, by which a container hides them."""
    points = (line.split(" ")[4] for line in mountinfo.splitlines() if line.count(" ") > 4)
    # binfmt_misc is mounted on an empty directory kept for it, which hides nothing (proc(5))
    return tuple(p for p in points if p.startswith("/proc/") and p != "/proc/sys/fs/binfmt_misc")


def proc(found: Facts, *, mountinfo: str = _MOUNTINFO) -> tuple[str, str]:
    """Why a fresh /proc can't be mounted: the kernel allows it only to whoever sees all of one."""
    covered = masked_proc(read(mountinfo))
    container = found.host.container
    mend = options(container, "proc")
    if covered:
        shown = ", ".join(covered[:4]) + (", ..." if len(covered) > 4 else "")
        return f"parts of /proc are covered: {shown}", mend or (
            "start us where nothing is mounted below /proc (a service: remove ProtectKernelTunables=, "
            "ProtectKernelLogs=, ProtectProc=, ProcSubset=)"
        )
    return "no complete /proc is mounted here", mend or "sudo mount -t proc proc /proc"


def seccomp(found: Facts, errno_name: str) -> tuple[str, str]:
    """Why a filter can't be set."""
    if errno_name in ("EINVAL", "ENOSYS") and not found.host.container:
        return "the kernel was built without seccomp filters", "use a kernel with CONFIG_SECCOMP_FILTER"
    return "seccomp(2) is refused", options(found.host.container, "seccomp") or (
        "start us without the seccomp filter that whatever started us has set"
    )


def overlay(found: Facts, errno_name: str) -> tuple[str, str]:
    """Why no overlay can be mounted in a user namespace (Linux 5.11)."""
    if errno_name in ("ENODEV", "ENOENT"):
        return "the kernel has no overlay file system loaded", (
            "sudo modprobe overlay\nfor good: echo overlay | sudo tee /etc/modules-load.d/overlay.conf"
        )
    if errno_name in ("EPERM", "EACCES") and options(found.host.container, "userns"):
        return f"{found.host.container} forbids it", options(found.host.container, "userns")
    return "the kernel refuses an overlay here", (
        "use a kernel whose overlay file system has userxattr (5.11 or newer), with the cache directory on "
        "ext4, xfs or btrfs (XDG_CACHE_HOME)"
    )
