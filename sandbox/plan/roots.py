"""What the root of a sandbox is made of: the host's own trees, or a directory.

A directory as the root may be hostile: nothing in it is followed out of it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from sandbox.errors import ProfileError, TrustError
from sandbox.plan import image
from sandbox.plan.call import Call, check_overlay, unseen
from sandbox.plan.files import directories_in_root, kind_of, read_in_root, read_text
from sandbox.plan.invocation import Entry, Place, at, is_below, origin_of
from sandbox.plan.layers import Layered, Layers, Seen, Wanted, provider
from sandbox.root import tables
from sandbox.root.etc import find_user
from sandbox.words import quote

__all__ = ["Looked", "directories", "directory_root", "host_entries", "layered_root", "look", "texts"]


#: where programs of the machine are
_PLACES = ("/usr/local/bin", "/usr/bin", "/bin")


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
    if origin.hostile:
        message = f"{at(origin)}a project that is not trusted can't choose the root"
        raise TrustError(message, "sandbox profile trust")
    return _directory(call, "root.from", written, call.profile.root.base)


def _directory(call: Call, key: str, written: str, base: str | None) -> str:
    """The real path of a directory that is the root or a layer of it; a relative one starts at *base*."""
    origin = origin_of(call.profile, key)
    path = call.expand(written, base)
    try:
        real = call.source(origin, path)
        kind = kind_of(real)
    except OSError as error:
        raise unseen(origin, "the root", path, error) from error
    if not kind:
        message = f"{at(origin)}the root directory {path} does not exist"
        raise ProfileError(message, f"mkdir -p {quote(path)}")
    if not stat.S_ISDIR(kind):
        message = f"{at(origin)}the root {path} is not a directory"
        raise ProfileError(message, f"tar -C DIR -xf {quote(path)}    if it is an archive, and name DIR")
    if real == "/":
        message = f'{at(origin)}"dir:/" can\'t be the root: the kernel refuses to overlay it'
        raise ProfileError(message, 'from = "host"')
    check_overlay(origin, path, real, True)
    return real


def layered_root(call: Call, layers: Layers) -> Layered | None:
    """The layers of a root that is made of them; None for any other. An image that is not here is pulled.

    Raises:
        ImageError: an image can't be had or used.
        ProfileError: a directory can't be a layer.
        TrustError: an untrusted project names them.
    """
    root = call.profile.root
    if layers.given is not None:
        found = layers.given
    elif not root.layered:
        return None
    else:
        wanted = [_wanted(call, "root.from", root.source)] if root.source != "empty" else []
        wanted += [_wanted(call, "root.layers", each) for each in root.layers]
        found = provider().gather(wanted, call.host, layers.progress)
    for path in found.looked:
        call.trace.see(path)
    return found


def _wanted(call: Call, key: str, written: str) -> Wanted:
    origin = origin_of(call.profile, key)
    if origin.hostile:
        message = f"{at(origin)}a project that is not trusted can't choose the root"
        raise TrustError(message, "sandbox profile trust")
    scheme, colon, rest = written.partition(":")
    if colon and scheme == "image":
        return Wanted("image", rest)
    base = call.profile.root.base if key == "root.from" else None  # layers have theirs since they were read
    return Wanted("dir", _directory(call, key, rest if colon and scheme == "dir" else written, base))


class Looked(NamedTuple):
    """What a root has: `directories` with their owners, `parts` of them in its layers, and `texts`."""

    directories: dict[str, tuple[int, int]]
    parts: dict[str, tuple[str, ...]]
    texts: dict[str, str]


def fuse_program(call: Call) -> str:
    """fuse-overlayfs(1), where overlays are to be made by it or may have to be; "" when it is not there."""
    driver = call.profile.root.driver
    if driver == "overlay" or (driver == "auto" and call.host.overlay):
        return ""
    # The machine's own before those of a PATH, which may have directories that a payload writes to.
    places = dict.fromkeys([*_PLACES, *call.environ.get("PATH", "").split(":")])
    for place in places:
        path = f"{place}/fuse-overlayfs"
        if place.startswith("/"):
            call.trace.see(path)
            if os.access(path, os.X_OK):
                return call.trace.follow(path)[0]
    return ""


def look(call: Call, root: str, layered: Layered | None, layers: Layers, places: Sequence[Place]) -> Looked:
    """Look into a `dir:` root, or one of layers, for what is on the way to what will be mounted there.

    Raises:
        ProfileError: a directory of ours would cover what a link of it leads to.
    """
    found = texts(call, root)
    if layered is None:
        directories_ = directories(call, root, places, found)
        return Looked(directories_, {path: (root + path,) for path in directories_}, found)
    lowers = layered.lowers
    if layers.upper and os.path.isdir(f"{layers.upper}/upper"):
        lowers = (f"{layers.upper}/upper", *lowers)
        call.trace.never()  # nothing tells when something in there changes
    seen: dict[str, Seen] = {}
    with provider().tree(lowers) as tree:
        for name in ("passwd", "group"):
            found[name] = tree.text(f"/etc/{name}")
        for path in _on_the_way(call, places):
            seen.update(tree.directories(path))
        for path in _of_image(call, layered, found):
            seen.update(tree.directories(path))
    for each in layered.directories:
        for path in seen:
            call.trace.see(each + path)
    return Looked(
        {path: (each.uid, each.gid) for path, each in seen.items()},
        {path: each.parts for path, each in seen.items()},
        found,
    )


def directories(
    call: Call, root: str, places: Sequence[Place], texts: Mapping[str, str]
) -> dict[str, tuple[int, int]]:
    """Which directories of a `dir:` root exist on the way to what will be mounted or made there, and
    their owners; none behind a link. *texts* has its own "passwd" and "group".

    Raises:
        ProfileError: a directory of ours would cover what a link of it leads to; or it has no such user.
    """
    if not root:
        return {}
    found: dict[str, tuple[int, int]] = {}
    wanted = image.numbered(call.profile, texts).map
    uid = {"keep": call.host.uid, "root": 0}.get(wanted, -1)
    if uid < 0:
        uid = int(wanted.partition(":")[0])
    account = find_user(texts.get("passwd", ""), uid)
    for path in (*_on_the_way(call, places), *(account[1:] if account else ())):
        found.update(directories_in_root(root, path))
    for path in found:
        call.trace.see(root + path)
    _check_scratch(call, root, places)
    return found


def _on_the_way(call: Call, places: Sequence[Place]) -> Iterator[str]:
    yield from (
        "/etc/x",
        "/dev",
        "/proc",
        "/sys",
        "/tmp",
        "/var/tmp",
        "/run",
        call.home,
        f"/home/{call.user}",
    )
    for place in places:
        yield place.destination


def _of_image(call: Call, layered: Layered, texts: Mapping[str, str]) -> Iterator[str]:
    settings = layered.settings
    yield from image.volumes(settings)
    yield image.workdir(settings)
    if layered.ids is not None:
        who = image.identify(call.profile, settings, layered.ids, texts)
        yield image.account_home(settings, texts["passwd"], who.uid)[1]


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
