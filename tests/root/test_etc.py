"""Generated accounts: always lines that passwd(5) and group(5) allow."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sandbox.root import etc

ids = st.integers(0, 2**32 - 2)


@given(st.text(max_size=20), ids, ids)
def test_names_can_stand_in_a_line(name: str, uid: int, gid: int) -> None:
    clean = etc.shell_name(name, "user")
    lines = etc.passwd(clean, uid, gid, "/home/x", "/bin/sh").splitlines()
    assert all(len(line.split(":")) == 7 for line in lines)
    assert sum(line.split(":")[2] == str(uid) for line in lines) == 1
    groups = etc.group(clean, gid).splitlines()
    assert all(len(line.split(":")) == 4 for line in groups)
    assert sum(line.split(":")[2] == str(gid) for line in groups) == 1


def test_bad_names() -> None:
    for name in ("", "a:b", "a\nroot:x:0:0", "-x", "a b", "a/b", "a\\b"):
        assert etc.shell_name(name, "user") == "user"
    assert etc.shell_name("jürgen", "user") == "jürgen"


def test_payload_as_root_or_nobody_is_named_once() -> None:
    assert etc.passwd("root", 0, 0, "/root", "/bin/sh").splitlines() == [
        "root:x:0:0:root:/root:/bin/sh",
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin",
    ]
    assert len(etc.passwd("nobody", 65534, 65534, "/", "/bin/sh").splitlines()) == 2


def test_a_roots_own_accounts_are_kept() -> None:
    text = "root:x:0:0:root:/root:/bin/ash\napp:x:7:7::/app:/bin/ash"
    assert etc.add_user(text, "u", 7, 7, "/home/u") == text
    added = etc.add_user(text, "u", 1000, 1000, "/home/u")
    assert added == text + "\nu:x:1000:1000:u:/home/u:/bin/sh\n"
    assert "\nuser1000:x:1000:" in etc.add_user(text, "app", 1000, 1000, "/home/u")
    assert etc.add_group("root:x:0:\n", "u", 5) == "root:x:0:\nu:x:5:\n"
    assert etc.add_group("u:x:1:\n", "u", 5) == "u:x:1:\ngroup5:x:5:\n"
    assert etc.add_group("u:x:5:\n", "v", 5) == "u:x:5:\n"


def test_find_user() -> None:
    text = "bad\nroot:x:0:0:root:/root/:/bin/sh\nb:x:5:5::relative:/bin/sh\nc:x:6:6::/x/../y:/bin/sh\n"
    assert etc.find_user(text, 0) == ("root", "/root")
    assert etc.find_user(text, 5) is None
    assert etc.find_user(text, 6) == ("c", "/y")
    assert etc.find_user(text, 7) is None
