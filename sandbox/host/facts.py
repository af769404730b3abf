"""What can be known about the machine without starting or mounting anything.

A launch that is not in the plan cache asks for these, so they are few and cheap: a handful of small
files, two of them in /etc. What only a trial can tell is in `trials`. All functions take `root`, a
directory in front of every path, so that tests can show them another machine.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from sandbox.host import rows, subids
from sandbox.host.model import Host, IdMap

__all__ = ["SYSCTLS", "Facts", "core_handler", "gather", "parse_map", "read"]

#: Settings that decide whether a user may make namespaces; absent where the kernel has no such thing.
SYSCTLS = (
    "kernel/unprivileged_userns_clone",  # Debian
    "user/max_user_namespaces",  # namespaces(7)
    "kernel/apparmor_restrict_unprivileged_userns",  # Ubuntu 23.10
)

_FULL = (IdMap(0, 0, 2**32 - 1),)


class Facts(NamedTuple):
    """A host as far as it is known, and what `doctor` says besides."""

    host: Host
    #: what is wrong with /etc/subuid and /etc/subgid, and why a newuidmap that exists can't be used
    problems: tuple[str, ...]
    #: `SYSCTLS` as they are, "" for one that this kernel does not have
    sysctls: Mapping[str, str]
    #: /proc/self/status
    status: Mapping[str, str]


def read(path: str) -> str:
    """The text of a small file, "" when it can't be read. Bytes that are no UTF-8 are kept escaped."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    # not open(): that costs three times as much, and there are twenty of them
    try:
        parts = []
        while part := os.read(fd, 1 << 16):
            parts.append(part)
        return b"".join(parts).decode("utf-8", "backslashreplace")
    except OSError:
        return ""
    finally:
        os.close(fd)


def parse_map(text: str) -> tuple[IdMap, ...]:
    """/proc/PID/uid_map as values (user_namespaces(7)); empty when *text* is not one."""
    maps = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) != 3 or not all(field.isascii() and field.isdigit() for field in fields):
            return ()
        maps.append(IdMap(*map(int, fields)))
    return tuple(maps)


def gather(*, root: str = "", environ: Mapping[str, str] = os.environ, helper: str = "") -> Facts:
    """Look at the machine. Never raises: what can't be found out counts as missing.

    *helper* is the path of our helper, which is part of `Host.key`.
    """
    uid, gid, name = os.geteuid(), os.getegid(), os.uname()
    user = _user_name(uid)
    uids = subids.parse(read(f"{root}/etc/subuid"), user, uid)
    gids = subids.parse(read(f"{root}/etc/subgid"), user, uid)
    status = _status(read(f"{root}/proc/self/status"))
    stuck = _rights_problem(status)
    newuidmap, no_uid = _find_tool("newuidmap", root, environ)
    newgidmap, no_gid = _find_tool("newgidmap", root, environ)
    sysctls = {item: read(f"{root}/proc/sys/{item}").strip() for item in SYSCTLS}
    host = Host(
        kernel=_version(name.release),
        machine=name.machine,
        uid=uid,
        gid=gid,
        user=user,
        container=_container(root, environ),
        newuidmap=newuidmap if not stuck else None,
        newgidmap=newgidmap if not stuck else None,
        subuid=uids.ranges,
        subgid=gids.ranges,
        uid_map=parse_map(read(f"{root}/proc/self/uid_map")) or _FULL,
        gid_map=parse_map(read(f"{root}/proc/self/gid_map")) or _FULL,
        machine_root=_machine_root(root),
        capabilities=int(status.get("CapEff", "0"), 16),
        core_handler=core_handler(root),
        inotify=(_inotify(root, "max_user_instances"), _inotify(root, "max_user_watches")),
    )
    problems = (
        *(f"/etc/subuid {text}" for text in uids.problems),
        *(f"/etc/subgid {text}" for text in gids.problems),
        *(text for text in (stuck or no_uid, stuck or no_gid) if text and uid),
        *_primary_group(uid, gid, user),
    )
    problems = tuple(dict.fromkeys(problems))
    stamps = [f"{root}/etc/subuid", f"{root}/etc/subgid", newuidmap, newgidmap, helper]
    key = _key(host, root, status, sysctls, [_stamp(path) for path in stamps if path])
    known = {row.name: row for row in (rows.kernel(host), rows.idrange(host, problems))}
    return Facts(replace(host, key=key, checks=known), problems, sysctls, status)


def core_handler(root: str = "") -> str:
    """`Host.core_handler`, which may change at any time."""
    first = read(f"{root}/proc/sys/kernel/core_pattern")[:1]
    return first if first in ("|", "@") else ""


def _inotify(root: str, name: str) -> int:
    value = read(f"{root}/proc/sys/fs/inotify/{name}").strip()
    return int(value) if value.isascii() and value.isdigit() else 0


def _version(release: str) -> tuple[int, int]:
    """(6, 18) of "6.18.44-amd64"; (0, 0) when it begins with no number."""
    numbers = []
    for part in release.split("-")[0].split("+")[0].split(".")[:2]:
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        numbers.append(int(digits or 0))
    return (numbers[0], numbers[1] if len(numbers) > 1 else 0)


def _user_name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""  # an id without a name, as OpenShift gives: /etc/subuid may have its number


def _primary_group(uid: int, gid: int, user: str) -> tuple[str, ...]:
    """newgidmap(1) refuses whoever is not in its group of /etc/passwd (after newgrp(1), sg(1))."""
    import pwd

    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return (f"uid {uid} has no entry in /etc/passwd, which newuidmap needs",) if uid else ()
    if uid and entry.pw_gid != gid:
        return (f"the current group is {gid}, not the primary group {entry.pw_gid} of {user}",)
    return ()


def _status(text: str) -> dict[str, str]:
    """/proc/self/status (proc(5)) as a mapping."""
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {name: value.strip() for name, value in pairs}


def _rights_problem(status: Mapping[str, str]) -> str:
    """Why setuid programs don't work for us, or ""."""
    return "no_new_privs is set, so that newuidmap gets no rights" if status.get("NoNewPrivs") == "1" else ""


def _find_tool(name: str, root: str, environ: Mapping[str, str]) -> tuple[str | None, str]:
    """(path of a setuid or capable program, why not). A $PATH of the user's is safe to follow: a
    program that root did not bless is passed over."""
    why = f"{name} is not installed"
    for directory in (*environ.get("PATH", "").split(":"), "/usr/bin", "/bin", "/usr/local/bin"):
        if not directory.startswith("/"):
            continue
        path = f"{root}{directory.rstrip('/')}/{name}"
        problem = _tool_problem(path)
        if problem == "":
            return path, ""
        if problem:
            why = problem
    return None, why


def _tool_problem(path: str) -> str | None:
    """None: there is nothing; "": it works; else what is wrong with it."""
    try:
        status = os.stat(path)
        if not os.access(path, os.X_OK):
            return None
        if status.st_uid == 0 and status.st_mode & 0o4000:
            blessed = True
        else:
            blessed = "security.capability" in os.listxattr(path)
        if not blessed:
            return f"{path} has neither the setuid bit of root nor file capabilities"
        if os.statvfs(path).f_flag & os.ST_NOSUID:
            return f"{path} is on a file system mounted nosuid"
    except OSError:
        return None
    return ""


def _container(root: str, environ: Mapping[str, str]) -> str:
    """What kind of container this is, by the marks that its engines leave."""
    told = read(f"{root}/run/systemd/container").strip() or environ.get("container", "")
    if told.isascii() and told.replace("-", "").isalnum():
        return "" if told == "wsl" else told
    if os.path.exists(f"{root}/run/.containerenv"):
        return "podman"
    if environ.get("KUBERNETES_SERVICE_HOST"):
        return "kubernetes"
    return "docker" if os.path.exists(f"{root}/.dockerenv") else ""


def _machine_root(root: str) -> int | None:
    """What the machine's uid 0 is called in our user namespace. A sysctl that no namespace owns
    always belongs to it, and shows as the overflow id where it has no name (namespaces(7))."""
    try:
        owner = os.stat(f"{root}/proc/sys/kernel/ostype").st_uid
    except OSError:
        return 0  # not to be found out: nothing is mapped to what may be root
    overflow = read(f"{root}/proc/sys/kernel/overflowuid").strip()
    return None if str(owner) == (overflow or "65534") else owner


def _stamp(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError:
        return f"{path}:-"
    return f"{path}:{status.st_mtime_ns}:{status.st_size}:{status.st_ino}:{status.st_mode:o}"


def _key(
    host: Host, root: str, status: Mapping[str, str], sysctls: Mapping[str, str], stamps: list[str]
) -> str:
    """Everything that an answer of `trials` depends on, in one line.

    The namespaces stand for the container that we are in: it shares the boot id with its host, and
    may share a home directory, but not what it may mount. Inode numbers of namespaces are never 0.
    """
    parts = [
        read(f"{root}/proc/sys/kernel/random/boot_id").strip(),
        os.uname().release,
        f"{host.uid}:{host.gid}",
        *(_stamp_namespace(f"{root}/proc/self/ns/{name}") for name in ("user", "mnt", "pid")),
        ",".join(f"{m.inside}-{m.outside}-{m.count}" for m in (*host.uid_map, *host.gid_map)),
        *(status.get(name, "") for name in ("CapEff", "NoNewPrivs", "Seccomp")),
        *(f"{name}={value}" for name, value in sysctls.items()),
        *stamps,
    ]
    return "|".join(parts).replace("\n", " ").replace("\r", " ")


def _stamp_namespace(path: str) -> str:
    try:
        return str(os.stat(path).st_ino)
    except OSError:
        return "-"
