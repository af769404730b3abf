"""kill -9 of whoever is there at whatever moment, with the real backends: nothing is left, and it is told.

Processes and mounts that are left are found by the leak check of every test; files and sockets are looked for
here.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.net.test_api import script
from tests.net.test_user import _alive, _family, _named, _until, command, started, world
from tests.net.world import World

__all__ = ["world"]  # the fixture

pytestmark = pytest.mark.integration

ROUNDS = int(os.environ.get("SANDBOX_TEST_KILLS", "8"))
NAMES = 'allow = ["good.example:8000"]'

#: sandboxes one after the other, until somebody ends it
LOOP = """
import sandbox, sys
while True:
    try:
        result = sandbox.run(["true"], profile=sys.argv[1], text=True)
        print(result.verdict, flush=True)
    except sandbox.SandboxError as error:
        print("error", repr(str(error)), flush=True)
"""


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def traces(world: World) -> tuple[list[str], list[str]]:
    """Files, and the numbers of sockets: none of them is to stay. Plans are kept for the next launch."""
    files = sorted(
        str(path) for path in world.directory.rglob("*") if "plans" not in path.parts and path.is_file()
    )
    done = world.run("cat", "/proc/net/unix", "/proc/net/netlink", "/proc/net/udp")
    return files, sorted(line.split(":")[0] for line in done.stdout.splitlines() if ":" in line)


def alive() -> set[int]:
    """Those that descend from this process, as whoever lost its parent does; without zombies."""
    return {pid for pid in _family(os.getpid()) if _alive(pid)}


def moments(chance: random.Random, start: Callable[[], None]) -> Iterator[float]:
    """So many, up to a bit longer than what is started takes."""
    began = time.monotonic()
    start()
    taken = time.monotonic() - began
    for _ in range(ROUNDS):
        yield chance.uniform(0, 1.2 * taken)


@pytest.mark.parametrize("net", ["", NAMES], ids=["open", "names"])
def test_at_any_moment(world: World, helper: Path, net: str) -> None:
    chance = random.Random(os.environ.get("SANDBOX_TEST_SEED", "net"))
    report = world.directory / "report.json"
    backend = world.backend  # type: ignore[attr-defined]
    words = command(world, "--report", str(report), "--", "sh", "-c", "echo up; exec sleep 1000", net=net)

    def start() -> subprocess.Popen[str]:
        return started(world, words, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def once() -> None:
        with start() as process:
            assert process.stdout and process.stdout.readline() == "up\n"
            process.terminate()

    once()
    report.unlink()
    before, others = traces(world), alive()
    for moment in moments(chance, once):
        report.unlink(missing_ok=True)
        process = start()
        time.sleep(moment)
        family = _family(process.pid)
        victims = chance.sample(family, min(len(family), chance.choice((1, 1, 2))))
        backends = [pid for pid in victims if _named(pid, backend)]
        for pid in victims:
            kill(pid)
        assert process.stdout and process.stderr
        ran = process.stdout.readline() == "up\n"
        if ran:
            _until(lambda pids=backends: not any(map(_alive, pids)))
            if backends:
                process.stderr.readline()  # the loss is told, or everything ends
            process.terminate()
        _, errors = process.communicate(timeout=60)
        _until(lambda: alive() <= others)
        if process.pid not in victims:
            told = json.loads(report.read_text())
            assert ran or process.returncode != 0, (told, errors)
            # where the command was a victim itself that is what is told
            assert ran or told.get("verdict") == "signal" or errors.startswith("sandbox: "), (told, errors)
            if ran and backends and told.get("signal") == signal.SIGTERM:
                assert told["network"]["lost"]["name"] == backend, told
    report.unlink(missing_ok=True)
    _until(lambda: traces(world) == before)


def test_of_many_in_turn(world: World, helper: Path) -> None:
    """Under the API: the broker and all that it has, and at last the launcher."""
    chance = random.Random(os.environ.get("SANDBOX_TEST_SEED", "api"))
    with started(world, script(world, LOOP), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as launcher:
        assert launcher.stdout
        others = alive() - {launcher.pid, *_family(launcher.pid)}
        lines = iter(launcher.stdout.readline, "")

        def good() -> None:
            assert next(line for line in lines if line == "ok\n")

        good()
        before = traces(world)
        for moment in moments(chance, good):
            time.sleep(moment)
            ours = sorted(alive() - others - {launcher.pid})
            for pid in chance.sample(ours, min(len(ours), chance.choice((1, 1, 2)))):
                kill(pid)
            good()
        kill(launcher.pid)
        launcher.communicate(timeout=60)
    _until(lambda: alive() <= others)
    assert traces(world)[0] == before[0]
