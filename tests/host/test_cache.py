"""The cache of trials: what is kept, what is believed, and that it can do no harm."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.host import cache
from sandbox.host.model import Check

GOOD = Check("overlay", True, False, "works — well", "no overlay", "")
NEEDED = Check("userns", True, True, "fine", "nothing works", "")
BAD = Check("proc", False, True, "covered", "nothing works", "mend it")


def kept(directory: Path, key: str = "key") -> dict[str, Check]:
    return cache.load(str(directory), key)


def test_good_answers_come_back(tmp_path: Path) -> None:
    cache.store(str(tmp_path), "key", {"overlay": GOOD, "userns": NEEDED})
    assert kept(tmp_path) == {"overlay": GOOD, "userns": NEEDED}


def test_bad_answers_are_not_kept(tmp_path: Path) -> None:
    cache.store(str(tmp_path), "key", {"overlay": GOOD, "proc": BAD})
    assert kept(tmp_path) == {"overlay": GOOD}


def test_another_key_knows_nothing(tmp_path: Path) -> None:
    cache.store(str(tmp_path), "key", {"overlay": GOOD})
    assert kept(tmp_path, "other") == {}


def test_it_is_private_and_replaced_whole(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "cache"
    os.umask(os.umask(0))
    cache.store(str(directory), "key", {"overlay": GOOD})
    cache.store(str(directory), "other", {"userns": NEEDED})
    assert kept(directory) == {} and kept(directory, "other") == {"userns": NEEDED}
    assert (directory / "host").stat().st_mode & 0o777 == 0o600
    assert directory.stat().st_mode & 0o777 == 0o700
    assert os.listdir(directory) == ["host"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"sandbox-host 1\n",
        b"sandbox-host 1\nkey",
        b"sandbox-host 2\nkey\noverlay\t0\ta\tb\n",
        b"sandbox-host 1\nkey\noverlay\t0\ta\tb",
        b"sandbox-host 1\nkey\noverlay\t0\ta\n",
        b"sandbox-host 1\nkey\noverlay\t2\ta\tb\n",
        b"sandbox-host 1\nkey\noverlay\t0\ta\tb\tc\n",
        b"sandbox-host 1\nkey\noverlay\t0\t\xff\tb\n",
        b"\x00" * 100,
        b"sandbox-host 1\nkey\n" + b"x" * 70000,
    ],
)
def test_a_damaged_file_is_no_cache_and_is_written_anew(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "host").write_bytes(data)
    (tmp_path / "host").chmod(0o600)
    assert kept(tmp_path) == {}
    cache.store(str(tmp_path), "key", {"overlay": GOOD})
    assert kept(tmp_path) == {"overlay": GOOD}


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_can_write_is_not_believed(tmp_path: Path, mode: int) -> None:
    cache.store(str(tmp_path), "key", {"overlay": GOOD})
    (tmp_path / "host").chmod(mode)
    assert kept(tmp_path) == {}


def test_a_file_of_somebody_else_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.store(str(tmp_path), "key", {"overlay": GOOD})
    monkeypatch.setattr(os, "geteuid", lambda: (tmp_path / "host").stat().st_uid + 1)
    assert kept(tmp_path) == {}


def test_links_and_fifos_are_not_followed(tmp_path: Path) -> None:
    real = tmp_path / "real"
    cache.store(str(real), "key", {"overlay": GOOD})
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "host").symlink_to(real / "host")
    assert kept(linked) == {}
    cache.store(str(linked), "key", {"userns": NEEDED})
    assert kept(real) == {"overlay": GOOD}  # the link was replaced, not followed
    (linked / "host").unlink()
    os.mkfifo(linked / "host", 0o600)
    assert kept(linked) == {}  # and does not hang


def test_a_place_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache.store(str(tmp_path / "file" / "cache"), "key", {"overlay": GOOD})
    assert kept(tmp_path / "file" / "cache") == {}
    (tmp_path / "host").mkdir()
    cache.store(str(tmp_path), "key", {"overlay": GOOD})
    assert sorted(os.listdir(tmp_path)) == ["file", "host"]  # no temporary file is left


@given(st.text(), st.text())
def test_any_text_in_a_row_survives_or_is_dropped(detail: str, consequence: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        row = Check("overlay", True, False, detail, consequence, "")
        cache.store(directory, "key", {"overlay": row})
        back = cache.load(directory, "key")
        expected = " ".join(detail.encode("utf-8", "replace").decode().split())
        assert back["overlay"].detail == expected
        assert back["overlay"].ok


def test_two_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    def many(row: Check) -> None:
        for _ in range(50):
            cache.store(str(tmp_path), "key", {row.name: row})

    threads = [threading.Thread(target=many, args=(row,)) for row in (GOOD, NEEDED)]
    for thread in threads:
        thread.start()
    for _ in range(100):
        assert kept(tmp_path) in ({}, {"overlay": GOOD}, {"userns": NEEDED})
    for thread in threads:
        thread.join()
    assert kept(tmp_path)
    assert os.listdir(tmp_path) == ["host"]
