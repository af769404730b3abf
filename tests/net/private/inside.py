"""What runs in sandboxes of these tests: programs for `python3 -c`, as texts."""

from __future__ import annotations

PYTHON = "/usr/bin/python3"

#: listens on port 8000, TCP and UDP, IPv4 and IPv6; tells everybody its own argument and who they are
SERVER = """
import socket, sys, threading
def serve(s, kind):
    while True:
        if kind == socket.SOCK_DGRAM:
            data, peer = s.recvfrom(65536)
            s.sendto((sys.argv[1] + " " + peer[0]).encode(), peer)
        else:
            connection, peer = s.accept()
            with connection: connection.sendall((sys.argv[1] + " " + peer[0]).encode())
for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        s = socket.socket(family, kind)
        if family == socket.AF_INET6: s.setsockopt(41, 26, 1)
        s.bind((address, 8000))
        if kind == socket.SOCK_STREAM: s.listen(64)
        threading.Thread(target=serve, args=(s, kind), daemon=True).start()
print("up", flush=True)
sys.stdin.read()
"""

#: what each KIND:HOST (tcp4, udp6 and so on) says, a line each; "-" and the error's number where nothing does
ASK = """
import socket, sys
for word in sys.argv[1:]:
    kind, _, host = word.partition(":")
    try:
        family = socket.AF_INET if kind[-1] == "4" else socket.AF_INET6
        info = socket.getaddrinfo(host, 8000, family, 2 if kind[0] == "u" else 1)[0]
        with socket.socket(*info[:2]) as s:
            s.settimeout(3); s.connect(info[4]); s.send(b"hello")
            print(word, s.recv(1000).decode(), flush=True)
    except OSError as error:
        print(word, "-", type(error).__name__, flush=True)
"""
