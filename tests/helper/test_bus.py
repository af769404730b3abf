"""What the helper says to systemd, read by a D-Bus library, and what it makes of the answers.

systemd here is a socket that plays it; the real one is in tests/vm.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jeepney
import pytest
from jeepney.low_level import MessageType

from sandbox.wire import Kind
from tests.helper import runs

pytestmark = pytest.mark.integration

MANAGER = jeepney.DBusAddress(
    "/org/freedesktop/systemd1", "org.freedesktop.systemd1", "org.freedesktop.systemd1.Manager"
)
Serve = Callable[["Systemd", Any], None]


class Systemd(threading.Thread):
    """One connection of a D-Bus daemon with a systemd behind it. `calls` are the messages that came."""

    def __init__(self, path: Path, serve: Serve, welcome: bytes = b"OK 0123456789abcdef\r\n") -> None:
        super().__init__(daemon=True)
        self.serve, self.welcome = serve, welcome
        self.calls: list[Any] = []
        self.heard = b""
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(1)
        self.start()

    def run(self) -> None:
        self.connection, _ = self.listener.accept()
        with self.connection, self.listener:
            if not self._authenticate():
                return
            self.heard, _, data = self.heard.partition(b"BEGIN\r\n")
            parser = jeepney.Parser()
            with contextlib.suppress(OSError):  # the helper had enough
                while data := data or self.connection.recv(4096):
                    for message in parser.feed(data):
                        self.calls.append(message)
                        self.serve(self, message)
                    data = b""

    def _authenticate(self) -> bool:
        while b"BEGIN\r\n" not in self.heard:
            data = self.connection.recv(4096)
            self.heard += data
            if not data:
                return False
            if self.heard.count(b"\r\n") == 1:
                self.connection.sendall(self.welcome)
        return True

    def send(self, message: Any, serial: int = 77) -> None:
        self.connection.sendall(message.serialise(serial=serial))

    def job_removed(self, unit: str, result: str) -> None:
        body = (7, "/org/freedesktop/systemd1/job/7", unit, result)
        self.send(jeepney.new_signal(MANAGER, "JobRemoved", "uoss", body))

    @property
    def unit(self) -> str:
        name: str = self.calls[-1].body[0]
        return name


def member(message: Any) -> str:
    name: str = message.header.fields[jeepney.HeaderFields.member]
    return name


@pytest.fixture
def bus() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bus.", dir="/tmp") as name:
        yield Path(name) / "bus"


def run(helper: Path, bus: Path) -> runs.Ended:
    return runs.run(helper, ["true"], runs.slot(Kind.CGROUP, "bus", str(bus), "/sys/fs/cgroup", 0))


def done(systemd: Systemd, message: Any) -> None:
    if member(message) == "StartTransientUnit":
        systemd.job_removed("other.scope", "failed")  # somebody else's
        systemd.job_removed(systemd.unit, "done")
        systemd.send(jeepney.new_method_return(message, "o", ("/job/7",)))


def test_what_is_said(helper: Path, bus: Path) -> None:
    systemd = Systemd(bus, done)
    ended = run(helper, bus)
    systemd.join(10)
    uid = str(os.geteuid()).encode().hex().encode()
    assert systemd.heard == b"\0AUTH EXTERNAL " + uid + b"\r\n"
    hello, match, start = systemd.calls
    assert [member(each) for each in systemd.calls] == ["Hello", "AddMatch", "StartTransientUnit"]
    assert hello.header.message_type == MessageType.method_call and hello.body == ()
    unit = start.body[0]
    assert unit.startswith("sandbox-") and unit.endswith(".scope")
    assert "member='JobRemoved'" in match.body[0] and f"arg2='{unit}'" in match.body[0]
    assert start.header.fields[jeepney.HeaderFields.destination] == MANAGER.bus_name
    _, mode, properties, auxiliary = start.body
    assert (mode, auxiliary) == ("fail", [])
    assert dict(properties) == {
        "Description": ("s", "sandbox"),
        "Delegate": ("b", True),
        "CollectMode": ("s", "inactive-or-failed"),
        "TasksMax": ("t", 2**64 - 1),
        "PIDs": ("au", [0]),  # the sender itself, in whichever pid namespace
    }
    # This one did not move anybody, and that is noticed.
    assert ended.status == 125 and f"cannot enter the scope {unit}" in ended.report["message"]


def refuse(systemd: Systemd, message: Any) -> None:
    if member(message) == "StartTransientUnit":
        systemd.send(jeepney.new_error(message, "org.freedesktop.DBus.Error.AccessDenied", "s", ("No way",)))


def fail_job(systemd: Systemd, message: Any) -> None:
    if member(message) == "StartTransientUnit":
        systemd.job_removed(systemd.unit, "canceled")


def hang_up(systemd: Systemd, message: Any) -> None:
    systemd.connection.shutdown(socket.SHUT_RDWR)


def talk_nonsense(systemd: Systemd, message: Any) -> None:
    systemd.connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def announce_too_much(systemd: Systemd, message: Any) -> None:
    systemd.connection.sendall(b"l\2\0\1" + b"\xff\xff\xff\x7f" * 3)


def announce_fields_beyond(systemd: Systemd, message: Any) -> None:
    systemd.connection.sendall(b"l\4\0\1" + b"\0\0\0\0\1\0\0\0\x10\0\0\0" + b"\x05\x01u\0\xff" + bytes(11))


@pytest.mark.parametrize(
    ("serve", "why"),
    [
        (refuse, "No way (org.freedesktop.DBus.Error.AccessDenied)"),
        (fail_job, 'ended as "canceled"'),
        (hang_up, "the connection was closed"),
        (talk_nonsense, "can't be understood"),
        (announce_too_much, "can't be understood"),
        (announce_fields_beyond, "can't be understood"),
    ],
)
def test_answers_that_are_no_scope(helper: Path, bus: Path, serve: Serve, why: str) -> None:
    systemd = Systemd(bus, serve)
    ended = run(helper, bus)
    systemd.join(10)
    assert ended.status == 125
    assert ended.report["message"].startswith("cannot ask systemd for a cgroup: ")
    assert why in ended.report["message"] and ended.report["mend"]


def test_a_daemon_that_does_not_let_us_in(helper: Path, bus: Path) -> None:
    systemd = Systemd(bus, done, b"REJECTED EXTERNAL\r\n")
    ended = run(helper, bus)
    systemd.join(10)
    assert "does not let us in" in ended.report["message"] and systemd.calls == []


def test_no_daemon(helper: Path, bus: Path) -> None:
    ended = run(helper, bus)
    assert f"{bus}: No such file or directory" in ended.report["message"]
    assert ended.report["mend"]
    ended = run(helper, bus.parent / ("x" * 120))
    assert "too long" in ended.report["message"]


def test_an_answer_in_pieces_and_with_others_between(helper: Path, bus: Path) -> None:
    def slowly(systemd: Systemd, message: Any) -> None:
        if member(message) != "StartTransientUnit":
            systemd.send(jeepney.new_method_return(message, "as", ([f"name{n}" for n in range(500)],)))
            return
        body = (7, "/org/freedesktop/systemd1/job/7", systemd.unit, "done")
        signal = jeepney.new_signal(MANAGER, "JobRemoved", "uoss", body).serialise(serial=5)
        for at in range(0, len(signal), 7):
            systemd.connection.sendall(signal[at : at + 7])

    systemd = Systemd(bus, slowly)
    ended = run(helper, bus)
    systemd.join(10)
    assert "cannot enter the scope" in ended.report["message"]


def launch(helper: Path, bus: Path) -> tuple[subprocess.Popen[bytes], int]:
    """A launch, and the end of its lifeline."""
    read, write = os.pipe()
    slots = [
        runs.slot(Kind.CGROUP, "bus", str(bus), "/sys/fs/cgroup", 0),
        runs.slot(Kind.LIFELINE, read),
    ]
    process = runs.start(helper, ["true"], *slots, fds=[read])
    os.close(read)
    return process, write


def test_a_caller_who_goes_away_before_anything_was_asked_for(helper: Path, bus: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:  # never answers
        listener.bind(str(bus))
        listener.listen(1)
        process, lifeline = launch(helper, bus)
        connection, _ = listener.accept()
        with connection:
            assert connection.recv(1) == b"\0"
            os.close(lifeline)
            _, errors = process.communicate(timeout=20)
    assert process.returncode == 125 and b"the caller is gone" in errors


def test_a_caller_who_goes_away_when_a_scope_is_on_its_way(helper: Path, bus: Path) -> None:
    """systemd gets a living process to put into it, or it would keep an empty scope for good."""
    asked, gone = threading.Event(), threading.Event()

    def serve(systemd: Systemd, message: Any) -> None:
        if member(message) == "StartTransientUnit":
            asked.set()
            gone.wait(20)
            assert process.poll() is None
            systemd.job_removed(systemd.unit, "done")

    systemd = Systemd(bus, serve)
    process, lifeline = launch(helper, bus)
    assert asked.wait(20)
    os.close(lifeline)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(0.5)  # it does not go
    gone.set()
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 125 and b"cannot enter the scope" in errors
    systemd.join(10)
