"""The whole Internet of a test: a service of the sandbox that makes a network of its own, and a link to it.

Run as `python uplink.py NETNS CONFIGURATION READY`, with rights over the sandbox's network. All servers are
in a network namespace that leads nowhere else. CONFIGURATION is JSON:

    names      name -> what the DNS server answers: a list of addresses, {"cname": name}, {"raw": hex} ...
    log        a file, to which a line of JSON goes for each query, request and connection
    cert       a file with key and certificate for the TLS servers
"""

from __future__ import annotations

import ctypes
import ipaddress
import json
import os
import socket
import ssl
import struct
import subprocess
import sys
import threading

LIBC = ctypes.CDLL(None, use_errno=True)
NEWNET = 0x40000000
SERVERS = ("198.51.100.1", "198.51.100.2", "203.0.113.1", "192.168.7.7", "169.254.169.254", "127.0.0.1")
SERVERS6 = ("2001:db8:1::1", "2001:db8:1::2", "fd00:7::7")
DNS = "10.0.2.3"
LOCK = threading.Lock()


def ip(*words: str) -> None:
    subprocess.run(["/usr/sbin/ip" if os.path.exists("/usr/sbin/ip") else "/sbin/ip", *words], check=True)


def log(config: dict, **what: object) -> None:
    with LOCK, open(config["log"], "a") as file:
        file.write(json.dumps(what) + "\n")


def connect(netns: str) -> None:
    inside = os.open(netns, os.O_RDONLY)
    if LIBC.setns(inside, NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
    # made there, and moved out to here
    ours = os.fork()
    if ours == 0:
        LIBC.unshare(NEWNET)
        os.kill(os.getpid(), 19)  # SIGSTOP
        os._exit(0)
    os.waitpid(ours, os.WUNTRACED)
    outside = os.open(
        f"/proc/{os.readlink('/proc/self')}/task/{os.readlink('/proc/self')}/children", os.O_RDONLY
    )
    child = os.read(outside, 100).split()[0].decode()
    out = os.open(f"/proc/{child}/ns/net", os.O_RDONLY)
    ip("link", "add", "eth0", "type", "veth", "peer", "name", "up0", "netns", f"/proc/{child}/ns/net")
    ip("addr", "add", "10.0.2.100/24", "dev", "eth0")
    ip("addr", "add", "2001:db8:ffff::100/64", "dev", "eth0", "nodad")
    ip("link", "set", "eth0", "up")
    ip("route", "add", "default", "via", "10.0.2.2")
    ip("-6", "route", "add", "default", "via", "2001:db8:ffff::2")
    if LIBC.setns(out, NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
    os.kill(ours, 9)
    os.waitpid(ours, 0)
    ip("link", "set", "lo", "up")
    for each in (f"{DNS}/32", *(f"{each}/32" for each in SERVERS if each != "127.0.0.1")):
        ip("addr", "add", each, "dev", "lo")
    for each in SERVERS6:
        ip("addr", "add", f"{each}/128", "dev", "lo", "nodad")
    ip("addr", "add", "10.0.2.2/24", "dev", "up0")
    ip("addr", "add", "2001:db8:ffff::2/64", "dev", "up0", "nodad")
    ip("link", "set", "up0", "up")


def name_at(data: bytes, at: int) -> tuple[str, int]:
    labels = []
    while data[at]:
        labels.append(data[at + 1 : at + 1 + data[at]].decode("latin-1"))
        at += 1 + data[at]
    return ".".join(labels), at + 1


def wire(name: str) -> bytes:
    return b"".join(bytes([len(part)]) + part.encode("latin-1") for part in name.split(".") if part) + b"\0"


def answer(config: dict, data: bytes, tcp: bool) -> list[bytes]:
    """What the DNS server sends for a query."""
    name, end = name_at(data, 12)
    kind = struct.unpack_from("!H", data, end)[0]
    log(config, dns=name, kind=kind, tcp=tcp)
    question = data[12 : end + 4]
    known = config["names"].get(name.lower())
    if known is None:
        wild = [v for k, v in config["names"].items() if k.startswith("*.") and name.lower().endswith(k[1:])]
        known = wild[0] if wild else None
    flags, records = 0x8180, []
    if known is None:
        return [data[:2] + struct.pack("!5H", 0x8183, 1, 0, 0, 0) + question]
    options = known if isinstance(known, dict) else {"addresses": known}
    owner, ttl = name, options.get("ttl", 60)
    for target in options.get("cnames", []):
        rdata = wire(target)
        records.append(wire(owner) + struct.pack("!HHIH", 5, 1, ttl, len(rdata)) + rdata)
        owner = target
    owner = options.get("owner", owner)
    for each in options.get("addresses", []):
        address = ipaddress.ip_address(each)
        if kind == (1 if address.version == 4 else 28):
            records.append(
                wire(owner) + struct.pack("!HHIH", kind, 1, ttl, len(address.packed)) + address.packed
            )
    if options.get("truncate") and not tcp:
        flags, records = flags | 0x200, []
    good = data[:2] + struct.pack("!5H", flags, 1, len(records), 0, 0) + question + b"".join(records)
    forged = [bytes.fromhex(each.replace("ID", data[:2].hex())) for each in options.get("raw", [])]
    return [*forged, good] if not options.get("silent") else forged


def dns_udp(config: dict, sock: socket.socket) -> None:
    while True:
        data, peer = sock.recvfrom(4096)
        for each in answer(config, data, False):
            sock.sendto(each, peer)


def dns_tcp(config: dict, sock: socket.socket) -> None:
    while True:
        client, _ = sock.accept()
        with client:
            data = client.recv(4096)
            for each in answer(config, data[2:], True):
                client.sendall(len(each).to_bytes(2, "big") + each)


def serve(config: dict, server: socket.socket, tls: ssl.SSLContext | None) -> None:
    """HTTP/1.1 as it should be, several requests on a connection, each answered with what it was."""
    while True:
        client, _ = server.accept()
        threading.Thread(target=one, args=(config, client, tls), daemon=True).start()


def one(config: dict, client: socket.socket, tls: ssl.SSLContext | None) -> None:
    where = client.getsockname()[0]
    port = client.getsockname()[1]
    try:
        log(config, connection=where, port=port)
        if tls is not None:
            client = tls.wrap_socket(client, server_side=True)
        if port not in (80, 443):
            client.sendall(f"hello from {where}\n".encode())
            log(config, received=client.recv(4096).decode("latin-1"), at=where, port=port)
            return
        file = client.makefile("rb")
        while line := file.readline():
            fields = {}
            while field := file.readline().strip():
                key, _, value = field.partition(b":")
                fields[key.strip().lower().decode("latin-1")] = value.strip().decode("latin-1")
            body = file.read(int(fields.get("content-length", 0)))
            if fields.get("transfer-encoding") == "chunked":
                while size := int(file.readline(), 16):
                    body += file.read(size)
                    file.readline()
                file.readline()
            log(config, request=line.decode("latin-1").strip(), fields=fields, body=len(body), at=where)
            if fields.get("upgrade") == "websocket" and "refuse" not in line.decode("latin-1"):
                client.sendall(b"HTTP/1.1 101 Switching\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n")
                while data := client.recv(4096):
                    client.sendall(data.upper())
                return
            text = f"{where} {fields.get('host')} {len(body)}".encode()
            client.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(text), text))
            if fields.get("connection") == "close" and not config.get("careless"):
                return
    except OSError:
        pass
    finally:
        client.close()


def main() -> None:
    netns, config, ready = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
    connect(netns)
    tls = None
    if config.get("cert"):
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(config["cert"])
    jobs = [(dns_udp, socket.SOCK_DGRAM), (dns_tcp, socket.SOCK_STREAM)]
    for job, kind in jobs:
        sock = socket.socket(socket.AF_INET, kind)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((DNS, 53))
        if kind == socket.SOCK_STREAM:
            sock.listen()
        threading.Thread(target=job, args=(config, sock), daemon=True).start()
    for family, addresses in ((socket.AF_INET, (*SERVERS, "10.0.2.2")), (socket.AF_INET6, SERVERS6)):
        for address in addresses:
            for port in (80, 443, 8022):
                server = socket.socket(family)
                server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                server.bind((address, port))
                server.listen()
                context = tls if port == 443 else None
                threading.Thread(target=serve, args=(config, server, context), daemon=True).start()
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("198.51.100.1", 443))
    threading.Thread(
        target=lambda: [udp.sendto(*udp.recvfrom(2048)) for _ in iter(int, 1)], daemon=True
    ).start()
    os.write(ready, b"r")
    threading.Event().wait()


main()
