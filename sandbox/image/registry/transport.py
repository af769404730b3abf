"""One HTTP exchange with a registry, or with a host that it sent us to.

urllib3 carries the bytes, as they are: nothing is decompressed. A registry may send us to other hosts, but
not from HTTPS to HTTP, and not to services of this machine. Redirects, authorization and trying again are
`session`'s.
"""

from __future__ import annotations

import http.client
import io
import re
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import IO, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3 import exceptions as u3

from sandbox.errors import RegistryError
from sandbox.image.config import Host, Registries
from sandbox.image.registry.connection import Flood, Patience, Plain, Tls, is_near
from sandbox.words import printable

__all__ = ["Answer", "Body", "NoTls", "Origin", "Request", "Transport", "Unreachable", "origin_of", "written"]

#: Bytes that are sent, and at most read, at once.
_BLOCK = 256 << 10
#: What is worth reading to use a connection again.
_SHORT = 64 << 10
_URL = re.compile(r"[\x21-\x7e]{1,16384}")
_DEFAULT_PORTS = {"http": 80, "https": 443}

Origin = tuple[str, str, int]
#: Opens what a request sends.
Body = Callable[[], "IO[bytes] | io.RawIOBase"]


class Unreachable(RegistryError):
    """The exchange did not happen or broke off.

    `transient`: trying again may help. `connected`: the host was there.
    """

    def __init__(
        self, message: str, mend: str | None = None, *, transient: bool = True, connected: bool = True
    ) -> None:
        super().__init__(message, mend)
        self.transient = transient
        self.connected = connected


class NoTls(Unreachable):
    """What is there does not speak TLS: a registry by plain HTTP, perhaps."""


@dataclass(frozen=True, slots=True)
class Request:
    """What to send.

    Attributes:
        scopes: what a token must be good for: "repository:NAME:pull".
        body: opens what is sent; again for every attempt. The headers must say its length.
        seconds: until the answer's header must have come; 0: as for everything.
        again: whether a second attempt can do no harm.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    scopes: tuple[str, ...] = ()
    body: Body | None = None
    seconds: float = 0.0
    again: bool = True


def origin_of(url: str) -> Origin:
    """Scheme, host and port, which together must be the same for two URLs to be of one origin (RFC 6454).

    Raises:
        ValueError: it is no URL of HTTP, or one with a user in it, or with characters that no URL has.
    """
    if not _URL.fullmatch(url):
        raise ValueError("no URL")
    parts = urlsplit(url)
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or "@" in parts.netloc:
        raise ValueError("no URL that can be followed")
    return parts.scheme, parts.hostname.rstrip("."), parts.port or _DEFAULT_PORTS[parts.scheme]


def written(origin: Origin) -> str:
    """Host and port as in a URL, and as a registry's name."""
    scheme, name, port = origin
    name = f"[{name}]" if ":" in name else name
    return name if port == _DEFAULT_PORTS[scheme] else f"{name}:{port}"


# --- answers ---------------------------------------------------------------------------------------------


class Answer:
    """A status, headers, and a body that is still to come. A context manager: leaving it closes what was not
    read to its end."""

    def __init__(
        self, response: urllib3.BaseHTTPResponse, request: Request, host: str, patience: Patience
    ) -> None:
        self._response = response
        self._host = host
        self._patience = patience
        self._empty = request.method == "HEAD" or response.status == 204
        self.url = request.url
        self.status = response.status

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *error: object) -> None:
        if self._empty or self.length == 0:
            self.discard()
        self._response.close()

    def header(self, name: str) -> str:
        """A header's value, "" if there is none; of several, all with commas between."""
        return self._response.headers.get(name, "")

    @property
    def length(self) -> int | None:
        """The body's length as announced, None if it isn't."""
        text = self.header("Content-Length")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None

    def chunks(self, limit: int) -> Iterator[bytes]:
        """The body, in pieces as they come.

        Raises:
            Unreachable: it broke off or came too slowly.
            RegistryError: it has more than *limit* bytes.
        """
        pace = getattr(getattr(self._response, "connection", None), "pace", None)
        if pace is not None:
            pace.body(limit)
        seen = 0
        while True:
            try:
                data = self._response.read1(_BLOCK, decode_content=False)
            except (u3.HTTPError, OSError, http.client.HTTPException) as error:
                raise _broken(self._host, error) from None
            if not data:
                return
            seen += len(data)
            if seen > limit:
                raise RegistryError(f"{self._host} sends more than the {limit} bytes that it may")
            yield data

    def read(self, limit: int) -> bytes:
        """The whole body, which must come in the time that a slow line needs; see `chunks`."""
        if (self.length or 0) > limit:
            raise RegistryError(
                f"{self._host} announces {self.length} bytes, more than the {limit} that it may"
            )
        deadline = time.monotonic() + self._patience.rate + limit / self._patience.rate_bytes
        data = bytearray()
        for part in self.chunks(limit):
            data += part
            if time.monotonic() > deadline:
                raise Unreachable(f"{self._host} sends too slowly")
        return bytes(data)

    def discard(self) -> None:
        """Read the rest if it is known to be short, so that the connection can be used again."""
        if not self._empty and (self.length is None or self.length > _SHORT):
            return
        with suppress(RegistryError):
            for _ in self.chunks(_SHORT):
                pass


# --- the transport ---------------------------------------------------------------------------------------


class Transport:
    """Connections to one registry and to where it sends us. Threads may share it."""

    def __init__(self, host: Host, registries: Registries, patience: Patience) -> None:
        self.host = host
        self._patience = patience
        self._registries = registries
        self._origin = origin_of(host.url)
        self._managers: dict[Origin, urllib3.PoolManager] = {}
        self._lock = threading.Lock()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        #: Whether the registry itself is on this machine or link; None until its name was resolved.
        self._near: bool | None = is_near(self._origin[1]) or None
        self._aborted = False

    def open(self, request: Request) -> Answer:
        """Send *request*; the answer, whatever its status.

        Raises:
            Unreachable: there was none.
            RegistryError: the URL leads where it may not.
        """
        origin = origin_of(request.url)
        self._check(origin)
        where = written(origin)
        manager = self._manager(origin)
        timeout = urllib3.Timeout(
            connect=self._patience.connect, read=request.seconds or self._patience.header
        )
        try:
            with closing(request.body()) if request.body else nullcontext() as body:
                response = manager.urlopen(
                    request.method,
                    request.url,
                    redirect=False,
                    retries=False,
                    body=body,
                    headers={"Accept-Encoding": "identity", "User-Agent": "sandbox", **request.headers},
                    timeout=timeout,
                    preload_content=False,
                    decode_content=False,
                )
        except (u3.HTTPError, OSError, http.client.HTTPException, ValueError) as error:
            raise self._failed(origin, error) from None
        return Answer(response, request, where, self._patience)

    def abort(self) -> None:
        """End all exchanges that are under way; from any thread, and for good."""
        self._aborted = True
        for sock in list(self._sockets):
            with suppress(OSError):
                # not SSLSocket's own, which would talk to the peer
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close idle connections."""
        for manager in self._managers.values():
            manager.clear()

    # -- where we may be led ----------------------------------------------------------------------------

    def _check(self, origin: Origin) -> None:
        """A registry must not have us ask services of this machine, which may trust whoever reaches them."""
        scheme, name, _ = origin
        if origin == self._origin:
            return
        if scheme == "http" and self._origin[0] == "https":
            raise RegistryError(f"{self.host.name} sends us from https to http, at {name}: not followed")
        if is_near(name) and not self._near:
            raise self._led(name)

    def _connected(self, connection: Any) -> None:
        """Called by a new connection, before anything is sent over it."""
        sock = connection.sock
        self._sockets.add(getattr(sock, "socket", sock))  # TLS within a proxy's TLS has it inside
        if self._aborted:
            connection.close()
            raise OSError("aborted")
        if connection.proxy:
            return
        near = is_near(sock.getpeername()[0])
        if self._near is None and (connection.host, connection.port) == self._origin[1:]:
            self._near = near  # once: a name must not lead elsewhere first and here later
        if near and not self._near:
            connection.close()
            raise self._led(connection.host)

    def _led(self, name: str) -> RegistryError:
        return RegistryError(
            f"{self.host.name} sends us to {name}, which is on this machine or link: not followed"
        )

    # -- how ----------------------------------------------------------------------------------------------

    def _manager(self, origin: Origin) -> urllib3.PoolManager:
        with self._lock:
            if origin not in self._managers:
                self._managers[origin] = self._new_manager(origin)
            return self._managers[origin]

    def _new_manager(self, origin: Origin) -> urllib3.PoolManager:
        context = self._tls(self._settings(origin)) if origin[0] == "https" else None
        options: dict[str, Any] = {"maxsize": 16, "blocksize": _BLOCK, "ssl_context": context}
        proxy = _proxy(origin)
        manager = self._proxied(proxy, options) if proxy else urllib3.PoolManager(**options)
        kinds = (("http", urllib3.HTTPConnectionPool, Plain), ("https", urllib3.HTTPSConnectionPool, Tls))
        manager.pool_classes_by_scheme = {
            name: type(
                "Pool",
                (pool,),
                {"ConnectionCls": partial(connection, patience=self._patience, connected=self._connected)},
            )
            for name, pool, connection in kinds
        }
        return manager

    def _settings(self, origin: Origin) -> Host:
        """The registry's own, for it; for others, those of `registries.toml`, or the defaults."""
        return self.host if origin == self._origin else self._registries.host(written(origin))

    def _proxied(self, proxy: str, options: dict[str, Any]) -> urllib3.PoolManager:
        try:
            parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
            if parts.scheme not in ("http", "https"):
                raise ValueError(f"a proxy by {parts.scheme} is not supported")
            login = f"{parts.username}:{parts.password or ''}" if parts.username else None
            headers = urllib3.make_headers(proxy_basic_auth=login) if login else None
            port = f":{parts.port}" if parts.port else ""
            name = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
            return urllib3.ProxyManager(f"{parts.scheme}://{name}{port}", proxy_headers=headers, **options)
        except (ValueError, u3.HTTPError) as error:
            raise RegistryError(
                f"the environment's proxy can't be used: {error}", "unset https_proxy http_proxy all_proxy"
            ) from None

    def _tls(self, host: Host) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context()
            if host.ca:
                context.load_verify_locations(host.ca)
            if host.cert:
                context.load_cert_chain(host.cert, host.key or None)
        except (OSError, ssl.SSLError) as error:
            files = ", ".join(path for path in (host.ca, host.cert, host.key) if path)
            raise RegistryError(f"{host.name}: {files} can't be used: {error.strerror or error}") from None
        if host.tls == "unverified":
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def _failed(self, origin: Origin, error: Exception) -> RegistryError:
        where = written(origin)
        if isinstance(error, u3.SSLError | ssl.SSLError):
            return self._tls_failed(origin, _cause(error))
        if isinstance(error, u3.NameResolutionError):
            mend = f"getent hosts {origin[1]}    (is the name right, and is there a network?)"
            return Unreachable(f"the name {where} can't be resolved", mend, connected=False)
        if isinstance(error, u3.NewConnectionError):  # which is a ConnectTimeoutError, to urllib3
            reason = str(error).partition("Failed to establish a new connection: ")[2]
            reason = re.sub(r"^\[Errno -?\d+\] ", "", reason)
            return Unreachable(f"{where} can't be reached: {reason or error}", connected=False)
        if isinstance(error, u3.ConnectTimeoutError):
            return Unreachable(
                f"{where} can't be reached: no answer in {self._patience.connect:g} s", connected=False
            )
        if isinstance(error, u3.ProxyError):
            return Unreachable(f"{where} can't be reached through the environment's proxy: {_said(error)}")
        return _broken(where, error)

    def _tls_failed(self, origin: Origin, cause: BaseException) -> RegistryError:
        where = written(origin)
        name = self._settings(origin).name
        line = self._registries.line
        if isinstance(cause, ssl.SSLCertVerificationError):
            reason = f"{where}: its certificate is not accepted: {cause.verify_message}"
            mend = line(name, 'ca = "/path/to/its-authority.pem"    # or, unsafe: tls = "unverified"')
            return Unreachable(reason, mend, transient=False)
        reason = getattr(cause, "reason", None) or str(cause)
        if reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"):
            reason = f"{where} does not speak TLS: it may be a registry by plain HTTP"
            return NoTls(reason, line(name, 'tls = "off"'), transient=False)
        return Unreachable(f"{where}: TLS failed: {printable(str(reason))[:200]}", transient=False)


def _broken(where: str, error: Exception) -> RegistryError:
    if isinstance(_cause(error), Flood):
        return RegistryError(f"{where} sends more than it may")
    if isinstance(error, u3.ReadTimeoutError | TimeoutError):
        return Unreachable(f"{where} takes too long: {_said(error.__cause__ or error)}")
    return Unreachable(f"the connection with {where} broke off: {_said(error)}")


def _cause(error: BaseException) -> BaseException:
    """What urllib3 wrapped."""
    while isinstance(error, u3.HTTPError) and error.args and isinstance(error.args[-1], BaseException):
        error = error.args[-1]
    return error


def _said(error: BaseException) -> str:
    cause = _cause(error)
    return printable(str(cause) or type(cause).__name__)[:200]


def _proxy(origin: Origin) -> str:
    """The proxy that the environment names for a host, or "". As in Go, never for this machine itself."""
    scheme, name, port = origin
    if is_near(name) or proxy_bypass(f"{name}:{port}"):
        return ""
    proxies = getproxies()
    return proxies.get(scheme) or proxies.get("all") or ""
