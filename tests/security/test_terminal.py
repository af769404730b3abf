"""The caller's terminal: never in the payload's hands, whichever of its descriptors is one."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import pytest

from tests.security.inside import PYTHON

pytestmark = [pytest.mark.integration, pytest.mark.as_root]

#: makes its stdin, or what descriptor is named, the controlling terminal, as a login shell has it
LEADER = (
    "import fcntl, os, sys, termios; fcntl.ioctl(int(sys.argv[1]), termios.TIOCSCTTY, 0);"
    " os.execv(sys.argv[2], sys.argv[2:])"
)


@contextmanager
def under_terminal(
    code: str, stdin: int | IO[bytes] | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """`sandbox run` of Python code with a terminal as stdout and stderr, and as stdin unless given."""
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "sandbox", "run", "-p", "base", "--", PYTHON, "-I", "-S", "-c", code]
    process = subprocess.Popen(
        [sys.executable, "-c", LEADER, "1", *command],
        stdin=slave if stdin is None else stdin,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    os.close(slave)
    try:
        yield process, master
    finally:
        process.kill()
        process.wait()
        os.close(master)


def read_until(master: int, word: bytes, seconds: float = 30.0) -> bytes:
    seen, deadline = b"", time.monotonic() + seconds
    while word not in seen and time.monotonic() < deadline:
        if select.select([master], [], [], 0.2)[0]:
            try:
                data = os.read(master, 65536)
            except OSError:
                break
            if not data:
                break
            seen += data
    return seen


def test_typing_for_the_caller_is_refused() -> None:
    """CVE-2017-5226; the high half of the request number is ignored by the kernel (CVE-2019-10063), and
    TIOCLINUX pastes too (CVE-2023-28100)."""
    code = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
for fd in (0, 1, 2):
    for request in (0x5412, 0x5412 | 1 << 32, 0x541c):
        r = libc.ioctl(fd, ctypes.c_ulong(request), b"x")
        print("A", fd, hex(request), r, errno.errorcode.get(ctypes.get_errno()), flush=True)
print("END", flush=True)
"""
    with under_terminal(code) as (_, master):
        seen = read_until(master, b"END").decode()
    lines = [line.split() for line in seen.splitlines() if line.startswith("A ")]
    assert len(lines) == 9, seen
    assert all(line[3:] == ["-1", "EPERM"] for line in lines), seen


def test_secrets_typed_while_it_runs_do_not_reach_it_through_its_output() -> None:
    """stdin from /dev/null, stdout on the caller's terminal: a terminal is readable from both ends."""
    code = """
import os, select
fds = [fd for fd in (1, 2)]
try:
    fds.append(os.open("/dev/tty", os.O_RDWR))
except OSError:
    pass
print("READY", [os.isatty(fd) for fd in fds], flush=True)
got = b""
for fd in fds:
    try:
        while select.select([fd], [], [], 1.0)[0]:
            data = os.read(fd, 100)
            if not data:
                break
            got += data
    except OSError:
        pass
print("GOT", got.hex() or "nothing", flush=True)
print("END", flush=True)
"""
    with open("/dev/null", "rb") as null, under_terminal(code, stdin=null) as (_, master):
        seen = read_until(master, b"READY")
        os.write(master, b"secret\n")
        seen += read_until(master, b"END")
    assert b"GOT nothing" in seen, seen
    assert b"True" not in seen, seen


def test_the_terminal_inside_is_not_the_callers() -> None:
    code = """
import os
print("NAME", os.ttyname(0), os.ttyname(1), flush=True)
print("MINE", os.stat("/dev/tty").st_rdev == os.fstat(0).st_rdev, flush=True)
print("PTS", sorted(os.listdir("/dev/pts")), flush=True)
print("END", flush=True)
"""
    with under_terminal(code) as (_, master):
        seen = read_until(master, b"END")
    assert b"NAME /dev/pts/0 /dev/pts/0" in seen, seen
    assert b"PTS ['0', 'ptmx']" in seen, seen
