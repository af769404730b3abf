"""Directories on disk for the overlays of one run, and what launches that were killed left of them.

The supervisor removes its own at the end. After a SIGKILL of it nobody does, so whoever makes one
first removes those of processes that are gone. The names say whose they are: pid namespace (its
inode), process id and start time (proc(5), field 22) of the launcher, with which the supervisor
dies. Containers may share a home: what another pid namespace made is left to that one, for who is
gone can't be seen from here.
"""

from __future__ import annotations

import os
import shutil

from sandbox import paths
from sandbox.errors import SetupError

__all__ = ["make", "parent", "sweep"]


def parent() -> str:
    """Where they are made: in the state directory, which compiled plans protect. Made here, 0700.

    Raises:
        SetupError: it can't be made.
    """
    path = os.path.join(paths.state_dir(), "scratch")
    try:
        os.makedirs(path, 0o700, exist_ok=True)
    except OSError as error:
        raise _not_made(path, error) from error
    return path


def make() -> str:
    """Make one for a supervisor of this process.

    Raises:
        SetupError: it can't be made.
    """
    above = parent()
    sweep(above)
    path = os.path.join(
        above, f"{_pid_namespace()}-{os.getpid()}-{_started(os.getpid())}-{os.urandom(4).hex()}"
    )
    try:
        os.mkdir(path, 0o700)
    except OSError as error:
        raise _not_made(path, error) from error
    return path


def _not_made(path: str, error: OSError) -> SetupError:
    mend = "make room there, or set XDG_STATE_HOME to a directory of yours on another disk"
    return SetupError(f"cannot make {path}: {error.strerror}", mend, errno=error.errno or 0)


def sweep(above: str) -> None:
    """Remove the directories of launchers of this pid namespace that are gone, as far as they can be
    removed: what belongs to ids of a range, or was made unreadable by overlayfs, stays for the one
    who may."""
    ours = str(_pid_namespace())
    for name in os.listdir(above):
        parts = name.split("-")  # namespace, process, start, random
        if (
            len(parts) == 4
            and parts[0] == ours
            and parts[1].isdigit()
            and parts[2] != _started(int(parts[1]))
        ):
            path = os.path.join(above, name)
            for directory, inner, _ in os.walk(path):
                for each in inner:  # overlayfs makes work/work with mode 000
                    _open_up(os.path.join(directory, each))
            shutil.rmtree(path, ignore_errors=True)


def _open_up(path: str) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.chmod(f"/proc/self/fd/{fd}", 0o700)
    except OSError:
        pass
    finally:
        os.close(fd)


def _pid_namespace() -> int:
    return os.stat("/proc/self/ns/pid").st_ino


def _started(pid: int) -> str:
    """When process *pid* started, in clock ticks since the boot; "" when there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[19].decode()
    except OSError:
        return ""
