"""Users by name, in the accounts of a root that may be hostile."""

from __future__ import annotations

import pytest

from sandbox.plan.accounts import NoSuch, Who, look_up

PASSWD = "root:x:0:0:root:/root:/bin/sh\nnode:x:1000:100:n:/home/node:/bin/sh\nnode:x:0:0:again:/:/bin/sh\n"
GROUP = "root:x:0:\nusers:x:100:\nvideo:x:44:node,other\nkvm:x:78:other\nvideo:x:0:\n"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("node", Who(1000, 100, (44,))),
        ("node:video", Who(1000, 44)),
        ("node:78", Who(1000, 78)),
        ("1000", Who(1000, 100, (44,))),
        ("1000:1000", Who(1000, 1000)),
        ("5", Who(5, 0)),
        ("5:kvm", Who(5, 78)),
        (":video", Who(0, 44)),
        ("root", Who(0, 0)),
    ],
)
def test_found(text: str, found: Who) -> None:
    assert look_up(text, PASSWD, GROUP) == found


def test_root_needs_no_accounts() -> None:
    assert look_up("root", "", "") == Who(0, 0)
    assert look_up("root:5", "", "") == Who(0, 5)


@pytest.mark.parametrize(
    ("text", "passwd", "file"),
    [
        ("nod", PASSWD, "passwd"),
        ("node:vido", PASSWD, "group"),
        ("1000abc", PASSWD, "passwd"),
        ("+1", PASSWD, "passwd"),
        ("4294967295", PASSWD, "passwd"),
        ("x", "x:x:-1:0::/:\n", "passwd"),
        ("x", "x:x:+1:0::/:\n", "passwd"),
        ("x", "x:x:0x1:0::/:\n", "passwd"),
        ("x", "x:x:1:4294967295::/:\n", "passwd"),
        ("x", "x:x:99999999999:0::/:\n", "passwd"),
        ("x", "x:x:\u0661:0::/:\n", "passwd"),  # an Arabic digit, which int() takes
        ("x", "x:x:1:1\n", "passwd"),  # too few fields
        ("+", "+:::::::\n", "passwd"),
    ],
)
def test_no_such(text: str, passwd: str, file: str) -> None:
    with pytest.raises(NoSuch) as raised:
        look_up(text, passwd, GROUP)
    assert raised.value.file == file


def test_what_is_named_is_fit_to_print() -> None:
    with pytest.raises(NoSuch) as raised:
        look_up("\x1b[31m" + "x" * 500, PASSWD, GROUP)
    assert "\x1b" not in raised.value.what and len(raised.value.what) < 120
