"""The arguments of `run`, `popen` and `Sandbox`, checked and turned into what a launch takes: subprocess's
conventions. Names of profile values are `sandbox.launch.options`'s."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence

from sandbox.errors import ProfileError
from sandbox.launch.options import CommandOptions, Overrides, overrides_of
from sandbox.launch.prepare import Prepared
from sandbox.launch.streams import Stream, Streams, Text, open_streams
from sandbox.wire import Kind, Record

__all__ = [
    "Arguments",
    "argv_of",
    "assignments",
    "environment",
    "is_terminal",
    "nanoseconds",
    "settings_of",
    "streams_of",
    "text_of",
]

Arguments = str | os.PathLike[str] | Sequence[str | bytes | os.PathLike[str]]


def settings_of(
    values: Overrides, overrides: Mapping[str, object] | None, timeout: float | str | None
) -> dict[str, object]:
    """Profile values by dotted key, from short names, from those themselves, and from a limit of time."""
    settings = {**overrides_of(values), **(overrides or {})}
    if timeout is not None:
        settings["limits.timeout"] = timeout
    return settings


def argv_of(args: Arguments) -> list[str]:
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


def text_of(command: CommandOptions) -> Text | None:
    return Text.of(command.get("text"), command.get("encoding"), command.get("errors"))


def assignments(env: Mapping[str, str]) -> list[str]:
    for name, value in env.items():
        for what, each in (("name", name), ("value", value)):
            if not isinstance(each, str):
                raise TypeError(
                    f"the {what} of environment variable {name!r} must be str, not {type(each).__name__}"
                )
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise ValueError(f"illegal environment variable {name!r}")
    return [f"{name}={value}" for name, value in env.items()]


def environment(prepared: Prepared, env: Mapping[str, str] | None) -> Record:
    variables = prepared.variables(os.environ) if env is None else assignments(env)
    return Record(Kind.ENVIRONMENT, "set the environment", "", tuple(map(os.fsencode, variables)))


def nanoseconds(timeout: float | str | None) -> int:
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


def is_terminal(stdin: Stream) -> bool:
    """Whether *stdin* is the caller's own, and a terminal. os.isatty is false for a closed one."""
    return stdin is None and os.isatty(0)


def streams_of(
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
    if is_terminal(stdin) and (not terminal or (stdout is not None and stderr is not None)):
        stdin = subprocess.DEVNULL
    return open_streams(stdin, stdout, stderr, owner)
