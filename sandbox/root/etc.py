"""The generated files of /etc: small texts, made from names and numbers.

Pure functions. None of them copies the host's files as they are: accounts of the host are
nobody's business inside, and the payload's ids have other names there.
"""

from __future__ import annotations

import os

__all__ = ["NOBODY", "NSSWITCH", "add_group", "add_user", "find_user", "group", "passwd", "shell_name"]

#: The overflow id: what files of ids that are not mapped belong to (user_namespaces(7)).
NOBODY = 65534

NSSWITCH = """\
passwd: files
group: files
shadow: files
hosts: files dns
networks: files
protocols: files
services: files
ethers: files
rpc: files
"""


def shell_name(name: str, fallback: str) -> str:
    """*name* when it can stand in a line of passwd(5) or group(5), else *fallback*."""
    good = name.isprintable() and not set(name) & set(":, /\\") and not name.startswith("-")
    return name if name and good else fallback


def _user_line(name: str, uid: int, gid: int, home: str, shell: str) -> str:
    return f"{name}:x:{uid}:{gid}:{name}:{home}:{shell}\n"


def passwd(name: str, uid: int, gid: int, home: str, shell: str) -> str:
    """passwd(5) for the payload's user; root and nobody are added unless the payload is one of them."""
    lines = []
    if uid != 0:
        lines.append(_user_line("root", 0, 0, "/root", shell))
    lines.append(_user_line(name, uid, gid, home, shell))
    if uid != NOBODY:
        lines.append(_user_line("nobody", NOBODY, NOBODY, "/nonexistent", "/usr/sbin/nologin"))
    return "".join(lines)


def group(name: str, gid: int) -> str:
    """group(5) for the payload's group; root and nogroup are added unless it is one of them."""
    lines = [] if gid == 0 else ["root:x:0:\n"]
    lines.append(f"{name}:x:{gid}:\n")
    if gid != NOBODY:
        lines.append(f"nogroup:x:{NOBODY}:\n")
    return "".join(lines)


def _has_id(text: str, number: int) -> bool:
    return any(line.split(":")[2:3] == [str(number)] for line in text.splitlines())


def _has_name(text: str, name: str) -> bool:
    return any(line.split(":", 1)[0] == name for line in text.splitlines())


def find_user(text: str, uid: int) -> tuple[str, str] | None:
    """(name, home) of an id in a root's own passwd(5) *text*; None when it has no usable line there."""
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) != 7 or fields[2] != str(uid):
            continue
        name, home = fields[0], fields[5]
        if shell_name(name, "") and home.startswith("/") and home.isprintable():
            return name, os.path.normpath("/" + home.lstrip("/"))
    return None


def _append(text: str, line: str) -> str:
    return text + ("" if not text or text.endswith("\n") else "\n") + line


def add_user(text: str, name: str, uid: int, gid: int, home: str) -> str:
    """A root's own passwd(5) *text*, with the payload's user added if its id is missing there."""
    if _has_id(text, uid):
        return text
    name = f"user{uid}" if _has_name(text, name) else name
    return _append(text, _user_line(name, uid, gid, home, "/bin/sh"))


def add_group(text: str, name: str, gid: int) -> str:
    """A root's own group(5) *text*, with the payload's group added if its id is missing there."""
    if _has_id(text, gid):
        return text
    name = f"group{gid}" if _has_name(text, name) else name
    return _append(text, f"{name}:x:{gid}:\n")
