"""From a profile and this call to an `Invocation`: the only part of planning that looks at files.

It follows links, checks that mount sources exist and mount points can, reads the few host
files that generated ones are made from, and makes our own directories where a payload could
otherwise plant them. It decides nothing about the sandbox: that is `compile`'s, which makes
no system calls. Everything looked at leaves a `FileStamp`, so that a cached plan can be
told from a stale one.
"""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from sandbox import paths
from sandbox.errors import ProfileError, SetupError, TrustError
from sandbox.plan.files import (
    Tracer,
    directories_in_root,
    identity,
    kind_of,
    make_private,
    mount_points,
    read_in_root,
    read_text,
)
from sandbox.plan.plan import FileStamp
from sandbox.profile.model import Mount, Origin, Profile
from sandbox.root import tables
from sandbox.root.etc import find_user, shell_name
from sandbox.words import quote

if TYPE_CHECKING:
    from sandbox.host import Host

__all__ = [
    "Entry",
    "Guard",
    "Invocation",
    "Place",
    "at",
    "by_depth",
    "is_below",
    "origin_of",
    "real_source",
    "resolve",
    "root_place",
]


#: What loading a profile gives as the source of values that nobody set.
DEFAULT_SOURCE = "built-in default"
_NOWHERE = Origin("")


@dataclass(frozen=True, slots=True)
class Entry:
    """A path of the host-root tables that exists: a directory, a file, or a link whose target is
    inside the shown trees. `source` is what to bind (a link that leads elsewhere: its real path)."""

    kind: Literal["dir", "file", "link"]
    target: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """One entry of `[mounts]`, settled. Paths are absolute and normal; `source` is a real path ("" for
    tmpfs). `beneath` is set for an untrusted project's: the directory that may not be left."""

    mount: Mount
    origin: Origin
    destination: str
    source: str = ""
    directory: bool = True
    beneath: str = ""
    socket: bool = False
    #: a device node, or a directory of them
    devices: bool = False


@dataclass(frozen=True, slots=True)
class Guard:
    """A file or directory of ours on the host, or one that a profile hides. `links` are the symbolic
    links that lead to it: whoever can replace one of them can replace what it leads to."""

    path: str
    what: str
    links: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Invocation:
    """What was gathered for one call.

    `cwd` is a real path. `environ` holds kept variables only. `entries` are the host-root paths that
    exist; `places` the mounts, without optional ones whose source is missing; `guards` what must not be
    written or replaced; `hidden` what must not be seen; `hard_limits` the caller's own (resource number
    to value; unlimited ones are left out); `texts` copies of host files by their path. Of a `dir:` root,
    `root` is the real path and `directories` what exists there, with the owners.
    """

    cwd: str
    home: str
    user: str
    group: str
    shell: str = "/bin/sh"
    environ: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    entries: Mapping[str, Entry] = field(default_factory=lambda: MappingProxyType({}))
    places: tuple[Place, ...] = ()
    guards: tuple[Guard, ...] = ()
    hidden: tuple[Guard, ...] = ()
    root: str = ""
    directories: Mapping[str, tuple[int, int]] = field(default_factory=lambda: MappingProxyType({}))
    hard_limits: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))
    texts: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    files: tuple[FileStamp, ...] = ()


def is_below(path: str, directory: str) -> bool:
    """Whether *path* is *directory* or lies below it; both absolute and normal."""
    return path == directory or directory == "/" or path.startswith(directory + "/")


def resolve(profile: Profile, host: Host, cwd: str, environ: Mapping[str, str]) -> Invocation:
    """Gather what *profile* needs to know of this call and of the files it names.

    Args:
        cwd: the caller's working directory, absolute.
        environ: the caller's environment; only what `env.keep` names is kept.

    Raises:
        ProfileError: a mount source or mount point is missing, or a directory is one that may not be
            given away.
        SetupError: one of our own directories can't be made.
    """
    return _Resolver(profile, host, cwd, environ).invocation()


def at(origin: Origin) -> str:
    """How a message about what came from *origin* begins: "file:line: ", or nothing."""
    return f"{origin}: " if origin.source else ""


def origin_of(profile: Profile, key: str) -> Origin:
    """Where *key* was set; an empty origin for a default."""
    found = profile.origins.get(key, _NOWHERE)
    return _NOWHERE if found.source == DEFAULT_SOURCE else found


# --- the parts of an invocation ----------------------------------------------------------------


class _Resolver:
    """One call of `resolve`: the methods are its parts, in the order in which they are used."""

    def __init__(self, profile: Profile, host: Host, cwd: str, environ: Mapping[str, str]) -> None:
        self.profile = profile
        self.host = host
        self.environ = environ
        self.trace = Tracer()
        self.cwd = self._cwd(cwd)
        self.user, self.group, self.home = self._account()
        for path in (*profile.files, *profile.looked, "/etc/subuid", "/etc/subgid"):
            self.trace.see(path)

    def invocation(self) -> Invocation:
        entries = self._entries() if self.profile.root.source == "host" else {}
        root = self._root()
        places = self._places()
        texts = self._texts(root)
        return Invocation(
            cwd=self.cwd,
            home=self.home,
            user=self.user,
            group=self.group,
            shell=self._shell(),
            environ=MappingProxyType(self._kept()),
            entries=MappingProxyType(entries),
            places=places,
            guards=self._guards(places),
            hidden=self._hidden((*places, *root_place(root))),
            root=root,
            directories=MappingProxyType(self._directories(root, places, texts)),
            hard_limits=MappingProxyType(_hard_limits()),
            texts=MappingProxyType(texts),
            files=self.trace.stamps(),
        )

    # the caller

    def _cwd(self, cwd: str) -> str:
        try:
            real, _ = self.trace.follow(cwd)
            os.stat(real)
        except OSError as error:
            raise SetupError(
                f"cannot use the working directory {cwd}: {error.strerror}", "cd to a directory that exists"
            ) from error
        return real

    def _account(self) -> tuple[str, str, str]:
        """Names of the caller's user and group, and the home directory as written in HOME, or else in
        passwd(5). Unusual ids without a name are no error."""
        import grp
        import pwd

        user, group, listed = f"user{self.host.uid}", f"group{self.host.gid}", ""
        with suppress(KeyError):
            account = pwd.getpwuid(self.host.uid)
            user, listed = shell_name(account.pw_name, user), account.pw_dir
        with suppress(KeyError):
            group = shell_name(grp.getgrgid(self.host.gid).gr_name, group)
        self.trace.see("/etc/passwd")
        self.trace.see("/etc/group")
        asked = self.environ.get("HOME") or listed
        usable = next((each for each in (asked, listed) if _is_home(each)), "/")
        return user, group, os.path.normpath("/" + usable.lstrip("/"))

    def _shell(self) -> str:
        """The caller's shell where a host root shows it; for the generated passwd(5)."""
        shell = os.path.normpath(self.environ.get("SHELL") or "/bin/sh")
        shown = any(is_below(shell, tree) for tree in tables.HOST_TREES)
        if self.profile.root.source != "host" or not shown or not shell.isprintable() or ":" in shell:
            return "/bin/sh"
        return shell if os.access(shell, os.X_OK) else "/bin/sh"

    def _kept(self) -> dict[str, str]:
        keep = self.profile.env.keep
        exact = {name for name in keep if "*" not in name}
        prefixes = tuple(name[:-1] for name in keep if name.endswith("*"))
        return {
            name: value
            for name, value in sorted(self.environ.items())
            if name in exact or name.startswith(prefixes)
        }

    # the root

    def _entries(self) -> dict[str, Entry]:
        self.trace.see("/", entries=True)
        self.trace.see("/etc", entries=True)
        entries: dict[str, Entry] = {}
        for path in (*tables.HOST_TREES, *(f"/etc/{name}" for name in tables.ETC)):
            entry = self._entry(path)
            if entry:
                entries[path] = entry
        return entries

    def _entry(self, path: str) -> Entry | None:
        try:
            status = os.lstat(path)
        except OSError:
            return None
        if stat.S_ISDIR(status.st_mode):
            return Entry("dir", source=self.trace.follow(path)[0])
        if not stat.S_ISLNK(status.st_mode):
            return Entry("file", source=self.trace.follow(path)[0])
        try:
            real, _ = self.trace.follow(path)
            kind = kind_of(real)
        except OSError:
            return None
        if any(is_below(real, tree) for tree in tables.HOST_TREES) or _below_etc_table(real):
            return Entry("link", target=os.readlink(path))
        if not kind:
            return None
        return Entry("dir" if stat.S_ISDIR(kind) else "file", source=real)

    def _root(self) -> str:
        """The real path of a `dir:` root, or ""."""
        scheme, _, written = self.profile.root.source.partition(":")
        if scheme != "dir":
            return ""
        origin = origin_of(self.profile, "root.from")
        base = self.profile.root.base
        if origin.hostile:
            message = f"{at(origin)}a project that is not trusted can't choose the root"
            raise TrustError(message, "sandbox profile trust")
        path = self._expand(written, base)
        try:
            real, _ = self.trace.follow(path)
            kind = kind_of(real)
        except OSError as error:
            raise _unseen(origin, "the root", path, error) from error
        if not kind:
            message = f"{at(origin)}the root directory {path} does not exist"
            raise ProfileError(message, f"mkdir -p {quote(path)}")
        if not stat.S_ISDIR(kind):
            raise ProfileError(f"{at(origin)}the root {path} is not a directory")
        if real == "/":
            message = f'{at(origin)}"dir:/" can\'t be the root: the kernel refuses to overlay it'
            raise ProfileError(message, 'from = "host"')
        _check_overlay(origin, path, real, True)
        return real

    def _directories(
        self, root: str, places: Sequence[Place], texts: Mapping[str, str]
    ) -> dict[str, tuple[int, int]]:
        """Which directories of a `dir:` root exist on the way to what will be mounted or made there, and
        their owners; none behind a link."""
        if not root:
            return {}
        uid = {"keep": self.host.uid, "root": 0}.get(self.profile.user.map, -1)
        account = find_user(texts["passwd"], uid)
        wanted = [
            "/etc/x",
            "/dev",
            "/proc",
            "/sys",
            "/tmp",
            "/var/tmp",
            "/run",
            self.home,
            f"/home/{self.user}",
        ]
        wanted += [account[1]] if account else []
        wanted += [place.destination for place in places]
        found: dict[str, tuple[int, int]] = {}
        for path in wanted:
            found.update(directories_in_root(root, path))
        for path in found:
            self.trace.see(root + path)
        self._check_scratch(root, places)
        return found

    def _check_scratch(self, root: str, places: Sequence[Place]) -> None:
        """Refuse a link where a directory in memory is to be mounted, unless it leads to another of them:
        what it leads to would be covered, be it all of the root."""
        origin = origin_of(self.profile, "root.from")
        for path in tables.SCRATCH:
            if any(is_below(path, place.destination) for place in places):
                continue
            try:
                leads, links = self.trace.follow(path, root=root)
            except OSError as error:
                raise _unseen(origin, "a directory of the root", root + path, error) from error
            if links and leads not in (*tables.SCRATCH, "/var/run"):
                raise ProfileError(
                    f"{at(origin)}{path} in the root {root} is a link that leads to {leads}, which the "
                    "sandbox's own directory in memory would cover",
                    f"rm {quote(links[0])} && mkdir -p {quote(root + path)}",
                )

    def _texts(self, root: str) -> dict[str, str]:
        """Host files to copy from (with the host's network), and a `dir:` root's own accounts."""
        texts: dict[str, str] = {}
        if self.profile.net.mode == "host":
            for path in ("/etc/resolv.conf", "/etc/hosts"):
                real, _ = self.trace.follow(path)
                texts[path] = read_text(real)
        if root:
            for name in ("passwd", "group"):
                self.trace.see(f"{root}/etc/{name}")
                texts[name] = read_in_root(root, name)
        return texts

    # mounts

    def _mount_origin(self, mount: Mount) -> Origin:
        key = f'mounts."{mount.destination}"'
        return origin_of(self.profile, key)

    def _expand(self, path: str, base: str | None) -> str:
        if path == "~" or path.startswith("~/"):
            asked = self.environ.get("HOME") or self.home
            if not _is_home(asked):
                raise ProfileError(
                    f"{path} can't be found: HOME is {asked!r}, which is no absolute path without a colon",
                    f"export HOME={quote(self.home) if self.home != '/' else '/your/home'}",
                )
            path = self.home + path[1:]
        return os.path.normpath(os.path.join(base or self.cwd, path))

    def _places(self) -> tuple[Place, ...]:
        places: list[Place] = []
        for mount in self.profile.mounts:
            place = self._place(mount, self._mount_origin(mount))
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
        path = self._expand(mount.destination, mount.base)
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
        return self._host_place(mount, origin, destination, self._expand(written, mount.base))

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
            real, _ = self.trace.follow(path)
            kind = kind_of(real)
        except OSError as error:
            raise _unseen(origin, "the mount source", path, error, mount.destination) from error
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
            _check_overlay(origin, path, real, directory)
        self._check_given_away(mount, origin, real)
        devices = stat.S_ISCHR(kind) or stat.S_ISBLK(kind) or (is_below(real, "/dev") and real != "/dev")
        return Place(mount, origin, destination, real, directory, socket=stat.S_ISSOCK(kind), devices=devices)

    def _check_given_away(self, mount: Mount, origin: Origin, real: str) -> None:
        """Refuse to give or show a working directory that is more than a project: a home has keys in it.
        A path that somebody wrote out in full is taken to be meant."""
        written = mount.source if mount.source is not None else mount.destination
        named = (self.home, self.environ.get("HOME", ""))
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
            raise _unseen(place.origin, "the mount point", path + relative, error, written) from error
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
                f"{at(place.origin)}cannot mount {one} on {place.destination}, which is {other}"
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

    # what must be protected

    def _guards(self, places: Sequence[Place]) -> tuple[Guard, ...]:
        """Our own files below a writable mount. Directories that do not exist yet are made: else the
        payload could make them, with what it likes in them."""
        writable = [real_source(place) for place in places if place.mount.mode == "rw"]
        if not writable:
            return ()
        guards = [self._guard(path, "where sandbox is installed") for path in paths.installation()]
        guards += [self._guard(path, "the profile") for path in self.profile.files]
        for path, what in ((paths.config_dir(), "sandbox's configuration"), *self._kept_of_runs()):
            guard = self._guard(path, what)
            names = [each.path for each in _with_aliases([guard], places)]
            if any(is_below(name, each) for name in names for each in writable):
                make_private(guard.path, what)
                self.trace.see_again(guard.path)
            guards.append(guard)
        for guard in guards:
            self._refuse_links(guard, writable)
        return _with_aliases(guards, places)

    def _guard(self, path: str, what: str) -> Guard:
        try:
            real, links = self.trace.follow(path)
        except OSError as error:
            raise _unseen(_NOWHERE, what, path, error) from error
        return Guard(real, what, tuple(links))

    def _refuse_links(self, guard: Guard, writable: Iterable[str]) -> None:
        """A link can't be protected as a directory can: nothing can be mounted on it."""
        for link in guard.links:
            for each in writable:
                if link != each and is_below(link, each):
                    raise ProfileError(
                        f"{guard.what} is reached through the symbolic link {link}, which the command could "
                        f"replace because {each} is writable for it",
                        f"mount a directory below {each}, or replace the link by a directory",
                    )

    def _hidden(self, places: Sequence[Place]) -> tuple[Guard, ...]:
        """Host paths that may be seen through no mount: what the profile hides, the runtime directories, and
        what sandbox keeps of other runs (variables of cached plans, what other sandboxes wrote)."""
        writable = [real_source(place) for place in places if place.mount.mode == "rw"]
        hidden: list[Guard] = []
        for place in places:
            if place.mount.mode != "hide":
                continue
            guard = self._guard(place.destination, "hidden")
            if self._exists(guard.path, place):
                hidden.append(guard)
                continue
            if any(is_below(guard.path, each) for each in writable) and not place.mount.optional:
                raise ProfileError(
                    f"{at(place.origin)}{place.destination} is to be hidden but does not exist, and the "
                    "command could make it, because it lies below a writable mount",
                    f"mkdir -m 700 {quote(guard.path)}, or set optional = true",
                )
        for guard in hidden:
            self._refuse_links(guard, writable)
        named = (self.environ.get(name, "") for name in tables.RUNTIME_VARIABLES)
        for path in (*tables.RUNTIME, *named):
            if path.startswith("/") and path.strip("/") and _may_exist(path):
                hidden.append(Guard(self.trace.follow(path)[0], "runtime"))
        # Whether they exist or not: the launch itself makes some.
        for path, what in self._kept_of_runs():
            hidden.append(self._guard(path, what))
        return _with_aliases(hidden, places)

    def _exists(self, path: str, place: Place) -> bool:
        """Whether what is to be hidden exists, as far as a command could find out. It can open a directory of
        its own that is closed, and what in it is a link we can't tell; another user's stays closed."""
        try:
            return bool(kind_of(path))
        except OSError as error:
            blocked = _blocked(path)
            if blocked and os.stat(blocked).st_uid != self.host.uid:
                return True
            raise _unseen(
                place.origin, "what is to be hidden", path, error, place.mount.destination
            ) from error

    def _kept_of_runs(self) -> tuple[tuple[str, str], ...]:
        return (
            (paths.cache_dir(), "sandbox's cache"),
            (paths.state_dir(), "sandbox's state"),
            (paths.data_dir(), "sandbox's data"),
            (paths.runtime_dir(), "sandbox's runtime directory"),
        )


def _may_exist(path: str) -> bool:
    """Whether *path* exists, or lies where we can't look, as after su(1)."""
    try:
        return bool(kind_of(path))
    except PermissionError:
        return True
    except OSError:  # a loop of links, or a name that is too long: it leads nowhere
        return False


def _with_aliases(guards: Sequence[Guard], places: Sequence[Place]) -> tuple[Guard, ...]:
    """*guards*, and the same under the other names that mount sources have for them: a directory of the
    host's can be mounted at a second place there, and then its path alone does not tell."""
    known = cache(identity)
    by_source: dict[tuple[int, int], set[str]] = {}
    for place in places:
        if place.mount.mode in ("ro", "rw", "overlay"):
            by_source.setdefault(known(real_source(place)), set()).add(real_source(place))
    by_guard = {known(guard.path): guard for guard in guards}
    found = list(guards)
    for guard in guards:
        for parent in _upwards(guard.path):
            rest = guard.path[len(parent.rstrip("/")) :]
            aliases = by_source.get(known(parent), set()) - {parent}
            found += [replace(guard, path=alias.rstrip("/") + rest) for alias in sorted(aliases)]
    for source in sorted(set().union(*by_source.values())):
        for parent in _upwards(source):
            same = by_guard.get(known(parent))
            if same and same.path != parent:
                found.append(replace(same, path=parent))
    return tuple(dict.fromkeys(found))


def _upwards(path: str) -> Iterator[str]:
    """*path* and its parents, without the root."""
    while path != "/":
        yield path
        path = os.path.dirname(path)


def by_depth(place: Place) -> tuple[int, str]:
    """A sorting key that puts parents before what lies in them."""
    return place.destination.count("/"), place.destination


def root_place(root: str) -> tuple[Place, ...]:
    """A `dir:` root as what it is for the files in it, an overlay on "/"; none for any other root."""
    return (Place(Mount("/", "overlay"), _NOWHERE, "/", root),) if root else ()


def real_source(place: Place) -> str:
    """The real path of a place's source."""
    return os.path.normpath(f"{place.beneath}/{place.source}") if place.beneath else place.source


def _is_home(path: str) -> bool:
    """Whether *path* can be a home, and stand in passwd(5)."""
    return path.startswith("/") and ":" not in path and not any(c < " " or c == "\x7f" for c in path)


def _below_etc_table(real: str) -> bool:
    return any(is_below(real, f"/etc/{name}") for name in tables.ETC)


def _hard_limits() -> dict[int, int]:
    limits = {number: resource.getrlimit(number)[1] for number in range(16)}
    return {number: hard for number, hard in limits.items() if hard != resource.RLIM_INFINITY}


def _unseen(origin: Origin, what: str, path: str, error: OSError, mount: str = "") -> ProfileError:
    """What to say of a path that can't be looked at; *mount* is the key in [mounts] that names it, if any."""
    blocked = _blocked(path) if isinstance(error, PermissionError) else ""
    mend = f"chmod u+rx {quote(blocked)}" if blocked else f"ls -ld {quote(path)}"
    if mount:
        mend += f'    or, in [mounts]: "{mount}" = false'
    return ProfileError(f"{at(origin)}cannot look at {what}, {path}: {error.strerror}", mend)


def _blocked(path: str) -> str:
    """The first directory on the way to *path* that we may not search, or ""."""
    above = [*_upwards(os.path.dirname(path))][::-1]
    return next((each for each in above if not os.access(each, os.X_OK)), "")


def _refuse_duplicates(places: Sequence[Place]) -> None:
    for one, other in pairwise(places):
        if one.destination == other.destination:
            raise ProfileError(
                f"{at(other.origin)}two mounts on {other.destination}: "
                f'"{one.mount.destination}" and "{other.mount.destination}"',
                "remove one of them (false removes an inherited one), or cd to another directory",
            )


def _check_overlay(origin: Origin, path: str, real: str, directory: bool) -> None:
    if not directory:
        message = f"{at(origin)}{path} is no directory, and can't have an overlay"
        raise ProfileError(message, 'mode = "ro"')
    below = [point for point in mount_points() if point != real and is_below(point, real)]
    if below:
        raise ProfileError(
            f"{at(origin)}the kernel makes no overlay of {path}, because {below[0]} is a mount below it",
            f"umount {quote(below[0])}, or give the directories beside it an overlay each",
        )
