"""The host's trees, and directories as the root."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandbox.errors import ProfileError
from sandbox.profile.model import Mount, Net, Root
from tests.plan.making import Resolve


def test_host_entries(resolve: Resolve) -> None:
    entries = resolve().entries
    assert entries["/usr"].kind == "dir"
    assert set(entries) == {path for path in entries if os.path.lexists(path)}
    assert resolve(root=Root("empty")).entries == {}


def test_dir_roots(resolve: Resolve, project: Path) -> None:
    (project / "r" / "etc").mkdir(parents=True)
    (project / "r" / "etc" / "passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (project / "link").symlink_to("r")
    (project / "f").touch()
    invocation = resolve(root=Root("dir:link"))
    assert invocation.root == str(project / "r")
    assert invocation.texts["passwd"].startswith("root:")
    assert invocation.entries == {}
    for source, message in (
        ("dir:gone", "does not exist"),
        ("dir:f", "not a directory"),
        ("dir:/", "can't be the root"),
    ):
        with pytest.raises(ProfileError, match=message):
            resolve(root=Root(source))


@pytest.mark.parametrize(("link", "target"), [("tmp", "/"), ("run", ".."), ("var", "usr"), ("tmp", "loop")])
def test_a_root_whose_tmp_leads_elsewhere(resolve: Resolve, project: Path, link: str, target: str) -> None:
    """A tmpfs on /tmp that is a link to / would cover all of the root."""
    (project / "r" / "usr").mkdir(parents=True)
    (project / "r" / link).symlink_to(target)
    (project / "r" / "loop").symlink_to("loop")
    with pytest.raises(ProfileError, match=r"would cover|Too many levels") as caught:
        resolve(root=Root("dir:r"))
    assert caught.value.mend


def test_a_root_whose_tmp_leads_to_another_one(resolve: Resolve, project: Path) -> None:
    (project / "r" / "var").mkdir(parents=True)
    (project / "r" / "tmp").symlink_to("var/tmp")
    (project / "r" / "var" / "run").symlink_to("/run")
    assert resolve(root=Root("dir:r")).root
    (project / "r" / "run").symlink_to("/")
    assert resolve(Mount("/run", "tmpfs"), root=Root("dir:r")).root


@pytest.mark.parametrize("link", ["etc", "etc/passwd"])
def test_accounts_of_a_hostile_root_are_not_read_through_links(
    resolve: Resolve, project: Path, link: str
) -> None:
    (project / "secret").mkdir()
    (project / "secret" / "passwd").write_text("x:x:0:0::/root:/bin/sh\n")
    (project / "r" / link).parent.mkdir(parents=True)
    (project / "r" / link).symlink_to(project / "secret" / ("passwd" if "/" in link else "."))
    assert resolve(root=Root("dir:r")).texts["passwd"] == ""


def test_a_fifo_for_accounts_does_not_hang(resolve: Resolve, project: Path) -> None:
    (project / "r" / "etc").mkdir(parents=True)
    os.mkfifo(project / "r" / "etc" / "passwd")
    assert resolve(root=Root("dir:r")).texts["passwd"] == ""


def test_the_hosts_network_needs_the_hosts_files(resolve: Resolve) -> None:
    assert "/etc/hosts" not in resolve().texts
    texts = resolve(net=Net("host")).texts
    assert texts["/etc/hosts"] == Path("/etc/hosts").read_text()
