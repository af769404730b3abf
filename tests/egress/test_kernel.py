"""The policy as a payload meets it, root inside with all capabilities: by name, by address, by all it tries."""

# ruff: noqa: E501  (programs in one line)

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest

from sandbox.wire import Kind
from tests.egress.lab import NAMES, Lab
from tests.helper import runs
from tests.helper.runs import slot

pytestmark = pytest.mark.integration

GOOD = ["198.51.100.1", "2001:db8:1::1"]


@pytest.fixture
def lab(helper, tmp_path, need):
    need("nft", "userns", "openssl")
    tmp_path.chmod(0o755)
    return Lab(helper, tmp_path)


def lines(lab: Lab, *calls: str) -> list[str]:
    """What each of *calls*, of Python inside, gave."""
    seen = lab.run("".join(f"print(repr(outcome(lambda: {call})))\n" for call in calls))
    assert ("?", 0, "defect") not in seen.denied, seen.ended
    lab.seen = seen  # type: ignore[attr-defined]
    return [eval(line) for line in seen.output.splitlines()]


class TestNames:
    def test_an_allowed_one_is_reached_and_no_other(self, lab: Lab) -> None:
        lab = lab.but(allow=("good.example",))
        found = lines(
            lab,
            "resolve('good.example')",
            "hello('good.example')",
            "http('good.example').splitlines()[0]",
            "tls('good.example')",
            "resolve('bad.example')",
            "hello('203.0.113.1')",
            "tls('bad.example', '203.0.113.1')",
            "http('bad.example', '/', '203.0.113.1').splitlines()[0]",
        )
        assert found[0] == GOOD and found[1] == "hello from 2001:db8:1::1"
        assert found[2] == "HTTP/1.1 200 OK"
        assert found[3] == "2001:db8:1::1 good.example 0"
        assert found[4:] == [
            "unknown",
            "EHOSTUNREACH",
            "TLSV1_ALERT_ACCESS_DENIED",
            "HTTP/1.1 403 Forbidden",
        ]
        seen = lab.seen  # type: ignore[attr-defined]
        assert set(seen.asked) == {"good.example"}
        assert {where for where, _ in seen.connections} <= set(GOOD)
        assert set(seen.denied) == {
            ("bad.example", 0, "dns"),
            ("203.0.113.1", 8022, "tcp"),
            ("bad.example", 443, "tcp"),
            ("bad.example", 80, "tcp"),
        }

    def test_nothing_allows_nothing(self, lab: Lab) -> None:
        lab = lab.but(allow=())
        assert lines(
            lab, "resolve('good.example')", "hello('198.51.100.1')", "tls('good.example', '198.51.100.1')"
        ) == [
            "unknown",
            "EHOSTUNREACH",
            "TLSV1_ALERT_ACCESS_DENIED",
        ]
        assert lab.seen.log == []  # type: ignore[attr-defined]

    def test_a_hard_coded_address_needs_no_name_to_be_refused(self, lab: Lab) -> None:
        """Before anybody asks for the name its address is as closed as any."""
        lab = lab.but(allow=("good.example:8022",))
        calls = (
            "hello('198.51.100.1')",
            "hello('2001:db8:1::1')",
            "resolve('good.example')",
            "hello('198.51.100.1')",
        )
        found = lines(lab, *calls)
        assert found[0] == "EHOSTUNREACH" and found[1] == "EACCES"
        assert found[2] == GOOD and found[3] == "hello from 198.51.100.1"

    def test_ports(self, lab: Lab) -> None:
        lab = lab.but(allow=("good.example:443", "other.example:8022"))
        assert lines(
            lab,
            "tls('good.example')",
            "http('good.example').splitlines()[0]",
            "hello('good.example')",
            "hello('other.example')",
            "tls('other.example')",
        ) == [
            "2001:db8:1::1 good.example 0",
            "HTTP/1.1 403 Forbidden",
            "EHOSTUNREACH",
            "hello from 2001:db8:1::2",
            "TLSV1_ALERT_ACCESS_DENIED",
        ]
        assert ("good.example", 8022, "tcp") in lab.seen.denied  # type: ignore[attr-defined]

    def test_below(self, lab: Lab) -> None:
        lab = lab.but(allow=("*.wild.example",), names={**NAMES, "wild.example": ["198.51.100.1"]})
        assert lines(
            lab, "resolve('a.wild.example')", "resolve('wild.example')", "resolve('xwild.example')"
        ) == [
            ["198.51.100.1"],
            "unknown",
            "unknown",
        ]

    def test_deny_wins(self, lab: Lab) -> None:
        names = {"x.example": ["198.51.100.1"], "y.example": ["198.51.100.2"], "z.example": ["203.0.113.1"]}
        lab = lab.but(allow=("*.example",), deny=("y.example", "z.example:8022", "198.51.100.2"), names=names)
        assert lines(
            lab,
            "hello('x.example')",
            "resolve('y.example')",
            "hello('z.example')",
            "tls('z.example')",
            "tls('y.example', 'z.example')",
        ) == [
            "hello from 198.51.100.1",
            "unknown",
            "EHOSTUNREACH",
            "203.0.113.1 z.example 0",
            "TLSV1_ALERT_ACCESS_DENIED",
        ]

    def test_only_deny(self, lab: Lab) -> None:
        lab = lab.but(allow=None, deny=("bad.example", "198.51.100.2"))
        assert lines(
            lab,
            "hello('good.example')",
            "hello('203.0.113.1')",
            "resolve('bad.example')",
            "tls('bad.example', '203.0.113.1')",
            "tls('unheard.example', '198.51.100.1')",
            "hello('198.51.100.2')",
            "http('198.51.100.1').splitlines()[0]",
            "http('127.0.0.1', '/', '198.51.100.1').splitlines()[0]",
        ) == [
            "hello from 2001:db8:1::1",
            "hello from 203.0.113.1",
            "unknown",
            "TLSV1_ALERT_ACCESS_DENIED",
            "TLSV1_ALERT_ACCESS_DENIED",
            "EHOSTUNREACH",
            "HTTP/1.1 200 OK",
            "HTTP/1.1 403 Forbidden",
        ]


class TestAddresses:
    def test_networks(self, lab: Lab) -> None:
        lab = lab.but(allow=("198.51.100.0/24:8022", "192.168.7.0/24", "[2001:db8:1::2]:443"))
        assert lines(
            lab,
            "hello('198.51.100.2')",
            "http('198.51.100.1').splitlines()[0]",
            "hello('192.168.7.7')",
            "http('192.168.7.7').splitlines()[0]",
            "tls('whatever.example', '2001:db8:1::2')",
            "hello('2001:db8:1::2')",
            "hello('10.0.2.2')",
        ) == [
            "hello from 198.51.100.2",
            "HTTP/1.1 403 Forbidden",
            "hello from 192.168.7.7",
            "HTTP/1.1 200 OK",
            "2001:db8:1::2 whatever.example 0",
            "EACCES",
            "EHOSTUNREACH",
        ]

    def test_everywhere_is_not_the_private_networks(self, lab: Lab) -> None:
        lab = lab.but(allow=("0.0.0.0/0", "::/0", "*"), names={"in.example": ["192.168.7.7"]})
        calls = (
            "hello('203.0.113.1')",
            "hello('192.168.7.7')",
            "hello('169.254.169.254')",
            "hello('fd00:7::7')",
        )
        assert lines(lab, *calls, "resolve('in.example')") == [
            "hello from 203.0.113.1",
            "EHOSTUNREACH",
            "EHOSTUNREACH",
            "EACCES",
            "unknown",
        ]
        assert ("in.example", 0, "rebinding") in lab.seen.denied  # type: ignore[attr-defined]

    def test_private_networks_can_be_opened(self, lab: Lab) -> None:
        lab = lab.but(allow=("in.example",), private=True, names={"in.example": ["192.168.7.7"]})
        assert lines(lab, "hello('in.example')", "tls('in.example')") == [
            "hello from 192.168.7.7",
            "192.168.7.7 in.example 0",
        ]


class TestDns:
    @pytest.mark.parametrize(
        "address",
        [
            "127.0.0.1",
            "10.0.2.2",
            "192.168.7.7",
            "169.254.169.254",
            "0.0.0.0",
            "::1",
            "fd00:7::7",
            "::ffff:127.0.0.1",
            "fe80::1",
        ],
    )
    def test_rebinding(self, lab: Lab, address: str) -> None:
        lab = lab.but(
            allow=("evil.example",), names={"evil.example": [address, "198.51.100.1", "2001:db8:1::1"]}
        )
        assert lines(lab, "resolve('evil.example')", "http('evil.example').splitlines()[0]") == [
            GOOD,
            "HTTP/1.1 200 OK",
        ]
        assert ("evil.example", 0, "rebinding") in lab.seen.denied  # type: ignore[attr-defined]
        lab = lab.but(names={"evil.example": [address]})
        assert lines(lab, "resolve('evil.example')", "tls('evil.example', '198.51.100.1')") == [
            "unknown",
            "TLSV1_ALERT_ACCESS_DENIED",
        ]
        assert lab.seen.connections == []  # type: ignore[attr-defined]

    def test_aliases(self, lab: Lab) -> None:
        names = {
            "alias.example": {"cnames": ["cdn.example", "edge.cdn.example"], "addresses": ["198.51.100.1"]},
            "loop.example": {
                "cnames": ["loop.example"],
                "addresses": ["198.51.100.1"],
                "owner": "else.example",
            },
            "else.example": {"addresses": ["198.51.100.2"], "owner": "third.example"},
        }
        lab = lab.but(allow=("alias.example", "loop.example", "else.example"), names=names)
        assert lines(
            lab,
            "resolve('alias.example')",
            "hello('alias.example')",
            "resolve('edge.cdn.example')",
            "resolve('loop.example')",
            "resolve('else.example')",
        ) == [["198.51.100.1"], "hello from 198.51.100.1", "unknown", "unknown", "unknown"]

    def test_over_tcp(self, lab: Lab) -> None:
        ask = """
def ask(name):
    q = b"\\x12\\x34\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0" + b"".join(bytes([len(p)]) + p.encode() for p in name.split("."))
    q += b"\\0\\0\\1\\0\\1"
    with socket.create_connection(("127.0.0.53", 53)) as sock:
        sock.sendall(len(q).to_bytes(2, "big") + q)
        data = sock.recv(4096)
    return data[5] & 15, int.from_bytes(data[8:10], "big")
print(ask("good.example"), ask("bad.example"), hello("198.51.100.1"))
"""
        many = {"good.example": {"addresses": [*GOOD], "truncate": True}}
        seen = lab.but(allow=("good.example",), names=many).run(ask)
        assert seen.output.splitlines() == ["(0, 1) (5, 0) hello from 198.51.100.1"]
        assert [each["tcp"] for each in seen.log if "dns" in each] == [False, True]

    def test_nothing_gets_out_through_names(self, lab: Lab) -> None:
        """Neither through other names, nor other types, cases or classes; nor past us."""
        code = """
def send(name, kind=1, where="127.0.0.53", klass=1):
    q = b"\\x12\\x34\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0" + b"".join(bytes([len(p)]) + p for p in name.split(b"."))
    q += b"\\0" + struct.pack("!HH", kind, klass)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        try:
            sock.connect((where, 53))
            sock.send(q)
            data = sock.recv(4096)
            return data[3] & 15
        except OSError as error:
            return errno.errorcode.get(error.errno, "timeout")
print(send(b"secret.bad.example"), send(b"secret.good.example"), send(b"SeCrEt.GOOD.example"))
print(send(b"gOOd.eXAMPle"), send(b"good.example", 16), send(b"good.example", 255), send(b"good.example", 1, klass=3))
print(send(b"\\xff\\x00.example"), send(b"x" * 63 + b".good.example"))
print(send(b"secret.bad.example", where="10.0.2.3"), send(b"secret.bad.example", where="198.51.100.1"))
"""
        seen = lab.but(allow=("good.example",)).run(code)
        first, second, third, fourth = (line.split() for line in seen.output.splitlines())
        assert first == ["5", "5", "5"]
        assert second == ["0", "0", "0", "1"]
        assert third == ["5", "5"]
        assert "timeout" not in fourth
        assert [(each["dns"], each["kind"]) for each in seen.log if "dns" in each] == [("good.example", 1)]

    def test_resolvers_that_nobody_sees_into(self, lab: Lab) -> None:
        """DNS over TLS, QUIC and HTTPS, to a name server outside, by whatever name, and to the host's own."""
        lab = lab.but(allow=("good.example",))
        quic = "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('203.0.113.1', {}))"
        assert lines(
            lab,
            "hello('203.0.113.1', 853)",
            "hello('10.0.2.3', 853)",
            quic.format(853),
            quic.format(443),
            "tls('bad.example', '203.0.113.1')",
            "tls(None, '203.0.113.1')",
            "tls('good.example', '203.0.113.1')",
        ) == [
            "EHOSTUNREACH",
            "EHOSTUNREACH",
            "EPERM",
            "EPERM",
            "TLSV1_ALERT_ACCESS_DENIED",
            "TLSV1_ALERT_ACCESS_DENIED",
            "198.51.100.1 good.example 0",
        ]
        seen = lab.seen  # type: ignore[attr-defined]
        assert "203.0.113.1" not in [where for where, _ in seen.connections]
        assert set(seen.asked) == {"good.example"}
        assert {("203.0.113.1", 853, "tcp"), ("203.0.113.1", 853, "udp")} <= set(seen.denied)

    def test_forged_answers(self, lab: Lab) -> None:
        """Another id, another question, and bytes that are no message, all before the right answer."""
        question = "0474727565076578616d706c650000010001"  # true.example A
        evil = "c00c000100010000003c0004cb007101"  # 203.0.113.1
        forged = [
            "00",
            "ID",
            "ID8180",
            "ID81800001000100000000",
            "ID818000010001000000000474727565c0ff",
            f"ffff81800001000100000000{question}{evil}",
            f"ID81800001000100000000046576696c076578616d706c650000010001{evil}",
            f"ID81800001000100000000{question}c00c00010001",
            f"ID01000001000100000000{question}{evil}",
        ]
        names = {"true.example": {"addresses": ["198.51.100.1"], "raw": forged}}
        lab = lab.but(allow=("true.example",), names=names)
        assert lines(lab, "socket.gethostbyname('true.example')") == ["198.51.100.1"]

    def test_garbage_ends_nothing(self, lab: Lab) -> None:
        code = """
import random
random.seed(7)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.connect(("127.0.0.53", 53))
    for _ in range(300):
        sock.send(random.randbytes(random.randrange(0, 600)))
    for _ in range(300):
        head = bytearray(b"\\x12\\x34\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\4good\\7example\\0\\0\\1\\0\\1")
        head[random.randrange(len(head))] = random.randrange(256)
        sock.send(head)
for where in (("127.0.0.53", 53), ("127.0.0.1", 61080), ("198.51.100.1", 443), ("198.51.100.1", 80)):
    for _ in range(20):
        with socket.create_connection(where) as sock:
            outcome(sock.sendall, random.randbytes(random.randrange(1, 3000)))
import time
for _ in range(50):
    if outcome(resolve, "good.example") != "unknown":
        break
    time.sleep(0.1)  # there are more questions than we may ask
print(hello("good.example"))
"""
        seen = lab.but(allow=("good.example",)).run(code)
        assert seen.output.startswith("hello from")
        assert not [each for each in seen.denied if each[2] == "defect"]

    def test_names_below_a_star_are_not_endless(self, lab: Lab) -> None:
        code = """
import time
def code(name):
    q = b"\\x12\\x34\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0" + b"".join(bytes([len(p)]) + p.encode() for p in name.split("."))
    sock.sendall(len(q + b"\\0\\0\\1\\0\\1").to_bytes(2, "big") + q + b"\\0\\0\\1\\0\\1")
    return sock.recv(4096)[5] & 15
found, number = [], 0
while number < 1100:
    try:
        with socket.create_connection(("127.0.0.53", 53)) as sock:
            while number < 1100:
                found.append(code(f"n{number}.wild.example"))
                number += 1
    except (OSError, IndexError):
        time.sleep(0.1)
print(found.count(0), found.count(5))
"""
        seen = lab.but(allow=("*.wild.example",), names={"*.wild.example": ["198.51.100.1"]}).run(code)
        assert seen.output.split() == ["1024", "76"]
        assert len(set(seen.asked)) == 1024


class TestTls:
    def test_the_name_decides_not_the_address(self, lab: Lab) -> None:
        """A forged address leads to the name's own; a forged name nowhere."""
        lab = lab.but(allow=("good.example:443",))
        assert lines(
            lab,
            "tls('good.example', '203.0.113.1')",
            "tls('bad.example', '198.51.100.1')",
            "tls(None, '198.51.100.1', host='good.example')",
            "tls('GOOD.example', '203.0.113.1')",
        ) == [
            "198.51.100.1 good.example 0",
            "TLSV1_ALERT_ACCESS_DENIED",
            "TLSV1_ALERT_ACCESS_DENIED",
            "198.51.100.1 GOOD.example 0",
        ]
        assert ("198.51.100.1", 443, "tcp") in lab.seen.denied  # type: ignore[attr-defined]

    def test_what_is_no_tls_is_refused_unless_allowed(self, lab: Lab) -> None:
        code = "with_ = socket.create_connection(('198.51.100.1', 443)); with_.sendall(b'SSH-2.0-x\\r\\n')\n"
        ask = "print(outcome(lambda: resolve('good.example') and None)); "
        seen = lab.but(allow=("good.example:443",)).run(ask + code + "print(outcome(read, with_)[:8])")
        assert "198.51.100.1" not in [where for where, _ in seen.connections]
        seen = lab.but(allow=("good.example:443/tcp",)).run(ask + code)
        assert seen.connections == [("198.51.100.1", 443)]

    def test_quic_must_be_allowed_as_such(self, lab: Lab) -> None:
        code = """
resolve("good.example")
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.settimeout(5)
    def ask():
        sock.connect(("198.51.100.1", 443))
        sock.send(b"x")
        return sock.recv(10)
    print(outcome(ask))
"""
        assert lab.but(allow=("good.example",)).run(code).output != "b'x'\n"
        assert lab.but(allow=("good.example:443",)).run(code).output != "b'x'\n"
        assert lab.but(allow=("good.example:443/udp",)).run(code).output == "b'x'\n"

    def test_slowly(self, lab: Lab) -> None:
        """A hello in many pieces is one; one that never comes holds nobody up."""
        code = """
import time
stuck = [socket.create_connection(("198.51.100.1", 443)) for _ in range(50)]
for each in stuck:
    each.sendall(b"\\x16\\x03\\x01")
context = ssl.create_default_context(); context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
half = context.wrap_bio(incoming, outgoing, server_hostname="good.example")
outcome(half.do_handshake)
hello = outgoing.read()
with socket.create_connection(("203.0.113.1", 443)) as sock:
    for byte in hello:
        sock.sendall(bytes([byte]))
    print(sock.recv(3))
"""
        assert lab.but(allow=("good.example:443",)).run(code).output == "b'\\x16\\x03\\x03'\n"

    def test_too_much(self, lab: Lab) -> None:
        code = """
def flood(data):
    with socket.create_connection(("198.51.100.1", 443)) as sock:
        for _ in range(1000):
            sock.sendall(data)
        return sock.recv(10)
print(outcome(flood, b"\\x16\\x03\\x01\\x40\\x00\\x01\\xff\\xff\\xff" + b"x" * 16384))
print(outcome(flood, b"GET / HTTP/1.1\\r\\nHost: " + b"a" * 16384) in (b"HTTP/1.1 4", "ConnectionResetError", "BrokenPipeError"))
"""
        assert lab.but(allow=("good.example",)).run(code).output.splitlines()[1] == "True"


class TestHttp:
    def raw(self, lab: Lab, request: str, where: str = "198.51.100.1") -> tuple[str, list[str]]:
        code = f"with socket.create_connection(({where!r}, 80)) as sock:\n sock.sendall({request.encode()!r}); print(outcome(read, sock))"
        seen = lab.but(allow=("good.example",)).run(code)
        assert not [each for each in seen.denied if each[2] == "defect"]
        hosts = [each["fields"].get("host", "") for each in seen.requests]
        return seen.output, hosts

    @pytest.mark.parametrize(
        "request_",
        [
            "GET / HTTP/1.1\r\nHost: bad.example\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: good.example\r\nHost: bad.example\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : good.example\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: good.example\r\n bad.example\r\n\r\n",
            "GET http://bad.example/ HTTP/1.1\r\nHost: good.example\r\n\r\n",
            "GET http://good.example/ HTTP/1.1\r\nHost: bad.example\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.0\r\n\r\n",
            "GET /\r\n\r\n",
            "GET / HTTP/1.1\nHost: good.example\n\n\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: good.example:8080\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: good.example@bad.example\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: 203.0.113.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: 0xcb007101\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: [::ffff:203.0.113.1]\r\n\r\n",
            "CONNECT bad.example:80 HTTP/1.1\r\nHost: good.example\r\n\r\n",
            "CONNECT good.example:80 HTTP/1.1\r\nHost: good.example\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: good.example\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: good.example\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: good.example\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
            "POST / HTTP/1.1\r\nHost: good.example\r\nContent-Length: +1\r\n\r\nx",
        ],
    )
    def test_what_is_not_passed_on(self, lab: Lab, request_: str) -> None:
        output, hosts = self.raw(lab, request_)
        assert hosts == []
        assert output.startswith(("HTTP/1.1 403", "HTTP/1.1 400", "Connection"))

    @pytest.mark.parametrize(
        ("first", "length"),
        [
            ("GET / HTTP/1.1\r\nHost: good.example\r\n\r\n", 0),
            ("POST / HTTP/1.1\r\nHost: good.example\r\nContent-Length: 3\r\n\r\nabc", 3),
            (
                "POST / HTTP/1.1\r\nHost: good.example\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
                3,
            ),
            (
                "GET /refuse HTTP/1.1\r\nHost: good.example\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
                0,
            ),
        ],
    )
    def test_a_second_request_is_not_passed_on(self, lab: Lab, first: str, length: int) -> None:
        """Not even to a server that would answer it."""
        second = "GET /secret HTTP/1.1\r\nHost: bad.example\r\n\r\n"
        code = f"""
with socket.create_connection(("198.51.100.1", 80)) as sock:
    sock.sendall({(first + second).encode()!r})
    data = b""
    while not data.endswith(b" {length}"):
        data += sock.recv(4096)
    sock.shutdown(socket.SHUT_WR)
    print(data)
"""
        seen = lab.but(allow=("good.example",), careless=True).run(code)
        assert [(each["fields"]["host"], each["body"]) for each in seen.requests] == [
            ("good.example", length)
        ]
        assert f"198.51.100.1 good.example {length}" in seen.output

    def test_bodies_and_other_ways_to_say_it(self, lab: Lab) -> None:
        lab = lab.but(allow=("good.example",))
        seen = lab.run(
            """
def send(text, host="198.51.100.1"):
    with socket.create_connection((host, 80)) as sock:
        sock.sendall(text)
        return read(sock).rpartition("\\n")[2]
print(send(b"GET http://good.example/x?y=http://z HTTP/1.1\\r\\nHost: good.example:80\\r\\n\\r\\n"))
print(send(b"POST / HTTP/1.1\\r\\nHost: Good.Example.\\r\\nContent-Length: 1000000\\r\\n\\r\\n" + b"x" * 1000000))
print(send(b"POST / HTTP/1.1\\r\\nHost: good.example\\r\\ntransfer-encoding: chunked\\r\\n\\r\\n" + b"ffff\\r\\n" + b"x" * 65535 + b"\\r\\n0\\r\\n\\r\\n"))
with socket.create_connection(("203.0.113.1", 80)) as sock:
    sock.sendall(b"GET /chat HTTP/1.1\\r\\nHost: good.example\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n\\r\\n")
    data = sock.recv(4096)
    sock.sendall(b"shout")
    while not data.endswith(b"SHOUT"):
        data += sock.recv(100)
    print(data[:12])
"""
        )
        assert seen.output.splitlines() == [
            "198.51.100.1 good.example 0",
            "198.51.100.1 Good.Example. 1000000",
            "198.51.100.1 good.example 65535",
            "b'HTTP/1.1 101'",
        ]
        assert seen.requests[0]["request"] == "GET /x?y=http://z HTTP/1.1"


class TestPayload:
    def test_root_inside_changes_nothing(self, lab: Lab) -> None:
        """Neither the rules, nor marks, nor the service."""
        code = """
import subprocess
def mark():
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, 36, 0x5b0c)
def nft(*words):
    return subprocess.run(["/usr/sbin/nft", *words], capture_output=True).returncode != 0
print(os.getuid() in (0, int(open("/proc/self/status").read().split("Uid:")[1].split()[0])))
print(outcome(mark), nft("flush", "ruleset"), nft("list", "ruleset"), nft("add", "element", "inet", "sandbox", "any4", "{ 203.0.113.1 }"))
print(subprocess.run(["/usr/sbin/ip", "link", "set", "eth0", "down"], capture_output=True).returncode != 0)
print(outcome(socket.socket, socket.AF_PACKET, socket.SOCK_RAW), outcome(hello, "203.0.113.1"))
print([pid for pid in os.listdir("/proc") if pid.isdigit() and b"egress" in open(f"/proc/{pid}/cmdline", "rb").read() and int(pid) != os.getpid()])
"""
        seen = lab.but(allow=("good.example",)).run(code)
        assert seen.output.splitlines() == [
            "True",
            "EPERM True True True",
            "True",
            "EPERM EHOSTUNREACH",
            "[]",
        ]


def descendants(pid: int) -> list[int]:
    found, todo = [], [pid]
    while todo:
        parent = todo.pop()
        for task in os.listdir(f"/proc/{parent}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{parent}/task/{task}/children") as file:
                children = [int(each) for each in file.read().split()]
                found += children
                todo += children
    return found


def test_without_its_service_the_sandbox_ends(lab: Lab) -> None:
    """What would be let through by a DNS server that is gone, or somebody else at its place, nobody knows."""
    extra = [*lab.but(allow=("good.example",)).records(), slot(Kind.LOOPBACK)]
    process = runs.start(lab.helper, ["sh", "-c", "echo; exec sleep 1000"], *extra)
    assert process.stdout is not None and process.stdout.readline() == b"\n"
    services = []
    for pid in descendants(process.pid):
        with contextlib.suppress(OSError):
            if b"sandbox.egress.service" in Path(f"/proc/{pid}/cmdline").read_bytes():
                services.append(pid)
    assert len(services) == 1
    os.kill(services[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=runs.PATIENCE)
    assert process.returncode != 0
    assert b"sandbox-egress, which holds its network policy, was lost" in errors
