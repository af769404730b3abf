"""Input and output that are held by a cgroup, once systemd delegates io, which it does not by itself."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import sandbox
from sandbox.launch import broker
from tests.vm import guest
from tests.vm.limits import PLAIN, PYTHON, M, no_broker, python, usable, wait_until

__all__ = ["no_broker"]


pytestmark = [pytest.mark.guest, pytest.mark.integration]
if not os.path.isdir("/run/systemd/system"):
    pytest.skip("only in the guest of scripts/vm", allow_module_level=True)


@pytest.fixture(scope="module", autouse=True)
def io_delegated() -> Iterator[None]:
    """A drop-in for user@.service, as `sandbox doctor` advises. Once: user managers start anew."""
    broker.stop()
    guest.root("delegate", "cpu", "io", "memory", "pids")
    yield
    broker.stop()
    guest.root("delegate", "default")


def test_doctor_sees_that_io_is_delegated() -> None:
    assert guest.controllers() == {"cpu", "io", "memory", "pids"}
    found = guest.doctor()
    assert "io yes" in str(found["cgroup"]["detail"])
    assert found["limits.io"]["ok"] and found["limits.io"]["detail"] == "by cgroup"


def test_a_disk_writer_is_held() -> None:
    code = (
        "import os\nfd = os.open('/data/x', os.O_WRONLY | os.O_CREAT | os.O_SYNC)\n"
        "for _ in range(6): os.write(fd, os.urandom(1 << 20))"
    )
    options = {"binds": ["/srv/disk:/data"]}
    try:
        slow = sandbox.Sandbox(io={"/srv/disk": {"wbps": "256K"}}, **options)
        with sandbox.Sandbox(**PLAIN) as neighbour, slow as sb:
            sb.popen([PYTHON, "-c", code])
            wait_until(lambda: (sb.stats().io_written or 0) > 0)
            assert usable(neighbour)
        # The kernel has a file written back for the cgroup that wrote to it first: another one.
        Path("/srv/disk/x").unlink()
        result = python(code, io={"/srv/disk": {"wbps": "2M"}}, timeout=120, **options)
    finally:
        Path("/srv/disk/x").unlink()
    assert result.verdict == "ok" and result.enforced["io"] == "cgroup"
    assert result.usage.io_written is not None and result.usage.io_written >= 6 * M
    assert result.usage.wall >= 2.0  # 6 MiB at 2 MiB a second: it can't be sooner


def test_a_limit_on_the_disk_puts_off_no_end() -> None:
    """Who writes waits where no signal reaches it: here for half a minute, which could be hours as well."""
    size, rate, takes = 8 * M, "256K", 32
    code = (
        "import os\nfd = os.open('/data/x', os.O_WRONLY | os.O_CREAT)\n"
        f"os.write(fd, bytes({size})); os.fsync(fd)"
    )
    options = {"binds": ["/srv/disk:/data"], "io": {"/srv/disk": {"wbps": rate}}}
    try:
        result = python(code, timeout=2, **options)
        assert result.verdict == "timeout"
        assert result.usage.wall < takes  # sooner than it could have been through
        with sandbox.Sandbox(**options) as sb:
            writer = sb.popen([PYTHON, "-c", code])
            wait_until(lambda: Path("/srv/disk/x").stat().st_size == size)
            began = time.monotonic()
        assert time.monotonic() - began < takes
        writer.wait(60)
        assert writer.result is not None and writer.result.verdict == "killed"
    finally:
        Path("/srv/disk/x").unlink()
