"""DNS messages: whatever bytes come, they are a message or `Malformed`; and what we make is understood."""

from __future__ import annotations

import contextlib
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.egress import dns

LABEL = st.from_regex(r"[a-z0-9_]([a-z0-9_-]{0,20}[a-z0-9_])?", fullmatch=True)
NAME = st.lists(LABEL, min_size=1, max_size=6).map(".".join)
KIND = st.sampled_from([dns.A, dns.AAAA])


def wire(name: str) -> bytes:
    return b"".join(bytes([len(part)]) + part.encode() for part in name.split(".") if part) + b"\0"


def record(owner: str, kind: int, rdata: bytes, ttl: int = 60) -> bytes:
    return wire(owner) + struct.pack("!HHIH", kind, 1, ttl, len(rdata)) + rdata


def reply(name: str, *records: bytes, number: int = 7, kind: int = dns.A, flags: int = 0x8180) -> bytes:
    head = struct.pack("!6H", number, flags, 1, len(records), 0, 0)
    return head + wire(name) + struct.pack("!HH", kind, 1) + b"".join(records)


def read(data: bytes, name: str = "a.org") -> dns.Answer:
    return dns.read_answer(data, 7, name, dns.A)


@given(st.binary(max_size=600))
def test_any_bytes_are_a_question_or_malformed(data: bytes) -> None:
    try:
        question = dns.read_question(data)
    except dns.Malformed:
        refused = dns.refusal(data, dns.FORMERR)
        assert refused == b"" or refused[:2] == data[:2]
        return
    assert data[12:].startswith(question.raw)


@given(st.binary(max_size=600), NAME)
def test_any_bytes_are_an_answer_or_malformed(data: bytes, name: str) -> None:
    for message in (data, reply(name) + data, reply(name)[:6] + b"\0\5" + reply(name)[8:] + data):
        with contextlib.suppress(dns.Malformed):
            assert isinstance(dns.read_answer(message, 7, name, dns.A), dns.Answer)


@given(NAME, KIND, st.integers(0, 65535))
def test_a_query_is_a_question(name: str, kind: int, number: int) -> None:
    question = dns.read_question(dns.query(number, name, kind))
    assert question[:3] == (number, name, kind)
    assert question.udp == dns.OUR_UDP and question.recurse


@given(NAME, st.lists(st.ip_addresses(v=4), max_size=40, unique=True), st.integers(0, 2**31 - 1))
def test_an_answer_is_read_as_it_was_made(name: str, addresses: list[IPv4Address], ttl: int) -> None:
    question = dns.read_question(dns.query(7, name, dns.A))
    found = dns.read_answer(dns.answer(question, dns.NOERROR, addresses, ttl), 7, name, dns.A)
    assert found.addresses == tuple(addresses) and (not addresses or found.ttl == ttl)
    short = dns.answer(question, dns.NOERROR, addresses, ttl, limit=dns.PLAIN_UDP)
    assert len(short) <= dns.PLAIN_UDP
    cut = dns.read_answer(short, 7, name, dns.A)
    assert cut.addresses == tuple(addresses) or (cut.truncated and not cut.addresses)


@pytest.mark.parametrize(
    "name", [b"\1*\3org", b"\3a.b\3org", b"\1\xff\3org", b"\1\0\3org", b"\1-\3org", b"", b"\1 \3org"]
)
def test_odd_bytes_are_no_name(name: bytes) -> None:
    data = struct.pack("!6H", 1, 0x100, 1, 0, 0, 0) + name + b"\0\0\1\0\1"
    assert dns.read_question(data).name == ""


def test_names_are_in_lower_case_and_dots_are_not_made_up() -> None:
    data = struct.pack("!6H", 1, 0x100, 1, 0, 0, 0) + b"\1A\3OrG\0\0\1\0\1"
    question = dns.read_question(data)
    assert question.name == "a.org"
    assert dns.answer(question, dns.REFUSED)[12:] == b"\1A\3OrG\0\0\1\0\1"  # as the client wrote it


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 11,
        struct.pack("!6H", 1, 0x8100, 1, 0, 0, 0) + b"\1a\0\0\1\0\1",  # an answer
        struct.pack("!6H", 1, 0x2800, 1, 0, 0, 0) + b"\1a\0\0\1\0\1",  # an update
        struct.pack("!6H", 1, 0x100, 2, 0, 0, 0) + b"\1a\0\0\1\0\1" * 2,
        struct.pack("!6H", 1, 0x100, 0, 0, 0, 0),
        struct.pack("!6H", 1, 0x100, 1, 0, 0, 0) + b"\1a\0\0\1\0\3",  # of the class CHAOS
        struct.pack("!6H", 1, 0x100, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1",  # a pointer to itself
        struct.pack("!6H", 1, 0x100, 1, 0, 0, 0) + b"\x40\0\1\0\1",
        struct.pack("!6H", 1, 0x100, 1, 0, 0, 0) + b"\x3fabc",
        struct.pack("!6H", 1, 0x100, 1, 0, 0, 0) + b"\x3f" + b"a" * 63 + (b"\x3f" + b"b" * 63) * 3 + b"\0",
        struct.pack("!6H", 1, 0x100, 1, 0, 0, 9) + b"\1a\0\0\1\0\1",
    ],
)
def test_what_is_no_question(data: bytes) -> None:
    with pytest.raises(dns.Malformed):
        dns.read_question(data)


ONE = ip_address("192.0.2.1").packed


def test_aliases_are_followed_in_the_answer_alone() -> None:
    chain = [record("a.org", 5, wire("b.net"), 30), record("b.net", 5, wire("c.net"))]
    assert read(reply("a.org", *chain, record("c.net", 1, ONE))).addresses == (ip_address("192.0.2.1"),)
    assert read(reply("a.org", *chain, record("c.net", 1, ONE))).ttl == 30
    assert read(reply("a.org", record("c.net", 1, ONE), *reversed(chain))).addresses  # in any order
    assert read(reply("a.org", *chain)).addresses == ()


@pytest.mark.parametrize(
    "records",
    [
        [record("b.org", 1, ONE)],  # out of bailiwick
        [record("b.org", 5, wire("a.org")), record("b.org", 1, ONE)],
        [record("a.org", 5, wire("a.org"))],  # a loop
        [record("a.org", 5, wire("b.org")), record("b.org", 5, wire("a.org"))],
        [record("a.org", 16, ONE)],
        [record("a.org", 28, ONE * 4)],  # not what was asked
        [wire("a.org") + struct.pack("!HHIH", 1, 3, 60, 4) + ONE],  # another class
        [record("a.org", 1, ONE + b"x")],
        [record(f"n{n}.org" if n else "a.org", 5, wire(f"n{n + 1}.org")) for n in range(40)]
        + [record("n40.org", 1, ONE)],
    ],
)
def test_what_does_not_belong_does_not_count(records: list[bytes]) -> None:
    assert read(reply("a.org", *records)).addresses == ()


@pytest.mark.parametrize(
    "data",
    [
        reply("a.org", record("a.org", 1, ONE), number=8),
        reply("b.org", record("b.org", 1, ONE)),
        reply("a.org", record("a.org", 1, ONE), kind=28),
        reply("a.org", record("a.org", 1, ONE), flags=0x0100),
        reply("a.org", record("a.org", 1, ONE))[:-1],
        reply("a.org", wire("a.org") + struct.pack("!HHIH", 5, 1, 60, 2) + b"\1x"),
        reply("a.org", wire("a.org") + struct.pack("!HHIH", 1, 1, 60, 400) + ONE),
        reply("a.org", b"\xff\xff"),
    ],
)
def test_what_is_no_answer_to_it(data: bytes) -> None:
    with pytest.raises(dns.Malformed):
        read(data)


def test_case_and_compression() -> None:
    answer = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + ONE
    assert read(reply("A.oRg", answer)).addresses == (IPv4Address("192.0.2.1"),)
    six = IPv6Address("2001:db8::1")
    data = reply("a.org", record("a.org", 28, six.packed), kind=28)
    assert dns.read_answer(data, 7, "a.org", dns.AAAA).addresses == (six,)


def test_a_ttl_with_the_highest_bit_is_none() -> None:
    assert read(reply("a.org", record("a.org", 1, ONE, 1 << 31))).ttl == 0
