"""The process of the services: `main` is called with its name, CONFIGURATION and READY.

CONFIGURATION is JSON, in as many arguments as it takes, made by `sandbox.net.egress`. READY is a descriptor:
a byte tells that everything listens, lines behind it what was denied. Descriptor 3 is a netlink socket of the
sandbox's network. SIGUSR1 asks for what the kernel has refused until now; the line "told" is the answer.
"""

from __future__ import annotations

import sys

sys.modules.setdefault("ssl", None)  # type: ignore[arg-type]  # asyncio takes it if it is there: 10 ms

import asyncio  # noqa: E402
import base64  # noqa: E402
import encodings.idna  # noqa: E402, F401  # asyncio and socket look for it when they are given a name
import gc  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import socket  # noqa: E402
from collections.abc import Mapping  # noqa: E402
from ipaddress import ip_address, ip_network  # noqa: E402
from typing import Any  # noqa: E402

from sandbox.destination import Policy, parse  # noqa: E402
from sandbox.egress import confine  # noqa: E402
from sandbox.egress.names import Resolver, Server  # noqa: E402
from sandbox.egress.nfset import Sets  # noqa: E402
from sandbox.egress.relay import Relay  # noqa: E402
from sandbox.egress.world import Around, Denials, World  # noqa: E402

__all__ = ["main"]

_NETLINK = 3
_LOOK = 0.5  # seconds between two looks at what the kernel refused
_BACKLOG = 128


def main(argv: list[str]) -> None:
    """Serve until we are killed."""
    config, ready = json.loads("".join(argv[1:-1])), int(argv[-1])
    if config["mode"] == "proxy":
        # Listening inside, connecting outside: sockets keep the namespace that they were made in.
        listening = [socket.socket(fileno=fd) for fd in config["listening"]]
        sets = None
    else:
        netlink = socket.socket(fileno=_NETLINK)
        confine.enter(netlink.fileno())
        confine.bring_up_loopback()
        listening = _listen(config)
        sets = Sets(netlink, config["table"])
    os.set_blocking(ready, False)
    allow = config["allow"]
    policy = Policy(None if allow is None else map(parse, allow), map(parse, config["deny"]))
    around = Around(config["network"], tuple(map(ip_network, config["peers"])))
    world = World(
        policy, Denials(ready), mark=config["mark"], private=config["private"], sets=sets, around=around
    )
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    loop.set_exception_handler(lambda loop, context: _tell(world, context))
    kept = loop.run_until_complete(_start(config, world, listening))
    confine.confine(base64.b64decode(config["seccomp"]), admin=sets is not None)
    loop.add_signal_handler(signal.SIGUSR1, _flush, world, ready)
    gc.freeze()
    os.write(ready, b"r")
    loop.run_forever()
    del kept


def _listen(config: Mapping[str, Any]) -> list[socket.socket]:
    """The DNS server's sockets, then those of the relay, in the sandbox's network."""
    dns = (config["dns"], 53)
    found = []
    for kind, family, where in (
        (socket.SOCK_DGRAM, socket.AF_INET, dns),
        (socket.SOCK_STREAM, socket.AF_INET, dns),
        (socket.SOCK_STREAM, socket.AF_INET, ("127.0.0.1", config["port"])),
        (socket.SOCK_STREAM, socket.AF_INET6, ("::1", config["port"])),
    ):
        try:
            sock = socket.socket(family, kind)
            sock.bind(where)
        except OSError:
            if family == socket.AF_INET6:
                continue  # a machine without IPv6
            raise
        if kind == socket.SOCK_STREAM:
            sock.listen(_BACKLOG)
        found.append(sock)
    return found


async def _start(config: Mapping[str, Any], world: World, listening: list[socket.socket]) -> list[Any]:
    """Start to serve; what must be kept for that to go on."""
    loop = asyncio.get_running_loop()
    resolver = Resolver(world, [ip_address(each) for each in map(_numbered, config["resolvers"])])
    relay = Relay(world, resolver)
    kept: list[Any] = []
    if config["mode"] == "proxy":
        handle, relayed = relay.proxied, listening
    else:
        handle, relayed = relay.redirected, listening[2:]
        server = Server(world, resolver)
        kept.append(await loop.create_datagram_endpoint(lambda: server, sock=listening[0]))
        kept.append(await asyncio.start_server(server.serve, sock=listening[1], limit=1 << 17))
        kept.append(loop.create_task(_look(world)))
    for sock in relayed:
        sock.setblocking(False)
        kept.append(loop.create_task(relay.listen(sock, handle)))
    return kept


def _numbered(address: str) -> str:
    """With the number of its scope (fe80::1%eth0): names of devices can't be looked for later."""
    where, percent, device = address.partition("%")
    if not percent or device.isdecimal():
        return address
    try:
        return f"{where}%{confine.index_of(device)}"
    except OSError:
        return where  # which leads nowhere, as without the device


async def _look(world: World) -> None:
    while True:
        await asyncio.sleep(_LOOK)
        _take_refused(world)


def _take_refused(world: World) -> None:
    try:
        world.take_refused()
    except OSError as error:  # the kernel did not answer in time, or not to us
        _tell(world, {"message": "cannot see what was refused", "exception": error})


def _flush(world: World, ready: int) -> None:
    _take_refused(world)
    os.set_blocking(ready, True)  # the guard reads whatever else it does; "told" is not to be lost
    world.denials.tell_counts()
    world.denials.tell("told")
    os.set_blocking(ready, False)


def _tell(world: World, context: Mapping[str, Any]) -> None:
    """An error that nobody took is a defect of ours, and never the end of the service."""
    world.denials.add("?", 0, "defect")
    os.write(2, f"{context.get('message')}: {context.get('exception')!r}\n".encode("utf-8", "replace"))
