"""A proxy that knows CONNECT only, and leads every tunnel to one port of loopback."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Tunnel:
    """Where it listens, and the heads of the requests that it got."""

    port: int
    heads: list[bytes] = field(default_factory=list)


@contextmanager
def tunnel(target: int, tls: tuple[Path, Path] | None = None) -> Iterator[Tunnel]:
    """Run one; *tls* is the certificate and key of one that is spoken to by TLS itself."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = Tunnel(server.getsockname()[1])
        thread = threading.Thread(target=_serve, args=(server, found, target, tls), daemon=True)
        thread.start()
        try:
            yield found
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def _serve(server: socket.socket, found: Tunnel, target: int, tls: tuple[Path, Path] | None) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if tls:
        context.load_cert_chain(*tls)
    while True:
        try:
            client, _ = server.accept()
        except OSError:
            return
        if tls:
            client = context.wrap_socket(client, server_side=True)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += client.recv(1)
        found.heads.append(head)
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        other = socket.create_connection(("127.0.0.1", target))
        ended: list[bool] = []
        for source, sink in ((client, other), (other, client)):
            threading.Thread(target=_pump, args=(source, sink, ended), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket, ended: list[bool]) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass
    finally:
        ended.append(True)
        if len(ended) == 2:
            source.close()
            sink.close()
