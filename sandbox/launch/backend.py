"""Starting a supervisor, and the seam where tests put something else.

A `Backend` is given an encoded plan and starts whatever obeys it; everything that follows
is said over the control socket that comes back. `Native` starts the real helper;
`sandbox.launch.broker` has it made ahead. Nothing here knows what a plan says or what the
supervisor answers.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from sandbox import paths, wire
from sandbox.errors import SetupError
from sandbox.wire import Kind, Record

__all__ = [
    "Backend",
    "Child",
    "Helper",
    "Native",
    "Started",
    "above_stdio",
    "in_memory",
    "pair",
    "parts",
    "scarce",
    "spawn",
]


class Helper(Protocol):
    """A started supervisor."""

    @property
    def pid(self) -> int: ...

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has ended and is reaped; False when *timeout* seconds passed first."""
        ...

    def kill(self) -> None:
        """End it with SIGKILL; everything in its sandbox dies with it."""
        ...

    def resume(self) -> None:
        """Continue it with SIGCONT, if it is stopped."""
        ...


class Started(NamedTuple):
    """A supervisor, and our end of its control socket."""

    control: socket.socket
    helper: Helper


class Backend(Protocol):
    """What starts supervisors."""

    def start(
        self, plan: bytes, fds: Sequence[int], *, namespaces: int = 0, own_group: bool = True
    ) -> Started:
        """Start a supervisor on *plan*, whose slots name descriptors among *fds*. It dies with this
        process, whichever thread started it.

        *fds* stay the caller's, who closes them. *namespaces* are the plan's, clone(2) flags. With
        *own_group* the supervisor leads a process group of its own, so that the caller's Ctrl-C is for
        the caller to handle.

        Raises:
            SetupError: it could not be started.
        """
        ...


class Native:
    """The helper executable, started by posix_spawn(3).

    The caller's process is never forked: glibc's posix_spawn shares memory with the child until
    its exec, which costs the same for a large heap and is safe with threads.
    """

    def start(
        self, plan: bytes, fds: Sequence[int], *, namespaces: int = 0, own_group: bool = True
    ) -> Started:
        with parts(plan) as (control, memory, *ours):
            child = spawn(["run", str(memory)], [memory, *ours, *fds], own_group=own_group)
            return Started(control, child)


@contextlib.contextmanager
def parts(plan: bytes) -> Iterator[tuple[socket.socket, int, int, int]]:
    """What a supervisor is started with, however that is done: our end of the control socket, a memfd with
    *plan* and these slots in it, the supervisor's end, and the lifeline. They are closed at the end, but
    our end only by an exception.

    Raises:
        SetupError: they can't be had (too many open files).
    """
    with contextlib.ExitStack() as undo, contextlib.ExitStack() as given:
        try:
            control, theirs = pair()
            undo.callback(control.close)
            given.callback(os.close, theirs)
            lifeline = above_stdio(os.pidfd_open(os.getpid()))
            given.callback(os.close, lifeline)
            slots = (Record(Kind.CONTROL, "", "", (theirs,)), Record(Kind.LIFELINE, "", "", (lifeline,)))
            memory = in_memory(wire.extend(plan, slots))
            given.callback(os.close, memory)
        except OSError as error:
            said = f"cannot start a sandbox: {error.strerror}"
            raise SetupError(said, scarce(error.errno), errno=error.errno or 0) from error
        yield control, memory, theirs, lifeline
        undo.pop_all()


def spawn(
    arguments: Sequence[str],
    fds: Sequence[int],
    actions: Sequence[tuple[Any, ...]] = (),
    *,
    own_group: bool = True,
) -> Child:
    """Start the helper in a role, with *fds* as they are numbered here, after *actions* of posix_spawn(3).

    Raises:
        SetupError: it could not be started.
    """
    path = paths.helper()
    # A dup2 of a descriptor to itself clears its CLOEXEC flag, in the child only (POSIX.1-2024; glibc since
    # 2.29). Descriptors of the caller's that are inherited besides are closed by the helper first of all.
    inherited = [(os.POSIX_SPAWN_DUP2, fd, fd) for fd in set(fds)]
    words = ["sandbox-helper", *arguments]
    group: dict[str, Any] = {"setpgroup": 0} if own_group else {}
    try:
        pid = os.posix_spawn(path, words, {}, file_actions=[*actions, *inherited], setsigmask=(), **group)
    except OSError as error:
        raise _spawn_error(path, error) from error
    try:
        return Child(pid, os.pidfd_open(pid))
    except OSError:  # already ended and reaped by somebody else: ESRCH
        return Child(pid, -1)


class Child:
    """A helper process, most often our child: waited for by its pidfd alone, which is this object's, so
    that neither somebody else's waitpid(-1) nor SIGCHLD being ignored confuses us."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self._pidfd = pidfd
        self._owner = os.getpid()

    def wait(self, timeout: float | None = None) -> bool:
        if self._pidfd < 0 or self._owner != os.getpid():  # a fork of our caller has no such child
            return True
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if poller.poll(None if left is None else left * 1000):
                break
            if left == 0.0:
                return False
        with contextlib.suppress(ChildProcessError):  # somebody else's, or reaped
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        os.close(self._pidfd)
        self._pidfd = -1
        return True

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self._pidfd >= 0 and self._owner == os.getpid():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def __del__(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


def above_stdio(fd: int) -> int:
    """Return *fd*, moved above 2: a caller may run with its standard descriptors closed, and what
    we open must not be taken for one of them."""
    if fd > 2:
        return fd
    import fcntl

    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(fd)


def pair() -> tuple[socket.socket, int]:
    """A control socket: our end, and the other one as a bare descriptor that is the caller's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    control = socket.socket(fileno=above_stdio(ours.detach()))
    control.setblocking(True)  # whatever socket.setdefaulttimeout() says
    return control, above_stdio(theirs.detach())


def in_memory(data: bytes) -> int:
    """A memfd with *data*, to be read from its beginning; the caller's to close."""
    fd = above_stdio(os.memfd_create("sandbox-plan", os.MFD_CLOEXEC))
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.lseek(fd, 0, os.SEEK_SET)
    except BaseException:
        os.close(fd)
        raise
    return fd


def scarce(number: int | None) -> str | None:
    """What mends an error of that number, when a limit on the caller's own process is what was met."""
    return _SCARCE.get(number or 0)


_SCARCE = {
    errno.EFBIG: "raise the limit on the size of files: ulimit -f unlimited",
    errno.EMFILE: "raise the limit on open files (ulimit -n), or run fewer at once",
    errno.ENFILE: "close something: no process here can open another file (sysctl fs.file-max)",
    errno.EAGAIN: "raise the limit on processes (ulimit -u), or run fewer at once",
    errno.ENOMEM: "raise the limit on memory (ulimit -v unlimited), or make room",
}


def _spawn_error(path: str, error: OSError) -> SetupError:
    mend = None
    if isinstance(error, FileNotFoundError):
        mend = "reinstall sandbox: its helper executable is missing"
    elif isinstance(error, PermissionError):
        mend = f"chmod a+x {path}   (and a file system that is not mounted noexec)"
    else:
        mend = scarce(error.errno)
    return SetupError(
        f"cannot start {path}: {error.strerror}",
        mend,
        operation=f"start {path}",
        errno=error.errno or 0,
    )
