"""Connections that go through us: those to ports 80 and 443, which the kernel redirects here, and those of
clients that speak to a proxy, HTTP's CONNECT or SOCKS5 (RFC 9110, 1928).

What counts is the name, as it is said in the connection itself; its address we look up. Nothing of a
connection is passed on before that is decided.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address

from sandbox.addresses import Address, plain
from sandbox.destination import CHECKED_PORTS
from sandbox.egress import hello, http
from sandbox.egress.names import Resolver
from sandbox.egress.world import World, named

__all__ = ["Relay"]

_MAX_CONNECTIONS = 256
_HEAD = 10.0  # seconds for all that is read before anything is decided
_CONNECT = 10.0
_IDLE = 600.0  # seconds that nothing moves, either way; then somebody else may have the place
_MAX_TRIED = 4
_PIECE = 64 << 10  # of each connection, twice
_LAST_DATA_SENT = 44  # in struct tcp_info, milliseconds ago; two fields on, the last that were received
_SO_ORIGINAL_DST = 80  # linux/netfilter_ipv4.h; the same number in IPv6
#: fatal, access_denied (RFC 8446, 6)
_ALERT = b"\x15\x03\x03\x00\x02\x02\x31"
_TLS = 0x16

Target = str | Address


class Denied(Exception):
    """The policy, or what is closed to everybody, stands against it."""


class Closed(Exception):
    """The client has said all, and it was not enough; or too slowly."""


class Client:
    """What is read from a client before it is known where to."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.data = b""
        self._until = time.monotonic() + _HEAD

    async def more(self) -> None:
        """Read some. Raises `Closed`."""
        left = self._until - time.monotonic()
        try:
            part = await asyncio.wait_for(
                asyncio.get_running_loop().sock_recv(self.sock, 16384), max(left, 0)
            )
        except (OSError, TimeoutError):
            raise Closed from None
        if not part:
            raise Closed
        self.data += part

    async def take(self, size: int) -> bytes:
        while len(self.data) < size:
            await self.more()
        part, self.data = self.data[:size], self.data[size:]
        return part

    async def send(self, data: bytes) -> None:
        with contextlib.suppress(OSError, TimeoutError):
            await asyncio.wait_for(asyncio.get_running_loop().sock_sendall(self.sock, data), _HEAD)


class Relay:
    """Serves connections; `redirected` and `proxied` are given new ones."""

    def __init__(self, world: World, resolver: Resolver) -> None:
        self._world = world
        self._resolver = resolver
        self._count = 0

    async def listen(self, server: socket.socket, handle: Callable[[Client], Awaitable[None]]) -> None:
        """Take connections for ever."""
        loop = asyncio.get_running_loop()
        tasks: set[asyncio.Task[None]] = set()
        while True:
            try:
                sock, _ = await loop.sock_accept(server)
            except OSError:
                await asyncio.sleep(0.1)  # out of descriptors, or gone already
                continue
            if self._count >= _MAX_CONNECTIONS:
                sock.close()
                continue
            self._count += 1
            task = loop.create_task(self._one(sock, handle))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    async def _one(self, sock: socket.socket, handle: Callable[[Client], Awaitable[None]]) -> None:
        watch = asyncio.get_running_loop().create_task(_end_when_idle(sock, asyncio.current_task()))
        try:
            with sock:
                sock.setblocking(False)
                with contextlib.suppress(Closed, OSError, TimeoutError):
                    await handle(Client(sock))
        finally:
            watch.cancel()
            self._count -= 1

    # --- what the kernel redirects ----------------------------------------------------------------------

    async def redirected(self, client: Client) -> None:
        """A connection to a port at which names are checked, made to whatever address."""
        where, port = _original(client.sock)
        if (str(where), port) == client.sock.getsockname()[:2] or port not in CHECKED_PORTS:
            return  # somebody called us
        await self._checked(client, where, port)

    async def _checked(self, client: Client, where: Target, port: int) -> None:
        """Look for the name. *where* is what the client asked for: an address, which need not be the name's;
        or a name, which must be the same."""
        while not client.data:
            await client.more()
        if client.data[0] == _TLS:
            await self._tls(client, where, port)
        else:
            await self._http(client, where, port)

    async def _tls(self, client: Client, where: Target, port: int) -> None:
        while True:
            try:
                said = hello.server_name(client.data)
                break
            except hello.Incomplete:
                await client.more()
            except hello.NotTls:
                self._world.denials.add(self._called(where), port, "tcp")
                return
        try:
            upstream = await self._open(self._agreed(where, said, port), port, where)
        except (Denied, OSError):
            await client.send(_ALERT)
            return
        with upstream:
            await asyncio.get_running_loop().sock_sendall(upstream, client.data)
            await _both(client.sock, upstream)

    async def _http(self, client: Client, where: Target, port: int) -> None:
        head = await self._head(client, where, port)
        if head is None:
            return
        try:
            if head.method == "CONNECT" or head.port not in (0, port):
                self._world.denials.add(head.host, head.port, "tcp")
                raise Denied
            await self._exchange(client, head, self._agreed(where, head.host, port), port, where)
        except (Denied, OSError) as error:
            await client.send(_failure(error, head.host or self._called(where), port))

    async def _head(self, client: Client, where: Target, port: int) -> http.Head | None:
        while True:
            try:
                return http.read_head(client.data)
            except http.Incomplete:
                await client.more()
            except http.BadRequest as error:
                self._world.denials.add(self._called(where), port, "tcp")
                await client.send(_answer("400 Bad Request", f"sandbox: {error}"))
                return None

    async def _exchange(
        self, client: Client, head: http.Head, target: Target, port: int, wanted: Target = ""
    ) -> None:
        """Pass on one request, and its answer: no second one, which could be for another host."""
        upstream = await self._open(target, port, wanted)
        loop = asyncio.get_running_loop()
        with upstream:
            await loop.sock_sendall(upstream, http.rewritten(head))
            client.data = client.data[head.size :]
            if head.upgrade:
                await self._upgrade(client, upstream)
                return
            body = loop.create_task(_body(client, upstream, head.length))
            try:
                await _copy(upstream, client.sock)
            finally:
                body.cancel()
                with contextlib.suppress(asyncio.CancelledError, http.BadRequest, OSError):
                    await body

    async def _upgrade(self, client: Client, upstream: socket.socket) -> None:
        """Only when the server agrees is it no longer HTTP."""
        loop = asyncio.get_running_loop()
        said = b""
        while b"\n" not in said and len(said) < 1024:
            part = await loop.sock_recv(upstream, 1024)
            if not part:
                break
            said += part
        await loop.sock_sendall(client.sock, said)
        if said.startswith(b"HTTP/1.1 101 "):
            await loop.sock_sendall(upstream, client.data)
            await _both(client.sock, upstream)
        else:
            await _copy(upstream, client.sock)

    # --- proxies --------------------------------------------------------------------------------------

    async def proxied(self, client: Client) -> None:
        """A client that knows that we are a proxy."""
        while not client.data:
            await client.more()
        if client.data[0] == 5:
            await self._socks(client)
            return
        head = await self._head(client, "?", 0)
        if head is None:
            return
        if head.method == "CONNECT":
            client.data = client.data[head.size :]
            await self._tunnel(
                client, head.host, head.port, b"HTTP/1.1 200 Connection established\r\n\r\n", _failure
            )
        elif not head.absolute:
            await client.send(_answer("400 Bad Request", "sandbox: this is a proxy"))
        else:
            port = head.port or 80
            try:
                await self._exchange(client, head, self._target(head.host, port), port)
            except Denied:
                await client.send(_refusal(head.host, port))
            except OSError as error:
                await client.send(_failure(error, head.host, port))

    async def _socks(self, client: Client) -> None:
        _, methods = await client.take(2)
        if 0 not in await client.take(methods):
            await client.send(b"\x05\xff")
            return
        await client.send(b"\x05\x00")
        version, command, _, kind = await client.take(4)
        if version != 5:
            return
        if kind == 3:
            (length,) = await client.take(1)
            where = (await client.take(length)).decode("latin-1")
        elif kind in (1, 4):
            where = str(ip_address(await client.take(4 if kind == 1 else 16)))
        else:
            await client.send(_socks_reply(8))
            return
        (port,) = struct.unpack("!H", await client.take(2))
        if command != 1 or not port:
            await client.send(_socks_reply(7))
            return
        await self._tunnel(client, where, port, _socks_reply(0), _socks_failure)

    async def _tunnel(
        self,
        client: Client,
        where: str,
        port: int,
        agreed: bytes,
        failure: Callable[[Exception, str, int], bytes],
    ) -> None:
        """Connect a client with what it asked for. Where names are checked, they are in what follows."""
        try:
            try:
                target = named(where)
            except ValueError:
                self._world.denials.add("?", port, "tcp")
                raise Denied from None
            if not isinstance(target, str) and port in CHECKED_PORTS and not self._granted(target, port):
                await client.send(agreed)
                await self._checked(client, target, port)
                return
            target = self._target(where, port)
            if isinstance(target, str) and self._world.policy.checked(target, port):
                await client.send(agreed)
                await self._checked(client, target, port)
                return
            upstream = await self._open(target, port)
        except (Denied, OSError) as error:
            await client.send(failure(error, where, port))
            return
        with upstream:
            await client.send(agreed)
            await asyncio.get_running_loop().sock_sendall(upstream, client.data)
            await _both(client.sock, upstream)

    # --- decisions ------------------------------------------------------------------------------------

    def _called(self, where: Target) -> str:
        return where if isinstance(where, str) else self._world.name_of(where)

    def _granted(self, address: Address, port: int) -> bool:
        policy = self._world.policy
        return policy.grants(address, port) or (policy.allow is None and policy.may_address(address, port))

    def _agreed(self, where: Target, said: str, port: int) -> Target:
        """What a connection is to, that was made to *where*, and *said* a name, or none.

        Raises:
            Denied: neither may be reached, or they are not the same.
        """
        if not said:
            target: Target = where
            if isinstance(where, str):
                self._world.denials.add(where, port, "tcp")
                raise Denied  # TLS that hides its name
        else:
            target = self._target(said, port)
            if isinstance(where, str) and target != where:
                self._world.denials.add(said, port, "tcp")
                raise Denied
        if not isinstance(target, str) and not self._granted(target, port):
            self._world.denials.add(self._called(target), port, "tcp")
            raise Denied
        return target

    def _target(self, text: str, port: int) -> Target:
        """What *text* names, if it may be reached.

        Raises:
            Denied: it may not.
        """
        try:
            target = named(text)
        except ValueError:
            self._world.denials.add("?", port, "tcp")
            raise Denied from None
        policy = self._world.policy
        good = policy.may_name(target, port) if isinstance(target, str) else self._granted(target, port)
        good = good and (not isinstance(target, str) or self._world.counts(target))
        if not good:
            self._world.denials.add(str(target), port, "tcp")
            raise Denied
        return target

    async def _open(self, target: Target, port: int, wanted: Target = "") -> socket.socket:
        """A connection to *target*, at the address that was *wanted* if it is one of those.

        Raises:
            Denied: all its addresses are closed.
            OSError: none of them answers, or there are none.
        """
        if isinstance(target, str):
            found = await self._resolver.addresses(target)
            if not found:
                raise OSError(errno.EHOSTUNREACH, "no address of it is known")
            usable = [each for each in found if self._world.usable(each)]
            policy = self._world.policy
            addresses = [each for each in usable if not policy.denies(plain(each), port)]
            addresses.sort(key=lambda each: plain(each) != wanted)
            if not addresses:
                self._world.denials.add(target, port, "tcp" if usable else "rebinding")
        else:
            addresses = [target] if self._world.usable(target) else []
            if not addresses:
                self._world.denials.add(str(target), port, "tcp")
        if not addresses:
            raise Denied
        return await _connect(self._world, addresses, port)


async def _connect(world: World, addresses: Sequence[Address], port: int) -> socket.socket:
    error: OSError = OSError("no address")
    for address in addresses[:_MAX_TRIED]:
        try:
            sock = world.socket(address, socket.SOCK_STREAM)
        except OSError as failed:
            error = failed
            continue
        try:
            where = (str(address), port)
            await asyncio.wait_for(asyncio.get_running_loop().sock_connect(sock, where), _CONNECT)
            return sock
        except (OSError, TimeoutError) as failed:
            error = failed if isinstance(failed, OSError) else TimeoutError("it took too long")
            sock.close()
        except BaseException:
            sock.close()
            raise
    raise error


def _original(sock: socket.socket) -> tuple[Address, int]:
    """Where a redirected connection was meant to go."""
    if sock.family == socket.AF_INET6:
        data = sock.getsockopt(socket.IPPROTO_IPV6, _SO_ORIGINAL_DST, 28)
        return plain(ip_address(data[8:24])), int.from_bytes(data[2:4], "big")
    data = sock.getsockopt(socket.SOL_IP, _SO_ORIGINAL_DST, 16)
    return ip_address(data[4:8]), int.from_bytes(data[2:4], "big")


async def _end_when_idle(sock: socket.socket, task: asyncio.Task[None] | None) -> None:
    """Cancel *task*, which serves *sock*, once no data has moved there for long (tcp(7), TCP_INFO)."""
    assert task is not None
    while True:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 60)
        sent, _, received = struct.unpack_from("=3I", info, _LAST_DATA_SENT)
        left = _IDLE - min(sent, received) / 1000
        if left <= 0:
            task.cancel()
            return
        await asyncio.sleep(left)


async def _copy(source: socket.socket, sink: socket.socket) -> None:
    """Everything, and then the end."""
    loop = asyncio.get_running_loop()
    buffer = bytearray(_PIECE)
    view = memoryview(buffer)
    while size := await loop.sock_recv_into(source, buffer):
        await loop.sock_sendall(sink, view[:size])
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


async def _both(one: socket.socket, other: socket.socket) -> None:
    """Until both have said all, or one is lost."""
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(_copy(one, other)), loop.create_task(_copy(other, one))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _body(client: Client, upstream: socket.socket, length: int | None) -> None:
    """A request's body, and nothing that comes behind it."""
    loop = asyncio.get_running_loop()
    chunks = http.Chunks() if length is None else None
    left = length or 0
    data = client.data
    while True:
        if chunks is not None:
            size = chunks.take(data)
            done = chunks.done
        else:
            size = min(left, len(data))
            left -= size
            done = left == 0
        if size:
            await loop.sock_sendall(upstream, data[:size])
        if done:
            return
        data = await loop.sock_recv(client.sock, 65536)
        if not data:
            upstream.shutdown(socket.SHUT_WR)
            return


def _answer(status: str, text: str) -> bytes:
    body = text.encode("ascii", "replace") + b"\n"
    head = f"HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + b"connection: close\r\n\r\n" + body


def _printable(text: str) -> str:
    return "".join(char if "!" <= char <= "~" else "?" for char in text)[:255]


def _refusal(where: str, port: int) -> bytes:
    return _answer("403 Forbidden", f"sandbox: {_printable(where)}:{port} is not allowed here")


def _failure(error: Exception, where: str, port: int) -> bytes:
    if isinstance(error, Denied):
        return _refusal(where, port)
    reason = getattr(error, "strerror", None) or "it can't be reached"
    return _answer("502 Bad Gateway", f"sandbox: {_printable(where)}:{port}: {reason}")


def _socks_reply(code: int) -> bytes:
    return bytes([5, code, 0, 1, 0, 0, 0, 0, 0, 0])


def _socks_failure(error: Exception, where: str, port: int) -> bytes:
    return _socks_reply(
        2 if isinstance(error, Denied) else 5 if isinstance(error, ConnectionRefusedError) else 4
    )
