"""`sandbox doctor` tells the truth about a host with systemd."""

from __future__ import annotations

import pytest

from tests.vm import guest

pytestmark = pytest.mark.guest


@pytest.fixture(scope="module")
def found() -> dict[str, guest.Row]:
    """Of this host as it is: a look takes seconds here."""
    return guest.doctor()


def test_all_that_a_launch_needs_works(found: dict[str, guest.Row]) -> None:
    assert [name for name, row in found.items() if row["required"] and not row["ok"]] == []
    for name in ("idrange", "overlay", "fuse", "tun", "slirp4netns", "user-manager", "cgroup"):
        assert found[name]["ok"], found[name]


def test_what_is_delegated_is_what_the_kernel_says(found: dict[str, guest.Row]) -> None:
    detail = str(found["cgroup"]["detail"])
    assert "delegated by systemd" in detail
    for controller in ("cpu", "memory", "pids", "io"):
        assert f"{controller} {'yes' if controller in guest.controllers() else 'no'}" in detail
    assert "cpuset no" in detail


def test_what_would_hold_each_limit(found: dict[str, guest.Row]) -> None:
    for name in ("limits.memory", "limits.pids", "limits.cpus", "limits.cpu_time"):
        assert found[name]["ok"] and found[name]["detail"] == "by cgroup"
    row = found["limits.io"]
    assert not row["ok"] and row["consequence"] == "a profile that sets io is refused"
    assert "systemd does not delegate io" in str(row["detail"])
    assert "Delegate=cpu cpuset io memory pids" in str(row["mend"])
    assert "this kernel has no cpuset" in str(found["limits.cpuset"]["detail"])
    assert "sched_setaffinity(2)" in str(found["limits.cpuset"]["detail"])


def test_who_lingers(found: dict[str, guest.Row]) -> None:
    assert "running, lingers" in str(found["user-manager"]["detail"])
    text = guest.session("other", *guest.SANDBOX, "doctor", "--json", check=False)
    assert "loginctl enable-linger" in str(guest.rows(text)["user-manager"]["detail"])


def test_without_a_bus_the_mending_command_is_named() -> None:
    guest.log_out("other", 1001)
    become = ("setpriv", "--reuid=other", "--regid=other", "--init-groups", "--reset-env")
    found = guest.rows(guest.root(*become, *guest.SANDBOX, "doctor", "--json", check=False))
    assert not found["user-manager"]["ok"]
    assert "sudo loginctl enable-linger other" in str(found["user-manager"]["mend"])
    for name in ("limits.memory", "limits.cpus", "limits.io"):
        assert not found[name]["ok"] and "sudo loginctl enable-linger other" in str(found[name]["mend"])
