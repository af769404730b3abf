"""How a command in a sandbox ended: plain values, made from the supervisor's JSON.

Nothing here starts or waits for anything.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

__all__ = ["CalledProcessError", "Denied", "Limit", "Result", "Usage", "Verdict"]


class Verdict(StrEnum):
    """Why a command ended. A member equals its own name as a string: `r.verdict == "timeout"`."""

    OK = "ok"  #: exit status 0
    NONZERO = "nonzero"  #: another exit status
    SIGNAL = "signal"  #: ended by a signal that was not ours
    TIMEOUT = "timeout"  #: the wall-clock limit
    CPU_TIME = "cpu_time"
    MEMORY = "memory"
    PIDS = "pids"  #: a task could not be made, and the command failed
    DISK = "disk"  #: a writable place of the sandbox was full, and the command failed
    OUTPUT = "output"  #: more than `limits.output` bytes were written
    EXEC_FAILED = "exec_failed"  #: not found (127) or not executable (126): it never ran
    KILLED = "killed"  #: ended by us without a limit: closed, caller gone, killed from outside


@dataclass(frozen=True, slots=True)
class Usage:
    """What a command used. Seconds and bytes; None where nothing measured it.

    CPU time is that of the command and of every descendant that somebody waited for, at the latest
    when the command has ended (getrusage(2)). Measured by polling (see `Result.enforced`), peaks
    between two looks are missed; `pids_peak`, tasks at once, is None when no look saw the command.
    `memory_peak`, `pids_peak` and `disk_peak` are the sandbox's as a whole, whichever of its commands
    used them.
    """

    wall: float = 0.0
    cpu_user: float = 0.0
    cpu_system: float = 0.0
    memory_peak: int | None = None
    pids_peak: int | None = None
    output: int | None = None
    disk_peak: int | None = None
    #: from and to disks, bytes; of a command that ran together with others nobody can tell
    io_read: int | None = None
    io_written: int | None = None
    #: how long it had to wait for limits.cpus, and for the CPU, memory, or a disk (PSI); seconds
    cpu_throttled: float | None = None
    pressure_cpu: float | None = None
    pressure_memory: float | None = None
    pressure_io: float | None = None
    #: through the device of its own network, by all commands of the sandbox until then; bytes
    net_received: int | None = None
    net_sent: int | None = None
    #: connections, and packets that belong to none yet, that its rules let out, and did not; connections and
    #: senders of datagrams that came by published ports
    net_connections: int | None = None
    net_refused: int | None = None
    net_accepted: int | None = None


@dataclass(frozen=True, slots=True)
class Limit:
    """The limit that ended a command: its name, its value (bytes, seconds or a count), and
    the mechanism that held it."""

    name: str
    value: float
    mechanism: str


class Denied(NamedTuple):
    """What the network policy did not let through, once for all `times` that it was
    tried (of what the kernel refuses these are packets).

    `name` is what was asked for, or an address that nobody asked for by name; `port` is 0 where it did not
    come to that; `how` is "dns" (the name), "tcp", "udp" or another protocol's number (a connection),
    "rebinding" (a name that led to an address which is closed), "more" (the first 256 are kept), or
    "defect" (an error of the proxy's).
    """

    name: str
    port: int
    how: str
    times: int = 1


class Result(subprocess.CompletedProcess[Any]):
    """A finished command: `subprocess.CompletedProcess` and the verdict.

    args        what was run
    returncode  its exit status; -N when signal N ended it; 126/127 when it could not be executed
    stdout, stderr  bytes, or str in text mode; None where it was not captured
    verdict     a `Verdict`
    usage       a `Usage`
    enforced    limit -> the mechanism that held it ("rlimit", "tmpfs", "best-effort: ...")
    hit         names of limits that were touched, whether or not one ended the command
    limit       the `Limit` that ended it, or None
    denied      what the network policy did not let through, of all commands of the sandbox until then
    message     one line for people, "" when there is nothing to say
    """

    def __init__(
        self,
        args: Sequence[str],
        event: Mapping[str, Any],
        stdout: Any = None,
        stderr: Any = None,
    ) -> None:
        super().__init__(args, _returncode(event), stdout, stderr)
        self.verdict = Verdict(event["verdict"])
        usage: dict[str, Any] = dict(event.get("usage") or {})
        network: Mapping[str, Any] = event.get("network") or {}
        usage |= {f"net_{name}": network.get(name) for name in _COUNTED}
        self.usage = Usage(**{k: usage[k] for k in Usage.__dataclass_fields__ if k in usage})
        self.enforced: Mapping[str, str] = dict(event.get("enforced") or {})
        self.hit: tuple[str, ...] = tuple(event.get("hit") or ())
        self.limit = _limit(event.get("limit"))
        self.denied: tuple[Denied, ...] = tuple(Denied(**each) for each in network.get("denied") or ())
        self.message: str = event.get("message") or ""

    @property
    def ok(self) -> bool:
        """Whether the command exited with status 0 and no limit ended it."""
        return self.verdict is Verdict.OK

    def check_returncode(self) -> None:
        """Raise `CalledProcessError` unless `ok`."""
        if not self.ok:
            raise CalledProcessError(self)

    def __repr__(self) -> str:
        parts = [f"args={self.args!r}", f"returncode={self.returncode}", f"verdict={self.verdict.value!r}"]
        streams = (("stdout", self.stdout), ("stderr", self.stderr))
        parts += [f"{name}={value!r}" for name, value in streams if value is not None]
        return f"Result({', '.join(parts)})"


class CalledProcessError(subprocess.CalledProcessError):
    """A command failed or a limit ended it, and `check=True` was given. `result` has everything."""

    def __init__(self, result: Result) -> None:
        super().__init__(result.returncode, result.args, result.stdout, result.stderr)
        self.result = result

    def __reduce__(self) -> tuple[type[CalledProcessError], tuple[Result]]:
        return type(self), (self.result,)

    def __str__(self) -> str:
        result = self.result
        if result.verdict in (Verdict.NONZERO, Verdict.SIGNAL):
            return super().__str__()
        why = result.message or f"verdict {result.verdict.value}"
        return f"Command {result.args!r} did not succeed: {why}"


_COUNTED = ("received", "sent", "connections", "refused", "accepted")


def _returncode(event: Mapping[str, Any]) -> int:
    """subprocess's convention. A command that a limit ended without either is a killed one."""
    if event.get("signal") is not None:
        return -int(event["signal"])
    if event.get("exit_code") is not None:
        return int(event["exit_code"])
    return -9


def _limit(value: Mapping[str, Any] | None) -> Limit | None:
    return None if value is None else Limit(value["name"], value["value"], value.get("mechanism", ""))
