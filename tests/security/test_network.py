"""What can be reached of the host's sockets, all of them made by the test."""

from __future__ import annotations

import socket

import pytest

from tests.security.inside import errno_of, output

pytestmark = [pytest.mark.integration, pytest.mark.as_root]


def test_the_hosts_abstract_sockets_are_out_of_reach() -> None:
    """CVE-2020-15257."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0sandbox-canary")
        server.listen()
        assert errno_of("socket.socket(socket.AF_UNIX).connect('\\0sandbox-canary')") == "ECONNREFUSED"


def test_the_hosts_loopback_is_out_of_reach_and_our_own_is_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert errno_of(f"socket.create_connection(('127.0.0.1', {port}), 5)") == "ECONNREFUSED"
    assert output(
        "import socket; s = socket.create_server(('127.0.0.1', 0));"
        "socket.create_connection(s.getsockname()); print('up')"
    ) == ("up")


def test_there_is_no_way_out() -> None:
    assert (
        output("print([l.split(':')[0].strip() for l in open('/proc/net/dev').read().splitlines()[2:]])")
        == "['lo']"
    )
    assert errno_of("socket.create_connection(('192.0.2.1', 9), 5)") == "ENETUNREACH"


def test_the_hosts_runtime_sockets_do_not_show() -> None:
    """A read-only bind does not close a socket, so the directories must not be there."""
    assert output(
        "import os; print([p for p in ('/run/user', '/run/docker.sock', '/var/run') if os.path.exists(p)])"
    ) in (
        "[]",
        "['/var/run']",
    )
