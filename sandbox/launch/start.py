"""From a prepared plan to a running supervisor: the slots that only a launch can fill."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

from sandbox import wire
from sandbox.launch import scratch
from sandbox.launch.backend import Backend
from sandbox.launch.broker import BROKERED
from sandbox.launch.channel import Channel
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
    descriptors among *fds*. It dies with this process, whichever thread started it.

    Raises:
        SetupError: it could not be started.
    """
    with contextlib.ExitStack() as undo:
        records = [*slots, Record(Kind.VERBOSITY, "", "", (0,))]
        if prepared.plan.needs_scratch:
            directory = scratch.make()
            undo.callback(os.rmdir, directory)
            records.append(Record(Kind.SCRATCH, "", "", (directory,)))
        started = (backend or BROKERED).start(
            wire.extend(prepared.static, records),
            [*fds],
            namespaces=prepared.plan.namespaces,
            own_group=own_group,
        )
        undo.pop_all()
    return Channel(*started)
