"""A Debian root file system made by mmdebstrap(1), where it is installed, as an image."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from typing import BinaryIO, cast

from sandbox.errors import ImageError
from sandbox.image.compose import import_rootfs
from sandbox.image.durable import telling
from sandbox.image.instructions import changed
from sandbox.image.store import Image, Store

__all__ = ["import_debian"]

_LAST = 2000  # bytes of what a failed mmdebstrap said


@telling("make a Debian root file system")
def import_debian(
    store: Store,
    suite: str,
    name: str,
    *,
    options: Sequence[str] = ("--variant=minbase",),
    changes: Sequence[str] = (),
    created: int | None = None,
) -> Image:
    """Install Debian's *suite* ("bookworm", "stable") from the network, and call the image *name*.

    mmdebstrap runs as the user, in a user namespace with the user's range of ids; *options* are its own;
    *changes* are instructions for the image's configuration (`sandbox.image.instructions`).

    Raises:
        ImageError: it is not installed, or failed; the message has the end of what it said.
    """
    program = shutil.which("mmdebstrap")
    if program is None:
        raise ImageError("mmdebstrap is not installed", "sudo apt install mmdebstrap")
    if suite.startswith("-") or not suite:
        raise ImageError(f"{suite!r} is no suite of Debian's", "write one such as bookworm")
    with tempfile.TemporaryFile(dir=store.path) as root, tempfile.TemporaryFile(dir=store.path) as said:
        command = [program, "--mode=unshare", "--format=tar", *options, suite, "-"]
        environ = {**os.environ, "TMPDIR": _temporary(os.environ.get("TMPDIR", ""))}
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=root, stderr=said, env=environ, check=False
        )
        if done.returncode != 0:
            said.seek(max(0, said.tell() - _LAST))
            text = said.read().decode("utf-8", "backslashreplace").strip()
            raise ImageError(f"mmdebstrap failed with status {done.returncode}:\n{text}")
        root.seek(0)
        message = f"mmdebstrap {' '.join(options)} {suite}"
        config = {
            "Cmd": ["bash"],
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        }
        config = changed(config, changes)
        file = cast(BinaryIO, root)
        return import_rootfs(store, file, name, config=config, message=message, created=created)


def _temporary(wish: str) -> str:
    """Where mmdebstrap works: a directory that the user's other ids reach, too; a private TMPDIR is none."""
    for path in (wish, "/tmp", "/var/tmp"):
        if path and os.access(path, os.W_OK) and _is_open(os.path.realpath(path)):
            return path
    raise ImageError(
        "mmdebstrap needs a directory for temporary files that your other ids can reach",
        "chmod o+x it and all above it, and: export TMPDIR=DIRECTORY",
    )


def _is_open(path: str) -> bool:
    """Whether everybody may pass through *path* and all above it."""
    while os.stat(path).st_mode & stat.S_IXOTH:
        if path == "/":
            return True
        path = os.path.dirname(path)
    return False
