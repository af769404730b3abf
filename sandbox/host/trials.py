"""Trials: our helper makes a sandbox of almost nothing, in which it runs itself (`/helper true`).

So what is tried is what really runs: the same clone, maps, mounts and filters as in a launch. Only
`doctor`, a failed set-up, and a profile that needs an answer come here. About 10 ms each.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import socket
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from sandbox.host import causes
from sandbox.host import rows as plain
from sandbox.host.facts import Facts
from sandbox.host.model import Check
from sandbox.host.spare import Which, own, spare, without
from sandbox.wire import Kind, Mount, Record, encode

__all__ = ["NAMES", "Outcome", "culprit", "rows", "run"]

#: Rows that a launch can ask for.
NAMES = ("userns", "proc", "seccomp", "net", "overlay", "idrange")

_NOT_STARTED = 1 << 16  # no exit status

_TIMEOUT = 30.0  # seconds; a trial takes 10 ms on an idle machine

# clone(2): all that a launch asks for
_CGROUP, _UTS, _IPC, _NET = 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x4000_0000

_INSIDE = int(Mount.NOSUID | Mount.NODEV | Mount.CREATE)

_SECCOMP_ERRNO, _SECCOMP_ALLOW = 0x0005_0000, 0x7FFF_0000  # seccomp(2)

_OURS = 125  # the helper's exit status when it fails itself


#: What the helper was doing, in its own words or in those of the plan's records, and the row that
#: this belongs to. Only beginnings: what follows are often paths, which users choose.
_SIGNS = {
    "map ids with ": "idrange",
    "mount an overlay": "overlay",
    "mount a fresh proc": "proc",
    "open a fresh proc": "proc",
    "load the default seccomp": "seccomp",
    "load the strict seccomp": "seccomp",
    "set the seccomp filter": "seccomp",
    "bring lo up": "net",
    "bring the loopback device up": "net",
    "make namespaces": "userns",
    "map ids": "userns",
    "map user ids": "userns",
    "map group ids": "userns",
    "map the inner user namespace": "userns",
    "deny setgroups": "userns",
    "open the user namespace": "userns",
    "make the mounts private": "userns",
    "make the inner user namespace": "userns",
    "set the host name": "userns",
    "forbid further user namespaces": "userns",
    "take the payload's ids": "userns",
    "become user": "userns",
    "mount a tmpfs": "userns",
    "make the shared tmpfs": "userns",
}

_DENIED = ("EPERM", "EACCES", "ENOSYS")
_EXHAUSTED = ("ENOSPC", "EUSERS", "EINVAL")


class Outcome(NamedTuple):
    """How a trial ended: the helper's exit status, and of its error object the texts."""

    status: int
    errno_name: str = ""
    operation: str = ""
    message: str = ""


def run(helper: str, records: Iterable[Record]) -> Outcome:
    """Run the *helper* on a plan of *records*; everything that can go wrong is an `Outcome`."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    plan = os.memfd_create("trial")
    try:
        slots = (
            Record(Kind.STDIO, "", "", (-1, -1, -1)),
            Record(Kind.CONTROL, "", "", (theirs.fileno(),)),
            Record(Kind.VERBOSITY, "", "", (0,)),
        )
        with open(plan, "wb", closefd=False) as file:
            file.write(encode((*records, *slots)))
        os.lseek(plan, 0, os.SEEK_SET)
        done = subprocess.run(
            [helper, "run", str(plan)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={},
            pass_fds=(plan, theirs.fileno()),
            timeout=_TIMEOUT,
            check=False,
        )
        theirs.close()
        error = _error_event(ours)
        message = error.get("message") or done.stderr.decode(errors="replace").strip()
        return Outcome(done.returncode, error.get("errno_name", ""), error.get("operation", ""), message)
    except subprocess.TimeoutExpired:
        return Outcome(-1, "ETIMEDOUT", "", f"the trial did not end within {_TIMEOUT:.0f} s")
    except OSError as problem:
        name = errno.errorcode.get(problem.errno or 0, "")
        return Outcome(_NOT_STARTED, name, "", f"cannot start {helper}: {problem.strerror}")
    finally:
        os.close(plan)
        ours.close()
        theirs.close()


def _error_event(control: socket.socket) -> dict[str, str]:
    """The helper's error object, {} when it sent none."""
    control.setblocking(False)
    with contextlib.suppress(OSError, ValueError):
        while data := control.recv(1 << 17):
            event = json.loads(data)
            if event.get("event") == "error":
                return {k: v for k, v in event.items() if isinstance(v, str)}
    return {}


def culprit(operation: str, errno_name: str, message: str) -> str | None:
    """The row that a failed set-up belongs to, by what the helper says; None when it is none of ours."""
    said = message.removeprefix("sandbox: ").removeprefix("cannot ")
    row = next((name for sign, name in _SIGNS.items() if said.startswith(sign)), None)
    row = row or next((name for sign, name in _SIGNS.items() if operation.startswith(sign)), None)
    if row == "net" and errno_name in _DENIED:
        return "userns"  # whoever may not do that in a namespace of its own has one of no use
    if row == "userns" and errno_name not in _DENIED + _EXHAUSTED:
        return None
    return row


# --- plans -------------------------------------------------------------------------------------


def _plan(
    found: Facts, helper: str, *extra: Record, argv: Sequence[str] = ("/helper", "true"), net: bool = False
) -> list[Record]:
    """A sandbox with nothing in it but the helper, on one id; *extra* comes behind the root."""
    uid, gid = own(found.host, "uid"), own(found.host, "gid")
    assert uid is not None and gid is not None  # _attempt has asked before
    source = os.path.realpath(helper)
    maps = [] if any(r.kind == Kind.IDMAP for r in extra) else [(0, 0, uid, 1), (1, 0, gid, 1)]
    return [
        Record(Kind.NAMESPACES, "make namespaces", "", (_CGROUP | _UTS | _IPC | (_NET if net else 0),)),
        *(Record(Kind.IDMAP, "map ids", "", fields) for fields in maps),
        Record(Kind.IDENTITY, "", "", (0, 0)),
        Record(Kind.CAPABILITIES, "", "", (0,)),
        Record(Kind.WORKDIR, "", "", ("/",)),
        Record(Kind.ENVIRONMENT, "", "", ()),
        Record(Kind.TMPFS, "make the root, a tmpfs", "", ("/", _INSIDE & ~Mount.CREATE, 0o755, 0, 0)),
        Record(Kind.BIND, "bind our helper", "", ("/helper", _INSIDE | Mount.READONLY, source, "")),
        *extra,
        Record(Kind.ARGV, "", "", tuple(argv)),
    ]


def _mute_filter(machine: str) -> bytes:
    """A filter under which nothing can be written. (One that kills would be seen by whatever collects
    core dumps on this machine, and be logged.) struct sock_filter (linux/filter.h): u16 code, u8 jt,
    u8 jf, u32 k."""
    write, writev = (1, 20) if machine == "x86_64" else (64, 66)
    instructions = (
        (0x20, 0, 0, 0),  # load the call's number
        (0x15, 1, 0, write),  # equal: skip one
        (0x15, 0, 1, writev),  # not equal: skip one
        (0x06, 0, 0, _SECCOMP_ERRNO | errno.EPERM),
        (0x06, 0, 0, _SECCOMP_ALLOW),
    )
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in instructions)


# --- trials: each gives what was found, or how it failed ---------------------------------------


def _expect(outcome: Outcome, status: int, found: str) -> Outcome | str:
    return found if outcome.status == status else outcome


def _try_userns(found: Facts, helper: str) -> Outcome | str:
    return _expect(run(helper, _plan(found, helper)), 0, "user, mount, pid, ipc, uts and cgroup namespaces")


def _try_proc(found: Facts, helper: str) -> Outcome | str:
    flags = int(Mount.NOSUID | Mount.NODEV | Mount.NOEXEC | Mount.CREATE)
    mount = Record(Kind.PROC, "mount a fresh proc on /proc", "", ("/proc", flags))
    return _expect(run(helper, _plan(found, helper, mount)), 0, "a fresh /proc can be mounted")


def _try_seccomp(found: Facts, helper: str) -> Outcome | str:
    """`helper version` fails with our own status when it can't write."""
    program = Record(Kind.SECCOMP, "set the seccomp filter", "", (_mute_filter(found.host.machine),))
    outcome = run(helper, _plan(found, helper, program, argv=("/helper", "version")))
    if outcome == Outcome(_OURS):
        return "filters are obeyed"
    return Outcome(0, "", "", "a filter was set, but not obeyed") if outcome.status == 0 else outcome


def _try_net(found: Facts, helper: str) -> Outcome | str:
    plan = _plan(found, helper, Record(Kind.LOOPBACK, "bring lo up", ""), net=True)
    return _expect(run(helper, plan), 0, "a network namespace with lo up")


def _try_idrange(found: Facts, helper: str) -> Outcome | str:
    """Two ids: the payload's own, and the first of the range."""
    host = found.host
    extra = []
    sides: tuple[tuple[int, Which], ...] = ((0, "uid"), (1, "gid"))
    for which, name in sides:
        mine = own(host, name)
        others = without(spare(host, name), mine)
        if mine is None or not others:
            return Outcome(-1, "", "", f"there is no second {name} to map")
        extra.append(Record(Kind.IDMAP, "map a range of ids", "", (which, 0, mine, 1)))
        extra.append(Record(Kind.IDMAP, "map a range of ids", "", (which, 1, others[0].start, 1)))
    if host.uid != 0:
        tools = (host.newuidmap or "", host.newgidmap or "")
        extra.append(Record(Kind.IDTOOL, "map ids with newuidmap", "", tools))
    return _expect(run(helper, _plan(found, helper, *extra)), 0, plain.idrange(host, found.problems).detail)


def _try_overlay(found: Facts, helper: str) -> Outcome | str:
    """Where images will be, and else on a tmpfs: some file systems can't be a lower directory, and an
    overlay of other directories works all the same."""
    from sandbox import paths

    problems: list[tuple[str, Outcome]] = []
    with contextlib.suppress(OSError):
        os.makedirs(paths.cache_dir(), mode=0o700, exist_ok=True)
    for place in (paths.cache_dir(), "/dev/shm", "/tmp"):
        try:
            with _two_lowers(place) as (top, bottom, marked):
                outcome = _overlay_of(found, helper, top, bottom, marked=marked)
        except OSError:
            continue  # there is no such place, or it is not ours to write to
        if isinstance(outcome, str):
            return "; ".join([outcome, *(f"not in {where}: {why.message}" for where, why in problems)])
        problems.append((place, outcome))
    if problems:
        return problems[0][1]
    return Outcome(-1, "", "", "no directory to try in: /tmp is not yours to write")


def _overlay_of(found: Facts, helper: str, top: str, bottom: str, *, marked: bool) -> Outcome | str:
    """Two lower directories: what the lower one shows is there, and an opaque directory of the upper
    one hides what is below it. (Without `userxattr` the kernel ignores the mark, and deleted files
    show.)"""
    mount = Record(Kind.OVERLAY, "mount an overlay on /o", "", ("/o", _INSIDE, "", 0, top, bottom))
    shown = run(helper, _plan(found, helper, mount, argv=("/o/shown", "true")))
    if shown.status != 0:
        return shown
    overlay = f"kernel overlay with userxattr{_layers_in_memory()}"
    if not marked:
        return f"{overlay}; opaque directories not tried: no extended attributes here"
    hidden = run(helper, _plan(found, helper, mount, argv=("/o/opaque/hidden", "true")))
    if hidden.status == 0:
        return Outcome(0, "", "overlay", "opaque directories do not hide: deleted files show")
    return _expect(hidden, 127, f"{overlay}; opaque directories hide")


def _layers_in_memory() -> str:
    """What a writable layer on a tmpfs lacks where that has no user attributes: rmdir(2) of a directory
    of the layers below is EIO then. A memfd is a file of a tmpfs."""
    fd = os.memfd_create("trial")
    try:
        os.setxattr(fd, "user.trial", b"y")
    except OSError:
        return " (directories of lower layers can't be removed in memory before Linux 6.6)"
    finally:
        os.close(fd)
    return ""


@contextlib.contextmanager
def _two_lowers(place: str) -> Iterator[tuple[str, str, bool]]:
    """Lower directories in *place*; False when no extended attributes can be set there.

    Raises `OSError` when they can't be made.
    """
    base = tempfile.mkdtemp(prefix="trial.", dir=place)
    try:
        top, bottom = f"{base}/top", f"{base}/bottom"
        for path in (top, bottom, f"{top}/opaque", f"{bottom}/opaque"):
            os.mkdir(path)
            os.chmod(path, 0o755)
        os.symlink("/helper", f"{bottom}/shown")
        os.symlink("/helper", f"{bottom}/opaque/hidden")
        marked = True
        try:
            os.setxattr(f"{top}/opaque", "user.overlay.opaque", b"y")
        except OSError:
            marked = False
        yield os.path.realpath(top), os.path.realpath(bottom), marked
    finally:
        shutil.rmtree(base, ignore_errors=True)


_TRIALS: dict[str, Callable[[Facts, str], Outcome | str]] = {
    "userns": _try_userns,
    "proc": _try_proc,
    "seccomp": _try_seccomp,
    "net": _try_net,
    "overlay": _try_overlay,
    "idrange": _try_idrange,
}

_CONSEQUENCES = {
    "userns": "no sandbox can be made",
    "proc": "no sandbox can be made: each needs a /proc of its own",
    "seccomp": 'system calls can\'t be filtered: only `seccomp = "off"` works',
    "net": 'only `net = "host"` works: no network of its own for a sandbox',
    "overlay": 'no `mode = "overlay"`, no `dir:` roots, no images',
}

_REQUIRED = ("userns", "proc", "seccomp", "net")


# --- rows --------------------------------------------------------------------------------------


def rows(found: Facts, helper: str, names: Iterable[str]) -> dict[str, Check]:
    """The rows *names* (of `NAMES`), each tried now. Raises `KeyError` for another name."""
    done: dict[str, Check] = {}
    for name in names:
        _row(found, helper, name, done)
    return {name: done[name] for name in names}


def _row(found: Facts, helper: str, name: str, done: dict[str, Check]) -> Check:
    if name not in done:
        done[name] = _make_row(found, helper, name, done)
    return done[name]


def _make_row(found: Facts, helper: str, name: str, done: dict[str, Check]) -> Check:
    facts_row = plain.idrange(found.host, found.problems) if name == "idrange" else None
    if facts_row and not facts_row.ok:
        return facts_row  # nothing to try with
    outcome = _attempt(found, helper, name)
    if isinstance(outcome, str):
        return _check(name, True, outcome, "")
    if name == "userns" and culprit(*outcome[1:]) == "proc":
        return _check(name, True, "all but a fresh /proc", "")
    cause, mend = _cause(found, helper, name, outcome, done)
    said = outcome.message.removeprefix("sandbox: ") or f"the trial ended with status {outcome.status}"
    detail = f"{cause} ({said})" if cause and not cause.startswith("not tried") else cause or said
    return _check(name, False, detail, mend)


def _check(name: str, ok: bool, detail: str, mend: str) -> Check:
    consequence = _CONSEQUENCES.get(name) or plain.IDRANGE_CONSEQUENCE
    return Check(name, ok, name in _REQUIRED, detail, consequence, mend)


def _attempt(found: Facts, helper: str, name: str) -> Outcome | str:
    if own(found.host, "uid") is None or own(found.host, "gid") is None:
        return Outcome(-1, "EPERM", "", "the payload can't have an id of its own here")
    return _TRIALS[name](found, helper)


def _cause(found: Facts, helper: str, name: str, outcome: Outcome, done: dict[str, Check]) -> tuple[str, str]:
    """(why the trial of *name* failed, what mends it). What needs another row is told so."""
    if outcome.status == _NOT_STARTED:
        return "", "mend helper first"
    if name != "userns":
        for needed in ("userns", "proc") if name != "proc" else ("userns",):
            row = _row(found, helper, needed, done)
            if not row.ok:
                return f"not tried, because it needs {needed}", f"mend {needed} first"
    if name == "userns":
        return causes.userns(found, helper, outcome.errno_name, outcome.message)
    if name == "proc":
        return causes.proc(found)
    if name == "seccomp":
        return causes.seccomp(found, outcome.errno_name)
    if name == "overlay":
        return causes.overlay(found, outcome.errno_name)
    if name == "idrange":
        return "the range is not accepted", plain.usermod(found.host.user)
    return "the kernel refuses a network namespace", causes.options(found.host.container, "userns") or (
        "use a kernel with CONFIG_NET_NS"
    )
