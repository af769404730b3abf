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
from typing import TYPE_CHECKING

from sandbox import ids, paths
from sandbox.errors import HostError, ProfileError, SetupError
from sandbox.host.model import Host
from sandbox.net import is_private
from sandbox.plan import guards, roots
from sandbox.plan.call import Call
from sandbox.plan.invocation import Interpreter, Invocation, Slice, at, is_below, origin_of, root_places
from sandbox.plan.layers import Layered, Layers, Lease
from sandbox.plan.places import places
from sandbox.profile.model import Profile
from sandbox.root import tables
from sandbox.words import quote

if TYPE_CHECKING:
    from sandbox.net.private.store import PrivateNetwork

__all__ = ["hard_limits", "resolve"]


def resolve(
    profile: Profile,
    host: Host,
    cwd: str,
    environ: Mapping[str, str],
    layers: Layers = Layers(),  # noqa: B008
) -> Invocation:
    """Gather what *profile* needs to know of this call and of the files it names.

    Args:
        cwd: the caller's working directory, absolute.
        environ: the caller's environment; only what `env.keep` names is kept.
        layers: what a root of layers has besides those of the profile.

    Raises:
        ProfileError: a mount source or mount point is missing, or a directory is one that may not be
            given away.
        SetupError: one of our own directories can't be made.
    """
    call = Call(profile, host, cwd, environ)
    entries = roots.host_entries(call) if profile.root.source == "host" else {}
    root = "" if profile.root.layered or layers.given else roots.directory_root(call)
    layered = roots.layered_root(call, layers)
    shown = layered.directories if layered else (root,) if root else ()
    settled = places(call)
    guards.refuse_planted(call, settled)
    found = roots.look(call, root, layered, layers, settled)
    interpreter = _interpreter(call)
    network = _network(call)
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
        hidden=guards.hidden(call, (*settled, *root_places(shown))),
        root=root,
        layered=layered,
        upper=layers.upper,
        fuse=roots.fuse_program(call),
        slice=_slice(call, layered),
        network=network,
        directories=MappingProxyType(found.directories),
        parts=MappingProxyType(found.parts),
        hard_limits=MappingProxyType(hard_limits()),
        texts=MappingProxyType(found.texts),
        disks=MappingProxyType(_disks(call)),
        files=call.trace.stamps(),
        interpreter=interpreter,
    )


def _slice(call: Call, layered: Layered | None) -> Slice | None:
    """One that is free now; whoever launches takes it, or plans again.

    Raises:
        HostError: running sandboxes have all.
        SetupError: what says so can't be used.
    """
    if call.profile.user.ids != "private" or (layered is not None and layered.ids is not None):
        return None
    from sandbox.leases import take

    count = ids.slices(call.host)
    directory = os.path.join(paths.state_dir(), "ids")
    if not count:  # `ids.plan_ids` says what is missing
        return None
    first = (
        int.from_bytes(os.urandom(4), "little") % count
    )  # so that those who start at once don't all want one
    try:
        os.makedirs(directory, 0o700, exist_ok=True)
        for number in (*range(first, count), *range(first)):
            lease = Lease(directory, str(number))
            fd = take(*lease)
            if fd >= 0:
                os.close(fd)
                return Slice(number, lease)
    except OSError as error:
        message = f"cannot use {directory}: {error.strerror}"
        raise SetupError(message, f"chmod u+rwx {quote(directory)}", errno=error.errno or 0) from error
    raise HostError(
        f"running sandboxes have all of your {count} slices of {ids.SLICE} ids",
        "wait for one to end, or have more ids: sudo usermod --add-subuids FIRST-LAST "
        f"--add-subgids FIRST-LAST {call.host.user or call.host.uid}",
        row="idrange",
    )


def _network(call: Call) -> PrivateNetwork | None:
    """The private network that the profile names. Raises ProfileError: there is none."""
    if not is_private(call.profile.net):
        return None
    from sandbox.net.private import store

    where = at(origin_of(call.profile, "net.mode"))
    call.trace.see(store.file_of(call.profile.net.mode))
    return store.load(call.profile.net.mode, where)


def _interpreter(call: Call) -> Interpreter:
    """Found out where the network's policy needs a program of ours."""
    net = call.profile.net
    if net.allow is None and not net.deny and net.mode != "proxy" and not is_private(net):
        return Interpreter()
    from sandbox.plan.interpreter import compile_package, interpreter

    compile_package("egress")
    found = interpreter()
    for path in found.files:
        call.trace.see(path)
    if call.host.uid == 0:
        _refuse_private(found)
    return found


def _refuse_private(found: Interpreter) -> None:
    """Called by root, a program of ours beside the sandbox is nobody that root's own files are open to."""
    for path in found.files:
        at_ = path
        while at_ != "/":
            if not os.stat(at_).st_mode & 0o001:
                raise HostError(
                    f"the program that holds the network's policy can't read {path}: {at_} is root's alone",
                    "install sandbox where everybody can read it, as in /opt, or run it as another user",
                    row="net",
                )
            at_ = os.path.dirname(at_)


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


def hard_limits() -> dict[int, int]:
    """Our own hard resource limits, by their number, where there is one (getrlimit(2))."""
    limits = {number: resource.getrlimit(number)[1] for number in range(16)}
    return {number: hard for number, hard in limits.items() if hard != resource.RLIM_INFINITY}
