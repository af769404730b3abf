"""What needs a host with systemd and cgroup v2: the guest of scripts/vm. Elsewhere nothing is collected."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Generator

import pytest

#: seconds for one phase of a test: far more than any takes, far less than the guest has for all
PATIENCE = 120
#: for one that compiles a tree and runs tests in it; less than faulthandler_timeout
MUTANT_PATIENCE = 280

collect_ignore_glob = [] if os.environ.get("SANDBOX_TEST_GUEST") else ["test_*.py"]


def pytest_report_header() -> str | None:
    return "tests/vm: run by scripts/vm --pytest tests/vm" if collect_ignore_glob else None


class Stuck(BaseException):
    """The test does not go on. No `except Exception` on its way is to swallow this."""


def _interrupt(_number: int, _frame: object) -> None:
    listed = ["ps", "-eo", "pid,ppid,user:8,stat,etime,wchan:24,args"]
    state = subprocess.run(listed, capture_output=True, text=True, check=False).stdout
    raise Stuck(f"nothing happened for a long time; the guest's processes:\n{state}")


@pytest.hookimpl(wrapper=True)
def _bounded(item: pytest.Item) -> Generator[None, object, object]:
    """A test that hangs fails, with a traceback of where it waits and a list of what others wait for."""
    before = signal.signal(signal.SIGALRM, _interrupt)
    signal.alarm(MUTANT_PATIENCE if item.get_closest_marker("mutation") else PATIENCE)
    try:
        return (yield)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


pytest_runtest_setup = pytest_runtest_call = pytest_runtest_teardown = _bounded
