"""The control socket, with a thread or nobody in place of a supervisor."""

from __future__ import annotations

import errno
import os
import socket
import threading
from array import array
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from sandbox.errors import SetupError
from sandbox.launch.channel import Channel
from sandbox.wire import Kind

EVENT = b'{"event": "started", "id": 1}'


class Unwilling(socket.socket):
    """A socket that first refuses to send with these errors."""

    refusals: tuple[int, ...] = ()

    def sendmsg(self, *arguments: Any) -> int:
        if self.refusals:
            number, *rest = self.refusals
            self.refusals = tuple(rest)
            raise OSError(number, os.strerror(number))
        return super().sendmsg(*arguments)


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Unwilling, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    control = Unwilling(fileno=ours.detach())
    helper: Any = SimpleNamespace(pid=0, wait=lambda timeout=None: True, kill=int, resume=int)
    channel = Channel(control, helper)
    with theirs:
        yield channel, control, theirs
        theirs.close()
        channel.close()


def test_events_are_taken_in_while_requests_wait(ends: tuple[Channel, Unwilling, socket.socket]) -> None:
    """A supervisor that is busy telling reads no requests; who sends them must read what it tells."""
    channel, _, theirs = ends
    count = 3000
    read: list[bytes] = []
    sent: list[int] = []

    def supervisor() -> None:
        for _ in range(count):
            theirs.send(EVENT)
        while len(read) < count and (data := theirs.recv(4096)):
            read.append(data)

    def caller() -> None:
        for number in range(count):
            channel.request(Kind.SPAWN, (number, "x" * 500))
            sent.append(number)

    threads = [threading.Thread(target=each, daemon=True) for each in (supervisor, caller)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    stuck = [thread for thread in threads if thread.is_alive()]
    theirs.shutdown(socket.SHUT_RDWR)  # lets go of those
    assert not stuck
    assert (len(sent), len(read)) == (count, count)


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOBUFS, errno.ETOOMANYREFS])
def test_what_cannot_be_sent_now_is_sent_later(
    ends: tuple[Channel, Unwilling, socket.socket], number: int
) -> None:
    channel, control, theirs = ends
    control.refusals = (number, number)
    box = channel.mailbox(1)
    theirs.send(b'{"event": "result", "id": 1}')
    channel.request(Kind.SPAWN, (1, "x"), (0,))
    assert box.result is not None
    data, ancillary, _, _ = theirs.recvmsg(4096, socket.CMSG_SPACE(16))
    assert b"x" in data
    assert len(ancillary) == 1
    os.close(array("i", ancillary[0][2])[0])


def test_descriptors_may_stay_too_many(ends: tuple[Channel, Unwilling, socket.socket]) -> None:
    channel, control, _ = ends
    control.refusals = (errno.ETOOMANYREFS,) * 1000
    with pytest.raises(SetupError, match="cannot send to the sandbox: Too many references"):
        channel.request(Kind.SPAWN, (1,), timeout=0.1)
    assert not channel.ended


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.EPIPE, "the sandbox has ended"),
        (errno.ECONNRESET, "the sandbox has ended"),
        (errno.ENOTCONN, "the sandbox has ended"),
        (errno.ENOMEM, "cannot send to the sandbox: Cannot allocate memory"),
        (errno.EBADF, "cannot send to the sandbox: Bad file descriptor"),
    ],
)
def test_only_an_end_is_called_one(
    ends: tuple[Channel, Unwilling, socket.socket], number: int, message: str
) -> None:
    channel, control, _ = ends
    control.refusals = (number,)
    with pytest.raises(SetupError, match=message):
        channel.request(Kind.SPAWN, (1,))


def test_a_sandbox_that_ends_meanwhile_is_not_waited_for(
    ends: tuple[Channel, Unwilling, socket.socket],
) -> None:
    channel, control, theirs = ends
    control.refusals = (errno.EAGAIN,) * 1000
    theirs.send(b'{"event": "end"}')
    with pytest.raises(SetupError, match="the sandbox has ended"):
        channel.request(Kind.SPAWN, (1,))
