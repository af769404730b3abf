"""What is kept of the last run in a box: `sandbox inspect` and `sandbox logs`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sandbox
from sandbox.box import Boxes
from sandbox.box.log import read
from sandbox.image.store import Store
from tests.image.test_root import ROOT, put, store

__all__ = ["store"]  # the fixture

pytestmark = [pytest.mark.integration, pytest.mark.as_root]

Command = Callable[..., Any]


@pytest.fixture
def kept(store: Store, sandbox_cmd: Command) -> Command:
    """Run in the box `b`."""
    put(store)
    words = ("run", "-p", "test", "--name", "b")
    made = sandbox_cmd(*words, "--keep", "--image", "base", "--", "true")
    assert made.returncode == 0, made.stderr
    return lambda *more, **options: sandbox_cmd(*words, *more, **options)


def test_a_network_is_shown_while_it_runs(kept: Command, sandbox_cmd: Command) -> None:
    words = ["run", "-p", "test", "--name", "b", "--publish", "0:80", "--", "cat"]
    running = subprocess.Popen(
        [sys.executable, "-m", "sandbox", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert running.stdin and running.stdout and running.stderr
    said = running.stderr.readline()  # which port it is: it is ready
    running.stdin.write(b"x\n")
    running.stdin.flush()
    assert running.stdout.readline() == b"x\n"
    shown = json.loads(sandbox_cmd("inspect", "b", "--json").stdout)
    text = sandbox_cmd("inspect", "b").stdout
    alive = running.poll() is None
    told = running.communicate(timeout=60)
    assert alive, told
    port = int(said.split()[-1])
    assert shown["running"] is True and shown["name"] == "b"
    assert shown["net"] == {"mode": "none", "backend": "", "addresses": ["127.0.0.1", "::1"]}
    assert shown["ports"] == [{"protocol": "tcp", "address": "127.0.0.1", "port": port, "inner": 80}]
    assert f"127.0.0.1:{port}:80/tcp" in text and "127.0.0.1, ::1" in text
    after = json.loads(sandbox_cmd("inspect", "b", "--json").stdout)
    assert (after["running"], after["net"], after["ports"]) == (False, None, [])


def test_how_the_last_run_ended(kept: Command, sandbox_cmd: Command) -> None:
    assert sandbox_cmd("logs", "b").stdout == "ok\n"
    kept("--", "sh", "-c", "exit 3")
    assert sandbox_cmd("logs", "b").stdout == "nonzero\n"
    assert json.loads(sandbox_cmd("logs", "b", "--json").stdout)["exit_code"] == 3
    kept("--timeout", "50ms", "--", "sleep", "100")
    assert sandbox_cmd("logs", "b").stdout.startswith("timeout: killed: timeout 50ms")


def test_a_run_through_the_api_is_another(kept: Command, sandbox_cmd: Command) -> None:
    """What the last but one told is no news of it."""
    assert sandbox.run(["true"], profile="test", name="b").returncode == 0
    assert "nothing is told" in sandbox_cmd("logs", "b").stdout


def test_what_was_denied(kept: Command, sandbox_cmd: Command) -> None:
    get = "busybox wget -q -O- http://bad.example/; busybox wget -q -O- 'http://x\x1b[1m.example/'; true"
    ran = kept("--net", "proxy", "--allow", "good.example:80", "--", "sh", "-c", get)
    assert "sandbox: denied: bad.example:80" in ran.stderr
    lines = sandbox_cmd("logs", "b").stdout.splitlines()
    assert lines[:2] == ["ok", "denied bad.example:80 (tcp)"]
    assert all(line.isprintable() for line in lines)


def test_where_nothing_is_to_be_told(kept: Command, sandbox_cmd: Command) -> None:
    for verb in ("inspect", "logs"):
        missing = sandbox_cmd(verb, "nosuch")
        assert missing.returncode == 125 and "there is no sandbox nosuch" in missing.stderr
    _, path = Boxes().look("b")
    file = Path(path, "run.jsonl")
    file.write_text(file.read_text() + "half a li")
    last = read(path)
    assert last is not None and last.report is not None and last.report["verdict"] == "ok"
    file.unlink()
    assert "nothing is told" in sandbox_cmd("logs", "b").stdout


def test_a_link_is_not_written_through(kept: Command, tmp_path: Path) -> None:
    _, path = Boxes().look("b")
    target = tmp_path / "target"
    target.write_text("kept")
    Path(path, "run.jsonl").unlink()
    Path(path, "run.jsonl").symlink_to(target)
    assert kept("--", "true").returncode == 0
    assert target.read_text() == "kept" and not Path(path, "run.jsonl").is_symlink()
