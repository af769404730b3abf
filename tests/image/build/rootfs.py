"""A root file system that is small: busybox, and what an image has besides."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

from tests.image.layer.archives import archive, directory, file, symlink

BUSYBOX = "/bin/busybox"


@functools.cache
def busybox() -> bytes:
    """The archive."""
    applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    return archive(
        directory("bin"),
        file("bin/busybox", Path(BUSYBOX).read_bytes(), mode=0o755),
        *(symlink(f"bin/{name}", "busybox") for name in applets if name not in ("busybox", "sandbox")),
        directory("etc"),
        file("etc/passwd", b"root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n", mode=0o644),
        file("etc/group", b"root:x:0:\nuser:x:1000:\n", mode=0o644),
        directory("home"),
        directory("home/user", uid=1000),
        directory("root", mode=0o700),
        directory("tmp", mode=0o1777),
        directory("usr"),
        directory("usr/lib"),
        symlink("lib", "usr/lib"),
    )
