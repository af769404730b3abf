"""Networks of mode "user" through the Python API: alone, behind a broker, and when those are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.net.test_user import PYTHON, _alive, _family, _named, _until, command, environment, started, world
from tests.net.world import HOST, INTERNET, PROBE, World

__all__ = ["world"]  # the fixture

RUN = f"""
import sandbox, sys
for _ in range(3):
    words = [{PYTHON!r}, "-c", {PROBE!r}, {INTERNET!r}, {HOST!r}]
    result = sandbox.run(words, profile=sys.argv[1], text=True)
    print(result.verdict, result.stdout.split(), result.stderr)
"""

#: the third sandbox is the broker's; then it tells of the pids of both, and goes on until its input ends
WAIT = """
import sandbox, sys
from sandbox.launch.broker import BROKERED
for _ in range(2):
    sandbox.run(["true"], profile=sys.argv[1])
with sandbox.Sandbox(sys.argv[1]) as box:
    process = box.popen(["sleep", "1000"])
    print(BROKERED._broker.process.pid, box._channel.helper.pid, flush=True)
    sys.stdin.read()
    print(box.run(["echo", "goes on"], text=True).stdout, end="", flush=True)
"""


def script(world: World, code: str) -> list[str]:
    words = command(world)  # writes the profile
    return [sys.executable, "-c", code, words[words.index("-p") + 1]]


def test_each_call_has_a_network(world: World, helper: Path) -> None:
    done = world.run(*script(world, RUN), env=environment(world))
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stderr
    for line in lines:
        assert line.startswith(f"ok ['{INTERNET}', '[\"beyond\",'") and f"'{HOST}', 'refused'" in line


@pytest.mark.parametrize("victim", ["launcher", "broker", "supervisor"])
def test_nothing_is_left_of_what_is_killed(world: World, helper: Path, victim: str) -> None:
    launcher = started(world, script(world, WAIT), stderr=subprocess.DEVNULL)
    assert launcher.stdin and launcher.stdout
    broker, supervisor = map(int, launcher.stdout.readline().split())
    family = [*_family(launcher.pid), *_family(broker)]  # which is nobody's child
    backends = [pid for pid in family if _named(pid, world.backend)]  # type: ignore[attr-defined]
    assert backends and supervisor in family
    os.kill({"launcher": launcher.pid, "broker": broker, "supervisor": supervisor}[victim], signal.SIGKILL)
    if victim == "broker":  # the sandbox is not concerned
        assert launcher.communicate(timeout=60)[0] == "goes on\n"
    else:
        _until(lambda: not any(map(_alive, backends)))
        launcher.communicate(timeout=60)
    _until(lambda: not any(map(_alive, family)))
