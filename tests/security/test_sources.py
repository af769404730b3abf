"""Mount sources that somebody swaps between planning, which followed the links there were, and the launch:
what the helper finds then is followed nowhere. So these plans are made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.wire import Kind, Mount, Record
from tests.helper import runs

pytestmark = [pytest.mark.integration, pytest.mark.as_root]

_READ_ONLY = int(Mount.READONLY | Mount.NOSUID | Mount.NODEV | Mount.CREATE)
_OVERLAY = int(Mount.NOSUID | Mount.NODEV | Mount.CREATE)


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """A project with honest files and with links out of it, and a secret beside it."""
    project = tmp_path / "project"
    for directory in (project / "honest" / "below", tmp_path / "secret" / "below"):
        directory.mkdir(parents=True)
        (directory / "file").write_text(f"{directory.parent.name}\n")
    (project / "out").symlink_to(tmp_path / "secret")
    (project / "in").symlink_to("honest")
    (tmp_path / "alias").symlink_to("project")
    tmp_path.chmod(0o755)
    return tmp_path


def bind(source: str, beneath: str = "") -> Record:
    return Record(Kind.BIND, "bind /mnt", "", ("/mnt", _READ_ONLY, source, beneath))


def overlay(source: str) -> Record:
    return Record(Kind.OVERLAY, "overlay /mnt", "", ("/mnt", _OVERLAY, "", 0, source))


def read(helper: Path, mount: Record) -> runs.Ended:
    return runs.run(helper, ["cat", "/mnt/below/file", "/mnt/file", "/mnt"], mount)


def refused(helper: Path, mount: Record) -> None:
    ended = read(helper, mount)
    assert (ended.status, ended.stdout) == (125, b""), ended
    assert ended.report["errno_name"] in ("ELOOP", "EXDEV", "ENOTDIR"), ended.report


@pytest.mark.parametrize("source", ["project/out", "project/out/below/file", "project/in", "alias/honest"])
def test_a_source_that_became_a_link_is_refused(helper: Path, top: Path, source: str) -> None:
    refused(helper, bind(str(top / source)))


@pytest.mark.parametrize("source", ["project/out", "project/in", "alias/honest"])
def test_a_lower_directory_that_became_a_link_is_refused(helper: Path, top: Path, source: str) -> None:
    refused(helper, overlay(str(top / source)))


@pytest.mark.parametrize("source", ["out", "out/below/file", "in", "../secret", "honest/../../secret"])
def test_an_untrusted_projects_source_stays_beneath_it(helper: Path, top: Path, source: str) -> None:
    refused(helper, bind(source, beneath=str(top / "project")))


def test_an_untrusted_projects_source_is_not_absolute(helper: Path, top: Path) -> None:
    refused(helper, bind(str(top / "secret"), beneath=str(top / "project")))


def test_the_project_itself_is_reached_through_no_link(helper: Path, top: Path) -> None:
    refused(helper, bind("honest", beneath=str(top / "alias")))


def test_honest_sources_are_mounted(helper: Path, top: Path) -> None:
    """So it is the links that are refused."""
    project = top / "project"
    for mount in (
        bind(str(project / "honest")),
        bind("honest", beneath=str(project)),
        overlay(str(project / "honest")),
    ):
        assert read(helper, mount).stdout == b"honest\n"
