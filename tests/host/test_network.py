"""What a sandbox's own network is made with: which backend, by what is there and how old it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.host import network, tools

NEW, OLD = "2024-08-21", "2023-03-09"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs of the machine are those in this directory; there is a tun device."""
    directory = tmp_path / "system"
    directory.mkdir()
    monkeypatch.setattr(network, "_DIRECTORIES", (str(directory),))
    monkeypatch.setattr(network, "_TUN", "/dev/null")
    return directory


def install(directory: Path, *names: str, date: str = NEW) -> None:
    """Programs that only tell how old they are; pasta's options are those that came in 2024-08."""
    directory.mkdir(exist_ok=True)
    usage = "--map-host-loopback --map-guest-addr" if date == NEW else "--no-map-gw"
    for name in names:
        path = directory / name
        text = f'[ "$1" = --version ] && echo "pasta 0.0~git{date.replace("-", "")}" || echo "{usage}"'
        path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        path.chmod(0o755)


@pytest.mark.parametrize(
    ("backend", "installed", "date", "chosen"),
    [
        ("auto", ("pasta", "slirp4netns"), NEW, "pasta"),
        ("auto", ("pasta", "slirp4netns"), OLD, "slirp4netns"),
        ("auto", ("pasta",), OLD, ""),
        ("auto", ("pasta",), NEW, "pasta"),
        ("auto", ("slirp4netns",), NEW, "slirp4netns"),
        ("pasta", ("pasta", "slirp4netns"), OLD, "pasta"),
        ("slirp4netns", ("pasta", "slirp4netns"), NEW, "slirp4netns"),
        ("pasta", ("slirp4netns",), NEW, ""),
        ("slirp4netns", ("pasta",), NEW, ""),
    ],
)
def test_which_backend(
    machine: Path, backend: str, installed: tuple[str, ...], date: str, chosen: str
) -> None:
    install(machine, *installed, "nft", date=date)
    found = network.discover(backend, {})
    assert (found.backend, bool(found.reason)) == (chosen, not chosen)
    assert found.path == (f"{machine}/{chosen}" if chosen else "")


@pytest.mark.parametrize(
    ("installed", "date", "detail"),
    [
        (("pasta", "slirp4netns", "nft"), NEW, "/pasta, of 2024-08 or newer"),
        (("pasta", "slirp4netns", "nft"), OLD, "/pasta is older than 2024-08"),
        (("slirp4netns", "nft"), NEW, "/slirp4netns; pasta is not installed"),
        (("pasta", "nft"), OLD, "neither slirp4netns nor a pasta that is new enough is installed"),
        (("pasta",), NEW, "nft, which keeps the sandbox from the host, is not installed"),
    ],
)
def test_doctor_says_which_and_why(machine: Path, installed: tuple[str, ...], date: str, detail: str) -> None:
    install(machine, *installed, date=date)
    row = tools.network(network.discover("auto", {}))
    assert row.detail.endswith(detail)
    assert row.ok == (not row.mend)


@pytest.mark.parametrize(
    ("backend", "installed", "mend"),
    [
        ("auto", ("nft",), "sudo apt install slirp4netns"),
        ("pasta", ("nft",), "sudo apt install passt"),
        ("slirp4netns", ("nft",), "sudo apt install slirp4netns"),
        ("auto", ("slirp4netns",), "sudo apt install nftables"),
    ],
)
def test_what_is_missing_has_a_mend(
    machine: Path, backend: str, installed: tuple[str, ...], mend: str
) -> None:
    install(machine, *installed)
    found = network.discover(backend, {})
    assert found.reason and found.mend == mend


def test_the_machines_programs_stand_before_those_of_a_path(machine: Path, tmp_path: Path) -> None:
    """A virtual environment that is a payload's to write stands first in many a PATH, and what is found is
    run outside."""
    mine = tmp_path / "venv"
    install(machine, "slirp4netns", "nft")
    install(mine, "slirp4netns", "nft")
    found = network.discover("auto", {"PATH": str(mine)})
    assert (found.path, found.nft) == (f"{machine}/slirp4netns", f"{machine}/nft")


def test_a_path_is_followed_where_the_machine_has_none(machine: Path, tmp_path: Path) -> None:
    install(tmp_path / "store", "slirp4netns", "nft")
    found = network.discover("auto", {"PATH": f"relative:{tmp_path}/store"})
    assert found.path == f"{tmp_path}/store/slirp4netns"
    assert f"{machine}/slirp4netns" in found.watched


def test_name_servers() -> None:
    text = "nameserver 127.0.0.53\nnameserver fe80::1%eth0\nnameserver\nnameserver x\n#nameserver 192.0.2.1\n"
    assert network.name_servers(text) == ("127.0.0.53", "fe80::1%eth0")
