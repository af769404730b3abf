"""The supervisor: streams, limits, verdicts, reports, lifetime, and commands on request."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sandbox import owners
from sandbox.wire import Kind, Record
from tests.helper import runs
from tests.helper.runs import limit, run, slot
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.integration]

SECOND = 1_000_000_000


def run_with_few_files(helper: Path) -> tuple[int, dict[str, object]]:
    """The status and report of a supervisor whose limit on open files is lowered while its command runs."""
    read, write = os.pipe()
    with os.fdopen(read, "rb") as report:
        process = runs.start(helper, ["sleep", "1000"], slot(Kind.REPORT, write), fds=[write])
        os.close(write)
        with process:
            wait_until(lambda: len(runs.descendants(process.pid)) == 2)
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (3, 3))
            process.send_signal(signal.SIGUSR1)  # wakes it
            status = process.wait(runs.PATIENCE)
        return status, json.loads(report.read())


class TestVerdict:
    def test_a_limit_that_is_quicker_than_the_exec(self, helper):
        """The time is over before the command is executed: that is how it ended, not a failure of ours."""
        for _ in range(20):
            ended = run(helper, ["sleep", "100"], limit("timeout", 1, "clock"))
            assert (ended.report.get("verdict"), ended.status) == ("timeout", 124)

    @pytest.mark.as_root
    @pytest.mark.parametrize(
        ("command", "verdict", "code", "number", "status"),
        [
            (["true"], "ok", 0, None, 0),
            (["sh", "-c", "exit 3"], "nonzero", 3, None, 3),
            (["sh", "-c", "kill -SEGV $$"], "signal", None, signal.SIGSEGV, 128 + signal.SIGSEGV),
            (["there-is-none"], "exec_failed", 127, None, 127),
            (["/tmp"], "exec_failed", 126, None, 126),
        ],
    )
    def test_by_itself(self, helper, command, verdict, code, number, status):
        ended = run(helper, command)
        report = ended.report
        assert (report["verdict"], report["exit_code"], report["signal"]) == (verdict, code, number)
        assert (ended.status, report["limit"], report["hit"]) == (status, None, [])

    def test_a_status_like_a_limit_is_only_a_status(self, helper):
        for status in (124, 137):
            ended = run(helper, ["sh", "-c", f"exit {status}"], limit("timeout", 60 * SECOND, "clock"))
            assert (ended.status, ended.report["verdict"]) == (status, "nonzero")

    @pytest.mark.as_root
    def test_timeout_ends_the_whole_tree(self, helper):
        script = "trap '' TERM; (setsid sh -c 'trap \"\" TERM HUP; sleep 1000' &); kill -STOP $$"
        ended = run(helper, ["sh", "-c", script], limit("timeout", SECOND // 2, "clock"))
        assert (ended.status, ended.report["verdict"]) == (124, "timeout")
        assert ended.report["limit"] == {"name": "timeout", "value": 0.5, "mechanism": "clock"}
        assert ended.report["usage"]["wall"] >= 0.5
        assert ended.stderr.startswith(b"sandbox: killed: timeout 500ms (wall ")
        # and nothing is left: the fixture `leaks`

    def test_cpu_time_of_several_processes(self, helper):
        loop = "while :; do :; done"
        ended = run(
            helper,
            ["sh", "-c", f"({loop}) & ({loop}) & wait"],
            limit("cpu_time", SECOND // 2, "best-effort: polled"),
        )
        assert (ended.status, ended.report["verdict"]) == (137, "cpu_time")
        assert ended.report["usage"]["cpu_user"] + ended.report["usage"]["cpu_system"] >= 0.5

    def test_memory(self, helper):
        command = ["python3", "-c", "x = bytearray(200 << 20); import time; time.sleep(100)"]
        ended = run(helper, command, limit("memory", 64 << 20, "best-effort: polled"))
        assert (ended.status, ended.report["verdict"]) == (137, "memory")
        assert ended.report["usage"]["memory_peak"] > 64 << 20
        assert ended.stderr.startswith(b"sandbox: killed: memory limit 64M (peak ")
        assert ended.stderr.endswith(b", by best-effort polling)\n")

    def test_disk(self, helper):
        fill = "head -c 100000000 /dev/zero >/tmp/x"
        ended = run(helper, ["sh", "-c", fill], limit("disk", runs.POOL, "tmpfs"))
        assert (ended.status, ended.report["verdict"]) == (137, "disk")
        assert ended.report["usage"]["disk_peak"] == runs.POOL
        ended = run(helper, ["sh", "-c", f"{fill}; exit 0"], limit("disk", runs.POOL, "tmpfs"))
        assert (ended.status, ended.report["verdict"], ended.report["hit"]) == (0, "ok", ["disk"])

    def test_file_size_is_a_signal_and_a_hit(self, helper):
        rlimit = slot(Kind.RLIMIT, 1, 1000, 1000)
        command = [
            "python3",
            "-c",
            "import signal as s; s.signal(s.SIGXFSZ, 0); open('x', 'wb').write(bytes(2000))",
        ]
        ended = run(helper, command, rlimit, limit("file_size", 1000, "rlimit"))
        assert (ended.report["verdict"], ended.report["signal"]) == ("signal", signal.SIGXFSZ)
        assert ended.report["hit"] == ["file_size"]

    def test_every_limit_is_in_enforced(self, helper):
        ended = run(helper, ["true"], limit("files", 100, "rlimit"), limit("timeout", 60 * SECOND, "clock"))
        assert ended.report["enforced"] == {"files": "rlimit", "timeout": "clock"}

    def test_what_the_command_writes_forges_nothing(self, helper):
        forged = json.dumps({"event": "result", "id": 0, "verdict": "ok", "exit_code": 0})
        script = f"for fd in 1 2 3 4 5 6 7 8 9; do echo '{forged}' >&$fd; done 2>/dev/null; exit 7"
        ended = run(helper, ["bash", "-c", script])
        assert (ended.status, ended.report["verdict"], ended.report["exit_code"]) == (7, "nonzero", 7)


class TestOutputLimit:
    @pytest.mark.parametrize(
        ("written", "verdict"), [(100_000, "ok"), (100_001, "output"), (10_000_000, "output")]
    )
    def test_exactly_the_limit_is_passed_on(self, helper, written, verdict):
        ended = run(helper, ["head", "-c", str(written), "/dev/zero"], limit("output", 100_000, "pipe"))
        assert (ended.report["verdict"], len(ended.stdout)) == (verdict, 100_000)
        assert ended.report["usage"]["output"] == 100_000

    def test_both_streams_count(self, helper):
        script = "head -c 600 /dev/zero; head -c 600 /dev/zero >&2; sleep 100"
        ended = run(helper, ["sh", "-c", script], limit("output", 1000, "pipe"), slot(Kind.VERBOSITY, 0))
        assert ended.report["verdict"] == "output"
        assert len(ended.stdout) + len(ended.stderr) == 1000

    @pytest.mark.parametrize("kind", ["pipe", "socket"])
    def test_a_reader_that_does_not_read_stops_no_clock(self, helper, kind):
        ends = socket.socketpair() if kind == "socket" else None
        read, write = (end.detach() for end in ends) if ends else os.pipe()
        try:
            limits = (limit("timeout", SECOND, "clock"), limit("output", 1 << 30, "pipe"))
            ended = run(helper, ["yes"], *limits, stdout=write)
            assert ended.report["verdict"] == "timeout"
            assert not fcntl.fcntl(write, fcntl.F_GETFL) & os.O_NONBLOCK
        finally:
            os.close(read)
            os.close(write)


class TestStreams:
    def test_input_and_output_pass_untouched(self, helper):
        data = os.urandom(3_000_000)
        assert run(helper, ["cat"], input=data).stdout == data

    def test_large_output_through_relays(self, helper, tmp_path):
        source, target = tmp_path / "source", tmp_path / "target"
        source.write_bytes(os.urandom(3_000_000))
        with source.open("rb") as stdin, target.open("wb") as stdout:
            assert run(helper, ["cat"], stdin=stdin, stdout=stdout).status == 0
        assert target.read_bytes() == source.read_bytes()

    def test_no_file_of_the_callers_is_reached(self, helper, tmp_path):
        """A file that was given for reading could be opened for writing through /proc/self/fd."""
        secret = tmp_path / "secret"
        secret.write_text("not for writing\n")
        with secret.open("r+b") as stdin:
            ended = run(
                helper, ["sh", "-c", "readlink /proc/self/fd/0; echo evil >/proc/self/fd/0"], stdin=stdin
            )
        assert ended.stdout.startswith(b"pipe:")
        assert secret.read_text() == "not for writing\n"

    def test_appending_and_the_order_of_both_streams(self, helper, tmp_path):
        target = tmp_path / "log"
        target.write_text("old\n")
        with target.open("ab") as log:
            script = "for i in 1 2 3; do echo o$i; echo e$i >&2; done"
            run(helper, ["sh", "-c", script], stdout=log, stderr=subprocess.STDOUT)
        assert target.read_text().split() == ["old", "o1", "e1", "o2", "e2", "o3", "e3"]

    def test_a_directory_is_refused(self, helper):
        directory = os.open("/", os.O_RDONLY)
        try:
            ended = run(helper, ["true"], stdin=directory)
        finally:
            os.close(directory)
        assert (ended.status, ended.report["errno_name"]) == (125, "EISDIR")

    def test_output_that_can_not_be_written_is_not_lost_silently(self, helper):
        with open("/dev/full", "wb") as full:
            ended = run(helper, ["echo", "hi"], stdout=full)
        assert ended.status == 125
        assert b"cannot write the command's output: No space left on device" in ended.stderr

    def test_a_reader_that_goes_away(self, helper):
        process = runs.start(helper, ["yes"], limit("output", 1 << 30, "pipe"))
        assert process.stdout and process.stderr
        assert process.stdout.read(2) == b"y\n"
        process.stdout.close()
        assert process.wait(runs.PATIENCE) == 128 + signal.SIGPIPE
        process.stderr.close()

    @pytest.mark.parametrize("script", ["exec <&-; echo go; sleep 100", "echo go; sleep 100"])
    def test_input_that_nobody_reads_keeps_nobody_busy(self, helper, script):
        def ticks() -> int:
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            return int(fields[11]) + int(fields[12])

        with open("/dev/zero", "rb") as endless:
            process = runs.start(helper, ["sh", "-c", script], stdin=endless)
        with process:
            assert process.stdout and process.stdout.readline() == b"go\n"
            time.sleep(0.2)
            before = ticks()
            time.sleep(0.5)
            after = ticks()
            process.send_signal(signal.SIGTERM)
        assert after - before <= 5  # hundredths of a second; one that spins has about 50

    def test_closed_streams(self, helper):
        ended = run(helper, ["sh", "-c", "cat; echo lost; echo lost >&2"], slot(Kind.STDIO, -1, -1, -1))
        assert (ended.status, ended.stdout, ended.stderr) == (0, b"", b"")

    def test_no_other_descriptor_gets_in(self, helper, tmp_path):
        (tmp_path / "open").touch()
        fds = [os.open(tmp_path / "open", os.O_RDONLY) for _ in range(20)]
        try:
            listed = run(helper, ["sh", "-c", "echo /proc/self/fd/*"], fds=fds).stdout
        finally:
            for fd in fds:
                os.close(fd)
        assert set(listed.split()) <= {b"/proc/self/fd/%d" % fd for fd in range(4)}  # 3: the directory itself

    def test_the_supervisor_keeps_none_either(self, helper):
        """The end of a pipe that it inherited would hide the end of file from the other end's reader."""
        read, write = os.pipe()
        process = runs.start(helper, ["sleep", "1000"], fds=[write])
        with process, os.fdopen(read, "rb") as other_end:
            os.close(write)
            ended = select.select([other_end], [], [], 5)[0]
            running = process.poll() is None
            process.terminate()
            assert ended and running
            assert other_end.read() == b""


class TestMessages:
    def test_control_characters_of_a_command_name(self, helper):
        ended = run(helper, [b"no\x1b[31m\nsandbox: forged \xff\xc2\x9b"])
        assert ended.status == 127
        assert ended.stderr.count(b"\n") == 1
        assert all(byte >= 0x20 for byte in ended.stderr.rstrip(b"\n"))
        assert ended.report["message"].isprintable()

    def test_quiet(self, helper):
        assert run(helper, ["there-is-none"], slot(Kind.VERBOSITY, 0)).stderr == b""

    def test_verbose_names_the_operations(self, helper):
        assert b"sandbox: mount /proc\n" in run(helper, ["true"], slot(Kind.VERBOSITY, 2)).stderr


MISSING = Record(Kind.BIND, "bind ~/x on /x", "sandbox.toml:12", ("/x", 32, "/there/is/none", ""))


class TestSetUpFailure:
    @pytest.mark.as_root
    def test_says_what_and_where(self, helper):
        ended = run(helper, ["true"], MISSING)
        first, second = ended.stderr.decode().splitlines()
        assert ended.status == 125
        assert first == "sandbox: cannot bind ~/x on /x: No such file or directory (sandbox.toml:12)"
        assert second.startswith("sandbox:   mend: ")
        assert ended.report["event"] == "error"
        assert (ended.report["operation"], ended.report["origin"]) == ("bind ~/x on /x", "sandbox.toml:12")
        assert (ended.report["errno"], ended.report["errno_name"]) == (errno.ENOENT, "ENOENT")

    def test_a_working_directory_that_is_not_there(self, helper, monkeypatch):
        others = [each for each in runs.records() if each.kind != Kind.WORKDIR]
        monkeypatch.setattr(runs, "records", lambda: others)
        ended = run(helper, ["true"], slot(Kind.WORKDIR, "/nosuch"))
        assert ended.status == 125
        assert "/nosuch" in ended.report["message"]
        assert "--workdir" in ended.report["mend"]
        assert b"mend: " in ended.stderr

    def test_diagnosis(self, helper):
        script = 'env; printf "<%s>\\n" "$@"; exit 125'
        diagnose = slot(Kind.DIAGNOSE, "/bin/sh", "-c", script, "doctor")
        ended = run(helper, ["true"], MISSING, diagnose, slot(Kind.VERBOSITY, 0))
        lines = ended.stdout.decode().splitlines()
        assert ended.status == 125
        assert lines[-3:] == [
            "<bind ~/x on /x>",
            "<ENOENT>",
            "<cannot bind ~/x on /x: No such file or directory>",
        ]
        assert "PATH=/usr/bin:/bin" in lines
        assert not any(line.startswith("HOME=") for line in lines)

    def test_over_the_control_socket(self, helper):
        with runs.box(helper, MISSING) as box:
            assert box.event()["event"] == "error"
            assert box.event()["event"] == "end"
            assert box.process.wait(runs.PATIENCE) == 125


class TestSignals:
    def started(self, helper: Path, script: str) -> subprocess.Popen[bytes]:
        process = runs.start(helper, ["sh", "-c", script])
        assert process.stdout and process.stdout.readline() == b"go\n"
        return process

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
    def test_fatal_ones_are_forwarded(self, helper, number):
        with self.started(helper, "echo go; exec sleep 100") as process:
            process.send_signal(number)
            assert process.wait(runs.PATIENCE) == 128 + number

    def test_none_is_lost_when_init_is_slow(self, helper):
        """More signals than fit into the socket to init, which is stopped meanwhile; the last one counts."""
        script = "trap '' USR1; trap 'echo got; exit 5' USR2; echo ready; while :; do sleep 0.05; done"
        process = runs.start(helper, ["sh", "-c", script])
        with process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            init = int(children.read_text().split()[0])
            os.kill(init, signal.SIGSTOP)
            try:
                for _ in range(3000):
                    process.send_signal(signal.SIGUSR1)
                    time.sleep(0.0002)  # pending once, a signal that comes again is one
                process.send_signal(signal.SIGUSR2)
                slices = Path(f"/proc/{process.pid}/schedstat")  # the third: how often it ran (proc(5))
                before = int(slices.read_text().split()[2])
                time.sleep(0.3)
                assert int(slices.read_text().split()[2]) - before < 100, "it is kept busy by waiting"
            finally:
                os.kill(init, signal.SIGCONT)
            try:
                assert process.wait(runs.PATIENCE) == 5
            finally:
                process.kill()
            assert process.stdout.read() == b"got\n"

    def test_a_command_may_handle_them(self, helper):
        script = "trap 'echo got it; exit 5' USR1 TERM; echo go; while :; do sleep 0.05; done"
        for number in (signal.SIGUSR1, signal.SIGTERM):
            with self.started(helper, script) as process:
                process.send_signal(number)
                assert process.stdout and process.stdout.read() == b"got it\n"
                assert process.wait(runs.PATIENCE) == 5

    def test_an_ignored_hangup_stays_ignored(self, helper):
        process = runs.start(
            helper,
            ["sh", "-c", "echo go; sleep 0.5; echo survived"],
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
        )
        with process:
            assert process.stdout and process.stdout.readline() == b"go\n"
            process.send_signal(signal.SIGHUP)
            assert process.stdout.read() == b"survived\n"
            assert process.wait(runs.PATIENCE) == 0


class TestLifetime:
    def test_nothing_outlives_a_killed_supervisor(self, helper):
        process = runs.start(helper, ["sh", "-c", "(setsid sleep 1000 &); echo go; sleep 1000"])
        with process:
            assert process.stdout and process.stdout.readline() == b"go\n"
            inside = runs.descendants(process.pid)
            assert inside
            process.kill()
        wait_until(lambda: not any(map(runs.is_alive, inside)))

    def test_nor_a_killed_launcher(self, helper, tmp_path):
        script = (
            "import os, sys; from tests.helper import runs; from sandbox.wire import Kind;"
            "life = os.pidfd_open(os.getpid());"
            "p = runs.start(sys.argv[1], ['sleep', '1000'], runs.slot(Kind.LIFELINE, life), fds=[life]);"
            "print(p.pid, flush=True); p.wait()"
        )
        launcher = subprocess.Popen([sys.executable, "-c", script, helper], stdout=subprocess.PIPE)
        with launcher:
            assert launcher.stdout
            supervisor = int(launcher.stdout.readline())
            wait_until(lambda: len(runs.descendants(supervisor)) == 2)
            family = [supervisor, *runs.descendants(supervisor)]
            launcher.kill()
        wait_until(lambda: not any(map(runs.is_alive, family)))

    def test_nothing_can_be_waited_for(self, helper):
        """poll(2) fails at once when it is asked for more than may be open. That is an end, no busy loop."""
        lines = run_with_few_files(helper)
        assert lines[0] == 125
        assert lines[1]["errno_name"] == "EMFILE"

    def test_init_killed_from_outside(self, helper):
        with runs.box(helper) as box:
            ready = box.event(event="ready")
            box.spawn(1, ["sleep", "1000"])
            box.event(event="started", id=1)
            os.kill(ready["init_pid"], signal.SIGKILL)
            assert box.event(event="result", id=1)["verdict"] == "killed"
            box.event(event="end")
            assert box.process.wait(runs.PATIENCE) == 125


class TestScratch:
    @pytest.fixture
    def parent(self, tmp_path):
        directory = tmp_path / "directories"
        directory.mkdir()
        return directory

    @pytest.mark.as_root
    @pytest.mark.parametrize("extra", [[], [MISSING]], ids=["run", "failed"])
    def test_removed_whatever_is_in_it(self, helper, tmp_path, extra):
        canary, scratch = tmp_path / "canary", tmp_path / "scratch"
        canary.mkdir()
        (canary / "file").touch()
        (scratch / "upper").mkdir(parents=True)
        (scratch / "upper" / "link").symlink_to(canary)
        (scratch / "upper" / "absolute").symlink_to("/")
        os.mkfifo(scratch / "fifo")
        (scratch / "work" / "work").mkdir(parents=True)
        (scratch / "work" / "work" / "file").touch()
        (scratch / "work" / "work").chmod(0)
        self.dig(scratch / "upper", 3000)
        run(helper, ["true"], *extra, slot(Kind.SCRATCH, str(scratch)))
        wait_until(lambda: not scratch.exists() and not [*tmp_path.glob("*-*-*-*")])
        assert (canary / "file").exists()

    def test_a_link_in_its_place_is_not_followed(self, helper, tmp_path):
        (tmp_path / "canary").mkdir()
        (tmp_path / "canary" / "file").touch()
        (tmp_path / "scratch").symlink_to(tmp_path / "canary")
        run(helper, ["true"], MISSING, slot(Kind.SCRATCH, str(tmp_path / "scratch")))
        assert (tmp_path / "canary" / "file").exists()

    @pytest.mark.as_root
    def test_what_takes_long_does_not_delay_the_end(self, helper, parent):
        """A remover goes on behind it, with nothing of its caller's; what is left when it is killed, the next
        one removes."""
        scratch = self.large(parent)
        read, write = os.pipe()
        run(helper, ["true"], slot(Kind.SCRATCH, str(scratch)), fds=[write])
        os.close(write)
        assert os.read(read, 1) == b""  # end of file, though the remover is at work
        os.close(read)
        (left,) = parent.iterdir()
        assert left.name != scratch.name
        remover = self.owner(left)
        assert runs.is_alive(remover)
        descriptors = Path(f"/proc/{remover}/fd")
        assert {os.readlink(descriptors / str(number)) for number in range(3)} == {"/dev/null"}
        os.kill(remover, signal.SIGKILL)
        wait_until(lambda: not runs.is_alive(remover))
        assert list(parent.iterdir()) == [left]
        second = parent / "second"
        second.mkdir()
        run(helper, ["true"], slot(Kind.SCRATCH, str(second)))
        wait_until(lambda: not list(parent.iterdir()))

    def test_what_lives_or_is_elsewhere_is_left_alone(self, helper, parent):
        here = owners.place()
        start = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
        gone = [f"{here}-999999999-1-x", f"{here}-{os.getpid()}-1-x"]
        kept = [f"{here}-{os.getpid()}-{start}-x", f"{here + 1}-999999999-1-x", "other", "1-2-3"]
        for name in (*gone, *kept):
            (parent / name / "inside").mkdir(parents=True)
        (parent / "link").symlink_to(parent / "other")
        subprocess.run([helper, "sweep", parent], check=True)
        assert {path.name for path in parent.iterdir()} == {*kept, "link"}
        assert all((parent / name / "inside").exists() for name in kept)

    def test_another_machine_that_shares_our_home_is_elsewhere(self, helper, parent, tmp_path, need):
        """The first pid namespace has the same number on every machine."""
        need("userns")
        if not os.path.exists("/etc/machine-id"):
            pytest.skip("this machine has no id")
        (tmp_path / "other").write_text("0123456789abcdef" * 2 + "\n")
        (parent / f"{owners.place()}-999999999-1-x").mkdir()
        script = 'mount --bind "$1" /etc/machine-id && exec "$2" sweep "$3"'
        command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", script, "sh"]
        subprocess.run([*command, tmp_path / "other", helper, parent], check=True)
        assert len(list(parent.iterdir())) == 1
        subprocess.run([helper, "sweep", parent], check=True)
        assert list(parent.iterdir()) == []

    def test_nor_has_one_of_a_set_up_that_failed(self, helper, parent):
        """What it would read is the report, to its end, which no remover is to keep open."""
        unmapped = slot(Kind.IDMAP, 0, 0, 1 << 32, 1)
        ended = run(helper, ["true"], slot(Kind.SCRATCH, str(self.large(parent))), unmapped)
        assert ended.status == 125
        assert len(list(parent.iterdir())) == 1  # it is at work
        wait_until(lambda: not list(parent.iterdir()))

    def test_making_room_takes_a_moment(self, helper, parent):
        """What is left then, a supervisor's end removes."""
        left = parent / f"{owners.place()}-999999999-1-x"
        self.large(parent).rename(left)
        before = len(list((left / "upper").iterdir()))
        subprocess.run([helper, "sweep", parent], check=True)
        (left,) = parent.iterdir()
        assert 0 < len(list((left / "upper").iterdir())) < before
        (parent / "own").mkdir()
        run(helper, ["true"], slot(Kind.SCRATCH, str(parent / "own")))
        wait_until(lambda: not list(parent.iterdir()))

    @staticmethod
    def owner(path: Path) -> int:
        return int(path.name.split("-")[1])

    @staticmethod
    def large(parent: Path) -> Path:
        """A directory that takes much longer to remove than a command's end waits (0.1 s), at the rate at
        which this file system removes when nobody is in the way."""
        upper = parent / "large" / "upper"
        upper.mkdir(parents=True)
        least = 1.0
        for _ in range(5):
            for number in range(400):
                os.mknod(upper / str(number))
            began = time.monotonic()
            for number in range(400):
                os.unlink(upper / str(number))
            least = min(least, (time.monotonic() - began) / 400)
        for number in range(max(2000, int(0.4 / least))):
            os.mknod(upper / str(number))
        return parent / "large"

    @staticmethod
    def dig(top: Path, depth: int) -> None:
        """Directories deeper than there are descriptors, and than any path is long."""
        fd = os.open(top, os.O_RDONLY)
        for _ in range(depth):
            os.mkdir("d", dir_fd=fd)
            inner = os.open("d", os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = inner
        os.close(fd)


class TestCommandsOnRequest:
    @pytest.mark.as_root
    def test_one_after_the_other(self, helper):
        with runs.box(helper) as box:
            box.event(event="ready")
            assert box.run(1, ["sh", "-c", "echo one >/tmp/kept; echo hi"])[0] == b"hi\n"
            output, result = box.run(2, ["cat", "/tmp/kept"])
            assert (output, result["verdict"]) == (b"one\n", "ok")
            assert box.run(3, ["there-is-none"])[1]["exit_code"] == 127

    def test_a_request_too_large_for_a_datagram(self, helper):
        with runs.box(helper) as box:
            output, _ = box.run(1, ["echo", *["x" * 50_000] * 8])
        assert len(output) == 8 * 50_001

    def test_own_timeout_and_whole_tree(self, helper):
        with runs.box(helper) as box:
            # the pipe ends only when everything that holds it does
            _, result = box.run(1, ["sh", "-c", "(setsid sleep 1000 &); sleep 1000"], timeout=SECOND // 4)
            assert result["verdict"] == "timeout"
            assert result["limit"] == {"name": "timeout", "value": 0.25, "mechanism": "clock"}
            assert box.run(2, ["true"])[1]["verdict"] == "ok"

    def test_limits_are_each_commands(self, helper):
        limits = [limit("output", 1000, "pipe"), limit("cpu_time", SECOND, "best-effort: polled")]
        with runs.box(helper, *limits) as box:
            for number in (1, 2):
                output, result = box.run(number, ["head", "-c", "1000", "/dev/zero"])
                assert (len(output), result["verdict"]) == (1000, "ok")
            output, result = box.run(3, ["yes"])
            assert (len(output), result["verdict"]) == (1000, "output")
            assert box.run(4, ["sh", "-c", "while :; do :; done"])[1]["verdict"] == "cpu_time"
            assert box.run(5, ["true"])[1]["verdict"] == "ok"

    def test_too_many_at_once(self, helper):
        with runs.box(helper) as box:
            for number in range(257):
                box.spawn(number, ["sleep", "100"])
            result = box.event(event="result")
            assert (result["id"], result["verdict"]) == (256, "exec_failed")
            assert "256 run in this sandbox already" in result["message"]

    def test_few_descriptors(self, helper):
        """What a burst of commands can't have is said to be so; those that run are not the worse for it."""
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        with runs.box(helper) as box:
            box.event(event="ready")
            resource.prlimit(box.process.pid, resource.RLIMIT_NOFILE, (64, before[1]))
            for number in range(60):
                box.spawn(number, ["sleep", "0.2"])
            results = [box.event(event="result") for _ in range(60)]
        failed = [each["message"] for each in results if each["verdict"] != "ok"]
        assert len(failed) < 60
        assert [message for message in failed if "open files" not in message] == []

    def test_many_at_once_and_a_caller_that_does_not_read(self, helper):
        with runs.box(helper) as box:
            for number in range(150):
                box.spawn(number, ["true"])
            verdicts = {box.event(event="result")["verdict"] for _ in range(150)}
        assert verdicts == {"ok"}

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
    def test_signals(self, helper, number):
        with runs.box(helper) as box:
            box.spawn(1, ["sleep", "1000"])
            box.request(Kind.SIGNAL, 1, int(number))  # also when it was not executed yet
            result = box.event(event="result", id=1)
            assert (result["verdict"], result["signal"]) == ("killed", number)
            # it alone, not the sandbox as the last resort
            assert box.run(2, ["true"])[1]["verdict"] == "ok"

    def test_files(self, helper):
        with runs.box(helper) as box:
            box.request(Kind.OPEN, 1, 1, 0o644, "/tmp/file")
            assert box.event(event="file", id=1)["errno"] == 0
            os.write(box.files[0], b"data")
            assert box.run(2, ["cat", "/tmp/file"])[0] == b"data"
            box.request(Kind.OPEN, 3, 0, 0, "/tmp/none")
            assert box.event(event="file", id=3)["errno"] == errno.ENOENT

    @pytest.mark.parametrize("how", ["close", "hang up", "nonsense"])
    def test_ends(self, helper, how):
        with runs.box(helper) as box:
            box.spawn(1, ["sh", "-c", "trap '' TERM; sleep 1000"])
            box.event(event="started", id=1)
            inside = runs.descendants(box.process.pid)
            if how == "close":
                box.request(Kind.CLOSE)
            elif how == "nonsense":
                box.socket.send(b"not a plan at all")
            if how == "hang up":
                box.socket.close()
            else:
                assert box.event(event="result", id=1)["verdict"] == "killed"
                box.event(event="end")
            assert box.process.wait(runs.PATIENCE) == 0
            assert inside and not any(map(runs.is_alive, inside))
