"""A registry that does what a script says: the hostile one, or one that breaks."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from tests.image.images import Made
from tests.image.peers import serving


@dataclass
class Seen:
    """A request as it came."""

    method: str
    path: str
    headers: Message
    body: bytes


@dataclass
class Scripted:
    """A registry on loopback. `rules`: regular expressions of "METHOD /path", the last match counts; then
    `paths`: what is served as it should be."""

    name: str = ""
    seen: list[Seen] = field(default_factory=list)
    rules: list[tuple[str, Callable[[Exchange], None]]] = field(default_factory=list)
    paths: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def on(self, pattern: str, action: Callable[[Exchange], None]) -> None:
        """Do *action* for requests that match."""
        self.rules.append((pattern, action))

    def asked(self, pattern: str) -> list[Seen]:
        """The requests so far that match."""
        return [each for each in self.seen if re.fullmatch(pattern, f"{each.method} {each.path}")]

    def serve(self, made: Made, repository: str = "x", tag: str = "latest") -> None:
        """Have an image, as a good registry would."""
        for digest, data in made.blobs.items():
            self.paths[f"/v2/{repository}/blobs/{digest}"] = (data, "application/octet-stream")
            self.paths[f"/v2/{repository}/manifests/{digest}"] = (data, "")
        for name in (tag, made.manifest.digest):
            self.paths[f"/v2/{repository}/manifests/{name}"] = (made.raw, made.manifest.media_type)


class Exchange(BaseHTTPRequestHandler):
    """One request, for an action to answer."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    registry: Scripted
    request_body: bytes = b""

    def log_message(self, format: str, *args: object) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            self.close_connection = True

    def _any(self) -> None:
        length = self.headers.get("Content-Length")
        self.request_body = self.rfile.read(int(length)) if length else b""
        if length and len(self.request_body) < int(length):
            raise ConnectionResetError
        with self.registry.lock:
            self.registry.seen.append(Seen(self.command, self.path, self.headers, self.request_body))
        line = f"{self.command} {self.path}"
        for pattern, action in reversed(self.registry.rules):
            if re.fullmatch(pattern, line):
                action(self)
                return
        if self.command in ("GET", "HEAD") and self.path in self.registry.paths:
            data, kind = self.registry.paths[self.path]
            self.reply(200, data, {"Content-Type": kind} if kind else {})
            return
        self.reply(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}')

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = _any

    def reply(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        """An ordinary answer."""
        self.send_response(status)
        sent = {"Content-Length": str(len(body)), **(headers or {})}
        for name, value in sent.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def raw(self, data: bytes) -> None:
        """These bytes, and the end of the connection."""
        self.close_connection = True
        self.wfile.write(data)
        self.wfile.flush()


def replying(body: bytes, kind: str = "", status: int = 200, **headers: str) -> Callable[[Exchange], None]:
    """An action that always answers the same. Underscores in the names of headers are dashes."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    if kind:
        given["Content-Type"] = kind
    return lambda exchange: exchange.reply(status, body, given)


def in_turn(*actions: Callable[[Exchange], None]) -> Callable[[Exchange], None]:
    """An action that does one after the other; the last again and again."""
    left = list(actions)
    lock = threading.Lock()

    def act(exchange: Exchange) -> None:
        with lock:
            action = left.pop(0) if len(left) > 1 else left[0]
        action(exchange)

    return act


@contextmanager
def scripted(
    address: str = "127.0.0.1", tls: tuple[Path, Path] | None = None, name: str = "localhost"
) -> Iterator[Scripted]:
    """A scripted registry that knows nothing yet, to be called by *name*."""
    registry = Scripted()
    handler = type("Handler", (Exchange,), {"registry": registry})
    with serving(handler, address, tls) as port:
        registry.name = f"{name}:{port}"
        yield registry
