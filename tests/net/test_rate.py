"""`net.rate` of a sandbox without a private network: bytes and time, out and in, with both backends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.net.test_user import PYTHON, command, environment, run, world
from tests.net.world import INTERNET, World
from tests.support.needs import need

__all__ = ["world"]  # the fixture

pytestmark = pytest.mark.integration

RATE, BURST = 20_000_000 / 8, 131_072  # bytes per second; what may come at once (helpers/rate.c)
SIZE = 5_000_000
PORT = 8001

#: beyond: takes SIZE bytes from the first that connects, and sends as many to the second
PEER = f"""
import os, socket
listening = socket.create_server(("", {PORT}))
print("up", flush=True)
if os.fork() == 0:
    os.close(1); os.close(2)
    with listening.accept()[0] as one:
        while one.recv(1 << 20): pass
        one.sendall(b"x")
    with listening.accept()[0] as two:
        two.sendall(b"x" * {SIZE})
"""
CLIENT = f"""
import socket, time
began = time.monotonic()
with socket.create_connection(("{INTERNET}", {PORT})) as s:
    s.sendall(b"x" * {SIZE}); s.shutdown(1); s.recv(1)
print(time.monotonic() - began)
began, got = time.monotonic(), 0
with socket.create_connection(("{INTERNET}", {PORT})) as s:
    while part := s.recv(1 << 20): got += len(part)
print(time.monotonic() - began, got)
"""


@pytest.fixture
def peer(world: World) -> Iterator[None]:
    assert world.beyond(PYTHON, "-c", PEER) == "up\n"
    yield


def test_both_ways(world: World, peer: None, helper: Path) -> None:
    """No faster than it says, and no slower, but that pasta loses what comes too fast for it, going out."""
    ran = run(world, PYTHON, "-c", CLIENT, net='rate = "20mbit"')
    out, in_, got = map(float, ran.stdout.split())
    assert got == SIZE, ran.stderr
    least = 0.8 * RATE if world.backend == "slirp4netns" else 0  # type: ignore[attr-defined]
    assert least < (SIZE - BURST) / out < 1.2 * RATE, ran.stdout
    assert 0.7 * RATE < (SIZE - BURST) / in_ < 1.2 * RATE, ran.stdout


def test_a_capture_has_each_packet_once(world: World, helper: Path) -> None:
    need("tcpdump")
    script = f"import socket; s = socket.create_connection(({INTERNET!r}, 8000)); s.sendall(b'a'); s.recv(99)"
    words = command(world, "--pcap", "x.pcap", "--", PYTHON, "-c", script, net='rate = "20mbit"')
    ran = world.run(*words, env=environment(world))
    assert ran.returncode == 0, ran.stderr
    told = world.run("/usr/bin/tcpdump", "-n", "-r", "x.pcap", "tcp[tcpflags] & tcp-syn != 0").stdout
    assert told.count("[S]") == told.count("[S.]") == 1, told


def test_the_payload_can_not_lift_it(world: World, helper: Path) -> None:
    """What comes goes through a device of its own; the payload can take nothing of that away."""
    script = "PATH=$PATH:/usr/sbin:/sbin; ip link; tc qdisc del dev rate0 root; ip link del rate0\ntc qdisc"
    ran = run(world, "sh", "-c", script, net='rate = "20mbit"', more='[user]\nmap = "root"')
    assert "rate0" in ran.stdout and ran.stdout.count("\nqdisc tbf") == 2, ran.stderr
    assert "qdisc ingress" in ran.stdout and ran.stderr.count("Operation not permitted") == 2
