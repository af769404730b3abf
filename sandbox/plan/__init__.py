"""Planning: from what a user wants, what this machine can do and what this call is, to a plan.

    invocation = resolve(profile, host, cwd, environ)     # looks at files
    plan = compile(profile, host, invocation)             # pure
    plan.encode()                                         # bytes for the helper
    plan.describe()                                       # lines for people

The two functions are imported here at once, not when they are first used: they are called
like their modules, and whichever is bound to the package last would win.
"""

from __future__ import annotations

from sandbox.plan.compile import compile
from sandbox.plan.invocation import Invocation
from sandbox.plan.plan import FileStamp, Limit, Plan
from sandbox.plan.resolve import resolve

__all__ = ["FileStamp", "Invocation", "Limit", "Plan", "compile", "resolve"]
