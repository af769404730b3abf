"""A backend without a sandbox: a function stands for the commands, and the real protocol is spoken.

For tests of what is built on `run` and `Sandbox`, here and in programs that use them: they need
neither namespaces nor a helper.

    backend = Fake(lambda command: Outcome(stdout=b"hello\\n"))
    sandbox.run(["anything"], backend=backend)

Nothing is isolated and no limit is held.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import tempfile
import threading
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sandbox import wire
from sandbox.launch.backend import Started, pair
from sandbox.wire import Kind

__all__ = ["Command", "Fake", "Outcome"]


@dataclass(frozen=True)
class Command:
    """What was asked for. `environment` and `workdir` are None where the plan's are used."""

    argv: list[str]
    stdin: bytes = b""
    environment: list[str] | None = None
    workdir: str | None = None
    timeout: float | None = None


@dataclass(frozen=True)
class Outcome:
    """How it is to end. `verdict` "" is derived from `exit_code`; `fields` go into the result as they
    are (usage, limit, hit, message ...)."""

    exit_code: int | None = 0
    stdout: bytes = b""
    stderr: bytes = b""
    verdict: str = ""
    fields: dict[str, Any] = field(default_factory=dict)


class Fake:
    """A `Backend`. *handler* is called in a thread for each command; what it raises becomes the error
    event of a set-up that failed. `commands` are those it was asked for."""

    def __init__(self, handler: Callable[[Command], Outcome] = lambda command: Outcome()) -> None:
        self.commands: list[Command] = []
        self._handler = handler

    def start(
        self, plan: bytes, fds: Sequence[int], *, namespaces: int = 0, own_group: bool = True
    ) -> Started:
        records = {kind: fields[2:] for kind, fields in wire.decode(plan)}
        control, theirs = pair()
        supervisor = _Supervisor(socket.socket(fileno=theirs), self._run)
        argv = records.get(Kind.ARGV)
        streams = [os.dup(fd) for fd in _integers(records.get(Kind.STDIO, ()))]
        threading.Thread(target=supervisor.live, args=(argv, streams), daemon=True).start()
        return Started(control, supervisor)

    def _run(self, command: Command) -> Outcome:
        self.commands.append(command)
        return self._handler(command)


class _Supervisor:
    """The other end of the control socket."""

    pid = -1

    def __init__(self, control: socket.socket, run: Callable[[Command], Outcome]) -> None:
        self._control = control
        self._run = run
        self._gone = threading.Event()
        self._ports: list[list[Any]] = []
        self._files = tempfile.TemporaryDirectory(prefix="sandbox-fake-")

    def wait(self, timeout: float | None = None) -> bool:
        return self._gone.wait(timeout)

    def kill(self) -> None:
        self._control.shutdown(socket.SHUT_RDWR)

    def resume(self) -> None:
        pass

    def live(self, argv: tuple[bytes, ...] | None, streams: list[int]) -> None:
        try:
            if argv is not None:
                self._send(event="ready")
                self._command(0, Command([os.fsdecode(each) for each in argv], _read(streams[0])), streams)
            else:
                self._send(event="ready")
                while self._request():
                    pass
            self._send(event="end")
        finally:
            self._control.close()
            self._files.cleanup()
            self._gone.set()

    def _request(self) -> bool:
        """Serve one request; False when it is the last."""
        data, ancillary, _, _ = self._control.recvmsg(1 << 20, socket.CMSG_SPACE(16))
        if not data:
            return False
        fds = array("i")
        for _, _, raw in ancillary:
            fds.frombytes(raw)
        if len(data) == 8:  # in a memfd, which comes before the others
            with open(fds.pop(0), "rb") as file:
                data = file.read()
        ((kind, fields),) = wire.decode(data)
        fields = fields[2:]
        if kind == Kind.SPAWN:
            threading.Thread(target=self._spawn, args=(fields, list(fds)), daemon=True).start()
        elif kind == Kind.OPEN:
            self._open(fields)
        elif kind == Kind.STATS:
            self._send(event="stats", id=_integers(fields[:1])[0], cpu=0.0, memory=0, pids=0)
        elif kind in (Kind.FREEZE, Kind.SET):
            self._send(event="done", id=_integers(fields[:1])[0], errno=0)
        elif kind in (Kind.FORWARD, Kind.UNFORWARD):
            self._forward(kind, fields)
        return kind != Kind.CLOSE

    def _forward(self, kind: int, fields: tuple[bytes, ...]) -> None:
        """Only what is listed: nothing is forwarded."""
        number, port, inner = _integers((fields[0], fields[3], fields[4]))
        wanted = [os.fsdecode(fields[1]), os.fsdecode(fields[2]), port, inner]
        known = wanted in self._ports
        if kind == Kind.UNFORWARD and known:
            self._ports.remove(wanted)
        elif kind == Kind.FORWARD and not known:
            self._ports.append([*wanted[:2], port or 49152 + len(self._ports), inner])
        wrong = known == (kind == Kind.FORWARD)
        failure = errno.EADDRINUSE if kind == Kind.FORWARD else errno.ENOENT
        self._send(event="ports", id=number, errno=failure if wrong else 0, ports=self._ports)

    def _spawn(self, fields: tuple[bytes, ...], streams: list[int]) -> None:
        number, count = _integers(fields[:2])
        environment = None if count < 0 else [os.fsdecode(each) for each in fields[2 : 2 + count]]
        workdir, timeout, *argv = fields[2 + max(count, 0) :]
        (nanoseconds,) = _integers((timeout,))
        command = Command(
            argv=[os.fsdecode(each) for each in argv],
            stdin=_read(streams[0]),
            environment=environment,
            workdir=os.fsdecode(workdir) or None,
            timeout=nanoseconds / 1e9 or None,
        )
        self._command(number, command, streams)

    def _command(self, number: int, command: Command, streams: list[int]) -> None:
        try:
            outcome = self._run(command)
            self._send(event="started", id=number)
            for fd, data in zip(streams[1:], (outcome.stdout, outcome.stderr), strict=True):
                if data:
                    with open(fd, "wb", closefd=False) as file:
                        file.write(data)
        except Exception as error:
            self._send(event="error", operation="run the fake", errno=0, errno_name="", message=str(error))
            return
        finally:
            for fd in streams:
                os.close(fd)
        verdict = outcome.verdict or ("nonzero" if outcome.exit_code else "ok")
        result = {"verdict": verdict, "exit_code": outcome.exit_code, "signal": None, **outcome.fields}
        self._send(event="result", id=number, **result)

    def _open(self, fields: tuple[bytes, ...]) -> None:
        number, writing, mode = _integers(fields[:3])
        path = os.path.join(self._files.name, os.fsdecode(fields[3]).replace("/", "\\"))
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC if writing else os.O_RDONLY
        try:
            fd = os.open(path, flags | os.O_CLOEXEC, mode)
        except OSError as error:
            self._send(event="file", id=number, errno=error.errno)
            return
        self._send([fd], event="file", id=number, errno=0)
        os.close(fd)

    def _send(self, fds: Sequence[int] = (), **event: Any) -> None:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
        try:
            self._control.sendmsg([json.dumps(event).encode()], ancillary, socket.MSG_NOSIGNAL)
        except OSError:  # nobody listens any more
            return


def _integers(fields: Sequence[bytes]) -> list[int]:
    return [int.from_bytes(each, "little", signed=True) for each in fields]


def _read(fd: int) -> bytes:
    """What a pipe or a file has; nothing of a terminal, which is not to be waited for."""
    if not (stat.S_ISFIFO(os.fstat(fd).st_mode) or stat.S_ISREG(os.fstat(fd).st_mode)):
        return b""
    with open(fd, "rb", closefd=False) as file:
        return file.read()
