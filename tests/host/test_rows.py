"""The rows that files alone decide."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sandbox.host import rows
from sandbox.host.model import Host, IdMap, Range
from sandbox.host.spare import SETGID, SETUID

PLAIN = Host(
    kernel=(6, 1),
    machine="x86_64",
    uid=1000,
    gid=1000,
    user="me",
    newuidmap="/usr/bin/newuidmap",
    newgidmap="/usr/bin/newgidmap",
    subuid=(Range(100000, 65536),),
    subgid=(Range(100000, 65536),),
)
ROOT = replace(PLAIN, uid=0, gid=0, user="root", subuid=(), subgid=(), capabilities=SETUID | SETGID)


@pytest.mark.parametrize(
    ("version", "ok"), [((5, 13), False), ((5, 14), True), ((6, 0), True), ((4, 19), False), ((0, 0), False)]
)
def test_kernels(version: tuple[int, int], ok: bool) -> None:
    row = rows.kernel(replace(PLAIN, kernel=version))
    assert row.ok == ok and row.required and bool(row.mend) == (not ok)


def test_a_range_that_is_there() -> None:
    row = rows.idrange(PLAIN)
    assert row.ok and not row.required and not row.mend
    assert "/usr/bin/newuidmap" in row.detail and "uids 100000-165535" in row.detail


@pytest.mark.parametrize(
    ("lacking", "detail", "mend"),
    [
        ({"subuid": ()}, "no range for me in /etc/subuid", "sudo usermod --add-subuids 100000-165535 me"),
        ({"subgid": ()}, "no range for me in /etc/subgid", "sudo usermod --add-subgids 100000-165535 me"),
        (
            {"subuid": (), "subgid": ()},
            "no range for me in /etc/subuid and /etc/subgid",
            "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 me",
        ),
        ({"newuidmap": None}, "no usable newuidmap", "sudo apt install uidmap"),
        ({"newgidmap": None}, "no usable newgidmap", "sudo apt install uidmap"),
        ({"newuidmap": None, "newgidmap": None}, "no usable newuidmap and newgidmap", "apt install uidmap"),
        ({"uid_map": (IdMap(1000, 1000, 1),)}, "do not exist in this user namespace", "maps more ids"),
    ],
)
def test_what_a_range_can_lack(lacking: dict[str, object], detail: str, mend: str) -> None:
    row = rows.idrange(replace(PLAIN, **lacking))
    assert not row.ok and detail in row.detail and mend in row.mend


@pytest.mark.parametrize(
    ("problem", "container", "mend"),
    [
        ("no_new_privs is set", "", "NoNewPrivileges=no"),
        ("no_new_privs is set", "docker", "docker run --security-opt no-new-privileges=false"),
        ("/usr/bin/newuidmap is on a file system mounted nosuid", "", "remount,suid"),
        ("/usr/bin/newuidmap has neither the setuid bit of root", "", "chmod u+s"),
        ("newuidmap is not installed", "", "sudo apt install uidmap"),
    ],
)
def test_why_a_tool_can_not_be_used(problem: str, container: str, mend: str) -> None:
    row = rows.idrange(replace(PLAIN, newuidmap=None, container=container), [problem])
    assert not row.ok and problem in row.detail and mend in row.mend


def test_another_group_than_in_passwd() -> None:
    """newgidmap compares with /etc/passwd, so that a range fails after newgrp(1)."""
    row = rows.idrange(PLAIN, ["the current group is 5, not the primary group 1000 of me"])
    assert not row.ok and "primary group" in row.detail and row.mend


def test_a_range_of_ones_own_id_alone_is_none() -> None:
    assert not rows.idrange(replace(PLAIN, subuid=(Range(1000, 1),))).ok


def test_bad_lines_are_told_but_do_no_harm() -> None:
    row = rows.idrange(PLAIN, ["/etc/subuid line 3: an empty range"])
    assert row.ok and "line 3" in row.detail


def test_root_needs_no_tool() -> None:
    row = rows.idrange(replace(ROOT, newuidmap=None, newgidmap=None))
    assert row.ok and "1879048192-1879113727" in row.detail


def test_root_without_capabilities() -> None:
    row = rows.idrange(replace(ROOT, capabilities=0, container="docker"))
    assert not row.ok and "--cap-add SETUID --cap-add SETGID" in row.mend
    assert rows.idrange(replace(ROOT, capabilities=0)).mend


def test_root_of_a_small_namespace_is_offered_ids_that_exist() -> None:
    few = (IdMap(0, 1000, 1), IdMap(1, 100000, 65536))
    host = replace(ROOT, uid_map=few, gid_map=few, machine_root=None)
    assert rows.idrange(host).mend == "sudo usermod --add-subuids 10000-65533 --add-subgids 10000-65533 root"
    smaller = replace(host, gid_map=(IdMap(0, 1000, 1), IdMap(1, 100000, 20000)))
    assert "--add-subgids 10000-20000" in rows.idrange(smaller).mend
    none = replace(host, gid_map=(IdMap(0, 1000, 1),))
    assert "maps more ids" in rows.idrange(none).mend
