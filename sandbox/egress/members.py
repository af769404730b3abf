"""The program of a private network: it gives its members their numbers, and answers their names.

`main` is called with its name, CONFIGURATION (JSON, made by `sandbox.launch.private`) and READY, a
descriptor for a byte when it serves. Descriptors: 3 a socket (SOCK_SEQPACKET) that listens for members'
launchers, 4 a netlink socket of the network's namespace. It has no files, and once it has begun no rights
over anything.

A launcher says what it wants in one message of JSON, and is answered by one:

    {"op": "join", "names": [NAME, ...]}    {"number": N}, with a netlink socket of the network's namespace;
                                            it is a member until it closes the connection
    {"op": "list"}                          {"members": [{"number": N, "names": [...]}, ...]}
    {"op": "end"}                           nothing: the network ends

An error is {"error": TEXT}. The network ends with its last member, or when none has come at all.

Members ask for names, and whatever they send is hostile. NAME and NAME.NETWORK are members'; a name without
a dot or below NETWORK is never asked for elsewhere. Other questions are passed on as they are where there is
a way out.
"""

from __future__ import annotations

import sys

sys.modules.setdefault("ssl", None)  # type: ignore[arg-type]  # asyncio takes it if it is there: 10 ms

import array  # noqa: E402
import asyncio  # noqa: E402
import base64  # noqa: E402
import contextlib  # noqa: E402
import gc  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import socket  # noqa: E402
from collections import Counter, OrderedDict  # noqa: E402
from collections.abc import Mapping, Sequence  # noqa: E402
from ipaddress import IPv4Address, IPv6Address, ip_address  # noqa: E402
from typing import Any, cast  # noqa: E402

from sandbox.addresses import Address  # noqa: E402
from sandbox.egress import confine, dns  # noqa: E402

__all__ = ["Members", "Names", "main"]

_LISTENING, _NETLINK = 3, 4
_IP_FREEBIND = 15
_BACKLOG = 128
_MESSAGE = 1 << 16
_PATIENCE = 10.0  # seconds: for the first member to come
_TTL = 2
_TRY = 3.0  # seconds that a name server has for its answer
_IDLE = 10.0
#: questions that are being asked, of one member and of all
_ASKED, _ALL_ASKED = 64, 512
_CLIENTS = 256


def main(argv: list[str]) -> None:
    """Serve until there is nobody left."""
    config, ready = json.loads(argv[1]), int(argv[2])
    netlink = socket.socket(fileno=_NETLINK)
    confine.enter(netlink.fileno())
    confine.bring_up_loopback()
    asked = [
        _listen(address, kind)
        for address in config["addresses"]
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM)
    ]
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    members = Members(config, loop.stop)
    kept = loop.run_until_complete(_start(config, members, asked))
    confine.confine(base64.b64decode(config["seccomp"]), admin=False)
    gc.freeze()
    os.write(ready, b"r")
    loop.run_forever()
    del kept


def _listen(address: str, kind: int) -> socket.socket:
    """At port 53 of an address that the bridge is about to get."""
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
    if ":" in address:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind((address, 53))
    if kind == socket.SOCK_STREAM:
        sock.listen(_BACKLOG)
    sock.setblocking(False)
    return sock


async def _start(config: Mapping[str, Any], members: Members, asked: Sequence[socket.socket]) -> list[Any]:
    """Start to serve; what must be kept for that to go on."""
    loop = asyncio.get_running_loop()
    listening = socket.socket(fileno=_LISTENING)
    listening.setblocking(False)
    loop.add_reader(listening, members.accept, listening)
    loop.call_later(_PATIENCE, members.give_up)
    names = Names(config["name"], members, [ip_address(each) for each in config["resolvers"]])
    kept: list[Any] = [listening]
    for sock in asked:
        if sock.type == socket.SOCK_DGRAM:
            kept.append(await loop.create_datagram_endpoint(lambda: Datagrams(names), sock=sock))
        else:
            kept.append(await asyncio.start_server(names.serve, sock=sock, limit=1 << 17))
    return kept


class Members:
    """Who is on the network: a number and names for each connection of a launcher's."""

    def __init__(self, config: Mapping[str, Any], end: Any) -> None:
        self._bases = (IPv4Address(config["first"]), IPv6Address(config["first6"]))
        # Those that were given back go to the end: what still knows an old member forgets it meanwhile.
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(*config["numbers"]))
        self._joined: dict[socket.socket, tuple[int, tuple[str, ...]]] = {}
        self._waiting: set[socket.socket] = set()
        self._end = end

    def addresses(self, name: str, kind: int) -> list[Address]:
        """Of all who have that name; one of this host's nobody has (RFC 6761)."""
        if name == "localhost":
            return []
        base = self._bases[kind == dns.AAAA]
        return [base + number for number, names in self._joined.values() if name in names]

    def give_up(self) -> None:
        """End, if there is nobody."""
        if not self._joined and not self._waiting:
            self._end()

    def accept(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection, _ = listening.accept()
            connection.setblocking(False)
            self._waiting.add(connection)
            asyncio.get_running_loop().add_reader(connection, self._read, connection)

    def _read(self, connection: socket.socket) -> None:
        """A launcher's one message, or its end."""
        try:
            data = connection.recv(_MESSAGE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data or connection in self._joined:
            self._leave(connection)
            return
        try:
            request = json.loads(data)
            self._answer(connection, request["op"], request)
        except (OSError, ValueError, KeyError, TypeError):
            self._leave(connection)

    def _answer(self, connection: socket.socket, op: str, request: Mapping[str, Any]) -> None:
        if op == "join":
            self._join(connection, tuple(str(each).lower() for each in request["names"]))
        elif op == "list":
            found = [{"number": number, "names": names} for number, names in self._joined.values()]
            connection.send(json.dumps({"members": sorted(found, key=lambda each: each["number"])}).encode())
            self._leave(connection)
        elif op == "end":
            self._end()
        else:
            self._leave(connection)

    def _join(self, connection: socket.socket, names: tuple[str, ...]) -> None:
        if not self._free:
            connection.send(b'{"error": "it has as many members as it can have"}')
            self._leave(connection)
            return
        number, _ = self._free.popitem(last=False)
        self._waiting.discard(connection)
        self._joined[connection] = (number, names)
        # Each has its own: answers would go to whoever reads first.
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
            fds = array.array("i", [netlink.fileno()])
            reply = json.dumps({"number": number}).encode()
            connection.sendmsg([reply], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])

    def _leave(self, connection: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(connection)
        connection.close()
        self._waiting.discard(connection)
        number, _ = self._joined.pop(connection, (0, ()))
        if number:
            self._free[number] = None
            self.give_up()


class Datagrams(asyncio.DatagramProtocol):
    """Questions over UDP, at one address."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        self._names.ask(data, addr, self._reply)

    def _reply(self, data: bytes, addr: tuple[Any, ...]) -> None:
        if self._transport is not None:
            self._transport.sendto(data, addr)


class Names:
    """The name server of the network called *name*."""

    def __init__(self, name: str, members: Members, resolvers: Sequence[Address]) -> None:
        self._suffix = "." + name
        self._labels = name.encode().split(b".")
        self._members = members
        self._resolvers = resolvers
        self._tasks: set[asyncio.Task[None]] = set()
        self._asking: Counter[str] = Counter()
        self._clients: Counter[str] = Counter()

    def own(self, data: bytes, limit: int) -> bytes | None:
        """The answer to what is ours to answer; None where others are to be asked."""
        try:
            question = dns.read_question(data)
        except dns.Malformed:
            return dns.refusal(data, dns.FORMERR)
        name = question.name.removesuffix(self._suffix)
        if self._resolvers and not self._is_ours(dns.labels(question)):
            return None
        if not any(self._members.addresses(name, kind) for kind in (dns.A, dns.AAAA)):
            return dns.answer(question, dns.NXDOMAIN)
        if question.kind not in (dns.A, dns.AAAA):
            return dns.answer(question, dns.NOERROR)
        found = self._members.addresses(name, question.kind)
        return dns.answer(question, dns.NOERROR, found, _TTL, limit=limit or question.udp)

    def _is_ours(self, labels: Sequence[bytes]) -> bool:
        """Whatever else is in it, a name that members could have is asked for nowhere else."""
        return len(labels) == 1 or labels[-len(self._labels) :] == self._labels

    # --- over UDP -----------------------------------------------------------------------------------

    def ask(self, data: bytes, addr: tuple[Any, ...], reply: Any) -> None:
        answer = self.own(data, 0)
        if answer is not None:
            if answer:
                reply(answer, addr)
            return
        if self._asking[addr[0]] >= _ASKED or len(self._tasks) >= _ALL_ASKED:
            return  # clients ask again
        self._asking[addr[0]] += 1
        task = asyncio.get_running_loop().create_task(self._pass_on(data, addr, reply))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, data: bytes, addr: tuple[Any, ...], reply: Any) -> None:
        try:
            for server in self._resolvers:
                with contextlib.suppress(OSError, TimeoutError):
                    reply(await asyncio.wait_for(self._by_udp(server, data), _TRY), addr)
                    return
        finally:
            self._asking[addr[0]] -= 1
            if not self._asking[addr[0]]:
                del self._asking[addr[0]]

    async def _by_udp(self, server: Address, data: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        family = socket.AF_INET if server.version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            sock.connect((str(server), 53))
            # Under a number of ours: who guesses answers has to guess that, too.
            number = os.urandom(2)
            await loop.sock_sendall(sock, number + data[2:])
            while True:
                found = await loop.sock_recv(sock, 65535)
                if found[:2] == number:
                    return data[:2] + found[2:]

    # --- over TCP -----------------------------------------------------------------------------------

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        client = writer.get_extra_info("peername")[0]
        self._clients[client] += 1
        try:
            while self._clients[client] <= _ASKED and sum(self._clients.values()) <= _CLIENTS:
                data = await asyncio.wait_for(_message(reader), _IDLE)
                answer = self.own(data, 65535)
                if answer is None:
                    answer = await self._by_tcp(data)
                if not answer:
                    break
                writer.write(dns.framed(answer))
                await asyncio.wait_for(writer.drain(), _IDLE)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass
        finally:
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]
            writer.close()

    async def _by_tcp(self, data: bytes) -> bytes:
        for server in self._resolvers:
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                return await asyncio.wait_for(_over_tcp(server, data), _TRY)
        return dns.refusal(data, dns.SERVFAIL)


async def _message(reader: asyncio.StreamReader) -> bytes:
    size = int.from_bytes(await reader.readexactly(2), "big")
    return await reader.readexactly(size)


async def _over_tcp(server: Address, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(str(server), 53)
    try:
        writer.write(dns.framed(data))
        return await _message(reader)
    finally:
        writer.close()
