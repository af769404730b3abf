"""Which disk a path is on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandbox.cgroup.devices import disk_of


def machine(root: Path, number: str, *, partition_of: str = "") -> None:
    """A machine with one block device in its sysfs."""
    block = root / "sys/dev/block"
    block.mkdir(parents=True)
    device = root / "sys/devices/disk"
    device.mkdir(parents=True)
    (device / "dev").write_text((partition_of or number) + "\n")
    if partition_of:
        device = device / "part1"
        device.mkdir()
        (device / "dev").write_text(number + "\n")
        (device / "partition").write_text("1\n")
    (block / number).symlink_to(device)


def number_of(path: Path) -> str:
    device = os.stat(path).st_dev
    return f"{os.major(device)}:{os.minor(device)}"


def on_disk(path: Path) -> Path:
    """The test's own directory, if a disk is behind it."""
    if os.major(os.stat(path).st_dev) == 0:
        pytest.skip("the temporary directory is on no disk")
    return path


def test_a_directory_is_on_its_file_systems_disk(tmp_path: Path) -> None:
    number = number_of(on_disk(tmp_path))
    machine(tmp_path, number)
    assert disk_of(str(tmp_path), root=str(tmp_path)) == number


def test_of_a_partition_it_is_the_whole_disk(tmp_path: Path) -> None:
    machine(tmp_path, number_of(on_disk(tmp_path)), partition_of="8:0")
    assert disk_of(str(tmp_path), root=str(tmp_path)) == "8:0"


def test_a_device_that_sysfs_does_not_show(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not in"):
        disk_of(str(on_disk(tmp_path)), root=str(tmp_path))


@pytest.mark.parametrize(("path", "why"), [("/proc", "type proc"), ("/dev/null", "character device")])
def test_what_is_on_no_disk(path: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        disk_of(path)


def test_a_tmpfs_and_what_is_missing(tmp_path: Path) -> None:
    if os.path.isdir("/dev/shm"):
        with pytest.raises(ValueError, match="no disk of its own"):
            disk_of("/dev/shm")
    with pytest.raises(ValueError, match="No such file"):
        disk_of(str(tmp_path / "missing"))


def test_a_block_device_is_itself(tmp_path: Path) -> None:
    blocks = [f"/dev/{name}" for name in os.listdir("/dev") if Path("/dev", name).is_block_device()]
    if not blocks:
        pytest.skip("no block device in /dev")
    assert disk_of(blocks[0]).count(":") == 1
