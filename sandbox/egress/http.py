"""The head of an HTTP/1 request (RFC 9112): which host is meant, how long its body is, and whether it asks to
speak another protocol afterwards.

Stricter than servers are: what two of them could read in two ways is refused. Pure; all of it is hostile.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = [
    "MAX_HEAD",
    "BadRequest",
    "Chunks",
    "Head",
    "Incomplete",
    "read_head",
    "rewritten",
    "split_authority",
]

MAX_HEAD = 32 << 10
_MAX_FIELDS = 200
_MAX_LINE = 4096
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TARGET = re.compile(rb"[\x21-\x7e]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]@/?#\\\s]+)(?::([0-9]{1,5}))?", re.ASCII)


class Incomplete(Exception):
    """The head is not whole yet."""


class BadRequest(ValueError):
    """No request, or an ambiguous one."""


class Head(NamedTuple):
    """`host` and `port` (0: none given) are those of the target where that is a whole URL, else of Host;
    `size` is the head's, bytes; `length` the body's, None when it is chunked."""

    method: str
    target: str
    version: str
    host: str
    port: int
    size: int
    length: int | None
    upgrade: bool
    fields: tuple[tuple[bytes, bytes], ...]
    absolute: bool


def split_authority(text: str) -> tuple[str, int]:
    """HOST or HOST:PORT; port 0 when there is none.

    Raises:
        BadRequest: it is neither.
    """
    found = _AUTHORITY.fullmatch(text)
    port = int(found[2]) if found and found[2] else 0
    if not found or port > 65535 or (found[2] and not port):
        raise BadRequest("not a host and port")
    return found[1].removeprefix("[").removesuffix("]"), port


def read_head(data: bytes) -> Head:
    """The head that *data* begins with.

    Raises:
        Incomplete: it goes on.
        BadRequest: it is none that we pass on.
    """
    end = data.find(b"\r\n\r\n", 0, MAX_HEAD)
    if end < 0:
        if len(data) >= MAX_HEAD:
            raise BadRequest("a head that is too long")
        first = data.partition(b"\r\n")[0]
        if not _TOKEN.match(data) and data:
            raise BadRequest("not HTTP")
        if len(first) > MAX_HEAD // 2:
            raise BadRequest("a line that is too long")
        raise Incomplete
    lines = data[:end].split(b"\r\n")
    if len(lines) > _MAX_FIELDS:
        raise BadRequest("too many fields")
    words = lines[0].split(b" ")
    if len(words) != 3 or (words[2] != b"HTTP/1.1" and words[2] != b"HTTP/1.0"):
        raise BadRequest("not a request of HTTP/1")
    if not _TOKEN.fullmatch(words[0]) or not _TARGET.fullmatch(words[1]):
        raise BadRequest("not a request")
    fields = tuple(map(_field, lines[1:]))
    method, target = words[0].decode("ascii"), words[1].decode("ascii")
    host, port, absolute = _host(method, target, fields)
    version = words[2].decode("ascii")
    length, upgrade = _length(fields), _upgrades(fields)
    return Head(method, target, version, host, port, end + 4, length, upgrade, fields, absolute)


def _field(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    value = value.strip(b" \t")
    if not colon or not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
        raise BadRequest("a field that is none")  # also one that goes on in a second line
    return name.lower(), value


def _all(fields: tuple[tuple[bytes, bytes], ...], name: bytes) -> list[bytes]:
    return [value for each, value in fields if each == name]


def _host(method: str, target: str, fields: tuple[tuple[bytes, bytes], ...]) -> tuple[str, int, bool]:
    """Which host is meant, by all that say so: they must agree."""
    named = _all(fields, b"host")
    if len(named) > 1:
        raise BadRequest("more than one Host")
    said = split_authority(named[0].decode("latin-1")) if named and named[0] else None
    if method == "CONNECT":
        where = split_authority(target)
        if not where[1]:
            raise BadRequest("CONNECT without a port")
        return *where, False
    if target.startswith("/") or (target == "*" and method == "OPTIONS"):
        return (*said, False) if said else ("", 0, False)
    scheme, slashes, rest = target.partition("://")
    if not slashes or scheme.lower() != "http":
        raise BadRequest("a target that is no URL of HTTP")
    where = split_authority(re.split(r"[/?#]", rest, maxsplit=1)[0])
    if said is not None and (said[0].lower(), said[1] or 80) != (where[0].lower(), where[1] or 80):
        raise BadRequest("two hosts")
    return *where, True


def _length(fields: tuple[tuple[bytes, bytes], ...]) -> int | None:
    coding, sizes = _all(fields, b"transfer-encoding"), _all(fields, b"content-length")
    if coding:
        if sizes or len(coding) > 1 or coding[0].lower() != b"chunked":
            raise BadRequest("a body of unclear length")
        return None
    if not sizes:
        return 0
    if len(sizes) > 1 or not re.fullmatch(rb"[0-9]{1,18}", sizes[0]):
        raise BadRequest("a body of unclear length")
    return int(sizes[0])


def _upgrades(fields: tuple[tuple[bytes, bytes], ...]) -> bool:
    """Whether it asks for WebSocket. Another protocol, as HTTP/2, could name other hosts."""
    wanted = [value.lower() for value in _all(fields, b"upgrade")]
    if wanted and wanted != [b"websocket"]:
        raise BadRequest("an upgrade to something else than WebSocket")
    return bool(wanted)


def rewritten(head: Head) -> bytes:
    """The head as it is passed on: the target without its host, and for one request alone, so that none for
    another host can follow it."""
    target = head.target
    if head.absolute:
        _, _, rest = target.partition("://")
        found = re.search(r"[/?]", rest)
        target = rest[found.start() :].partition("#")[0] if found else "/"
        if target.startswith("?"):
            target = "/" + target
    host = f"[{head.host}]" if ":" in head.host else head.host
    lines = [f"{head.method} {target} {head.version}".encode(), b"host: " + host.encode("latin-1")]
    if head.port and head.port != 80:
        lines[1] += b":%d" % head.port
    drop = {b"host", b"connection", b"keep-alive", b"proxy-connection", b"proxy-authorization"}
    if not head.upgrade:
        drop.add(b"upgrade")
    for name, value in head.fields:
        if name not in drop:
            lines.append(name + b": " + value)
    lines.append(b"connection: " + (b"upgrade" if head.upgrade else b"close"))
    return b"\r\n".join(lines) + b"\r\n\r\n"


class Chunks:
    """Finds the end of a chunked body (RFC 9112, 7.1)."""

    def __init__(self) -> None:
        self._line = b""
        self._left = 0  # of the data of a chunk
        self._next = "size"  # which line comes: size, end (of a chunk), trailer
        self.done = False

    def take(self, data: bytes) -> int:
        """How many bytes of *data*, which follow the last ones, belong to it.

        Raises:
            BadRequest: it is no such body.
        """
        at = 0
        while at < len(data) and not self.done:
            if self._left:
                step = min(self._left, len(data) - at)
                self._left -= step
                at += step
                continue
            end = data.find(b"\n", at)
            part = data[at : end + 1] if end >= 0 else data[at:]
            self._line += part
            at += len(part)
            if len(self._line) > _MAX_LINE:
                raise BadRequest("a chunk's line that is too long")
            if end >= 0:
                line, self._line = self._line, b""
                self._take_line(line)
        return at

    def _take_line(self, line: bytes) -> None:
        if not line.endswith(b"\r\n"):
            raise BadRequest("a line end without CR")
        if self._next == "end":
            if line != b"\r\n":
                raise BadRequest("a chunk of another length")
            self._next = "size"
        elif self._next == "trailer":
            self.done = line == b"\r\n"
            if not self.done:
                _field(line[:-2])
        else:
            size = re.fullmatch(rb"([0-9A-Fa-f]{1,12})[ \t]*(;[\t\x20-\x7e]*)?", line[:-2])
            if not size:
                raise BadRequest("not a chunk")
            self._left = int(size[1], 16)
            self._next = "end" if self._left else "trailer"
