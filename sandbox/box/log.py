"""What is kept of a box's last run, in its own directory, which no payload sees.

run.jsonl    its first line is ours and tells of the network; where only the launch can say it, a line
             more; then come the supervisor's, when the run was ready, when ports came or went, and
             when it ended. Not more than the last run: it begins anew with each
socket       where its supervisor listens for who changes its ports
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sandbox.net.published import Inside
from sandbox.ports import Published

__all__ = ["Run", "begin", "connect", "forget", "listen", "read", "tell_network"]

_NAME, _SOCKET = "run.jsonl", "socket"
_MAX = 1 << 20  # bytes
_PATIENCE = 10.0  # seconds


class Run(NamedTuple):
    """`net` has mode, backend ("" without) and addresses; `ports` are those published; `report` is how it
    ended, or None while it runs, or when it was killed with its supervisor; `inside` is where further ports
    lead, or None where there is nothing to lead into."""

    net: Mapping[str, Any]
    ports: tuple[Published, ...]
    report: Mapping[str, Any] | None
    inside: Inside | None = None


def begin(
    directory: str, mode: str, backend: str, addresses: Sequence[str], inside: Inside | None = None
) -> int:
    """The descriptor to which the rest of a run in the box at *directory* is appended; inherited by exec.

    Raises:
        OSError: it can't be written.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
    fd = os.open(os.path.join(directory, _NAME), flags, 0o600)
    net = {"mode": mode, "backend": backend, "addresses": addresses}
    try:
        _write(fd, {"event": "start", "net": net, "inside": inside})
        os.set_inheritable(fd, True)
    except BaseException:
        os.close(fd)
        raise
    return fd


def tell_network(fd: int, inside: Inside) -> None:
    """Where it is on a private network. Raises OSError."""
    _write(fd, {"event": "joined", "addresses": inside.addresses, "inside": inside})


def _write(fd: int, event: Mapping[str, Any]) -> None:
    os.write(fd, json.dumps(event).encode() + b"\n")


def listen(directory: str) -> int:
    """The descriptor at which the supervisor of a run there is asked. Raises OSError."""
    with _socket_in(directory) as (listening, path):
        listening.bind(path)
        listening.listen()
        listening.setblocking(False)
    return listening.detach()


def connect(directory: str) -> socket.socket:
    """A connection to it. Raises OSError: nobody listens there."""
    with _socket_in(directory) as (connection, path):
        connection.settimeout(_PATIENCE)
        connection.connect(path)
    return connection


@contextlib.contextmanager
def _socket_in(directory: str) -> Iterator[tuple[socket.socket, str]]:
    """A socket, closed if this fails, and a path to its place that is not too long for unix(7)."""
    where = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        yield made, f"/proc/self/fd/{where}/{_SOCKET}"
    except OSError:
        made.close()
        raise
    finally:
        os.close(where)


def forget(directory: str) -> None:
    """Remove what is kept of the last run in the box at *directory*."""
    for name in (_NAME, _SOCKET):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(directory, name))


def read(directory: str) -> Run | None:
    """The last run in the box at *directory*; None when there was none yet."""
    try:
        with open(os.path.join(directory, _NAME), "rb") as file:
            lines = file.read(_MAX).splitlines()
    except FileNotFoundError:
        return None
    run = Run({}, (), None)
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:  # the disk was full
            continue
        run = _after(run, event)
    return run


def _after(run: Run, event: Mapping[str, Any]) -> Run:
    kind = event.get("event")
    inside = Inside(*event["inside"]) if event.get("inside") else None
    if kind == "start":
        return run._replace(net=event["net"], inside=inside)
    if kind == "joined":
        return run._replace(net={**run.net, "addresses": event["addresses"]}, inside=inside)
    if kind in ("ready", "ports"):
        return run._replace(ports=tuple(Published(*each) for each in event["ports"]))
    return run._replace(report=event)
