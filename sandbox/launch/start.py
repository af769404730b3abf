"""From a prepared plan to a running supervisor: the slots that only a launch can fill."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

from sandbox import wire
from sandbox.errors import SetupError
from sandbox.launch import scratch
from sandbox.launch.backend import Backend, above_stdio
from sandbox.launch.broker import BROKERED
from sandbox.launch.channel import Channel, pair
from sandbox.launch.prepare import Prepared
from sandbox.wire import Kind, Record

__all__ = ["start"]


def start(
    prepared: Prepared,
    slots: Iterable[Record],
    fds: Iterable[int] = (),
    *,
    backend: Backend | None = None,
    own_group: bool = True,
) -> Channel:
    """Start a supervisor on *prepared*, with *slots* besides those for the conversation; they name
    descriptors among *fds*.

    It dies with this process: its lifeline is a pidfd of it, whichever thread started it.

    Raises:
        SetupError: it could not be started.
    """
    with contextlib.ExitStack() as undo, contextlib.ExitStack() as ours:
        try:
            control, theirs = pair()
            undo.callback(control.close)
            ours.callback(os.close, theirs)
            lifeline = above_stdio(os.pidfd_open(os.getpid()))
            ours.callback(os.close, lifeline)
        except OSError as error:
            raise SetupError(f"cannot start a sandbox: {error.strerror}", errno=error.errno or 0) from error
        records = [
            *slots,
            Record(Kind.CONTROL, "", "", (theirs,)),
            Record(Kind.LIFELINE, "", "", (lifeline,)),
            Record(Kind.VERBOSITY, "", "", (0,)),
        ]
        if prepared.plan.needs_scratch:
            directory = scratch.make()
            undo.callback(os.rmdir, directory)
            records.append(Record(Kind.SCRATCH, "", "", (directory,)))
        helper = (backend or BROKERED).start(
            wire.extend(prepared.static, records), [theirs, lifeline, *fds], own_group=own_group
        )
        undo.pop_all()
    return Channel(control, helper)
