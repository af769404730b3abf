"""One command in a sandbox, while it runs and when it has ended: the `subprocess.Popen` of it."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
from collections.abc import Sequence
from types import TracebackType
from typing import IO, Any

from sandbox.errors import HostError, SetupError
from sandbox.launch.channel import Channel, Event, Mailbox
from sandbox.launch.result import Result
from sandbox.launch.streams import Pump, Streams, Text
from sandbox.wire import Kind

__all__ = ["Process", "as_bytes", "setup_error"]


class Process:
    """A command that was started, with the methods of `subprocess.Popen`.

    args        what was run
    stdin, stdout, stderr  files, where PIPE was asked for; else None
    result      the `Result`, once it has ended; None before

    May be used from several threads, but a pipe by one at a time. As the `with` statement's value
    it closes its pipes and waits at the end, like a Popen.
    """

    def __init__(
        self, channel: Channel, box: Mailbox, args: Sequence[str], streams: Streams, text: Text | None
    ) -> None:
        self.args = list(args)
        self.result: Result | None = None
        self._channel = channel
        self._box = box
        self._files = streams.ours
        self._text = text
        self._pump: Pump | None = None
        self.stdin, self.stdout, self.stderr = (_public(file, text) for file in streams.ours)

    @property
    def returncode(self) -> int | None:
        """Its exit status, -N for a signal, None while it is not known to have ended."""
        return None if self.result is None else self.result.returncode

    def poll(self) -> int | None:
        """Whether it has ended, without waiting: its return code, or None."""
        if self.result is None:
            self._channel.poll()
            self._settle()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended; return its return code.

        Raises:
            subprocess.TimeoutExpired: it still ran after *timeout* seconds. It goes on running;
                `limits.timeout` is what ends a command.
            SetupError: the sandbox could not be made, or was gone before the command ran.
        """
        self._wait(timeout)
        assert self.result is not None
        return self.result.returncode

    def communicate(self, input: bytes | str | None = None, timeout: float | None = None) -> tuple[Any, Any]:
        """Send *input*, collect the output until it has ended, and return (stdout, stderr).

        Raises as `wait`; after a TimeoutExpired it may be called again, and nothing is lost.
        """
        if self._pump is None:
            if input is not None and self.stdin is None:
                raise ValueError("input needs stdin=PIPE")
            if self.stdin is not None and not self.stdin.closed:
                with contextlib.suppress(BrokenPipeError):
                    self.stdin.flush()
            self._pump = Pump(self._files, as_bytes(input, self._text))
        elif input:
            raise ValueError("cannot send input after starting communication")
        self._wait(timeout)
        assert self.result is not None
        return self.result.stdout, self.result.stderr

    def _finish(self, data: bytes) -> Result:
        """`communicate` for `run`: *data* is ready, and nobody has read or written yet."""
        self._pump = Pump(self._files, data)
        self._wait(None)
        assert self.result is not None
        return self.result

    def send_signal(self, signum: int) -> None:
        """Send a signal to the command's process group; nothing when it has ended."""
        if self.poll() is None:
            self._channel.request(Kind.SIGNAL, (self._box.number, int(signum)))

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to everything that the command started."""
        self.send_signal(signal.SIGKILL)

    def stop(self, timeout: float = 10.0) -> int:
        """Ask it to end, by the signal that its image names (SIGTERM where none does), and kill everything
        that it started when it has not after *timeout* seconds; return its return code.

        Raises as `wait`, but no TimeoutExpired.
        """
        self.send_signal(self._channel.stop_signal)
        try:
            return self.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.wait()

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for file in (self.stdout, self.stderr, self.stdin):
            if file is not None:
                with contextlib.suppress(BrokenPipeError):
                    file.close()
        self.wait()

    def __repr__(self) -> str:
        return f"<sandbox.Process {self.args!r}, returncode {self.returncode}>"

    def _abandon(self) -> None:
        """Its caller was interrupted: kill it, and give it a moment to be gone."""
        with contextlib.suppress(SetupError):
            self.kill()
            self._channel.wait(lambda: self._box.result is not None, 5.0)

    def close_sandbox(self) -> None:
        """End the sandbox it runs in, which is its own."""
        self._channel.close()

    def _wait(self, timeout: float | None) -> None:
        if self.result is None:
            if not self._channel.wait(self._ended, timeout, self._pump):
                assert timeout is not None
                raise subprocess.TimeoutExpired(self.args, timeout)
            self._settle()

    def _ended(self) -> bool:
        if self._box.stopped:
            # Ctrl-Z on a terminal that we passed on. The supervisor is in our process group and has
            # stopped itself; a shell waits for the whole job, and its `fg` continues all of it.
            self._box.stopped = False
            os.kill(0, signal.SIGTSTP)
            self._channel.helper.resume()  # for a caller who ignores SIGTSTP
        return self._box.result is not None

    def _settle(self) -> None:
        """Make the result, if there is what it is made from."""
        event = self._box.result
        if event is None:
            if not self._channel.ended:
                return
            event = self._lost()
        stdout, stderr = self._collected()
        self.result = Result(self.args, event, stdout, stderr)

    def _collected(self) -> tuple[Any, Any]:
        """What stdout and stderr have in the result: what was collected, None where nothing is."""
        if self._pump is None:
            return None, None
        self._pump.drain()
        stdout, stderr = self._pump.output(1), self._pump.output(2)
        if self._text is None:
            return stdout, stderr
        decode = self._text.decode
        return None if stdout is None else decode(stdout), None if stderr is None else decode(stderr)

    def _lost(self) -> Event:
        """The event to stand for a result that will not come."""
        if self._channel.error is not None:
            raise setup_error(self._channel.error)
        if not self._channel.ready:
            raise SetupError("the sandbox ended before the command ran")
        return {"verdict": "killed", "signal": int(signal.SIGKILL), "message": "the sandbox was killed"}


def _public(file: io.FileIO | None, text: Text | None) -> IO[Any] | None:
    """The file that a caller of popen() reads or writes."""
    if file is None:
        return None
    buffered: io.BufferedReader | io.BufferedWriter
    buffered = io.BufferedReader(file) if file.readable() else io.BufferedWriter(file)
    return text.wrap(buffered) if text else buffered


def as_bytes(data: bytes | str | None, text: Text | None) -> bytes:
    """*data* as it goes into the pipe.

    Raises:
        TypeError: bytes in text mode, or str without it.
    """
    if data is None:
        return b""
    if isinstance(data, str):
        if text is None:
            raise TypeError("input is a str: say text=True, or give bytes")
        return text.encode(data)
    if text is not None:
        raise TypeError("input is bytes, but text mode was asked for: give a str")
    return bytes(data)


def setup_error(event: Event) -> SetupError:
    """The exception for a supervisor's error event: a `HostError` when a row of `doctor` explains
    it, with that row's mend."""
    operation, errno = event.get("operation", ""), int(event.get("errno", 0))
    origin, mend = event.get("origin", ""), event.get("mend") or None
    message = event.get("message") or f"cannot {operation}"
    if origin:
        message += f" ({origin})"
    from sandbox import host

    row = host.explain(operation, event.get("errno_name", ""), message)
    if row is None:
        return SetupError(message, mend, operation=operation, origin=origin, errno=errno)
    error = HostError(f"{message}\n  {row.consequence}", mend or row.mend or None, row=row.name)
    error.operation, error.origin, error.errno = operation, origin, errno
    return error
