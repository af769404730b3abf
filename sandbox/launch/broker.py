"""Launches that find their supervisor made ahead: the client of `sandbox-helper broker`.

The first launch of a process starts its supervisor directly, and pays for nothing else. From the
second on there is a broker, one for the process, which keeps supervisors with their namespaces
ready. They have what the process had when the broker was started (resource limits, ids, priority
...): a process that has changed since gets a new broker, and so does a fork of it. Where a broker
can't help, the launch is a direct one.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import threading
from array import array
from collections.abc import Sequence

from sandbox import paths
from sandbox.errors import SetupError
from sandbox.launch.backend import Child, Helper, Native, above_stdio, plan_file, spawn

__all__ = ["Brokered", "Remote", "stop"]

#: descriptors of one request, as the helper has it
_MAX_FDS = 16
#: setrlimit(2) has numbers 0 to 15
_RESOURCES = range(16)
#: where a process is: os.unshare, setns and chroot change these
_SURROUNDINGS = ("/", *(f"/proc/self/ns/{name}" for name in ("user", "mnt", "net", "cgroup")))
#: how long a broker that was told to go may take, seconds
_PATIENCE = 10.0


class Remote:
    """A supervisor that is the broker's child: what it says of itself is how we know it."""

    def __init__(self) -> None:
        self.pid = -1
        self._pidfd = -1
        self._owner = os.getpid()

    def introduce(self, pid: int, pidfd: int) -> None:
        """It is *pid*; *pidfd* (or -1) becomes this object's."""
        self._close()
        self.pid, self._pidfd = pid, pidfd

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has ended; it is reaped by the kernel. One that never said who it is took no
        request of ours, or ended before it could."""
        if self._pidfd < 0 or self._owner != os.getpid():
            return True
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        if not poller.poll(None if timeout is None else timeout * 1000):
            return False
        self._close()
        return True

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self._pidfd >= 0 and self._owner == os.getpid():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def _close(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def __del__(self) -> None:
        self._close()


class _Broker:
    """A running broker: our end of its socket."""

    def __init__(self, likeness: tuple[object, ...]) -> None:
        self.likeness = likeness
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = socket.socket(fileno=above_stdio(ours.detach()))
        fd = above_stdio(theirs.detach())
        lifeline = -1
        try:
            lifeline = above_stdio(os.pidfd_open(os.getpid()))
            null = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0)
            actions = [null, *((os.POSIX_SPAWN_DUP2, 0, number) for number in (1, 2))]
            self._child: Child = spawn(["broker", str(fd), str(lifeline)], [fd, lifeline], actions)
        except BaseException:
            self._socket.close()
            raise
        finally:
            for number in (fd, lifeline):
                if number >= 0:
                    os.close(number)

    def send(self, numbers: Sequence[int], fds: Sequence[int]) -> None:
        """One request: *fds*, and the numbers they shall have.

        Raises:
            OSError: it has gone (EPIPE), or has too many requests unread.
        """
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))]
        flags = socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT
        self._socket.sendmsg([array("i", numbers)], ancillary, flags)

    def end(self) -> None:
        """Let it go; sandboxes that run are not concerned."""
        self._socket.close()
        if not self._child.wait(_PATIENCE):
            self._child.kill()
            self._child.wait()

    def forget(self) -> None:
        """In a fork: close our copy, so that the broker is its owner's alone."""
        self._socket.close()


class Brokered:
    """Starts supervisors through this process's broker, or directly where that does not work."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._launches = 0
        self._broker: _Broker | None = None

    def start(self, plan: bytes, fds: Sequence[int], *, own_group: bool = True) -> Helper:
        if own_group and len(fds) < _MAX_FDS:
            with contextlib.suppress(OSError, SetupError):
                return self._request(plan, list(dict.fromkeys(fds)))
        return Native().start(plan, fds, own_group=own_group)

    def _request(self, plan: bytes, fds: Sequence[int]) -> Helper:
        with self._lock:
            self._launches += 1
            if self._launches == 1:
                raise SetupError("the first launch is direct")
            memory = plan_file(plan)
            try:
                self._send([-1, *fds], [memory, *fds])
            finally:
                os.close(memory)
        return Remote()

    def _send(self, numbers: Sequence[int], fds: Sequence[int]) -> None:
        likeness = _likeness()
        if self._broker and self._broker.likeness == likeness:
            try:
                self._broker.send(numbers, fds)
                return
            except (BrokenPipeError, ConnectionResetError):
                pass  # nobody asked for anything for a while, so that it went
        self._end()
        self._broker = _Broker(likeness)
        self._broker.send(numbers, fds)

    def _end(self) -> None:
        broker, self._broker = self._broker, None
        if broker:
            broker.end()

    def stop(self) -> None:
        with self._lock:
            self._end()
            self._launches = 0

    def forked(self) -> None:
        self._lock = threading.Lock()
        self._launches = 0
        if self._broker:
            self._broker.forget()
            self._broker = None


def _likeness() -> tuple[object, ...]:
    """What a supervisor has from the process that starts it, and a plan does not say."""
    return (
        paths.helper(),
        os.getresuid(),
        os.getresgid(),
        os.getgroups(),
        os.getpriority(os.PRIO_PROCESS, 0),
        os.sched_getscheduler(0),
        os.sched_getaffinity(0),
        [resource.getrlimit(number) for number in _RESOURCES],
        [_identity(path) for path in _SURROUNDINGS],
    )


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


#: this process's
BROKERED = Brokered()
os.register_at_fork(after_in_child=BROKERED.forked)


def stop() -> None:
    """End this process's broker, if there is one. Sandboxes that run go on; the next launch is direct."""
    BROKERED.stop()
