"""A profile's mounts as operations, with what protects our own files and hides what is hidden.

Pure. Two rules run through it. What lies below a writable mount can be renamed by the
payload unless it is a mount point, so every directory from there down to something that
must stay gets a mount of its own (a Pin). And what a profile hides is hidden wherever a
mount would show it, not only under the name that the profile uses.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from sandbox.plan.invocation import Guard, Invocation, Place, is_below, real_source, root_places
from sandbox.plan.limits import inodes
from sandbox.plan.operations import Bind, Mask, Operation, Overlay, Pin, Tmpfs
from sandbox.profile.model import Profile
from sandbox.wire import Mount

__all__ = ["covering", "host_writable", "notes", "operations", "seen"]

_PLAIN = Mount.NOSUID | Mount.NODEV | Mount.CREATE
_STICKY = frozenset(("/tmp", "/var/tmp", "/dev/shm"))
_SHOWS_HOST = ("ro", "rw", "overlay")


def operations(profile: Profile, invocation: Invocation) -> list[Operation]:
    """All mounts of the profile with their protections, parents before children."""
    found: dict[str, Operation] = {}
    for number, place in enumerate(invocation.places):
        operation = _mount(profile, invocation, place, number)
        if operation:
            found[place.destination] = operation
    for operation in _protections(profile, invocation):
        # A mount point that is there anyway needs no protection, and what protects more wins.
        present = found.get(operation.dst)
        if present is None or (isinstance(present, Pin) and _strength(operation) > _strength(present)):
            found[operation.dst] = operation
    ordered = sorted(found.values(), key=lambda each: (each.dst.count("/"), each.dst))
    return list(_without_hidden(ordered))


def _without_hidden(ordered: Sequence[Operation]) -> Iterator[Operation]:
    """Without protections of what lies in something hidden, where nothing is that could be protected."""
    done: dict[str, Operation] = {}
    for each in ordered:
        around = os.path.dirname(each.dst)
        while around != "/" and around not in done:
            around = os.path.dirname(around)
        if isinstance(each, Pin | Mask) and isinstance(done.get(around), Mask):
            continue
        done[each.dst] = each
        yield each


def host_writable(invocation: Invocation) -> tuple[str, ...]:
    """Destinations below which the payload writes to the host's own files."""
    writable = (place for place in invocation.places if place.mount.mode == "rw")
    return tuple(place.destination for place in writable if not _inside_guard(invocation, place))


def seen(invocation: Invocation, path: str, builtin: Sequence[str] = ()) -> str | None:
    """Where the host's *path* is inside: under its own name if it can be, else by the mount that was
    made most closely for it; None when nothing shows it. *builtin* are trees that a host root shows
    under their own names."""
    shown = sorted(_shown(invocation.places, path), key=lambda pair: -len(real_source(pair[0])))
    found = [inside for _, inside in shown]
    if any(is_below(path, tree) for tree in builtin) and covering(invocation.places, path) is None:
        found.append(path)
    if path in found:
        return path
    return found[0] if found else None


# --- the mounts themselves ----------------------------------------------------------------------


def _mount(profile: Profile, invocation: Invocation, place: Place, number: int) -> Operation | None:
    mode, origin, dst = place.mount.mode, str(place.origin), place.destination
    if mode == "hide":
        return Mask(dst=dst, origin=origin, flags=Mount.OPTIONAL)
    if mode == "tmpfs":
        size = place.mount.size or 0
        flags = _PLAIN | Mount.OWNED
        permissions = 0o1777 if dst in _STICKY else 0o700 if dst == invocation.home else 0o755
        return Tmpfs(dst=dst, origin=origin, flags=flags, mode=permissions, size=size, inodes=inodes(size))
    if mode == "overlay":
        on_disk = profile.root.changes == "disk"
        upper, size = (f"mount{number}", 0) if on_disk else ("", place.mount.size or 0)
        lowers = (real_source(place),)
        return Overlay(dst=dst, origin=origin, flags=_PLAIN, lowers=lowers, upper=upper, size=size)
    flags = _PLAIN | Mount.RECURSIVE
    if mode == "ro" or _inside_guard(invocation, place):
        flags |= Mount.READONLY
    if place.mount.optional:
        flags |= Mount.OPTIONAL
    if place.devices:
        flags &= ~Mount.NODEV  # somebody named a device: it is to be used
    return Bind(dst=dst, origin=origin, flags=flags, source=place.source, beneath=place.beneath)


def _inside_guard(invocation: Invocation, place: Place) -> Guard | None:
    """The guard that a writable mount is part of: then all of it is read-only. This is how sandbox runs in
    a checkout of its own."""
    return next((guard for guard in invocation.guards if is_below(real_source(place), guard.path)), None)


def _strength(operation: Operation) -> int:
    if isinstance(operation, Mask):
        return 2
    return 1 if isinstance(operation, Pin) and operation.flags & Mount.READONLY else 0


# --- where a host path can be seen ---------------------------------------------------------------


def covering(places: Sequence[Place], path: str) -> Place | None:
    """The mount that a path inside belongs to; None: to the root."""
    around = [place for place in places if is_below(path, place.destination)]
    return max(around, key=lambda place: len(place.destination), default=None)


def _shown(places: Sequence[Place], path: str) -> Iterator[tuple[Place, str]]:
    """Each mount that shows the host's *path*, with the path that it has there."""
    for place in places:
        source = real_source(place)
        if place.mount.mode not in _SHOWS_HOST or not is_below(path, source):
            continue
        inside = _join(place.destination, _relative(path, source))
        if covering(places, inside) is place:
            yield place, inside


def _relative(path: str, directory: str) -> str:
    return path[len(directory.rstrip("/")) :].lstrip("/")


def _join(directory: str, relative: str) -> str:
    return f"{directory.rstrip('/')}/{relative}" if relative else directory


# --- protections ---------------------------------------------------------------------------------


def _protections(profile: Profile, invocation: Invocation) -> Iterator[Operation]:
    """Operations that may repeat a destination; the caller keeps one of each."""
    layers = profile.root.layered or profile.root.source.startswith("dir:") or invocation.lowers
    strict = Mount(0) if layers else Mount.STRICT
    places = invocation.places
    for root in root_places(invocation.host_layers):  # nothing of it is written: changes are kept aside
        for guard in invocation.hidden:
            yield from _hide((root, *places), root, guard, Mount.STRICT)
    for place in places:
        if place.mount.mode not in _SHOWS_HOST or not place.directory:
            continue
        for guard in invocation.hidden:
            yield from _hide(places, place, guard, strict)
        if place.mount.mode != "rw" or _inside_guard(invocation, place):
            continue
        for guard in invocation.guards:
            yield from _protect(places, place, guard, strict)
        for other in places:
            if other is not place and is_below(other.destination, place.destination):
                yield from _ancestors(places, place, other.destination, strict)


def _hide(places: Sequence[Place], place: Place, guard: Guard, strict: Mount) -> Iterator[Operation]:
    source = real_source(place)
    if guard.path == source or not is_below(guard.path, source):
        return  # asked for by its own name: meant
    inside = _join(place.destination, _relative(guard.path, source))
    if covering(places, inside) is place:
        yield Mask(dst=inside, origin=str(place.origin), flags=Mount.OPTIONAL | strict)
    if place.mount.mode == "rw":
        yield from _ancestors(places, place, inside, strict)


def _protect(places: Sequence[Place], place: Place, guard: Guard, strict: Mount) -> Iterator[Operation]:
    source = real_source(place)
    if guard.path == source or not is_below(guard.path, source):
        return
    inside = _join(place.destination, _relative(guard.path, source))
    if covering(places, inside) is place:
        flags = Mount.READONLY | Mount.RECURSIVE | Mount.OPTIONAL | strict
        yield Pin(dst=inside, origin=str(place.origin), flags=flags)
    yield from _ancestors(places, place, inside, strict)


def _ancestors(places: Sequence[Place], place: Place, inside: str, strict: Mount) -> Iterator[Operation]:
    """A pin for every directory between a mount and something below it that must stay where it is."""
    parts = _relative(inside, place.destination).split("/")[:-1]
    at = place.destination
    for part in parts:
        at = _join(at, part)
        if covering(places, at) is not place:
            return  # a mount point already, and what is below belongs to it
        yield Pin(dst=at, origin=str(place.origin), flags=Mount.RECURSIVE | strict)


# --- what a user should know ---------------------------------------------------------------------


def notes(invocation: Invocation) -> Iterator[str]:
    """What the mounts mean for whoever runs this, in sentences."""
    for place in (*root_places(invocation.host_layers), *invocation.places):
        guard = _inside_guard(invocation, place)
        if place.mount.mode == "rw" and guard:
            yield f"{place.destination} is read-only: it is part of {guard.path}, {guard.what}"
        elif place.mount.mode == "rw":
            yield (
                f"{place.destination} is the host's and writable: what the command leaves there (git hooks, "
                "Makefiles, scripts) is not to be trusted when you use it"
            )
        if place.mount.mode in _SHOWS_HOST and any(
            is_below(real_source(place), guard.path) for guard in invocation.hidden
        ):
            yield f"{place.destination} is a part of the host that is hidden otherwise: {real_source(place)}"
        if place.devices:
            yield f"{place.destination} gives the command devices of the host: {real_source(place)}"
        if place.socket:
            yield f"{place.destination} is a socket: whatever listens on it can be reached, read-only or not"
