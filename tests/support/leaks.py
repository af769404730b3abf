"""What a test left behind: processes, mounts, files and cgroups. Nothing of this ends anything.

Processes are found by descent. The test process makes itself the reaper of orphans
(PR_SET_CHILD_SUBREAPER, prctl(2)), so that whatever a sandbox leaves, however detached,
stays its descendant and can be told from what other workers run at the same time.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from dataclasses import dataclass
from pathlib import Path

from tests.support.waiting import PATIENCE

PR_SET_CHILD_SUBREAPER = 36
#: how long what is ending may take to be gone on a busy machine, seconds: removers are nice, and come last
GRACE = PATIENCE
_GRACE_OF_CGROUPS = 3


@dataclass(frozen=True)
class State:
    """What exists at one moment and could be a sandbox's."""

    processes: frozenset[str]
    mounts: frozenset[str]
    files: frozenset[str]
    cgroups: frozenset[str]

    @classmethod
    def take(cls, directories: tuple[Path, ...] = ()) -> State:
        """*directories* are those in which no test may leave anything."""
        return cls(
            processes=frozenset(_descendants()),
            mounts=frozenset(_mounts()),
            files=frozenset(str(path) for top in directories for path in top.rglob("*")),
            cgroups=frozenset(_cgroups()),
        )

    def since(self, before: State) -> list[str]:
        """What is here that was not *before*, a line each."""
        return [
            *(f"process {text}" for text in sorted(self.processes - before.processes)),
            *(f"mount {text}" for text in sorted(self.mounts - before.mounts)),
            *(f"file {text}" for text in sorted(self.files - before.files)),
            *(f"cgroup {text}" for text in sorted(self.cgroups - before.cgroups)),
        ]


def adopt_orphans(adopt: bool = True) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def left_since(before: State, directories: tuple[Path, ...]) -> list[str]:
    """What is still there after a while of waiting for what is about to end."""
    began = time.monotonic()
    while left := State.take(directories).since(before):
        # Nobody may be about to remove cgroups (see `only_cgroups`).
        if time.monotonic() - began > (_GRACE_OF_CGROUPS if only_cgroups(left) else GRACE):
            break
        time.sleep(0.02)
    return left


def only_cgroups(left: list[str]) -> bool:
    """Whether this is all that may be left when a supervisor was killed: the next launch removes it."""
    return bool(left) and all(line.startswith("cgroup ") for line in left)


def _descendants() -> list[str]:
    """Our living descendants as "PID START COMMAND"; dead orphans that fell to us are reaped."""
    parents: dict[int, list[tuple[int, str]]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            head, _, tail = Path("/proc", name, "stat").read_text(errors="replace").rpartition(")")
            state, parent, *rest = tail.split()
            if state == "Z" and int(parent) == os.getpid():
                _reap(int(name))
                continue
            parents.setdefault(int(parent), []).append(
                (int(name), f"{name} {rest[17]} {head.partition('(')[2]}")
            )
    found, todo = [], [os.getpid()]
    while todo:
        for pid, text in parents.get(todo.pop(), []):
            todo.append(pid)
            found.append(text)
    return found


def _reap(pid: int) -> None:
    """Only by its own number: a subprocess.Popen that is still to be waited for copes with that."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _mounts() -> list[str]:
    with open("/proc/self/mountinfo") as file:
        return [" ".join(line.split()[3:5]) for line in file]


def _cgroups() -> list[str]:
    """Groups with a name of ours, sandbox-PID-..., whose maker is dead: other workers' sandboxes come and
    go meanwhile."""
    return [
        os.path.join(top, name)
        for top, names, _ in os.walk("/sys/fs/cgroup")
        for name in names
        if name.startswith("sandbox-") and not os.path.exists(f"/proc/{name.split('-')[1]}")
    ]
