"""Networks of mode "user", on a machine of the tests' own (world.py), with both backends.

Whatever a sandbox must not reach is there and answers: what a defence lets through is seen, and goes nowhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.net import world as worlds
from tests.net.world import HOST, HOST6, HOST_LAN, INTERNET, INTERNET6, METADATA, NEXT, PRIVATE, PROBE, World
from tests.support.needs import need as need_now
from tests.support.waiting import wait_until

PYTHON = "/usr/bin/python3"
BACKENDS = ("slirp4netns", "pasta")
GATEWAYS = ("10.0.2.2", "fd00::2")
FORWARDERS = ("10.0.2.3", "fd00::3")


#: tells of whatever comes to the machine's loopback
LISTEN = """
import selectors, socket
found = selectors.DefaultSelector()
for family, address in ((2, "127.0.0.1"), (2, "127.0.0.2"), (10, "::1")):
    for kind in (1, 2):
        sock = socket.socket(family, kind); sock.setsockopt(1, 2, 1); sock.bind((address, 9797))
        if kind == 1: sock.listen()
        found.register(sock, 1)
print("up")
while True:
    for key, _ in found.select():
        if key.fileobj.type == 1:
            with key.fileobj.accept()[0] as peer: print("stream from", peer.recv(100).decode())
        else: print("datagram from", key.fileobj.recv(100).decode())
"""
#: to all of these places by the sandbox's device, if there is one
BOUND = """
import socket, sys
inside = any(name == "tap0" for _, name in socket.if_nameindex())
for place in sys.argv[1:]:
    for kind in (1, 2):
        with socket.socket(10 if ":" in place else 2, kind) as sock:
            sock.settimeout(0.3 if inside else 20)
            try:
                if inside: sock.setsockopt(1, 25, b"tap0")
                sock.connect((place, 9797)); sock.sendall(b"inside" if inside else b"the host")
            except OSError: pass
print("tried")
"""
#: tries the places of each line
PROBES = f"""
import sys; probe = {PROBE!r}
for line in sys.stdin:
    sys.argv[1:] = line.split(); exec(probe)
"""


@pytest.fixture(scope="module", params=BACKENDS)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Each test's own HOME is that of the machine."""
    need_now("userns", "tun", "nft", "nsenter", "setpriv", *BACKENDS)
    directory = tmp_path_factory.mktemp("world")
    # The pasta of Debian 12 forwards names to no loopback; it is not what `auto` takes.
    with worlds.world(directory, "127.0.0.1" if request.param == "slirp4netns" else NEXT) as made:
        made.backend = request.param  # type: ignore[attr-defined]
        yield made


class Ran:
    def __init__(self, done: subprocess.CompletedProcess[str], report: dict[str, Any]) -> None:
        self.status, self.stdout, self.stderr, self.report = done.returncode, done.stdout, done.stderr, report

    @property
    def answers(self) -> dict[str, Any]:
        """What each place said, None where it refused."""
        found = {}
        for line in self.stdout.splitlines():
            place, _, answer = line.partition(" ")
            found[place] = None if answer.startswith("refused") else json.loads(answer)
        return found


def command(world: World, *arguments: str, net: str = "", more: str = "", mode: str = "user") -> list[str]:
    profile = world.directory / "p.toml"
    backend = f'backend = "{world.backend}"' if mode == "user" else ""  # type: ignore[attr-defined]
    text = f'extends = "default"\n[net]\nmode = "{mode}"\n{backend}\n{net}\n{more}\n'
    profile.write_text(text, encoding="utf-8")
    return [sys.executable, "-m", "sandbox", "run", "-p", str(profile), *arguments]


def environment(world: World) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(world.directory / "home")}


def started(
    world: World, words: Sequence[str], stdin: int = subprocess.PIPE, stderr: int | None = None
) -> subprocess.Popen[str]:
    """*words*, begun inside, with a pipe that has what they print."""
    return subprocess.Popen(
        world.inside(*words),
        env=environment(world),
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


def run(world: World, *arguments: str, net: str = "", more: str = "", **options: object) -> Ran:
    report = world.directory / "report.json"
    report.unlink(missing_ok=True)
    words = command(world, "--report", str(report), "--", *arguments, net=net, more=more)
    done = world.run(*words, env=environment(world), **options)
    return Ran(done, json.loads(report.read_text()) if report.exists() else {})


def probe(world: World, *places: str, **options: str) -> dict[str, Any]:
    ran = run(world, PYTHON, "-c", PROBE, *places, **options)
    assert len(ran.answers) == len(places), (ran.stdout, ran.stderr)
    return ran.answers


class TestOut:
    @pytest.mark.as_root
    def test_tcp_and_udp_over_both_protocols(self, world: World, helper: Path) -> None:
        places = (INTERNET, INTERNET6, f"{INTERNET}/udp", f"{INTERNET6}/udp")
        answers = probe(world, *places)
        assert answers == {
            INTERNET: ["beyond", HOST],
            INTERNET6: ["beyond", HOST6],
            f"{INTERNET}/udp": ["beyond", HOST],
            f"{INTERNET6}/udp": ["beyond", HOST6],
        }

    @pytest.mark.as_root
    def test_names(self, world: World, helper: Path) -> None:
        assert probe(world, "example.org") == {"example.org": ["beyond", HOST]}

    def test_name_servers_of_the_profile(self, world: World, helper: Path) -> None:
        """They are reached wherever they are, at port 53; the host's are not forwarded to then."""
        net = 'dns = ["192.168.7.7"]'
        ran = run(world, "cat", "/etc/resolv.conf", net=net)
        assert ran.stdout == "nameserver 192.168.7.7\n"
        assert probe(world, "example.org", "192.168.7.7", net=net) == {
            "example.org": ["beyond", HOST],
            "192.168.7.7": None,
        }

    def test_names_of_the_profile(self, world: World, helper: Path) -> None:
        net = f'hosts = {{ "db.example" = "{INTERNET}" }}'
        assert probe(world, "db.example", net=net) == {"db.example": ["beyond", HOST]}

    def test_the_device(self, world: World, helper: Path) -> None:
        ran = run(
            world, "sh", "-c", "cat /sys/class/net/tap0/mtu 2>/dev/null; ip -o address; cat /etc/resolv.conf"
        )
        assert "mtu 65520" in run(world, "ip", "link").stdout
        assert "10.0.2.100/24" in ran.stdout and "fd00::100/64" in ran.stdout and "127.0.0.1/8" in ran.stdout
        assert "nameserver 10.0.2.3\n" in ran.stdout

    def test_low_ports_are_everybodys_inside(self, world: World, helper: Path) -> None:
        bind = "import socket; socket.create_server(('', 80)); print('bound')"
        assert run(world, PYTHON, "-c", bind).stdout == "bound\n"


class TestHostOff:
    @pytest.mark.as_root
    def test_nothing_of_the_host_or_of_private_networks(self, world: World, helper: Path) -> None:
        places = (HOST, HOST6, HOST_LAN, NEXT, *PRIVATE, *METADATA, *GATEWAYS, "169.254.1.1", "127.0.0.1")
        closed = [place for place in places if place != NEXT]
        answers = probe(world, *closed, *(f"{place}/udp" for place in closed))
        assert answers == {**dict.fromkeys(closed), **dict.fromkeys(f"{place}/udp" for place in closed)}

    def test_nor_what_forwards_names_at_other_ports(self, world: World, helper: Path) -> None:
        """It stands for the host's name server, whatever else listens there."""
        for net in ("", 'reach = ["private"]'):
            assert probe(world, *FORWARDERS, net=net) == dict.fromkeys(FORWARDERS)

    def test_nor_its_loopback_by_the_device(self, world: World, helper: Path) -> None:
        """A socket may be bound to a device, so that what is local leaves by it, and backends pass it on. No
        answer finds back; what counts is what arrives."""
        with (
            subprocess.Popen(
                world.inside(sys.executable, "-uc", LISTEN), stdout=subprocess.PIPE, text=True
            ) as listener,
            contextlib.ExitStack() as end,
        ):
            end.callback(listener.kill)
            assert listener.stdout and listener.stdout.readline() == "up\n"
            places = ("127.0.0.1", "127.0.0.2", "::1", "0.0.0.0", "::")
            for net in ("", 'reach = ["private"]', 'allow = ["good.example"]'):
                assert run(world, PYTHON, "-c", BOUND, *places, net=net).stdout == "tried\n"
            assert world.run(sys.executable, "-c", BOUND, "127.0.0.1").stdout == "tried\n"  # no device here
            assert listener.stdout.readline() == "stream from the host\n"

    def test_it_is_told_at_once(self, world: World, helper: Path) -> None:
        began = time.monotonic()
        probe(world, *PRIVATE, *METADATA)
        assert time.monotonic() - began < 10  # the timeout of one attempt

    @pytest.mark.as_root
    @pytest.mark.parametrize(
        "more",
        [
            "[user]\nmap = 'root'\n[process]\ncapabilities = ['NET_ADMIN', 'NET_RAW', "
            "'SYS_ADMIN', 'SYS_PTRACE', 'SYS_CHROOT']\nseccomp = 'off'\nnested = true",
            "[user]\nmap = 'root'\n[process]\nnested = true",
        ],
    )
    def test_root_inside_changes_nothing(self, world: World, helper: Path, more: str) -> None:
        script = (
            "PATH=$PATH:/usr/sbin:/sbin; "
            "for each in '' 'unshare -U --map-root-user' 'unshare -U --map-root-user --net'; do "
            "$each nft flush ruleset; $each nft delete table inet sandbox; $each ip link set tap0 down; "
            "$each ip address flush dev tap0; $each ip route add 169.254.169.254 dev tap0; "
            "$each tc qdisc del dev tap0 root; "
            "echo 1 > /proc/sys/net/ipv4/ip_forward; done >/dev/null 2>&1; "
            f"exec {PYTHON} -c '{PROBE}' {HOST} {INTERNET} 169.254.169.254 192.168.7.7"
        )
        ran = run(world, "bash", "-c", script, more=more)
        assert ran.answers == {
            HOST: None,
            INTERNET: ["beyond", HOST],
            "169.254.169.254": None,
            "192.168.7.7": None,
        }, ran.stderr

    def test_no_raw_sockets(self, world: World, helper: Path) -> None:
        """They would pass below the rules."""
        more = "[user]\nmap = 'root'\n[process]\ncapabilities = ['NET_ADMIN', 'NET_RAW']\nseccomp = 'off'"
        code = (
            "import socket\n"
            "for family, kind, protocol in ((17, 3, 0x300), (17, 2, 0x300), (2, 3, 255), (10, 3, 58)):\n"
            "    try: socket.socket(family, kind, protocol); print('opened', family)\n"
            "    except OSError as error: print(error.errno)\n"
        )
        assert set(run(world, PYTHON, "-c", code, more=more).stdout.split()) == {"1"}

    def test_addresses_that_come_while_it_runs(self, world: World, helper: Path) -> None:
        """And those that go are open again."""
        process = started(world, command(world, "--", PYTHON, "-uc", PROBES))
        assert process.stdin and process.stdout

        def ask(place: str) -> str:
            assert process.stdin and process.stdout
            process.stdin.write(f"{place}\n")
            process.stdin.flush()
            return process.stdout.readline()

        new = "203.0.113.77"
        with contextlib.ExitStack() as undo:
            undo.callback(process.wait, 60)
            undo.callback(process.stdout.close)
            undo.callback(process.stdin.close)
            assert "beyond" in ask(INTERNET)  # it runs, and knows the host as it was
            assert world.root("ip", "address", "add", f"{new}/32", "dev", "eth0") == ""
            try:
                _until(lambda: "refused" in ask(new))
            finally:
                world.root("ip", "address", "del", f"{new}/32", "dev", "eth0")
            _until(lambda: "host" not in ask(INTERNET))

    def test_thousands_of_addresses(self, world: World, helper: Path) -> None:
        """As a host of a cluster has, for each service there. The last ones are looked for; they are not the
        host's any more when they have gone, and the others still are."""
        add = (
            "{ for i in $(seq 0 2 8190); do"
            " printf 'route add local 203.0.%d.%d dev lo table 77\\n' $((i / 256 + 64)) $((i % 256));"
            " printf 'route add local 2001:db8::%x dev lo table 77\\n' $((i + 4096)); done;"
            f" echo route add local {INTERNET} dev lo table 77;"
            f" echo route add local {INTERNET6} dev lo table 77; }} | ip -batch -"
        )
        first, last = "203.0.64.0", "2001:db8::2ffe"
        with contextlib.ExitStack() as undo:
            undo.callback(world.root, "sh", "-c", "ip route flush table 77; ip -6 route flush table 77")
            assert world.root("sh", "-c", add) == ""
            process = started(world, command(world, "--", PYTHON, "-uc", PROBES))
            assert process.stdin and process.stdout
            undo.callback(process.wait, 60)
            undo.callback(process.stdout.close)
            undo.callback(process.stdin.close)

            def ask(*places: str) -> list[bool]:
                assert process.stdin and process.stdout
                process.stdin.write(" ".join(places) + "\n")
                process.stdin.flush()
                return ["refused" in process.stdout.readline() for _ in places]

            assert ask(first, last, INTERNET, INTERNET6) == [True] * 4
            for each in (INTERNET, INTERNET6):
                assert world.root("ip", "route", "del", "local", each, "dev", "lo", "table", "77") == ""
            _until(lambda: ask(INTERNET, INTERNET6) == [False] * 2)
            assert ask(first, last) == [True] * 2

    @pytest.mark.parametrize(
        ("key", "places"),
        [
            ("private", PRIVATE),
            ("host", (HOST, HOST6, HOST_LAN)),
            ("link-local", METADATA),
            ("loopback", GATEWAYS),
        ],
    )
    def test_each_has_a_key(self, world: World, helper: Path, key: str, places: tuple[str, ...]) -> None:
        others = {"private": PRIVATE[0], "host": HOST, "link-local": METADATA[0], "loopback": GATEWAYS[0]}
        del others[key]
        answers = probe(world, *places, *others.values(), net=f'reach = ["{key}"]')
        for place in places:
            assert answers[place] is not None, (place, answers)
        assert [answers[each] for each in others.values()] == [None] * 3

    def test_a_policy_that_can_not_be_installed_refuses(
        self, world: World, helper: Path, tmp_path: Path
    ) -> None:
        broken = tmp_path / "nft"
        broken.write_text("#!/bin/sh\necho no such table >&2\nexit 1\n")
        broken.chmod(0o755)
        real = shutil.which("nft", path="/usr/sbin:/sbin")
        assert real and world.root("mount", "--bind", str(broken), real) == ""
        try:
            ran = run(world, "echo", "ran")
        finally:
            assert world.root("umount", real) == ""
        assert ran.status == 125 and ran.stdout == ""
        assert "keep the sandbox from the host and private networks: no such table" in ran.stderr


class TestUsage:
    @pytest.mark.as_root
    def test_bytes_are_counted(self, world: World, helper: Path) -> None:
        ran = run(world, PYTHON, "-c", PROBE, INTERNET)
        assert ran.report["network"]["received"] > 0 and ran.report["network"]["sent"] > 5
        assert ran.report["network"]["lost"] is None

    def test_what_was_refused_is_named(self, world: World, helper: Path) -> None:
        """Without a policy of names, too."""
        ran = run(world, PYTHON, "-c", PROBE, HOST, f"{HOST}/udp", HOST, HOST6, INTERNET)
        denied = {(each["name"], each["how"]): each["times"] for each in ran.report["network"]["denied"]}
        assert denied.pop((HOST6, "tcp")) > 0  # TCP tries again
        assert denied == {(HOST, "tcp"): 2, (HOST, "udp"): 1}
        assert {each["port"] for each in ran.report["network"]["denied"]} == {8000}

    def test_connections_are_counted(self, world: World, helper: Path) -> None:
        ran = run(world, PYTHON, "-c", PROBE, INTERNET, HOST, f"{HOST}/udp", INTERNET)
        assert [answer is None for answer in ran.answers.values()] == [False, True, True]
        assert (ran.report["network"]["connections"], ran.report["network"]["refused"]) == (2, 2)
        assert "accepted" not in ran.report["network"]


class TestDeath:
    def test_the_backends_is_told(self, world: World, helper: Path) -> None:
        report = world.directory / "report.json"
        words = command(world, "--report", str(report), "--", "sh", "-c", "echo up; read word; echo $word")
        process = started(world, words, stderr=subprocess.PIPE)
        assert process.stdin and process.stdout and process.stderr
        assert process.stdout.readline() == "up\n"
        backend = world.backend  # type: ignore[attr-defined]
        victims = _running(backend)
        assert victims
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        assert process.stderr.readline().startswith(
            f"sandbox: {backend}, which the network needs, was lost: "
        )
        out, _ = process.communicate("down\n", timeout=60)
        assert out == "down\n" and process.returncode == 0
        assert json.loads(report.read_text())["network"]["lost"]["name"] == backend

    @pytest.mark.as_root
    @pytest.mark.parametrize("victim", ["supervisor", "init", "guard", "backend"])
    def test_nothing_is_left_of_what_is_killed(self, world: World, helper: Path, victim: str) -> None:
        """Whichever dies first, by a signal that nobody can catch."""
        process = started(
            world,
            command(world, "--", "sh", "-c", "echo up; exec sleep 1000"),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdout and process.stdout.readline() == "up\n"
        family = _family(process.pid)
        backend = next(pid for pid in family if _named(pid, world.backend))  # type: ignore[attr-defined]
        guard = _parent(backend)

        def inits() -> list[int]:
            return [pid for pid in family if pid != guard and _alive(pid) and _parent(pid) == process.pid]

        _until(lambda: len(inits()) == 1)  # what helped with the beginning goes
        (init,) = inits()
        victims = {"supervisor": process.pid, "init": init, "guard": guard, "backend": backend}
        pid = victims[victim]
        os.kill(pid, signal.SIGKILL)
        if victim in ("backend", "guard"):  # that ends nothing but the way out
            _until(lambda: not _alive(backend))
            os.kill(process.pid, signal.SIGTERM)
        process.wait(60)
        process.stdout.close()
        _until(lambda: not [each for each in family if _alive(each)])

    def test_many_at_once_bind_the_same_port(self, world: World, helper: Path) -> None:
        code = (
            "import socket, sys; s = socket.create_server(('', 8080));"
            "print('bound', flush=True); sys.stdin.read()"
        )
        words = world.inside(*command(world, "--", PYTHON, "-c", code))
        crowd = [
            subprocess.Popen(words, env=environment(world), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            for _ in range(20)
        ]
        for each in crowd:
            assert each.stdout and each.stdout.readline() == b"bound\n"
        for each in crowd:
            each.communicate(timeout=60)
        assert [each.returncode for each in crowd] == [0] * 20


def _until(done: Any) -> None:
    wait_until(done, 30.0)


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def _family(root: int) -> list[int]:
    """A process and all that descend from it."""
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                todo += map(int, (task / "children").read_text().split())
            found.append(pid)
    return found


def _named(pid: int, name: str) -> bool:
    with contextlib.suppress(OSError):
        return os.path.basename(Path(f"/proc/{pid}/cmdline").read_text().split("\0")[0]) == name
    return False


def _running(name: str) -> list[int]:
    """Those of this test process's family with that name."""
    return [pid for pid in _family(os.getpid()) if _named(pid, name)]
