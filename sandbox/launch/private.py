"""Getting a sandbox onto a private network (`sandbox.net.private`), which is started for its first member.

The network's supervisor is a helper that nobody waits for: it is no child of whoever started it, and ends
with its last member. A member is who holds a connection to the network's program; the sandbox's own
supervisor has it, so that the address is free again however that ends.
"""

from __future__ import annotations

import array
import base64
import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from sandbox import ids, seccomp, wire
from sandbox.errors import ProfileError, SetupError
from sandbox.host.model import Host
from sandbox.launch.backend import above_stdio, in_memory, pair, spawn
from sandbox.launch.process import setup_error
from sandbox.net.private import member, router, store
from sandbox.net.private.member import Membership
from sandbox.net.published import Inside
from sandbox.plan.operations import Tmpfs
from sandbox.plan.plan import CLONE, Plan
from sandbox.profile.model import User
from sandbox.wire import Kind, Mount, Record

__all__ = ["Joined", "join", "members", "remove"]

_SOCKET = "socket"
_PATIENCE = 40.0  # seconds for a network to be there; the helper itself has 30
_ANSWER = 10.0
_MESSAGE = 1 << 16
_BACKLOG = 128
_TRIES = 20


@dataclass(frozen=True, slots=True)
class Joined:
    """What a launch has for its network: descriptors, the caller's to close, which go before all other
    leases; slots; and where published ports lead."""

    fds: tuple[int, ...]
    records: tuple[Record, ...]
    inside: Inside


def join(membership: Membership, names: Sequence[str] = ()) -> Joined:
    """Get a sandbox onto its network, by *names* too.

    Raises:
        ProfileError: the network was removed.
        SetupError: it can't be started, or is full.
    """
    network = membership.network
    wanted = tuple(dict.fromkeys((*membership.names, *names)))
    with store.locked(network.name) as directory:
        if store.load(network.name) != network:
            raise SetupError(f"the network {network.name} is another one by now", "run it again")
        for _ in range(_TRIES):
            found = _ask(directory, {"op": "join", "names": wanted})
            if found is not None:
                break
            _start(membership, directory)
        else:
            raise SetupError(
                f"the network {network.name} ends again and again", f"sandbox network inspect {network.name}"
            )
    answer, connection, netlink = found
    if "number" not in answer or netlink < 0:
        connection.close()
        why = str(answer.get("error", "it gave no number"))
        raise SetupError(f"cannot reach the network {network.name}: {why}", "end one of its sandboxes")
    fds = (above_stdio(netlink), above_stdio(connection.detach()))
    number = int(answer["number"])
    slots = tuple(member.slots(membership, number, (0, 1)))
    return Joined(fds, slots, member.inside(network, number))


def members(name: str) -> list[dict[str, Any]]:
    """Who is on the network *name* now: number and names. Raises as `join`."""
    with store.locked(name) as directory:
        found = _ask(directory, {"op": "list"})
    if found is None:
        return []
    answer, connection, _ = found
    connection.close()
    return list(answer.get("members", ()))


def remove(name: str, *, force: bool = False) -> bool:
    """Remove the network *name*; with *force* its members lose it, and one that is not there is no error.
    Whether it was there.

    Raises:
        ProfileError: there is none, or it is in use.
        SetupError: it can't be removed.
    """
    if force and not os.path.exists(store.directory_of(name)):
        return False
    with store.locked(name) as directory:
        found = _ask(directory, {"op": "end" if force else "list"}, answered=not force)
        if found is not None:
            found[1].close()
            count = len(found[0].get("members", ()))
            if count and not force:
                raise ProfileError(
                    f"the network {name} is in use: {count} sandbox{'es are' if count > 1 else ' is'} on it",
                    f"end them, or take it from them: sandbox network rm --force {name}",
                )
        store.remove(name)
    return True


# --- talking ------------------------------------------------------------------------------------


def _ask(
    directory: int, request: dict[str, object], *, answered: bool = True
) -> tuple[dict[str, Any], socket.socket, int] | None:
    """The answer, the connection and a descriptor that came along (-1: none); None when nobody is there."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.settimeout(_ANSWER)
        connection.connect(f"/proc/self/fd/{directory}/{_SOCKET}")  # a path may be too long for unix(7)
        connection.send(json.dumps(request).encode())
        if not answered:
            return {}, connection, -1
        data, ancillary, _, _ = connection.recvmsg(_MESSAGE, socket.CMSG_SPACE(4))
        connection.settimeout(None)
    except TimeoutError:
        connection.close()
        mend = "sandbox network rm --force NAME, and make it again"
        raise SetupError("the network's supervisor does not answer", mend) from None
    except OSError:  # nobody listens any more, or it ended meanwhile
        connection.close()
        return None
    fds = array.array("i")
    for _, _, part in ancillary:
        fds.frombytes(part[: len(part) - len(part) % fds.itemsize])
    if not data:
        connection.close()
        return None
    return json.loads(data), connection, fds[0] if fds else -1


# --- starting -----------------------------------------------------------------------------------


def _start(membership: Membership, directory: int) -> None:
    """Start the network's supervisor, whose lock we hold, and wait until it serves.

    Raises:
        SetupError: it can't be started.
    """
    from sandbox import host as hosts

    network = membership.network
    host = hosts.probe(network=network.backend)
    with contextlib.ExitStack() as stack:
        try:
            listening = _listen(directory)
            stack.callback(os.close, listening)
            control, theirs = pair()
            stack.callback(control.close)
            closing = stack.enter_context(contextlib.ExitStack())
            closing.callback(os.close, theirs)
            ours = above_stdio(os.dup(control.fileno()))
            stack.callback(os.close, ours)
        except OSError as error:
            message = f"cannot start the network {network.name}: {error.strerror}"
            raise SetupError(message, errno=error.errno or 0) from error
        slots = [
            Record(Kind.LEASE, "", "", (listening,)),
            # Our end of the control socket: what it says is heard until it is ready, and it ends by itself.
            Record(Kind.LEASE, "", "", (ours,)),
            Record(Kind.CONTROL, "", "", (theirs,)),
            Record(Kind.VERBOSITY, "", "", (0,)),
        ]
        memory = in_memory(wire.extend(_plan(membership, host).encode(), slots))
        stack.callback(os.close, memory)
        null = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0)
        actions = [null, *((os.POSIX_SPAWN_DUP2, 0, number) for number in (1, 2))]
        starter = spawn(["apart", str(memory)], [memory, listening, ours, theirs], actions)
        starter.wait(_PATIENCE)
        closing.close()
        _wait(control, network.name)


def _listen(directory: int) -> int:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_SOCKET, dir_fd=directory)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        listening.bind(f"/proc/self/fd/{directory}/{_SOCKET}")
        listening.listen(_BACKLOG)
    except OSError:
        listening.close()
        raise
    return above_stdio(listening.detach())


def _wait(control: socket.socket, name: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    try:
        while True:
            control.settimeout(max(0.01, deadline - time.monotonic()))
            data = control.recv(_MESSAGE)
            event = json.loads(data) if data else {}
            kind = event.get("event")
            if kind == "ready":
                return
            if kind == "error":
                raise setup_error(event)
            if not data or kind == "end":
                break
    except (TimeoutError, OSError):
        pass
    raise SetupError(f"the network {name} could not be started", "sandbox doctor")


def _plan(membership: Membership, host: Host) -> Plan:
    """That of the network's supervisor: nothing is run in it."""
    return Plan(
        namespaces=sum(CLONE.values()),
        ids=ids.plan_ids(User(ids="single"), host),
        operations=(Tmpfs(dst="/", flags=Mount.NOSUID | Mount.NODEV),),
        attributes=tuple(_attributes(membership, host)),
        limits=(),
        environment=MappingProxyType({}),
        workdir="/",
    )


def _attributes(membership: Membership, host: Host) -> Iterator[Record]:
    who = ids.plan_ids(User(ids="single"), host)
    yield Record(Kind.POOL, "make the shared tmpfs", "", (1 << 16, 64))
    yield Record(Kind.IDENTITY, "become nobody in particular", "", (who.uid, who.gid))
    yield Record(Kind.CAPABILITIES, "drop all capabilities", "", (0,))
    yield Record(Kind.USERNS_MAX, "forbid further user namespaces", "", (0,))
    yield Record(Kind.LOOPBACK, "bring the loopback device up", "")
    network = membership.network
    argv = _command(membership, host)
    service = router.service(network, argv, membership.views)
    yield from router.records(network, host.network, service)


def _command(membership: Membership, host: Host) -> tuple[str, ...]:
    from sandbox.egress import DENIED_CALLS

    network = membership.network
    resolvers = router.resolvers(network, host.network)
    addresses = network.addresses(1)
    config = {
        "name": network.name,
        "addresses": addresses if host.network.ipv6 else addresses[:1],
        "first": network.addresses(0)[0],
        "first6": network.addresses(0)[1],
        "numbers": [router.NUMBERS.start, router.NUMBERS.stop],
        "resolvers": resolvers,
        "seccomp": base64.b64encode(
            seccomp.program("strict", deny=DENIED_CALLS.split(), machine=host.machine)
        ).decode(),
    }
    start = f"import sys; sys.path.insert(0, {membership.directory!r})\n"
    start += "from sandbox.egress.members import main; main(sys.argv)"
    return (membership.python, "-I", "-S", "-B", "-c", start, json.dumps(config), "{ready}")
