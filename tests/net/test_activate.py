"""Socket activation: sockets that a command is handed, in sandboxes with nothing but their loopback."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import sandbox
from sandbox.errors import ProfileError
from tests.net.test_live import LOCAL, PYTHON, ask

pytestmark = [pytest.mark.integration, pytest.mark.as_root]

#: what sd_listen_fds(3) looks at, and what there is besides
LOOK = """
import fcntl, os, socket
assert os.environ["LISTEN_PID"] == str(os.getpid()), os.environ["LISTEN_PID"]
count = int(os.environ["LISTEN_FDS"])
for name, fd in zip(os.environ["LISTEN_FDNAMES"].split(":"), range(3, 3 + count), strict=True):
    s = socket.socket(fileno=fd)
    accepting = s.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    flags = fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC, fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK
    print(name, s.family.name, s.type.name, s.getsockname()[1], accepting, flags, s.detach() - fd)
print(sorted(map(int, os.listdir("/proc/self/fd")))[3:-1] == list(range(3, 3 + count)))
"""
#: answers one client over TCP, and one over UDP, with whom it is
SERVE = """
import socket
c, peer = socket.socket(fileno=3).accept(); c.sendall(peer[0].encode()); c.close()
s = socket.socket(fileno=4); peer = s.recvfrom(10)[1]; s.sendto(peer[0].encode(), peer)
"""
#: of sockets, and the descriptors there are, whose last is of looking for them
NOTHING = """
import os; print([name for name in os.environ if name.startswith("LISTEN")], os.listdir("/proc/self/fd"))
"""
#: a listener is made to be no more, and is then connected to a port of 127.0.0.1
TURN = """
import ctypes, errno, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
s = socket.socket(fileno=3)
print(libc.connect(3, bytes(16), 16))
print(errno.errorcode.get(s.connect_ex(("127.0.0.1", int(sys.argv[1]))), "connected"))
"""


def test_what_a_command_gets(tmp_path: Path) -> None:
    wanted = ["http=0:80", "0:90/udp", "six=[::1]:0:80", "http=0:81", "again=0:80"]
    env = {"LISTEN_FDS": "7", "LISTEN_PID": "1", "LISTEN_FDNAMES": "a:b", "PATH": "/usr/bin"}
    done = sandbox.run(
        [PYTHON, "-c", LOOK], profile="untrusted", cwd="/usr", activate=wanted, text=True, env=env
    )
    assert (done.stdout, done.stderr) == (
        "http AF_INET SOCK_STREAM 80 1 (0, 0) 0\n"
        "unknown AF_INET SOCK_DGRAM 90 0 (0, 0) 0\n"
        "six AF_INET6 SOCK_STREAM 80 1 (0, 0) 0\n"
        "http AF_INET SOCK_STREAM 81 1 (0, 0) 0\n"
        "True\n",
        "",
    )


def test_without_it_nothing_is_said_of_sockets() -> None:
    done = sandbox.run([PYTHON, "-c", NOTHING], profile="untrusted", cwd="/usr", text=True)
    assert done.stdout == "[] ['0', '1', '2', '3']\n"


@pytest.mark.parametrize("address", LOCAL)
def test_clients_are_served(address: str) -> None:
    """Even those that come before the command does: they wait."""
    host = f"[{address}]:" if ":" in address else ""
    wanted = [f"{host}0:80", f"{host}0:80/udp"]
    with sandbox.Sandbox("untrusted", cwd="/usr", activate=wanted) as box:
        tcp, udp = box.ports
        with socket.create_connection((tcp.address, tcp.port), 20) as early:
            server = box.popen([PYTHON, "-c", SERVE])
            gateway = "fd00::2" if ":" in address else "10.0.2.2"
            assert early.recv(100).decode() == gateway
        assert ask(udp) == gateway
        assert server.wait(60) == 0


def test_each_command_gets_them() -> None:
    """And a second server goes on where the first has ended."""
    with sandbox.Sandbox("untrusted", cwd="/usr", activate=["0:80"]) as box:
        for _ in range(2):
            code = SERVE.partition("s =")[0]
            server = box.popen([PYTHON, "-c", code])
            assert ask(box.ports[0]) == "10.0.2.2"
            assert server.wait(60) == 0


def test_few_descriptors_are_enough() -> None:
    overrides = {"limits.files": 24}
    wanted = [f"0:{80 + number}" for number in range(8)]
    done = sandbox.run(
        [PYTHON, "-c", LOOK], profile="untrusted", cwd="/usr", activate=wanted, overrides=overrides, text=True
    )
    assert done.stdout.endswith("True\n"), done.stderr


def test_it_is_no_way_out() -> None:
    """What a listener is turned into leads nowhere but into the sandbox."""
    with socket.create_server(("127.0.0.1", 0)) as secret:
        port = str(secret.getsockname()[1])
        done = sandbox.run(
            [PYTHON, "-c", TURN, port], profile="default", cwd="/usr", activate=["0:80"], text=True
        )
    assert (done.stdout, done.stderr) == ("0\nECONNREFUSED\n", "")


def test_it_takes_a_port(sandbox_cmd: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    for word, why in (("80", "is not [IP:]PORT"), ("a b=1:80", "no name"), ("a:b=1:80", "no name")):
        done = sandbox_cmd("run", "-p", "untrusted", "--activate", word, "--", "true", cwd="/usr")
        assert done.returncode == 125 and why in done.stderr


def test_no_more_than_can_be() -> None:
    with pytest.raises(ProfileError, match="at most 32"):
        sandbox.run(["true"], profile="untrusted", cwd="/usr", activate=["1001-1033:1001-1033"])


def test_sockets_of_the_caller_are_not_passed_on(tmp_path: Path) -> None:
    """As systemd would start it: they are the host's, and what they are turned into would lead anywhere."""
    starter = f"""
import os, socket, sys
s = socket.create_server(("127.0.0.1", 0)); os.dup2(s.fileno(), 3); os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
words = ["-m", "sandbox", "run", "-p", "untrusted", "--", {PYTHON!r}, "-c", {NOTHING!r}]
os.execv(sys.executable, [sys.executable, *words])
"""
    root = Path(sandbox.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", f"import os; os.environ['PYTHONPATH'] = {str(root)!r}\n{starter}"],
        cwd="/usr",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "[] ['0', '1', '2', '3']\n", done.stderr
