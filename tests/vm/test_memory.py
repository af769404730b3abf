"""Memory that is held by a cgroup, for an ordinary user in a session as of ssh."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path

import pytest

import sandbox
from tests.vm.limits import HOGS, PLAIN, PYTHON, Command, M, boxes, no_broker, python, wait_until

__all__ = ["no_broker"]


pytestmark = [pytest.mark.guest, pytest.mark.integration]
if not os.path.isdir("/run/systemd/system"):
    pytest.skip("only in the guest of scripts/vm", allow_module_level=True)


@pytest.mark.parametrize("kind", HOGS)
def test_memory_of_every_kind_is_held(kind: str) -> None:
    result = python(HOGS[kind], memory="64M", disk="500M", timeout=120)
    assert (result.verdict, result.returncode) == ("memory", -9)
    assert result.enforced["memory"] == "cgroup"
    assert result.limit is not None and (result.limit.name, result.limit.value) == ("memory", 64 * M)
    assert result.message == "killed: memory limit 64M (peak 64M, by cgroup)"
    assert result.usage.memory_peak == 64 * M


def test_page_cache_is_held_and_no_reason_to_kill() -> None:
    code = "f = open('/data/x', 'wb')\nfor _ in range(200): f.write(bytes(1 << 20)); f.flush()"
    try:
        result = python(code, memory="48M", binds=["/srv/disk:/data"], timeout=120)
    finally:
        Path("/srv/disk/x").unlink()
    assert result.verdict == "ok" and result.hit == ()
    assert result.usage.memory_peak is not None and result.usage.memory_peak <= 48 * M


def test_what_takes_much_is_held_back() -> None:
    """By memory_high, which kills nobody."""

    def held_back() -> int:
        lines = (box / "memory.events").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("high "))

    with sandbox.Sandbox(memory="128M", memory_high="16M") as sb:
        assert sb.enforced["memory_high"] == "cgroup"
        (box,) = boxes()
        before = held_back()
        taker = sb.popen([PYTHON, "-c", "x = bytearray(64 << 20)"])
        wait_until(lambda: held_back() > before)
        taker.kill()
        taker.wait(60)
        assert taker.result is not None and taker.result.hit == ()


def test_the_command_line_says_what_killed(sandbox_cmd: Command, tmp_path: Path) -> None:
    report = tmp_path / "report"
    done = sandbox_cmd("run", "-m", "48M", "--report", report, "--", PYTHON, "-c", HOGS["anonymous"])
    assert done.returncode == 137
    assert done.stderr == "sandbox: killed: memory limit 48M (peak 48M, by cgroup)\n"
    assert json.loads(report.read_text())["limit"]["mechanism"] == "cgroup"


def test_a_neighbour_and_the_host_go_on(sandbox_cmd: Command) -> None:
    with sandbox.Sandbox(memory="64M") as neighbour:
        for kind in ("anonymous", "small processes"):
            assert python(HOGS[kind], memory="48M", timeout=120).verdict == "memory"
            assert neighbour.run(["echo", "here"], text=True).stdout == "here\n"


def test_in_a_sandbox_that_stays_each_command_ends_of_it() -> None:
    with sandbox.Sandbox(memory="64M") as sb:
        bystander = sb.popen(["sleep", "600"])
        result = sb.run([PYTHON, "-c", HOGS["anonymous"]])
        assert result.verdict == "memory" and "by cgroup" in result.message
        bystander.wait(60)
        assert bystander.result is not None and bystander.result.verdict == "memory"
        again = sb.run([PYTHON, "-c", "x = bytearray(8 << 20)"])  # and it can be used again
        assert again.verdict == "ok" and again.hit == ()
        assert again.usage.memory_peak is not None


def test_a_kill_of_another_kind_is_none_for_memory() -> None:
    assert sandbox.run(["sh", "-c", "kill -9 $$"], **PLAIN).verdict == "signal"
    process = sandbox.Sandbox(**PLAIN)
    with process as sb:
        command = sb.popen(["sleep", "600"])
        wait_until(lambda: "sleep" in running())  # it has executed it
        (pid,) = running()["sleep"]
        os.kill(pid, signal.SIGKILL)
        command.wait(30)
        assert command.result is not None and command.result.verdict == "signal"


def running() -> dict[str, list[int]]:
    """What runs in boxes of ours: the processes by their name."""
    found: dict[str, list[int]] = {}
    for box in boxes():
        with contextlib.suppress(OSError):  # it has gone meanwhile
            for pid in (box / "run/cgroup.procs").read_text().split():
                found.setdefault(Path(f"/proc/{pid}/comm").read_text().strip(), []).append(int(pid))
    return found


def test_a_limit_of_the_payloads_own_is_not_ours(tmp_path: Path) -> None:
    """A nested payload that sets itself a limit, and is killed for that."""
    code = (
        "import os, subprocess\n"
        "os.mkdir('/sys/fs/cgroup/a')\n"
        "open('/sys/fs/cgroup/a/memory.max', 'w').write('20000000')\n"
        "p = subprocess.run(['sh', '-c', 'echo 0 > /sys/fs/cgroup/a/cgroup.procs; exec '\n"
        f"    '{PYTHON} -c \"x = bytearray(100 << 20)\"'])\n"
        "raise SystemExit(9 if p.returncode == -9 else 1)"
    )
    result = python(code, profile="base", nested=True, **PLAIN)
    assert (result.verdict, result.returncode, result.hit) == ("nonzero", 9, ())
