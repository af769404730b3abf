"""Waiting for a condition, rather than for a time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

__all__ = ["PATIENCE", "wait_until"]

#: how long to wait for what should come, seconds: the machine may be busy. Where it never comes, as in the
#: tests of mutants, less will do.
PATIENCE = float(os.environ.get("SANDBOX_TEST_PATIENCE", "60"))


def wait_until(done: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Return when *done* is true; fail when it is not in so many *seconds*."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"still not so: {done}"
        time.sleep(0.01)
