"""Writing what the fast path reads (`sandbox.cli.fast`): one file an entry, few of them.

A cache that can't be written is no error: the next run is as slow as this one.
"""

from __future__ import annotations

import contextlib
import os
import sys

from sandbox.cli import fast
from sandbox.launch.prepare import Prepared

__all__ = ["entry_of", "store"]

#: entries kept; the least recently written go first
MAX_ENTRIES = 64


def entry_of(prepared: Prepared, key: tuple[object, ...]) -> fast.Entry:
    """*prepared* as an entry for *key* (`fast.key_of`)."""
    keep = prepared.profile.env.keep
    entry = fast.Entry()
    entry.key = key
    entry.names = tuple(name for name in keep if not name.endswith("*"))
    entry.prefixes = tuple(name[:-1] for name in keep if name.endswith("*"))
    entry.present = fast.kept(entry.names, entry.prefixes)
    entry.environment = prepared.environment
    entry.stamps = tuple(dict.fromkeys((*map(tuple, prepared.stamps), *_ourselves())))  # type: ignore[arg-type]
    entry.plan = prepared.static
    settings = prepared.plan.settings
    entry.command = prepared.profile.command or (settings.cmd if settings else ())
    entry.entrypoint = settings.entrypoint if settings else ()
    entry.leases = tuple(map(tuple, prepared.plan.leases))  # type: ignore[arg-type]
    entry.scratch = ""
    entry.cgroup = prepared.own_cgroup
    if prepared.plan.needs_scratch:
        from sandbox.launch import scratch

        entry.scratch = scratch.parent()
    return entry


def store(entry: fast.Entry, directory: str) -> None:
    """Write *entry* into *directory*, whole or not at all, and drop the oldest of too many."""
    data = entry.pack()
    if not directory or len(data) > fast.MAX_ENTRY:
        return
    with contextlib.suppress(OSError):
        fd = _open_directory(directory)
        try:
            if fast.private(fd):
                _replace(fd, fast.file_name(entry.key), data)
                _prune(fd)
        finally:
            os.close(fd)


def _open_directory(path: str) -> int:
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _replace(directory: int, name: str, data: bytes) -> None:
    temporary = f"{name}.{os.urandom(4).hex()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(temporary, flags, 0o600, dir_fd=directory)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=directory)
        raise


def _prune(directory: int) -> None:
    """Keep the newest entries. What another run removes meanwhile is no matter."""
    ages = []
    for name in os.listdir(directory):
        with contextlib.suppress(OSError):
            ages.append((os.stat(name, dir_fd=directory, follow_symlinks=False).st_mtime_ns, name))
    for _, name in sorted(ages)[:-MAX_ENTRIES]:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=directory)


def _ourselves() -> list[tuple[str, int, int, int]]:
    """Stamps of our modules that had a part in it, and of the helper: an upgrade, or an edit in a
    checkout, makes a new plan. Where nobody edits, an upgrade changes the directories."""
    files = [module.__file__ for name, module in list(sys.modules.items()) if name.split(".")[0] == "sandbox"]
    if os.path.exists(f"{os.path.dirname(fast.PACKAGE)}/pyproject.toml"):
        return [fast.stamp(file) for file in [*files, fast.HELPER] if file]
    directories = dict.fromkeys(os.path.dirname(file) for file in files if file)
    return [fast.stamp(fast.HELPER), *(fast.stamp(directory, entries=True) for directory in directories)]
