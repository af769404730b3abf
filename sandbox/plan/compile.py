"""From a profile, this machine and this call to a plan.

`compile` is pure: it makes no system calls and decides everything by its arguments, so that
the same ones always give the same plan. What can't be done here is an error that says why
and what mends it, never a weaker plan. The parts: `skeleton` and `mounts` for the root,
`limits` and `cgroups`, and `process` for what runs in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from sandbox import ids, net, seccomp
from sandbox.errors import HostError, ProfileError, TrustError
from sandbox.plan import cgroups, image, limits, mounts, process, skeleton
from sandbox.plan.invocation import Invocation, at, is_below, origin_of, real_source
from sandbox.plan.layers import Lease
from sandbox.plan.operations import Operation, Overlay
from sandbox.plan.plan import CLONE, Plan
from sandbox.profile.build import refuse_unavailable
from sandbox.profile.model import Profile
from sandbox.wire import Kind, Mount, Record

if TYPE_CHECKING:
    from sandbox.host import Host
    from sandbox.net.private.member import Membership

__all__ = ["by_fuse", "compile"]


def compile(profile: Profile, host: Host, invocation: Invocation) -> Plan:
    """Decide what will be done.

    Raises:
        NotAvailableError: the profile asks for something whose mechanism is not built yet.
        RequirementError: a limit that must hold can't be held.
        HostError: this machine lacks something; `row` names the doctor row.
        ProfileError: values that contradict each other.
    """
    refuse_unavailable(profile)
    _refuse_no_root(profile, invocation)
    _refuse_lacking(profile, host, invocation)
    who = _ids(profile, host, invocation)
    account = process.account_of(invocation, who)
    invocation = skeleton.with_home(profile, invocation, account)
    may_mount = process.may_mount(profile, process.capabilities(profile, who))
    if may_mount:
        _refuse_loose_pins(invocation)
    trees = [path for path, entry in invocation.entries.items() if entry.kind == "dir"]
    writable = mounts.host_writable(invocation)
    found = limits.limits(profile, host, writable, invocation.hard_limits, may_mount=may_mount)
    settings = invocation.layered.settings if invocation.layered else None
    kept = image.environment(settings, invocation.environ)
    environment = process.environment(profile, kept, account.home, account.user)
    around = mounts.covering(invocation.places, account.home)
    fallback = "/" if around and around.mount.mode == "hide" else account.home
    seen = mounts.seen(invocation, invocation.cwd, trees)
    return Plan(
        namespaces=_namespaces(profile),
        ids=who,
        operations=_driven(invocation, skeleton.operations(profile, host, invocation, account)),
        attributes=tuple(_attributes(profile, host, invocation, who)),
        limits=found,
        environment=MappingProxyType(environment),
        workdir=process.workdir(profile, invocation, image.workdir(settings) or seen or fallback),
        workdir_origin=f"the image {settings.reference}"
        if settings and image.starts_in(profile, settings)
        else "",
        files=invocation.files,
        notes=tuple(_notes(profile, host, invocation)),
        leases=_leases(invocation),
        settings=image.entered(profile, settings),
        stop_signal=image.stop_signal(settings),
        addresses=net.addresses(profile.net, host.network),
        membership=_membership(profile, host, invocation),
    )


def _ids(profile: Profile, host: Host, invocation: Invocation) -> ids.IdPlan:
    """Those that an image's files have, or what the profile asks for."""
    layered = invocation.layered
    if layered is None or layered.ids is None:
        user = image.numbered(profile, invocation.texts)
        return ids.plan_ids(user, host, number=invocation.slice.number if invocation.slice else 0)
    if profile.user.ids == "private":
        where = at(origin_of(profile, "user.ids"))
        raise ProfileError(
            f"{where}private ids don't go with an image: its files have all ids of the range", 'ids = "range"'
        )
    if layered.ids.single and profile.user.ids == "range":
        ids.plan_ids(profile.user, host)  # which says what is missing
    return image.identify(profile, layered.settings, layered.ids, invocation.texts)


def _leases(invocation: Invocation) -> tuple[Lease, ...]:
    layers = invocation.layered.leases if invocation.layered else ()
    return (*layers, invocation.slice.lease) if invocation.slice else layers


# --- what can't be done --------------------------------------------------------------------------


def _driven(invocation: Invocation, operations: Sequence[Operation]) -> tuple[Operation, ...]:
    """*operations* with overlays by who is to make them."""
    if not invocation.fuse:
        return tuple(operations)
    return tuple(map(by_fuse, operations))


def by_fuse(operation: Operation) -> Operation:
    """An overlay made by fuse-overlayfs; anything else as it is."""
    if not isinstance(operation, Overlay):
        return operation
    return replace(operation, flags=operation.flags | Mount.FUSE)


def _refuse_no_root(profile: Profile, invocation: Invocation) -> None:
    """Refuse what is no root: a profile that was made by hand may say anything."""
    root, where = profile.root, at(origin_of(profile, "root.from"))
    known = root.source in ("host", "empty") or root.source.startswith(("dir:", "image:"))
    if not known or (root.layered and invocation.layered is None):
        raise ProfileError(f'{where}root.from = "{root.source}" gives no root', 'from = "host" in [root]')
    if root.source == "host" and root.layers:
        raise ProfileError(f"{where}the kernel puts no layers on the host's root", 'from = "empty" in [root]')


def _refuse_loose_pins(invocation: Invocation) -> None:
    """Refuse to protect what can't be from whoever may mount: a mount point can be renamed by whoever is in
    a mount namespace in which it is none (rename(2): EBUSY is about the caller's own)."""
    for place in invocation.places:
        source = real_source(place)
        for guard in (*invocation.guards, *invocation.hidden):
            if place.mount.mode == "rw" and guard.path != source and is_below(guard.path, source):
                raise ProfileError(
                    f"{at(place.origin)}{source} can't be writable for a payload with mount namespaces: "
                    f"{guard.path} below it ({guard.what}) could be replaced",
                    "mount a directory that does not hold it, read-only or as an overlay, "
                    "or process.nested = false",
                )


def _refuse_lacking(profile: Profile, host: Host, invocation: Invocation) -> None:
    """Refuse what a trial showed not to work here. What was not tried is found out by the helper."""
    modes = {mount.mode for mount in profile.mounts}
    layers = profile.root.layered or profile.root.source.startswith("dir:")
    overlays = layers or "overlay" in modes
    if overlays and profile.root.driver == "fuse-overlayfs" and not invocation.fuse:
        mend = "sudo apt install fuse-overlayfs"
        raise HostError("there is no fuse-overlayfs(1) to make overlays with", mend, row="fuse")
    if overlays and host.overlay is False and not invocation.fuse:
        _lacking(host, "overlay", "cannot mount an overlay on this machine")
    if host.proc is False:
        _lacking(host, "proc", "cannot mount a fresh /proc on this machine")


def _lacking(host: Host, row: str, message: str) -> None:
    check = host.checks.get(row)
    detail = f": {check.detail}" if check and check.detail else ""
    raise HostError(message + detail, (check.mend if check else "") or "sandbox doctor", row=row)


# --- namespaces and attributes -------------------------------------------------------------------


def _namespaces(profile: Profile) -> int:
    shared = {"net"} if net.shares_host(profile.net) else set()
    return sum(flag for name, flag in CLONE.items() if name not in shared)


def _attributes(profile: Profile, host: Host, invocation: Invocation, who: ids.IdPlan) -> Iterator[Record]:
    if who.tool:
        tools = (host.newuidmap or "", host.newgidmap or "")
        yield Record(Kind.IDTOOL, "map ids with newuidmap", str(origin_of(profile, "user.ids")), tools)
    size = limits.pool(profile)
    key = "limits.disk" if profile.limits.disk else "limits.memory"
    yield Record(
        Kind.POOL, "make the shared tmpfs", str(origin_of(profile, key)), (size, limits.inodes(size))
    )
    yield from _network(profile, host, invocation, who)
    by_cgroup = cgroups.held(profile, host)
    yield from process.attributes(profile, who, host.machine, counted="memory" in by_cgroup)
    if invocation.fuse:
        origin = str(origin_of(profile, "root.driver"))
        yield Record(
            Kind.FUSE, f"make overlays with {invocation.fuse}", origin, (invocation.fuse, *ids.server(who))
        )
    yield from limits.rlimits(profile, host, invocation)
    yield from cgroups.records(profile, host, invocation)


def _network(profile: Profile, host: Host, invocation: Invocation, who: ids.IdPlan) -> Iterator[Record]:
    """What a network namespace of the sandbox's own has. Nobody inside has rights over it, root neither: low
    ports and echo requests are for everybody, as there is nobody to be kept from them."""
    if profile.net.rate is not None and not net.has_own(profile.net) and invocation.network is None:
        raise ProfileError(
            "net.rate limits nothing: there is no network of the sandbox's own", 'mode = "user"'
        )
    if net.shares_host(profile.net):
        if profile.net.allow is not None or profile.net.deny:
            raise ProfileError(
                "net.allow and net.deny hold nothing back: the network is the host's own",
                'mode = "user" in [net]',
            )
        return
    origin = str(origin_of(profile, "net.mode"))
    for name, value in (("ip_unprivileged_port_start", "0"), ("ping_group_range", f"{who.gid} {who.gid}")):
        yield Record(Kind.SYSCTL, f"set {name} to {value}", origin, (f"net/ipv4/{name}", value))
    if net.has_own(profile.net):
        from sandbox.net import user

        user.check(profile.net, host.network, at(origin_of(profile, "net.mode")))
        yield from user.records(profile.net, host.network, origin)
    elif (membership := _membership(profile, host, invocation)) is not None:
        from sandbox.net.private import member

        member.check(profile.net, membership.network, host.network, at(origin_of(profile, "net.mode")))
        yield from member.records(membership)
    elif profile.net.publish or profile.net.activate:
        from sandbox.net import published

        yield from published.records(profile.net, published.LOCAL, str(origin_of(profile, "net.publish")))
    if net.by_name(profile.net):
        yield from _services(profile, host, invocation)


def _membership(profile: Profile, host: Host, invocation: Invocation) -> Membership | None:
    if invocation.network is None:
        if net.is_private(profile.net):
            raise ProfileError(f'net.mode = "{profile.net.mode}" is no network', 'mode = "none" in [net]')
        return None
    from sandbox.net.private.member import Membership

    named = origin_of(profile, "process.hostname")
    if named.hostile:
        text = "a project that is not trusted can't choose its name on a private network"
        raise TrustError(f"{at(named)}{text}", "--hostname NAME, or sandbox profile trust")
    name, found = profile.process.hostname or process.HOSTNAME, invocation.interpreter
    origin = str(origin_of(profile, "net.mode"))
    where = (found.python, found.directory, found.views)
    return Membership(invocation.network, profile.net, (name,), host.network, origin, *where)


def _services(profile: Profile, host: Host, invocation: Invocation) -> Iterator[Record]:
    """What stands between the sandbox and whatever it names."""
    from sandbox.egress import DENIED_CALLS
    from sandbox.net import egress, user

    found, wanted = invocation.interpreter, profile.net
    code = seccomp.program(
        "strict", deny=DENIED_CALLS.split(), capabilities=egress.CAPABILITIES, machine=host.machine
    )
    program = egress.Program(found.python, found.directory, found.views, code)
    if wanted.mode == "proxy":
        servers = wanted.dns or host.network.name_servers
        yield from egress.proxy(wanted, servers, program, str(origin_of(profile, "net.mode")))
    else:
        key = "net.allow" if wanted.allow is not None else "net.deny"
        if invocation.network is not None:
            from sandbox.net.private import member

            table = member.table(wanted, invocation.network, host.network)
        else:
            table = user.table(wanted, host.network)
        yield from egress.records(wanted, table, program, str(origin_of(profile, key)))


# --- what a user should know -----------------------------------------------------------------------


def _notes(profile: Profile, host: Host, invocation: Invocation) -> Iterator[str]:
    yield from mounts.notes(invocation)
    yield from invocation.layered.notes if invocation.layered else ()
    if invocation.slice and ids.is_shared(host, invocation.slice.number):
        yield (
            "no other sandbox with private ids has this one's, but those with an image or a range have all "
            f"of the first {ids.SIZE}: a larger range in /etc/subuid and /etc/subgid keeps them apart"
        )
    if net.shares_host(profile.net):
        yield "the network is the host's: its abstract unix sockets and loopback services can be reached"
    if profile.root.source == "host" and profile.root.changes != "no":
        yield (
            "the root is writable for new files only: /usr and the other system directories stay read-only, "
            "because their files belong to ids that are not mapped"
        )
    if profile.process.seccomp == "off":
        yield "seccomp is off: every system call of this kernel can be tried"
    if host.uid == 0:
        yield "the caller is root, the command is not: it can't write to root's own files"
