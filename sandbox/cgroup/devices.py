"""Which disk a path is on, for io.max: the kernel limits whole disks, by MAJOR:MINOR.

Reads sysfs and the mount table; changes nothing.
"""

from __future__ import annotations

import os
import stat

__all__ = ["disk_of"]


def disk_of(path: str, *, root: str = "") -> str:
    """The whole disk behind *path*, a block device or anything in a file system, as "MAJOR:MINOR".

    Args:
        root: directory in front of /sys and /proc, for tests.

    Raises:
        ValueError: there is no such path, or no disk behind it; the text says why.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    if stat.S_ISCHR(status.st_mode):
        raise ValueError(f"{path} is a character device, not a disk")
    device = status.st_rdev if stat.S_ISBLK(status.st_mode) else status.st_dev
    major, minor = os.major(device), os.minor(device)
    if major == 0:
        # No device of its own: tmpfs, overlay, network file systems; btrfs, whose subvolumes are such.
        kind = _file_system(major, minor, root)
        raise ValueError(f"{path} is on {kind}, which has no disk of its own")
    return _whole(f"{major}:{minor}", root)


def _whole(number: str, root: str) -> str:
    """The disk that a partition is a part of, else the device itself."""
    link = f"{root}/sys/dev/block/{number}"
    if not os.path.isdir(link):
        raise ValueError(f"the block device {number} is not in {link}")
    if not os.path.exists(f"{link}/partition"):
        return number
    with open(f"{os.path.dirname(os.path.realpath(link))}/dev") as file:
        return file.read().strip()


def _file_system(major: int, minor: int, root: str) -> str:
    try:
        with open(f"{root}/proc/self/mountinfo", errors="replace") as file:
            for line in file:
                before, _, after = line.partition(" - ")
                if before.split()[2:3] == [f"{major}:{minor}"]:
                    return f"a file system of type {after.split()[0]}"
    except OSError:
        pass
    # A btrfs subvolume shows another number than its mount.
    return "a file system without a block device (on btrfs: name the device instead)"
