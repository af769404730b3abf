"""The Python that programs of ours run with, beside a sandbox or in one, and what it sees of the host.

Found out where plans are made, not where they are compiled: it looks at files.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import py_compile
import sys
import sysconfig

from sandbox import paths
from sandbox.errors import SetupError
from sandbox.plan.invocation import Interpreter
from sandbox.root.tables import HOST_TREES

__all__ = ["compile_package", "executable", "interpreter", "prefixes"]


def executable() -> str:
    """The interpreter itself, not a virtual environment's name for it.

    Raises:
        SetupError: Python does not know which it is.
    """
    base: str = getattr(sys, "_base_executable", None) or sys.executable
    if not base:
        raise SetupError("cannot find the Python interpreter", "start sandbox by its full path")
    return os.path.realpath(base)


def prefixes() -> list[str]:
    """Where the interpreter and its library are, as far as the system's directories don't have them."""
    wanted = [os.path.dirname(os.path.dirname(executable())), sysconfig.get_path("stdlib")]
    real = dict.fromkeys(os.path.realpath(path) for path in wanted)
    outside = [
        path
        for path in real
        if not path.startswith(tuple(f"{tree}/" for tree in HOST_TREES)) and path not in HOST_TREES
    ]
    return [path for path in outside if not any(path.startswith(f"{other}/") for other in outside)]


@functools.cache
def interpreter() -> Interpreter:
    """All of it. Raises as `executable`."""
    package = os.path.dirname(os.path.realpath(paths.__file__))
    python = executable()
    views = (*HOST_TREES, "/etc/ld.so.cache", *prefixes(), package)
    return Interpreter(python, os.path.dirname(package), views, (python, package))


@functools.cache
def compile_package(*parts: str) -> None:
    """Leave compiled modules beside the sources of a package of ours, where there are none: what runs
    confined can't itself, and would compile them at each start. Whoever may not write there does without."""
    if sys.dont_write_bytecode:
        return
    top = os.path.join(os.path.dirname(os.path.realpath(paths.__file__)), *parts)
    for name in os.listdir(top):
        source = os.path.join(top, name)
        if name.endswith(".py") and not os.path.exists(importlib.util.cache_from_source(source)):
            with contextlib.suppress(OSError):
                py_compile.compile(source, quiet=2)
