"""What a payload does against its limits from inside, with all that `nested` gives it: in the guest, as an
ordinary user, where cgroups hold the limits."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import sandbox
from tests.vm.limits import PYTHON, M, boxes, no_broker, python, wait_until

__all__ = ["no_broker"]

pytestmark = [pytest.mark.guest, pytest.mark.integration]
if not os.path.isdir("/run/systemd/system"):
    pytest.skip("only in the guest of scripts/vm", allow_module_level=True)

NESTED = {"profile": "base", "nested": True, "memory": "64M"}

FREEZE = "open('/sys/fs/cgroup/main/cgroup.freeze', 'w').write('1')\nwhile True: pass"


def test_who_freezes_itself_and_init_is_ended_all_the_same() -> None:
    result = python(FREEZE, timeout=2, **NESTED)
    assert result.verdict == "timeout", result
    assert not boxes()


def test_who_freezes_itself_can_be_closed() -> None:
    with sandbox.Sandbox(**NESTED) as sb:
        process = sb.popen([PYTHON, "-c", FREEZE])
        (box,) = boxes()
        wait_until(lambda: "frozen 1" in (box / "run/main/cgroup.events").read_text())
        assert sb.stats().memory is not None  # which needs nothing of init
    process.wait(30)
    assert process.result is not None and process.result.verdict == "killed"
    assert not boxes()


INIT_AWAY = """
import os
os.mkdir('/sys/fs/cgroup/small')
for name, value in (('memory.max', '4096'), ('pids.max', '0'), ('cpu.max', '1000 1000000')):
    try: open('/sys/fs/cgroup/small/' + name, 'w').write(value)
    except OSError as error: print(name, error)
for pid in ('1', str(os.getpid())):
    try: open('/sys/fs/cgroup/small/cgroup.procs', 'w').write(pid)
    except OSError as error: print(pid, error)
x = bytearray(32 << 20)
while True: pass
"""


def test_who_starves_init_ends_nobody_but_itself() -> None:
    with sandbox.Sandbox(memory="64M") as neighbour:
        result = python(INIT_AWAY, timeout=3, **NESTED)
        assert result.verdict in ("timeout", "killed", "signal"), result  # of no limit of ours on memory
        assert "memory" not in result.hit
        assert neighbour.run(["true"]).verdict == "ok"


KERNEL_MEMORY = {
    "pipes": """
import fcntl, os
kept = []
while True:
    r, w = os.pipe(); kept.append((r, w)); os.set_blocking(w, False)
    try: fcntl.fcntl(w, 1031, 1 << 20)
    except OSError: pass
    try:
        while os.write(w, bytes(1 << 16)): pass
    except BlockingIOError: pass
""",
    "sockets": """
import socket
kept = []
while True:
    a, b = socket.socketpair(); kept.append((a, b)); a.setblocking(False)
    a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    try:
        while a.send(bytes(1 << 16)): pass
    except BlockingIOError: pass
""",
    "page tables": """
import mmap
kept = mmap.mmap(-1, 1 << 38, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)
for at in range(0, 1 << 38, 1 << 21):
    kept[at]  # a page of zeros, which costs nothing but the table that leads to it
""",
    "lent to pipes": """
import ctypes, fcntl, mmap, os
kept, libc = [], ctypes.CDLL(None)
class Lent(ctypes.Structure):
    _fields_ = [('base', ctypes.c_void_p), ('size', ctypes.c_size_t)]
while True:
    r, w = os.pipe(); kept.append((r, w)); os.set_blocking(w, False)
    pages = mmap.mmap(-1, 1 << 16); pages.write(bytes(1 << 16))
    whole = ctypes.c_char.from_buffer(pages)
    lent = Lent(ctypes.addressof(whole), 1 << 16)
    libc.vmsplice(w, ctypes.byref(lent), 1, 2 | 8)  # SPLICE_F_NONBLOCK | SPLICE_F_GIFT
    del whole; pages.close()  # in no process any more
""",
    "watches": """
import ctypes, os, select
kept = []
while True:
    e = select.epoll(); kept.append(e)
    for fd in list(range(3, 200)):
        try: e.register(os.dup(0) if fd == 3 else fd)
        except (OSError, ValueError): pass
""",
}


@pytest.mark.parametrize("kind", KERNEL_MEMORY)
def test_memory_of_the_kernel_is_counted(kind: str) -> None:
    """Whatever stops it, memory or a limit on descriptors, the machine loses no more than the limit."""

    def available() -> int:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))

    before, least = available(), available()
    with sandbox.Sandbox(memory="48M", files=4000) as sb:
        taker = sb.popen([PYTHON, "-c", KERNEL_MEMORY[kind]], stderr=sandbox.DEVNULL, timeout=5)
        while taker.poll() is None:
            least = min(least, available())
            assert (sb.stats().memory or 0) <= 48 * M
        assert taker.result is not None
        assert taker.result.verdict in ("memory", "nonzero", "timeout"), taker.result
        assert sb.run(["true"]).verdict == "ok"
    assert before - least < 48 * M + 100 * M


def test_threads_are_tasks() -> None:
    code = """
import threading, time
try:
    for number in range(100): threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
except RuntimeError: pass
print(number, flush=True)
import os; os._exit(1)
"""
    result = python(code, pids=20, timeout=60)
    assert int(result.stdout) < 20 and result.verdict == "pids" and result.enforced["pids"] == "cgroup"


def test_no_hierarchy_of_version_1_and_no_release_agent() -> None:
    code = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
os.makedirs('/tmp/v1')
for options in (b'memory', b'pids', b'none,name=x', b'none,name=x,release_agent=/tmp/x', b'freezer', b'misc'):
    done = libc.mount(b'x', b'/tmp/v1', b'cgroup', 0, options)
    print(options, 'worked' if done == 0 else ctypes.get_errno())
for path in ('/sys/fs/cgroup/release_agent', '/sys/fs/cgroup/main/notify_on_release',
             '/sys/kernel/uevent_helper', '/proc/sys/kernel/core_pattern'):
    try: open(path, 'w').write('/tmp/x'); print(path, 'worked')
    except OSError as error: print(path, error.errno)
"""
    for options in (NESTED, {**NESTED, "user": "root"}):
        result = python(code, **options)
        assert result.verdict == "ok", result.stderr
        assert "worked" not in result.stdout, result.stdout
