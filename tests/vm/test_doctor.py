"""`sandbox doctor` tells the truth about a host with systemd."""

from __future__ import annotations

import json

import pytest

from tests.vm import guest

pytestmark = pytest.mark.guest

Row = dict[str, str | bool]


def rows(done: guest.Done) -> dict[str, Row]:
    return {row["name"]: row for row in json.loads(done.stdout)["checks"]}


def doctor() -> dict[str, Row]:
    return rows(guest.call(*guest.SANDBOX, "doctor", "--json", check=False))


def test_all_that_a_launch_needs_works() -> None:
    found = doctor()
    assert [name for name, row in found.items() if row["required"] and not row["ok"]] == []
    for name in ("idrange", "overlay", "fuse", "tun", "slirp4netns", "user-manager", "cgroup"):
        assert found[name]["ok"], found[name]


def test_what_is_delegated_is_what_the_kernel_says() -> None:
    detail = str(doctor()["cgroup"]["detail"])
    for controller in ("cpu", "memory", "pids", "io"):
        assert f"{controller} {'yes' if controller in guest.controllers() else 'no'}" in detail
    assert "cpuset no" in detail


def test_after_the_drop_in_io_is_delegated(io_delegated: None) -> None:
    assert guest.controllers() == {"cpu", "io", "memory", "pids"}
    assert "io yes" in str(doctor()["cgroup"]["detail"])


def test_who_lingers() -> None:
    assert "running, lingers" in str(doctor()["user-manager"]["detail"])
    text = guest.session("other", *guest.SANDBOX, "doctor", "--json", check=False)
    assert "loginctl enable-linger" in str(rows(text)["user-manager"]["detail"])


def test_without_a_bus_the_mending_command_is_named() -> None:
    guest.log_out("other", 1001)
    become = ("setpriv", "--reuid=other", "--regid=other", "--init-groups", "--reset-env")
    found = rows(guest.root(*become, *guest.SANDBOX, "doctor", "--json", check=False))
    assert not found["user-manager"]["ok"]
    assert "sudo loginctl enable-linger other" in str(found["user-manager"]["mend"])
