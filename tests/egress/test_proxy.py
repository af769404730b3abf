"""The mode `proxy`: no way out but a proxy that is in the caller's network."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sandbox.net import egress
from sandbox.profile.model import Net
from sandbox.wire import Kind
from tests.egress.lab import NAMES, PRELUDE, PYTHON, ROOT, certificate, program

pytestmark = pytest.mark.integration

CLIENT = """
PROXY = ("127.0.0.1", 61080)
def connect(target, proxy=PROXY):
    sock = socket.create_connection(proxy)
    sock.sendall(f"CONNECT {target} HTTP/1.1\\r\\nHost: {target}\\r\\n\\r\\n".encode())
    head = b""
    while not head.endswith(b"\\r\\n\\r\\n"):
        part = sock.recv(1)
        if not part: break
        head += part
    return int(head.split()[1]), sock
def socks(kind, address, port):
    sock = socket.create_connection(PROXY)
    sock.sendall(b"\\5\\1\\0")
    assert sock.recv(2) == b"\\5\\0"
    if kind == 3: address = bytes([len(address)]) + address
    sock.sendall(bytes([5, 1, 0, kind]) + address + port.to_bytes(2, "big"))
    return sock.recv(10)[1], sock
def code(found): return found[0]
def said(found): return found[1].recv(100).decode().strip()
def via(found, name, host=None):
    context = ssl.create_default_context(); context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    wrapped = context.wrap_socket(found[1], server_hostname=name)
    wrapped.sendall(f"GET / HTTP/1.1\\r\\nHost: {host or name}\\r\\nConnection: close\\r\\n\\r\\n".encode())
    return read(wrapped).partition("\\r\\n\\r\\n")[2]
def get(url, host=None, extra=""):
    with socket.create_connection(PROXY) as sock:
        sock.sendall(f"GET {url} HTTP/1.1\\r\\nHost: {host or url.split('/')[2]}\\r\\n{extra}\\r\\n".encode())
        return read(sock)
"""


class World:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log: list[dict[str, Any]] = []
        self.denied: list[str] = []

    def __call__(
        self, calls: list[str], allow: tuple[str, ...] | None, deny: tuple[str, ...] = (), names: Any = NAMES
    ) -> list[Any]:
        """What each of *calls*, of Python inside, gave."""
        log = self.directory / "log"
        log.write_text("")
        settings = {"names": dict(names), "log": str(log), "cert": certificate(self.directory)}
        net = Net("proxy", allow=allow, deny=deny)
        records = list(egress.proxy(net, ("10.0.2.3",), program()))
        service = [str(each) for each in records[0].fields[4 + len(program().views) :]]
        assert records[1].kind == Kind.SOCKET
        code = "".join(f"print(repr(outcome(lambda: {call})))\n" for call in calls)
        world = {
            "uplink": [
                PYTHON,
                str(ROOT / "tests/egress/uplink.py"),
                "{netns}",
                json.dumps(settings),
                "{ready}",
            ],
            "service": service,
            "client": [PYTHON, "-I", "-c", PRELUDE + CLIENT + code],
            "port": egress.PROXY_PORT,
        }
        command = ["unshare", "-rn", PYTHON, str(ROOT / "tests/egress/proxied.py"), json.dumps(world)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["status"] == 0, done.stderr
        assert "defect" not in found["said"], done.stderr
        self.log = [json.loads(line) for line in log.read_text().splitlines()]
        self.denied = found["said"].splitlines()
        return [eval(line) for line in found["output"].splitlines()]

    @property
    def connections(self) -> set[str]:
        return {each["connection"] for each in self.log if "connection" in each}


@pytest.fixture
def world(tmp_path, need):
    need("userns", "openssl")
    return World(tmp_path)


def test_connect(world: World) -> None:
    assert world(
        [
            "said(connect('good.example:8022'))",
            "code(connect('bad.example:8022'))",
            "code(connect('203.0.113.1:8022'))",
            "via(connect('good.example:443'), 'good.example')",
            "via(connect('good.example:443'), 'bad.example')",
            "via(connect('good.example:443'), 'other.example')",
            "via(connect('good.example:443'), None)",
            "via(connect('203.0.113.1:443'), 'good.example')",
            "via(connect('203.0.113.1:443'), 'bad.example')",
            "code(connect('127.1:8022'))",
            "code(connect('good.example'))",
            "code(connect('good.example:0'))",
            "hello('198.51.100.1')",
            "resolve('good.example')",
        ],
        ("good.example", "other.example:443"),
    ) == [
        "hello from 198.51.100.1",
        403,
        403,
        "198.51.100.1 good.example 0",
        "TLSV1_ALERT_ACCESS_DENIED",
        "TLSV1_ALERT_ACCESS_DENIED",
        "TLSV1_ALERT_ACCESS_DENIED",
        "198.51.100.1 good.example 0",
        "TLSV1_ALERT_ACCESS_DENIED",
        403,
        400,
        400,
        "ENETUNREACH",
        "unknown",
    ]
    assert world.connections == {"198.51.100.1"}
    assert {
        "denied bad.example 8022 tcp",
        "denied 203.0.113.1 8022 tcp",
        "denied bad.example 443 tcp",
    } <= set(world.denied)


@pytest.mark.parametrize("allow", [None, ("*", "0.0.0.0/0", "::/0")])
def test_private_addresses_are_closed_to_everything(world: World, allow: tuple[str, ...] | None) -> None:
    """Among them the host's: 10.0.2.100, where it listens as at its loopback."""
    targets = [
        "127.0.0.1:80",
        "10.0.2.100:8022",
        "192.168.7.7:8022",
        "169.254.169.254:80",
        "[::1]:80",
        "0.0.0.0:80",
        "[::ffff:127.0.0.1]:80",
        "[fd00:7::7]:8022",
    ]
    names = {
        f"n{number}.example": [target.rpartition(":")[0].strip("[]")] for number, target in enumerate(targets)
    }
    calls = [f"code(connect({target!r}))" for target in targets if not target.endswith(":80")]
    calls += [f"code(connect('n{number}.example:8022'))" for number in range(len(targets))]
    calls += [f"get('http://{target}/')[:12]" for target in targets if target.endswith(":80")]
    calls += ["said(connect('203.0.113.1:8022'))"]
    *found, last = world(calls, allow, ("nothing.example",), names)
    assert last == "hello from 203.0.113.1"
    assert set(found) == {403, "HTTP/1.1 403"}
    assert world.connections == {"203.0.113.1"}


def test_http(world: World) -> None:
    found = world(
        [
            "get('http://good.example/x').rpartition('\\n')[2]",
            "get('http://bad.example/x').splitlines()[0]",
            "get('http://good.example/x', 'bad.example').splitlines()[0]",
            "get('/x', 'good.example').splitlines()[0]",
            "get('http://good.example:8080/').splitlines()[0]",
            "get('http://192.168.7.7/').splitlines()[0]",
            "get('https://good.example/').splitlines()[0]",
        ],
        ("good.example",),
    )
    assert found == [
        "198.51.100.1 good.example 0",
        "HTTP/1.1 403 Forbidden",
        "HTTP/1.1 400 Bad Request",
        "HTTP/1.1 400 Bad Request",
        "HTTP/1.1 502 Bad Gateway",
        "HTTP/1.1 403 Forbidden",
        "HTTP/1.1 400 Bad Request",
    ]


def test_socks(world: World) -> None:
    found = world(
        [
            "said(socks(3, b'good.example', 8022))",
            "code(socks(3, b'bad.example', 8022))",
            "said(socks(1, bytes([198, 51, 100, 2]), 8022))",
            "code(socks(1, bytes([203, 0, 113, 1]), 8022))",
            "said(socks(4, socket.inet_pton(10, '2001:db8:1::2'), 8022))",
            "code(socks(4, socket.inet_pton(10, '::ffff:127.0.0.1'), 8022))",
            "code(socks(3, b'127.0.0.1', 8022))",
            "code(socks(3, b'localhost', 8022))",
            "code(socks(3, b'\\xff\\x00', 8022))",
            "code(socks(9, b'', 8022))",
            "code(socks(3, b'good.example', 8023))",
            "via(socks(3, b'good.example', 443), 'good.example')",
            "via(socks(1, bytes([203, 0, 113, 1]), 443), 'bad.example')",
        ],
        ("good.example", "198.51.100.2", "2001:db8:1::2", "127.0.0.0/8"),
    )
    assert found == [
        "hello from 198.51.100.1",
        2,
        "hello from 198.51.100.2",
        2,
        "hello from 2001:db8:1::2",
        2,
        2,
        2,
        2,
        8,
        5,
        "198.51.100.1 good.example 0",
        "TLSV1_ALERT_ACCESS_DENIED",
    ]


def test_nothing_allowed_is_nothing(world: World) -> None:
    assert world(["code(connect('good.example:8022'))", "code(socks(3, b'good.example', 1))"], ()) == [403, 2]
    assert world.log == []


def test_names_below_a_star_are_not_endless(world: World) -> None:
    """Each is a question to whoever serves them."""
    call = "[code(connect(f'n{each}.wild.example:8022')) for each in range(1030)]"
    names = {"*.wild.example": ["127.0.0.1"]}
    (codes,) = world([call], ("*.wild.example:8022",), names=names)
    asked = {each["dns"] for each in world.log if "dns" in each}
    assert codes == [403] * 1030 and len(asked) == 1024
