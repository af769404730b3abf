"""The tables: nothing that must not be shown, nothing twice."""

from __future__ import annotations

import pytest

from sandbox.root import tables


@pytest.mark.parametrize(
    "path", ["/run", "/var", "/home", "/root", "/etc", "/proc", "/sys", "/dev", "/boot", "/srv"]
)
def test_trees_hold_no_secrets_or_sockets(path: str) -> None:
    assert path not in tables.HOST_TREES


def test_etc_has_no_secrets() -> None:
    words = ("shadow", "sudo", "ssh", "private", "secret", "krb5", "gitconfig", "passwd", "group")
    assert not [name for name in tables.ETC for word in words if word in name]
    assert not {"ssl", "pki", "pki/tls", "environment", "hosts", "resolv.conf"} & set(tables.ETC)


@pytest.mark.parametrize("table", [tables.HOST_TREES, tables.ETC, tables.DEVICES, tables.PROC_MASKED])
def test_nothing_twice(table: tuple[str, ...]) -> None:
    assert len(table) == len(set(table))


def test_parents_come_first() -> None:
    for number, name in enumerate(tables.ETC):
        assert not any(other.startswith(name + "/") for other in tables.ETC[:number])


def test_what_every_sandbox_has_is_reserved() -> None:
    assert {"/", "/dev", "/proc", "/dev/null", "/dev/ptmx", "/dev/pts"} <= tables.RESERVED
    assert not {"/tmp", "/dev/shm", "/etc", "/usr", "/sys", "/run"} & tables.RESERVED
