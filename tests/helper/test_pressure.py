"""Where there is no room: few open files, few processes, full sockets, too many commands; and a payload
that makes it so for its own init. What can't be done is refused with the reason, and nothing is lost."""

from __future__ import annotations

import array
import contextlib
import errno
import json
import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest

from sandbox.wire import Kind, Record
from tests.helper import runs
from tests.helper.runs import limit, run, slot
from tests.helper.test_supervisor import SECOND
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.integration]

FILES = "Too many open files; raise the limit on open files (ulimit -Hn), or run fewer at once"


def lower_init(number: int) -> str:
    """A script's line: init may open no descriptor from *number* on. It is the payload's own user."""
    return f"prlimit --pid 1 --nofile={number}:{number} || exit 9; "


@contextlib.contextmanager
def descriptors_on_their_way(count: int) -> Iterator[None]:
    """As many of this user's, which nobody receives: they count for all of its processes (unix(7))."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, open(os.devnull) as null:
        for _ in range(0, count, 100):
            fds = array.array("i", [null.fileno()] * 100)
            ours.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        yield


def links(pid: int) -> list[str]:
    """What a process has open."""
    directory = f"/proc/{pid}/fd"
    found = []
    for name in os.listdir(directory):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"{directory}/{name}"))
    return found


class TestFewOpenFiles:
    def test_requests_wait_for_those_on_their_way(self, helper):
        with runs.box(helper, files=64) as box:
            box.event(event="ready")
            with descriptors_on_their_way(200):
                for number in range(5):
                    box.spawn(number, ["true"])
                box.request(Kind.SIGNAL, 4, int(signal.SIGKILL))
                result = box.event(event="result")
                assert (result["id"], result["verdict"], result["signal"]) == (4, "killed", signal.SIGKILL)
            verdicts = {box.event(event="result")["verdict"] for _ in range(4)}
            assert verdicts == {"ok"}

    def test_a_file_waits_for_those_on_their_way(self, helper):
        with runs.box(helper, files=64) as box:
            box.event(event="ready")
            with descriptors_on_their_way(200):
                box.request(Kind.OPEN, 1, 1, 0o644, "/tmp/file")
                time.sleep(0.05)
            assert box.event(event="file", id=1)["errno"] == 0

    def test_a_file_waits_on_its_way_to_the_caller(self, helper):
        """Nobody but us has it then: without it the caller would wait for ever."""
        with runs.box(helper, files=256) as box:
            box.event(event="ready")
            resource.prlimit(box.process.pid, resource.RLIMIT_NOFILE, (32, 32))
            with descriptors_on_their_way(100):
                box.request(Kind.OPEN, 1, 1, 0o644, "/tmp/file")
                wait_until(lambda: any(link.endswith("/file") for link in links(box.process.pid)))
            assert box.event(event="file", id=1)["errno"] == 0

    def test_a_request_that_waits_can_end(self, helper):
        with runs.box(helper, files=64) as box:
            box.event(event="ready")
            with descriptors_on_their_way(200):
                box.spawn(1, ["true"], timeout=SECOND // 10)
                result = box.event(event="result", id=1)
                assert (result["verdict"], result["signal"]) == ("timeout", signal.SIGKILL)
            assert box.run(2, ["true"])[1]["verdict"] == "ok"

    def test_reading_on_is_what_makes_room(self, helper):
        with runs.box(helper, files=256) as box:
            box.event(event="ready")
            os.kill(box.process.pid, signal.SIGSTOP)  # so that it finds all of them at once
            box.socket.settimeout(None)
            for number in range(90):
                box.spawn(number, ["true"])
            box.socket.settimeout(runs.PATIENCE)
            os.kill(box.process.pid, signal.SIGCONT)
            results = [box.event(event="result") for _ in range(90)]
        assert all(FILES in result["message"] for result in results if result["verdict"] != "ok")
        assert sum(result["verdict"] == "ok" for result in results) > 45

    @pytest.mark.parametrize("files", range(32, 44))
    def test_what_has_no_descriptors_left_is_refused_alone(self, helper, files):
        with runs.box(helper, limit("output", 1 << 20, "pipe"), files=files) as box:
            box.event(event="ready")
            for number in range(40):
                box.spawn(number, ["sleep", "1000"])
            box.spawn(40, ["echo", "x" * 100_000, "y" * 100_000])
            box.spawn(41, ["true"])
            results = {}
            while 41 not in results:
                event = box.event(event="result")
                results[event["id"]] = event
            assert len(results) > 20
            assert all(FILES in each["message"] for each in results.values() if each["verdict"] != "ok")
            for number in range(40):
                box.request(Kind.SIGNAL, number, int(signal.SIGKILL))
            assert wait_for_run(box, 1000)

    @pytest.mark.parametrize("files", range(32, 36))
    def test_a_file_that_finds_no_room(self, helper, files):
        with runs.box(helper, limit("output", 1 << 20, "pipe"), files=files) as box:
            box.event(event="ready")
            for number in range(30):
                box.spawn(number, ["sleep", "1000"])
            for number in range(100, 110):
                box.request(Kind.OPEN, number, 1, 0o644, "/tmp/file")
                assert box.event(event="file", id=number)["errno"] in (0, errno.EMFILE)
            box.request(Kind.SIGNAL, 0, int(signal.SIGKILL))
            assert box.event(event="result", id=0)["verdict"] == "killed"

    @pytest.mark.parametrize("files", [*range(6, 20), 24, 32, 40])
    def test_set_up(self, helper, files):
        def lower() -> None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

        ended = runs.start(helper, ["true"], preexec_fn=lower)
        _, said = ended.communicate(timeout=runs.PATIENCE)
        lines = said.decode().splitlines()
        if ended.returncode == 125 and "cannot read the plan" not in lines[0]:
            assert lines[1] == "sandbox:   mend: " + FILES.partition("; ")[2], lines
        else:
            assert (ended.returncode, lines) == (0, []) or "cannot read the plan" in lines[0]


def wait_for_run(box: runs.Box, number: int) -> bool:
    """Run a command until its descriptors find room."""
    for attempt in range(number, number + 1000):
        box.spawn(attempt, ["true"])
        if box.event(event="result", id=attempt)["verdict"] == "ok":
            return True
        time.sleep(0.01)
    return False


class TestManySignals:
    def test_stopping_and_going_on_undo_each_other(self, helper):
        with runs.start(helper, ["sh", "-c", "echo go; sleep 0.2; echo done"]) as process:
            assert process.stdout and process.stdout.readline() == b"go\n"
            for _ in range(200):
                process.send_signal(signal.SIGTSTP)
                process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGCONT)
            wait_until(lambda: resumed(process))
            assert process.stdout.read() == b"done\n"
            assert process.wait(runs.PATIENCE) == 0


def resumed(process: subprocess.Popen[bytes]) -> bool:
    """Continue a supervisor that stopped after the last SIGCONT, as a shell's fg would."""
    process.send_signal(signal.SIGCONT)
    return process.poll() is not None


class TestAnInitWithoutDescriptors:
    """The payload is init's user and may lower its limits, once and for all."""

    @pytest.mark.parametrize("number", range(3, 9))
    def test_memory_is_measured_or_nothing_runs(self, helper, number):
        hog = "exec python3 -c 'x = bytearray(200 << 20); import time; time.sleep(100)'"
        held = limit("memory", 64 << 20, "best-effort: polled")
        ended = run(
            helper, ["sh", "-c", lower_init(number) + hog], held, limit("timeout", 20 * SECOND, "clock")
        )
        assert ended.report["verdict"] in ("memory", "killed")
        if ended.report["verdict"] == "killed":
            assert "can't be measured" in ended.report["message"] or number == 3

    @pytest.mark.parametrize("number", range(3, 9))
    def test_a_command_ends_whole(self, helper, number):
        with runs.box(helper) as box:
            box.event(event="ready")
            script = lower_init(number) + "(setsid sh -c 'exec sleep 1000' >&- 2>&- <&- &); sleep 0.1"
            box.spawn(1, ["sh", "-c", script])
            box.event(event="result", id=1)
            (init,) = runs.children(box.process.pid)
            assert not any(map(runs.is_alive, runs.descendants(init)))

    def test_the_next_one_is_refused(self, helper):
        with runs.box(helper) as box:
            _, result = box.run(1, ["sh", "-c", lower_init(6) + "exit 0"])
            assert result["verdict"] == "ok"
            box.spawn(2, ["true"])
            assert FILES in box.event(event="result", id=2)["message"]
            box.request(Kind.OPEN, 3, 1, 0o644, "/tmp/file")
            assert box.event(event="file", id=3)["errno"] != 0


class TestReasons:
    def test_a_workdir_that_is_not_there(self, helper):
        def workdir(path: str) -> Record:
            return slot(Kind.WORKDIR, path)

        records = [each for each in runs.records() if each.kind != Kind.WORKDIR]
        for path, why in (("/nosuch", "No such file or directory"), ("/dev/null", "Not a directory")):
            plan = [*records, workdir(path), slot(Kind.ARGV, "true")]
            with runs.plan_file(runs.encode(plan)) as fd:
                command = [helper, "run", str(fd)]
                done = subprocess.run(command, pass_fds=[fd], capture_output=True, check=False)
            first, mend = done.stderr.decode().splitlines()
            assert done.returncode == 125
            assert first == f"sandbox: cannot enter the working directory {path}: {why}"
            assert mend.startswith("sandbox:   mend: ")
            assert "--workdir" in mend

    def test_a_workdir_of_one_command(self, helper):
        with runs.box(helper) as box:
            box.spawn(1, ["true"], workdir="/nosuch")
            said = box.event(event="result", id=1)["message"]
        assert said.startswith(
            "cannot enter the working directory /nosuch: No such file or directory; mount it"
        )

    def test_the_tool_that_could_not_be_started_is_named(self, helper):
        ranges = [slot(Kind.IDMAP, 1, 100_000 + i, 200_000 + i, 1) for i in range(341)]
        tools = slot(Kind.IDTOOL, "/usr/bin/true", "/usr/bin/newgidmap")
        said = run(helper, ["true"], *ranges, tools).report["message"]
        assert said == "cannot start /usr/bin/newgidmap: Argument list too long"

    def test_a_tool_that_does_not_end_is_ended(self, helper, tmp_path):
        """As newuidmap does when the user database is far away and does not answer."""
        tool = tmp_path / "newuidmap"
        tool.write_text(f"#!/bin/sh\necho $$ >{tmp_path}/pid\nexec sleep 1000\n")
        tool.chmod(0o755)
        tools = slot(Kind.IDTOOL, str(tool), "/usr/bin/true", 2)
        said = run(helper, ["true"], tools).report["message"]
        assert said.startswith(f"cannot map ids: {tool} does not end")
        assert not os.path.exists(f"/proc/{(tmp_path / 'pid').read_text().strip()}")


def test_tasks_that_no_poll_has_seen_are_counted_at_the_end(helper):
    """Its supervisor stands still meanwhile, as on a busy machine, and asks for nothing."""
    storm = "echo; read go; for i in 1 2 3 4 5 6; do sleep 600 & done; exit 1"
    read, write = os.pipe()
    records = [
        limit("pids", 4, "rlimit"),
        slot(Kind.NPROC, 4),
        slot(Kind.PIDS_PEAK),
        slot(Kind.REPORT, write),
    ]
    process = runs.start(helper, ["sh", "-c", storm], *records, fds=[write], stdin=subprocess.PIPE)
    os.close(write)
    with process, os.fdopen(read) as report:
        assert process.stdin and process.stdout
        process.stdout.readline()
        (init,) = runs.children(process.pid)
        process.send_signal(signal.SIGSTOP)
        process.stdin.write(b"go\n")
        process.stdin.flush()
        wait_until(lambda: not runs.is_alive(init))
        process.send_signal(signal.SIGCONT)
        result = json.load(report)
    assert (result["hit"], result["usage"]["pids_peak"], result["verdict"]) == (["pids"], 4, "nonzero")
