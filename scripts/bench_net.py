"""`scripts/bench net`: what a sandbox's own network costs, beside the same backend started by hand, in turns.

All of it is on a machine of the tests' own (tests/net/world.py), whose Internet is a namespace of ours. By
hand means: a user and a network namespace, and slirp4netns or pasta with the options that we give it, and
nothing in between: no rules, no filter, no guard. Started anew for each turn, as a sandbox is.

Client, backend and server share one processor, and a connection has no more under way than pasta can take. It
loses data else, whoever started it, and what is measured are the retransmission timers of TCP: with two
processors the same command gave between 0.01 and 9 Gbit/s. So what is compared is the work that a byte takes.
Client and backend are in sessions of their own in both cases, as from two terminals: the kernel schedules by
sessions (sched(7), autogroup), and that alone made a third of a difference.
"""

from __future__ import annotations

import json
import os
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.net import world as worlds  # noqa: E402

BACKENDS = ("slirp4netns", "pasta")
#: of a transfer, after those in which TCP finds its pace
SECONDS, OMITTED = 2, 2
WINDOW = "32K"
PORTS = {"throughput": 5201, "latency": 5202}
#: ours beside by hand: at least so much of the throughput
THROUGHPUT = 0.95
#: at most so long from the backend's readiness to the payload's first instructions, seconds
RELEASE = 0.010

MODES = {
    "none": 'mode = "none"',
    "host": 'mode = "host"',
    "user, slirp4netns": 'mode = "user"\nbackend = "slirp4netns"',
    "user, pasta": 'mode = "user"\nbackend = "pasta"',
    "user, allow = [a name]": 'mode = "user"\nbackend = "slirp4netns"\nallow = ["good.example:443"]',
    "proxy": 'mode = "proxy"\nallow = ["good.example:443"]',
}

#: Echoes whatever comes, until the end; in the machine's Internet. Whoever does not go is in nobody's way.
ECHO = """
import os, socket, threading
def echo(client):
    with client:
        client.setsockopt(6, 1, 1)
        while data := client.recv(65536):
            client.sendall(data)
with socket.create_server(("0.0.0.0", int(os.environ["PORT"])), backlog=512) as server:
    print("up", flush=True)
    while True:
        threading.Thread(target=echo, args=server.accept()[:1], daemon=True).start()
"""
#: A connection with a byte each, then bytes on one connection; prints seconds for each kind.
CLIENT = """
import socket, statistics, sys, time
where = (sys.argv[1], int(sys.argv[2]))
def connect():
    with socket.create_connection(where) as sock:
        sock.sendall(b"x"); sock.recv(1)
def timed(call, times):
    found = []
    for _ in range(times):
        began = time.perf_counter(); call(); found.append(time.perf_counter() - began)
    return statistics.median(found)
print(timed(connect, 200))
with socket.create_connection(where) as sock:
    sock.setsockopt(6, 1, 1)
    print(timed(lambda: sock.sendall(b"x") or sock.recv(1), 1000))
"""
#: Stands before a backend: tells the time, by a datagram, when it is ready, and then passes that on.
STAMP = r"""
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void stamp(void)
{
    struct in_addr loopback = {htonl(INADDR_LOOPBACK)};
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(PORT), .sin_addr = loopback};
    struct timespec now;
    char text[64];

    clock_gettime(CLOCK_REALTIME, &now);
    int size = snprintf(text, sizeof(text), "%lld%09ld", (long long)now.tv_sec, now.tv_nsec);
    sendto(socket(AF_INET, SOCK_DGRAM, 0), text, (size_t)size, 0, (struct sockaddr *)&to, sizeof(to));
}

int main(int argc, char **argv)
{
    int pipes[2], at = 0, status;
    char byte, fd[16];

    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i - 1], "--ready-fd") == 0)
            at = i;
    if (pipe(pipes) < 0)
        return 1;
    snprintf(fd, sizeof(fd), "%d", pipes[1]);
    pid_t pid = fork();
    if (pid == 0) {
        int ready = at ? argv[at][0] - '0' : -1;
        if (at)
            argv[at] = fd;
        close(ready);
        execv(REAL, argv);
        _exit(127);
    }
    close(pipes[1]);
    if (at && read(pipes[0], &byte, 1) == 1) {
        stamp();
        return write(argv[at][0] - '0', "r", 1) != 1 || waitpid(pid, &status, 0) != pid;
    }
    if (waitpid(pid, &status, 0) != pid || status != 0)
        return 1;
    stamp();
    return 0;
}
"""


@dataclass
class Pair:
    """The same figure of ours and by hand, measured in turns."""

    name: str
    unit: str
    ours: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """The median of what each turn gave: what disturbs one disturbs both."""
        return statistics.median(ours / bare for ours, bare in zip(self.ours, self.bare, strict=True))


def main(options: Any) -> None:
    if os.geteuid() == 0:
        raise SystemExit(
            "scripts/bench net: as an ordinary user: setpriv --reuid=USER --regid=USER --init-groups"
        )
    with tempfile.TemporaryDirectory(prefix="sandbox-bench-") as name:
        directory = Path(name)
        with worlds.world(directory, worlds.NEXT) as machine:
            results = {"pairs": compare(machine, options.n), **starts(machine, options.n)}
    print(json.dumps(results, indent=2, default=vars) if options.json else table(results))


def table(results: dict[str, Any]) -> str:
    lines = [f"{'':<34}{'ours':>10}{'by hand':>10}{'ratio':>8}"]
    for pair in results["pairs"]:
        ours, bare = statistics.median(pair.ours), statistics.median(pair.bare)
        told = ""
        if pair.unit == "Gbit/s":
            told = f"  at least {THROUGHPUT}: {'yes' if pair.ratio >= THROUGHPUT else 'NO'}"
        lines.append(f"{f'{pair.name}, {pair.unit}':<34}{ours:10.3f}{bare:10.3f}{pair.ratio:8.3f}{told}")
    lines += ["", "start of /bin/true, and its end"]
    lines += [f"  {name:<32}{seconds * 1000:10.1f} ms" for name, seconds in results["starts"].items()]
    lines += ["", f"the backend's readiness to the payload's first line, at most {RELEASE * 1000:g} ms"]
    for name, seconds in results["releases"].items():
        told = "yes" if seconds <= RELEASE else "NO"
        lines.append(f"  {name:<32}{seconds * 1000:10.1f} ms  {told}")
    return "\n".join(lines)


# --- throughput and latency -------------------------------------------------------------------------


def compare(machine: worlds.World, times: int) -> list[Pair]:
    pairs: list[Pair] = []
    with (
        one_processor(),
        server(machine, "iperf3", "-s", "-p", str(PORTS["throughput"]), up="listening"),
        server(machine, "/usr/bin/python3", "-c", ECHO, up="up"),
    ):
        for backend in BACKENDS:
            made = measured(backend)
            for turn in range(times):
                for kind, found in made.items():
                    if turn % 2:  # who comes first gains nothing by it
                        theirs, ours = bare(machine, backend, kind), own(machine, backend, kind)
                    else:
                        ours, theirs = own(machine, backend, kind), bare(machine, backend, kind)
                    for pair, one, other in zip(found, ours, theirs, strict=True):
                        pair.ours.append(one)
                        pair.bare.append(other)
            pairs += [pair for found in made.values() for pair in found]
    return pairs


@contextmanager
def one_processor() -> Iterator[None]:
    """For what is started meanwhile."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def own(machine: worlds.World, backend: str, kind: str) -> list[float]:
    return once(machine, kind, sandboxed(machine, backend))


def bare(machine: worlds.World, backend: str, kind: str) -> list[float]:
    with by_hand(machine, backend) as prefix:
        return once(machine, kind, prefix)


def measured(backend: str) -> dict[str, list[Pair]]:
    return {
        "up": [Pair(f"{backend}, TCP out", "Gbit/s")],
        "down": [Pair(f"{backend}, TCP in", "Gbit/s")],
        "latency": [Pair(f"{backend}, connect and echo", "ms"), Pair(f"{backend}, echo", "ms")],
    }


def once(machine: worlds.World, kind: str, prefix: list[str]) -> list[float]:
    """The figures of a command that is run behind *prefix*."""
    where = worlds.INTERNET
    if kind in ("up", "down"):
        words = ["iperf3", "-c", where, "-p", str(PORTS["throughput"]), "-J", "-w", WINDOW]
        words += ["-t", str(SECONDS), "-O", str(OMITTED), *(["-R"] if kind == "down" else [])]
        for _ in range(5):  # iperf3 ends well, too, when it has lost its connection of control
            end = json.loads(run(machine, *prefix, *words))["end"]
            if "sum_received" in end:
                return [float(end["sum_received"]["bits_per_second"]) / 1e9]
        raise SystemExit("scripts/bench net: iperf3 gives no figures, again and again")
    words = ["/usr/bin/python3", "-c", CLIENT, where, str(PORTS["latency"])]
    done = run(machine, *prefix, *words)
    return [float(each) * 1000 for each in done.split()]


def run(machine: worlds.World, *command: str) -> str:
    """What it wrote. Thrice, for an old pasta loses a connection now and then, and iperf3 its own."""
    for patience in (20, 20, 60):
        told = "does not end"
        with suppress(subprocess.TimeoutExpired):
            options = {"env": environment(machine), "timeout": patience, "start_new_session": True}
            done = machine.run(*command, **options)
            if done.returncode == 0:
                return done.stdout
            told = f"failed:\n{done.stderr}{done.stdout}"
    raise SystemExit(f"scripts/bench net: {' '.join(command[:9])} {told}")


def environment(machine: worlds.World) -> dict[str, str]:
    home = str(machine.directory / "home")
    found = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": home, "PORT": str(PORTS["latency"])}
    return {name: value for name, value in found.items() if not name.startswith("XDG_")}


def profile(machine: worlds.World, name: str, net: str) -> str:
    path = machine.directory / f"{''.join(filter(str.isalnum, name))}.toml"
    path.write_text(f'extends = "default"\n[net]\n{net}\n')
    return str(path)


def sandboxed(machine: worlds.World, backend: str) -> list[str]:
    made = profile(machine, backend, MODES[f"user, {backend}"])
    return [sys.executable, "-m", "sandbox", "run", "-p", made, "--"]


@contextmanager
def by_hand(machine: worlds.World, backend: str) -> Iterator[list[str]]:
    """A namespace with a backend; the command that enters it."""
    inside = machine.inside(
        "unshare", "--user", "--map-root-user", "--net", "sh", "-c", "echo; exec sleep 1000"
    )
    with ending(subprocess.Popen(inside, stdout=subprocess.PIPE)) as held:
        assert held.stdout is not None and held.stdout.readline() == b"\n"
        if backend == "pasta":
            words = "--quiet --foreground --config-net --ns-ifname tap0 --mtu 65520 --address 10.0.2.100"
            words += (
                " --netmask 24 --gateway 10.0.2.2 --ipv4-only --no-map-gw -t none -u none -T none -U none"
            )
        else:
            words = "--configure --mtu=65520 --disable-host-loopback --enable-seccomp --enable-sandbox"
        more = ["tap0"] if backend == "slirp4netns" else []
        command = machine.inside(backend, *words.split(), str(held.pid), *more)
        null = subprocess.DEVNULL
        with ending(subprocess.Popen(command, stdout=null, stderr=null, start_new_session=True)):
            enter = [
                "nsenter",
                "--target",
                str(held.pid),
                "--user",
                "--net",
                "--preserve-credentials",
                "--wd=/",
            ]
            until(lambda: "default" in machine.run(*enter, "ip", "route").stdout)
            yield enter


@contextmanager
def ending(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    with process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def server(machine: worlds.World, *command: str, up: str) -> Iterator[None]:
    """One in the machine's Internet, which says *up* when it listens."""
    beyond = (machine.directory / "beyond").read_text().strip()
    enter = ["nsenter", "--target", beyond, "--user", "--net", "--preserve-credentials"]
    with ending(
        subprocess.Popen(
            [*enter, "stdbuf", "-oL", *command], stdout=subprocess.PIPE, env=environment(machine)
        )
    ) as process:
        assert process.stdout is not None
        while up not in (line := process.stdout.readline().decode()):
            if not line:
                raise SystemExit(f"scripts/bench net: {command[0]} can't be started; apt install iperf3")
        yield


def until(done: Any) -> None:
    deadline = time.monotonic() + 30
    while not done():
        if time.monotonic() > deadline:
            raise SystemExit("scripts/bench net: what was waited for does not come")
        time.sleep(0.02)


# --- starts -------------------------------------------------------------------------------------------


def starts(machine: worlds.World, times: int) -> dict[str, dict[str, float]]:
    """How long each mode takes, measured on the machine: by this file, called as a program."""
    made = {name: profile(machine, name, net) for name, net in MODES.items()}
    found = {}
    found["starts"] = json.loads(
        run(machine, sys.executable, __file__, "starts", json.dumps(made), str(times))
    )
    found["releases"] = {}
    for backend in BACKENDS:
        real = run(machine, "sh", "-c", f"command -v {backend}").strip()
        wrappers = machine.directory / f"before-{backend}"
        wrappers.mkdir()
        source = wrappers / "stamp.c"
        source.write_text(STAMP)
        options = [f"-DREAL={json.dumps(real)}", f"-DPORT={PORTS['throughput']}"]
        subprocess.run(["cc", "-O1", *options, "-o", wrappers / backend, source], check=True)
        over = f"lowerdir={wrappers}:/usr/local/bin,userxattr"
        told = machine.root("mount", "-t", "overlay", "-o", over, "none", "/usr/local/bin")
        if told or real.startswith("/usr/local/bin/"):
            raise SystemExit(f"scripts/bench net: can't stand before {real}: {told}")
        given = profile(machine, f"before {backend}", MODES[f"user, {backend}"])
        try:
            done = run(machine, sys.executable, __file__, "releases", given, str(max(times, 10)))
        finally:
            machine.root("umount", "/usr/local/bin")
        found["releases"][backend] = json.loads(done)
    return found


def time_starts(profiles: dict[str, str], times: int) -> dict[str, float]:
    import sandbox

    taken: dict[str, list[float]] = {}
    for turn in range(times + 1):  # the first one plans, and is left out
        for name, path in profiles.items():
            began = time.perf_counter()
            done = sandbox.run(["/bin/true"], profile=path)
            if done.returncode != 0:
                raise SystemExit(f"scripts/bench net: {name}: {done.message}")
            if turn:
                taken.setdefault(name, []).append(time.perf_counter() - began)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def time_releases(path: str, times: int) -> float:
    """From the moment that the backend says that it is ready until the payload has run its first program."""
    import sandbox

    taken = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stamps:
        stamps.bind(("127.0.0.1", PORTS["throughput"]))
        stamps.settimeout(30)
        for _ in range(times + 1):
            done = sandbox.run(["/bin/date", "+%s%N"], profile=path, text=True)
            stamp = stamps.recv(64)
            while select.select([stamps], [], [], 0)[0]:
                stamp = stamps.recv(64)  # those before were asked how old they are
            taken.append(int(done.stdout) - int(stamp))
    return statistics.median(taken[1:]) / 1e9


if __name__ == "__main__":
    if sys.argv[1] == "starts":
        print(json.dumps(time_starts(json.loads(sys.argv[2]), int(sys.argv[3]))))
    else:
        print(json.dumps(time_releases(sys.argv[2], int(sys.argv[3]))))
