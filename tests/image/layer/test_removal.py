"""Emptying directories."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from sandbox.image.layer.removal import empty
from tests.support.needs import need


def emptied(path: Path) -> list[str]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        empty(fd)
    finally:
        os.close(fd)
    return os.listdir(path)


def test_all_that_can_be_in_a_directory(tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "a/b/c").mkdir(parents=True)
    (top / "a/b/file").touch()
    (top / "removing-0").mkdir()
    (top / "removing-0/x").touch()
    (top / "removing-1").touch()
    (top / "a/link").symlink_to("/etc")
    os.mkfifo(top / "a/fifo")
    open(os.fsencode(top) + b"/\xff\n", "wb").close()
    for name in ("a/b/c", "a/b", "a"):
        (top / name).chmod(0)
    assert emptied(top) == []


def test_nothing_behind_a_link_is_touched(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    top = tmp_path / "top"
    (top / "d").mkdir(parents=True)
    (top / "link").symlink_to(outside)
    (top / "d/link").symlink_to(outside)
    assert emptied(top) == []
    assert os.listdir(outside) == ["precious"]


def test_deeper_than_any_path(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    assert emptied(top) == []


def test_what_can_not_be_removed_is_an_error_and_the_rest_is_gone(tmp_path: Path) -> None:
    need("plain user", "userns", "idrange")
    top = tmp_path / "top"
    (top / "others").mkdir(parents=True)
    (top / "others/x").touch()
    (top / "ours").touch()
    unshare = ["unshare", "--user", "--map-root-user", "--map-auto"]
    subprocess.run([*unshare, "chown", "-R", "5:5", top / "others"], check=True)
    try:
        with pytest.raises(PermissionError):
            emptied(top)
        assert os.listdir(top) == ["others"]
    finally:
        subprocess.run([*unshare, "rm", "-r", top / "others"], check=True)
