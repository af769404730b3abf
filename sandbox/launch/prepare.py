"""From a profile's name and overrides to a plan with everything but its slots filled.

What `run` of the command line and of the API have in common. A prepared plan can be used
again as long as it is `current()`: the API keeps a few in memory, the command line on disk
(`sandbox.cli.cache`). Nothing here starts anything.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandbox import wire
from sandbox.plan.layers import Layers
from sandbox.plan.plan import FileStamp

if TYPE_CHECKING:
    from sandbox.plan.invocation import Invocation
    from sandbox.plan.plan import Plan
    from sandbox.profile.model import Profile

__all__ = ["Prepared", "prepare", "without_environment"]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A plan, ready but for its slots.

    `static` is the encoded plan without the environment, which is a slot for us: it is replaced
    by `env=`, and what is kept from the caller need not be stored. `environment` is (name, value),
    value None where it is the caller's own. `own_cgroup` is the caller's (/proc/PID/cgroup), where the
    plan is good for that alone.
    """

    profile: Profile
    plan: Plan
    static: bytes
    environment: tuple[tuple[str, str | None], ...]
    stamps: tuple[FileStamp, ...]
    own_cgroup: str = ""

    def variables(self, environ: Mapping[str, str]) -> list[str]:
        """NAME=VALUE of the command, for a caller with *environ*."""
        return [
            f"{name}={environ[name] if value is None else value}"
            for name, value in self.environment
            if value is not None or name in environ
        ]

    def argv(self, given: Sequence[str]) -> list[str]:
        """The command, where *given* was asked for: an image's entry point goes before it, and who asks for
        nothing gets the profile's, or else the image's.

        Raises:
            ImageError: the image's makes no sense.
        """
        from sandbox.plan.image import argv

        return argv(self.plan.settings, list(given) or self.profile.command)

    def take_leases(self) -> list[int] | None:
        """Descriptors that keep what the plan uses from being removed, the caller's to close; None when some
        of it is gone, and the plan has to be made anew.

        Raises:
            SetupError: they can't be taken.
        """
        if not self.plan.leases:
            return []
        from sandbox.errors import SetupError
        from sandbox.leases import take
        from sandbox.words import quote

        fds: list[int] = []
        try:
            for lease in self.plan.leases:
                fd = take(*lease)
                if fd < 0:
                    break
                fds.append(fd)
            else:
                return fds
        except OSError as error:
            message = f"cannot use {lease.store}: {error.strerror}"
            for fd in fds:
                os.close(fd)
            mend = f"ls -ld {quote(lease.store)}    it must be yours, and writable"
            raise SetupError(message, mend, errno=error.errno or 0) from error
        for fd in fds:
            os.close(fd)
        return None

    @property
    def owner(self) -> tuple[int, int] | None:
        """Who the command is outside, where that is not the caller: root's commands are not root."""
        ids = self.plan.ids
        return (ids.host_uid, ids.host_gid) if ids.host_uid != os.geteuid() else None

    def current(self) -> bool:
        """Whether all that the plan was made from is as it was."""
        if self.own_cgroup:
            from sandbox.host.delegation import own_path

            with open("/proc/self/cgroup") as file:
                if own_path(file.read()) != self.own_cgroup:
                    return False
        return all(each.current() for each in self.stamps)


def prepare(
    profile: str | Profile | None,
    overrides: Mapping[str, object],
    cwd: str,
    environ: Mapping[str, str],
    *,
    guarded: Sequence[str] = (),
    alone: bool = False,
    layers: Layers = Layers(),  # noqa: B008
) -> Prepared:
    """Load, resolve and compile.

    Args:
        profile: a name, a path, a loaded profile, or None for the project's or "default".
        overrides: by dotted key, as `sandbox.profile.load` takes them.
        cwd: where relative paths start; absolute.
        environ: the caller's environment.
        guarded: files on the host that the command must not replace, besides our own (the report).
        alone: this process will become the supervisor, so that it may leave its cgroup.
        layers: what a root of layers has besides those of the profile.

    Raises:
        SandboxError: with all its subclasses: see `sandbox.errors`.
    """
    from sandbox import host as hosts
    from sandbox import net
    from sandbox.plan.compile import compile
    from sandbox.plan.resolve import resolve
    from sandbox.profile import adjust, load
    from sandbox.profile.model import Profile

    if isinstance(profile, Profile):
        loaded = adjust(profile, overrides, cwd=cwd) if overrides else profile
    else:
        loaded = load(profile, overrides, cwd=cwd)
    parent = loaded.limits.cgroup_parent
    if parent == "auto":
        parent = environ.get("SANDBOX_CGROUP_PARENT") or "auto"
    network: str = loaded.net.backend if net.has_own(loaded.net) else ""
    if net.is_private(loaded.net):
        from sandbox.net.private import store

        network = store.load(loaded.net.mode, _where(loaded)).backend
    if loaded.net.mode == "proxy":
        network = "proxy"
    need = ("overlay",) if _driver_is_open(loaded) else ()
    host = hosts.probe(need=need, cgroup=parent, alone=alone, network=network)
    invocation = resolve(loaded, host, cwd, environ, layers)
    if guarded:
        invocation = _guard(invocation, guarded)
    plan = compile(loaded, host, invocation)
    watched = (*loaded.looked, *host.cgroup.watched, *host.network.watched)
    return Prepared(
        profile=loaded,
        plan=plan,
        static=without_environment(plan.encode()),
        environment=_by_reference(plan, invocation, loaded),
        stamps=(*plan.files, *map(FileStamp.take, watched)),
        own_cgroup=host.cgroup.own,
    )


def _where(profile: Profile) -> str:
    from sandbox.plan.invocation import at, origin_of

    return at(origin_of(profile, "net.mode"))


def _driver_is_open(profile: Profile) -> bool:
    """Whether it has to be known before if the kernel makes overlays: else fuse-overlayfs does."""
    root = profile.root
    overlays = (
        root.layered or root.source.startswith("dir:") or any(m.mode == "overlay" for m in profile.mounts)
    )
    return overlays and root.driver == "auto"


def _guard(invocation: Invocation, paths_: Sequence[str]) -> Invocation:
    """*invocation* with more files that compile is to protect where a writable mount covers them.

    Raises:
        ProfileError: one is reached through a link, which the command could replace.
    """
    from dataclasses import replace

    from sandbox.errors import ProfileError
    from sandbox.plan.files import Tracer
    from sandbox.plan.guards import planted
    from sandbox.plan.invocation import Guard

    guards = []
    for path in paths_:
        real, links = Tracer().follow(os.path.join(invocation.cwd, path))
        link = planted(links, invocation.places)
        if link:
            raise ProfileError(
                f"{path} is reached through the symbolic link {link}, which the command could replace",
                f"name its real path, {real}",
            )
        guards.append(Guard(real, "the report"))
    return replace(invocation, guards=(*invocation.guards, *guards))


def without_environment(plan: bytes) -> bytes:
    """The encoded *plan* without its ENVIRONMENT record."""
    return wire.encode(
        wire.Record(kind, os.fsdecode(fields[0]), os.fsdecode(fields[1]), fields[2:])
        for kind, fields in wire.decode(plan)
        if kind != wire.Kind.ENVIRONMENT
    )


def _by_reference(plan: Plan, invocation: Invocation, profile: Profile) -> tuple[tuple[str, str | None], ...]:
    """The plan's environment, None for the values that are simply the caller's."""
    return tuple(
        (name, None if name not in profile.env.set and invocation.environ.get(name) == value else value)
        for name, value in plan.environment.items()
    )
