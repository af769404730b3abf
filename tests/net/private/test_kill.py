"""Whoever of a private network is killed (member, network, launcher), and whenever: nothing is left."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.net.private.test_out import lab, sandbox, world
from tests.net.test_kill import alive, kill, moments
from tests.net.test_user import _until, started
from tests.net.world import World

__all__ = ["lab", "world"]  # the fixtures

pytestmark = pytest.mark.integration


def test_at_any_moment(world: World, helper: Path) -> None:
    """The network may wait for a first member that never comes; it does not do so for ever."""
    chance = random.Random(os.environ.get("SANDBOX_TEST_SEED", "private"))
    words = [
        sys.executable,
        "-m",
        "sandbox",
        "run",
        "--net",
        "lab",
        "--",
        "sh",
        "-c",
        "echo up; exec sleep 999",
    ]
    others = alive()

    def start() -> subprocess.Popen[str]:
        return started(world, words, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def once() -> None:
        with start() as process:
            assert process.stdout and process.stdout.readline() == "up\n"
            process.terminate()
        _until(lambda: alive() <= others)

    once()
    for moment in moments(chance, once):
        process = start()
        time.sleep(moment)
        ours = sorted(alive() - others)
        for pid in chance.sample(ours, min(len(ours), chance.choice((1, 1, 2)))):
            kill(pid)
        process.terminate()
        process.communicate(timeout=60)
        _until(lambda: alive() <= others)
    once()  # nothing is in the way of the next one
    assert sandbox(world, "network", "rm", "lab").stdout == "lab\n"
