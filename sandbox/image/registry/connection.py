"""urllib3's connections, with bounds on a peer: time for a header, a least rate of a body, bytes.

A timeout of the socket alone lets a peer send a byte every minute for years, and http.client reads headers,
chunk extensions and trailers for as long as they come.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection

__all__ = ["Flood", "Patience", "Plain", "Tls", "is_near"]

#: Bytes of a header, all its lines together.
_HEADER_BYTES = 1 << 20
#: What framing may add to a body, besides an eighth: chunk sizes, trailers.
_FRAMING = 1 << 20


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, in seconds.

    Attributes:
        connect: for a connection, and for a block of a body to be taken.
        header: for the header of an answer.
        commit: the same, where a registry has to digest what it was sent.
        rate: a body must bring `rate_bytes` for so many seconds spent waiting for it.
    """

    connect: float = 30.0
    header: float = 60.0
    commit: float = 600.0
    rate: float = 60.0
    rate_bytes: int = 60 << 10


class Flood(OSError):
    """More than a peer may send."""


class Pace:
    """Counts what a peer sends on one connection, and the time that we wait for it."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self.header(patience.connect)

    def header(self, seconds: float) -> None:
        """From now on a header is read, within *seconds*."""
        self._left = _HEADER_BYTES
        self._deadline: float | None = time.monotonic() + seconds

    def body(self, size: int) -> None:
        """From now on a body of at most *size* bytes is read."""
        self._left = size + size // 8 + _FRAMING
        self._deadline = None
        self._waited, self._came = 0.0, 0

    def took(self, count: int, waited: float) -> None:
        """*count* bytes have come, after *waited* seconds."""
        self._left -= count
        if self._left < 0:
            raise Flood("it sends without end")
        if self._deadline is not None:
            if time.monotonic() > self._deadline:
                raise TimeoutError("the header of its answer does not end")
            return
        self._waited += waited
        self._came += count
        if self._waited > self._patience.rate:
            if self._came < self._patience.rate_bytes:
                raise TimeoutError("it sends too slowly")
            self._waited, self._came = 0.0, 0


class _PacedFile(io.RawIOBase):
    def __init__(self, raw: io.RawIOBase, pace: Pace) -> None:
        super().__init__()
        self._raw = raw
        self._pace = pace

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        began = time.monotonic()
        count = self._raw.readinto(buffer)
        self._pace.took(count or 0, time.monotonic() - began)
        return count

    def fileno(self) -> int:
        return self._raw.fileno()

    def close(self) -> None:
        self._raw.close()
        super().close()


class _PacedResponse(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *arguments: Any, pace: Pace, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        plain = self.fp
        self.fp = io.BufferedReader(_PacedFile(plain.detach(), pace))


class _Watched:
    """What both kinds of connection add to urllib3's. *connected* is called before anything is sent."""

    def __init__(
        self, *arguments: Any, patience: Patience, connected: Callable[[Any], None], **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self.pace = Pace(patience)
        self.response_class: Any = self._respond
        self._connected = connected
        self._response: http.client.HTTPResponse | None = None

    def _respond(self, *arguments: Any, **options: Any) -> http.client.HTTPResponse:
        self._response = _PacedResponse(*arguments, pace=self.pace, **options)
        return self._response

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        # tls = "unverified" was asked for: no warning at every request
        self.is_verified = True
        self._connected(self)

    def getresponse(self) -> Any:
        self.pace.header(self.timeout)  # type: ignore[attr-defined]
        try:
            return super().getresponse()  # type: ignore[misc]
        except BaseException:
            # urllib3 drops what it can't make sense of, and with it the socket
            if self._response is not None:
                self._response.close()
            raise
        finally:
            self._response = None


class Plain(_Watched, HTTPConnection):
    pass


class Tls(_Watched, HTTPSConnection):
    pass


def is_near(name: str) -> bool:
    """Whether a host, by name or address, is this machine or on its link (so are clouds' metadata services).

    Private networks are not: a company's registry may well send us to a storage there.
    """
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name.strip("[]").partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast
