"""The plan as a value, and stamps of the files it was derived from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandbox import wire
from sandbox.plan.plan import FileStamp, Limit
from sandbox.profile.model import Limits, Profile
from tests.plan.making import plan_of


def test_stamp_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("one")
    stamp = FileStamp.take(str(path))
    status = path.stat()
    assert stamp == (str(path), status.st_mtime_ns, status.st_ino, 3)
    assert stamp.current()
    path.write_text("four")
    assert not stamp.current()


def test_stamp_of_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "f"
    stamp = FileStamp.take(str(path))
    assert stamp == (str(path), -1, 0, 0) and stamp.current()
    path.touch()
    assert not stamp.current()


def test_stamp_of_a_directory_is_its_identity_or_its_entries(tmp_path: Path) -> None:
    identity, entries = FileStamp.take(str(tmp_path)), FileStamp.take(str(tmp_path), entries=True)
    assert identity.mtime_ns == -1 and entries.mtime_ns > 0
    (tmp_path / "new").touch()
    os.utime(tmp_path, ns=(0, 1))
    assert identity.current() and not entries.current()
    other = tmp_path.with_name("other")
    other.mkdir()
    os.rename(tmp_path, tmp_path.with_name("moved"))
    os.rename(other, tmp_path)
    assert not identity.current()


def test_stamp_of_a_link_is_its_own(tmp_path: Path) -> None:
    link = tmp_path / "l"
    link.symlink_to("a")
    stamp = FileStamp.take(str(link))
    assert stamp.current()
    link.unlink()
    link.symlink_to("longer")
    assert not stamp.current()


def test_a_directory_that_became_a_file_is_not_current(tmp_path: Path) -> None:
    path = tmp_path / "d"
    path.mkdir()
    stamp = FileStamp.take(str(path))
    path.rmdir()
    path.touch()
    assert not stamp.current()


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        (Limit("memory", 256 << 20, ""), "limit memory to 256M"),
        (Limit("timeout", 1_500_000_000, ""), "limit timeout to 1.5s"),
        (Limit("pids", 64, ""), "limit pids to 64"),
    ],
)
def test_limits_are_readable(limit: Limit, text: str) -> None:
    assert limit.describe() == text


def test_a_plan_that_is_too_large_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_SIZE", 1000)
    with pytest.raises(ValueError, match="larger than 1000"):
        plan_of().encode()


def test_describe_names_the_mechanism() -> None:
    assert "limit pids to 5 (rlimit)" in plan_of(Profile(limits=Limits(pids=5))).describe()
