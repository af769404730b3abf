"""Services outside of a sandbox: guards that end them, and the join that works in its network namespace.

The services are small scripts: what is tested is that they are ready before the payload, that their
death is told, and that none is left, whoever dies first and how.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from sandbox.wire import Kind, Ready, Record, ServiceFlag, Socket
from tests.helper import runs
from tests.helper.runs import run, slot

ALL_CAPABILITIES = (1 << 41) - 1
NFT = next((path for path in ("/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft") if os.path.exists(path)), "")
ROLES = ("supervisor", "guard", "service", "init")
PYTHON = next(path for path in ("/usr/bin/python3", "/usr/local/bin/python3") if os.path.exists(path))
TABLE = """
table inet sandbox {
    set host4 { type ipv4_addr; flags interval; }
    set host6 { type ipv6_addr; flags interval; }
    set more4 { type ipv4_addr; flags interval; }
    set more6 { type ipv6_addr; flags interval; }
    chain output {
        type filter hook output priority 0
        ip daddr 127.0.0.9 reject
        ip daddr @host4 ip daddr != 127.0.0.1 drop
    }
}
"""


def service(script, *arguments, name="helpful", flags=0, ready=Ready.AT_ONCE, views=()):
    argv = ("/bin/sh", "-c", script, "sh", *arguments)
    fields = (name, int(flags), int(ready), len(views), *views, *argv)
    return Record(Kind.SERVICE, f"start {name}", "here:1", fields)


def inside(kind, address="", port=0, name="helpful"):
    return Record(Kind.SOCKET, f"open a socket for {name}", "", (name, int(kind), address, port))


def nft(text):
    return Record(Kind.NFT, "load the rules", "here:2", (NFT, text))


def lo_up():
    return slot(Kind.LOOPBACK)


@pytest.fixture
def fifo(tmp_path):
    os.chmod(tmp_path, 0o755)
    path = tmp_path / "fifo"
    os.mkfifo(path)
    os.chmod(path, 0o666)
    return path


class TestReadiness:
    def test_the_payload_waits_for_a_byte(self, helper, fifo):
        ready = service(f'read word < {fifo}; echo "r" >&$1; exec sleep 1000', "{ready}", ready=Ready.WRITES)
        process = runs.start(helper, ["echo", "ran"], ready, slot(Kind.LIMIT, "timeout", 10**12, "clock"))
        with fifo.open("w") as file:  # it is started, and not ready
            assert process.poll() is None
            os.set_blocking(process.stdout.fileno(), False)
            assert process.stdout.read() is None
            os.set_blocking(process.stdout.fileno(), True)
            file.write("go\n")
        assert process.communicate(timeout=runs.PATIENCE)[0] == b"ran\n"
        assert process.returncode == 0

    def test_or_for_its_first_process_to_go_on_in_the_background(self, helper, tmp_path):
        os.chmod(tmp_path, 0o777)
        script = f"echo early > {tmp_path}/mark; sleep 1000 & exit 0"
        ended = run(helper, ["true"], service(script, ready=Ready.FORKS))
        assert ended.status == 0
        assert (tmp_path / "mark").read_text() == "early\n"

    def test_its_first_process_may_not_be_the_only_one_that_ends(self, helper, fifo):
        script = f"read word < {fifo}; (sleep 1000 &) & exit 0"
        process = runs.start(helper, ["echo", "ran"], service(script, ready=Ready.FORKS))
        with fifo.open("w") as file:
            guard = _guard_of(process.pid)
            os.kill(guard, signal.SIGSTOP)  # so that it finds both
            file.write("go\n")
        _until(lambda: sorted(map(runs.is_alive, runs.children(guard))) == [False, False, True])
        os.kill(guard, signal.SIGCONT)
        assert process.communicate(timeout=runs.PATIENCE)[0] == b"ran\n"

    def test_or_for_nothing(self, helper):
        assert run(helper, ["true"], service("exec sleep 1000")).status == 0

    @pytest.mark.parametrize("ready", [Ready.WRITES, Ready.FORKS])
    def test_one_that_fails_is_what_failed(self, helper, ready):
        ended = run(helper, ["echo", "ran"], service("echo no luck >&2; exit 3", ready=ready))
        assert ended.status == 125 and ended.stdout == b""
        assert ended.report["message"] == "cannot start helpful: it ended with status 3: no luck"
        assert ended.report["origin"] == "here:1"

    def test_so_is_one_that_is_not_there(self, helper):
        record = Record(Kind.SERVICE, "start it", "", ("it", 0, 1, 0, "/nowhere/at/all"))
        ended = run(helper, ["echo", "ran"], record)
        assert ended.status == 125 and ended.stdout == b""
        assert "/nowhere/at/all: No such file or directory" in ended.report["message"]

    def test_so_is_one_with_too_many_arguments(self, helper):
        ended = run(helper, ["echo", "ran"], service("exit 0", *["x"] * 300))
        assert ended.status == 125 and ended.stdout == b""
        assert "Argument list too long" in ended.report["message"]

    def test_two_are_both_waited_for(self, helper, fifo):
        quick = service("exec sleep 1000", name="quick")
        script = f"read word < {fifo}; echo >&$1; exec sleep 1000"
        slow = service(script, "{ready}", ready=Ready.WRITES, name="slow")
        process = runs.start(helper, ["echo", "ran"], quick, slow)
        with fifo.open("w") as file:
            os.set_blocking(process.stdout.fileno(), False)
            assert process.stdout.read() is None
            os.set_blocking(process.stdout.fileno(), True)
            file.write("go\n")
        assert process.communicate(timeout=runs.PATIENCE)[0] == b"ran\n"

    def test_a_caller_that_goes_meanwhile_is_noticed(self, helper):
        """No request can be waiting in front of it: init waits, too."""
        with runs.box(helper, service("exec sleep 1000", ready=Ready.WRITES)) as box:
            box.spawn(1, ["true"])
            assert "Device or resource busy" in box.event(event="result", id=1)["message"]
            box.request(Kind.CLOSE)
            box.event(event="end")


class TestWhatItIs:
    def test_it_has_no_rights_and_sees_what_it_is_shown(self, helper, tmp_path):
        os.chmod(tmp_path, 0o777)
        script = f'{{ cat /proc/self/status; ls /; }} > {tmp_path}/seen; echo >&"$1"; exec sleep 1000'
        ended = run(helper, ["true"], service(script, "{ready}", ready=Ready.WRITES))
        assert ended.status == 0
        seen = (tmp_path / "seen").read_text()
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert f"{name}:\t0000000000000000" in seen
        assert "NoNewPrivs:\t1" in seen
        assert "home" in seen.split()

    def test_with_views_it_sees_no_other_files(self, helper):
        views = [
            each for each in ("/usr", "/bin", "/lib", "/lib64", "/proc", "/dev/null") if os.path.exists(each)
        ]
        script = "ls -d /* >&2; echo x > /usr/x; echo x > /x; exit 9"
        ended = run(helper, ["true"], service(script, views=views, ready=Ready.WRITES))
        said = ended.report["message"]
        assert "status 9" in said
        assert "/home" not in said and "/etc" not in said and "/root" not in said
        assert said.count("Read-only file system") == 2

    def test_the_payload_does_not_see_it(self, helper):
        ended = run(helper, ["sh", "-c", "ls -d /proc/[0-9]*"], service("exec sleep 1000"))
        assert len(ended.stdout.split()) <= 3  # init, sh, ls

    def test_the_network_namespace_is_the_sandboxes(self, helper):
        """By its path; and what has rights there has none over any other."""
        script = 'exec >&2; readlink "$1" /proc/self/ns/net; nsenter --net="$1" echo entered; exit 9'
        rights = service(script, "{netns}", ready=Ready.WRITES, flags=ServiceFlag.RIGHTS)
        ended = run(helper, ["true"], rights)
        theirs, ours, entered = ended.report["message"].partition("status 9: ")[2].split(";")
        assert ours == os.readlink("/proc/self/ns/net") != theirs
        assert entered == "entered"

    def test_what_it_says_is_an_event(self, helper):
        script = 'printf "rdenied example.org\\nand more\\n" >&$1; exec sleep 1000'
        with runs.box(helper, service(script, "{ready}", ready=Ready.WRITES)) as box:
            assert box.event(event="service")["said"] == "denied example.org"
            assert box.event(event="service") == {"event": "service", "name": "helpful", "said": "and more"}


class TestItSaysTooMuch:
    def test_to_a_caller_that_does_not_read(self, helper, tmp_path):
        """What it says is the payload's to decide, and the supervisor's memory is not."""
        os.chmod(tmp_path, 0o777)
        script = f'{{ echo r; yes said | head -n 60000; echo >{tmp_path}/mark; }} >&"$1"; exec sleep 1000'
        with runs.box(helper, service(script, "{ready}", ready=Ready.WRITES)) as box:
            _until((tmp_path / "mark").exists)
            box.request(Kind.STATS, 1)
            events = [box.event()]
            while events[-1]["event"] != "stats":
                events.append(box.event())
            # What it holds for the caller, and what was still in the pipe when that began to read.
            assert 1000 < len(events) < 30000

    def test_for_a_result(self, helper):
        """Which is one datagram, that the caller has to have room for."""
        script = (
            'trap "echo told >&$1" USR1; echo r >&"$1"; i=100;'
            f'while [ $i -lt 400 ]; do echo "denied {"x" * 270}$i 443 name"; i=$((i+1)); done >&"$1";'
            "while :; do sleep 1000 & wait; done"
        )
        record = service(script, "{ready}", ready=Ready.WRITES, flags=ServiceFlag.TELLS)
        with runs.box(helper, record) as box:
            box.event(event="ready")
            _, result = box.run(1, ["true"])
            assert 100 < len(result["network"]["denied"]) < 300


class TestAsking:
    """What a service has to tell is asked for when a command is over, and nothing else waits meanwhile."""

    ANSWERS = 'trap "echo denied x.example 443 name >&$1; echo told >&$1" USR1; '
    SLOW = 'trap "{ echo asked; sleep 0.4; echo told; echo done; } >&$1" USR1; '

    def tells(self, trap):
        script = trap + 'echo r >&"$1"; while :; do sleep 1000 & wait; done'
        return service(script, "{ready}", ready=Ready.WRITES, flags=ServiceFlag.TELLS)

    def test_it_comes_with_the_result(self, helper):
        with runs.box(helper, self.tells(self.ANSWERS)) as box:
            box.event(event="ready")
            for number in (1, 2, 3):
                _, result = box.run(number, ["true"])
                (denied,) = result["network"]["denied"]
                assert denied == {"name": "x.example", "port": 443, "how": "name", "times": number}

    def test_it_says_how_often(self, helper):
        """In all; and nothing that is no number."""
        answers = "".join(
            f"echo denied {line} >&$1; "
            for line in (
                "x.example 443 name 7",
                "x.example 443 name 0",
                "x.example 443 name -3",
                "x 1 tcp 1e9",
            )
        )
        with runs.box(helper, self.tells(f'trap "{answers}echo told >&$1" USR1; ')) as box:
            box.event(event="ready")
            _, result = box.run(1, ["true"])
            assert [(each["name"], each["times"]) for each in result["network"]["denied"]] == [
                ("x.example", 9),
                ("x", 1),
            ]

    def test_who_does_not_answer_delays_its_result_and_nothing_else(self, helper):
        with runs.box(helper, self.tells(self.SLOW)) as box:
            box.event(event="ready")
            for number in range(1, 30):  # a busy machine may be too slow for it, not each time
                box.spawn(number, ["true"])
                box.event(event="service", said="asked")
                box.request(Kind.STATS, 0)
                first = box.event()
                while first["event"] not in ("stats", "result"):
                    first = box.event()
                if first["event"] == "stats":
                    box.event(event="result", id=number)
                    return
                box.event(event="stats")
                box.event(event="service", said="done")
            pytest.fail("the supervisor answers nobody as long as a service does not")


class TestDeath:
    def test_it_is_told_and_the_payload_goes_on(self, helper, fifo):
        script = f"read word < {fifo}; echo oh no >&2; exit 4"
        process = runs.start(
            helper, ["sh", "-c", "echo up; read word; echo down"], service(script), stdin=subprocess.PIPE
        )
        assert process.stdout.readline() == b"up\n"
        fifo.write_text("go\n")
        assert process.stderr.readline() == (
            b"sandbox: helpful, which the network needs, was lost: ended with status 4: oh no\n"
        )
        out, _ = process.communicate(b"go\n", timeout=runs.PATIENCE)
        assert out == b"down\n" and process.returncode == 0

    def test_it_is_in_the_result(self, helper):
        with runs.box(helper, service("exec sleep 1000")) as box:
            box.event(event="ready")
            victim = _service_of(box.process.pid)
            os.kill(victim, signal.SIGKILL)
            assert box.event(event="service") == {
                "event": "service",
                "name": "helpful",
                "ended": "killed by signal 9",
            }
            _, result = box.run(1, ["true"])
            assert result["network"]["lost"] == {"name": "helpful", "why": "killed by signal 9"}
            assert result["verdict"] == "ok"

    def test_what_is_needed_ends_the_sandbox(self, helper, fifo):
        script = f"read word < {fifo}; exit 4"
        process = runs.start(
            helper, ["sh", "-c", "echo up; exec sleep 1000"], service(script, flags=ServiceFlag.NEEDED)
        )
        assert process.stdout.readline() == b"up\n"
        fifo.write_text("go\n")
        _, err = process.communicate(timeout=runs.PATIENCE)
        assert b"killed: helpful, which holds its network policy, was lost" in err
        assert process.returncode != 0

    @pytest.mark.parametrize("order", [*itertools.permutations(ROLES, 2)])
    def test_none_is_left_whoever_dies(self, helper, order):
        """What is left is seen by the leak check of every test; here it is waited for."""
        flags = ServiceFlag.RIGHTS | ServiceFlag.NEEDED
        process = runs.start(helper, ["sleep", "1000"], service("sleep 1000 & exec sleep 1001", flags=flags))
        _until(lambda: len(_commands(process.pid, "sleep")) == 3)
        family = runs.descendants(process.pid)
        victims = {
            "supervisor": process.pid,
            "service": _service_of(process.pid),
            "guard": _guard_of(process.pid),
            "init": _init_of(process.pid),
        }
        for victim in order:
            _kill(victims[victim])
        _until(lambda: not any(runs.is_alive(pid) for pid in family))
        process.communicate(timeout=runs.PATIENCE)

    def test_nor_at_any_moment(self, helper):
        chance = random.Random(5)
        for _ in range(15):
            records = [service("sleep 1000 & exec sleep 1001", flags=3), lo_up(), inside(Socket.ROUTE)]
            process = runs.start(helper, ["true"], *records)
            time.sleep(chance.uniform(0, 0.02))
            family = _family(process.pid)
            for pid in chance.sample([process.pid, *family], min(2, 1 + len(family))):
                _kill(pid)
            _until(lambda family=family: not any(runs.is_alive(pid) for pid in family))
            process.communicate(timeout=runs.PATIENCE)

    def test_a_stopped_one_ends_too(self, helper):
        process = runs.start(helper, ["sleep", "1000"], service("exec sleep 1001"))
        _until(lambda: len(_commands(process.pid, "sleep")) == 2)
        family = runs.descendants(process.pid)
        os.kill(_guard_of(process.pid), signal.SIGSTOP)
        os.kill(_service_of(process.pid), signal.SIGSTOP)
        process.terminate()
        process.communicate(timeout=runs.PATIENCE)
        assert not any(runs.is_alive(pid) for pid in family)


class TestJoin:
    def test_sockets_of_the_inside(self, helper):
        """A service outside answers on an address that is only there inside."""
        answer = (
            "import signal, socket; s = socket.socket(fileno=3); c = s.accept()[0];"
            "c.sendall(b'hello'); c.close(); signal.pause()"
        )
        fields = ("helpful", 0, 0, 0, PYTHON, "-c", answer)
        ask = "exec 5<>/dev/tcp/10.9.8.7/53; cat <&5"
        ended = run(
            helper,
            ["bash", "-c", ask],
            Record(Kind.SERVICE, "start helpful", "", fields),
            lo_up(),
            slot(Kind.ADDRESS, "lo", "10.9.8.7", 32, ""),
            inside(Socket.STREAM, "10.9.8.7", 53),
        )
        assert ended.stdout == b"hello", ended

    def test_an_address_that_can_not_be_had(self, helper):
        ended = run(helper, ["true"], service("exec sleep 1000"), inside(Socket.STREAM, "not an address", 53))
        assert ended.status == 125
        assert "cannot open a socket for helpful: Invalid argument" in ended.report["message"]

    @pytest.mark.parametrize(("flags", "answer"), [(0, "(-1,)"), (ServiceFlag.FILTERS, "(0,)")])
    def test_netlink_sockets_work_from_outside(self, helper, flags, answer):
        """Opened inside by who may, used outside by a service that was given the right to."""
        code = (
            "import socket, struct, os; s = socket.socket(fileno=3);"
            "m = struct.pack('=IHHIIBxHiII', 32, 16, 5, 1, 0, 0, 0, 1, 1, 1); s.send(m);"  # lo up
            "os.write(2, repr(struct.unpack_from('=i', s.recv(4096), 16)).encode()); raise SystemExit(9)"
        )
        fields = ("helpful", int(flags), int(Ready.WRITES), 0, PYTHON, "-c", code)
        ended = run(helper, ["true"], Record(Kind.SERVICE, "start helpful", "", fields), inside(Socket.ROUTE))
        assert ended.report["message"].endswith(answer)

    def test_rules_hold_against_root_inside(self, helper, need):
        need("nft")
        script = (
            f"{NFT} flush ruleset; {NFT} delete table inet sandbox; ip link set lo down;"
            "exec 2>&1; (: </dev/tcp/127.0.0.9/1) || true; unshare -Urn true && echo unshared"
        )
        everything = slot(Kind.CAPABILITIES, ALL_CAPABILITIES)
        ended = run(helper, ["bash", "-c", script], lo_up(), nft(TABLE), everything)
        assert ended.stderr.count(b"Operation not permitted") >= 2, ended
        assert b"Connection refused" in ended.stdout or b"No route" in ended.stdout, ended

    def test_rules_that_can_not_be_loaded_refuse_the_run(self, helper, need):
        need("nft")
        ended = run(helper, ["echo", "ran"], nft("table inet sandbox { nonsense }\n"))
        assert ended.status == 125 and ended.stdout == b""
        assert "cannot load the rules" in ended.report["message"] and "nonsense" in ended.report["message"]
        assert ended.report["origin"] == "here:2"
        ended = run(helper, ["echo", "ran"], Record(Kind.NFT, "load the rules", "", ("/nowhere/nft", TABLE)))
        assert ended.status == 125 and ended.stdout == b""

    def test_the_hosts_addresses_are_in_the_sets(self, helper, need):
        need("nft")
        sets = slot(Kind.HOST_SETS, "sandbox", "host4", "host6", "more4", "more6")
        connect = (
            "import socket, sys\n"
            "for host in sys.argv[1:]:\n"
            "    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect((host, 9))\n"
            "    try: s.send(b'x'); print(host, 'sent')\n"
            "    except OSError as error: print(host, error.errno)\n"
        )
        ended = run(helper, [PYTHON, "-c", connect, "127.0.0.2", "127.0.0.1"], lo_up(), nft(TABLE), sets)
        assert ended.stdout == b"127.0.0.2 1\n127.0.0.1 sent\n", ended  # 127.0.0.0/8 is local everywhere
        ended = run(
            helper,
            ["true"],
            lo_up(),
            nft(TABLE),
            slot(Kind.HOST_SETS, "sandbox", "host4", "none", "more4", "more6"),
        )
        assert ended.status == 125

    def test_sysctls_are_its_own(self, helper):
        name = "net/ipv4/ip_unprivileged_port_start"
        before = Path("/proc/sys", name).read_text()
        ended = run(helper, ["cat", f"/proc/sys/{name}"], slot(Kind.SYSCTL, name, "7"))
        assert ended.stdout == b"7\n"
        assert Path("/proc/sys", name).read_text() == before
        ended = run(helper, ["true"], slot(Kind.SYSCTL, "net/ipv4/no_such_thing", "7"))
        assert ended.status == 125

    def test_without_a_network_namespace_nothing_is_done(self, helper):
        """The rules and devices would be the host's."""
        shared = slot(Kind.NAMESPACES, 0)
        plan = [shared if each.kind == Kind.NAMESPACES else each for each in runs.records()]
        with runs.plan_file(runs.encode([*plan, service("exec sleep 1000"), slot(Kind.ARGV, "true")])) as fd:
            done = subprocess.run(
                [helper, "run", str(fd)], pass_fds=[fd], env={}, capture_output=True, check=False
            )
        assert done.returncode == 125
        assert b"there is no network namespace" in done.stderr


def _until(done, patience=runs.PATIENCE):
    deadline = time.monotonic() + patience
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def _kill(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _family(pid):
    """Of one that is about to end, too."""
    try:
        return runs.descendants(pid)
    except OSError:
        return []


def _commands(pid, name):
    found = []
    for each in _family(pid):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{each}/comm").read_text().strip() == name:
                found.append(each)
    return found


def _guard_of(supervisor):
    init = _init_of(supervisor)
    return next(pid for pid in runs.children(supervisor) if pid != init and _is_first_of_its_kind(pid))


def _is_first_of_its_kind(pid):
    """Whether it is PID 1 of a pid namespace (NSpid of proc_pid_status(5)): programs of a moment are not."""
    with contextlib.suppress(OSError):
        return re.search(r"^NSpid:.*\t1$", Path(f"/proc/{pid}/status").read_text(), re.M) is not None
    return False


def _init_of(supervisor):
    """The first child that is seen to be in a mount namespace of its own, or undumpable, so that it can't be
    looked at; but by root."""
    found = []

    def look():
        for pid in runs.children(supervisor):
            try:
                if os.stat(f"/proc/{pid}/ns/mnt").st_ino != os.stat("/proc/self/ns/mnt").st_ino:
                    found.append(pid)
            except PermissionError:
                found.append(pid)
            except FileNotFoundError:
                continue
        return found

    _until(look)
    return found[0]


def _service_of(supervisor):
    return runs.children(_guard_of(supervisor))[0]


def test_events_are_json(helper):
    with runs.box(helper, service("exec sleep 1000", name='odd "name"\n')) as box:
        box.event(event="ready")
        os.kill(_service_of(box.process.pid), signal.SIGTERM)
        event = box.event(event="service")
        assert event["name"] == 'odd "name"\n'
