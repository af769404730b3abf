"""Directories on disk: nothing is left of them, whoever owns what is in them and whoever was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sandbox
from sandbox.launch import scratch
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.as_root]

#: directories of an id that only the range has, closed to all others, and deeper than Python can recurse
OWNED = """
cd /data && mkdir -p own/inner && touch own/inner/file && chown -R 1000:1000 own && chmod -R 700 own || exit
for i in $(seq 2000); do mkdir d && cd -P d || exit; done
"""
#: the same ids in each, and a layer on disk
PROFILE = """
extends = "default"
[root]
writable = "disk"
[user]
ids = "range"
map = "root"
[mounts]
"/data" = { source = "data", mode = "overlay" }
"""


@pytest.fixture
def parent() -> Path:
    return Path(scratch.parent())


@pytest.fixture
def profile(need: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if os.geteuid() != 0:
        need("idrange")
    work = tmp_path / "work"
    (work / "data").mkdir(parents=True)
    monkeypatch.chdir(work)
    (work / "range.toml").write_text(PROFILE)
    return "./range.toml"


def test_files_of_a_range(profile: str, parent: Path) -> None:
    listed = sandbox.run(["sh", "-c", f"{OWNED}\nls -n /data"], profile=profile, text=True)
    assert " 1000 1000 " in listed.stdout
    wait_until(lambda: not list(parent.iterdir()))


def test_what_a_killed_supervisor_left_of_a_range(
    profile: str, parent: Path, sandbox_cmd: Callable[..., Any]
) -> None:
    """The command line's own process is the supervisor, and the next one has the same ids."""
    kill = f"{OWNED}\necho done; sleep 1000"
    environ = {**os.environ, "PYTHONPATH": str(Path(sandbox.__file__).parent.parent)}
    words = [sys.executable, "-m", "sandbox", "run", "-p", profile, "--"]
    with subprocess.Popen([*words, "sh", "-c", kill], env=environ, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"done\n"
        process.send_signal(signal.SIGKILL)
    assert list(parent.iterdir())
    for _ in range(2):  # the second from the cache, when there is nothing left
        done = sandbox_cmd("run", "-p", profile, "--", "true")
        assert (done.returncode, done.stderr) == (0, "")
        wait_until(lambda: not list(parent.iterdir()))
