"""From a prepared plan to a running supervisor: the slots that only a launch can fill."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable, Sequence

from sandbox import wire
from sandbox.errors import SetupError
from sandbox.launch import scratch
from sandbox.launch.backend import Backend
from sandbox.launch.broker import BROKERED
from sandbox.launch.channel import Channel
from sandbox.launch.prepare import Prepared
from sandbox.wire import Kind, Record

__all__ = ["Outdated", "start"]


class Outdated(SetupError):
    """Layers that the plan uses were removed since it was made, or another sandbox has its ids."""


def start(
    prepared: Prepared,
    slots: Iterable[Record],
    fds: Iterable[int] = (),
    *,
    backend: Backend | None = None,
    own_group: bool = True,
    held: Sequence[int] = (),
) -> Channel:
    """Start a supervisor on *prepared*, with *slots* besides those for the conversation; they name
    descriptors among *fds*. It dies with this process, whichever thread started it. It keeps those that are
    *held*, which stay the caller's, besides what the plan leases.

    Raises:
        Outdated: the plan has to be made anew.
        SetupError: it could not be started.
    """
    with contextlib.ExitStack() as undo, contextlib.ExitStack() as given:
        records = [*slots, Record(Kind.VERBOSITY, "", "", (0,))]
        leases = prepared.take_leases()
        if leases is None:
            raise Outdated("the image's layers, or ids, that it was to have are gone again", "run it again")
        for fd in leases:
            given.callback(os.close, fd)
        joined = None
        if prepared.plan.membership is not None:
            from sandbox.launch.private import join

            joined = join(prepared.plan.membership)
            for fd in joined.fds:
                given.callback(os.close, fd)
            records += joined.records
        leases = [*(joined.fds if joined else ()), *leases, *held]
        records += [Record(Kind.LEASE, "", "", (fd,)) for fd in leases]
        if prepared.plan.needs_scratch:
            directory = scratch.make()
            undo.callback(os.rmdir, directory)
            records.append(Record(Kind.SCRATCH, "", "", (directory,)))
        started = (backend or BROKERED).start(
            wire.extend(prepared.static, records),
            [*fds, *leases, *held],
            namespaces=prepared.plan.namespaces,
            own_group=own_group,
        )
        undo.pop_all()
    channel = Channel(*started)
    channel.stop_signal = prepared.plan.stop_signal or signal.SIGTERM
    channel.inside = joined.inside if joined else None
    return channel
