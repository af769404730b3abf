"""Private networks, really: sandboxes on one reach each other by name, and nobody on another."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.errors import ProfileError, SetupError
from sandbox.launch import private
from sandbox.net.private import router
from tests.net.private.conftest import Box, Make
from tests.net.private.inside import PYTHON
from tests.net.test_live import ask
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

Boxes = Callable[..., Box]
KINDS = ("tcp4", "udp4", "tcp6", "udp6")


@pytest.mark.as_root
def test_by_name_over_everything(network: Make, box: Boxes) -> None:
    lab = network()
    box("lab", "db").serve()
    client = box("lab", "web")
    mine = dict(zip("46", lab.addresses(3), strict=True))
    for name in ("db", "db.lab", "DB.Lab", *lab.addresses(2)):
        kinds = [
            kind
            for kind in KINDS
            if (":" not in name and "." not in name[:3]) or (":" in name) == (kind[-1] == "6")
        ]
        answers = client.ask(*(f"{kind}:{name}" for kind in kinds))
        assert answers == {f"{kind}:{name}": f"db {mine[kind[-1]]}" for kind in kinds}


def test_other_networks_are_not_there(network: Make, box: Boxes) -> None:
    lab, _ = network("lab"), network("other")
    box("lab", "db").serve()
    stranger = box("other", "web")
    four, six = lab.addresses(2)
    words = ("tcp4:db", "tcp4:db.lab", f"tcp4:{four}", f"udp4:{four}", f"tcp6:{six}", f"udp6:{six}")
    assert stranger.ask(*words) == dict.fromkeys(words)


def test_there_is_no_way_out(network: Make, box: Boxes) -> None:
    """Neither by a route, nor by the host's name server, nor at the network's own gateway."""
    lab = network()
    inner = box("lab", "web")
    done = inner.sandbox.run(["cat", "/etc/resolv.conf"], text=True)
    assert done.stdout == f"nameserver {lab.addresses(1)[0]}\n"
    four, six = lab.addresses(1)
    words = ("tcp4:example.org", "tcp4:192.0.2.1", "udp6:2001:db8::1", f"tcp4:{four}", f"tcp6:{six}")
    assert inner.ask(*words) == dict.fromkeys(words)


def test_each_has_its_own_ports(network: Make, box: Boxes) -> None:
    """Twenty at once."""
    lab = network()
    boxes = [box("lab", f"n{number}").serve() for number in range(20)]
    listed = {
        names[0]: number for number, names in ((m["number"], m["names"]) for m in private.members("lab"))
    }
    assert sorted(listed) == sorted(each.name for each in boxes)
    words = [f"tcp4:n{number}" for number in range(20)]
    me = boxes[7]
    assert me.ask(*words) == {
        word: f"{word[5:]} {lab.addresses(listed['n7'])[0] if word != 'tcp4:n7' else '127.0.0.1'}"
        for word in words
    }


def test_who_leaves_is_forgotten(network: Make, box: Boxes) -> None:
    network()
    stays = box("lab", "web")
    first = box("lab", "db").serve()
    assert stays.ask("tcp4:db")["tcp4:db"]
    before = first.addresses()
    first.close()
    wait_until(lambda: len(private.members("lab")) == 1)
    assert stays.ask("tcp4:db", f"tcp4:{before[0]}") == {"tcp4:db": None, f"tcp4:{before[0]}": None}
    again = box("lab", "db").serve()
    assert again.addresses() != before  # whoever still knows the old one meets nobody else
    assert stays.ask("tcp4:db", "udp6:db") == {
        "tcp4:db": f"db {stays.addresses()[0]}",
        "udp6:db": f"db {stays.addresses()[1]}",
    }


def test_a_name_may_be_several(network: Make, box: Boxes) -> None:
    network()
    for _ in range(2):
        box("lab", "db").serve()
    client = box("lab", "web")
    code = "import socket; print(sorted({i[4][0] for i in socket.getaddrinfo('db', 1, socket.AF_INET)}))"
    assert client.sandbox.run([PYTHON, "-c", code], text=True).stdout.count(".") == 6


def test_it_ends_with_its_last_member(network: Make, box: Boxes) -> None:
    network()
    one, other = box("lab", "a"), box("lab", "b")
    supervisors = _apart()
    assert len(supervisors) == 1
    one.close()
    wait_until(lambda: len(private.members("lab")) == 1)
    assert _apart() == supervisors
    other.close()
    wait_until(lambda: not _apart())
    assert private.members("lab") == []


def test_addresses_that_were_given_back_come_again(
    network: Make, box: Boxes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the ports of their last owners, which may still be about to go, are no obstacle."""
    monkeypatch.setattr(router, "NUMBERS", range(2, 4))
    lab = network()
    keeper = box("lab", "web")
    for number in range(6):
        guest = box("lab", f"n{number}")
        assert guest.addresses() == list(lab.addresses(3))
        with pytest.raises(SetupError, match="as many members as it can have"):
            box("lab", "more")
        guest.close()
    assert keeper.addresses() == list(lab.addresses(2))


@pytest.mark.parametrize("victim", ["supervisor", "guard", "program"])
@pytest.mark.as_root
def test_nothing_is_left_of_a_network_that_is_killed(network: Make, box: Boxes, victim: str) -> None:
    """Its members go on without it, and are told; the next ones get a new one."""
    network()
    server, client = box("lab", "db").serve(), box("lab", "web")
    assert client.ask("tcp4:db")["tcp4:db"]
    (supervisor,) = _apart()
    family = _family(supervisor)
    program = next(pid for pid in family if b"sandbox.egress.members" in _command(pid))
    os.kill({"supervisor": supervisor, "guard": _parent(program), "program": program}[victim], signal.SIGKILL)
    wait_until(lambda: not any(map(_alive, [supervisor, *family])))
    wait_until(lambda: client.addresses() == [])
    assert client.ask("tcp4:db") == {"tcp4:db": None}
    done = client.sandbox.run(["echo", "goes on"], text=True)
    assert done.stdout == "goes on\n"
    third = box("lab", "db").serve()
    assert third.addresses() and private.members("lab")[0]["names"] == ["db"]
    server.close()


@pytest.mark.parametrize("victim", ["supervisor", "init"])
def test_nothing_is_left_of_a_member_that_is_killed(network: Make, box: Boxes, victim: str) -> None:
    network()
    stays, goes = box("lab", "web"), box("lab", "db").serve()
    assert stays.ask("tcp4:db")["tcp4:db"]
    pid = goes.sandbox._channel.helper.pid
    if victim == "init":
        pid = next(each for each in _family(pid) if _parent(each) == pid)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(private.members("lab")) == 1)
    assert stays.ask("tcp4:db") == {"tcp4:db": None}


def test_one_that_is_in_use_is_not_removed(network: Make, box: Boxes) -> None:
    network()
    member = box("lab", "db")
    with pytest.raises(ProfileError, match="1 sandbox is on it") as caught:
        private.remove("lab")
    assert caught.value.mend and "--force lab" in caught.value.mend
    assert private.remove("lab", force=True)
    wait_until(lambda: member.addresses() == [])
    wait_until(lambda: not _apart())
    assert not private.remove("lab", force=True)
    with pytest.raises(ProfileError, match="no network"):
        private.remove("lab")


def test_one_that_was_made_anew_is_another_one(network: Make, box: Boxes) -> None:
    network()
    box("lab", "db").close()
    private.remove("lab", force=True)
    network()
    assert box("lab", "db").addresses()


def test_what_hangs_is_told(network: Make, box: Boxes, monkeypatch: pytest.MonkeyPatch) -> None:
    network()
    box("lab", "db")
    (supervisor,) = _apart()
    program = next(pid for pid in _family(supervisor) if b"sandbox.egress.members" in _command(pid))
    monkeypatch.setattr(private, "_ANSWER", 0.2)
    os.kill(program, signal.SIGSTOP)
    try:
        with pytest.raises(SetupError, match="does not answer"):
            private.members("lab")
    finally:
        os.kill(program, signal.SIGCONT)


def test_ports_that_come_and_go(network: Make, box: Boxes) -> None:
    lab = network()
    member = box("lab", "db").serve().sandbox
    found = [port for spec in ("0:8000", "[::1]:0:8000/udp") for port in member.publish(spec)]
    assert member.addresses == lab.addresses(2)
    assert [ask(port) for port in found] == [f"db {address}" for address in lab.addresses(1)]
    member.unpublish(str(found[0]))
    assert ask(found[0]) == "" and ask(found[1])
    neighbour = box("lab", "web")
    assert neighbour.ask("tcp4:db")["tcp4:db"]


# --- processes ------------------------------------------------------------------------------------


def _processes() -> dict[int, int]:
    """Parents by pid."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            state, parent = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state != "Z":
            found[int(name)] = int(parent)
    return found


def _alive(pid: int) -> bool:
    return pid in _processes()


def _parent(pid: int) -> int:
    return _processes()[pid]


def _family(pid: int) -> list[int]:
    """All below a process."""
    parents = _processes()
    found, todo = [], [pid]
    while todo:
        above = todo.pop()
        below = [each for each, parent in parents.items() if parent == above]
        found += below
        todo += below
    return found


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _apart() -> list[int]:
    """Supervisors of networks, which fell to us as their reaper."""
    return [
        pid
        for pid, parent in _processes().items()
        if parent == os.getpid() and _command(pid).startswith(b"sandbox-helper\0apart\0")
    ]
