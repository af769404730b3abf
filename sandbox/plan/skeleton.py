"""The root file system of every sandbox: its base, the skeleton of /etc, /dev and /proc, and what a
program expects to be able to write.

Pure. The profile's own mounts are `sandbox.plan.mounts`'; where one of them is, nothing of
the skeleton is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from sandbox import net
from sandbox.host.model import Host
from sandbox.plan import cgroups, image, limits, mounts
from sandbox.plan.invocation import Invocation, Place, by_depth, is_below, origin_of
from sandbox.plan.operations import (
    Bind,
    Cgroup2,
    Devpts,
    Directory,
    File,
    Mask,
    Mqueue,
    Operation,
    Overlay,
    Pin,
    Proc,
    ReadOnly,
    Symlink,
    Tmpfs,
)
from sandbox.plan.process import HOSTNAME, Account
from sandbox.profile import model
from sandbox.profile.model import Profile
from sandbox.root import etc, tables
from sandbox.wire import Mount

__all__ = ["operations", "with_home"]

_SAFE = Mount.NOSUID | Mount.NODEV
_INERT = _SAFE | Mount.NOEXEC
_MADE = Mount.CREATE | Mount.STRICT
_HOST_BIND = Mount.READONLY | _SAFE | Mount.RECURSIVE | Mount.CREATE


def operations(profile: Profile, host: Host, invocation: Invocation, account: Account) -> list[Operation]:
    """Everything that makes the root, in the order in which it is to be done."""
    destinations = [place.destination for place in invocation.places]
    found: list[Operation] = [
        *_trees(invocation),
        *_etc(profile, host, invocation, account),
        *_dev(),
        *_proc(profile),
        *_sys(profile, host),
        *_scratch(profile, invocation, account),
        *_of_image(profile, invocation),
    ]
    present = invocation.directories
    found = [each for each in found if not (isinstance(each, Directory) and each.dst in present)]
    found = [each for each in found if not _replaced(each.dst, destinations)]
    # What a `dir:` root has where one of ours is can't be seen anyway, and ours is no secret.
    ours = {each.dst for each in found if not isinstance(each, Directory)}
    found += [each for each in mounts.operations(profile, invocation) if each.dst not in ours]
    base = [_root(profile, invocation), *_openings(profile, invocation, account, found)]
    found.append(ReadOnly(dst="/dev"))
    if profile.root.changes == "no":
        origin = str(origin_of(profile, "root.writable"))
        found += [ReadOnly(dst=each.dst, origin=origin) for each in reversed(base)]
    return base + found


def with_home(profile: Profile, invocation: Invocation, account: Account) -> Invocation:
    """*invocation* with a home for the payload among its mounts, an empty tmpfs, unless a mount of the
    host's or the root itself has one there."""
    invocation = replace(invocation, home=account.home)
    around = mounts.covering(invocation.places, account.home)
    if account.home == "/":
        return invocation
    if around and (around.destination == account.home or around.mount.mode != "tmpfs"):
        return invocation
    if not around and _keeps_home(profile, invocation, account):
        return invocation
    home = Place(model.Mount(account.home, "tmpfs"), model.Origin(""), account.home)
    return replace(invocation, places=tuple(sorted((*invocation.places, home), key=by_depth)))


def _keeps_home(profile: Profile, invocation: Invocation, account: Account) -> bool:
    """Whether a `dir:` root has a home of its own, which its owner can write."""
    owner = invocation.directories.get(account.home, (account.ids.host_uid, account.ids.host_gid))
    return account.has_home and profile.root.changes != "no" and account.owns(*owner)


def _replaced(dst: str, destinations: Sequence[str]) -> bool:
    """Whether a mount of the profile takes the place of an operation of ours, or covers it."""
    return any(is_below(dst, each) for each in destinations)


def _root(profile: Profile, invocation: Invocation) -> Operation:
    root = profile.root
    origin = str(origin_of(profile, "root.from"))
    if not invocation.lowers:
        size = root.size or 0
        flags, inodes = _SAFE | Mount.OWNED, limits.inodes(size)
        return Tmpfs(dst="/", origin=origin, flags=flags, size=size, inodes=inodes)
    # A layer in memory also for writable = "no": it holds the mount points, and is made read-only at the end.
    upper = (invocation.upper or "root") if root.changes == "disk" else ""
    size = root.size or 0 if root.changes == "memory" else 0
    return Overlay(dst="/", origin=origin, flags=_SAFE, lowers=invocation.lowers, upper=upper, size=size)


def _openings(
    profile: Profile, invocation: Invocation, account: Account, found: Sequence[Operation]
) -> list[Operation]:
    """Overlays over single directories of a `dir:` root whose owner is not mapped, as root's in a tree
    that root made. Nobody inside can make a file or a mount point there; in the top directory of an
    overlay's upper layer, which is new, they can."""
    directories = invocation.directories
    wanted: set[str] = set()
    covered = [each.dst for each in found if isinstance(each, Tmpfs | Bind | Overlay | Proc)]
    for each in found:
        making = isinstance(each, File | Symlink)
        if not invocation.lowers or isinstance(each, Mask | Pin) or (each.dst in directories and not making):
            continue
        if any(each.dst != dst and is_below(each.dst, dst) for dst in covered):
            continue
        holders = [path for path in directories if path != each.dst and is_below(each.dst, path)]
        wanted.add(max(holders, key=len, default="/"))
    result: list[Operation] = []
    origin, on_disk = str(origin_of(profile, "root.from")), profile.root.changes == "disk"
    for path in sorted(wanted - {"/"}):
        if not account.owns(*directories[path]):
            upper = "root" + path.replace("/", "-") if on_disk else ""
            lowers = invocation.parts.get(path, (invocation.root + path,))
            flags = _SAFE | Mount.STRICT
            result.append(Overlay(dst=path, origin=origin, flags=flags, lowers=lowers, upper=upper))
    return result


def _trees(invocation: Invocation) -> Iterator[Operation]:
    """The host's system directories, read-only."""
    for path, entry in invocation.entries.items():
        if is_below(path, "/etc"):
            continue
        if entry.kind == "link":
            yield Symlink(dst=path, target=entry.target)
        else:
            yield Bind(dst=path, flags=_HOST_BIND, source=entry.source)


def _etc(profile: Profile, host: Host, invocation: Invocation, account: Account) -> Iterator[Operation]:
    hostname = profile.process.hostname or HOSTNAME
    layered = invocation.layered is not None
    resolvers: tuple[str, ...] = ()
    if net.has_own(profile.net):
        from sandbox.net import egress, user

        names = net.by_name(profile.net)
        resolvers = (egress.DNS,) if names else user.resolvers(profile.net, host.network)
    elif invocation.network is not None:
        from sandbox.net import egress
        from sandbox.net.private import member

        names = net.by_name(profile.net)
        resolvers = (egress.DNS,) if names else member.resolvers(invocation.network, host.network)
    resolv_conf = net.resolv_conf(profile.net, invocation.texts.get("/etc/resolv.conf", ""), resolvers)
    texts = {
        "hosts": net.hosts(profile.net, hostname, invocation.texts.get("/etc/hosts", "")),
        "hostname": hostname + "\n",
        "resolv.conf": resolv_conf,
        **({} if layered else _accounts(invocation, account)),
    }
    yield Directory(dst="/etc")
    if not invocation.lowers:
        texts["nsswitch.conf"] = etc.NSSWITCH
        texts["machine-id"] = ""
        yield Symlink(dst="/etc/mtab", target="/proc/self/mounts")
    for name, text in sorted(texts.items()):
        yield File(dst=f"/etc/{name}", content=text.encode("utf-8", "surrogateescape"), mounted=layered)
    for path, entry in invocation.entries.items():
        if not is_below(path, "/etc"):
            continue
        if entry.kind == "link":
            yield Symlink(dst=path, target=entry.target)
        else:
            yield Bind(dst=path, flags=_HOST_BIND, source=entry.source)


def _accounts(invocation: Invocation, account: Account) -> dict[str, str]:
    """passwd and group: generated, or the root's own with the payload's added."""
    passwd, group = invocation.texts.get("passwd", ""), invocation.texts.get("group", "")
    user, who = account.user, account.ids
    if passwd or group:
        return {
            "passwd": etc.add_user(passwd, user, who.uid, who.gid, account.home),
            "group": etc.add_group(group, account.group, who.gid),
        }
    return {
        "passwd": etc.passwd(user, who.uid, who.gid, account.home, invocation.shell),
        "group": etc.group(account.group, who.gid),
    }


def _dev() -> Iterator[Operation]:
    yield Tmpfs(dst="/dev", flags=Mount.NOSUID | Mount.NOEXEC | _MADE, mode=0o755)
    for name in tables.DEVICES:
        yield Bind(dst=f"/dev/{name}", flags=Mount.NOSUID | Mount.NOEXEC | _MADE, source=f"/dev/{name}")
    for name, target in tables.DEVICE_LINKS:
        yield Symlink(dst=f"/dev/{name}", target=target)
    yield Devpts(dst="/dev/pts", flags=Mount.NOSUID | Mount.NOEXEC | _MADE)
    yield Tmpfs(dst="/dev/shm", flags=_INERT | _MADE, mode=0o1777)
    yield Mqueue(dst="/dev/mqueue", flags=_INERT | _MADE)


def _proc(profile: Profile) -> Iterator[Operation]:
    """A payload that makes sandboxes sees all of it: the kernel lets a fresh proc be mounted only by who
    does (mount_too_revealing(), fs/namespace.c). The files that change anything are root's, and no id
    inside is root outside."""
    yield Proc(dst="/proc", flags=_INERT | _MADE)
    if profile.process.nested:
        return
    for name in tables.PROC_MASKED:
        yield Mask(dst=f"/proc/{name}", flags=Mount.OPTIONAL | Mount.STRICT)
    for name in tables.PROC_READONLY:
        flags = Mount.READONLY | Mount.RECURSIVE | Mount.OPTIONAL | Mount.STRICT
        yield Pin(dst=f"/proc/{name}", flags=flags)


def _sys(profile: Profile, host: Host) -> Iterator[Operation]:
    """Nothing but the sandbox's own cgroup, where it has one: the caller's would be shown else. Whoever
    makes sandboxes inside divides it."""
    yield Directory(dst="/sys", mode=0o555)
    if cgroups.used(profile, host):
        flags = _INERT | _MADE | (Mount(0) if profile.process.nested else Mount.READONLY)
        yield Cgroup2(dst="/sys/fs/cgroup", flags=flags)


def _scratch(profile: Profile, invocation: Invocation, account: Account) -> Iterator[Operation]:
    """What every program expects to be able to write, in memory; a root of layers that can be written has its
    own."""
    layered = invocation.layered is not None
    home = _keeps_home(profile, invocation, account) and account.home != "/"
    if layered and profile.root.changes != "no":
        flags = _kept(invocation)
        yield Directory(dst="/tmp", mode=0o1777, flags=flags)
        yield Directory(dst="/var/tmp", mode=0o1777, flags=flags)
        yield Directory(dst="/run", flags=flags)
    else:
        flags = _SAFE | (_MADE if layered else Mount.CREATE)
        yield Tmpfs(dst="/tmp", flags=flags, mode=0o1777)
        yield Tmpfs(dst="/var/tmp", flags=flags, mode=0o1777)
        yield Tmpfs(dst="/run", flags=flags | Mount.OWNED, mode=0o755)
    if not invocation.lowers and not profile.root.source.startswith("dir:"):
        yield Symlink(dst="/var/run", target="/run")
    if home:
        yield Directory(dst=account.home, mode=0o700, flags=_kept(invocation))


def _kept(invocation: Invocation) -> Mount:
    """Flags of a directory that is only to be there: where changes stay, an earlier command may have put
    something else in its place, which is its own affair."""
    return Mount.OPTIONAL if invocation.upper else Mount(0)


def _of_image(profile: Profile, invocation: Invocation) -> Iterator[Operation]:
    """The directories that an image wants: its volumes, which can be written whatever the root is, and where
    its command starts."""
    settings = invocation.layered.settings if invocation.layered else None
    origin = f"the image {settings.reference}" if settings else ""
    for path in image.volumes(settings):
        if profile.root.changes != "no":
            yield Directory(dst=path, origin=origin, flags=_kept(invocation))
        elif path in invocation.parts:
            flags = _SAFE | Mount.STRICT
            yield Overlay(dst=path, origin=origin, flags=flags, lowers=invocation.parts[path])
        else:
            yield Tmpfs(dst=path, origin=origin, flags=_SAFE | _MADE | Mount.OWNED)
    start = image.workdir(settings)
    if start and start != "/":
        flags = _kept(invocation) if image.starts_in(profile, settings) else Mount.OPTIONAL
        yield Directory(dst=start, origin=origin, flags=flags)
