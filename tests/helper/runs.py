"""Plans for the helper alone, and running them: one command, or a sandbox that stays.

Made with sandbox.wire by hand, so that what fails here is the helper's.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import struct
import subprocess
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sandbox.wire import Kind, Mount, Record, encode
from tests.support.waiting import PATIENCE

CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWNET = 0x02000000, 0x04000000, 0x08000000, 0x40000000
POOL = 16 << 20

_READ_ONLY = Mount.READONLY | Mount.NOSUID | Mount.NODEV | Mount.RECURSIVE | Mount.CREATE
_PLAIN = Mount.NOSUID | Mount.NODEV | Mount.CREATE


def limit(name: str, value: int, mechanism: str) -> Record:
    return Record(Kind.LIMIT, "", "", (name, value, mechanism))


def slot(kind: Kind, *fields: str | bytes | int) -> Record:
    return Record(kind, "", "", fields)


def records() -> list[Record]:
    """A small root: the host's /usr, a fresh /proc, a few devices, a writable /tmp."""
    uid, gid = os.getuid(), os.getgid()
    # As root the command is not the host's root.
    outside = (uid, gid) if uid else (2_000_000, 2_000_000)
    found = [
        slot(Kind.NAMESPACES, CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET),
        slot(Kind.IDMAP, 0, uid, outside[0], 1),
        slot(Kind.IDMAP, 1, gid, outside[1], 1),
        slot(Kind.IDENTITY, uid, gid),
        slot(Kind.ENVIRONMENT, "PATH=/usr/bin:/bin"),
        slot(Kind.WORKDIR, "/tmp"),
        slot(Kind.POOL, POOL, 0),
        Record(Kind.TMPFS, "make the root", "", ("/", int(Mount.NOSUID | Mount.NODEV), 0o755, 0, 0)),
        Record(Kind.BIND, "bind /usr", "", ("/usr", int(_READ_ONLY), "/usr", "")),
    ]
    for name in ("bin", "lib", "lib64", "sbin"):
        if os.path.islink(f"/{name}"):
            found.append(Record(Kind.SYMLINK, f"link /{name}", "", (f"/{name}", os.readlink(f"/{name}"))))
        elif os.path.isdir(f"/{name}"):
            found.append(
                Record(Kind.BIND, f"bind /{name}", "", (f"/{name}", int(_READ_ONLY), f"/{name}", ""))
            )
    found += [
        Record(Kind.PROC, "mount /proc", "", ("/proc", int(_PLAIN | Mount.NOEXEC | Mount.STRICT))),
        Record(
            Kind.TMPFS,
            "make /dev",
            "",
            ("/dev", int(Mount.NOSUID | Mount.CREATE | Mount.STRICT), 0o755, 0, 0),
        ),
    ]
    for name in ("null", "zero", "full", "urandom", "tty"):
        found.append(
            Record(
                Kind.BIND, f"bind /dev/{name}", "", (f"/dev/{name}", int(Mount.CREATE), f"/dev/{name}", "")
            )
        )
    return [
        *found,
        Record(
            Kind.DEVPTS, "mount /dev/pts", "", ("/dev/pts", int(Mount.NOSUID | Mount.NOEXEC | Mount.CREATE))
        ),
        Record(Kind.TMPFS, "make /tmp", "", ("/tmp", int(_PLAIN | Mount.OWNED), 0o1777, 0, 0)),
    ]


@contextlib.contextmanager
def plan_file(plan: bytes) -> Iterator[int]:
    fd = os.memfd_create("plan", 0)
    try:
        os.write(fd, plan)
        yield fd
    finally:
        os.close(fd)


@dataclass
class Ended:
    """How a run of one command ended: the helper's exit status, output, and the report."""

    status: int
    stdout: bytes
    stderr: bytes
    report: dict[str, Any]


def run(
    helper: Path, command: Sequence[str | bytes], *extra: Record, fds: Iterable[int] = (), **options: Any
) -> Ended:
    """Run one command with *extra* records; *options* are subprocess.run's."""
    read, write = os.pipe()
    with os.fdopen(read, "rb") as report:
        with os.fdopen(write, "wb"):
            plan = encode([*records(), *extra, slot(Kind.ARGV, *command), slot(Kind.REPORT, write)])
            settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": PATIENCE, **options}
            if "input" not in settings:
                settings.setdefault("stdin", subprocess.DEVNULL)
            with plan_file(plan) as fd:
                arguments = [helper, "run", str(fd)]
                done = subprocess.run(arguments, pass_fds=[fd, write, *fds], env={}, check=False, **settings)
        lines = report.read().splitlines()
    assert len(lines) == 1, (lines, done)
    return Ended(done.returncode, done.stdout or b"", done.stderr or b"", json.loads(lines[0]))


def start(
    helper: Path, command: Sequence[str], *extra: Record, fds: Iterable[int] = (), **options: Any
) -> subprocess.Popen[bytes]:
    """Start one command, to be ended by the caller of this."""
    settings = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    with plan_file(encode([*records(), *extra, slot(Kind.ARGV, *command)])) as fd:
        return subprocess.Popen([helper, "run", str(fd)], pass_fds=[fd, *fds], env={}, **settings)


@dataclass
class Box:
    """A sandbox that stays, and the conversation with its supervisor."""

    process: subprocess.Popen[bytes]
    socket: socket.socket
    files: list[int] = field(default_factory=list)

    def event(self, **wanted: object) -> dict[str, Any]:
        """The next event that has these values; the ones before it are dropped."""
        while True:
            data, ancillary, _, _ = self.socket.recvmsg(1 << 16, socket.CMSG_SPACE(16))
            assert data, f"the supervisor hung up before {wanted}"
            for _, _, payload in ancillary:
                self.files.extend(array("i", payload))
            event: dict[str, Any] = json.loads(data)
            if all(event.get(key) == value for key, value in wanted.items()):
                return event

    def request(self, kind: Kind, *fields: str | bytes | int, fds: Sequence[int] = ()) -> None:
        message = encode([slot(kind, *fields)])
        with contextlib.ExitStack() as stack:
            if len(message) > 128 << 10:
                fds = [stack.enter_context(plan_file(message)), *fds]
                message = struct.pack("<ii", kind, fields[0])
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
            self.socket.sendmsg([message], ancillary)

    def spawn(
        self,
        number: int,
        command: Sequence[str],
        *,
        stdout: int | None = None,
        timeout: int = 0,
        workdir: str = "",
        env: Sequence[str] | None = None,
    ) -> None:
        environment = (-1,) if env is None else (len(env), *env)
        null = os.open(os.devnull, os.O_RDWR)
        try:
            out = null if stdout is None else stdout
            fields = (number, *environment, workdir, timeout, *command)
            self.request(Kind.SPAWN, *fields, fds=[null, out, null])
        finally:
            os.close(null)

    def run(self, number: int, command: Sequence[str], *, timeout: int = 0) -> tuple[bytes, dict[str, Any]]:
        """Run a command to its end: what it wrote, and the result."""
        read, write = os.pipe()
        with os.fdopen(read, "rb") as output:
            self.spawn(number, command, stdout=write, timeout=timeout)
            os.close(write)
            return output.read(), self.event(event="result", id=number)

    def close(self) -> None:
        self.socket.close()
        for fd in self.files:
            os.close(fd)
        self.process.wait(PATIENCE)


@contextlib.contextmanager
def box(helper: Path, *extra: Record, files: int | None = None) -> Iterator[Box]:
    """A sandbox that stays; *files* is the limit on open files, soft and hard, of its supervisor."""

    def lower() -> None:
        if files is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(PATIENCE)
    slots = [slot(Kind.CONTROL, theirs.fileno()), slot(Kind.VERBOSITY, 0)]
    with theirs, plan_file(encode([*records(), *extra, *slots])) as fd:
        process = subprocess.Popen(
            [helper, "run", str(fd)],
            pass_fds=[fd, theirs.fileno()],
            env={},
            stdin=subprocess.DEVNULL,
            preexec_fn=lower,
        )
    opened = Box(process, ours)
    try:
        yield opened
    finally:
        opened.close()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def descendants(pid: int) -> list[int]:
    found = []
    for child in children(pid):
        found += [child, *descendants(child)]
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
