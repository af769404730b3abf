"""The rows of `doctor` that need nothing but facts: the kernel's version and id ranges."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sandbox.host.model import Check, Host, IdMap, Range
from sandbox.host.spare import OVERFLOW, SETGID, SETUID, mapped, own, spare

__all__ = ["IDRANGE_CONSEQUENCE", "KERNEL", "idrange", "kernel", "usermod"]

#: The oldest kernel we run on: RLIMIT_NPROC counts per user namespace, cgroup.kill, mount_setattr.
KERNEL = (5, 14)

_NOT_MAPPED = "the ranges in /etc/subuid and /etc/subgid do not exist in this user namespace"

IDRANGE_CONSEQUENCE = 'no second id inside: `ids = "range"` and images with several users do not work'


def kernel(host: Host) -> Check:
    """Is the kernel new enough?"""
    fine = host.kernel >= KERNEL
    return Check(
        name="kernel",
        ok=fine,
        required=True,
        detail=f"Linux {host.kernel[0]}.{host.kernel[1]} on {host.machine}",
        consequence=f"nothing works on a Linux older than {KERNEL[0]}.{KERNEL[1]}",
        mend="" if fine else f"install a kernel of version {KERNEL[0]}.{KERNEL[1]} or newer and reboot",
    )


def idrange(host: Host, problems: Iterable[str] = ()) -> Check:
    """Can more than one id be mapped, as far as files can tell? *problems* were found in reading them."""
    problems = tuple(problems)
    missing, mend = _missing(host, problems)
    found = _ranges(host)
    primary = [text for text in problems if "primary group" in text or "no entry in /etc/passwd" in text]
    if primary and host.uid != 0 and not missing:
        missing, mend = primary[0], f"log in again, or run: sudo -u {host.user or 'USER'} -i"
    detail = "; ".join([*([missing] if missing else [found]), *(p for p in problems if p != missing)])
    return Check(
        name="idrange",
        ok=not missing,
        required=False,
        detail=detail,
        consequence=IDRANGE_CONSEQUENCE,
        mend=mend if missing else "",
    )


def usermod(
    user: str, start: int = 100000, count: int = 65536, *, uids: bool = True, gids: bool = True
) -> str:
    """The command that gives *user* a range of ids."""
    ids = f"{start}-{start + count - 1}"
    options = [f"--add-subuids {ids}"] * uids + [f"--add-subgids {ids}"] * gids
    return f"sudo usermod {' '.join(options)} {user or 'USER'}"


def _ranges(host: Host) -> str:
    def text(ranges: tuple[Range, ...]) -> str:
        return ", ".join(f"{r.start}-{r.start + r.count - 1}" for r in ranges)

    tools = "" if host.uid == 0 else f"{host.newuidmap}, {host.newgidmap}; "
    return f"{tools}uids {text(spare(host, 'uid'))}; gids {text(spare(host, 'gid'))}"


def _missing(host: Host, problems: Sequence[str]) -> tuple[str, str]:
    """(what is missing for a range, the mend); ("", "") when all is there."""
    if host.uid == 0:
        return _missing_for_root(host)
    uids, gids = spare(host, "uid"), spare(host, "gid")
    if not (host.newuidmap and host.newgidmap):
        names = " and ".join(n for n in ("newuidmap", "newgidmap") if getattr(host, n) is None)
        return f"no usable {names}", _tool_mend(host, " ".join(problems))
    if uids and gids:
        return "", ""
    files = " and ".join(f for f, r in (("/etc/subuid", host.subuid), ("/etc/subgid", host.subgid)) if not r)
    if not files:
        return _NOT_MAPPED, _container_mend(host)
    who = host.user or str(host.uid)
    return f"no range for {who} in {files}", usermod(who, uids=not host.subuid, gids=not host.subgid)


def _missing_for_root(host: Host) -> tuple[str, str]:
    uids, gids = (sum(r.count for r in spare(host, which)) for which in ("uid", "gid"))
    if uids > 1 and gids > 1:
        return "", ""
    if own(host, "uid") is None:
        return "root may not map other ids here", _container_mend(host)
    if host.subuid or host.subgid:
        return _NOT_MAPPED, _container_mend(host)
    # Neither the usual ids nor BLOCK exist here. Ids from 10000 on are rarely a container's own users'.
    usual = Range(10000, OVERFLOW - 10000)
    parts = mapped([usual], host.uid_map), mapped([usual], host.gid_map)
    both = mapped(parts[0], [IdMap(part.start, 0, part.count) for part in parts[1]])
    if not both:
        return "this user namespace has no ids to spare for a range", _container_mend(host)
    most = max(both, key=lambda part: part.count)
    return "root has no range in /etc/subuid and /etc/subgid", usermod("root", most.start, most.count)


def _tool_mend(host: Host, problems: str) -> str:
    if "no_new_privs" in problems and host.container in ("docker", "podman"):
        return f"start the container so: {host.container} run --security-opt no-new-privileges=false ..."
    if "no_new_privs" in problems:
        return "start us without no_new_privs (a service: NoNewPrivileges=no)"
    if "nosuid" in problems:
        return "sudo mount -o remount,suid MOUNTPOINT  (of the file system that newuidmap is on)"
    if "setuid" in problems:
        return (
            "sudo apt install --reinstall uidmap  (or: sudo chmod u+s /usr/bin/newuidmap /usr/bin/newgidmap)"
        )
    return "sudo apt install uidmap  (Fedora: shadow-utils; Arch: shadow)"


def _container_mend(host: Host) -> str:
    if host.container in ("docker", "podman") and host.capabilities & (SETUID | SETGID) != SETUID | SETGID:
        return f"start the container so: {host.container} run --cap-add SETUID --cap-add SETGID ..."
    if host.container == "podman":
        return "start the container with more ids: podman run --uidmap 0:0:65536 --gidmap 0:0:65536 ..."
    return "start us as an ordinary user of the machine, or in a user namespace that maps more ids"
