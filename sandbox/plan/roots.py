"""What the root of a sandbox is made of: the host's own trees, or a directory.

A directory as the root may be hostile: nothing in it is followed out of it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from sandbox.errors import ProfileError, TrustError
from sandbox.plan.call import Call, check_overlay, unseen
from sandbox.plan.files import directories_in_root, kind_of, read_in_root, read_text
from sandbox.plan.invocation import Entry, Place, at, is_below, origin_of
from sandbox.root import tables
from sandbox.root.etc import find_user
from sandbox.words import quote

__all__ = ["directories", "directory_root", "host_entries", "texts"]


def host_entries(call: Call) -> dict[str, Entry]:
    """The paths of the host-root tables that exist."""
    call.trace.see("/", entries=True)
    call.trace.see("/etc", entries=True)
    entries: dict[str, Entry] = {}
    for path in (*tables.HOST_TREES, *(f"/etc/{name}" for name in tables.ETC)):
        entry = _entry(call, path)
        if entry:
            entries[path] = entry
    return entries


def _entry(call: Call, path: str) -> Entry | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    if stat.S_ISDIR(status.st_mode):
        return Entry("dir", source=call.trace.follow(path)[0])
    if not stat.S_ISLNK(status.st_mode):
        return Entry("file", source=call.trace.follow(path)[0])
    try:
        real, _ = call.trace.follow(path)
        kind = kind_of(real)
    except OSError:
        return None
    if any(is_below(real, tree) for tree in tables.HOST_TREES) or _below_etc_table(real):
        return Entry("link", target=os.readlink(path))
    if not kind:
        return None
    return Entry("dir" if stat.S_ISDIR(kind) else "file", source=real)


def _below_etc_table(real: str) -> bool:
    return any(is_below(real, f"/etc/{name}") for name in tables.ETC)


def directory_root(call: Call) -> str:
    """The real path of a `dir:` root, or "".

    Raises:
        ProfileError: it does not exist, or the kernel makes no overlay of it.
        TrustError: an untrusted project names it.
    """
    scheme, _, written = call.profile.root.source.partition(":")
    if scheme != "dir":
        return ""
    origin = origin_of(call.profile, "root.from")
    base = call.profile.root.base
    if origin.hostile:
        message = f"{at(origin)}a project that is not trusted can't choose the root"
        raise TrustError(message, "sandbox profile trust")
    path = call.expand(written, base)
    try:
        real, _ = call.trace.follow(path)
        kind = kind_of(real)
    except OSError as error:
        raise unseen(origin, "the root", path, error) from error
    if not kind:
        message = f"{at(origin)}the root directory {path} does not exist"
        raise ProfileError(message, f"mkdir -p {quote(path)}")
    if not stat.S_ISDIR(kind):
        raise ProfileError(f"{at(origin)}the root {path} is not a directory")
    if real == "/":
        message = f'{at(origin)}"dir:/" can\'t be the root: the kernel refuses to overlay it'
        raise ProfileError(message, 'from = "host"')
    check_overlay(origin, path, real, True)
    return real


def directories(call: Call, root: str, places: Sequence[Place], passwd: str) -> dict[str, tuple[int, int]]:
    """Which directories of a `dir:` root exist on the way to what will be mounted or made there, and
    their owners; none behind a link. *passwd* is its own passwd(5).

    Raises:
        ProfileError: a directory of ours would cover what a link of it leads to.
    """
    if not root:
        return {}
    uid = {"keep": call.host.uid, "root": 0}.get(call.profile.user.map, -1)
    account = find_user(passwd, uid)
    wanted = [
        "/etc/x",
        "/dev",
        "/proc",
        "/sys",
        "/tmp",
        "/var/tmp",
        "/run",
        call.home,
        f"/home/{call.user}",
    ]
    wanted += [account[1]] if account else []
    wanted += [place.destination for place in places]
    found: dict[str, tuple[int, int]] = {}
    for path in wanted:
        found.update(directories_in_root(root, path))
    for path in found:
        call.trace.see(root + path)
    _check_scratch(call, root, places)
    return found


def _check_scratch(call: Call, root: str, places: Sequence[Place]) -> None:
    """Refuse a link where a directory in memory is to be mounted, unless it leads to another of them:
    what it leads to would be covered, be it all of the root."""
    origin = origin_of(call.profile, "root.from")
    for path in tables.SCRATCH:
        if any(is_below(path, place.destination) for place in places):
            continue
        try:
            leads, links = call.trace.follow(path, root=root)
        except OSError as error:
            raise unseen(origin, "a directory of the root", root + path, error) from error
        if links and leads not in (*tables.SCRATCH, "/var/run"):
            raise ProfileError(
                f"{at(origin)}{path} in the root {root} is a link that leads to {leads}, which the "
                "sandbox's own directory in memory would cover",
                f"rm {quote(links[0])} && mkdir -p {quote(root + path)}",
            )


def texts(call: Call, root: str) -> dict[str, str]:
    """Host files to copy from (with the host's network), and a `dir:` root's own accounts."""
    found: dict[str, str] = {}
    if call.profile.net.mode == "host":
        for path in ("/etc/resolv.conf", "/etc/hosts"):
            real, _ = call.trace.follow(path)
            found[path] = read_text(real)
    if root:
        for name in ("passwd", "group"):
            call.trace.see(f"{root}/etc/{name}")
            found[name] = read_in_root(root, name)
    return found
