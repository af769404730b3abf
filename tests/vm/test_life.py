"""A sandbox while it runs: limits that change, statistics, freezing; and what a caller does to it."""

from __future__ import annotations

import os

import pytest

import sandbox
from tests.vm.limits import HOGS, PYTHON, M, boxes, no_broker, wait_until

__all__ = ["no_broker"]


pytestmark = [pytest.mark.guest, pytest.mark.integration]
if not os.path.isdir("/run/systemd/system"):
    pytest.skip("only in the guest of scripts/vm", allow_module_level=True)


def test_limits_change_while_it_runs() -> None:
    with sandbox.Sandbox(memory="48M") as sb:
        assert sb.run([PYTHON, "-c", "x = bytearray(60 << 20)"]).verdict == "memory"
        sb.set_limits(memory="100M", pids=30, cpus=0.9)
        assert sb.run([PYTHON, "-c", "x = bytearray(60 << 20)"]).verdict == "ok"
        (box,) = [each for each in boxes() if (each / "memory.max").read_text().strip() == str(100 * M)]
        assert (box / "memory.swap.max").read_text().strip() == "0"
        assert (box / "pids.max").read_text().strip() == "31"
        assert (box / "cpu.max").read_text().split() == ["90000", "100000"]
        result = sb.run([PYTHON, "-c", HOGS["anonymous"]])
        assert result.verdict == "memory" and result.limit is not None and result.limit.value == 100 * M
        sb.set_limits(memory=None, cpus=None)
        assert (box / "memory.max").read_text().strip() == "max"
        with pytest.raises(sandbox.ProfileError):
            sb.set_limits(pids=20, memory="much")
        with pytest.raises(sandbox.RequirementError, match=r"timeout can't be changed"):
            sb.set_limits(pids=20, timeout=5)
        with pytest.raises(sandbox.RequirementError, match="lacks the cpuset controller"):
            sb.set_limits(pids=20, cpuset="0")
        assert (box / "pids.max").read_text().strip() == "31"  # all of them or none


def test_statistics_and_freezing() -> None:
    with sandbox.Sandbox(memory="64M") as sb:
        process = sb.popen([PYTHON, "-c", "x = bytearray(20 << 20)\nwhile True: pass"])
        wait_until(lambda: (sb.stats().memory or 0) > 20 * M)
        stats = sb.stats()
        assert stats.memory_peak is not None and stats.memory is not None
        assert stats.memory_peak >= stats.memory and stats.pids == 1 and not stats.frozen
        sb.freeze()
        first, second = sb.stats(), sb.stats()
        assert first.frozen and first.cpu == second.cpu
        sb.thaw()
        seen = [each.cpu or 0 for each, _ in zip(sb.watch(0.2), range(3), strict=False)]
        assert seen == sorted(seen) and seen[-1] > (first.cpu or 0)
        process.kill()
        process.wait(30)


def test_limits_that_are_lowered_below_what_is_used() -> None:
    with sandbox.Sandbox(memory="256M") as sb:
        taker = sb.popen([PYTHON, "-c", "x = bytearray(100 << 20)\nimport time; time.sleep(600)"])
        wait_until(lambda: (sb.stats().memory or 0) > 100 * M)
        sb.set_limits(memory="32M")
        taker.wait(60)
        assert taker.result is not None and taker.result.verdict == "memory", taker.result
        sb.set_limits(memory="64M")
        assert sb.run([PYTHON, "-c", "x = bytearray(20 << 20)"]).verdict == "ok"
        assert sb.run([PYTHON, "-c", HOGS["anonymous"]]).verdict == "memory"


def test_limits_below_what_no_end_of_a_command_gives_back() -> None:
    """Files in memory stay until somebody removes them. It is refused, and all is as before."""
    with sandbox.Sandbox(memory="128M") as sb:
        assert sb.run(["sh", "-c", "head -c 40M /dev/zero >/tmp/x"]).verdict == "ok"
        with pytest.raises(sandbox.RequirementError, match="by files in memory"):
            sb.set_limits(pids=20, memory="16M")
        (box,) = boxes()
        assert (box / "memory.max").read_text().strip() == str(128 * M)
        assert (box / "pids.max").read_text().strip() != "21"
        assert sb.run(["rm", "/tmp/x"]).verdict == "ok"
        sb.set_limits(pids=20, memory="16M")
        assert sb.run(["true"]).verdict == "ok"


def test_a_count_of_tasks_that_is_lowered_below_what_there_are() -> None:
    with sandbox.Sandbox(pids=30, memory="64M") as sb:
        many = sb.popen(["sh", "-c", "for i in 1 2 3 4 5 6 7 8; do sleep 600 & done; wait"])
        wait_until(lambda: (sb.stats().pids or 0) >= 9)
        sb.set_limits(pids=1)
        assert many.poll() is None and (sb.stats().pids or 0) >= 9  # what runs goes on
        many.kill()
        many.wait(30)
        sb.set_limits(pids=20)
        assert sb.run(["true"]).verdict == "ok"


def test_limits_that_are_raised_above_the_machine() -> None:
    with sandbox.Sandbox(memory="64M") as sb:
        sb.set_limits(memory="1E", cpus=4096)
        assert sb.run([PYTHON, "-c", "x = bytearray(100 << 20)"]).verdict == "ok"
        sb.freeze()
        sb.set_limits(memory="48M")  # also of one that stands still
        sb.thaw()
        assert sb.run([PYTHON, "-c", HOGS["anonymous"]]).verdict == "memory"
