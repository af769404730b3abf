"""Names of directories that say which process they belong to, so that what a killed one left can be removed.

PLACE-PID-START-RANDOM: where the process id means something, the id, and when its process started (proc(5),
stat, field 22; clock ticks since the boot), for ids are used again. The twin of helpers/scratch.c, which
removes such directories.

A bottom module that imports next to nothing, because a cached `sandbox run` makes such a name.
"""

# No `from __future__ import annotations`, no annotations of other modules: each would be an import.
import os

__all__ = ["new_name", "place", "started"]


def place() -> int:
    """Where process ids are those that we see: the pid namespace (its inode), on this machine
    (machine-id(5)). Containers and machines may share a home; who is gone elsewhere can't be seen from here,
    and the first namespace has the same number everywhere."""
    return os.stat("/proc/self/ns/pid").st_ino ^ _machine()


def _machine() -> int:
    """Half of the machine's id; 0 when it has none, as in many containers."""
    try:
        with open("/etc/machine-id", "rb", 0) as file:
            text = file.read(16)
    except OSError:
        return 0
    return 0 if len(text) < 16 or text.strip(b"0123456789abcdef") else int(text, 16)


def started(pid: int) -> str:
    """When process *pid* started; "" when there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb", 0) as file:
            return file.read(4096).rpartition(b")")[2].split()[19].decode()
    except OSError:
        return ""


def new_name() -> str:
    """A name for what this process makes, and removes or hands on."""
    return f"{place()}-{os.getpid()}-{started(os.getpid())}-{os.urandom(4).hex()}"
