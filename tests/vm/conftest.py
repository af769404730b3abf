"""What needs a host with systemd and cgroup v2: the guest of scripts/vm. Elsewhere nothing is collected."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.vm import guest

collect_ignore_glob = [] if os.environ.get("SANDBOX_TEST_GUEST") else ["test_*.py"]


def pytest_report_header() -> str | None:
    return "tests/vm: run by scripts/vm --pytest tests/vm" if collect_ignore_glob else None


@pytest.fixture
def io_delegated() -> Iterator[None]:
    """A drop-in for user@.service, as `sandbox doctor` advises: what io limits need beyond the default."""
    guest.root("delegate", "cpu", "io", "memory", "pids")
    yield
    guest.root("delegate", "default")
