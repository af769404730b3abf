"""What the tests of attacks share: running code inside, and a canary outside."""

from __future__ import annotations

import os
import queue
import stat
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import sandbox

#: tells the attacked from the attacker's side in error texts
PYTHON = "/usr/bin/python3"


def python(code: str, **options: Any) -> sandbox.Result:
    """Run Python *code* inside, with text output; by default in an `untrusted` sandbox."""
    options.setdefault("profile", "untrusted")
    return sandbox.run([PYTHON, "-I", "-S", "-c", textwrap.dedent(code)], text=True, **options)


def output(code: str, **options: Any) -> str:
    """The output of *code*, which must succeed."""
    result = python(code, **options)
    assert result.returncode == 0, (result.verdict, result.message, result.stderr)
    return result.stdout.strip()


def errno_of(expression: str, imports: str = "os, ctypes, socket, fcntl", **options: Any) -> str:
    """The name of the error that a Python expression raises inside, or "none"."""
    return output(
        f"""
        import errno, {imports}
        libc = ctypes.CDLL(None, use_errno=True) if "ctypes" in {imports!r} else None
        def call(number, *arguments):
            if libc.syscall(number, *arguments) < 0:
                raise OSError(ctypes.get_errno(), "")
        try:
            {expression}
        except OSError as error:
            print(errno.errorcode[error.errno])
        else:
            print("none")
        """,
        **options,
    )


def soon(call: Callable[[], object]) -> object:
    """What *call* returns or raises, which must not take long."""
    answers: queue.SimpleQueue[object] = queue.SimpleQueue()

    def attempt() -> None:
        try:
            answers.put(call())
        except Exception as error:
            answers.put(error)

    threading.Thread(target=attempt, daemon=True).start()
    try:
        return answers.get(timeout=20)
    except queue.Empty:
        pytest.fail("the caller is kept waiting")


@contextmanager
def unchanged(*directories: Path) -> Iterator[None]:
    """Fails when anything below *directories* is made, removed or changed meanwhile."""
    before = [_picture(directory) for directory in directories]
    yield
    assert [_picture(directory) for directory in directories] == before


def _picture(directory: Path) -> dict[str, tuple[int, int, bytes]]:
    picture = {}
    for path in sorted(directory.rglob("*")):
        status = os.lstat(path)
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        picture[str(path)] = (status.st_mode, status.st_ino, content)
    return picture
