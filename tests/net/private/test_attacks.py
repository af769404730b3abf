"""What a member may not do to others on its network, whatever it is: root, nested, or in control of its own
network namespace (attacker.py)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sandbox
from sandbox.net.private.router import mac_of
from sandbox.net.private.store import PrivateNetwork
from tests.net.private import attacker
from tests.net.private.conftest import Box, Make
from tests.net.private.inside import PYTHON
from tests.net.private.test_members import _command, _family

pytestmark = pytest.mark.integration

Boxes = Callable[..., Box]

#: prints what comes at port 8000, a line each, until both "honest" have come
RECEIVER = """
import socket, selectors
found, selector = [], selectors.DefaultSelector()
for family in (socket.AF_INET, socket.AF_INET6):
    s = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6: s.setsockopt(41, 26, 1)
    s.bind(("", 8000)); selector.register(s, 1)
print("up", flush=True)
while found.count("honest") < 2 and (ready := selector.select(30)):
    for key, _ in ready:
        found.append(key.fileobj.recv(1000).decode())
print("|".join(sorted(found)), flush=True)
"""

ROOT = {
    "user.map": "root",
    "process.nested": True,
    "process.seccomp": "off",
    "process.capabilities": ["NET_ADMIN", "NET_RAW", "SYS_ADMIN", "SYS_PTRACE"],
}


def receive(box: Box) -> sandbox.Process:
    process = box.sandbox.popen([PYTHON, "-c", RECEIVER], stdout=sandbox.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    return process


def shell(box: Box, script: str) -> str:
    done = box.sandbox.run(["sh", "-c", f"PATH=$PATH:/usr/sbin:/sbin; {script}"], text=True)
    return str(done.stdout) + str(done.stderr)


@pytest.mark.as_root
def test_nobody_is_another(network: Make, box: Boxes) -> None:
    """Sources of IP and of Ethernet, ARP, neighbour and router advertisements."""
    lab = network()
    victim, evil = box("lab", "db"), box("lab", "evil").serve()
    pid = next(
        each
        for each in _family(evil.sandbox._channel.helper.pid)
        if _command(each).startswith(PYTHON.encode())
    )
    receiver = receive(victim)
    attack = subprocess.Popen(
        [sys.executable, attacker.__file__, str(pid), *addresses(lab)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert attack.stdin and attack.stdout and receiver.stdout
    try:
        assert attack.stdout.readline() == "sent\n"
        assert receiver.stdout.readline() == "honest|honest\n"
        absent4, absent6 = lab.addresses(99)
        assert set(victim.ask(f"tcp4:{absent4}", f"tcp6:{absent6}").values()) == {None}
        assert attack.poll() is None
        neighbours = shell(victim, "ip neigh; ip -6 route; ip -6 address")
    finally:
        attack.stdin.close()
        attack.wait(60)
        attack.stdout.close()
        receiver.stdout.close()
        receiver.wait()
    assert absent4 in neighbours and absent6 in neighbours
    lines = [line.split() for line in neighbours.splitlines()]
    assert [words for words in lines if words[0] in (absent4, absent6) and "lladdr" in words] == []
    assert "fe80::bad" not in neighbours


def addresses(lab: PrivateNetwork) -> list[str]:
    return [mac_of(3), *lab.addresses(3), mac_of(2), *lab.addresses(2), *lab.addresses(4)]


def test_root_inside_has_no_rights_over_its_device(network: Make, box: Boxes) -> None:
    lab = network()
    box("lab", "db").serve()
    evil = box("lab", "evil", **ROOT)
    before = shell(evil, "ip address show dev eth0")
    for enter in ("", "unshare -U --map-root-user", "unshare -U --map-root-user --net"):
        shell(
            evil,
            f"{enter} ip link set eth0 address 02:00:00:00:00:99; "
            f"{enter} ip address add 10.1.1.1/24 dev eth0; "
            f"{enter} ip link set eth0 down; {enter} nft flush ruleset; {enter} tc qdisc del dev eth0 root; "
            f"{enter} ip link add link eth0 name mine type macvlan; {enter} ip route flush table main",
        )
    code = (
        "import socket\n"
        "for each in ((17, 3, 0x300), (17, 2, 0x300), (2, 3, 255), (10, 3, 58)):\n"
        "    try: socket.socket(*each); print('opened', each)\n"
        "    except OSError as error: print(error.errno)\n"
    )
    assert set(evil.sandbox.run([PYTHON, "-c", code], text=True).stdout.split()) == {"1"}
    assert shell(evil, "ip address show dev eth0") == before
    assert evil.ask("tcp4:db") == {"tcp4:db": f"db {lab.addresses(3)[0]}"}


def test_an_address_that_is_not_ones_own_can_be_bound_but_not_used(network: Make, box: Boxes) -> None:
    """IPV6_FREEBIND takes no capability."""
    lab = network()
    victim, evil = box("lab", "db"), box("lab", "evil")
    receiver = receive(victim)
    code = (
        "import socket, sys\n"
        "for source, text in ((sys.argv[1], 'forged'), ('::', 'honest'), ('::', 'honest')):\n"
        "    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\n"
        "    s.setsockopt(41, 78, 1); s.bind((source, 0))\n"
        "    try: s.sendto(text.encode(), (sys.argv[2], 8000))\n"
        "    except OSError as error: print(error)\n"
    )
    evil.sandbox.run([PYTHON, "-c", code, lab.addresses(4)[1], lab.addresses(2)[1]], text=True)
    assert receiver.stdout is not None
    assert receiver.stdout.readline() == "honest|honest\n"
    receiver.stdout.close()
    receiver.wait()


def test_hostile_questions(network: Make, box: Boxes) -> None:
    """What members send to the name server is hostile: it goes on, and says nothing about others."""
    lab = network()
    box("lab", "db").serve()
    evil = box("lab", "evil")
    code = (
        "import os, socket, sys\n"
        "for family, address in ((2, sys.argv[1]), (10, sys.argv[2])):\n"
        "    for kind in (1, 2):\n"
        "        for n in range(200):\n"
        "            s = socket.socket(family, kind)\n"
        "            s.settimeout(10)\n"
        "            try:\n"
        "                s.connect((address, 53)); s.send(os.urandom(n))\n"
        "            except OSError: pass\n"
    )
    evil.sandbox.run([PYTHON, "-c", code, *lab.addresses(1)], text=True, check=True)
    assert evil.ask("tcp4:db")["tcp4:db"]


def test_a_project_does_not_call_itself_another(network: Make, sandbox_cmd: Any, tmp_path: Path) -> None:
    """By whose name it would be found; elsewhere a host name is for people to read, and anybody's."""
    network()
    project = tmp_path / "project"
    project.mkdir()
    (project / "sandbox.toml").write_text('process = { hostname = "db" }\n')
    done = sandbox_cmd("run", "--net", "lab", "--", "hostname", cwd=project)
    assert done.returncode == 125 and done.stdout == ""
    assert "sandbox.toml:1: a project that is not trusted can't choose its name on a" in done.stderr
    done = sandbox_cmd("run", "--net", "lab", "--hostname", "web", "--", "hostname", cwd=project)
    assert done.stdout == "web\n", done.stderr
    assert sandbox_cmd("run", "--", "hostname", cwd=project).stdout == "db\n"
