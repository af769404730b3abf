"""`run` and `Sandbox`: subprocess's conventions over a supervisor."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Unpack

from sandbox import net
from sandbox.errors import RequirementError, SandboxError, SetupError
from sandbox.launch import publishing
from sandbox.launch.arguments import (
    Arguments,
    argv_of,
    assignments,
    environment,
    is_terminal,
    nanoseconds,
    settings_of,
    streams_of,
    text_of,
)
from sandbox.launch.backend import Backend
from sandbox.launch.capture import Capture, opened
from sandbox.launch.channel import Channel, Event, Mailbox
from sandbox.launch.kept import keeping
from sandbox.launch.live import Stats, changes, parse, refused
from sandbox.launch.options import CommandOptions, Overrides, RunOptions, take
from sandbox.launch.plans import with_plan
from sandbox.launch.prepare import Prepared
from sandbox.launch.process import Process, as_bytes, setup_error
from sandbox.launch.result import Result
from sandbox.launch.start import start
from sandbox.launch.streams import Streams, Text, open_streams
from sandbox.plan.plan import CGROUP
from sandbox.ports import Published
from sandbox.wire import Kind, Record

if TYPE_CHECKING:
    from sandbox.profile.model import Profile

__all__ = ["Sandbox", "one_shot", "run", "run_prepared"]

_MAX_FILE = 64 << 20


def run(
    args: Arguments,
    *,
    profile: str | Profile | None = None,
    name: str | None = None,
    keep: bool = False,
    check: bool = False,
    overrides: Mapping[str, object] | None = None,
    backend: Backend | None = None,
    pcap: str | os.PathLike[str] | None = None,
    **options: Unpack[RunOptions],
) -> Result:
    """Run a command in a sandbox of its own, wait for it, and say how it ended.

    Like `subprocess.run`, but output is captured unless `capture_output=False` or `stdout`,
    `stderr` say otherwise; a terminal as stdin is passed on only when nothing is captured.

    Args:
        args: the command and its arguments; a str is a program's name.
        profile: a profile's name, a path of one, or a `Profile`; None takes the project's
            `sandbox.toml`, or else "default".
        name: go on in the kept sandbox of that name, whose image is its own (`sandbox.Boxes` has them, to
            compare, commit and remove). Nobody else can use it meanwhile.
        keep: make it, if there is none: what changes in the image stays under *name*.
        check: raise `CalledProcessError` unless the command succeeded.
        overrides: profile values by dotted key, `{"limits.memory": "256M"}`.
        input, stdin, stdout, stderr, capture_output, text, encoding, errors: as in subprocess.
        timeout: wall-clock limit of the sandbox, seconds or "500ms". When it fires the verdict is
            `timeout`: it is data, not `TimeoutExpired`.
        cwd: directory on the host from which the call is made: relative paths of the profile, and
            where the command starts (the same path inside).
        env: the command's whole environment; None: what the profile says.
        pcap: a file in which what passes through the sandbox's network is kept, in the format of
            libpcap, up to 256 MiB.
        memory, pids, cpu_time, disk, output, net, binds, ...: profile values by short names
            (`sandbox.launch.options.Overrides`).

    Raises:
        SandboxError: the command never ran; the subclasses say why.
        CalledProcessError: with *check*; `result` has everything.
        TypeError, ValueError: arguments that make no sense.
    """
    command, values = take(options, "run")
    settings = settings_of(values, overrides, command.get("timeout"))
    argv = argv_of(args)
    as_bytes(command.get("input"), text_of(command))
    cwd = command.get("cwd")

    def use(prepared: Prepared) -> Result:
        capture.check(prepared.profile.net)
        held = (*kept.fds(prepared.plan), *capture.held)
        words = prepared.argv(argv)
        return run_prepared(prepared, words, command, backend=backend, held=held, slots=capture.slots)

    with opened(pcap) as capture, keeping(name, keep, profile, settings, cwd) as kept:
        result = with_plan(profile, kept._replace(guarded=capture.guarded), cwd, use)
    if check:
        result.check_returncode()
    return result


def run_prepared(
    prepared: Prepared,
    argv: list[str],
    command: CommandOptions,
    *,
    backend: Backend | None = None,
    held: Sequence[int] = (),
    slots: Sequence[Record] = (),
) -> Result:
    """Run *argv* by a plan that is made, wait for it, and say how it ended. `cwd` and `timeout` of *command*
    have no part in it: they are the plan's. Descriptors that are *held* are so for as long as it runs;
    *slots* are further ones of the plan.

    Raises:
        Outdated: the plan has to be made anew.
        SandboxError: the command never ran.
    """
    text = text_of(command)
    data = as_bytes(command.get("input"), text)
    slots = [environment(prepared, command.get("env")), *slots]
    streams = streams_of(command, prepared.owner)
    try:
        process = one_shot(prepared, argv, streams, text, slots, backend, held)
        streams.close_given()
        return _finish_alone(process, data, streams)
    finally:
        streams.close()


def _finish_alone(process: Process, data: bytes, streams: Streams) -> Result:
    """Wait for the one command of a sandbox, and see that both are gone, however this ends."""
    try:
        return process._finish(data)
    finally:
        streams.close()
        process.close_sandbox()


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
        profile, name, keep, overrides, and keywords: as for `run`.
        cwd: directory on the host from which it is made.
        env: the environment of its commands; None: what the profile says.
        timeout: limit for each command that gives none of its own.
        pcap: a file for what passes through its network, as for `run`.

    Raises:
        SandboxError: it can't be made.
    """

    def __init__(
        self,
        profile: str | Profile | None = None,
        *,
        name: str | None = None,
        keep: bool = False,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | str | None = None,
        overrides: Mapping[str, object] | None = None,
        backend: Backend | None = None,
        pcap: str | os.PathLike[str] | None = None,
        **options: Unpack[Overrides],
    ) -> None:
        command, values = take(options, "Sandbox")
        if command:
            raise TypeError(f"{next(iter(command))!r} belongs to a command: give it to run() or popen()")
        settings = settings_of(values, overrides, timeout)
        with opened(pcap) as capture, keeping(name, keep, profile, settings, cwd) as kept:
            guarding = kept._replace(guarded=capture.guarded)
            prepared, self._channel = with_plan(
                profile, guarding, cwd, lambda each: _open(each, env, backend, kept.fds(each.plan), capture)
            )
            self._ports = _ports(self._channel)
        self.profile = prepared.profile
        #: by which mechanism each limit is held
        self.enforced: Mapping[str, str] = prepared.plan.enforced
        #: where its servers are reached inside; () where the network is the host's
        self.addresses: tuple[str, ...] = prepared.plan.addresses
        self._inside = self._channel.inside or net.inside(prepared.profile.net)
        if self._channel.inside is not None:
            self.addresses = self._channel.inside.addresses
        self._limits = prepared.profile.limits
        self._mechanisms = dict(self.enforced)
        self._frozen = False
        #: those that were started, by their numbers; whoever started one may have forgotten it
        self._commands: dict[int, Mailbox] = {}
        self._workdir = prepared.plan.workdir
        self._owner = prepared.owner

    def run(self, args: Arguments, *, check: bool = False, **options: Unpack[CommandOptions]) -> Result:
        """Run a command in this sandbox, wait for it, and say how it ended: `sandbox.run` here.

        Args:
            cwd: directory inside; None: the profile's.
            stdin: as there, but a terminal is never passed on.
            timeout: limit for this command; None: the sandbox's.

        Raises as `sandbox.run`, and TypeError for a profile value, which belongs to the sandbox.
        """
        command = self._command(options)
        data = as_bytes(command.get("input"), text_of(command))
        streams = streams_of(command, self._owner, terminal=False)
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
        stdin = subprocess.DEVNULL if is_terminal(command.get("stdin")) else command.get("stdin")
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
        """`stats()` every *interval* seconds, now first, until the sandbox ends.

        Raises:
            ValueError: *interval* is not more than 0.
        """
        if not interval > 0:
            raise ValueError(f"interval must be more than 0 seconds, not {interval!r}")
        return self._watch(interval)

    def _watch(self, interval: float) -> Iterator[Stats]:
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
        new = changes(self._limits, limits, self._mechanisms)
        old = changes(self._limits, now, self._mechanisms)
        for at, change in enumerate(new):
            number = self._ask(Kind.SET, *change)["errno"]
            if number == errno.ENOENT and change.limit == "swap" and "swap" not in limits:
                continue  # a kernel without swap, which the first plan was content with, too
            if number:
                for each in reversed(old[:at]):
                    self._ask(Kind.SET, *each)
                raise refused(change, number)
        self._limits = replace(self._limits, **{name: parse(name, limits[name]) for name in limits})
        for name in limits:
            self._mechanisms.setdefault(name, CGROUP)
        without = {name for name in limits if limits[name] is None}
        held = {**self.enforced, **{name: self._mechanisms[name] for name in limits}}
        self.enforced = {name: how for name, how in held.items() if name not in without}

    @property
    def ports(self) -> tuple[Published, ...]:
        """Its published ports: each with protocol, address and port of the host, and the port inside."""
        return self._ports

    def publish(self, spec: str) -> tuple[Published, ...]:
        """Have ports of the host lead inside while it runs: "[IP:]PORT:PORT[/udp]", as `net.publish`. Of a
        range all or none. Returns them; port 0 of the host is whichever is free.

        Raises:
            ProfileError: *spec* is wrong, or the network is the host's.
            SetupError: a port is in use or can't be had, or the sandbox has ended.
        """
        return publishing.publish(self._ask, self._inside, spec, self._note_ports)

    def unpublish(self, spec: str) -> None:
        """Have them lead nowhere. Connections that are there go on until they end. Raises as `publish`;
        SetupError also for what is not published."""
        publishing.unpublish(self._ask, self._inside, spec, self._note_ports)

    def _note_ports(self, ports: tuple[Published, ...]) -> None:
        self._ports = ports

    def freeze(self) -> None:
        """Stop all its processes where they are, and the clock of its commands with them. Until `thaw()`
        nothing can be started in it, and no file read or written: SetupError.

        Raises:
            RequirementError: it has no cgroup of its own, which this takes.
            SetupError: it could not be done, or the sandbox has ended.
        """
        self._freeze(1)

    def thaw(self) -> None:
        """Let them go on. Raises as `freeze`."""
        self._freeze(0)

    def stop(self, timeout: float = 10.0) -> None:
        """Ask all commands in it to end, by the signal that the image names (SIGTERM where none does);
        `close()` it when they have, or after *timeout* seconds."""
        with contextlib.suppress(SetupError):  # it has ended meanwhile
            self._channel.poll()
            running = [box for box in self._commands.values() if box.result is None]
            for box in running:
                self._channel.request(Kind.SIGNAL, (box.number, self._channel.stop_signal))
            self._channel.wait(lambda: all(box.result is not None for box in running), timeout)
        self.close()

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
        for number, each in list(self._commands.items()):
            if each.result is not None:
                self._commands.pop(number, None)
        self._commands[box.number] = box
        try:
            self._refuse_frozen()
            argv = argv_of(args)
            process = Process(self._channel, box, argv, streams, text_of(command))
            env, cwd = command.get("env"), command.get("cwd")
            variables = None if env is None else assignments(env)
            fields = (
                box.number,
                -1 if variables is None else len(variables),
                *map(os.fsencode, variables or ()),
                "" if cwd is None else os.fsencode(os.path.join(self._workdir, os.fspath(cwd))),
                nanoseconds(command.get("timeout")),
                *map(os.fsencode, argv),
            )
            self._channel.request(Kind.SPAWN, fields, streams.given)
        except BaseException:
            self._commands.pop(box.number, None)
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
        self._frozen = bool(frozen)

    def _refuse_frozen(self) -> None:
        """Nobody in it would ever answer."""
        if self._frozen and not self.closed:
            raise SetupError("the sandbox is frozen", "call thaw() first")

    def _ask(self, kind: Kind, *fields: str | int) -> Event:
        """Send a request about the sandbox as a whole, and wait for the answer."""
        box = self._channel.mailbox()
        self._channel.request(kind, (box.number, *fields))
        self._channel.wait(lambda: bool(box.answers))
        if not box.answers:
            raise SetupError("the sandbox has ended", "open another Sandbox")
        return box.answers.popleft()[0]

    def _open_file(self, path: str | os.PathLike[str], flags: int, mode: int) -> int:
        inside = os.path.join(self._workdir, os.fspath(path))
        if "\0" in inside:
            raise ValueError("embedded null byte")
        self._refuse_frozen()
        box = self._channel.mailbox()
        self._channel.request(Kind.OPEN, (box.number, flags, mode, os.fsencode(inside)))
        self._channel.wait(lambda: bool(box.answers))
        if not box.answers:
            raise SetupError("the sandbox has ended", "open another Sandbox")
        event, fd = box.answers.popleft()
        number = int(event.get("errno", 0)) or (errno.EMFILE if fd < 0 else 0)
        if number:
            raise OSError(number, event.get("message") or os.strerror(number), inside)
        return fd


def _open(
    prepared: Prepared,
    env: Mapping[str, str] | None,
    backend: Backend | None,
    held: Sequence[int],
    capture: Capture,
) -> tuple[Prepared, Channel]:
    capture.check(prepared.profile.net)
    slots = [environment(prepared, env), *capture.slots]
    return prepared, start(prepared, slots, backend=backend, held=(*held, *capture.held))


def _ports(channel: Channel) -> tuple[Published, ...]:
    """The published ports of a sandbox that is ready; it is waited for.

    Raises:
        SandboxError: it could not be made.
    """
    try:
        channel.wait(lambda: channel.ready or channel.error is not None)
        if not channel.ready:
            raise _set_up_failed(channel)
        return publishing.read(channel.ports)
    except BaseException:
        channel.close()
        raise


def one_shot(
    prepared: Prepared,
    argv: list[str],
    streams: Streams,
    text: Text | None,
    slots: Sequence[Record],
    backend: Backend | None,
    held: Sequence[int] = (),
) -> Process:
    """Start a supervisor for one command, which has the number 0. It keeps the descriptors *held*."""
    slots = [
        *slots,
        Record(Kind.ARGV, "", "", tuple(map(os.fsencode, argv))),
        Record(Kind.STDIO, "", "", tuple(streams.given)),
    ]
    # With the caller's terminal as stdin it has to be in the foreground, that is, in our process
    # group; otherwise Ctrl-C is for us to see first, and to end it in order.
    own_group = not (streams.given[0] == 0 and os.isatty(0))
    channel = start(prepared, slots, streams.given, backend=backend, own_group=own_group, held=held)
    return Process(channel, channel.mailbox(0), argv, streams, text)


def _set_up_failed(channel: Channel) -> SandboxError:
    error: Event | None = channel.error
    return SetupError("the sandbox ended while it was made") if error is None else setup_error(error)
