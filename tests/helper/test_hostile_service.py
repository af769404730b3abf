"""A service that was taken over: what it tries beyond the network that it is for, and what it does not get.

It has the rights of a network backend, and the files that one is shown, one of them the user's own directory.
"""

from __future__ import annotations

import json
import os
import re
import resource
import socket
from pathlib import Path

import pytest

from sandbox.wire import Kind, Ready, Record, ServiceFlag
from tests.helper import runs
from tests.helper.test_services import PYTHON, lo_up

pytestmark = pytest.mark.integration

VIEWS = ("/usr", "/bin", "/lib", "/lib64", "/proc", "/dev/null")

#: what it has to say is written to its standard error, and told as the reason why it ended
PRELUDE = """
import ctypes, errno, json, os, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
place, found = sys.argv[1], {}
def call(number, *arguments):
    result = libc.syscall(number, *arguments)
    return errno.errorcode[ctypes.get_errno()] if result < 0 else result
def attempt(name, do):
    try: found[name] = do()
    except OSError as error: found[name] = errno.errorcode[error.errno]
def mount(flags, where=place.encode(), kind=None):
    result = libc.mount(kind, where, kind, ctypes.c_ulong(flags), None)
    return errno.errorcode[ctypes.get_errno()] if result < 0 else result
def write():
    with open(place + "/planted", "w") as file: return file.write("x")
def end():
    sys.stderr.write(json.dumps(found)); sys.stderr.flush(); os._exit(9)
"""


def attempts(
    helper: Path, place: Path, code: str, flags: ServiceFlag = ServiceFlag.RIGHTS, *, later: bool = False
) -> dict[str, object]:
    """What came of it, before it is ready or *later*."""
    views = [*(each for each in VIEWS if os.path.exists(each)), str(place)]
    argv = (PYTHON, "-I", "-S", "-c", PRELUDE + code + "\nend()", str(place), "{ready}", "{netns}")
    flags |= ServiceFlag.NEEDED
    fields = ("hostile", int(flags), int(Ready.WRITES), len(views), *views, *argv)
    ended = runs.run(helper, ["sleep", "60"], Record(Kind.SERVICE, "start it", "", fields), lo_up())
    # One that ends as soon as it is ready may do so before the command runs.
    ran = later and "network" in ended.report
    said = ended.report["network"]["lost"]["why"] if ran else ended.report["message"]
    found = re.search(r"status 9: (.*)", said)
    assert found, ended.report
    result: dict[str, object] = json.loads(found[1])
    return result


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory of the user's, with a path that is short enough for sockets."""
    directory = tmp_path / "shown"
    directory.mkdir()
    for each in (tmp_path, directory):
        each.chmod(0o777)
    return directory


def test_what_it_is_shown_stays_read_only(helper: Path, place: Path) -> None:
    code = """
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_MOVE, NEWNS = 1, 32, 4096, 8192, 0x20000
attempt("write", write)
attempt("remount", lambda: mount(MS_REMOUNT | MS_BIND))
attempt("remount all", lambda: mount(MS_REMOUNT))
attempt("bind", lambda: mount(MS_BIND, kind=place.encode()))
attempt("move", lambda: mount(MS_MOVE, where=b"/tmp", kind=place.encode()))
attributes = struct.pack("QQQQ", 0, 1, 0, 0)
attempt("mount_setattr", lambda: call(442, -100, place.encode(), 0x8000, attributes, 32))
attempt("open_tree", lambda: call(428, -100, place.encode(), 1))
attempt("fspick", lambda: call(433, -100, place.encode(), 0))
attempt("in a namespace of its own", lambda: libc.unshare(NEWNS) or mount(MS_REMOUNT | MS_BIND))
attempt("write again", write)
"""
    found = attempts(helper, place, code)
    assert found.pop("write") == found.pop("write again") == "EROFS"
    assert set(found.values()) == {"EPERM"}, found
    assert list(place.iterdir()) == []


def test_it_does_not_reach_programs_of_this_machine(helper: Path, place: Path) -> None:
    """By sockets with a name, be it a path's or none's."""
    abstract = f"sandbox-test-{os.getpid()}"
    code = f"""
def say(address, kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_UNIX, kind) as sock:
        sock.connect(address); return sock.send(b"hello")
def pair():
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    return one.sendto(b"hello", "\\0{abstract}-datagrams")
attempt("abstract", lambda: say("\\0{abstract}"))
attempt("by a path", lambda: say(place + "/socket"))
attempt("datagrams", lambda: say("\\0{abstract}-datagrams", socket.SOCK_DGRAM))
attempt("by a pair", pair)
attempt("io_uring", lambda: call(425, 8, ctypes.create_string_buffer(120)))
attempt("packets", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW) and "opened")
attempt("streams of its own", lambda: len(socket.socketpair()))
attempt("the network", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close())
"""
    unix = socket.AF_UNIX
    with socket.socket(unix) as one, socket.socket(unix) as two, socket.socket(unix, 2) as datagrams:
        one.bind(f"\0{abstract}")
        two.bind(str(place / "socket"))
        os.chmod(place / "socket", 0o777)
        datagrams.bind(f"\0{abstract}-datagrams")
        for each in (one, two):
            each.listen()
        for each in (one, two, datagrams):
            each.setblocking(False)
        for flags in (ServiceFlag.RIGHTS, ServiceFlag.FILTERS, ServiceFlag(0)):
            found = attempts(helper, place, code, flags)
            assert (found.pop("streams of its own"), found.pop("the network")) == (2, None)
            assert set(found.values()) == {"EPERM"}, found
        for each in (one, two):
            with pytest.raises(BlockingIOError):
                each.accept()
        with pytest.raises(BlockingIOError):
            datagrams.recv(10)


def test_it_does_not_reach_into_the_sandbox(helper: Path, place: Path) -> None:
    """Whose outer user namespace it is in: there it could make mounts writable."""
    code = """
import platform
arm = platform.machine() == "aarch64"
setns, unshare, clone, ptrace, vm = (268, 97, 220, 117, 270) if arm else (308, 272, 56, 101, 310)
attempt("a mount namespace", lambda: call(setns, os.open("/proc/self/ns/mnt", 0), 0x20000))
attempt("whatever it is", lambda: call(setns, os.open("/proc/self/ns/net", 0), 0))
attempt("a user namespace", lambda: call(setns, os.open("/proc/self/ns/user", 0), 0x10000000))
attempt("one of its own", lambda: call(unshare, 0x10000000))
attempt("another process in one", lambda: call(clone, 0x10000000 | 17, 0, 0, 0, 0))
attempt("to be traced", lambda: call(ptrace, 0, 0, 0, 0))
attempt("memory", lambda: call(vm, os.getppid(), 0, 0, 0, 0, 0))
attempt("the network namespace", lambda: call(setns, os.open(sys.argv[3], 0), 0x40000000))
attempt("its rights", lambda: open("/proc/self/status").read().split("CapEff:")[1].split()[0])
"""
    found = attempts(helper, place, code)
    rights = int(str(found.pop("its rights")), 16)
    assert rights == 1 << 8 | 1 << 10 | 1 << 12 | 1 << 21  # SETPCAP, NET_BIND_SERVICE, NET_ADMIN, SYS_ADMIN
    assert found.pop("the network namespace") == 0
    assert set(found.values()) == {"EPERM"}, found


def test_nor_into_its_guard_once_it_is_ready(helper: Path, place: Path) -> None:
    """Which is of the same user and namespace, has the host's files, and no filter."""
    (place.parent / "secret").write_text("secret")
    code = """
import time
guard = os.path.dirname(os.path.dirname(sys.argv[3]))
attempt("until then", lambda: os.listdir(guard + "/root") != [])
os.write(int(sys.argv[2]), b"r")
def refused(path, flags=os.O_RDONLY):
    # it takes the guard a moment to read that
    for _ in range(300):
        os.close(os.open(guard + path, flags))
        time.sleep(0.01)
    return "opened"
attempt("files", lambda: refused("/root" + os.path.dirname(place) + "/secret"))
attempt("directory", lambda: refused("/cwd/etc/passwd"))
attempt("memory", lambda: refused("/mem", os.O_RDWR))
attempt("namespaces", lambda: refused("/ns/mnt"))
"""
    found = attempts(helper, place, code, later=True)
    assert found.pop("until then") is True
    assert set(found.values()) == {"EACCES"}, found


def test_what_it_holds_is_bounded(helper: Path, place: Path) -> None:
    code = """
import resource
attempt("files", lambda: resource.getrlimit(resource.RLIMIT_NOFILE))
attempt("memory", lambda: resource.getrlimit(resource.RLIMIT_DATA))
held = []
def many():
    while True: held.append(os.open("/dev/null", 0))
attempt("many", many)
for each in held: os.close(each)
"""
    found = attempts(helper, place, code)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert found["files"] == [min(4096, most)] * 2
    if b"__asan_init" not in helper.read_bytes():  # its shadow of the memory is data, and has no bound
        assert found["memory"] == [512 << 20] * 2
    assert found["many"] == "EMFILE"


def test_it_does_not_look_into_who_loads_the_rules(helper: Path, place: Path) -> None:
    """Which is in A as well, sees the machine's files, and has no other way to be undumpable."""
    nft = place / "nft"
    nft.write_text('#!/bin/sh\nread never < "$0.fifo"\n')
    os.mkfifo(place / "nft.fifo")
    nft.chmod(0o755)
    code = """
import time
def command(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file: return file.read()
    except OSError: return b""
pids, until = [], time.monotonic() + 30
looked_for = b"/bin/sh\\0" + place.encode() + b"/nft\\0"
while not pids and time.monotonic() < until:
    pids = [pid for pid in os.listdir("/proc") if pid.isdigit() and command(pid).startswith(looked_for)]
for pid in pids[:1]:
    attempt("files", lambda: len(os.listdir(f"/proc/{pid}/root/")))
    attempt("memory", lambda: os.close(os.open(f"/proc/{pid}/mem", os.O_RDONLY)))
    attempt("descriptors", lambda: os.stat(f"/proc/{pid}/fd/0").st_size)
"""
    views = [*(each for each in VIEWS if os.path.exists(each)), str(place)]
    argv = (PYTHON, "-I", "-S", "-c", PRELUDE + code + "\nend()", str(place), "{ready}", "{netns}")
    flags = int(ServiceFlag.RIGHTS | ServiceFlag.NEEDED)
    service = Record(
        Kind.SERVICE, "start it", "", ("hostile", flags, int(Ready.WRITES), len(views), *views, *argv)
    )
    rules = Record(Kind.NFT, "load the rules", "", (str(nft), "none"))
    ended = runs.run(helper, ["sleep", "60"], service, rules, lo_up())
    found = re.search(r"status 9: (.*)", ended.report["message"])
    assert found, ended.report
    assert json.loads(found[1]) == {"files": "EACCES", "memory": "EACCES", "descriptors": "EACCES"}
