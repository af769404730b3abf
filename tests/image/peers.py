"""Real peers for the registry client, on loopback: Debian's docker-registry, a token server, a CA."""

from __future__ import annotations

import base64
import json
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

USER, PASSWORD = "ali", "sesame"
#: "ali:sesame" as htpasswd -B writes it
_HTPASSWD = "ali:$2b$04$enn8kz/F3Gczb6JzWIM94e2FfXxNLrVLTYJNJ49LBu8JJGsh9.zXS\n"
ISSUER, SERVICE = "the test", "the registry"


@dataclass
class Registry:
    """A running docker-registry. `name` is HOST:PORT, `root` where it keeps what it has."""

    name: str
    root: Path

    def blob(self, digest: str) -> Path:
        """The file of a blob."""
        algorithm, encoded = digest.split(":")
        return self.root / "docker/registry/v2/blobs" / algorithm / encoded[:2] / encoded / "data"


@contextmanager
def docker_registry(
    directory: Path, *, auth: str = "", tls: tuple[Path, Path] | None = None, token_server: str = ""
) -> Iterator[Registry]:
    """Start one; *auth* is "", "htpasswd" or "token", *tls* a certificate and its key."""
    directory.mkdir(parents=True, exist_ok=True)
    config = directory / "config.yml"
    config.write_text(_config(directory, auth, tls, token_server))
    log = directory / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=directory,
        )
    try:
        yield Registry(f"localhost:{_port(process, log)}", directory / "root")
    finally:
        process.kill()
        process.wait()


def _config(directory: Path, auth: str, tls: tuple[Path, Path] | None, token_server: str) -> str:
    lines = [
        "version: 0.1",
        "storage:",
        f"  filesystem: {{rootdirectory: {directory / 'root'}}}",
        "  delete: {enabled: true}",
        "http:",
        "  addr: 127.0.0.1:0",
    ]
    if tls:
        lines.append(f"  tls: {{certificate: {tls[0]}, key: {tls[1]}}}")
    if auth == "htpasswd":
        (directory / "htpasswd").write_text(_HTPASSWD)
        lines += ["auth:", f"  htpasswd: {{realm: basic, path: {directory / 'htpasswd'}}}"]
    if auth == "token":
        lines += [
            "auth:",
            "  token:",
            f"    realm: {token_server}",
            f"    service: {SERVICE}",
            f"    issuer: {ISSUER}",
            f"    rootcertbundle: {directory / 'token.crt'}",
        ]
    return "\n".join(lines) + "\n"


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    for _ in range(600):
        match = re.search(r"listening on 127\.0\.0\.1:(\d+)", log.read_text())
        if match:
            return int(match[1])
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise AssertionError(f"docker-registry did not start:\n{log.read_text()}")


def openssl(*arguments: str | Path, data: bytes = b"") -> bytes:
    """Run openssl; what it prints."""
    return subprocess.run(
        ["openssl", *map(str, arguments)], input=data, capture_output=True, check=True
    ).stdout


def authority(directory: Path, name: str = "localhost") -> tuple[Path, Path, Path]:
    """A CA's certificate, and a certificate with its key for *name* and 127.0.0.1."""
    directory.mkdir(parents=True, exist_ok=True)
    ca, ca_key, key, request, certificate = (
        directory / each for each in ("ca.pem", "ca.key", "server.key", "server.csr", "server.pem")
    )
    new = ("req", "-newkey", "rsa:2048", "-nodes")
    openssl(*new, "-x509", "-days", "2", "-subj", "/CN=a CA of the test", "-keyout", ca_key, "-out", ca)
    openssl(*new, "-subj", f"/CN={name}", "-keyout", key, "-out", request)
    names = directory / "names"
    names.write_text(f"subjectAltName=DNS:{name},IP:127.0.0.1\n")
    sign = ("x509", "-req", "-days", "2", "-CAcreateserial", "-extfile", names)
    openssl(*sign, "-in", request, "-CA", ca, "-CAkey", ca_key, "-out", certificate)
    return ca, certificate, key


@dataclass
class TokenServer:
    """What docker's token specification describes, for docker-registry. `asked` has what it was asked."""

    directory: Path
    allowed: Callable[[str, str], bool] = lambda user, scope: True
    url: str = ""
    asked: list[dict[str, object]] = field(default_factory=list)

    def answer(
        self, method: str, query: dict[str, list[str]], authorization: str
    ) -> dict[str, object] | None:
        """The answer's JSON, or None for 401."""
        user = ""
        if authorization.startswith("Basic "):
            user, _, password = base64.b64decode(authorization[6:]).decode().partition(":")
            if password != PASSWORD:
                return None
        if method == "POST":
            if query.get("refresh_token") != ["an identity token"]:
                return None
            user = "by refresh token"
        scopes = [scope for each in query.get("scope", []) for scope in each.split()]
        self.asked.append({"method": method, "user": user, "scopes": scopes, "service": query.get("service")})
        granted = [scope for scope in scopes if self.allowed(user, scope)]
        name = "access_token" if method == "POST" else "token"
        return {name: self._jwt(user, granted), "expires_in": 300}

    def _jwt(self, user: str, scopes: list[str]) -> str:
        certificate = openssl("x509", "-in", self.directory / "token.crt", "-outform", "DER")
        now = int(time.time())
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        header = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(certificate).decode()]}
        claims = {"iss": ISSUER, "sub": user, "aud": SERVICE, "exp": now + 300, "nbf": now - 10, "iat": now}
        text = ".".join(
            _encoded(json.dumps(part).encode()) for part in (header, {**claims, "access": access})
        )
        signature = openssl("dgst", "-sha256", "-sign", self.directory / "token.key", data=text.encode())
        return f"{text}.{_encoded(signature)}"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@contextmanager
def token_server(directory: Path) -> Iterator[TokenServer]:
    """A token server with a certificate of its own, which docker-registry in *directory* believes."""
    directory.mkdir(parents=True, exist_ok=True)
    new = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=tokens")
    openssl(*new, "-keyout", directory / "token.key", "-out", directory / "token.crt")
    tokens = TokenServer(directory)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            self._reply("GET", parse_qs(urlsplit(self.path).query))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            self._reply("POST", parse_qs(body))

        def _reply(self, method: str, query: dict[str, list[str]]) -> None:
            document = tokens.answer(method, query, self.headers.get("Authorization", ""))
            body = json.dumps(document or {"errors": [{"message": "wrong password"}]}).encode()
            self.send_response(200 if document else 401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with serving(Handler) as port:
        tokens.url = f"http://localhost:{port}/token"
        yield tokens


@contextmanager
def serving(
    handler: type[BaseHTTPRequestHandler], address: str = "127.0.0.1", tls: tuple[Path, Path] | None = None
) -> Iterator[int]:
    """An HTTP server for *handler*, with a certificate and key or without; its port."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = type("Server", (ThreadingHTTPServer,), {"address_family": family})((address, 0), handler)
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
