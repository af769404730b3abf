"""Published ports of sandboxes with nothing but their loopback, from the beginning and while they run."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import sandbox
from sandbox.errors import ProfileError, SetupError
from sandbox.launch.fake import Fake
from sandbox.ports import Published
from tests.net.test_publish import _forwards

pytestmark = [pytest.mark.integration, pytest.mark.as_root]

PYTHON = "/usr/bin/python3"
#: at ADDRESS and port 80, over TCP and UDP: says who asks
SERVER = """
import selectors, socket, sys
waiting = selectors.DefaultSelector()
for address in sys.argv[1:]:
    for kind in (1, 2):
        s = socket.socket(10 if ':' in address else 2, kind); s.setsockopt(1, 2, 1)
        if ':' in address: s.setsockopt(41, 26, 1)
        s.bind((address, 80))
        if kind == 1: s.listen(64)
        waiting.register(s, 1, kind)
print('up', flush=True)
while True:
    for key, _ in waiting.select():
        if key.data == 1:
            c, peer = key.fileobj.accept(); c.sendall(peer[0].encode()); c.close()
        else:
            peer = key.fileobj.recvfrom(100)[1]; key.fileobj.sendto(peer[0].encode(), peer)
"""
LOCAL = ("127.0.0.1", "::1")
BOTH = ("tcp", "udp")


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[sandbox.Sandbox]:
    directory = tmp_path / "work"
    directory.mkdir()
    monkeypatch.chdir(directory)
    with sandbox.Sandbox("untrusted") as made:
        yield made


def serve(box: sandbox.Sandbox, *addresses: str) -> sandbox.Process:
    process = box.popen([PYTHON, "-c", SERVER, *addresses], stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "up\n"
    process.stdout.close()
    return process


def ask(port: Published) -> str:
    """Whom the server saw; or "" where there is none any more."""
    family = socket.AF_INET6 if ":" in port.address else socket.AF_INET
    kind = socket.SOCK_DGRAM if port.protocol == "udp" else socket.SOCK_STREAM
    with socket.socket(family, kind) as client:
        client.settimeout(20)
        try:
            client.connect((port.address, port.port))
            if port.protocol == "udp":
                client.send(b"?")
            return client.recv(100).decode()
        except (ConnectionRefusedError, ConnectionResetError):
            return ""


class TestFromTheBeginning:
    @pytest.mark.parametrize("addresses", [LOCAL, ("0.0.0.0", "::")])
    def test_nothing_but_the_loopback_is_enough(self, tmp_path: Path, addresses: tuple[str, str]) -> None:
        """And nobody who comes over the host's is told from it inside."""
        wanted = [f"{where}0:80/{kind}" for where in ("", "[::1]:") for kind in BOTH]
        with sandbox.Sandbox("untrusted", cwd="/usr", overrides={"net.publish": wanted}) as box:
            assert box.addresses == LOCAL
            assert [(each.protocol, each.address, each.inner) for each in box.ports] == [
                (kind, where, 80) for where in LOCAL for kind in BOTH
            ]
            serve(box, *addresses)
            assert [ask(port) for port in box.ports] == ["10.0.2.2"] * 2 + ["fd00::2"] * 2
            assert box.run(["true"]).usage.net_accepted == 4

    def test_there_is_still_no_way_out(self) -> None:
        code = "import errno, socket; print(errno.errorcode[socket.socket().connect_ex(('192.0.2.1', 9))])"
        overrides = {"net.publish": ["0:80"]}
        done = sandbox.run(
            [PYTHON, "-c", code], profile="untrusted", overrides=overrides, text=True, cwd="/usr"
        )
        assert (done.stdout, done.stderr) == ("ENETUNREACH\n", "")

    def test_the_chosen_port_is_said(
        self, sandbox_cmd: Callable[..., subprocess.CompletedProcess[str]]
    ) -> None:
        done = sandbox_cmd("run", "-p", "untrusted", "--publish", "0:80", "--", "true", cwd="/usr")
        assert done.returncode == 0
        assert done.stderr.startswith("sandbox: publish 127.0.0.1:0:80/tcp: it is port ")
        assert int(done.stderr.split()[-1]) > 0
        quiet = sandbox_cmd("run", "-q", "-p", "untrusted", "--publish", "0:80", "--", "true", cwd="/usr")
        assert (quiet.returncode, quiet.stderr) == (0, "")

    def test_what_is_not_counted_is_not_told(self) -> None:
        usage = sandbox.run(["true"], profile="untrusted", cwd="/usr").usage
        counts = (usage.net_connections, usage.net_refused, usage.net_accepted, usage.net_received)
        assert counts == (None, None, None, None)


class TestWhileItRuns:
    def test_come_and_go(self, box: sandbox.Sandbox) -> None:
        serve(box, *LOCAL)
        assert box.ports == ()
        (four,) = box.publish("0:80")
        (six,) = box.publish("[::1]:0:80/udp")
        assert box.ports == (four, six) and four.port and six.port
        assert (ask(four), ask(six)) == ("10.0.2.2", "fd00::2")
        box.unpublish(str(four))
        assert box.ports == (six,)
        assert (ask(four), ask(six)) == ("", "fd00::2")
        assert box.publish(str(four)) == (four,)
        assert ask(four) == "10.0.2.2"

    def test_what_is_connected_goes_on(self, box: sandbox.Sandbox) -> None:
        code = "import socket; s = socket.create_server(('', 80)); print('up', flush=True)\n"
        code += "c = s.accept()[0]; c.sendall(c.recv(10))"
        server = box.popen([PYTHON, "-c", code], stdout=subprocess.PIPE, text=True)
        assert server.stdout and server.stdout.readline() == "up\n"
        server.stdout.close()
        (port,) = box.publish("0:80")
        with socket.create_connection((port.address, port.port), 20) as client:
            box.unpublish(str(port))
            client.sendall(b"still")
            assert client.recv(10) == b"still"
        assert server.wait(60) == 0

    def test_a_port_in_use_is_an_error(self, box: sandbox.Sandbox) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            number = taken.getsockname()[1]
            with pytest.raises(SetupError, match="in use") as caught:
                box.publish(f"{number}:80")
        assert caught.value.errno == errno.EADDRINUSE and "ss -ltunp" in (caught.value.mend or "")
        assert box.ports == ()
        assert len(box.publish(f"{number}:80")) == 1  # nothing was half-made
        with pytest.raises(SetupError, match="in use"):
            box.publish(f"{number}:81")
        assert len(box.ports) == 1

    def test_of_a_range_all_or_none(self, box: sandbox.Sandbox) -> None:
        for _ in range(20):
            with socket.create_server(("127.0.0.1", 0)) as taken:
                last = taken.getsockname()[1]
                try:
                    socket.create_server(("127.0.0.1", last - 1)).close()
                except OSError:
                    continue  # somebody else's: another range
                with pytest.raises(SetupError, match="in use"):
                    box.publish(f"{last - 1}-{last}:79-80")
                assert box.ports == ()
                socket.create_server(("127.0.0.1", last - 1)).close()
                return
        pytest.fail("no two free ports in a row")

    def test_what_is_not_published_is_an_error(self, box: sandbox.Sandbox) -> None:
        (port,) = box.publish("0:80")
        for spec in (f"{port.port}:81", f"{port.port}:80/udp", "1:80"):
            with pytest.raises(SetupError, match="not published"):
                box.unpublish(spec)
        assert box.ports == (port,) and box.run(["true"]).returncode == 0

    def test_what_is_no_port_is_an_error(self, box: sandbox.Sandbox) -> None:
        with pytest.raises(ProfileError, match="is not"):
            box.publish("80")
        with pytest.raises(SetupError, match="assign"):
            box.publish("192.0.2.77:0:80")

    def test_no_more_than_can_be(self, box: sandbox.Sandbox) -> None:
        for _ in range(128):
            box.publish("0:80")
        with pytest.raises(SetupError, match="unpublish"):
            box.publish("0:80")
        serve(box, "127.0.0.1")
        assert ask(box.ports[-1]) == "10.0.2.2"

    def test_the_host_has_its_own(self) -> None:
        with sandbox.Sandbox("default", cwd="/usr", net="host") as box:
            assert box.addresses == ()
            with pytest.raises(ProfileError, match="the host's own"):
                box.publish("0:80")

    def test_an_end_is_told(self, box: sandbox.Sandbox) -> None:
        (port,) = box.publish("0:80")
        box.close()
        assert ask(port) == ""
        with pytest.raises(SetupError):
            box.publish("0:80")

    def test_a_forwarder_that_is_lost_is_made_again(self, box: sandbox.Sandbox) -> None:
        serve(box, "127.0.0.1")
        (port,) = box.publish("0:80")
        os.kill(_forwarder(box), signal.SIGKILL)
        while ask(port):
            pass
        (again,) = box.publish(str(port))
        assert ask(again) == "10.0.2.2"


def _forwarder(box: sandbox.Sandbox) -> int:
    supervisor = box._channel.helper.pid
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    (found,) = [int(pid) for pid in children if _forwards(int(pid))]
    return found


def test_the_fake_lists_them() -> None:
    with sandbox.Sandbox("untrusted", cwd="/usr", backend=Fake()) as box:
        assert box.publish("8080-8081:80-81") == (
            Published("tcp", "127.0.0.1", 8080, 80),
            Published("tcp", "127.0.0.1", 8081, 81),
        )
        with pytest.raises(SetupError):
            box.publish("8081:81")
        box.unpublish("8080:80")
        assert [each.port for each in box.ports] == [8081]
