"""HTTP requests: their host, and where they end. Their use is tested in test_kernel.py."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.egress.http import MAX_HEAD, BadRequest, Chunks, Incomplete, read_head, rewritten

HEAD = b"GET /a?b HTTP/1.1\r\nHost: a.org\r\nX: y\r\nConnection: keep-alive\r\n\r\n"


def test_a_head() -> None:
    head = read_head(HEAD + b"GET / HTTP/1.1\r\nHost: b.org\r\n\r\n")
    assert (head.host, head.port, head.length, head.size) == ("a.org", 0, 0, len(HEAD))
    assert rewritten(head) == b"GET /a?b HTTP/1.1\r\nhost: a.org\r\nx: y\r\nconnection: close\r\n\r\n"
    for size in range(1, len(HEAD)):
        with pytest.raises(Incomplete):
            read_head(HEAD[:size])


@pytest.mark.parametrize(
    ("target", "host", "port", "passed"),
    [
        ("http://a.org/x", "a.org", 0, "/x"),
        ("HTTP://a.org:8080", "a.org", 8080, "/"),
        ("http://a.org?q", "a.org", 0, "/?q"),
        ("http://[2001:db8::1]:80/#f", "2001:db8::1", 80, "/"),
        ("http://a.org/x#f", "a.org", 0, "/x"),
    ],
)
def test_targets(target: str, host: str, port: int, passed: str) -> None:
    head = read_head(f"GET {target} HTTP/1.1\r\n\r\n".encode())
    assert (head.host, head.port, head.absolute) == (host, port, True)
    assert rewritten(head).split()[1] == passed.encode()


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    for text in (
        data,
        data + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + data + b"\r\n\r\n",
        HEAD[:-2] + data + b"\r\n\r\n",
    ):
        try:
            head = read_head(text)
        except (Incomplete, BadRequest):
            continue
        again = rewritten(head)
        assert again.count(b"\r\n\r\n") == 1 and again.endswith(b"\r\n\r\n")
        if head.host and head.method != "CONNECT":
            second = read_head(again)
            assert (second.host, second.port or 80) == (head.host, head.port or 80)


def test_it_is_bounded() -> None:
    with pytest.raises(BadRequest):
        read_head(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * MAX_HEAD)
    with pytest.raises(BadRequest):
        read_head(b"GET /" + b"a" * MAX_HEAD)
    with pytest.raises(BadRequest):
        read_head(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a: b\r\n" * 300 + b"\r\n")


BODY = b"5;x=y\r\nhello\r\nA\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n"


@given(st.lists(st.integers(1, 20)), st.binary(max_size=30))
def test_chunks_in_any_pieces_end_where_they_end(sizes: list[int], rest: bytes) -> None:
    chunks, data, taken = Chunks(), BODY + rest, 0
    for size in [*sizes, len(data)]:
        taken += chunks.take(data[taken : taken + size])
    assert chunks.done and taken == len(BODY)


@given(st.binary(max_size=100))
def test_any_bytes_are_chunks_or_not(data: bytes) -> None:
    for text in (data, b"3\r\n" + data, b"0\r\n" + data):
        chunks = Chunks()
        with contextlib.suppress(BadRequest):
            assert 0 <= chunks.take(text) <= len(text)


@pytest.mark.parametrize(
    "data",
    [
        b"5\nhello",
        b"-1\r\n",
        b"0x5\r\n",
        b"5 5\r\n",
        b"3\r\nhello\r\n",
        b"\r\n",
        b"fffffffffffff\r\n",
        b"0\r\nno field\r\n\r\n",
        b"0\r\n\n",
        b"5" + b";" + b"x" * 5000,
    ],
)
def test_what_is_no_chunk(data: bytes) -> None:
    with pytest.raises(BadRequest):
        Chunks().take(data)
