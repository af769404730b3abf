"""From a profile and this call to an `Invocation`: the only part of planning that looks at files.

It follows links, checks that mount sources exist and mount points can, reads the few host
files that generated ones are made from, and makes our own directories where a payload could
otherwise plant them. It decides nothing about the sandbox: that is `compile`'s, which makes
no system calls. Everything looked at leaves a `FileStamp`, so that a cached plan can be
told from a stale one. The parts: `call`, `roots`, `places`, `guards`.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from types import MappingProxyType

from sandbox.errors import ProfileError
from sandbox.host.model import Host
from sandbox.plan import guards, roots
from sandbox.plan.call import Call
from sandbox.plan.invocation import Invocation, at, is_below, origin_of, root_place
from sandbox.plan.places import places
from sandbox.profile.model import Profile
from sandbox.root import tables

__all__ = ["resolve"]


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
    call = Call(profile, host, cwd, environ)
    entries = roots.host_entries(call) if profile.root.source == "host" else {}
    root = roots.directory_root(call)
    settled = places(call)
    texts = roots.texts(call, root)
    return Invocation(
        cwd=call.cwd,
        home=call.home,
        user=call.user,
        group=call.group,
        shell=_shell(call),
        environ=MappingProxyType(_kept(call)),
        entries=MappingProxyType(entries),
        places=settled,
        guards=guards.guards(call, settled),
        hidden=guards.hidden(call, (*settled, *root_place(root))),
        root=root,
        directories=MappingProxyType(roots.directories(call, root, settled, texts.get("passwd", ""))),
        hard_limits=MappingProxyType(_hard_limits()),
        texts=MappingProxyType(texts),
        disks=MappingProxyType(_disks(call)),
        files=call.trace.stamps(),
    )


def _shell(call: Call) -> str:
    """The caller's shell where a host root shows it; for the generated passwd(5)."""
    shell = os.path.normpath(call.environ.get("SHELL") or "/bin/sh")
    shown = any(is_below(shell, tree) for tree in tables.HOST_TREES)
    if call.profile.root.source != "host" or not shown or not shell.isprintable() or ":" in shell:
        return "/bin/sh"
    return shell if os.access(shell, os.X_OK) else "/bin/sh"


def _kept(call: Call) -> dict[str, str]:
    keep = call.profile.env.keep
    exact = {name for name in keep if "*" not in name}
    prefixes = tuple(name[:-1] for name in keep if name.endswith("*"))
    return {
        name: value
        for name, value in sorted(call.environ.items())
        if name in exact or name.startswith(prefixes)
    }


def _disks(call: Call) -> dict[str, str]:
    """The disk of each path that has a limit on its input and output."""
    wanted = call.profile.limits.io
    if not wanted:
        return {}
    from sandbox.cgroup.devices import disk_of

    call.trace.never()  # another file system may be mounted there, which no stamp of the path tells
    found = {}
    for path in wanted:
        try:
            found[path] = disk_of(path)
        except ValueError as error:
            raise ProfileError(
                f"{at(origin_of(call.profile, 'limits.io'))}limits.io: {error}",
                'name a directory on a disk, or the disk itself, as in "/dev/sda"',
            ) from None
    return found


def _hard_limits() -> dict[int, int]:
    limits = {number: resource.getrlimit(number)[1] for number in range(16)}
    return {number: hard for number, hard in limits.items() if hard != resource.RLIM_INFINITY}
