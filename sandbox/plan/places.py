"""A profile's mounts, settled: real paths, where they go, and whether they can go there."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from sandbox.errors import ProfileError, TrustError
from sandbox.plan.call import Call, check_overlay, unseen
from sandbox.plan.files import kind_of
from sandbox.plan.invocation import Place, at, by_depth, is_below, origin_of, real_source
from sandbox.profile.model import Mount, Origin
from sandbox.root import tables
from sandbox.words import quote

__all__ = ["places"]


def places(call: Call) -> tuple[Place, ...]:
    """All mounts, parents before what lies in them; without optional ones whose source is missing.

    Raises:
        ProfileError: a source or mount point is missing or can't be used, or must not be given away.
    """
    return _Places(call).places()


class _Places:
    """The settling of all mounts of one call."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.profile = call.profile
        self.trace = call.trace

    def places(self) -> tuple[Place, ...]:
        places: list[Place] = []
        for mount in self.profile.mounts:
            place = self._place(mount, origin_of(self.profile, f'mounts."{mount.destination}"'))
            if place:
                places.append(place)
        places = [self._canonical(place) for place in places]
        places.sort(key=by_depth)
        _refuse_duplicates(places)
        for place in places:
            self._check_point(place, places)
        return tuple(places)

    def _destination(self, mount: Mount) -> str:
        if mount.destination.startswith("/"):
            return "/" + os.path.normpath(mount.destination).lstrip("/")
        path = self.call.expand(mount.destination, mount.base)
        if mount.destination.startswith("~"):
            return path
        # The same path as on the host: the real one, as getcwd(3) gives it.
        return self.trace.follow(path)[0]

    def _place(self, mount: Mount, origin: Origin) -> Place | None:
        destination = self._destination(mount)
        if destination == "/" and not mount.destination.startswith("/"):
            raise ProfileError(
                f"{at(origin)}the working directory / can't be mounted: it is the root of the file system",
                "cd to a directory that holds only what the command needs",
            )
        if destination in tables.RESERVED or is_below(destination, "/proc"):
            what = "the whole root" if destination == "/" else destination
            raise ProfileError(
                f"{at(origin)}a mount can't replace {what}, which every sandbox has for itself",
                "mount it on another path, as in /mnt",
            )
        if mount.mode in ("tmpfs", "hide"):
            return Place(mount, origin, destination)
        if origin.hostile:
            return self._hostile_place(mount, origin, destination)
        written = mount.source if mount.source is not None else mount.destination
        return self._host_place(mount, origin, destination, self.call.expand(written, mount.base))

    def _hostile_place(self, mount: Mount, origin: Origin, destination: str) -> Place | None:
        """A mount of an untrusted project: below its own directory, through no link."""
        written = mount.source if mount.source is not None else mount.destination
        relative = os.path.normpath(written)
        if mount.base is None or written.startswith(("/", "~")) or relative.split("/", 1)[0] == "..":
            raise TrustError(
                f"{at(origin)}{written} is outside of the project, which is not trusted",
                "sandbox profile trust",
            )
        base, _ = self.trace.follow(mount.base)
        path = os.path.normpath(os.path.join(base, relative))
        real, links = self.trace.follow(path)
        if links or real != path:
            raise TrustError(
                f"{at(origin)}{written} leads through a symbolic link, and the project is not trusted",
                "sandbox profile trust",
            )
        place = self._host_place(mount, origin, destination, path)
        if place is None:
            return None
        return replace(place, source=relative, beneath=base, devices=False)

    def _host_place(self, mount: Mount, origin: Origin, destination: str, path: str) -> Place | None:
        try:
            real = self.call.source(origin, path)
            kind = kind_of(real)
        except OSError as error:
            raise unseen(origin, "the mount source", path, error, mount.destination) from error
        if not kind:
            if mount.optional:
                return None
            raise ProfileError(
                f"{at(origin)}the mount source {path} does not exist",
                f"mkdir -p {quote(path)}, or set optional = true",
            )
        if is_below(real, "/proc"):
            message = f"{at(origin)}{path} would show the processes of the host"
            raise ProfileError(message, "remove this mount: /proc inside is always the sandbox's own")
        directory = stat.S_ISDIR(kind)
        if mount.mode == "overlay":
            check_overlay(origin, path, real, directory)
        self._check_given_away(mount, origin, real)
        devices = stat.S_ISCHR(kind) or stat.S_ISBLK(kind) or (is_below(real, "/dev") and real != "/dev")
        return Place(mount, origin, destination, real, directory, socket=stat.S_ISSOCK(kind), devices=devices)

    def _check_given_away(self, mount: Mount, origin: Origin, real: str) -> None:
        """Refuse to give or show a working directory that is more than a project: a home has keys in it.
        A path that somebody wrote out in full is taken to be meant."""
        written = mount.source if mount.source is not None else mount.destination
        named = (self.call.home, self.call.environ.get("HOME", ""))
        homes = [self.trace.follow(each)[0] for each in named if each.startswith("/")]
        home = next((each for each in homes if is_below(each, real)), None)
        if written.startswith(("/", "~")) or home is None:
            return
        what = "your home directory" if real == home else "above your home directory"
        what = "the root of the file system" if real == "/" else what
        could, may = ("writable", "change") if mount.mode == "rw" else ("readable", "see")
        raise ProfileError(
            f"{at(origin)}the working directory {real} is {what}, and would be {could} for the command",
            f"cd to a directory that holds only what the command may {may}",
        )

    def _canonical(self, place: Place) -> Place:
        """With a destination that does not lead through the links of a host root (merged /usr)."""
        if self.profile.root.source != "host":
            return place
        destination = place.destination
        for name in tables.HOST_TREES:
            if destination.startswith(name + "/") and os.path.islink(name):
                rest = destination[len(name) + 1 :]
                destination = os.path.normpath(os.path.join("/", os.readlink(name), rest))
        if destination == place.destination:
            return place
        return replace(place, destination=destination)

    def _check_point(self, place: Place, places: Sequence[Place]) -> None:
        """Whether the mount point exists, where nobody may make it: below a directory of the host's."""
        below = self._covering(place.destination, places)
        if not below or place.mount.mode == "hide":
            return
        path, inside = below
        relative = place.destination[len(inside) :]
        try:
            real, links = self.trace.follow(path + relative)
            kind = kind_of(real)
        except OSError as error:
            written = place.mount.destination
            raise unseen(place.origin, "the mount point", path + relative, error, written) from error
        if links:
            raise ProfileError(
                f"{at(place.origin)}the mount point {place.destination} leads through the link {links[0]}",
                f"name its real path, {real}",
            )
        if not kind:
            make = f"{'mkdir -p' if place.directory else 'touch'} {quote(path + relative)}"
            raise ProfileError(
                f"{at(place.origin)}there is no {path + relative} to mount on, and the sandbox makes "
                f"nothing in the host's {path}",
                make,
            )
        if stat.S_ISDIR(kind) != place.directory:
            one, other = ("a directory", "a file") if place.directory else ("a file", "a directory")
            raise ProfileError(
                f"{at(place.origin)}cannot mount {one} on {place.destination}, which is {other}",
                "mount it on another path, as in /mnt",
            )

    def _covering(self, destination: str, places: Sequence[Place]) -> tuple[str, str] | None:
        """What of the host lies below a mount point: (path on the host, where it is inside); None when
        that is ours, where a missing mount point can be made."""
        best: tuple[str, str] | None = None
        length = 0
        if self.profile.root.source == "host":
            for tree in tables.HOST_TREES:
                if destination.startswith(tree + "/") and os.path.isdir(tree) and not os.path.islink(tree):
                    best, length = (tree, tree), len(tree)
        for other in places:
            if not destination.startswith(other.destination + "/") or len(other.destination) < length:
                continue
            length = len(other.destination)
            if other.mount.mode == "hide":
                raise ProfileError(
                    f"{at(other.origin)}{destination} lies below {other.destination}, which is hidden",
                    f'remove one of the two mounts, or set "{other.destination}" to "tmpfs"',
                )
            ours = other.mount.mode in ("tmpfs", "overlay")
            best = None if ours else (real_source(other), other.destination)
        return best


def _refuse_duplicates(places: Sequence[Place]) -> None:
    for one, other in pairwise(places):
        if one.destination == other.destination:
            raise ProfileError(
                f"{at(other.origin)}two mounts on {other.destination}: "
                f'"{one.mount.destination}" and "{other.mount.destination}"',
                "remove one of them (false removes an inherited one), or cd to another directory",
            )
