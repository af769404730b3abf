"""What the payload is when it starts: environment, working directory, capabilities, seccomp.

Pure. The files it sees are `sandbox.plan.mounts`' and `sandbox.plan.compile`'s business.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandbox import net
from sandbox.errors import ProfileError
from sandbox.kernel import CAPABILITIES, capability
from sandbox.plan import image
from sandbox.plan.invocation import Invocation, at, is_below, origin_of
from sandbox.profile.model import Profile
from sandbox.root import etc, tables
from sandbox.wire import Kind, Record

if TYPE_CHECKING:
    from sandbox.ids import IdMap, IdPlan

__all__ = [
    "DEFAULT_PATH",
    "HOSTNAME",
    "Account",
    "account_of",
    "attributes",
    "capabilities",
    "environment",
    "workdir",
]

HOSTNAME = "sandbox"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: For root on a range of ids: what package managers and services need. Container engines' set less
#: NET_RAW (packet sockets) and MKNOD (no device can be made here anyway). Valid in B only.
_ROOT = (
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "AUDIT_WRITE",
    "SETFCAP",
)

_TTY = {"never": 0, "auto": 1, "always": 2}


@dataclass(frozen=True, slots=True)
class Account:
    """The payload's ids and names. `has_home`: a `dir:` root says itself where its home is."""

    ids: IdPlan
    user: str
    group: str
    home: str
    has_home: bool = False

    def owns(self, uid: int, gid: int) -> bool:
        """Whether both ids of a file on the host are mapped, so that somebody inside can be its owner."""
        return _mapped(self.ids.uids, uid) and _mapped(self.ids.gids, gid)


def _mapped(maps: Iterable[IdMap], outside: int) -> bool:
    return any(each.outside <= outside < each.outside + each.count for each in maps)


def account_of(invocation: Invocation, who: IdPlan) -> Account:
    """Names and home of the payload: as a `dir:` root's own passwd(5) says, else the caller's."""
    if invocation.layered is not None and invocation.layered.ids is not None:
        name, home = image.account_home(
            invocation.layered.settings, invocation.texts.get("passwd", ""), who.uid
        )
        return Account(who, name, "root" if who.gid == 0 else f"group{who.gid}", home, has_home=True)
    user = "root" if who.uid == 0 else invocation.user
    group = "root" if who.gid == 0 else invocation.group
    found = etc.find_user(invocation.texts.get("passwd", ""), who.uid)
    if found and not _taken(found[1]):
        return Account(who, found[0], group, found[1], has_home=True)
    return Account(who, user, group, _home(invocation))


def _home(invocation: Invocation) -> str:
    """The payload's home: the same path as the caller's, unless the sandbox has something else there and
    no mount of the profile shows it."""
    home = invocation.home
    if any(is_below(home, place.destination) for place in invocation.places):
        return home
    return f"/home/{invocation.user}" if _taken(home) else home


def _taken(path: str) -> bool:
    if path in ("/", "/var", "/var/tmp", "/run", "/tmp"):
        return True
    return any(is_below(path, each) for each in (*tables.HOST_TREES, "/etc", "/dev", "/proc", "/sys"))


def capabilities(profile: Profile, ids: IdPlan) -> int:
    """The mask of capabilities that the payload has, in the inner user namespace."""
    names = profile.process.capabilities
    if names is None:
        is_root = profile.user.map == "root" or (ids.maker is not None and ids.uid == 0)
        names = _ROOT if is_root and not ids.single else ()
    mask = 0
    for name in names:
        short = name.upper().removeprefix("CAP_")
        if short not in CAPABILITIES:
            where = at(origin_of(profile, "process.capabilities"))
            raise ProfileError(f"{where}there is no capability {name}", "see capabilities(7)")
        mask |= capability(short)
    return mask


def may_mount(profile: Profile, mask: int) -> bool:
    """Whether the payload can make mount namespaces: a nested one, and one that may raise the count of them
    again, which takes two of the capabilities in *mask* and no filter."""
    able = all(mask & capability(name) for name in ("SYS_ADMIN", "SYS_RESOURCE"))
    return profile.process.nested or (able and profile.process.seccomp == "off")


def environment(profile: Profile, kept: Mapping[str, str], home: str, user: str) -> dict[str, str]:
    """The payload's variables: defaults of ours, what was kept of the caller's, what the profile sets.
    Nothing else of the caller's environment goes in. Ours give way only to what was named in full."""
    named = {name: kept[name] for name in profile.env.keep if name in kept}
    proxy: dict[str, str] = {}
    if profile.net.mode == "proxy":
        from sandbox.net import egress

        proxy = egress.environment()
    variables = {
        "PATH": DEFAULT_PATH,
        **kept,
        "HOME": home,
        "USER": user,
        "LOGNAME": user,
        "SANDBOX": "1",
        "container": "sandbox",  # systemd's convention, so that programs can tell
        **named,
        **proxy,  # the caller's own proxy can't be reached
        **profile.env.set,
    }
    return dict(sorted(variables.items()))


def attributes(profile: Profile, ids: IdPlan, machine: str, *, counted: bool = False) -> list[Record]:
    """The records of the payload's process that are neither limits nor files. *counted*: its memory is,
    by the kernel."""

    def add(kind: Kind, key: str, description: str, *fields: str | int) -> None:
        records.append(Record(kind, description, str(origin_of(profile, key)), fields))

    records: list[Record] = []
    process = profile.process
    mask = capabilities(profile, ids)
    hostname = process.hostname or HOSTNAME
    who = (ids.uid, ids.gid, *ids.maker, *ids.groups) if ids.maker else (ids.uid, ids.gid)
    add(Kind.IDENTITY, "user.map", f"become user {ids.uid} and group {ids.gid}", *who)
    add(Kind.HOSTNAME, "process.hostname", f"set the host name to {hostname}", hostname)
    add(Kind.CAPABILITIES, "process.capabilities", _describe_capabilities(mask), mask)
    add(Kind.TTY, "process.tty", f"give it a terminal: {process.tty}", _TTY[process.tty])
    if not net.shares_host(profile.net):
        add(Kind.LOOPBACK, "net.mode", "bring the loopback device up")
    if process.umask is not None:
        add(Kind.UMASK, "process.umask", f"set the umask to {process.umask:03o}", process.umask)
    if process.nice is not None:
        add(Kind.NICE, "process.nice", f"set the nice value to {process.nice}", process.nice)
    if not process.nested:
        # Inside B, which the helper makes, the payload can make no other.
        add(Kind.USERNS_MAX, "process.nested", "forbid further user namespaces", 0)
    records += _filter(profile, mask, machine, counted=counted)
    return records


def _describe_capabilities(mask: int) -> str:
    names = [name for number, name in enumerate(CAPABILITIES) if mask & 1 << number]
    return f"keep the capabilities {' '.join(names)}" if names else "drop all capabilities"


def _filter(profile: Profile, mask: int, machine: str, *, counted: bool) -> list[Record]:
    mode = profile.process.seccomp
    origin = str(origin_of(profile, "process.seccomp"))
    if mode == "off":
        # keyctl(2) is open then: not the caller's session keyring, at the price of one of its quota.
        return [Record(Kind.KEYRING, "join a new session keyring", origin)]
    from sandbox import seccomp

    # What memfd_create gives counts neither for RLIMIT_DATA nor reliably when polled (tried: 600 MiB
    # under a limit of 64).
    polled = profile.limits.memory is not None and not counted
    deny = ("memfd_create", "memfd_secret") if polled else ()
    program = seccomp.program(
        mode,
        nested=profile.process.nested,
        deny=deny,
        capabilities=mask,
        hold_core=profile.limits.core in (0, 1),  # where it is what keeps core handlers from running
        machine=machine,
    )
    return [Record(Kind.SECCOMP, f"load the {mode} seccomp filter", origin, (program,))]


def workdir(profile: Profile, invocation: Invocation, start: str) -> str:
    """Where the payload starts: as the profile says, else at *start*, where relative paths start, too."""
    written = profile.process.workdir or start
    if written == "~" or written.startswith("~/"):
        written = invocation.home + written[1:]
    return os.path.normpath(os.path.join(start, written))
