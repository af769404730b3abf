"""The way out of a private network, on the tests' machine (tests/net/world.py), with both backends."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.net import world as worlds
from tests.net.private.inside import SERVER
from tests.net.test_user import BACKENDS, GATEWAYS, _alive, _running, environment, started
from tests.net.world import HOST, HOST6, INTERNET, INTERNET6, METADATA, NEXT, PRIVATE, PROBE, World
from tests.support.needs import need
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

PYTHON = "/usr/bin/python3"
NAMED = "good.example:8000"


@pytest.fixture(scope="module", params=BACKENDS)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    need("userns", "tun", "nft", "nsenter", request.param)
    with worlds.world(tmp_path_factory.mktemp("world"), NEXT) as made:
        made.backend = request.param  # type: ignore[attr-defined]
        yield made


@pytest.fixture(autouse=True)
def lab(world: World, tmp_home: Path) -> None:
    """The network, in the test's own home."""
    done = sandbox(world, "network", "create", "lab", "--backend", world.backend)  # type: ignore[attr-defined]
    assert done.stdout == "lab\n", done.stderr


def sandbox(world: World, *words: str) -> subprocess.CompletedProcess[str]:
    return world.run(sys.executable, "-m", "sandbox", *words, env=environment(world))


def probe(world: World, options: tuple[str, ...], *places: str) -> dict[str, Any]:
    """Who answers at each of *places*, None where it is refused."""
    done = sandbox(world, "run", "--net", "lab", *options, "--", PYTHON, "-c", PROBE, *places)
    found = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert len(found) == len(places), done.stderr
    return {place: None if "refused" in said else _who(said) for place, said in found.items()}


def _who(said: str) -> str:
    """Of the machine's servers, which answer in JSON, and of members'."""
    return str(json.loads(said)[0]) if said.startswith("[") else said.split()[0]


@contextlib.contextmanager
def member(world: World, name: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    """One with a server, until the end."""
    words = [sys.executable, "-m", "sandbox", "run", "--net", "lab", "--hostname", name, *options]
    with started(world, [*words, "--", PYTHON, "-c", SERVER, name], stderr=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        assert process.stdout.readline() == "up\n"
        try:
            yield process
        finally:
            process.stdin.close()


@pytest.mark.as_root
def test_the_internet_and_nothing_of_the_host(world: World, helper: Path) -> None:
    """Each member by its own policy."""
    outside = (INTERNET, INTERNET6, f"{INTERNET}/udp", "example.org")
    closed = (HOST, HOST6, *PRIVATE, *METADATA, *GATEWAYS)
    assert probe(world, (), *outside, *closed) == {
        **dict.fromkeys(outside, "beyond"),
        **dict.fromkeys(closed),
    }
    only = ("--allow", INTERNET)
    assert probe(world, only, INTERNET, INTERNET6) == {INTERNET: "beyond", INTERNET6: None}


def test_a_policy_of_names_and_members(world: World, helper: Path) -> None:
    """Whoever may name nothing else outside still reaches its neighbours, and by no name anything else."""
    with member(world, "db"):
        names = ("db", "db.lab", "good.example", "bad.example", "nosuch", "nosuch.lab", INTERNET6)
        assert probe(world, ("--allow", NAMED), *names) == {
            **dict.fromkeys(names),
            "db": "db",
            "db.lab": "db",
            "good.example": "beyond",
        }
        assert probe(world, ("--allow", "db", "--allow", "*.lab"), "db.lab", "good.example") == {
            "db.lab": "db",
            "good.example": None,
        }


def test_a_member_that_is_denied(world: World, helper: Path) -> None:
    profile = world.directory / "denied.toml"
    profile.write_text('extends = "default"\n[net]\ndeny = ["db", "bad.example"]\n')
    with member(world, "db"), member(world, "web"):
        assert probe(world, ("-p", str(profile)), "db", "db.lab", "web", "bad.example", "good.example") == {
            "db": None,
            "db.lab": "db",
            "web": "web",
            "bad.example": None,
            "good.example": "beyond",
        }


#: asks the name server for each name, label by label as they are; prints codes
ASKED = """
import socket, struct, sys
with open("/etc/resolv.conf") as file: server = file.read().split()[1]
for word in sys.argv[1:]:
    name = b"".join(bytes([len(each)]) + each.encode() for each in word.split("."))
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.settimeout(20)
        sock.connect((server, 53))
        sock.send(b"\\x12\\x34\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0" + name + b"\\0\\0\\1\\0\\1")
        print(sock.recv(4096)[3] & 15, end=" ")
"""


def test_what_could_be_a_members_name_is_asked_for_nowhere_else(world: World, helper: Path) -> None:
    """The host's name server knows every name; and nobody is the host itself."""
    words = ("example.org", "*.org", "*.lab", "a b.LAB", "nosuch", "*", "db", "localhost", "x.lab")
    with member(world, "db"), member(world, "localhost"):
        done = sandbox(world, "run", "--net", "lab", "--", PYTHON, "-c", ASKED, *words)
    assert done.stdout.split() == ["0", "0", "3", "3", "3", "3", "0", "3", "3"], done.stderr


def test_when_its_backend_is_killed(world: World, helper: Path) -> None:
    """The network ends, its members are told, and the next one gets a new one."""
    with member(world, "db") as server:
        backends = _running(world.backend)  # type: ignore[attr-defined]
        assert backends
        for pid in backends:
            os.kill(pid, signal.SIGKILL)
        assert server.stderr and select.select([server.stderr], [], [], 60)[0], "nobody tells"
        assert server.stderr.readline().startswith("sandbox: network, which the network needs, was lost")
        wait_until(lambda: not any(map(_alive, backends)))
        assert probe(world, (), INTERNET, "db") == {INTERNET: "beyond", "db": None}
    assert server.wait(60) == 0
    wait_until(lambda: not _running(world.backend))  # type: ignore[attr-defined]


def test_published_ports(world: World, helper: Path) -> None:
    """Clients have their own addresses there, too; those of the host's loopback are the network's gateway."""
    ask = "import socket, sys; print(socket.create_connection((sys.argv[1], 8080), 20).recv(99).decode())"
    gateway = json.loads(sandbox(world, "network", "inspect", "lab", "--json").stdout)[0]["gateway"][0]
    with member(world, "db", "--publish", "8080:8000", "--publish", f"{HOST}:8080:8000"):
        assert world.run(PYTHON, "-c", ask, "127.0.0.1").stdout == f"db {gateway}\n"
        assert world.beyond(PYTHON, "-c", ask, HOST) == f"db {NEXT}\n"


def test_a_rate_without_a_private_network(world: World, helper: Path) -> None:
    profile = world.directory / "rate.toml"
    backend = world.backend  # type: ignore[attr-defined]
    profile.write_text(f'extends = "default"\n[net]\nmode = "user"\nbackend = "{backend}"\nrate = "20mbit"\n')
    script = "PATH=$PATH:/usr/sbin:/sbin; tc qdisc show dev tap0"
    done = sandbox(world, "run", "-p", str(profile), "--", "sh", "-c", script)
    assert "tbf" in done.stdout and "rate 20Mbit" in done.stdout, done.stderr
