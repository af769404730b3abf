"""Published ports, on the tests' machine: who connects from beyond, from the host, and over its loopback."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.net.test_user import PYTHON, Ran, _named, _parent, _running, command, run, started, world
from tests.net.world import HOST, HOST6, NEXT, NEXT6, World

__all__ = ["world"]  # the fixture

#: echoes, with the peer's address in front, until its input ends
SERVER = """
import socket, sys, threading
def tcp(family, address):
    s = socket.socket(family, socket.SOCK_STREAM); s.setsockopt(1, 2, 1)
    if family == socket.AF_INET6: s.setsockopt(41, 26, 1)
    s.bind((address, 80)); s.listen(64)
    def one(c, peer):
        c.sendall((peer[0] + ' ').encode())
        while data := c.recv(1 << 16): c.sendall(data)
        c.close()
    while True: threading.Thread(target=one, args=s.accept(), daemon=True).start()
def udp(family, address):
    s = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6: s.setsockopt(41, 26, 1)
    s.bind((address, 80))
    while True:
        data, peer = s.recvfrom(65536); s.sendto((peer[0] + ' ').encode() + data, peer)
for family, address in ((2, '0.0.0.0'), (10, '::')):
    for each in (tcp, udp): threading.Thread(target=each, args=(family, address), daemon=True).start()
import time; time.sleep(0.2)
print('up', flush=True); sys.stdin.read()
"""

ASK = """
import socket, sys
kind, host, port, size = sys.argv[1:5]
s = socket.socket(10 if ':' in host else 2, 2 if kind == 'udp' else 1)
s.settimeout(20)
s.connect(socket.getaddrinfo(host, int(port))[0][4])
data = b'x' * int(size)
if kind == 'udp':
    s.send(data); got = s.recv(65536)
else:
    import threading
    threading.Thread(target=lambda: (s.sendall(data), s.shutdown(1)), daemon=True).start()
    got = b''
    while part := s.recv(1 << 16): got += part
peer, _, rest = got.partition(b' ')
print(peer.decode(), rest == data)
"""


MANY = """
import socket, sys
kept, served = [], 0
for _ in range(int(sys.argv[1])):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); kept.append(s)
    s.settimeout(20); s.connect(("127.0.0.1", 8080)); s.send(b"x")
    served += s.recv(100).endswith(b" x")
print(served)
"""

#: five connections that are served, and one more that waits
CROWD = """
import socket, sys
kept = []
for i in range(6):
    s = socket.create_connection(("127.0.0.1", 8080), 5); kept.append(s)
    if i < 5: s.recv(100)
print("crowd", flush=True)
sys.stdin.read()
for s in kept[:5]: s.close()
print(kept[5].recv(100).decode(), flush=True)
"""


@contextlib.contextmanager
def serving(world: World, *publish: str, mode: str = "user") -> Iterator[subprocess.Popen[str]]:
    net = f"publish = [{', '.join(map(repr, publish))}]"
    process = started(world, command(world, "--", PYTHON, "-c", SERVER, net=net, mode=mode))
    assert process.stdin and process.stdout
    assert process.stdout.readline() == "up\n"
    try:
        yield process
    finally:
        process.stdin.close()
        process.stdout.close()
        assert process.wait(60) == 0


def ask(world: World, kind: str, host: str, port: int, size: int = 5, *, beyond: bool = False) -> str:
    """ "PEER SAME": whom the server saw, and whether what it sent back is what was sent."""
    words = [sys.executable, "-c", ASK, kind, host, str(port), str(size)]
    if beyond:
        return world.beyond(*words).strip().splitlines()[-1]
    done = world.run(*words)
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


class TestPublish:
    @pytest.mark.parametrize("kind", ["tcp", "udp"])
    def test_clients_have_their_own_addresses(self, world: World, helper: Path, kind: str) -> None:
        with serving(world, f"{HOST}:8080:80/{kind}", f"[{HOST6}]:8080:80/{kind}"):
            assert ask(world, kind, HOST, 8080, beyond=True) == f"{NEXT} True"
            assert ask(world, kind, HOST6, 8080, beyond=True) == f"{NEXT6} True"
            assert ask(world, kind, HOST, 8080) == f"{HOST} True"

    def test_nothing_but_a_loopback_is_enough(self, world: World, helper: Path) -> None:
        """Clients have their own addresses there, too, though nothing leads to them."""
        if world.backend != "slirp4netns":  # type: ignore[attr-defined]
            pytest.skip("there is no backend")
        publish = [f"{where}:8080:80/{kind}" for where in (HOST, f"[{HOST6}]") for kind in ("tcp", "udp")]
        with serving(world, *publish, mode="none"):
            for kind in ("tcp", "udp"):
                assert ask(world, kind, HOST, 8080, beyond=True) == f"{NEXT} True"
                assert ask(world, kind, HOST6, 8080, beyond=True) == f"{NEXT6} True"

    def test_clients_of_a_link(self, world: World, helper: Path) -> None:
        """Their addresses say nothing without the link, which is not inside."""
        with serving(world, "[::]:8080:80", "[::]:8080:80/udp"):
            link = _link_local(world)
            for kind in ("tcp", "udp"):
                assert ask(world, kind, f"{link}%up0", 8080, beyond=True) == "fd00::2 True"

    def test_loopback_unless_an_address_is_given(self, world: World, helper: Path) -> None:
        """And who comes over the host's loopback is the gateway: servers trust their own."""
        with serving(world, "8080:80", "[::1]:8080:80"):
            assert ask(world, "tcp", "127.0.0.1", 8080) == "10.0.2.2 True"
            assert ask(world, "tcp", "::1", 8080) == "fd00::2 True"
            assert "refused" in ask(world, "tcp", HOST, 8080, beyond=True)

    def test_much(self, world: World, helper: Path) -> None:
        with serving(world, "8080:80"):
            assert ask(world, "tcp", "127.0.0.1", 8080, 30_000_000) == "10.0.2.2 True"

    def test_ranges(self, world: World, helper: Path) -> None:
        with serving(world, "8079-8080:79-80"):
            assert ask(world, "tcp", "127.0.0.1", 8080) == "10.0.2.2 True"
            # Nobody listens inside: an error to whoever comes first, be it the thread that sends.
            assert not ask(world, "tcp", "127.0.0.1", 8079).endswith("True")

    def test_a_port_in_use_is_an_error_before_the_command(self, world: World, helper: Path) -> None:
        with serving(world, "8080:80"):
            ran: Ran = run(world, "echo", "ran", net='publish = ["8080:80"]')
        assert ran.status == 125 and ran.stdout == ""
        assert "cannot publish 127.0.0.1:8080:80/tcp: Address already in use" in ran.stderr
        assert "ss -ltunp" in ran.stderr

    def test_the_port_is_free_again(self, world: World, helper: Path) -> None:
        for _ in range(2):
            with serving(world, "8080:80"):
                assert ask(world, "tcp", "127.0.0.1", 8080) == "10.0.2.2 True"

    def test_twice_is_an_error(self, world: World, helper: Path) -> None:
        ran = run(world, "echo", "ran", net='publish = ["8080:80", "8080:81"]')
        assert ran.status == 125 and "twice" in ran.stderr

    def test_more_than_can_be_is_an_error_at_once(self, world: World, helper: Path) -> None:
        ran = run(world, "echo", "ran", net='publish = ["1025-65535:1025-65535"]')
        assert ran.status == 125 and "at most 128" in ran.stderr

    def test_more_clients_over_udp_than_are_kept(self, world: World, helper: Path) -> None:
        """Each has a port of its own, as questions to a name server do; the last ones are served."""
        with serving(world, "8080:80/udp"):
            many = world.run(sys.executable, "-c", MANY, "300")
            assert many.stdout == "300\n", many.stderr

    def test_without_descriptors_it_waits(self, world: World, helper: Path) -> None:
        """Who connects then is served when others have gone; nothing spins until then."""
        with serving(world, "8080:80"):
            (forwarder,) = [pid for pid in _running("sandbox-helper") if _forwards(pid)]
            room = 7 + 5 * 6  # what it has anyway, and five connections
            resource.prlimit(forwarder, resource.RLIMIT_NOFILE, (room, room))
            crowd = subprocess.Popen(
                world.inside(sys.executable, "-c", CROWD),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            assert crowd.stdin and crowd.stdout
            assert crowd.stdout.readline() == "crowd\n"
            before = _time_used(forwarder)
            time.sleep(1)
            used = _time_used(forwarder) - before
            assert crowd.communicate(timeout=60)[0] == "10.0.2.2 \n"
            assert used < 0.1  # of a second
            assert ask(world, "tcp", "127.0.0.1", 8080) == "10.0.2.2 True"

    def test_nobody_looks_into_the_forwarder(self, world: World, helper: Path) -> None:
        """Backends are of the same user, and must not have the files it sees."""
        with serving(world, "8080:80"):
            (forwarder,) = [pid for pid in _running("sandbox-helper") if _forwards(pid)]
            for each in ("root/", "fd/0", "ns/mnt"):
                done = world.run("stat", "-L", f"/proc/{forwarder}/{each}")
                assert "Permission denied" in done.stderr, done

    def test_a_forwarder_that_is_lost_is_told(self, world: World, helper: Path) -> None:
        net = 'publish = ["8080:80"]'
        process = started(
            world,
            command(world, "--", "sh", "-c", "echo up; read word; echo $word", net=net),
            stderr=subprocess.PIPE,
        )
        assert process.stdin and process.stdout and process.stderr
        assert process.stdout.readline() == "up\n"
        victims = [pid for pid in _running("sandbox-helper") if _forwards(pid)]
        assert len(victims) == 1
        os.kill(victims[0], signal.SIGKILL)
        assert process.stderr.readline().startswith("sandbox: forwarder, which the network needs, was lost")
        assert process.communicate("down\n", timeout=60)[0] == "down\n"


def _link_local(world: World) -> str:
    """The host's address of the link to beyond, once both ends have one: the kernel takes a second or two."""
    words = ("ip", "-6", "-o", "address", "show", "scope", "link", "-tentative", "dev")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        ours, theirs = world.root(*words, "eth0"), world.beyond(*words, "up0")
        if "inet6" in ours and "inet6" in theirs:
            return ours.split("inet6 ")[1].split("/")[0]
        time.sleep(0.05)
    raise AssertionError(f"no addresses: {ours} {theirs}")


def _time_used(pid: int) -> float:
    """Of a processor, seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _forwards(pid: int) -> bool:
    """Whether it is a forwarder: a helper's child that is not the first process of a pid namespace, as init
    and guards are (NSpid of proc_pid_status(5)). What it has open nobody can look at."""
    with contextlib.suppress(OSError):
        numbers = re.search(r"^NSpid:(.*)$", Path(f"/proc/{pid}/status").read_text(), re.M)
        return numbers is not None and len(numbers[1].split()) == 1 and _named(_parent(pid), "sandbox-helper")
    return False
