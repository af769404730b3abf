"""What private networks there are: a directory each, below the user's state.

    NAME/network.json    what was said when it was made
    NAME/lock            held (flock(2)) by whoever starts the network, changes or removes it
    NAME/socket          where its supervisor listens, while there is one

No payload sees any of it. Names are part of paths, and of DNS names.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Literal

from sandbox import paths
from sandbox.addresses import Network as Subnet
from sandbox.addresses import special
from sandbox.errors import HostError, ProfileError, SetupError
from sandbox.profile.kinds import nearest
from sandbox.words import quote

__all__ = [
    "RESERVED",
    "PrivateNetwork",
    "check_name",
    "create",
    "directory_of",
    "file_of",
    "listed",
    "load",
    "locked",
    "look",
    "remove",
]

#: modes of [net] that are no names
RESERVED = ("none", "host", "user", "proxy")
_NAME = re.compile(r"[a-z0-9]([a-z0-9_.-]{0,61}[a-z0-9])?", re.ASCII)
_FILE, _LOCK = "network.json", "lock"
#: where networks come from that nobody chose: 10.89.0.0/24 and so on
_POOL = "10.89.{}.0/24"
_MAX_FILE = 4096


@dataclass(frozen=True, slots=True)
class PrivateNetwork:
    """One network. `subnet` is IPv4, /24; `subnet6` IPv6, /64; `internal`: with no way out; `created` in
    seconds since 1970; `backend` as `net.backend`; `dns` the name servers that it asks, not the host's."""

    name: str
    subnet: str
    subnet6: str
    internal: bool = False
    created: int = 0
    backend: Literal["auto", "pasta", "slirp4netns"] = "auto"
    dns: tuple[str, ...] = ()

    def addresses(self, number: int) -> tuple[str, str]:
        """IPv4 and IPv6 of who has *number*; 1 is the network's own (gateway and name server)."""
        four, six = IPv4Network(self.subnet), IPv6Network(self.subnet6)
        return str(four[number]), str(six[number])

    @property
    def subnets(self) -> tuple[str, str]:
        return self.subnet, self.subnet6


def check_name(name: str) -> str:
    """*name*, if it can be one.

    Raises:
        ProfileError: it can't.
    """
    if name in RESERVED:
        raise ProfileError(
            f'"{name}" is a mode of [net], and no name of a network', f"sandbox network create {name}-net"
        )
    if not _NAME.fullmatch(name):
        raise ProfileError(
            f"{quote(name)} is no name of a network: up to 63 of a-z, 0-9, _, . and -, with a letter or "
            "digit at both ends",
            "sandbox network create mine",
        )
    return name


def directory_of(name: str) -> str:
    """Where all of the network *name* is."""
    return os.path.join(_top(), check_name(name))


def file_of(name: str) -> str:
    """What says what the network *name* is."""
    return os.path.join(directory_of(name), _FILE)


def _top() -> str:
    return os.path.join(paths.state_dir(), "networks")


# --- reading ------------------------------------------------------------------------------------


def load(name: str, where: str = "") -> PrivateNetwork:
    """The network *name*; *where* begins the message of an error.

    Raises:
        ProfileError: there is none.
        SetupError: its file can't be read, or says nothing that we wrote.
    """
    path = file_of(name)
    try:
        with open(path, encoding="utf-8") as file:
            values = json.loads(file.read(_MAX_FILE))
        found = PrivateNetwork(**{**values, "dns": tuple(values["dns"])})
        _checked(found.subnet, found.subnet6)
        if found.name != name:
            raise ValueError("of another name")
    except FileNotFoundError:
        raise _missing(name, where, f"sandbox network create {name}") from None
    except OSError as error:
        message = f"cannot read {path}: {error.strerror}"
        raise SetupError(message, f"ls -ld {quote(path)}", errno=error.errno or 0) from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        mend = f"sandbox network rm --force {name}, and make it again"
        raise SetupError(f"{path} is not what sandbox wrote: {error}", mend) from error
    return found


def _missing(name: str, where: str = "", mend: str = "sandbox network ls") -> ProfileError:
    """Who wants to be on a network may make it; who looks for one is told which there are."""
    return ProfileError(f'{where}there is no network "{name}"{nearest(name, [*RESERVED, *_names()])}', mend)


def look(name: str) -> PrivateNetwork:
    """The network *name*, for who looks at what there is. Raises as `load`."""
    if not os.path.exists(file_of(name)):
        raise _missing(name)
    return load(name)


def _names() -> list[str]:
    try:
        found = os.listdir(_top())
    except FileNotFoundError:
        return []
    except OSError as error:
        message = f"cannot read {_top()}: {error.strerror}"
        raise SetupError(message, f"ls -ld {quote(_top())}", errno=error.errno or 0) from error
    return sorted(each for each in found if _NAME.fullmatch(each) and each not in RESERVED)


def listed() -> list[PrivateNetwork]:
    """All that there are, by name. Raises SetupError as `load`."""
    found = []
    for name in _names():
        with contextlib.suppress(ProfileError):  # being made, or removed, right now
            found.append(load(name))
    return found


# --- making and removing ------------------------------------------------------------------------


def create(asked: PrivateNetwork) -> PrivateNetwork:
    """Make a network as *asked*; a subnet that is "" there is chosen, so that neither the host nor another
    network has it.

    Raises:
        ProfileError: the name or a subnet will not do.
        HostError: every subnet is in use.
        SetupError: it can't be written.
    """
    name = check_name(asked.name)
    with _changing():
        directory = directory_of(name)
        if os.path.exists(os.path.join(directory, _FILE)):
            raise ProfileError(f'there is a network "{name}" already', f"sandbox network inspect {name}")
        four, six = _choose(asked.subnet, asked.subnet6)
        made = replace(asked, subnet=four, subnet6=six, created=int(time.time()))
        os.makedirs(directory, 0o700, exist_ok=True)
        path = os.path.join(directory, _FILE)
        with open(f"{path}.new", "w", encoding="utf-8") as file:
            file.write(json.dumps(asdict(made)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.rename(f"{path}.new", path)
    return made


def remove(name: str) -> None:
    """Remove a network, whose lock the caller has (`locked`). Raises SetupError."""
    directory = directory_of(name)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(directory, _FILE))  # first: without it there is none
        shutil.rmtree(directory)
    except OSError as error:
        message = f"cannot remove {directory}: {error.strerror}"
        raise SetupError(message, f"rm -r {quote(directory)}", errno=error.errno or 0) from error


@contextlib.contextmanager
def locked(name: str) -> Iterator[int]:
    """Hold the network's lock; its directory's descriptor.

    Raises:
        ProfileError: there is no such network (any more).
        SetupError: it can't be locked.
    """
    directory, fds = directory_of(name), contextlib.ExitStack()
    with fds:
        try:
            while True:
                top = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
                fds.callback(os.close, top)
                lock = os.open(
                    _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=top
                )
                fds.callback(os.close, lock)
                fcntl.flock(lock, fcntl.LOCK_EX)
                if _is_still(directory, top):
                    break
                fds.close()
        except FileNotFoundError:
            raise _missing(name) from None
        except OSError as error:
            message = f"cannot lock {directory}: {error.strerror}"
            raise SetupError(message, f"ls -ld {quote(directory)}", errno=error.errno or 0) from error
        yield top


def _is_still(directory: str, fd: int) -> bool:
    """Whether the directory that was locked is the one by that name: it may have been removed meanwhile."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(directory, follow_symlinks=False))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _changing() -> Iterator[None]:
    """One at a time makes networks: their subnets must differ."""
    top = _top()
    try:
        os.makedirs(top, 0o700, exist_ok=True)
        lock = os.open(
            os.path.join(top, ".lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)
    except OSError as error:
        mend = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else f"ls -ld {quote(top)}"
        message = f"cannot use {top}: {error.strerror}"
        raise SetupError(message, mend, errno=error.errno or 0) from error


# --- subnets ------------------------------------------------------------------------------------


def _checked(four: str, six: str) -> None:
    """Raises ValueError for what is no subnet of ours."""
    first, second = ip_network(four), ip_network(six)
    if first.version != 4 or first.prefixlen != 24:
        raise ValueError(f"{four} is no IPv4 network of 256 addresses (/24)")
    if second.version != 6 or second.prefixlen != 64:
        raise ValueError(f"{six} is no IPv6 network of the length /64")
    for each in (first, second):
        if special(each[0]) != "private":
            raise ValueError(f"{each} is no private network, as 10.89.7.0/24 and fd12:3456:789a::/64 are")


def _choose(four: str, six: str) -> tuple[str, str]:
    taken = [ip_network(subnet) for each in listed() for subnet in each.subnets] + _routes()
    six = six or f"fd{os.urandom(1).hex()}:{os.urandom(2).hex()}:{os.urandom(2).hex()}::/64"
    four = four or _free(taken)
    try:
        _checked(four, six)
    except ValueError as error:
        raise ProfileError(str(error), "--subnet 10.89.7.0/24 --subnet fd12:3456:789a::/64") from None
    for wanted in map(ip_network, (four, six)):
        for each in taken:
            if _overlap(each, wanted):
                raise ProfileError(
                    f"{wanted} is in use: {each} belongs to the host or another network", "leave --subnet out"
                )
    return str(ip_network(four)), str(ip_network(six))


def _free(taken: list[Subnet]) -> str:
    for number in range(256):
        network = ip_network(_POOL.format(number))
        if not any(_overlap(each, network) for each in taken):
            return str(network)
    raise HostError(
        "the host or other networks have all of 10.89.0.0/16", "--subnet 10.90.7.0/24, or another one"
    )


def _overlap(one: Subnet, other: Subnet) -> bool:
    return one.version == other.version and one[0] <= other[-1] and other[0] <= one[-1]  # type: ignore[operator]


def _routes() -> list[Subnet]:
    """What the host has routes to, besides by default (proc_net(5)): a sandbox could not reach it."""
    found: list[Subnet] = []
    with contextlib.suppress(OSError), open("/proc/net/route", encoding="ascii") as file:
        for line in file.readlines()[1:]:
            words = line.split()
            address, mask = (int.from_bytes(bytes.fromhex(words[at]), "little") for at in (1, 7))
            if mask:
                found.append(IPv4Network((address, mask.bit_count())))
    with contextlib.suppress(OSError), open("/proc/net/ipv6_route", encoding="ascii") as file:
        for line in file:
            words = line.split()
            prefix = int(words[1], 16)
            if 0 < prefix < 128 and not words[0].startswith(("fe8", "ff")):
                found.append(IPv6Network((bytes.fromhex(words[0]), prefix), strict=False))
    return found
