"""The call that is planned: who makes it and from where, and looking at files for it.

What is looked at leaves stamps in `trace`. The parts of `resolve` are functions of this.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import NamedTuple

from sandbox.errors import ProfileError, SetupError
from sandbox.host.model import Host
from sandbox.plan.files import Tracer, mount_points
from sandbox.plan.invocation import at, is_below
from sandbox.profile import files
from sandbox.profile.model import Origin, Profile
from sandbox.root.etc import shell_name
from sandbox.words import quote

__all__ = ["Call", "Source", "check_overlay", "unseen", "upwards"]


class Source(NamedTuple):
    """Something of the host's that the command gets: `path` as it was asked for, the real one, and the links
    on the way, each by its own real place."""

    origin: Origin
    path: str
    real: str
    links: tuple[str, ...]


class Call:
    """One call of `resolve`. `cwd` is a real path; `home` the home directory as it is used, "/" for none.

    Raises:
        SetupError: the working directory can't be used.
    """

    def __init__(self, profile: Profile, host: Host, cwd: str, environ: Mapping[str, str]) -> None:
        self.profile = profile
        self.host = host
        self.environ = environ
        self.trace = Tracer()
        #: mounts and directories of a root, for `guards.refuse_planted`
        self.sources: list[Source] = []
        self.cwd = self._cwd(cwd)
        self.user, self.group, self.home = self._account()
        for path in (*profile.files, *profile.looked, "/etc/subuid", "/etc/subgid"):
            self.trace.see(path)

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

    def source(self, origin: Origin, path: str) -> str:
        """The real path of something that the command gets.

        Raises:
            OSError: it can't be looked at.
        """
        real, links = self.trace.follow(path)
        self.sources.append(Source(origin, path, real, tuple(links)))
        return real

    def expand(self, path: str, base: str | None) -> str:
        """A path as a profile writes it, absolute and normal; *base* is where relative ones start.

        Raises:
            ProfileError: it begins with "~", and there is no home.
        """
        if path == "~" or path.startswith("~/"):
            asked = self.environ.get("HOME") or self.home
            if not _is_home(asked):
                raise ProfileError(
                    f"{path} can't be found: HOME is {asked!r}, which is no absolute path without a colon",
                    f"export HOME={quote(self.home) if self.home != '/' else '/your/home'}",
                )
            path = self.home + path[1:]
        return os.path.normpath(os.path.join(base or self.cwd, path))


def _is_home(path: str) -> bool:
    """Whether *path* can be a home, and stand in passwd(5)."""
    return path.startswith("/") and ":" not in path and not any(c < " " or c == "\x7f" for c in path)


def unseen(origin: Origin, what: str, path: str, error: OSError, mount: str = "") -> ProfileError:
    """What to say of a path that can't be looked at; *mount* is the key in [mounts] that names it, if any."""
    mend = files.opening(path)
    if mount:
        mend += f'    or, in [mounts]: "{mount}" = false'
    return ProfileError(f"{at(origin)}cannot look at {what}, {path}: {error.strerror}", mend)


def upwards(path: str) -> Iterator[str]:
    """*path* and its parents, without the root."""
    while path != "/":
        yield path
        path = os.path.dirname(path)


def check_overlay(origin: Origin, path: str, real: str, directory: bool) -> None:
    """Refuse an overlay that the kernel makes none of, of *path* that leads to *real*."""
    if not directory:
        message = f"{at(origin)}{path} is no directory, and can't have an overlay"
        raise ProfileError(message, 'mode = "ro"')
    below = [point for point in mount_points() if point != real and is_below(point, real)]
    if below:
        raise ProfileError(
            f"{at(origin)}the kernel makes no overlay of {path}, because {below[0]} is a mount below it",
            f"umount {quote(below[0])}, or give the directories beside it an overlay each",
        )
