"""ClientHello: what a real client sends, in any pieces, and whatever else comes."""

from __future__ import annotations

import contextlib
import ssl
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.egress.hello import MAX_HELLO, Incomplete, NotTls, server_name


def real(name: str | None) -> bytes:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    outgoing = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def vector(width: int, data: bytes) -> bytes:
    return len(data).to_bytes(width, "big") + data


def made(*extensions: bytes, tail: bytes = b"") -> bytes:
    body = b"\3\3" + bytes(32) + vector(1, b"") + vector(2, b"\x13\1") + vector(1, b"\0")
    body += vector(2, b"".join(extensions)) + tail
    return record(b"\1" + vector(3, body))


def record(data: bytes, kind: int = 22) -> bytes:
    return bytes([kind, 3, 1]) + vector(2, data)


def sni(*names: bytes, kind: int = 0) -> bytes:
    return struct.pack("!H", 0) + vector(2, vector(2, b"".join(bytes([kind]) + vector(2, n) for n in names)))


@pytest.mark.parametrize("name", ["example.org", "a.b.c.example", "x" * 63 + ".org", None])
def test_what_openssl_sends(name: str | None) -> None:
    data = real(name)
    assert server_name(data) == (name or "")
    for size in range(len(data)):
        with pytest.raises(Incomplete):
            server_name(data[:size])


@given(st.integers(1, 200))
def test_records_of_any_size(size: int) -> None:
    message = made(sni(b"a.org"))[5:]
    pieces = [message[at : at + size] for at in range(0, len(message), size)]
    assert server_name(b"".join(map(record, pieces)) + b"more") == "a.org"


@given(st.binary(max_size=400))
def test_any_bytes(data: bytes) -> None:
    for text in (data, b"\x16\3\1" + data, record(b"\1" + vector(3, data)), made(data), made(sni(data))):
        with contextlib.suppress(Incomplete, NotTls):
            assert isinstance(server_name(text), str)


@given(st.data())
def test_one_byte_that_is_wrong(data: st.DataObject) -> None:
    hello = bytearray(made(sni(b"a.org"), struct.pack("!HH", 10, 0)))
    at = data.draw(st.integers(0, len(hello) - 1))
    hello[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(Incomplete, NotTls):
        server_name(bytes(hello))


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x80\x2e\1\3\1",  # SSL 2
        record(b"\2" + vector(3, b"x")),
        record(b"x", kind=23),
        b"\x16\2\1\0\1\1",
        record(b""),
        record(b"\1" + (MAX_HELLO + 1).to_bytes(3, "big")),
        made(sni(b"a.org"), sni(b"b.org")),
        made(sni(b"a.org", b"b.org")),
        made(sni(b"a.org", kind=1)),
        made(sni(b"")),
        made(sni(b"\xff.org")),
        made(struct.pack("!HH", 0, 9)),
        made(sni(b"a.org"), tail=b"x"),
    ],
)
def test_what_is_none(data: bytes) -> None:
    with pytest.raises(NotTls):
        server_name(data)


def test_encrypted_hellos_are_seen_by_their_outer_name() -> None:
    ech = struct.pack("!H", 0xFE0D) + vector(2, b"\0" * 40)
    assert server_name(made(ech, sni(b"outer.example"))) == "outer.example"
    assert server_name(made(ech)) == ""


def test_it_is_bounded() -> None:
    for piece in (b"x", b"x" * 20):
        with pytest.raises(NotTls):
            server_name(record(b"\1" + MAX_HELLO.to_bytes(3, "big")) + record(piece) * 20000)
