"""Launching: start the helper on a plan, talk to it, and gather the result.

    backend   starts a supervisor; the seam for tests
    channel   the control socket, shared by threads
    streams   pipes, and moving what flows in them
    process   one command: Popen's methods
    api       run() and Sandbox
    live      what a running sandbox uses, and what can be changed in it
    result    how it ended
    prepare   profile -> plan, which the command line uses too
    planned   a plan of another maker, for programs of ours

Names are imported when they are first used: the command line needs the module `prepare` alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandbox.launch.api import Sandbox, run
    from sandbox.launch.backend import Backend, Helper, Native
    from sandbox.launch.live import Stats
    from sandbox.launch.prepare import Prepared
    from sandbox.launch.process import Process
    from sandbox.launch.result import CalledProcessError, Limit, Result, Usage, Verdict

__all__ = [
    "Backend",
    "CalledProcessError",
    "Helper",
    "Limit",
    "Native",
    "Prepared",
    "Process",
    "Result",
    "Sandbox",
    "Stats",
    "Usage",
    "Verdict",
    "run",
]

_HOMES = {
    "Backend": "backend",
    "CalledProcessError": "result",
    "Helper": "backend",
    "Limit": "result",
    "Native": "backend",
    "Prepared": "prepare",
    "Process": "process",
    "Result": "result",
    "Sandbox": "api",
    "Stats": "live",
    "Usage": "result",
    "Verdict": "result",
    "run": "api",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"sandbox.launch.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
