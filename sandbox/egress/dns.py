"""DNS messages, as far as a proxy needs them (RFC 1035, 6891): read a question, make a query, read an
answer, make an answer. Pure functions of bytes; whatever is wrong is `Malformed`, and nothing else.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from sandbox.addresses import Address

__all__ = [
    "AAAA",
    "FORMERR",
    "NOERROR",
    "NOTIMP",
    "NXDOMAIN",
    "REFUSED",
    "SERVFAIL",
    "A",
    "Answer",
    "Malformed",
    "Question",
    "answer",
    "framed",
    "labels",
    "query",
    "read_answer",
    "read_question",
]

A, CNAME, AAAA, OPT, IN = 1, 5, 28, 41, 1
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)

_RESPONSE, _TRUNCATED, _RECURSE, _CAN_RECURSE = 0x8000, 0x0200, 0x0100, 0x0080
_OPCODE = 0x7800
_MAX_NAME = 255  # bytes on the wire
_MAX_POINTERS = 32
_MAX_RECORDS = 256
_MAX_CHAIN = 16
#: what fits into an answer over UDP without EDNS, bytes
PLAIN_UDP = 512
#: what we ask for, and answer with at most (the DNS flag day of 2020)
OUR_UDP = 1232
_LABEL = re.compile(rb"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


class Malformed(ValueError):
    """No message, or not the one that was waited for."""


class Question(NamedTuple):
    """What a client asked. `name` in lower case, or "" where it has bytes that no host name has; `raw` is
    its question section, and `udp` how large an answer it takes over UDP."""

    number: int
    name: str
    kind: int
    raw: bytes
    udp: int
    recurse: bool


class Answer(NamedTuple):
    """What a server answered: addresses of the name that was asked for, and for how many seconds."""

    code: int
    addresses: tuple[Address, ...]
    ttl: int
    truncated: bool


def _unpack(form: str, data: bytes, at: int) -> tuple[int, ...]:
    try:
        return struct.unpack_from(form, data, at)
    except struct.error:
        raise Malformed("too short") from None


def _name(data: bytes, at: int) -> tuple[list[bytes], int]:
    """The labels of the name at *at*, in lower case, and where what follows it begins."""
    labels: list[bytes] = []
    size, end, jumps = 1, -1, 0
    while True:
        (length,) = _unpack("!B", data, at)
        if length >= 0xC0:
            (pointer,) = _unpack("!H", data, at)
            end = at + 2 if end < 0 else end
            jumps += 1
            if jumps > _MAX_POINTERS or pointer & 0x3FFF >= at:
                raise Malformed("a pointer that leads nowhere")  # only backwards: so it ends
            at = pointer & 0x3FFF
        elif length > 63:
            raise Malformed("an unknown kind of label")
        elif length == 0:
            return labels, at + 1 if end < 0 else end
        else:
            label = data[at + 1 : at + 1 + length]
            size += length + 1
            if len(label) != length or size > _MAX_NAME:
                raise Malformed("a name that is too long")
            labels.append(label.lower())
            at += length + 1


def _text(labels: Sequence[bytes]) -> str:
    """A host name, or "" where it is none."""
    if not labels or not all(_LABEL.fullmatch(label) for label in labels):
        return ""
    return b".".join(labels).decode("ascii")


def read_question(data: bytes) -> Question:
    """A client's query.

    Raises:
        Malformed: it is none; not even its number can be answered where it has less than a header.
    """
    number, flags, questions, answers, authorities, others = _unpack("!6H", data, 0)
    if flags & (_RESPONSE | _OPCODE) or questions != 1 or answers or authorities or others > 4:
        raise Malformed("not a query of one name")
    labels, at = _name(data, 12)
    kind, space = _unpack("!HH", data, at)
    raw = data[12 : at + 4]
    if space != IN:
        raise Malformed("not of the Internet")
    udp, at = PLAIN_UDP, at + 4
    for _ in range(others):
        _, at = _name(data, at)
        record, size, _, length = _unpack("!HHIH", data, at)
        at += 10 + length
        if record == OPT:
            udp = min(max(size, PLAIN_UDP), OUR_UDP)
    if at > len(data):
        raise Malformed("too short")
    return Question(number, _text(labels), kind, raw, udp, bool(flags & _RECURSE))


def labels(question: Question) -> list[bytes]:
    """Of the name that was asked for, whatever bytes it has, in lower case."""
    return _name(question.raw, 0)[0]


def query(number: int, name: str, kind: int) -> bytes:
    """A query of ours, for a name as `Question.name` is."""
    labels = b"".join(bytes([len(label)]) + label for label in name.encode("ascii").split(b"."))
    extra = struct.pack("!BHHIH", 0, OPT, OUR_UDP, 0, 0)
    return (
        struct.pack("!6H", number, _RECURSE, 1, 0, 0, 1) + labels + struct.pack("!BHH", 0, kind, IN) + extra
    )


def read_answer(data: bytes, number: int, name: str, kind: int) -> Answer:
    """A server's answer to `query(number, name, kind)`.

    Addresses count only when they belong to that name, or to one that CNAMEs in this very answer lead to
    from it; whatever else a server adds is ignored.

    Raises:
        Malformed: it is none, or answers something else.
    """
    got, flags, questions, answers, _, _ = _unpack("!6H", data, 0)
    if got != number or not flags & _RESPONSE or flags & _OPCODE or questions != 1:
        raise Malformed("not the answer to this query")
    labels, at = _name(data, 12)
    asked = _unpack("!HH", data, at)
    if _text(labels) != name or asked != (kind, IN):
        raise Malformed("the answer to another question")
    truncated = bool(flags & _TRUNCATED)
    aliases: dict[tuple[bytes, ...], tuple[tuple[bytes, ...], int]] = {}
    found: dict[tuple[bytes, ...], list[tuple[Address, int]]] = {}
    at += 4
    for _ in range(min(answers, _MAX_RECORDS)):
        try:
            at = _record(data, at, kind, aliases, found)
        except Malformed:
            if truncated:
                break
            raise
    owner, ttl = tuple(labels), 0xFFFF_FFFF
    for _ in range(_MAX_CHAIN):
        if owner in found or owner not in aliases:
            break
        owner, seconds = aliases[owner]
        ttl = min(ttl, seconds)
    records = found.get(owner, [])
    addresses = tuple(dict.fromkeys(address for address, _ in records))
    ttl = min([ttl, *(seconds for _, seconds in records)]) if records else 0
    return Answer(flags & 15, addresses, ttl, truncated)


def _record(
    data: bytes,
    at: int,
    wanted: int,
    aliases: dict[tuple[bytes, ...], tuple[tuple[bytes, ...], int]],
    found: dict[tuple[bytes, ...], list[tuple[Address, int]]],
) -> int:
    """Take in one record of an answer; where the next one begins."""
    labels, at = _name(data, at)
    kind, space, ttl, length = _unpack("!HHIH", data, at)
    at += 10
    end = at + length
    if end > len(data):
        raise Malformed("too short")
    if ttl >= 1 << 31:
        ttl = 0  # RFC 2181, 8
    owner = tuple(labels)
    if space == IN and kind == CNAME:
        target, after = _name(data, at)
        if after != end:
            raise Malformed("a CNAME of another length")
        aliases.setdefault(owner, (tuple(target), ttl))
    elif space == IN and kind == wanted and (kind, length) in ((A, 4), (AAAA, 16)):
        raw = data[at:end]
        address = IPv4Address(raw) if kind == A else IPv6Address(raw)
        found.setdefault(owner, []).append((address, ttl))
    return end


def answer(
    question: Question, code: int, addresses: Sequence[Address] = (), ttl: int = 0, *, limit: int = 65535
) -> bytes:
    """Our answer: the *addresses* as the name's own, whatever aliases led there. What exceeds *limit* bytes
    is left away, and the client told to ask again over TCP."""
    kind = A if question.kind == A else AAAA
    records = [
        struct.pack("!HHHIH", 0xC00C, kind, IN, ttl, len(address.packed)) + address.packed
        for address in addresses
    ]
    size = 12 + len(question.raw)
    flags = _RESPONSE | _CAN_RECURSE | (_RECURSE if question.recurse else 0) | code
    if size + sum(map(len, records)) > limit:
        flags, records = flags | _TRUNCATED, []
    return (
        struct.pack("!6H", question.number, flags, 1, len(records), 0, 0) + question.raw + b"".join(records)
    )


def framed(message: bytes) -> bytes:
    """*message* as it goes over TCP, behind its length (RFC 1035, 4.2.2)."""
    return len(message).to_bytes(2, "big") + message


def refusal(data: bytes, code: int) -> bytes:
    """The answer to what is no question; b"" where even its number is missing, or it is an answer itself."""
    if len(data) < 12 or data[2] & 0x80:
        return b""
    return data[:2] + struct.pack("!5H", _RESPONSE | code, 0, 0, 0, 0)
