"""Tasks and processor time that are held by a cgroup."""

from __future__ import annotations

import os

import pytest

import sandbox
from tests.vm.limits import PLAIN, PYTHON, boxes, no_broker, python, usable, wait_until

__all__ = ["no_broker"]


pytestmark = [pytest.mark.guest, pytest.mark.integration]
if not os.path.isdir("/run/systemd/system"):
    pytest.skip("only in the guest of scripts/vm", allow_module_level=True)


def test_a_fork_bomb_is_held() -> None:
    with sandbox.Sandbox(**PLAIN) as neighbour, sandbox.Sandbox(pids=40, memory="128M") as sb:
        bomb = sb.popen(["sh", "-c", "f() { f | f & }; f; sleep 600"], stderr=sandbox.DEVNULL)
        wait_until(lambda: (sb.stats().pids_peak or sb.stats().pids or 0) >= 40)
        assert usable(neighbour)
        assert (sb.stats().pids or 0) <= 40
        bomb.kill()
        bomb.wait(60)
    assert bomb.result is not None and bomb.result.verdict == "killed"
    assert "pids" in bomb.result.hit and bomb.result.enforced["pids"] == "cgroup"


def test_pids_have_a_verdict() -> None:
    code = "import os, time\nfor _ in range(60):\n    if os.fork() == 0: time.sleep(60)"
    result = python(code, pids=20, timeout=60)
    assert (result.verdict, result.hit, result.enforced["pids"]) == ("pids", ("pids",), "cgroup")
    assert result.usage.pids_peak == 20
    assert "by cgroup" in result.message
    # Touched and coped with is no failure.
    coped = python(f"try:\n    {code.replace(chr(10), chr(10) + '    ')}\nexcept OSError: pass", pids=20)
    assert coped.verdict == "ok" and coped.hit == ("pids",)


def test_a_cpu_hog_is_held() -> None:
    code = "import os\nfor _ in range(3): os.fork()\nwhile True: pass"
    with sandbox.Sandbox(**PLAIN) as neighbour, sandbox.Sandbox(cpus=0.25) as sb:
        hog = sb.popen([PYTHON, "-c", code])
        wait_until(lambda: (sb.stats().cpu_throttled or 0) > 0)
        assert usable(neighbour)
        hog.kill()
        hog.wait(60)
    result = python(code, cpus=0.25, timeout=3)
    assert result.verdict == "timeout" and result.enforced["cpus"] == "cgroup"
    used = result.usage.cpu_user + result.usage.cpu_system
    assert used <= 0.25 * result.usage.wall * 1.5 + 0.2  # a quota is kept by the tick
    assert result.usage.cpu_throttled


def test_cpu_time_is_exact_and_everybodys() -> None:
    script = "for i in 1 2 3; do (setsid sh -c 'while :; do :; done' &); done; sleep 60"
    result = sandbox.run(["sh", "-c", script], cpu_time=1, timeout=60)
    assert result.verdict == "cpu_time" and result.enforced["cpu_time"] == "cgroup"
    assert round(result.usage.cpu_user + result.usage.cpu_system, 3) >= 1.0  # each is rounded down


def test_weights_are_the_kernels() -> None:
    with sandbox.Sandbox(cpu_weight=37) as sb:
        sb.run(["true"])
        assert "37" in {(box / "cpu.weight").read_text().strip() for box in boxes()}
