"""`net.rate` on a private network: bytes and time, in both directions."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import sandbox
from tests.net.private.conftest import Box, Make
from tests.net.private.inside import PYTHON

pytestmark = pytest.mark.integration

RATE, BURST = 20_000_000 / 8, 131072  # bytes per second; what may go at once (helpers/rate.c)
SIZE = 4_000_000

#: sends SIZE bytes to whoever connects first, takes as many from the second, and says how long each took
PEER = f"""
import socket, time
listening = socket.create_server(("", 8000))
print("up", flush=True)
for sends in (True, False):
    connection, _ = listening.accept()
    began = time.monotonic()
    if sends:
        connection.sendall(b"x" * {SIZE}); connection.shutdown(1); connection.recv(1)
    else:
        while connection.recv(1 << 20): pass
    print(time.monotonic() - began, flush=True)
"""
CLIENT = f"""
import socket
with socket.create_connection(("db", 8000)) as s:
    while s.recv(1 << 20): pass
with socket.create_connection(("db", 8000)) as s:
    s.sendall(b"x" * {SIZE})
"""


def test_both_ways(network: Make, box: Callable[..., Box]) -> None:
    """No faster than it says; and not by much slower, or it would be another rate."""
    network()
    server = box("lab", "db").sandbox.popen([PYTHON, "-c", PEER], stdout=sandbox.PIPE, text=True)
    assert server.stdout is not None and server.stdout.readline() == "up\n"
    client = box("lab", "web", **{"net.rate": "20mbit"})
    client.sandbox.run([PYTHON, "-c", CLIENT], check=True)
    times = [float(server.stdout.readline()) for _ in range(2)]
    server.stdout.close()
    server.wait()
    for seconds in times:
        assert 0.8 * RATE < (SIZE - BURST) / seconds < 1.2 * RATE, times
