"""A machine of the tests' own, on which the launcher runs, with a network behind it.

    the host    a user, network and mount namespace: 198.51.100.2, 2001:db8:5::2, 192.168.5.2; its loopback
                has a name server, and its /etc/resolv.conf names that
    beyond      another network namespace, the host's default route: all that a sandbox may try to reach,
                from a server on the "internet" to a metadata service, answers there

So whatever a defence lets through arrives here and goes nowhere else. Run as a program this file is the
servers.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

INTERNET, INTERNET6 = "203.0.113.10", "2001:db8:1::10"
HOST, HOST6, HOST_LAN = "198.51.100.2", "2001:db8:5::2", "192.168.5.2"
NEXT, NEXT6 = "198.51.100.1", "2001:db8:5::1"
PRIVATE = ("192.168.7.7", "10.9.9.9", "172.16.3.3", "100.64.0.9", "fd77::7")
METADATA = ("169.254.169.254", "fd00:ec2::254", "100.100.100.200")
BEYOND = (INTERNET, INTERNET6, *PRIVATE, *METADATA, "169.254.1.1")
#: where the servers listen, TCP and UDP
PORT = 8000

_SETUP = """
set -e
mount -t tmpfs none /mnt
printf 'nameserver %%s\\n' "$2" > /mnt/resolv.conf
mount --bind /mnt/resolv.conf "$(readlink -f /etc/resolv.conf)"
ip link set lo up
unshare --net sh -c 'echo; exec "$0" "$@"' "$3" "$4" beyond > /mnt/up &
beyond=$!
echo $beyond > "$1/beyond"
while [ ! -s /mnt/up ]; do sleep 0.01; done
ip link add eth0 type veth peer name up0 netns $beyond
ip address add %(host)s/24 dev eth0
ip address add %(lan)s/24 dev eth0
ip address add %(host6)s/64 dev eth0 nodad
ip link set eth0 up
into() { nsenter --target $beyond --net "$@"; }
into ip link set lo up
into ip address add %(next)s/24 dev up0
into ip address add %(next6)s/64 dev up0 nodad
for each in %(beyond)s; do into ip address add $each dev lo; done
into ip link set up0 up
into ip route add 192.168.5.0/24 dev up0
ip route add default via %(next)s
ip -6 route add default via %(next6)s
exec "$3" "$4" host
"""


class World:
    """The machine, while it is there. Its servers tell what they are asked in `log`."""

    def __init__(self, directory: Path, resolver: str) -> None:
        values = {
            "host": HOST,
            "lan": HOST_LAN,
            "host6": HOST6,
            "next": NEXT,
            "next6": NEXT6,
            "beyond": " ".join(BEYOND),
        }
        script = _SETUP % values
        self.directory = directory
        for name in ("home", "work"):
            (directory / name).mkdir()
        self._root = os.geteuid() == 0  # whose sandboxes take ids that no namespace within has
        command = ["unshare", "--net", "--mount"]
        if not self._root:
            command += ["--user", "--map-current-user", "--keep-caps"]
        arguments = [str(directory), resolver, sys.executable, __file__]
        self._process = subprocess.Popen(
            [*command, "sh", "-c", script, "sh", *arguments],
            env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line == b"up\n", "the machine of the tests could not be made"

    def inside(self, *arguments: str) -> list[str]:
        """The command that runs *arguments* on the machine, as the user."""
        enter = ["nsenter", "--target", str(self._process.pid), "--net", "--mount"]
        if not self._root:
            enter += ["--user", "--preserve-credentials"]
        return [*enter, f"--wd={self.directory}/work", *arguments]

    def run(self, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        """Run a command on the machine."""
        settings = {
            "stdin": subprocess.DEVNULL,
            "capture_output": True,
            "text": True,
            "timeout": 60,
            **options,
        }
        return subprocess.run(self.inside(*arguments), check=False, **settings)  # type: ignore[call-overload,no-any-return]

    def root(self, *arguments: str) -> str:
        """Run a command with every capability over the machine's network; what it wrote, errors too."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(arguments).encode() + b"\n")
        self._process.stdin.flush()
        written: str = json.loads(self._process.stdout.readline())
        return written

    def beyond(self, *arguments: str) -> str:
        """The same beyond it."""
        pid = (self.directory / "beyond").read_text().strip()
        return self.root("nsenter", "--target", pid, "--net", *arguments)

    def end(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


@contextlib.contextmanager
def world(directory: Path, resolver: str = "127.0.0.1") -> Iterator[World]:
    made = World(directory, resolver)
    try:
        yield made
    finally:
        made.end()


#: For `python3 -c`, inside: try each HOST[:PORT][/udp], and print "HOST ANSWER" for each
PROBE = """
import socket, sys
for word in sys.argv[1:]:
    host, _, kind = word.partition("/")
    host, _, port = host.rpartition("|") if "|" in host else (host, "", "8000")
    try:
        info = socket.getaddrinfo(host, int(port), type=2 if kind == "udp" else 1)[0]
        with socket.socket(*info[:3]) as s:
            s.settimeout(10)
            s.connect(info[4])
            s.sendall(b"hello")
            print(word, s.recv(1000).decode(), flush=True)
    except OSError as error:
        print(word, "refused", error.errno, flush=True)
"""


# --- the servers ------------------------------------------------------------------------------------


def _answer_name(query: bytes) -> bytes:
    """A name server that knows one address for every name."""
    name_end = query.index(b"\0", 12) + 1
    kind = struct.unpack_from("!H", query, name_end)[0]
    question = query[12 : name_end + 4]
    data = socket.inet_aton(INTERNET) if kind == 1 else b""
    head = query[:2] + struct.pack("!HHHHH", 0x8180, 1, 1 if data else 0, 0, 0)
    answer = b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 60, len(data)) + data if data else b""
    return head + question + answer


def _serve(kind: str) -> None:
    selector = selectors.DefaultSelector()

    def open_(family: int, type_: int, address: str, port: int) -> None:
        made = socket.socket(family, type_)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((address, port))
        if type_ == socket.SOCK_STREAM:
            made.listen(64)
        elif family == socket.AF_INET:
            made.setsockopt(socket.IPPROTO_IP, 8, 1)  # IP_PKTINFO
        else:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        selector.register(made, selectors.EVENT_READ, (type_, port))

    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        for type_ in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            for port in (53, PORT):
                open_(family, type_, address, port)
    if kind == "host":
        selector.register(sys.stdin, selectors.EVENT_READ, ("stdin", 0))
        print("up", flush=True)
    while True:
        for key, _ in selector.select():
            type_, port = key.data
            if type_ == "stdin":
                line = sys.stdin.readline()
                if not line:
                    return
                done = subprocess.run(
                    json.loads(line), capture_output=True, text=True, stdin=subprocess.DEVNULL
                )
                print(json.dumps(done.stdout + done.stderr), flush=True)
                continue
            assert isinstance(key.fileobj, socket.socket)
            with contextlib.suppress(OSError, ValueError):
                _serve_one(key.fileobj, type_, port, kind)


def _as_source(level: int, data: bytes) -> bytes:
    """in_pktinfo and in6_pktinfo without the device (ip(7)): the kernel finds it."""
    return (
        struct.pack("=i", 0) + data[8:12] * 2
        if level == socket.IPPROTO_IP
        else data[:16] + struct.pack("=i", 0)
    )


def _serve_one(listener: socket.socket, type_: int, port: int, kind: str) -> None:
    if type_ == socket.SOCK_DGRAM:
        # from where it was asked, not from the address that leads back
        data, where, _, peer = listener.recvmsg(65536, 256)
        reply = _answer_name(data) if port == 53 else json.dumps([kind, peer[0]]).encode()
        listener.sendmsg(
            [reply], [(level, type_, _as_source(level, data)) for level, type_, data in where], 0, peer
        )
        return
    connection, peer = listener.accept()
    with connection:
        connection.settimeout(10)
        data = connection.recv(65536)
        if port == 53:
            reply = _answer_name(data[2:])
            connection.sendall(struct.pack("!H", len(reply)) + reply)
        else:
            connection.sendall(json.dumps([kind, peer[0]]).encode())


if __name__ == "__main__":
    import ctypes

    ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG
    _serve(sys.argv[1])
