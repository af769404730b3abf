"""The policy through the command, with real backends, on a machine of the test's own (tests/net/world.py)."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.net import world as worlds
from tests.net.world import HOST, INTERNET, NEXT, PROBE, World

pytestmark = pytest.mark.integration

BACKENDS = ["slirp4netns", "pasta"]


@pytest.fixture
def machine(tmp_path: Path, tmp_home: Path, helper: Path, need) -> Iterator[World]:
    need("userns", "tun", "nft")
    tmp_path.chmod(0o755)
    project = tmp_path / "project"
    project.mkdir()
    with worlds.world(project, NEXT) as made:  # a name server that pasta of any age can forward to
        yield made


def run(machine: World, *options: str, script: str = PROBE, words: tuple[str, ...] = ()):
    """The words' answers, by word; and the report."""
    report = machine.directory.parent / "report.json"
    command = [sys.executable, "-m", "sandbox", "run"]
    command += ["--report", str(report), *options, "--", "/usr/bin/python3", "-c", script, *words]
    done = machine.run("env", f"PYTHONPATH={ROOT}", *command)
    assert done.returncode == 0, done.stderr
    told = json.loads(report.read_text())
    report.unlink()
    denied = [{k: v for k, v in each.items() if k != "times"} for each in told["network"]["denied"]]
    return done.stdout.splitlines(), denied


def profile(machine: World, net: str) -> str:
    """The name of a profile of the user's, with that [net]."""
    directory = machine.directory.parent / "home/.config/sandbox/profiles"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "here.toml").write_text(f'extends = "default"\n[net]\n{net}\n')
    return "here"


@pytest.mark.parametrize("backend", BACKENDS)
def test_names(machine: World, need, backend: str) -> None:
    need(backend)
    words = ("good.example", "bad.example", INTERNET, f"{INTERNET}/udp", HOST)
    options = ("-p", profile(machine, f'mode = "user"\nbackend = "{backend}"\nallow = ["good.example:8000"]'))
    lines, denied = run(machine, *options, words=words)
    answers = [line.split(" ", 1) for line in lines]
    assert answers[0] == ["good.example", f'["beyond", "{HOST}"]']
    assert answers[1][1].startswith("refused -")
    # known by now, and for TCP alone by its name
    assert answers[2] == [INTERNET, f'["beyond", "{HOST}"]']
    assert answers[4][1].startswith("refused")
    assert {"name": "bad.example", "port": 0, "how": "dns"} in denied
    assert {"name": HOST, "port": 8000, "how": "tcp"} in denied


def test_what_was_denied_is_said(machine: World, need) -> None:
    """Where nobody asked for a report, and not to a terminal that names would change."""
    need("slirp4netns")
    net = 'mode = "user"\nbackend = "slirp4netns"\nallow = ["good.example:8000"]'
    words = ("bad.example", HOST, "x\x1b[31m.example", *(f"n{each}.example" for each in range(6)))
    command = [sys.executable, "-m", "sandbox", "run", "-p", profile(machine, net)]
    rest = ["--", "/usr/bin/python3", "-c", PROBE, *words]
    said = machine.run("env", f"PYTHONPATH={ROOT}", *command, *rest).stderr
    assert said.startswith("sandbox: denied: bad.example/dns, ") and said.endswith(", ...\n")
    assert said.count("\n") == 1 and said.count(", ") == 5 and "\x1b" not in said
    assert machine.run("env", f"PYTHONPATH={ROOT}", *command, "-q", *rest).stderr == ""


def test_rules_hold_against_a_nested_payload(machine: World, need) -> None:
    """Root in namespaces of its own making, with every capability there."""
    need("slirp4netns")
    script = f"""
import os, subprocess
print(subprocess.run(["/usr/sbin/nft", "flush", "ruleset"], capture_output=True).returncode != 0)
nested = ["unshare", "-r", "--keep-caps", "/usr/sbin/nft", "flush", "ruleset"]
print(subprocess.run(nested, capture_output=True).returncode != 0)
mark = "import socket; socket.socket().setsockopt(1, 36, 0x5b0c)"
print(subprocess.run(["unshare", "-r", "/usr/bin/python3", "-c", mark], capture_output=True).returncode != 0)
import socket
try:
    socket.create_connection(({INTERNET!r}, 8000), 10)
    print("reached")
except OSError as error:
    print(error.errno)
"""
    net = 'mode = "user"\nallow = ["good.example:8000"]\n[process]\nnested = true\n[user]\nmap = "root"'
    lines, denied = run(machine, "-p", profile(machine, net), script=script)
    assert lines == ["True", "True", "True", "113"]  # EHOSTUNREACH
    assert denied == [{"name": INTERNET, "port": 8000, "how": "tcp"}]


def test_a_list_of_thousands(machine: World, need) -> None:
    """More than one argument of a program takes."""
    need("slirp4netns")
    names = ", ".join(f'"name{number}.a-name-of-usual-length.example:8000"' for number in range(5000))
    net = f'mode = "user"\nallow = [{names}, "good.example:8000"]'
    lines, _ = run(machine, "-p", profile(machine, net), words=("good.example", "bad.example"))
    assert lines[0].startswith("good.example [") and lines[1].startswith("bad.example refused")


def test_nothing_is_allowed(machine: World, need) -> None:
    need("slirp4netns")
    lines, denied = run(
        machine, "-p", profile(machine, 'mode = "user"\nallow = []'), words=("good.example", INTERNET)
    )
    assert all("refused" in line for line in lines)
    assert len(denied) == 2


def test_a_list_of_denied_networks_needs_no_service(machine: World, need) -> None:
    need("slirp4netns")
    net = f'mode = "user"\ndeny = ["{INTERNET}/32"]'
    lines, denied = run(machine, "-p", profile(machine, net), words=("good.example", "2001:db8:1::10"))
    assert lines[0] == "good.example refused 113"  # EHOSTUNREACH
    assert lines[1].startswith('2001:db8:1::10 ["beyond"')
    assert denied == [{"name": INTERNET, "port": 8000, "how": "tcp"}]


PROXIED = """
import os, socket, sys
address = os.environ["HTTPS_PROXY"].rpartition("/")[2].split(":")
for word in sys.argv[1:]:
    with socket.create_connection((address[0], int(address[1]))) as sock:
        sock.sendall(f"CONNECT {word} HTTP/1.1\\r\\nHost: {word}\\r\\n\\r\\n".encode())
        print(sock.recv(100).split()[1].decode(), end=" ")
        sock.sendall(b"hello")
        print(sock.recv(100).decode().partition("\\n")[0].strip(), flush=True)
try:
    socket.create_connection(("203.0.113.10", 8000), 10)
except OSError as error:
    print(error.errno)
"""


def test_proxy(machine: World) -> None:
    """Which needs neither a backend nor nft. The host's own addresses are closed without rules: second ones
    of a network, and those that only a route makes its own, too."""
    second, routed = "198.51.100.77", "203.0.113.70"
    assert machine.root("ip", "address", "add", f"{second}/24", "dev", "eth0") == ""
    assert machine.root("ip", "route", "add", "local", f"{routed}/32", "dev", "lo") == ""
    net = 'mode = "proxy"\nallow = ["good.example:8000", "0.0.0.0/0:8000"]'
    own = (HOST, "127.0.0.1", "192.168.5.2", second, routed)
    words = ("good.example:8000", "bad.example:8000", *(f"{each}:8000" for each in own))
    lines, denied = run(machine, "-p", profile(machine, net), script=PROXIED, words=words)
    assert lines[0] == f'200 ["beyond", "{HOST}"]'
    assert [line.split()[0] for line in lines[1:]] == ["403"] * 6 + ["101"]  # ENETUNREACH
    assert [each["name"] for each in denied] == ["bad.example", *own]
