"""What can be reached of the host's sockets and shared objects, all of them made by the test."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import sandbox
from tests.security.inside import PYTHON, errno_of, output

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


@contextmanager
def listening(*names: str) -> Iterator[None]:
    """Sockets for everybody, by names that are relative: a socket's whole path is short (unix(7))."""
    with ExitStack() as stack:
        for name in names:
            server = stack.enter_context(socket.socket(socket.AF_UNIX))
            server.bind(name)
            stack.callback(os.unlink, name)
            os.chmod(name, 0o777)
            server.listen()
        yield


@pytest.mark.parametrize("mode", ["ro", "rw"])  # an overlay has files of its own, on which nobody listens
def test_runtime_directories_show_through_no_mount(
    tmp_home: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """Those of the session, where the bus, the agents and the display listen."""
    (tmp_home / "agent").mkdir()
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_home / "agent" / "socket"))
    monkeypatch.chdir(tmp_home)
    for each in (tmp_home.parent, tmp_home, tmp_home / "agent", tmp_home / ".runtime"):
        each.chmod(0o755)
    shown = ("plain", "agent/other", "agent/socket", ".runtime/bus")
    options = {"profile": "base", "overrides": {"mounts": {"/mnt": {"source": str(tmp_home), "mode": mode}}}}
    with listening(*shown):
        connect = "socket.socket(socket.AF_UNIX).connect('/mnt/{}')"
        answers = {name: errno_of(connect.format(name), "os, socket", **options) for name in shown}
    assert answers["plain"] == answers["agent/other"] == "none"
    assert answers["agent/socket"] in ("ECONNREFUSED", "EACCES")
    assert answers[".runtime/bus"] in ("ENOENT", "EACCES")


def test_the_hosts_system_v_objects_are_out_of_reach() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    key = int.from_bytes(os.urandom(3), "little") + 1
    segment = libc.shmget(key, 4096, 0o1666)  # IPC_CREAT, for everybody
    assert segment >= 0
    try:
        code = f"ctypes.CDLL(None, use_errno=True).shmget({key}, 0, 0)"
        answer = output(f"import ctypes; print({code}, ctypes.get_errno())", profile="base")
    finally:
        libc.shmctl(segment, 0, None)  # IPC_RMID
    assert answer == "-1 2"  # ENOENT


CONNECT = """
import socket, sys
try:
    socket.socket(fileno=0).connect(eval(sys.argv[1]))
    print("connected")
except OSError as error:
    print(error.strerror)
"""


@pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_UNIX, "\0sandbox-stdin-canary")]
)
def test_a_socket_as_stdin_is_no_way_into_the_callers_network(
    family: socket.AddressFamily, address: tuple[str, int] | str
) -> None:
    """It stays in the network that it was made in. Only one that is tied to its other end goes in."""
    with (
        socket.socket(family, socket.SOCK_DGRAM) as server,
        socket.socket(family, socket.SOCK_DGRAM) as given,
    ):
        server.bind(address)
        command = [PYTHON, "-I", "-S", "-c", CONNECT, repr(server.getsockname())]
        result = sandbox.run(command, profile="base", stdin=given, text=True)
    assert result.stdout == "Socket operation on non-socket\n", result.stderr
