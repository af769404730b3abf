"""What the tests of limits share: a sandbox's commands that want too much, and looking at its cgroup."""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import sandbox
from sandbox.launch import broker
from tests.support import waiting

ROOT = Path(__file__).resolve().parent.parent.parent

TOP = Path("/sys/fs/cgroup")

MANAGER = TOP / f"user.slice/user-{os.getuid()}.slice/user@{os.getuid()}.service"

PYTHON = "/usr/bin/python3"

M = 1 << 20

#: what a test asks for when it is about something else
PLAIN = {"memory": "128M"}

Command = Callable[..., subprocess.CompletedProcess[str]]


HOGS = {
    "anonymous": "x = bytearray(300 << 20)",
    "memfd": "import os; fd = os.memfd_create('x'); [os.write(fd, bytes(1 << 20)) for _ in range(300)]",
    "tmpfs": "f = open('/tmp/x', 'wb'); [f.write(bytes(1 << 20)) for _ in range(300)]",
    "small processes": (
        "import os, time\n"
        "for _ in range(12):\n"
        "    if os.fork() == 0:\n"
        "        x = bytearray(10 << 20); time.sleep(10)\n"
        "time.sleep(10)"
    ),
    "locked": (
        "import ctypes, mmap, os, time\n"
        "for _ in range(30):\n"
        "    if os.fork() == 0:\n"
        "        m = mmap.mmap(-1, 4 << 20); a = ctypes.addressof(ctypes.c_char.from_buffer(m))\n"
        "        assert ctypes.CDLL(None).mlock(ctypes.c_void_p(a), ctypes.c_size_t(4 << 20)) == 0\n"
        "        time.sleep(20)\n"
        "time.sleep(20)"
    ),
    "shared mapping": (
        "import mmap; m = mmap.mmap(-1, 300 << 20)\nfor at in range(0, 300 << 20, 4096): m[at] = 1"
    ),
    "unattached segment": (
        "import ctypes; c = ctypes.CDLL(None); c.shmat.restype = ctypes.c_void_p\n"
        "for _ in range(30):\n"
        "    i = c.shmget(0, 10 << 20, 0o1600); a = c.shmat(i, None, 0)\n"
        "    ctypes.memset(a, 1, 10 << 20); c.shmdt(ctypes.c_void_p(a))"
    ),
}


def python(code: str, **options: object) -> sandbox.Result:
    """Run Python code in a sandbox of its own."""
    return sandbox.run([PYTHON, "-c", code], text=True, **options)  # type: ignore[arg-type]


def scopes() -> list[Path]:
    return sorted(MANAGER.glob("*/sandbox-*.scope"))


def boxes() -> list[Path]:
    return sorted(MANAGER.glob("*/sandbox-*.scope/sandbox-*"))


wait_until = functools.partial(waiting.wait_until, seconds=20.0)


@pytest.fixture(autouse=True)
def no_broker() -> Iterator[None]:
    """Each test begins and ends without a broker, whose scope would be left."""
    broker.stop()
    yield
    broker.stop()


def usable(neighbour: sandbox.Sandbox) -> bool:
    """Both a sandbox beside and the host start processes, take memory and write to the disk."""
    script = "x=$(head -c 1000000 /dev/zero | tr '\\0' x); echo ${#x}"
    inside = neighbour.run(["sh", "-c", script], text=True, timeout=60)
    outside = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=60)
    Path("/srv/disk/mine").write_bytes(bytes(M))
    Path("/srv/disk/mine").unlink()
    return (inside.stdout, outside.stdout) == ("1000000\n", "1000000\n")
