"""The guest is the host that the other tests here take it for."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from tests.vm import guest

pytestmark = pytest.mark.guest


def test_systemd_is_the_first_process_and_holds_a_unified_tree() -> None:
    assert Path("/proc/1/comm").read_text() == "systemd\n"
    [line] = [line for line in Path("/proc/mounts").read_text().splitlines() if " /sys/fs/cgroup " in line]
    _, _, kind, options, *_ = line.split()
    assert kind == "cgroup2"
    assert "nsdelegate" in options.split(",")
    assert guest.call("systemctl", "is-system-running").stdout == "running\n"


def test_tests_run_as_an_ordinary_user_in_a_session() -> None:
    assert pwd.getpwuid(os.getuid()).pw_name == "user"
    assert guest.own_cgroup().startswith("/user.slice/user-1000.slice/session-")
    assert os.environ["XDG_RUNTIME_DIR"] == "/run/user/1000"
    assert not os.access(guest.MANAGER.parent / "cgroup.procs", os.W_OK)


def test_a_service_of_the_user_is_inside_what_is_delegated() -> None:
    line = guest.service("cat", "/proc/self/cgroup").stdout
    assert line.startswith("0::/user.slice/user-1000.slice/user@1000.service/")


def test_the_other_user_has_sessions_but_does_not_linger() -> None:
    text = guest.session("other", "sh", "-c", "id -un; cat /proc/self/cgroup; echo $XDG_RUNTIME_DIR").stdout
    name, cgroup, directory = text.splitlines()
    assert (name, directory) == ("other", "/run/user/1001")
    assert cgroup.startswith("0::/user.slice/user-1001.slice/session-")
    lingers = guest.call("loginctl", "show-user", "user", "--property=Linger").stdout
    assert lingers == "Linger=yes\n"
    assert not Path("/var/lib/systemd/linger/other").exists()


def test_delegation_is_systemds_own() -> None:
    assert guest.controllers() == {"cpu", "memory", "pids"}


def test_devices_are_everybodys() -> None:
    for path in ("/dev/fuse", "/dev/net/tun"):
        assert os.access(path, os.R_OK | os.W_OK)


def test_there_is_a_whole_disk_to_write_on() -> None:
    device = os.stat("/srv/disk").st_dev
    block = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    assert block.resolve().name == "ubdb"
    assert not (block / "partition").exists()
    assert os.access("/srv/disk", os.W_OK)
    assert device != os.stat("/tmp").st_dev
