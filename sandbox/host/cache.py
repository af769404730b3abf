"""What trials found, kept until the machine starts anew or something changes that could change it.

A small text file of our own, because reading it costs no import and a damaged one can do no harm:

    sandbox-host 1
    KEY                         see `Host.key`
    name TAB required TAB detail TAB consequence         one line a row that is fine

Only good answers are kept: whoever got a bad one is about to mend it. A file that is damaged, not
ours, or writable by others is no cache; one that can't be written is no error.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Mapping

from sandbox.host.model import Check

__all__ = ["load", "store"]

_HEAD = "sandbox-host 1"
_NAME = "host"
#: bytes; ours has less than two thousand
_LARGEST = 1 << 16


def load(directory: str, key: str) -> dict[str, Check]:
    """The rows kept in *directory* for *key*, by name; empty when there is no such cache. Never raises."""
    lines = _read(f"{directory}/{_NAME}").split("\n")
    if lines[:2] != [_HEAD, key] or lines[-1] != "":
        return {}
    rows = {}
    for line in lines[2:-1]:
        fields = line.split("\t")
        if len(fields) != 4 or fields[1] not in ("0", "1"):
            return {}
        name, required, detail, consequence = fields
        rows[name] = Check(name, True, required == "1", detail, consequence)
    return rows


def store(directory: str, key: str, rows: Mapping[str, Check]) -> None:
    """Keep those of *rows* that are fine, instead of what was kept before. Never raises."""
    lines = [_HEAD, key]
    for row in rows.values():
        fields = (row.name, str(int(row.required)), row.detail, row.consequence)
        if row.ok:
            lines.append("\t".join(" ".join(field.split()) for field in fields))
    data = "\n".join([*lines, ""]).encode("utf-8", "replace")
    with contextlib.suppress(OSError):
        os.makedirs(directory, mode=0o700, exist_ok=True)
        _replace(directory, data)


def _read(path: str) -> str:
    """The file's text, "" unless it is a regular file of ours that nobody else can write."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return ""
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
            return ""
        return os.read(fd, _LARGEST).decode()
    except (OSError, UnicodeDecodeError):
        return ""
    finally:
        os.close(fd)


def _replace(directory: str, data: bytes) -> None:
    """Whole or not at all: two that write at once don't mix. Durability is not needed."""
    temporary = f"{directory}/.{_NAME}.{os.getpid()}.{os.urandom(4).hex()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            written = os.write(fd, data)
        finally:
            os.close(fd)
        if written != len(data):
            raise OSError("short write")
        os.replace(temporary, f"{directory}/{_NAME}")
    except OSError:
        os.unlink(temporary)
        raise
