"""The confined child: `sandbox.image.layer.worker` in a sandbox of its own.

What reads an archive or touches files of other ids runs there, as the first id of the store's map. It
sees the interpreter, this package and the directories it is given, and has no network, no /proc and
no /dev. Whatever an archive could make of it, it reaches nothing else; so what it answers is
checked like any other input.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import stat
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from errno import EPIPE
from types import MappingProxyType
from typing import IO, Any

from sandbox import ids, paths, seccomp
from sandbox.errors import ImageError, LayerError
from sandbox.host.model import Host
from sandbox.image.bound import Bound
from sandbox.launch.backend import Backend
from sandbox.launch.planned import running
from sandbox.launch.process import Process
from sandbox.plan.interpreter import compile_package, executable, prefixes
from sandbox.plan.operations import Bind, Operation, Symlink, Tmpfs
from sandbox.plan.plan import CLONE, Plan
from sandbox.root.tables import HOST_TREES
from sandbox.wire import Kind, Mount, Record

__all__ = ["Bound", "Confined", "Job"]

_APP = "/app"
_START = (
    f"import sys; sys.path.insert(0, {_APP!r}); from sandbox.image.layer.worker import main; main(sys.argv)"
)
#: what it says when it ends, bytes
_MAX_ANSWER = 1 << 20
#: CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETFCAP (capabilities(7)): to be any owner, and no more
_CAPABILITIES = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 31
#: glibc is to keep what is freed (mallopt(3)): chunks come and go, and each anew costs as much as filling it
_ENVIRONMENT = {
    "LC_ALL": "C.UTF-8",
    "PATH": "/usr/bin:/bin",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(16 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
}
_MEMORY = 4 << 30  # bytes of RLIMIT_DATA: an archive with the most entries that are allowed needs 1 GiB
#: for a program whose output nobody wants any more to notice that, seconds
_PATIENCE = 5.0
_RLIMIT_DATA, _RLIMIT_CORE = 2, 4
_INERT = Mount.NOSUID | Mount.NODEV | Mount.CREATE


class Job:
    """One run of the worker. `stdout` is what it writes, where that was asked for."""

    def __init__(self, command: str, stdout: IO[bytes] | None) -> None:
        self.stdout = stdout
        self.answer: dict[str, Any] = {}
        self._command = command
        self._said = b""

    def listen(self, stderr: IO[bytes]) -> None:
        """Take in what it says; only the first part of it is kept."""
        while data := stderr.read(1 << 16):
            self._said += data[: max(0, _MAX_ANSWER - len(self._said))]

    def finish(self, returncode: int, *, abandoned: bool = False) -> None:
        """It has ended: take its answer. When it was *abandoned* it is no error that it could not write.

        Raises:
            LayerError: it could not do what it was to do.
            ImageError: it ended without an answer.
            BrokenPipeError: nobody read what it wrote.
        """
        lines = self._said.splitlines()
        try:
            answer = json.loads(lines[-1]) if lines else None
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            text = self._said[-2000:].decode("utf-8", "backslashreplace").strip()
            how = f"signal {-returncode}" if returncode < 0 else f"status {returncode}"
            raise ImageError(
                f"the confined program ({self._command}) ended with {how}: {text or 'no message'}"
            )
        if answer.get("abandoned"):
            if abandoned:
                return
            raise BrokenPipeError(EPIPE, os.strerror(EPIPE))
        if "error" in answer or returncode:
            mend = answer.get("mend")
            raise LayerError(str(answer.get("error"))[:4000], mend if isinstance(mend, str) else None)
        self.answer = answer


class Confined:
    """Starts the worker with the ids *who* of this *host*."""

    def __init__(self, host: Host, who: ids.IdPlan, backend: Backend | None = None) -> None:
        self._host = host
        self._ids = who
        self._backend = backend

    def with_ids(self, who: ids.IdPlan) -> Confined:
        """The same with other ids."""
        return Confined(self._host, who, self._backend)

    @contextlib.contextmanager
    def start(
        self,
        command: str,
        request: Mapping[str, object],
        binds: Sequence[Bound],
        *,
        stdin: int | IO[bytes] | None = None,
        stdout: int | IO[bytes] | None = None,
    ) -> Iterator[Job]:
        """Run *command* beside the `with` statement's body, which reads `stdout` if that is PIPE, and wait
        for it at the end.

        Raises:
            LayerError: it failed, and says why; that comes before an `ImageError` of the body.
            SetupError: it could not be started.
        """
        compile_package("image", "layer")
        plan = self._plan(binds)
        null = subprocess.DEVNULL
        streams: dict[str, Any] = {"stdin": null if stdin is None else stdin}
        streams |= {"stdout": null if stdout is None else stdout, "stderr": subprocess.PIPE}
        argv = [executable(), "-I", "-S", "-B", "-c", _START, command]
        argv += [f"{name}={_argument(value)}" for name, value in request.items()]
        with (
            running(plan, argv, backend=self._backend, **streams) as process,
            _heard(process, command) as (job, ear),
        ):
            try:
                yield job
            except ImageError:
                if process.stdout is not None:
                    process.stdout.close()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    returncode = process.wait(_PATIENCE)
                    ear.join()
                    job.finish(returncode, abandoned=True)
                raise
            if process.stdout is not None:
                process.stdout.close()
            returncode = process.wait()
            ear.join()
        job.finish(returncode)

    def run(
        self,
        command: str,
        request: Mapping[str, object],
        binds: Sequence[Bound],
        *,
        stdin: int | IO[bytes] | None = None,
        stdout: int | IO[bytes] | None = None,
    ) -> dict[str, Any]:
        """`start`, with nothing to do meanwhile; what it answers."""
        with self.start(command, request, binds, stdin=stdin, stdout=stdout) as job:
            pass
        return job.answer

    def _plan(self, binds: Sequence[Bound]) -> Plan:
        return Plan(
            namespaces=sum(CLONE.values()),
            ids=self._ids,
            operations=tuple(_operations(binds)),
            attributes=tuple(self._attributes()),
            limits=(),
            environment=MappingProxyType(_ENVIRONMENT),
            workdir="/",
        )

    def _attributes(self) -> Iterator[Record]:
        who = self._ids
        if who.tool:
            tools = (self._host.newuidmap or "", self._host.newgidmap or "")
            yield Record(Kind.IDTOOL, "map ids with newuidmap", "", tools)
        yield Record(Kind.POOL, "make the shared tmpfs", "", (16 << 20, 4096))
        yield Record(Kind.IDENTITY, "become the first id of the image store", "", (who.uid, who.gid))
        yield Record(Kind.CAPABILITIES, "keep what owners of files need", "", (_CAPABILITIES,))
        yield Record(Kind.UMASK, "set the umask to 000", "", (0,))
        yield Record(Kind.USERNS_MAX, "forbid further user namespaces", "", (0,))
        yield Record(Kind.RLIMIT, "limit its memory", "", (_RLIMIT_DATA, _MEMORY, _MEMORY))
        yield Record(Kind.RLIMIT, "limit core files", "", (_RLIMIT_CORE, 1, 1))
        program = seccomp.program("strict", capabilities=_CAPABILITIES, machine=self._host.machine)
        yield Record(Kind.SECCOMP, "load the strict seccomp filter", "", (program,))


@contextlib.contextmanager
def _heard(process: Process, command: str) -> Iterator[tuple[Job, threading.Thread]]:
    """With a thread that takes in what it says, which has ended before the pipe is closed."""
    job = Job(command, process.stdout)
    ear = threading.Thread(target=job.listen, args=(process.stderr,), daemon=True)
    ear.start()
    try:
        yield job, ear
    finally:
        if ear.is_alive():
            process.close_sandbox()
        ear.join()


def _argument(value: object) -> str:
    """As the worker reads it."""
    plain = isinstance(value, str) and value.isascii() and value.isprintable()
    return f":{value}" if plain else json.dumps(value)


def _operations(binds: Sequence[Bound]) -> Iterator[Operation]:
    readonly = _INERT | Mount.READONLY
    yield Tmpfs(dst="/", flags=Mount.NOSUID | Mount.NODEV)
    for tree in HOST_TREES:
        try:
            mode = os.lstat(tree).st_mode
        except OSError:
            continue
        if stat.S_ISLNK(mode):
            yield Symlink(dst=tree, target=os.readlink(tree))
        elif stat.S_ISDIR(mode):
            yield Bind(dst=tree, source=tree, flags=readonly | Mount.RECURSIVE)
    yield Bind(dst="/etc/ld.so.cache", source="/etc/ld.so.cache", flags=readonly | Mount.OPTIONAL)
    for prefix in prefixes():
        yield Bind(dst=prefix, source=prefix, flags=readonly | Mount.RECURSIVE)
    for name, source in _packages().items():
        yield Bind(dst=f"{_APP}/{name}", source=source, flags=readonly)
    for bound in binds:
        flags = _INERT if bound.writable else readonly
        yield Bind(dst=bound.inside, source=bound.source, flags=flags)


def _packages() -> dict[str, str]:
    """What it imports besides the standard library: ourselves, and zstd before Python 3.14."""
    found = {"sandbox": os.path.dirname(os.path.realpath(paths.__file__))}
    try:
        spec = importlib.util.find_spec("backports.zstd")
    except ImportError:
        spec = None
    if spec is not None and spec.origin:
        found["backports/zstd"] = os.path.dirname(os.path.realpath(spec.origin))
    return found
