"""A sandbox with an egress policy, in front of an Internet of the test's own (uplink.py).

Everything is real but the network backend: the helper, its guards, the service, nftables, a payload that is
root inside. Nothing leads out of the namespaces that are made, whatever fails.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sandbox import seccomp
from sandbox.egress import DENIED_CALLS
from sandbox.net import egress
from sandbox.net.rules import Rules
from sandbox.profile.model import Net
from sandbox.wire import Kind, Mount, Ready, Record, ServiceFlag
from tests.helper import runs
from tests.helper.runs import slot

PYTHON = next(path for path in ("/usr/bin/python3", "/usr/local/bin/python3") if os.path.exists(path))
NFT = next((path for path in ("/usr/sbin/nft", "/sbin/nft") if os.path.exists(path)), "")
ROOT = Path(__file__).resolve().parents[2]
TREES = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/lib32", "/libx32", "/etc/ld.so.cache")
ALL_CAPABILITIES = (1 << 41) - 1
NAMES: Mapping[str, Any] = {
    "good.example": ["198.51.100.1", "2001:db8:1::1"],
    "other.example": ["198.51.100.2", "2001:db8:1::2"],
    "a.wild.example": ["198.51.100.1"],
    "bad.example": ["203.0.113.1"],
}


def program() -> egress.Program:
    code = seccomp.program("strict", deny=DENIED_CALLS.split(), capabilities=egress.CAPABILITIES)
    return egress.Program(PYTHON, str(ROOT), (*TREES, str(ROOT / "sandbox")), code)


def certificate(directory: Path) -> str:
    key, cert = directory / "key", directory / "cert"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    command += ["-keyout", str(key), "-out", str(cert), "-days", "3650", "-subj", "/CN=lab"]
    subprocess.run(command, check=True, capture_output=True)
    both = directory / "both"
    both.write_text(key.read_text() + cert.read_text())
    both.chmod(0o644)
    return str(both)


@dataclass
class Seen:
    """What happened: the payload's end, its output, and what the outside saw."""

    ended: runs.Ended
    log: list[dict[str, Any]]

    @property
    def output(self) -> str:
        assert self.ended.status == 0, (self.ended.stderr.decode(), self.ended.report)
        return self.ended.stdout.decode()

    @property
    def asked(self) -> list[str]:
        return [each["dns"] for each in self.log if "dns" in each]

    @property
    def connections(self) -> list[tuple[str, int]]:
        return [(each["connection"], each["port"]) for each in self.log if "connection" in each]

    @property
    def requests(self) -> list[dict[str, Any]]:
        return [each for each in self.log if "request" in each]

    @property
    def denied(self) -> list[tuple[str, int, str]]:
        return [(each["name"], each["port"], each["how"]) for each in self.ended.report["network"]["denied"]]


@dataclass
class Lab:
    """One set-up; `run` makes a sandbox with it."""

    helper: Path
    directory: Path
    allow: tuple[str, ...] | None = ()
    deny: tuple[str, ...] = ()
    names: Mapping[str, Any] = field(default_factory=lambda: NAMES)
    private: bool = False
    mode: str = "kernel"
    careless: bool = False
    peers: tuple[str, ...] = ()

    def net(self) -> Net:
        return Net("user", allow=self.allow, deny=self.deny)

    def records(self) -> Iterable[Record]:
        log = self.directory / "log"
        log.touch()
        log.chmod(0o666)
        settings = {
            "names": dict(self.names),
            "log": str(log),
            "cert": certificate(self.directory),
            "careless": self.careless,
        }
        uplink = (PYTHON, str(ROOT / "tests/egress/uplink.py"), "{netns}", json.dumps(settings), "{ready}")
        flags = int(ServiceFlag.RIGHTS | ServiceFlag.NEEDED)
        yield Record(Kind.SERVICE, "start the uplink", "", ("uplink", flags, int(Ready.WRITES), 0, *uplink))
        yield from egress.records(self.net(), self.rules(), program(), "here:1")
        yield Record(Kind.NFT, "load the rules", "here:1", (NFT, self.rules().text()))

    def rules(self) -> Rules:
        found = egress.policy(self.net())
        return Rules(
            own=("10.0.2.100", "2001:db8:ffff::100"),
            resolvers=("10.0.2.3",),
            policy=found,
            peers=self.peers,
            redirect=egress.PORT,
            reach=("private",) if self.private else (),
            services=True,
        )

    def run(self, code: str, *arguments: str, capabilities: int = ALL_CAPABILITIES, **options: Any) -> Seen:
        """Run Python *code* inside, as root of its own user namespace with all capabilities."""
        resolv = f"nameserver {egress.DNS}\noptions timeout:5 attempts:1\n".encode()
        extra = [
            *self.records(),
            slot(Kind.LOOPBACK),
            slot(Kind.CAPABILITIES, capabilities),
            slot(Kind.DIRECTORY, "/etc", 0o755),
            slot(Kind.FILE, "/etc/resolv.conf", 0o644, resolv),
            slot(Kind.LIMIT, "timeout", 60 * 10**9, "clock"),
        ]
        command: Sequence[str] = [PYTHON, "-I", "-c", PRELUDE + code, *arguments]
        ended = runs.run(self.helper, command, *extra, **options)
        lines = (self.directory / "log").read_text().splitlines()
        (self.directory / "log").unlink()
        return Seen(ended, list(map(json.loads, lines)))

    def but(self, **changes: Any) -> Lab:
        return replace(self, **changes)


#: what payloads use
PRELUDE = '''
import errno, os, socket, ssl, struct, sys
socket.setdefaulttimeout(20)
def outcome(call, *args):
    """What it gives, or the name of the error."""
    try:
        return call(*args)
    except socket.gaierror as error:
        return "unknown"
    except ssl.SSLError as error:
        return error.reason or "ssl"
    except ConnectionError as error:
        return type(error).__name__
    except OSError as error:
        return errno.errorcode.get(error.errno, "timeout")
def resolve(name):
    return sorted({each[4][0] for each in socket.getaddrinfo(name, 1, type=socket.SOCK_STREAM)})
def http(name, path="/", where=None, port=80):
    with socket.create_connection((where or name, port)) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\\r\\nHost: {name}\\r\\nConnection: close\\r\\n\\r\\n".encode())
        return read(sock)
def read(sock):
    data = b""
    while part := sock.recv(65536):
        data += part
    return data.decode("latin-1")
def tls(name, where=None, port=443, host=None):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((where or name, port)) as sock:
        with context.wrap_socket(sock, server_hostname=name) as wrapped:
            head = f"GET / HTTP/1.1\\r\\nHost: {host or name}\\r\\nConnection: close\\r\\n\\r\\n"
            wrapped.sendall(head.encode())
            return read(wrapped).partition("\\r\\n\\r\\n")[2]
def hello(where, port=8022):
    with socket.create_connection((where, port)) as sock:
        return sock.recv(100).decode().strip()
'''
_ = Mount
