"""Launches that find their supervisor made ahead: the client of `sandbox-helper broker`.

A process's only launch starts its supervisor directly and pays for nothing else. With the second one
comes a broker, which keeps supervisors with their namespaces ready for those that follow, until nobody
has wanted one for a while.

Supervisors have from their maker what a process hands on: ids, resource limits, CPUs, namespaces and so
on. Whoever changes one of these is not to get a sandbox that knows the old state. So a broker is used for
launches from the very state that it was made in, and made for a state that is met twice in a row; all
others are direct, and so is every launch for which there is no broker to be had.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import resource
import select
import socket
import threading
import weakref
from array import array
from collections.abc import Sequence

from sandbox.errors import SetupError
from sandbox.launch.backend import Child, Native, Started, above_stdio, pair, parts, spawn

__all__ = ["Brokered", "stop"]

#: descriptors of one request, as the helper has it
_MAX_FDS = 16
#: below the limit on open files, for the helper's own
_ROOM = 64
#: how long a broker may take to come or go, seconds
_PATIENCE = 10.0
#: how long a request may wait for somebody who takes it, seconds; for who is slow, not for who is stopped
_UNTAKEN = 3.0
#: who may have fewer processes or namespaces than this has none to spare
_PLENTY = 256
#: of /proc/PID/status, the lines about what a process hands on
_STATUS = re.compile(rb"^(?:Umask|Uid|Gid|Groups|Cap...|NoNewPrivs|Seccomp.*):.*", re.MULTILINE)
_NAMESPACES = ("mnt", "net", "user", "pid_for_children", "ipc", "uts", "cgroup")


class Brokered:
    """A `Backend` that starts supervisors through this process's broker, or directly."""

    def __init__(self) -> None:
        self._native = Native()
        self._reset()

    def _reset(self) -> None:
        # Re-entrant, so that a signal handler of the caller's may launch something while we hold it.
        self._lock = threading.RLock()
        self._broker: _Broker | None = None
        self._last: object = None

    def start(
        self, plan: bytes, fds: Sequence[int], *, namespaces: int = 0, own_group: bool = True
    ) -> Started:
        if not own_group:
            return self._native.start(plan, fds, own_group=False)
        inherited = _inherited()
        broker = self._broker
        if broker is not None and broker.inherited == inherited and not broker.retired:
            started = broker.start(plan, fds)
            if started is not None:
                self._last = inherited
                return started
        started = self._native.start(plan, fds)
        self._consider(inherited, namespaces)
        return started

    def _consider(self, inherited: object, namespaces: int) -> None:
        """Make a broker, if the launch that was just started was like the one before."""
        with self._lock:
            again, self._last = inherited == self._last, inherited
            if inherited is None or not again:
                return
            broker = self._broker
            if broker is None or broker.inherited != inherited or broker.retired:
                self._broker = _Broker(inherited)
                self._broker.make(namespaces)

    def stop(self) -> None:
        with self._lock:
            broker, self._broker, self._last = self._broker, None, None
        if broker is not None:
            broker.end()

    def forked(self) -> None:
        """We are the child: the broker is the parent's."""
        broker = self._broker
        self._reset()
        if broker is not None:
            broker.forget()


class _Broker:
    """A broker for launches from the state *inherited*. It is let go of by the last reference."""

    def __init__(self, inherited: object) -> None:
        self.inherited = inherited
        #: it was of use, and has gone
        self.retired = False
        self.process: Child | None = None
        self._socket: socket.socket | None = None
        self._finalizer: weakref.finalize[..., _Broker] | None = None

    def make(self, namespaces: int) -> None:
        """Start it, to have supervisors ready for plans with *namespaces*. Where that does not work
        `start` does not, either."""
        if not _plenty():
            return
        with contextlib.suppress(OSError, SetupError), contextlib.ExitStack() as undo:
            control, theirs = pair()
            undo.callback(control.close)
            with contextlib.ExitStack() as given:
                given.callback(os.close, theirs)
                lifeline = above_stdio(os.pidfd_open(os.getpid()))
                given.callback(os.close, lifeline)
                null = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0)
                actions = [null, *((os.POSIX_SPAWN_DUP2, 0, number) for number in (1, 2))]
                arguments = ["broker", str(theirs), str(lifeline), str(namespaces)]
                starter = spawn(arguments, [theirs, lifeline], actions)
            starter.wait(_PATIENCE)  # the broker is its child, not ours
            control.settimeout(_PATIENCE)
            self.process = _introduction(control)
            control.settimeout(None)
            if self.process is None:
                return
            self._socket = control
            undo.pop_all()
            self._finalizer = weakref.finalize(self, _let_go, control, self.process, os.getpid())
            self._finalizer.atexit = False  # it sees itself when we end

    def start(self, plan: bytes, fds: Sequence[int]) -> Started | None:
        """Start a supervisor as `Backend` does; None when there is none to be had, and none began."""
        numbers = list(dict.fromkeys(fds))
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if self._socket is None or len(numbers) > _MAX_FDS - 4 or max(numbers, default=0) > most - _ROOM:
            return None
        try:
            ticket = os.eventfd(1, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except OSError:
            return None
        try:
            return self._request(plan, numbers, ticket)
        finally:
            os.close(ticket)

    def _request(self, plan: bytes, numbers: list[int], ticket: int) -> Started | None:
        """Ask for a supervisor that has *numbers*, and takes the *ticket* before it does anything."""
        assert self._socket is not None
        with parts(plan) as (control, memory, *ours):
            given = array("i", [memory, ticket, *ours, *numbers])
            flags = socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT
            try:
                ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, given)]
                self._socket.sendmsg([array("i", [-1, -1, *ours, *numbers])], ancillary, flags)
            except OSError as error:  # or it has much to do, or there are many descriptors on their way
                self.retired |= error.errno in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN)
                control.close()
                return None
        # Whoever takes it says so first of all, and nothing has happened until then. With our copy of
        # its end closed, an end of file tells that nobody has, or lived long enough to.
        try:
            helper = self._taker(control, ticket)
        except BaseException:
            _take(ticket)
            control.close()
            raise
        if helper is None:
            control.close()
            return None
        return Started(control, helper)

    def _taker(self, control: socket.socket, ticket: int) -> Child | None:
        """Who has taken a request; None when nobody has, and nobody will. A broker that nobody hears from is
        given up: it may be stopped."""
        waiting = select.poll()
        waiting.register(control, select.POLLIN)
        if not waiting.poll(_UNTAKEN * 1000) and _take(ticket):
            self.retired = True
            if self.process is not None:
                self.process.kill()
            return None
        return _introduction(control)

    def end(self) -> None:
        """Let it go, and wait until it is gone. Sandboxes that run are not concerned."""
        if self._finalizer is not None:
            self._finalizer()

    def forget(self) -> None:
        """In a fork: close our copy, so that the broker is its owner's alone."""
        if self._finalizer is not None:
            self._finalizer.detach()
        if self._socket is not None:
            self._socket.close()


def _let_go(control: socket.socket, process: Child, owner: int) -> None:
    control.close()
    if owner == os.getpid() and not process.wait(_PATIENCE):
        process.kill()
        process.wait()


def _take(ticket: int) -> bool:
    """Whether nobody had taken it, and now nobody can: an eventfd(2), so that only one does."""
    try:
        return os.eventfd_read(ticket) == 1
    except BlockingIOError:
        return False


def _introduction(control: socket.socket) -> Child | None:
    """Wait for a broker, or a supervisor, to say who it is; None when it does not."""
    fds = array("i")
    try:
        room = socket.CMSG_SPACE(fds.itemsize)
        data, ancillary, _, _ = control.recvmsg(4096, room, socket.MSG_CMSG_CLOEXEC)
    except OSError:
        return None
    for _, _, each in ancillary:
        fds.frombytes(each[: len(each) - len(each) % fds.itemsize])
    pidfd = above_stdio(fds[0]) if fds else -1
    event = json.loads(data) if data else {}
    return Child(event["pid"], pidfd) if "pid" in event else None


def _inherited() -> object:
    """What a process that this thread makes has from it and a plan does not say, as far as that can change:
    to be compared. None when it can't be told."""
    try:
        thread = os.open("/proc/thread-self", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            found: list[bytes] = _STATUS.findall(_read(thread, "status"))
            found += [_read(thread, name) for name in ("limits", "cgroup", "oom_score_adj")]
            namespaces = [os.readlink(f"ns/{name}", dir_fd=thread) for name in _NAMESPACES]
        finally:
            os.close(thread)
        root = os.stat("/")
    except OSError:
        return None
    scheduling = os.sched_getscheduler(0), os.sched_getparam(0).sched_priority
    priority, processors = os.getpriority(os.PRIO_PROCESS, 0), os.sched_getaffinity(0)
    return found, namespaces, (root.st_dev, root.st_ino), priority, processors, scheduling


def _read(directory: int, name: str) -> bytes:
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return os.read(fd, 65536)
    finally:
        os.close(fd)


def _plenty() -> bool:
    """Whether this user may have so many processes and namespaces that the spare ones take nothing away
    from anybody."""
    processes = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if processes != resource.RLIM_INFINITY and processes < _PLENTY:
        return False
    for name in ("user", "pid", "net", "ipc", "uts", "cgroup"):
        with contextlib.suppress(OSError), open(f"/proc/sys/user/max_{name}_namespaces", "rb") as file:
            if int(file.read()) < _PLENTY:
                return False
    return True


#: this process's
BROKERED = Brokered()
os.register_at_fork(after_in_child=BROKERED.forked)


def stop() -> None:
    """End this process's broker, if there is one. Sandboxes that run go on; the next launch is direct."""
    BROKERED.stop()
