"""`sandbox network`, and what it keeps."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path

import pytest

from sandbox import paths
from sandbox.cli import app
from sandbox.errors import HostError, ProfileError, SandboxError, SetupError
from sandbox.net.private import store
from sandbox.net.private.store import PrivateNetwork

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def home(tmp_home: Path) -> Path:
    return tmp_home


def make(name: str, *subnets: str) -> PrivateNetwork:
    chosen = {":" in each: each for each in subnets}
    return store.create(PrivateNetwork(name, chosen.get(False, ""), chosen.get(True, "")))


class TestCommand:
    def test_from_the_beginning_to_the_end(self, sandbox_cmd: Command) -> None:
        network = lambda *words: sandbox_cmd("network", *words)  # noqa: E731
        assert network("ls").stdout.split() == ["NAME", "SUBNETS", "WAY", "OUT", "SANDBOXES"]
        assert network("create", "lab", "--subnet", "10.90.1.0/24", "--dns", "9.9.9.9").stdout == "lab\n"
        assert network("create", "--internal", "other").stdout == "other\n"
        assert network("ls", "-q").stdout == "lab\nother\n"
        rows = [line.split() for line in network("ls").stdout.splitlines()[1:]]
        assert [(row[0], row[1], row[3:]) for row in rows] == [
            ("lab", "10.90.1.0/24", ["yes", "0"]),
            ("other", store.load("other").subnet, ["no", "0"]),
        ]
        (told,) = json.loads(network("inspect", "--json", "lab").stdout)
        assert told["subnets"][0] == "10.90.1.0/24" and told["gateway"][0] == "10.90.1.1"
        assert (told["internal"], told["backend"], told["dns"], told["members"]) == (
            False,
            "auto",
            ["9.9.9.9"],
            [],
        )
        assert json.loads(network("ls", "--json").stdout)[0] == told
        shown = network("inspect", "other").stdout
        assert shown.startswith("other: ") and "no way out" in shown
        assert network("rm", "lab", "other").stdout == "lab\nother\n"
        assert network("ls", "-q").stdout == ""
        assert network("rm", "--force", "lab").returncode == 0

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            ("", "sandbox: network needs a command: create, ls, inspect, rm"),
            ("creat x", "sandbox: unknown command 'creat'; did you mean 'create'?"),
            ("create user", 'sandbox: "user" is a mode of [net], and no name of a network'),
            ("create ../x", "is no name of a network"),
            ("create a/b", "is no name of a network"),
            ("create -- -x", "is no name of a network"),
            ("create x --subnet 10.90.0.0/16", "is no IPv4 network of 256 addresses (/24)"),
            ("create x --subnet 8.8.8.0/24", "is no private network"),
            ("create x --subnet 10.90.0.1/24", "has host bits set"),
            ("create x --subnet 10.90.0.0/24 --subnet 10.91.0.0/24", "--subnet takes one network of IPv4"),
            ("create x --subnet fd00:1::/48", "is no IPv6 network of the length /64"),
            ("create x --internal --dns 9.9.9.9", "--dns and --backend have no use with --internal"),
            ("create x --dns nine", "--dns 'nine' is no IP address"),
            ("create x --dns fe80::1%eth0", "--dns 'fe80::1%eth0' is no IP address"),
            ("create x --dns ::1", "--dns ::1 would be the network itself"),
            ("create there", 'there is a network "there" already'),
            ("rm nosuch", 'sandbox: there is no network "nosuch"\nsandbox:   mend: sandbox network ls\n'),
            (
                "inspect ther",
                'there is no network "ther"; did you mean "there"?\nsandbox:   mend: sandbox network ls',
            ),
            ("rm ..", "is no name of a network"),
        ],
    )
    def test_what_is_wrong_is_told_and_changes_nothing(
        self, capsys: pytest.CaptureFixture[str], words: str, said: str
    ) -> None:
        make("there")
        assert app.main(["network", *words.split()]) == 125
        out, err = capsys.readouterr()
        assert out == "" and said in err
        assert [each.name for each in store.listed()] == ["there"]

    def test_whoever_wants_to_be_on_it_may_make_it(self, sandbox_cmd: Command) -> None:
        done = sandbox_cmd("run", "--net", "lab", "--", "true", cwd="/usr")
        assert done.returncode == 125
        assert 'there is no network "lab"\nsandbox:   mend: sandbox network create lab' in done.stderr


class TestSubnets:
    def test_each_has_its_own(self) -> None:
        found = [subnet for each in range(20) for subnet in make(f"n{each}").subnets]
        networks = [ip_network(each) for each in found]
        assert len(set(networks)) == 40
        assert {each.prefixlen for each in networks} == {24, 64}

    def test_one_that_is_taken_is_refused(self) -> None:
        lab = make("lab")
        for subnet in lab.subnets:
            with pytest.raises(ProfileError, match="is in use"):
                make("other", subnet)
        assert [each.name for each in store.listed()] == ["lab"]

    def test_when_there_are_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(store, "_POOL", "10.89.7.0/24")
        make("lab")
        with pytest.raises(HostError, match="have all of"):
            make("other")

    def test_of_many_at_once(self) -> None:
        threads = [threading.Thread(target=make, args=(f"n{each}",)) for each in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert len({each.subnet for each in store.listed()}) == 8


class TestFiles:
    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{",
            "[]",
            "{}",
            '{"name": "lab"}',
            '{"name": "lab", "subnet": "10.90.0.0/24", "subnet6": "fd00:9::/64", "dns": 3}',
            '{"name": "lab", "subnet": "8.8.8.0/24", "subnet6": "fd00:9::/64", "dns": []}',
            '{"name": "other", "subnet": "10.90.0.0/24", "subnet6": "fd00:9::/64", "dns": []}',
            '{"name": "lab", "subnet": "10.90.0.0/24", "subnet6": "fd00:9::/64", "dns": [], "more": 1}',
            "[" * 100_000,
        ],
    )
    def test_what_we_did_not_write_is_told(self, capsys: pytest.CaptureFixture[str], text: str) -> None:
        make("lab")
        Path(store.file_of("lab")).write_text(text)
        with pytest.raises(SetupError, match="is not what sandbox wrote"):
            store.load("lab")
        assert app.main(["network", "inspect", "lab"]) == 125
        assert "sandbox network rm --force lab" in capsys.readouterr().err
        assert app.main(["network", "rm", "--force", "lab"]) == 0
        assert store.listed() == []

    def test_nobody_else_may_look(self) -> None:
        make("lab")
        for path in (Path(paths.state_dir(), "networks"), Path(store.directory_of("lab"))):
            assert path.stat().st_mode & 0o077 == 0

    @pytest.mark.parametrize("name", ["lock", "."])
    def test_what_leads_elsewhere_is_not_followed(self, tmp_path: Path, name: str) -> None:
        make("lab")
        directory = Path(store.directory_of("lab"))
        if name == ".":
            directory.rename(tmp_path / "real")
            directory.symlink_to(tmp_path / "real")
        else:
            (directory / name).symlink_to(tmp_path / "target")
        with pytest.raises(SandboxError), store.locked("lab"):
            pass
        assert not (tmp_path / "target").exists()

    def test_a_full_disk_leaves_none_half_made(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(fd: int) -> None:
            raise OSError(28, os.strerror(28))

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(SetupError, match="No space left"):
            make("lab")
        assert store.listed() == []
        monkeypatch.undo()
