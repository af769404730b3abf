"""A "host" in a network namespace of its own, the proxy in it, and a client in a third that only reaches the
proxy. Run by test_proxy.py as `unshare -rn python proxied.py SETTINGS`, JSON:

    uplink   command of uplink.py, but for its network namespace
    service  command of the service, "{ready}" standing for a descriptor
    client   command that runs inside
    port     where the proxy listens
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import sys

LIBC = ctypes.CDLL(None)
NEWNET = 0x40000000


def start(command: list[str], *fds: int) -> subprocess.Popen[bytes]:
    """With *fds* as descriptors from 3 on, and one more to say that it is ready, which is waited for."""
    read, write = os.pipe()
    above = [os.dup(fd) for fd in (*fds, write)]

    def place() -> None:
        held = [os.dup2(fd, 100 + at) for at, fd in enumerate(above)]
        for at, fd in enumerate(held):
            os.dup2(fd, 3 + at)

    words = [word.replace("{ready}", str(3 + len(fds))) for word in command]
    process = subprocess.Popen(words, preexec_fn=place, close_fds=False)
    os.close(write)
    for fd in above:
        os.close(fd)
    assert os.read(read, 1) == b"r", "it is not ready"
    os.set_blocking(read, False)
    process.said = read  # type: ignore[attr-defined]
    return process


def main() -> None:
    settings = json.loads(sys.argv[1])
    subprocess.run(["/usr/sbin/ip", "link", "set", "lo", "up"], check=True)
    own = [socket.create_server(("127.0.0.1", 80))]
    uplink = start([each.replace("{netns}", f"/proc/{os.getpid()}/ns/net") for each in settings["uplink"]])
    own.append(socket.create_server(("10.0.2.100", 8022)))
    host = os.open("/proc/self/ns/net", os.O_RDONLY)
    LIBC.unshare(NEWNET)
    inside = os.open("/proc/self/ns/net", os.O_RDONLY)
    subprocess.run(["/usr/sbin/ip", "link", "set", "lo", "up"], check=True)
    listening = socket.create_server(("127.0.0.1", settings["port"]))
    LIBC.setns(host, NEWNET)
    service = start(settings["service"], listening.fileno())
    listening.close()
    LIBC.setns(inside, NEWNET)
    client = subprocess.run(settings["client"], stdout=subprocess.PIPE, check=False)
    said = os.read(service.said, 65536).decode() if client else ""  # type: ignore[attr-defined]
    service.kill()
    uplink.kill()
    print(json.dumps({"status": client.returncode, "output": client.stdout.decode(), "said": said}))
    del own


main()
