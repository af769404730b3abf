"""What reaches the outside besides TCP and UDP: pings; and names, wherever the host's name servers are."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.errors import HostError
from sandbox.host.model import Network
from sandbox.host.network import discover
from sandbox.net import user
from sandbox.profile.model import Net
from tests.net import world as worlds
from tests.net.test_user import BACKENDS, PYTHON, environment, probe, run
from tests.net.world import HOST, INTERNET, INTERNET6, METADATA, NEXT, NEXT6, PRIVATE, World
from tests.support.needs import need as need_now

#: of the machine's router, on the link alone
LINK = "fe80::53"

#: whether the pasta that is here is one of 2024-08 or newer
MODERN = discover("pasta", os.environ).modern


def machine(directory: Path, resolver: str, backend: str) -> Iterator[World]:
    need_now("plain user", "userns", "tun", "nft", "nsenter", "setpriv", "ping", backend)
    with worlds.world(directory, resolver) as made:
        made.backend = backend  # type: ignore[attr-defined]
        yield made


@pytest.fixture(params=BACKENDS)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    yield from machine(tmp_path, NEXT, request.param)


class TestPing:
    @pytest.fixture(autouse=True)
    def allowed(self, world: World) -> None:
        """Backends ping for the sandbox as ordinary users do."""
        allow = f"echo {os.getgid()} {os.getgid()} > /proc/sys/net/ipv4/ping_group_range"
        assert world.root("sh", "-c", allow) == ""

    def test_goes_where_packets_go(self, world: World, helper: Path) -> None:
        places = [INTERNET]
        if world.backend == "pasta":  # type: ignore[attr-defined]  # libslirp answers for itself alone
            places.append(INTERNET6)
        for place in places:
            done = run(world, "ping", "-c", "1", "-W", "10", place)
            assert "1 received" in done.stdout, (done.stdout, done.stderr)

    def test_nor_does_it_go_elsewhere(self, world: World, helper: Path) -> None:
        script = "for each; do ping -c 1 -W 1 $each >/dev/null 2>&1 && echo $each answers; done; echo tried"
        closed = [HOST, *PRIVATE[:2], METADATA[0], METADATA[1], "10.0.2.2", "fd00::2"]
        assert run(world, "sh", "-c", script, "sh", *closed).stdout == "tried\n"
        lists = f'allow = ["good.example", "{INTERNET6}"]\ndeny = ["{INTERNET}"]'
        assert run(world, "sh", "-c", script, "sh", INTERNET, NEXT, net=lists).stdout == "tried\n"


@pytest.mark.parametrize("backend", BACKENDS)
class TestNameServers:
    """Of the host, in its resolv.conf(5)."""

    @pytest.mark.parametrize("names", [False, True])
    def test_over_ipv6_alone(self, tmp_path: Path, helper: Path, backend: str, names: bool) -> None:
        for world in machine(tmp_path, NEXT6, backend):
            net = 'allow = ["example.org:8000"]' if names else ""
            assert probe(world, "example.org", net=net) == {"example.org": ["beyond", HOST]}

    def test_on_the_link_alone(self, tmp_path: Path, helper: Path, backend: str) -> None:
        for world in machine(tmp_path, f"{LINK}%eth0", backend):
            assert world.beyond("ip", "address", "add", f"{LINK}/64", "dev", "up0", "nodad") == ""
            if backend == "pasta":  # takes no scope, and would forward to nobody
                ran = run(world, "true")
                assert ran.status == 125
                assert "can't forward names to fe80::53%eth0, on a link of the host's" in ran.stderr
                continue
            assert probe(world, "example.org") == {"example.org": ["beyond", HOST]}

    def test_none_at_all(self, tmp_path: Path, helper: Path, backend: str) -> None:
        """Addresses are still reached; a modern pasta asks the host's loopback, as resolv.conf(5) has it."""
        found = ["beyond", HOST] if backend == "pasta" and MODERN else None
        for world in machine(tmp_path, "", backend):
            assert probe(world, INTERNET, "example.org") == {INTERNET: ["beyond", HOST], "example.org": found}


@pytest.mark.parametrize("resolver", [NEXT6, f"{LINK}%eth0", ""])
def test_the_proxys_name_servers(tmp_path: Path, helper: Path, resolver: str) -> None:
    for world in machine(tmp_path, resolver, "slirp4netns"):
        world.beyond("ip", "address", "add", f"{LINK}/64", "dev", "up0", "nodad")
        code = (
            "import socket\n"
            "with socket.create_connection(('127.0.0.1', 61080)) as s:\n"
            "    s.sendall(b'CONNECT example.org:8000 HTTP/1.1\\r\\nHost: example.org:8000\\r\\n\\r\\n')\n"
            "    print(s.recv(100).split()[1].decode())\n"
        )
        profile = tmp_path / "proxy.toml"
        profile.write_text('extends = "default"\n[net]\nmode = "proxy"\nallow = ["example.org:8000"]\n')
        words = [sys.executable, "-m", "sandbox", "run", "-p", str(profile), "--", PYTHON, "-c", code]
        done = world.run(*words, env=environment(world))
        assert done.stdout == ("200\n" if resolver else "502\n"), done.stderr


@pytest.mark.parametrize(
    ("modern", "servers", "refused"),
    [
        (False, ("127.0.0.53",), "127.0.0.53, the host's loopback"),
        (False, ("127.0.0.53", "192.0.2.1"), ""),
        (True, ("127.0.0.53",), ""),
        (True, (f"{LINK}%eth0",), f"{LINK}%eth0, on a link of the host's"),
        (True, (f"{LINK}%eth0", "127.0.0.1"), ""),
        (True, (), ""),
    ],
)
def test_whom_pasta_asks(modern: bool, servers: tuple[str, ...], refused: str) -> None:
    found = Network(
        backend="pasta", path="/usr/bin/pasta", modern=modern, name_servers=servers, reason="", mend=""
    )
    with pytest.raises(HostError, match=refused) if refused else contextlib.nullcontext():
        user.check(Net(mode="user"), found)
    user.check(Net(mode="user", dns=("192.0.2.53",)), found)
