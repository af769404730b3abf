"""`sandbox update`: ports of a kept sandbox that runs come and go."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sandbox
from sandbox.box import Boxes, log
from sandbox.ports import Published
from sandbox.wire import Kind, Record, encode
from tests.box.test_log import Command, kept
from tests.image.test_root import ROOT, store
from tests.net.test_live import ask
from tests.support.needs import need
from tests.support.waiting import wait_until

__all__ = ["kept", "store"]  # the fixtures

pytestmark = [pytest.mark.integration, pytest.mark.as_root]

#: what the image has: says "inside" to whoever comes to port 80, and ends with its input
SERVE = "busybox nc -ll -p 80 -e busybox echo inside & echo up; cat; kill %1"


@contextlib.contextmanager
def running(*options: str) -> Iterator[subprocess.Popen[str]]:
    words = ["run", "-p", "test", "--name", "b", *options, "--", "sh", "-c", SERVE]
    with subprocess.Popen(
        [sys.executable, "-m", "sandbox", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        assert process.stdout.readline() == "up\n", process.stderr.read()
        try:
            yield process
        finally:
            process.stdin.close()


def published(text: str) -> Published:
    """As it is printed: ADDRESS:PORT:INNER/PROTOCOL."""
    where, _, protocol = text.strip().partition("/")
    address, port, inner = where.rsplit(":", 2)
    return Published(protocol, address, int(port), int(inner))


def answers(port: Published) -> bool:
    """Whether the server does; it may not listen yet."""
    return ask(port) == "inside\n"


def test_they_come_and_go(kept: Command, sandbox_cmd: Command) -> None:
    with running() as process:
        done = sandbox_cmd("update", "b", "--publish", "0:80", "--publish", "127.0.0.2:0:80")
        assert done.returncode == 0, done.stderr
        first, second = map(published, done.stdout.splitlines())
        wait_until(lambda: answers(first))
        assert answers(second)
        shown = json.loads(sandbox_cmd("inspect", "b", "--json").stdout)["ports"]
        assert [Published(**each) for each in shown] == [first, second]
        done = sandbox_cmd("update", "b", "--unpublish", str(first), "--publish", f"{first.port}:80")
        assert done.stdout == f"{first}\n"  # what goes does so before what comes
        assert answers(first)
        assert sandbox_cmd("update", "b", "--unpublish", str(second)).stdout == ""
        assert ask(second) == "" and answers(first)
    assert process.returncode == 0
    assert ask(first) == ""


WRONG = {
    "b": "sandbox: nothing to update",
    "b --publish 80": "sandbox: option --publish: ",
    "b --unpublish 1:2:3:4": "sandbox: option --unpublish: ",
    "b --unpublish 8080:80": "sandbox: cannot unpublish 127.0.0.1:8080:80/tcp: it is not published",
    "b --publish 192.0.2.7:0:80": "sandbox: cannot publish 192.0.2.7:0:80/tcp: Cannot assign",
    "nosuch --publish 0:80": "sandbox: there is no sandbox nosuch",
}


def test_what_is_wrong_is_told(kept: Command, sandbox_cmd: Command) -> None:
    with running():
        for words, said in WRONG.items():
            done = sandbox_cmd("update", *words.split())
            assert done.returncode == 125 and done.stderr.startswith(said), done.stderr
        assert json.loads(sandbox_cmd("inspect", "b", "--json").stdout)["ports"] == []


def test_a_port_in_use(kept: Command, sandbox_cmd: Command) -> None:
    with running("--publish", "0:80"), socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        done = sandbox_cmd("update", "b", "--publish", f"{number}:80")
        assert done.returncode == 125 and "in use" in done.stderr and "ss -ltunp" in done.stderr


def test_where_nothing_runs(kept: Command, sandbox_cmd: Command) -> None:
    """Neither what has ended nor what was killed leaves anything that could be asked."""
    words = ("update", "b", "--publish", "0:80")
    assert "b does not run" in sandbox_cmd(*words).stderr
    with running() as process:
        os.kill(process.pid, signal.SIGKILL)
    assert "b does not run" in sandbox_cmd(*words).stderr
    with sandbox.Sandbox("test", name="b"):
        done = sandbox_cmd(*words)
        assert "b does not run, or not by the command" in done.stderr and "Sandbox.publish" in done.stderr


def test_the_hosts_own_network(kept: Command, sandbox_cmd: Command) -> None:
    with running("--net", "host"):
        done = sandbox_cmd("update", "b", "--publish", "0:8080")
        assert done.returncode == 125 and "the network is the host's own" in done.stderr


def test_on_a_private_network(kept: Command, sandbox_cmd: Command) -> None:
    need("nft")
    assert sandbox_cmd("network", "create", "--internal", "lab").returncode == 0
    with running("--net", "lab"):
        done = sandbox_cmd("update", "b", "--publish", "0:80")
        assert done.returncode == 0, done.stderr
        wait_until(lambda: answers(published(done.stdout)))
        net = json.loads(sandbox_cmd("inspect", "b", "--json").stdout)["net"]
        (network,) = json.loads(sandbox_cmd("network", "inspect", "lab", "--json").stdout)
        assert net["mode"] == "lab" and net["addresses"] == network["members"][0]["addresses"]


def test_whoever_says_nothing_or_nonsense_is_in_nobodys_way(kept: Command, sandbox_cmd: Command) -> None:
    with running() as process:
        _, directory = Boxes().look("b")
        assert Path(directory, "socket").is_socket()
        idle = [log.connect(directory) for _ in range(20)]
        for data in (b"x", b"x" * 4000, encode([Record(Kind.CLOSE, "", "", ())]), encode([])):
            with log.connect(directory) as connection:
                connection.send(data)
                answer = connection.recv(4096)
                assert answer == b"" or json.loads(answer)["errno"] == 95  # EOPNOTSUPP
        done = sandbox_cmd("update", "b", "--publish", "0:80")
        assert done.returncode == 0, done.stderr
        for each in idle:
            each.close()
        assert process.poll() is None


def test_the_command_does_not_see_it(kept: Command) -> None:
    _, directory = Boxes().look("b")
    ran = kept("--net", "none", "--", "sh", "-c", f"ls -d {directory}; cat /proc/net/unix | grep -c socket")
    assert ran.stdout == "0\n"
