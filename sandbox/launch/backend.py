"""Starting a supervisor, and the seam where tests put something else.

A `Backend` is given an encoded plan and starts whatever obeys it; everything that follows
is said over the control socket that the plan names. `Native` starts the real helper.
Nothing here knows what a plan says or what the supervisor answers.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Sequence
from typing import Any, Protocol

from sandbox import paths
from sandbox.errors import SetupError

__all__ = ["Backend", "Child", "Helper", "Native", "above_stdio", "plan_file", "spawn"]


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


class Backend(Protocol):
    """What starts supervisors."""

    def start(self, plan: bytes, fds: Sequence[int], *, own_group: bool = True) -> Helper:
        """Start a supervisor on *plan*, whose slots name descriptors among *fds*.

        *fds* stay the caller's, who closes them. With *own_group* the supervisor leads a process
        group of its own, so that the caller's Ctrl-C is for the caller to handle.

        Raises:
            SetupError: it could not be started.
        """
        ...


class Native:
    """The helper executable, started by posix_spawn(3).

    The caller's process is never forked: glibc's posix_spawn shares memory with the child until
    its exec, which costs the same for a large heap and is safe with threads.
    """

    def start(self, plan: bytes, fds: Sequence[int], *, own_group: bool = True) -> Helper:
        try:
            memory = plan_file(plan)
        except OSError as error:
            raise SetupError(f"cannot store the plan: {error.strerror}", errno=error.errno or 0) from error
        try:
            return spawn(["run", str(memory)], [memory, *fds], own_group=own_group)
        finally:
            os.close(memory)


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
    return Child(pid)


class Child:
    """The helper as our child: waited for by its pidfd alone, so that neither somebody else's
    waitpid(-1) nor SIGCHLD being ignored confuses us."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._owner = os.getpid()
        try:
            self._pidfd = os.pidfd_open(pid)
        except OSError:  # already ended and reaped by somebody else: ESRCH
            self._pidfd = -1

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
        with contextlib.suppress(ChildProcessError):
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


def plan_file(plan: bytes) -> int:
    """A memfd with *plan*, at its beginning. Raises OSError."""
    fd = above_stdio(os.memfd_create("sandbox-plan", os.MFD_CLOEXEC))
    try:
        view = memoryview(plan)
        while view:
            view = view[os.write(fd, view) :]
        os.lseek(fd, 0, os.SEEK_SET)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _spawn_error(path: str, error: OSError) -> SetupError:
    mend = None
    if isinstance(error, FileNotFoundError):
        mend = "reinstall sandbox: its helper executable is missing"
    elif isinstance(error, PermissionError):
        mend = f"chmod a+x {path}   (and a file system that is not mounted noexec)"
    return SetupError(
        f"cannot start {path}: {error.strerror}",
        mend,
        operation=f"start {path}",
        errno=error.errno or 0,
    )
