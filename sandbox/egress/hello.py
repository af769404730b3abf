"""The name that a TLS client says it wants: the server_name extension of its ClientHello (RFC 8446, 6066).

Pure; what is read is hostile. `Incomplete` asks for more bytes, within a bound.
"""

from __future__ import annotations

__all__ = ["MAX_HELLO", "Incomplete", "NotTls", "server_name"]

#: a ClientHello with a post-quantum key share and everything is below 4 KiB
MAX_HELLO = 16 << 10
_HANDSHAKE, _CLIENT_HELLO = 22, 1
_SERVER_NAME, _HOST_NAME = 0, 0
_MAX_RECORD = 16384  # bytes
_MAX_RECORDS = 256


class Incomplete(Exception):
    """It may be one when more has come."""


class NotTls(ValueError):
    """It is no ClientHello, or one that is wrong."""


class _Reader:
    """Fields of a message; never reads past its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        part = self._data[self._at : self._at + size]
        if len(part) != size:
            raise NotTls("a field is longer than what it is in")
        self._at += size
        return part

    def vector(self, width: int) -> bytes:
        return self.take(int.from_bytes(self.take(width), "big"))

    @property
    def more(self) -> bool:
        return self._at < len(self._data)


def _handshake(data: bytes) -> bytes:
    """The body of the ClientHello, put together from TLS records."""
    message, at = b"", 0
    for _ in range(_MAX_RECORDS):
        if len(data) - at < 5:
            if at >= MAX_HELLO or (data[at : at + 1] not in (b"", b"\x16")):
                raise NotTls("no handshake")
            raise Incomplete
        kind, major, size = data[at], data[at + 1], int.from_bytes(data[at + 3 : at + 5], "big")
        if kind != _HANDSHAKE or major != 3 or not 0 < size <= _MAX_RECORD:
            raise NotTls("no handshake")
        part = data[at + 5 : at + 5 + size]
        message += part
        if message and message[0] != _CLIENT_HELLO:
            raise NotTls("no ClientHello")
        if len(message) >= 4:
            wanted = 4 + int.from_bytes(message[1:4], "big")
            if wanted > MAX_HELLO:
                raise NotTls("a ClientHello that is too long")
            if len(message) >= wanted:
                return message[4:wanted]
        if len(part) < size:
            raise Incomplete
        at += 5 + size
    raise NotTls("a ClientHello in too many records")


def server_name(data: bytes) -> str:
    """The name in the ClientHello that *data* begins with, as it was written; "" when it has none.

    Raises:
        Incomplete: so far it may be one.
        NotTls: it is none.
    """
    if not data:
        raise Incomplete
    hello = _Reader(_handshake(data))
    hello.take(34)  # version, random
    hello.vector(1)  # session id
    hello.vector(2)  # cipher suites
    hello.vector(1)  # compression methods
    if not hello.more:
        return ""
    extensions = _Reader(hello.vector(2))
    if hello.more:
        raise NotTls("something behind the extensions")
    found: str | None = None
    while extensions.more:
        kind = int.from_bytes(extensions.take(2), "big")
        body = extensions.vector(2)
        if kind == _SERVER_NAME:
            if found is not None:
                raise NotTls("two names")
            found = _host_name(_Reader(body))
    return found or ""


def _host_name(body: _Reader) -> str:
    """Of the list exactly one: what two mean, servers don't agree on."""
    names = _Reader(body.vector(2))
    kind, name = names.take(1)[0], names.vector(2)
    if names.more or body.more or kind != _HOST_NAME or not name:
        raise NotTls("a list of names that is not one name")
    try:
        return name.decode("ascii")
    except UnicodeDecodeError:
        raise NotTls("a name that is not ASCII") from None
