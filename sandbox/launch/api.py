"""`run` and `Sandbox`: subprocess's conventions over a supervisor."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Unpack

from sandbox.errors import ProfileError, RequirementError, SandboxError, SetupError
from sandbox.launch.backend import Backend
from sandbox.launch.channel import Channel, Event
from sandbox.launch.live import Stats, changes, parse, refused
from sandbox.launch.options import CommandOptions, Overrides, RunOptions, overrides_of, take
from sandbox.launch.prepare import Prepared, prepare
from sandbox.launch.process import Process, as_bytes, setup_error
from sandbox.launch.result import Result
from sandbox.launch.start import start
from sandbox.launch.streams import Stream, Streams, Text, open_streams
from sandbox.plan.plan import CGROUP
from sandbox.wire import Kind, Record

if TYPE_CHECKING:
    from sandbox.profile.model import Profile

__all__ = ["Sandbox", "one_shot", "run"]

Arguments = str | os.PathLike[str] | Sequence[str | bytes | os.PathLike[str]]

_MAX_FILE = 64 << 20
_PLANS = 32


def run(
    args: Arguments,
    *,
    profile: str | Profile | None = None,
    check: bool = False,
    overrides: Mapping[str, object] | None = None,
    backend: Backend | None = None,
    **options: Unpack[RunOptions],
) -> Result:
    """Run a command in a sandbox of its own, wait for it, and say how it ended.

    Like `subprocess.run`, but output is captured unless `capture_output=False` or `stdout`,
    `stderr` say otherwise; a terminal as stdin is passed on only when nothing is captured.

    Args:
        args: the command and its arguments; a str is a program's name.
        profile: a profile's name, a path of one, or a `Profile`; None takes the project's
            `sandbox.toml`, or else "default".
        check: raise `CalledProcessError` unless the command succeeded.
        overrides: profile values by dotted key, `{"limits.memory": "256M"}`.
        input, stdin, stdout, stderr, capture_output, text, encoding, errors: as in subprocess.
        timeout: wall-clock limit of the sandbox, seconds or "500ms". When it fires the verdict is
            `timeout`: it is data, not `TimeoutExpired`.
        cwd: directory on the host from which the call is made: relative paths of the profile, and
            where the command starts (the same path inside).
        env: the command's whole environment; None: what the profile says.
        memory, pids, cpu_time, disk, output, net, binds, ...: profile values by short names
            (`sandbox.launch.options.Overrides`).

    Raises:
        SandboxError: the command never ran; the subclasses say why.
        CalledProcessError: with *check*; `result` has everything.
        TypeError, ValueError: arguments that make no sense.
    """
    command, values = take(options, "run")
    timeout = command.get("timeout")
    settings = {**overrides_of(values), **(overrides or {})}
    if timeout is not None:
        settings["limits.timeout"] = timeout
    argv, text = _argv(args), _text(command)
    data = as_bytes(command.get("input"), text)
    prepared = _prepare(profile, settings, command.get("cwd"))
    slots = [_environment(prepared, command.get("env"))]
    streams = _streams(command, prepared.owner)
    try:
        process = one_shot(prepared, argv, streams, text, slots, backend)
        streams.close_given()
        try:
            result = process._finish(data)
        finally:
            streams.close()
            process.close_sandbox()
    finally:
        streams.close()
    if check:
        result.check_returncode()
    return result


class Sandbox:
    """A sandbox that stays open for any number of commands, one after another or at once.

        with Sandbox("untrusted", memory="256M") as sb:
            sb.write_file("/tmp/in", b"3\\n")
            r = sb.run(["python3", "sol.py"], text=True, timeout=2)
            sb.read_file("/tmp/out")

    At most 256 run at once. They share the root, its writable layers, and the limits that hold for a
    sandbox as a whole (memory, pids, disk): when its memory is used up, all that run end with the
    verdict `memory`, whoever used it. Each ends with its processes. It may be used from many threads.
    It is made by the constructor, and ends with `close()`, the `with` statement, or its last
    reference; nothing outlives it, nor this process.

    Args:
        profile, overrides, and keywords: as for `run`.
        cwd: directory on the host from which it is made.
        env: the environment of its commands; None: what the profile says.
        timeout: limit for each command that gives none of its own.

    Raises:
        SandboxError: it can't be made.
    """

    def __init__(
        self,
        profile: str | Profile | None = None,
        *,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | str | None = None,
        overrides: Mapping[str, object] | None = None,
        backend: Backend | None = None,
        **options: Unpack[Overrides],
    ) -> None:
        command, values = take(options, "Sandbox")
        if command:
            raise TypeError(f"{next(iter(command))!r} belongs to a command: give it to run() or popen()")
        settings = {**overrides_of(values), **(overrides or {})}
        if timeout is not None:
            settings["limits.timeout"] = timeout
        prepared = _prepare(profile, settings, cwd)
        self.profile = prepared.profile
        #: by which mechanism each limit is held
        self.enforced: Mapping[str, str] = prepared.plan.enforced
        self._limits = prepared.profile.limits
        self._workdir = prepared.plan.workdir
        self._owner = prepared.owner
        slots = [_environment(prepared, env)]
        self._channel = start(prepared, slots, backend=backend)
        try:
            self._channel.wait(lambda: self._channel.ready or self._channel.error is not None)
            if not self._channel.ready:
                raise _set_up_failed(self._channel)
        except BaseException:
            self._channel.close()
            raise

    def run(self, args: Arguments, *, check: bool = False, **options: Unpack[CommandOptions]) -> Result:
        """Run a command in this sandbox, wait for it, and say how it ended: `sandbox.run` here.

        Args:
            cwd: directory inside; None: the profile's.
            stdin: as there, but a terminal is never passed on.
            timeout: limit for this command; None: the sandbox's.

        Raises as `sandbox.run`, and TypeError for a profile value, which belongs to the sandbox.
        """
        command = self._command(options)
        data = as_bytes(command.get("input"), _text(command))
        streams = _streams(command, self._owner, terminal=False)
        process = self._spawn(args, command, streams)
        try:
            result = process._finish(data)
        except BaseException:
            process._abandon()
            raise
        finally:
            streams.close()
        if check:
            result.check_returncode()
        return result

    def popen(self, args: Arguments, **options: Unpack[CommandOptions]) -> Process:
        """Start a command in this sandbox, as `subprocess.Popen` does.

        stdin, stdout and stderr are the caller's own unless PIPE, DEVNULL, STDOUT or a file is given;
        but a terminal is no stdin for it. A command that nobody waits for runs until it ends or the
        sandbox does.
        """
        command = self._command(options)
        for name in ("input", "capture_output"):
            if name in command:
                raise TypeError(f"popen() takes no {name}: use stdin=PIPE, stdout=PIPE, and communicate()")
        stdin = subprocess.DEVNULL if _is_terminal(command.get("stdin")) else command.get("stdin")
        streams = open_streams(stdin, command.get("stdout"), command.get("stderr"), self._owner)
        return self._spawn(args, command, streams)

    def write_file(self, path: str | os.PathLike[str], data: bytes | str, mode: int = 0o644) -> None:
        """Write a regular file inside, as the command's user; make it, or replace its content.

        Args:
            path: inside; relative to the working directory. A link in it is followed inside the root,
                but the file itself must be none.
            data: str is written as UTF-8.
            mode: permissions of a new file.

        Raises:
            OSError: what opening or writing it says (ENOSPC, EACCES, ELOOP ...).
            SetupError: the sandbox has ended.
        """
        content = data.encode() if isinstance(data, str) else data
        with os.fdopen(self._open_file(path, 1, mode), "wb") as file:
            file.write(content)

    def read_file(self, path: str | os.PathLike[str], max_size: int = _MAX_FILE) -> bytes:
        """Read a regular file inside, as the command's user.

        Raises:
            OSError: it can't be opened, is no regular file, or (EFBIG) has more than *max_size* bytes.
            SetupError: the sandbox has ended.
        """
        with os.fdopen(self._open_file(path, 0, 0), "rb") as file:
            data = file.read(max_size + 1)
        if len(data) > max_size:
            raise OSError(errno.EFBIG, f"larger than {max_size} bytes", os.fspath(path))
        return data

    def stats(self) -> Stats:
        """What it uses now, with everything in it.

        Raises:
            SetupError: the sandbox has ended.
        """
        return Stats.of(self._ask(Kind.STATS))

    def watch(self, interval: float = 1.0) -> Iterator[Stats]:
        """`stats()` every *interval* seconds, now first, until the sandbox ends."""
        while not self.closed:
            try:
                yield self.stats()
            except SetupError:
                return
            self._channel.wait(lambda: False, interval)

    def set_limits(self, **limits: object) -> None:
        """Change limits while it runs: memory, memory_high, swap, pids, cpus, cpu_weight, cpuset and
        cpu_time, as `run` takes them; None takes one away. All of them or none.

        Less memory than is in use makes the kernel take it back, or else end what is running.

        Raises:
            ProfileError: a value is wrong.
            RequirementError: one can't be changed here, or the kernel refuses the value.
            SetupError: the sandbox has ended.
        """
        now = {name: getattr(self._limits, name) for name in limits if hasattr(self._limits, name)}
        new = changes(self._limits, limits, self.enforced)
        old = changes(self._limits, now, self.enforced)
        for at, change in enumerate(new):
            number = self._ask(Kind.SET, *change)["errno"]
            if number:
                for each in reversed(old[:at]):
                    self._ask(Kind.SET, *each)
                raise refused(change, number)
        self._limits = replace(self._limits, **{name: parse(name, limits[name]) for name in limits})
        added = {name: CGROUP for name in limits if limits[name] is not None and name not in self.enforced}
        self.enforced = {**self.enforced, **added}

    def freeze(self) -> None:
        """Stop all its processes where they are, and the clock of its commands with them.

        Raises:
            RequirementError: it has no cgroup of its own, which this takes.
            SetupError: it could not be done, or the sandbox has ended.
        """
        self._freeze(1)

    def thaw(self) -> None:
        """Let them go on. Raises as `freeze`."""
        self._freeze(0)

    def close(self) -> None:
        """End everything in it and wait until it is gone. Again is no error."""
        self._channel.close()

    @property
    def closed(self) -> bool:
        """Whether it has ended, by `close()` or otherwise."""
        self._channel.poll()
        return self._channel.ended

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<sandbox.Sandbox {self.profile.name!r}, {'closed' if self.closed else 'open'}>"

    def _command(self, options: Mapping[str, Any]) -> CommandOptions:
        command, values = take(options, "run")
        if values:
            raise TypeError(f"{next(iter(values))!r} is the sandbox's: give it to Sandbox()")
        return command

    def _spawn(self, args: Arguments, command: CommandOptions, streams: Streams) -> Process:
        box = self._channel.mailbox()
        try:
            argv = _argv(args)
            process = Process(self._channel, box, argv, streams, _text(command))
            env, cwd = command.get("env"), command.get("cwd")
            variables = None if env is None else _assignments(env)
            fields = (
                box.number,
                -1 if variables is None else len(variables),
                *map(os.fsencode, variables or ()),
                "" if cwd is None else os.fsencode(os.path.join(self._workdir, os.fspath(cwd))),
                _nanoseconds(command.get("timeout")),
                *map(os.fsencode, argv),
            )
            self._channel.request(Kind.SPAWN, fields, streams.given)
        except BaseException:
            streams.close()
            raise
        streams.close_given()
        return process

    def _freeze(self, frozen: int) -> None:
        number = self._ask(Kind.FREEZE, frozen)["errno"]
        if number == errno.EOPNOTSUPP:
            raise RequirementError(
                "the sandbox can't be frozen: it has no cgroup of its own", "sandbox doctor   (says why)"
            )
        if number:
            verb = "frozen" if frozen else "thawed"
            raise SetupError(f"the sandbox can't be {verb}: {os.strerror(number)}", errno=number)

    def _ask(self, kind: Kind, *fields: str | int) -> Event:
        """Send a request about the sandbox as a whole, and wait for the answer."""
        box = self._channel.mailbox()
        self._channel.request(kind, (box.number, *fields))
        self._channel.wait(lambda: bool(box.answers))
        if not box.answers:
            raise SetupError("the sandbox has ended")
        return box.answers.popleft()[0]

    def _open_file(self, path: str | os.PathLike[str], flags: int, mode: int) -> int:
        inside = os.path.join(self._workdir, os.fspath(path))
        if "\0" in inside:
            raise ValueError("embedded null byte")
        box = self._channel.mailbox()
        self._channel.request(Kind.OPEN, (box.number, flags, mode, os.fsencode(inside)))
        self._channel.wait(lambda: bool(box.answers))
        if not box.answers:
            raise SetupError("the sandbox has ended")
        event, fd = box.answers.popleft()
        number = int(event.get("errno", 0)) or (errno.EMFILE if fd < 0 else 0)
        if number:
            raise OSError(number, event.get("message") or os.strerror(number), inside)
        return fd


def one_shot(
    prepared: Prepared,
    argv: list[str],
    streams: Streams,
    text: Text | None,
    slots: Sequence[Record],
    backend: Backend | None,
) -> Process:
    """Start a supervisor for one command, which has the number 0."""
    slots = [
        *slots,
        Record(Kind.ARGV, "", "", tuple(map(os.fsencode, argv))),
        Record(Kind.STDIO, "", "", tuple(streams.given)),
    ]
    # With the caller's terminal as stdin it has to be in the foreground, that is, in our process
    # group; otherwise Ctrl-C is for us to see first, and to end it in order.
    own_group = not (streams.given[0] == 0 and os.isatty(0))
    channel = start(prepared, slots, streams.given, backend=backend, own_group=own_group)
    return Process(channel, channel.mailbox(0), argv, streams, text)


#: what was asked for -> its plan, and the profile object, whose id must not be used again meanwhile
_plans: OrderedDict[tuple[object, ...], tuple[Prepared, object]] = OrderedDict()
_plans_lock = threading.Lock()


def _prepare(
    profile: str | Profile | None, overrides: Mapping[str, object], cwd: str | os.PathLike[str] | None
) -> Prepared:
    """`prepare`, with the last few plans kept for as long as what they were made from is unchanged."""
    from sandbox.host.facts import core_handler

    try:
        where = os.path.abspath(cwd) if cwd is not None else os.getcwd()
    except OSError as error:
        message = f"cannot use the working directory: {error.strerror}"
        raise SetupError(message, "cd to a directory that exists") from error
    environ = dict(os.environ)
    asked = profile if profile is None or isinstance(profile, str) else id(profile)
    rights = (os.geteuid(), os.getegid(), *os.getgroups(), os.getpriority(os.PRIO_PROCESS, 0))
    hard = tuple(resource.getrlimit(number) for number in range(16))  # a plan's own are no higher
    machine = (*rights, *hard, core_handler())
    key = (asked, repr(sorted(overrides.items())), where, frozenset(environ.items()), machine)
    with _plans_lock:
        found = _plans.get(key)
        if found is not None:
            _plans.move_to_end(key)
    if found is not None and found[0].current():
        return found[0]
    made = prepare(profile, overrides, where, environ)
    with _plans_lock:
        _plans[key] = made, profile
        while len(_plans) > _PLANS:
            _plans.popitem(last=False)
    return made


def _set_up_failed(channel: Channel) -> SandboxError:
    error: Event | None = channel.error
    return SetupError("the sandbox ended while it was made") if error is None else setup_error(error)


def _argv(args: Arguments) -> list[str]:
    """*args* as a list of str.

    Raises:
        ValueError: no command, or a null byte.
        TypeError: something else than text or paths.
    """
    listed = [args] if isinstance(args, (str, os.PathLike)) else list(args)
    argv = [os.fsdecode(each) for each in listed]
    if not argv or not argv[0]:
        raise ValueError("no command was given")
    if any("\0" in each for each in argv):
        raise ValueError("embedded null byte")
    return argv


def _text(command: CommandOptions) -> Text | None:
    return Text.of(command.get("text"), command.get("encoding"), command.get("errors"))


def _assignments(env: Mapping[str, str]) -> list[str]:
    for name, value in env.items():
        for what, each in (("name", name), ("value", value)):
            if not isinstance(each, str):
                raise TypeError(
                    f"the {what} of environment variable {name!r} must be str, not {type(each).__name__}"
                )
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise ValueError(f"illegal environment variable {name!r}")
    return [f"{name}={value}" for name, value in env.items()]


def _environment(prepared: Prepared, env: Mapping[str, str] | None) -> Record:
    variables = prepared.variables(os.environ) if env is None else _assignments(env)
    return Record(Kind.ENVIRONMENT, "set the environment", "", tuple(map(os.fsencode, variables)))


def _nanoseconds(timeout: float | str | None) -> int:
    """A command's own limit; 0: the sandbox's.

    Raises:
        ProfileError: not a duration.
    """
    if timeout is None:
        return 0
    from sandbox.units import parse_duration

    try:
        return max(1, int(parse_duration(timeout) * 1e9))
    except ValueError as error:
        raise ProfileError(f"argument timeout: {error}") from error


def _is_terminal(stdin: Stream) -> bool:
    """Whether *stdin* is the caller's own, and a terminal. os.isatty is false for a closed one."""
    return stdin is None and os.isatty(0)


def _streams(
    command: CommandOptions, owner: tuple[int, int] | None = None, *, terminal: bool = True
) -> Streams:
    """The streams of `run`: output is captured unless something else is asked for. A terminal is
    passed on only with *terminal*, and for a program whose output is seen: it would be put into raw
    mode for nothing, and by each of several threads.

    Raises:
        ValueError: contradicting arguments, as in subprocess.
    """
    capture = command.get("capture_output")
    if capture and ("stdout" in command or "stderr" in command):
        raise ValueError("stdout and stderr arguments may not be used with capture_output.")
    default: Stream = None if capture is False else subprocess.PIPE
    stdin = command.get("stdin")
    stdout, stderr = command.get("stdout", default), command.get("stderr", default)
    if command.get("input") is not None:
        if stdin is not None:
            raise ValueError("stdin and input arguments may not both be used.")
        stdin = subprocess.PIPE
    if _is_terminal(stdin) and (not terminal or (stdout is not None and stderr is not None)):
        stdin = subprocess.DEVNULL
    return open_streams(stdin, stdout, stderr, owner)
