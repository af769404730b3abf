"""How much of the relay clients can hold, and for how long."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import pytest

from sandbox.egress import relay
from sandbox.egress.relay import Client, Relay


@contextlib.contextmanager
def connected(server: socket.socket, count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_connection(server.getsockname(), timeout=20))
            for _ in range(count)
        ]


async def held(client: Client) -> None:
    """A connection that asks for nothing."""
    with contextlib.suppress(relay.Closed):
        while True:
            await client.more()


async def serving(server: socket.socket, count: int) -> int:
    """How many of so many clients are served at once, the last being turned away as all others end."""
    made = Relay(None, None)  # type: ignore[arg-type]
    loop = asyncio.get_running_loop()
    listening = loop.create_task(made.listen(server, held))
    with connected(server, count) as clients:
        for each in clients:
            each.setblocking(False)
        for each in clients[relay._MAX_CONNECTIONS :]:
            assert await asyncio.wait_for(loop.sock_recv(each, 1), 20) == b""
        served = made._count
    listening.cancel()
    return served


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=128) as made:
        made.setblocking(False)
        yield made


def test_only_so_many_at_once(server: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "_MAX_CONNECTIONS", 8)
    assert asyncio.run(serving(server, 30)) == 8


def test_one_at_which_nothing_moves_ends(server: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is waited for, be it from the client or from whom it is connected to."""
    monkeypatch.setattr(relay, "_IDLE", 0.2)

    async def stuck(client: Client) -> None:
        await asyncio.Event().wait()

    async def play() -> int:
        made = Relay(None, None)  # type: ignore[arg-type]
        loop = asyncio.get_running_loop()
        listening = loop.create_task(made.listen(server, stuck))
        with connected(server, 1) as (client,):
            client.setblocking(False)
            assert await asyncio.wait_for(loop.sock_recv(client, 1), 20) == b""
        listening.cancel()
        return made._count

    assert asyncio.run(play()) == 0


def test_one_at_which_something_moves_goes_on(server: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data that nobody reads is none that moves for ever, but bytes now and then are enough."""
    monkeypatch.setattr(relay, "_IDLE", 0.5)
    ended = []

    async def counting(client: Client) -> None:
        for _ in range(20):
            await client.more()
        ended.append(True)

    async def play() -> None:
        loop = asyncio.get_running_loop()
        listening = loop.create_task(Relay(None, None).listen(server, counting))  # type: ignore[arg-type]
        with connected(server, 1) as (client,):
            client.setblocking(False)
            for _ in range(20):
                await loop.sock_sendall(client, b"x")
                await asyncio.sleep(0.05)  # all in all longer than it may be silent
            await asyncio.wait_for(loop.sock_recv(client, 1), 20)
        listening.cancel()

    asyncio.run(play())
    assert ended
