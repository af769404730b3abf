"""Running a plan that was not made from a profile: a program of ours, confined.

What unpacks archives and removes files of other ids is such a program. It is no user's command, so
there is no profile, and its plan is whatever its maker says.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence

from sandbox.launch.api import one_shot
from sandbox.launch.backend import Backend
from sandbox.launch.prepare import Prepared, without_environment
from sandbox.launch.process import Process
from sandbox.launch.streams import Stream, open_streams
from sandbox.plan.plan import Plan
from sandbox.profile.model import Profile
from sandbox.wire import Kind, Record

__all__ = ["running"]


@contextlib.contextmanager
def running(
    plan: Plan,
    argv: Sequence[str],
    *,
    stdin: Stream,
    stdout: Stream,
    stderr: Stream,
    backend: Backend | None = None,
) -> Iterator[Process]:
    """Start *argv* as *plan* says; it ends, with everything it started, when the `with` statement does.

    Raises:
        SetupError: it can't be started.
    """
    static = without_environment(plan.encode())
    environment = tuple((name, value) for name, value in plan.environment.items())
    prepared = Prepared(Profile(), plan, static, environment, ())
    slots = [Record(Kind.ENVIRONMENT, "set the environment", "", tuple(prepared.variables(os.environ)))]
    streams = open_streams(stdin, stdout, stderr, prepared.owner)
    try:
        process = one_shot(prepared, list(argv), streams, None, slots, backend)
        streams.close_given()
        try:
            yield process
        finally:
            process.close_sandbox()
    finally:
        streams.close()
