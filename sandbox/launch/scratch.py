"""Directories on disk for the overlays of one run, and what launches that were killed left of them.

The supervisor removes its own at the end, or hands it on to a process that does, when it is large.
After a SIGKILL of either nobody does, so whoever makes one first removes those of processes that are
gone, and so does each supervisor at its end, with the ids that its sandbox had. The names say whose they
are (`sandbox.owners`): the launcher's, with which the supervisor dies, or of who removes it. What was made
elsewhere, in another container or on another machine that shares our home, is left alone.
"""

from __future__ import annotations

import os

from sandbox import owners, paths
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
    path = os.path.join(above, owners.new_name())
    try:
        os.mkdir(path, 0o700)
    except OSError as error:
        raise _not_made(path, error) from error
    return path


def _not_made(path: str, error: OSError) -> SetupError:
    mend = "make room there, or set XDG_STATE_HOME to a directory of yours on another disk"
    return SetupError(f"cannot make {path}: {error.strerror}", mend, errno=error.errno or 0)


def sweep(above: str) -> None:
    """Remove the directories of launchers of this place that are gone, as far as a moment and our
    ids go: there is to be room for another. The rest is the next supervisor's, at its end.

    Raises:
        SetupError: the helper can't be started.
    """
    ours = str(owners.place())
    for name in os.listdir(above):
        parts = name.split("-")  # place, process, start, random
        if (
            len(parts) == 4
            and parts[0] == ours
            and parts[1].isdigit()
            and parts[2] != owners.started(int(parts[1]))
        ):
            from sandbox.launch.backend import spawn

            spawn(["sweep", above], []).wait()
            return
