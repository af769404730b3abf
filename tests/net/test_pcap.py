"""Captures of what passes through a sandbox's network, judged by tcpdump(1)."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import sandbox
from sandbox.errors import ProfileError, SetupError
from sandbox.launch import capture
from tests.net.test_user import PYTHON, command, environment, world
from tests.net.world import INTERNET, PROBE, World
from tests.support.needs import need

__all__ = ["world"]  # the fixture

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("here")]

Command = Callable[..., "subprocess.CompletedProcess[str]"]

#: sends itself a datagram, and as many of 60 000 bytes as it is told
TALK = """
import socket, sys
a, b = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in "ab")
a.bind(("127.0.0.1", 5000)); b.bind(("127.0.0.1", 5001))
b.sendto(b"a datagram", ("127.0.0.1", 5000)); a.recv(100)
for _ in range(int(sys.argv[1])):
    b.sendto(bytes(60000), ("127.0.0.1", 5000)); a.recv(60000)
"""


def read(path: Path) -> list[str]:
    need("tcpdump")
    tcpdump = "/usr/bin/tcpdump"
    done = subprocess.run([tcpdump, "-n", "-r", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.as_root
class TestTheLoopback:
    def test_each_packet_is_there_once(self, here: Path) -> None:
        done = sandbox.run([PYTHON, "-c", TALK, "1"], profile="untrusted", pcap=here / "x.pcap")
        assert done.returncode == 0, done.stderr
        lines = read(here / "x.pcap")
        assert ["127.0.0.1.5001 > 127.0.0.1.5000: UDP, length" in line for line in lines] == [True, True]
        assert lines[0].endswith("length 10") and lines[1].endswith("length 60000")
        assert stat.S_IMODE((here / "x.pcap").stat().st_mode) == 0o600

    def test_of_all_commands(self, here: Path) -> None:
        with sandbox.Sandbox("untrusted", pcap="x.pcap") as box:
            for _ in range(3):
                assert box.run([PYTHON, "-c", TALK, "0"]).returncode == 0
        assert len(read(here / "x.pcap")) == 3

    def test_by_the_command_line(self, here: Path, sandbox_cmd: Command) -> None:
        (here / "x.pcap").write_text("what was there before")
        for _ in range(2):  # the second could come from the cache
            done = sandbox_cmd("run", "-p", "untrusted", "--pcap", "x.pcap", "--", PYTHON, "-c", TALK, "0")
            assert (done.returncode, done.stderr) == (0, "")
            assert len(read(here / "x.pcap")) == 1
            (here / "x.pcap").write_text("")

    def test_what_is_published_too(self, here: Path) -> None:
        from tests.net.test_live import ask, serve

        with sandbox.Sandbox("untrusted", pcap="x.pcap", publish=["0:80/udp"]) as box:
            serve(box, "127.0.0.1")
            assert ask(box.ports[0]) == "10.0.2.2"
        assert any("10.0.2.2" in line and "> 127.0.0.1.80: UDP" in line for line in read(here / "x.pcap"))

    def test_no_more_than_there_is_room_for(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(capture, "ROOM", 200_000)
        done = sandbox.run([PYTHON, "-c", TALK, "50"], profile="untrusted", pcap="x.pcap")
        assert done.returncode == 0
        assert 120_000 < (here / "x.pcap").stat().st_size <= 200_000
        assert 3 <= len(read(here / "x.pcap")) <= 4

    def test_what_the_file_refuses_is_said(self, here: Path, sandbox_cmd: Command) -> None:
        words = ["run", "-p", "untrusted", "--pcap", "x.pcap", "--", PYTHON, "-c", TALK, "50"]
        limits = (1 << 17, 1 << 17)

        def small() -> None:
            import resource

            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

        done = sandbox_cmd(*words, preexec_fn=small)
        assert done.returncode == 0
        assert done.stderr == "sandbox: the capture is not whole: File too large\n"

    def test_the_command_can_not_write_it(self, here: Path) -> None:
        code = "printf forged > x.pcap || printf forged > y && mv y x.pcap; rm -f x.pcap"
        sandbox.run(["sh", "-c", code], profile="default", pcap="x.pcap")
        assert read(here / "x.pcap") == []


class TestRefusals:
    def test_links_and_other_names(self, here: Path, sandbox_cmd: Command) -> None:
        (here / "target").write_text("kept")
        (here / "link").symlink_to("target")
        os.link(here / "target", here / "other")
        os.mkfifo(here / "fifo")
        for name, why in (
            ("link", "symbolic link"),
            ("other", "other names"),
            ("fifo", "such device"),
            (".", "irectory"),
        ):
            done = sandbox_cmd("run", "-p", "untrusted", "--pcap", name, "--", "true")
            assert done.returncode == 125 and why in done.stderr and "mend: " in done.stderr, (
                name,
                done.stderr,
            )
            with pytest.raises(SetupError, match=why):
                sandbox.run(["true"], profile="untrusted", pcap=name)
        assert (here / "target").read_text() == "kept"

    def test_the_hosts_network(self, here: Path, sandbox_cmd: Command) -> None:
        done = sandbox_cmd("run", "--net", "host", "--pcap", "x.pcap", "--", "true")
        assert (
            done.returncode == 125
            and "the host's own" in done.stderr
            and 'mend: mode = "user"' in done.stderr
        )
        with pytest.raises(ProfileError, match="the host's own"):
            sandbox.Sandbox("default", net="host", pcap="x.pcap")
        assert not (here / "x.pcap").exists()

    def test_a_name_there_must_be(self, sandbox_cmd: Command) -> None:
        assert "takes a file" in sandbox_cmd("run", "--pcap", "", "--", "true").stderr
        with pytest.raises(ValueError, match="empty"):
            sandbox.run(["true"], pcap="")

    def test_a_run_that_fails_leaves_none(self, here: Path) -> None:
        with pytest.raises(ProfileError):
            sandbox.run(["true"], profile="nosuch", pcap="x.pcap")
        assert not (here / "x.pcap").exists()


def test_a_network_of_its_own(world: World, helper: Path) -> None:
    file = world.directory / "work" / f"{world.backend}.pcap"  # type: ignore[attr-defined]
    words = command(world, "--pcap", file.name, "--", PYTHON, "-c", PROBE, INTERNET)
    done = world.run(*words, env=environment(world))
    assert done.stdout.startswith(f'{INTERNET} ["beyond"'), done.stderr
    lines = [line for line in read(file) if f"{INTERNET}.8000" in line]
    assert "Flags [S]" in lines[0] and "10.0.2.100" in lines[0]
    assert "Flags [S.]" in lines[1]
