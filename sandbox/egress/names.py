"""The DNS proxy: it asks for names that are allowed, and for no others.

A client's message is never passed on. What is asked is made anew: the name in lower case, its address of
one kind, nothing else; so names that are not allowed, other types and odd bytes carry nothing out. An answer
becomes known to the kernel's rules before it becomes known to the client.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import cast

from sandbox.addresses import Address
from sandbox.egress import dns
from sandbox.egress.world import World

__all__ = ["Resolver", "Server"]

_TRY = 2.0  # seconds for one server
_TRIES = 2
_MAX_ASKED = 64  # at once
_MAX_WRONG = 16  # answers to something else, before a server is given up
_MAX_CACHE = 512
_LONGEST, _SHORTEST = 300, 1  # how long an answer is kept, by us and by clients, seconds
_GRACE = 60  # the kernel lets through for longer: clients are slow, and keep what they know
_RATE, _BURST = 100.0, 200.0  # questions a second
_MAX_CLIENTS = 64  # connections
_IDLE = 10.0
_MAX_ADDRESSES = 16  # of one name


def _place(server: Address) -> tuple[str, int] | tuple[str, int, int, int]:
    """Where *server* listens, for a socket; a scope by its number."""
    where, _, scope = str(server).partition("%")
    return (where, 53, 0, int(scope)) if scope else (where, 53)


class Resolver:
    """Asks name servers, on behalf of the services here."""

    def __init__(self, world: World, servers: Sequence[Address]) -> None:
        self._world = world
        self._servers = tuple(servers)
        self._room = asyncio.Semaphore(_MAX_ASKED)
        self._cache: OrderedDict[tuple[str, int], tuple[dns.Answer, float]] = OrderedDict()

    async def lookup(self, name: str, kind: int) -> dns.Answer:
        """The addresses of *name*; code SERVFAIL when no server says."""
        known = self._cache.get((name, kind))
        now = time.monotonic()
        if known is not None and known[1] > now:
            return known[0]._replace(ttl=max(_SHORTEST, int(known[1] - now)))
        answer = await self.ask(name, kind)
        if answer.code in (dns.NOERROR, dns.NXDOMAIN):
            ttl = min(max(answer.ttl, _SHORTEST), _LONGEST)
            answer = answer._replace(ttl=ttl, addresses=answer.addresses[:_MAX_ADDRESSES])
            self._cache[name, kind] = answer, time.monotonic() + ttl
            self._cache.move_to_end((name, kind))
            if len(self._cache) > _MAX_CACHE:
                self._cache.popitem(last=False)
        return answer

    async def addresses(self, name: str) -> list[Address]:
        """All addresses of *name*, IPv4 first, be they of use or not."""
        found = await asyncio.gather(self.lookup(name, dns.A), self.lookup(name, dns.AAAA))
        return [address for answer in found for address in answer.addresses]

    async def ask(self, name: str, kind: int) -> dns.Answer:
        """The same, of the servers and not of what is remembered."""
        async with self._room:
            return await self._ask(name, kind)

    async def _ask(self, name: str, kind: int) -> dns.Answer:
        failed = dns.Answer(dns.SERVFAIL, (), 0, False)
        for _ in range(_TRIES):
            for server in self._servers:
                with contextlib.suppress(OSError, TimeoutError, dns.Malformed, asyncio.IncompleteReadError):
                    answer = await asyncio.wait_for(self._by_udp(server, name, kind), _TRY)
                    if answer.truncated:
                        with contextlib.suppress(OSError, TimeoutError, dns.Malformed):
                            answer = await asyncio.wait_for(self._by_tcp(server, name, kind), _TRY)
                    if answer.code in (dns.NOERROR, dns.NXDOMAIN):
                        return answer
                    failed = answer._replace(code=dns.SERVFAIL, addresses=())
        return failed

    async def _by_udp(self, server: Address, name: str, kind: int) -> dns.Answer:
        loop = asyncio.get_running_loop()
        number = int.from_bytes(os.urandom(2), "big")
        with self._world.socket(server, socket.SOCK_DGRAM) as sock:
            sock.connect(_place(server))
            await loop.sock_sendall(sock, dns.query(number, name, kind))
            for _ in range(_MAX_WRONG):
                with contextlib.suppress(dns.Malformed):
                    return dns.read_answer(await loop.sock_recv(sock, 65535), number, name, kind)
        raise dns.Malformed("nothing but wrong answers")

    async def _by_tcp(self, server: Address, name: str, kind: int) -> dns.Answer:
        loop = asyncio.get_running_loop()
        number = int.from_bytes(os.urandom(2), "big")
        with self._world.socket(server, socket.SOCK_STREAM) as sock:
            await loop.sock_connect(sock, _place(server))
            await loop.sock_sendall(sock, dns.framed(dns.query(number, name, kind)))
            data = b""
            while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2], "big"):
                part = await loop.sock_recv(sock, 65535)
                if not part:
                    raise dns.Malformed("too short")
                data += part
        return dns.read_answer(data[2 : 2 + int.from_bytes(data[:2], "big")], number, name, kind)


class Server(asyncio.DatagramProtocol):
    """Answers clients, over UDP as a protocol of asyncio's, and over TCP by `serve`."""

    def __init__(self, world: World, resolver: Resolver) -> None:
        self._world = world
        self._resolver = resolver
        self._tasks: set[asyncio.Task[None]] = set()
        self._clients = 0
        self._tokens, self._filled = _BURST, time.monotonic()
        self._transport: asyncio.DatagramTransport | None = None

    # --- clients ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if len(self._tasks) >= 2 * _MAX_ASKED or not self._may_ask():
            return  # clients ask again
        task = asyncio.get_running_loop().create_task(self._by_udp(data, addr))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _by_udp(self, data: bytes, addr: tuple[str, int]) -> None:
        reply = await self.answer(data, udp=True)
        if reply and self._transport is not None:
            self._transport.sendto(reply, addr)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection over TCP."""
        self._clients += 1
        try:
            while self._clients <= _MAX_CLIENTS:
                size = int.from_bytes(await asyncio.wait_for(reader.readexactly(2), _IDLE), "big")
                data = await asyncio.wait_for(reader.readexactly(size), _IDLE)
                if not self._may_ask():
                    break
                reply = await self.answer(data, udp=False)
                if not reply:
                    break
                writer.write(dns.framed(reply))
                await asyncio.wait_for(writer.drain(), _IDLE)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass
        finally:
            self._clients -= 1
            writer.close()

    def _may_ask(self) -> bool:
        now = time.monotonic()
        self._tokens = min(_BURST, self._tokens + (now - self._filled) * _RATE)
        self._filled = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    # --- questions ------------------------------------------------------------------------------------

    async def answer(self, data: bytes, *, udp: bool) -> bytes:
        """The answer to a client's message; b"": none."""
        try:
            question = dns.read_question(data)
        except dns.Malformed:
            return dns.refusal(data, dns.FORMERR)
        limit = question.udp if udp else 65535
        if question.name and self._world.around.has(question.name) and not self._denied(question.name):
            return await self._of_network(question, limit)
        if not self._allowed(question.name):
            self._world.denials.add(question.name, 0, "dns")
            return dns.answer(question, dns.REFUSED)
        if question.kind not in (dns.A, dns.AAAA):
            return dns.answer(question, dns.NOERROR)
        found = await self._resolver.lookup(question.name, question.kind)
        usable = [address for address in found.addresses if self._world.usable(address)]
        if len(usable) < len(found.addresses):
            self._world.denials.add(question.name, 0, "rebinding")
            if not usable:
                return dns.answer(question, dns.REFUSED)
        try:
            self._world.learn(question.name, usable, found.ttl + _GRACE)
        except OSError:  # the sets are full
            return dns.answer(question, dns.SERVFAIL)
        code = dns.NOERROR if usable else found.code
        return dns.answer(question, code, usable, found.ttl, limit=limit)

    async def _of_network(self, question: dns.Question, limit: int) -> bytes:
        """Sandboxes on the same private network can be reached, so that nothing has to be opened."""
        if question.kind not in (dns.A, dns.AAAA):
            return dns.answer(question, dns.NOERROR)
        found = await self._resolver.ask(question.name, question.kind)
        usable = [address for address in found.addresses if self._world.around.usable(address)]
        code = dns.SERVFAIL if found.addresses and not usable else found.code
        return dns.answer(question, code, usable, found.ttl, limit=limit)

    def _denied(self, name: str) -> bool:
        return any(each.names(name) and each.whole for each in self._world.policy.deny)

    def _allowed(self, name: str) -> bool:
        return bool(name) and self._world.policy.resolves(name) and self._world.counts(name)
