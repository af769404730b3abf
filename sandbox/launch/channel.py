"""The control socket of one supervisor, shared by any number of threads.

There is no thread of ours. Whoever waits for something polls the socket together with its own
pipes, and takes in every event that is there, for everybody: it is put into the `Mailbox` it is
for, and the other waiters, who may be polling a socket that is empty by now, are woken through an
eventfd each to look into theirs.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import socket
import struct
import threading
import time
import weakref
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

from sandbox.errors import SetupError
from sandbox.launch.backend import Helper, in_memory
from sandbox.launch.streams import Pump
from sandbox.wire import Kind, Record, encode

if TYPE_CHECKING:
    from sandbox.net.published import Inside

__all__ = ["Channel", "Event", "Mailbox"]

Event = dict[str, Any]

_EVENT_MAX = 64 * 1024  # bytes; events are a few hundred
_REQUEST_MAX = 128 * 1024  # bytes of a datagram, as the helper has it; larger ones go by memfd
#: kind and id, in place of a request that is in a memfd
_LARGE = struct.Struct("<ii")
#: how long the supervisor gets to end and clean up before it is killed, seconds
_PATIENCE = 30.0
#: between two looks of a waiter that nobody can wake, seconds
_GLANCE = 0.02
#: what sending says once nobody is at the other end
_GONE = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN)
#: and when the supervisor has yet to read what was sent before: too many bytes, or (without
#: CAP_SYS_RESOURCE) more descriptors on their way than this user may have open
_LATER = (errno.EAGAIN, errno.ENOBUFS, errno.ETOOMANYREFS)


class _ClosedError(SetupError):
    """The socket is closed: there is nothing more to come."""


class Mailbox:
    """What came for one command or request."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.result: Event | None = None
        #: it was stopped from its terminal (Ctrl-Z), and the supervisor with it
        self.stopped = False
        #: answers to other requests, with the descriptor that came along (-1: none)
        self.answers: deque[tuple[Event, int]] = deque()

    def __del__(self) -> None:
        for _, fd in self.answers:
            if fd >= 0:
                os.close(fd)


class Channel:
    """The conversation with one supervisor."""

    def __init__(self, control: socket.socket, helper: Helper) -> None:
        self.helper = helper
        self.ready = False
        #: what asks a command to end
        self.stop_signal = 15
        #: its published ports when it was ready, as the supervisor lists them
        self.ports: Sequence[Sequence[Any]] = ()
        #: the supervisor's error event: the set-up failed, and nothing ran
        self.error: Event | None = None
        #: where published ports lead, where only the launch could say it
        self.inside: Inside | None = None
        #: the supervisor said good-bye, or is gone
        self.ended = False
        self._socket = control
        self._owner = os.getpid()
        # Re-entrant, so that a signal handler of the caller's may close() while we hold it.
        self._lock = threading.RLock()
        self._numbers = count(1)
        self._boxes: weakref.WeakValueDictionary[int, Mailbox] = weakref.WeakValueDictionary()
        self._wakers: set[int] = set()
        self._visitors = 0
        self._closed = False
        self._finalizer = weakref.finalize(self, _abandon, control, helper, self._owner)

    def mailbox(self, number: int | None = None) -> Mailbox:
        """A mailbox for a new number, or for *number*."""
        box = Mailbox(next(self._numbers) if number is None else number)
        with self._lock:
            self._boxes[box.number] = box
        return box

    def request(
        self,
        kind: Kind,
        fields: Iterable[str | bytes | int],
        fds: Iterable[int] = (),
        timeout: float | None = None,
    ) -> None:
        """Send one request, with descriptors. While the supervisor has too many unread, events are
        taken in, for it may be waiting for that.

        Raises:
            SetupError: the sandbox has ended, the request can't be sent, or not in *timeout* seconds.
        """
        fds, fields = list(fds), tuple(fields)
        message = encode([Record(kind, "", "", fields)])
        memory = -1
        try:
            if len(message) > _REQUEST_MAX:
                memory = in_memory(message)
                message, fds = _LARGE.pack(kind, fields[0]), [memory, *fds]
            with self._visit():
                self._send(message, fds, timeout)
        except OSError as error:
            gone = error.errno in _GONE
            said = "the sandbox has ended" if gone else f"cannot send to the sandbox: {error.strerror}"
            mend = "open another Sandbox" if gone else None
            raise SetupError(said, mend, errno=error.errno or 0) from error
        finally:
            if memory >= 0:
                os.close(memory)

    def _send(self, message: bytes, fds: list[int], timeout: float | None) -> None:
        reason = self._try_send(message, fds)
        if reason is None:
            return
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._waker() as waker:
            while reason is not None:
                self._receive(waker)
                if self.ended:
                    raise SetupError("the sandbox has ended", "open another Sandbox")
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise reason
                if reason.errno == errno.EAGAIN:
                    self._poll(waker, left, None, select.POLLIN | select.POLLOUT)
                else:  # there is room in the socket, so that POLLOUT would not wait
                    self._poll(waker, _GLANCE if left is None else min(left, _GLANCE), None)
                reason = self._try_send(message, fds)

    def _try_send(self, message: bytes, fds: list[int]) -> OSError | None:
        """Send, or say why that has to be done again later."""
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
        try:
            self._socket.sendmsg([message], ancillary, socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
        except OSError as error:
            if error.errno not in _LATER:
                raise
            return error
        return None

    def wait(self, done: Callable[[], bool], timeout: float | None = None, pump: Pump | None = None) -> bool:
        """Take in events, and serve *pump*, until *done()* or the end; False when *timeout* seconds
        passed first."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with contextlib.suppress(_ClosedError), self._visit(), self._waker() as waker:
            while True:
                self._receive(waker)
                if done() or self.ended:
                    return True
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return False
                self._poll(waker, left, pump)
        return True

    def poll(self) -> None:
        """Take in the events that are there, without waiting."""
        with contextlib.suppress(_ClosedError), self._visit():
            self._receive(-1)

    def close(self) -> None:
        """End the sandbox and everything in it, and wait until it is gone. May be called by
        anybody, any number of times."""
        if self._owner == os.getpid():  # in a fork of our caller: the sandbox is not its to end
            with contextlib.suppress(SetupError):
                self.poll()
                if not self.ended:
                    self.request(Kind.CLOSE, (), timeout=_PATIENCE)
                    self.wait(lambda: False, _PATIENCE)
        with self._lock:
            self._closed = self.ended = True
            self._wake_others(-1)
            last = self._visitors == 0
        if last:
            self._finalizer()

    @contextlib.contextmanager
    def _visit(self) -> Iterator[None]:
        """While somebody is inside, the socket stays open; the last one out closes it."""
        if self._owner != os.getpid():  # it would take events that are the owner's
            raise SetupError("the sandbox belongs to the process that made it", "make one after the fork")
        with self._lock:
            if self._closed:
                raise _ClosedError("the sandbox is closed")
            self._visitors += 1
        try:
            yield
        finally:
            with self._lock:
                self._visitors -= 1
                last = self._closed and self._visitors == 0
            if last:
                self._finalizer()

    @contextlib.contextmanager
    def _waker(self) -> Iterator[int]:
        try:
            fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except OSError:  # too many open files: this waiter looks for itself, ever so often
            yield -1
            return
        try:
            with self._lock:
                self._wakers.add(fd)
            yield fd
        finally:
            with self._lock:
                self._wakers.discard(fd)
            os.close(fd)

    def _poll(self, waker: int, left: float | None, pump: Pump | None, wanted: int = select.POLLIN) -> None:
        poller = select.poll()
        poller.register(self._socket, wanted)
        if waker >= 0:
            poller.register(waker, select.POLLIN)
        else:
            left = _GLANCE if left is None else min(left, _GLANCE)
        for fd, events in pump.wanted() if pump else ():
            poller.register(fd, events)
        for fd, _ in poller.poll(None if left is None else left * 1000):
            if fd == waker:
                os.eventfd_read(fd)
            elif pump:
                pump.serve(fd)

    def _receive(self, waker: int) -> None:
        """Take in every event that is there; wake the waiters but the one of *waker*."""
        with self._lock:
            news = False
            while not self.ended and (received := self._next()):
                event, fd = received
                self._dispatch(event, fd)
                news = True
            if news:
                self._wake_others(waker)

    def _next(self) -> tuple[Event, int] | None:
        """The next event and its descriptor (-1: none), or None when there is none now."""
        while True:
            try:
                data, ancillary, flags, _ = self._socket.recvmsg(
                    _EVENT_MAX, socket.CMSG_SPACE(16), socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
                )
                break
            except BlockingIOError:
                return None
            except ConnectionResetError:
                # It ended with a request of ours unread. The kernel says so once, and before it
                # hands out what was sent to us: a result may still be there.
                continue
        fd = _one_fd(ancillary)
        if not data or flags & socket.MSG_TRUNC:
            return {"event": "end"}, fd
        return json.loads(data), fd

    def _dispatch(self, event: Event, fd: int) -> None:
        name, box = event["event"], self._boxes.get(event.get("id", -1))
        if name == "ready":
            self.ready = True
            self.ports = event.get("ports", ())
        elif name == "error":
            self.error = event
        elif name == "end":
            self.ended = True
        elif box is None or name == "started":  # nobody is interested
            pass
        elif name == "stopped":
            box.stopped = True
        elif name == "result":
            box.result = event
        else:
            box.answers.append((event, fd))
            fd = -1
        if fd >= 0:
            os.close(fd)

    def _wake_others(self, mine: int) -> None:
        for fd in tuple(self._wakers):
            if fd != mine:
                os.eventfd_write(fd, 1)


def _abandon(control: socket.socket, helper: Helper, owner: int) -> None:
    """End the supervisor by closing the socket, and reap it. Only closes in a fork of *owner*."""
    control.close()
    if owner == os.getpid() and not helper.wait(_PATIENCE):
        helper.kill()
        helper.wait()


def _one_fd(ancillary: list[tuple[int, int, bytes]]) -> int:
    """The first descriptor that came; any others (there should be none) are closed."""
    fds = array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    for fd in fds[1:]:
        os.close(fd)
    return fds[0] if fds else -1
