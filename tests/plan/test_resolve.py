"""resolve: what it gathers of the call itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from sandbox.errors import SetupError
from sandbox.profile.model import Environment, Mount, Profile
from tests.plan.making import Resolve, destinations, resolved


def test_the_working_directory_is_its_real_path(resolve: Resolve, project: Path, home: Path) -> None:
    (home / "link").symlink_to("project")
    invocation = resolve(Mount(".", "rw"), cwd=home / "link")
    assert invocation.cwd == str(project)
    assert destinations(invocation) == {str(project): str(project)}
    assert str(home / "link") in {stamp.path for stamp in invocation.files}


def test_a_working_directory_that_is_gone(resolve: Resolve, home: Path) -> None:
    with pytest.raises(SetupError, match=r"working directory .*gone: No such file"):
        resolve(cwd=home / "gone")


def test_only_what_is_kept_of_the_environment(project: Path) -> None:
    environ: Mapping[str, str] = {
        "HOME": "/h",
        "LANG": "C",
        "LC_ALL": "C",
        "LC": "no",
        "SECRET": "x",
        "LC_TIME": "de",
    }
    profile = Profile(env=Environment(keep=("LANG", "LC_*", "MISSING")))
    invocation = resolved(profile, str(project), environ)
    assert dict(invocation.environ) == {"LANG": "C", "LC_ALL": "C", "LC_TIME": "de"}


@pytest.mark.parametrize("value", ["relative", "/a:b", "/a\nb", ""])
def test_a_home_that_can_not_stand_in_passwd(project: Path, value: str) -> None:
    invocation = resolved(Profile(), str(project), {"HOME": value})
    assert "\n" not in invocation.home and ":" not in invocation.home and invocation.home.startswith("/")


def test_home_is_normal(project: Path) -> None:
    assert resolved(Profile(), str(project), {"HOME": "//a/../b/"}).home == "/b"


def test_shell_is_one_that_is_there(project: Path) -> None:
    def shell(value: str) -> str:
        return resolved(Profile(), str(project), {"HOME": "/h", "SHELL": value}).shell

    assert shell("/bin/bash") == "/bin/bash"
    assert shell("/bin/nothing") == shell("/tmp/x") == shell("") == "/bin/sh"


def test_root_is_told_which_directory_its_service_cannot_read(tmp_path: Path) -> None:
    from sandbox.errors import HostError
    from sandbox.plan.invocation import Interpreter
    from sandbox.plan.resolve import _refuse_private

    for each in (tmp_path, *tmp_path.parents[:-2]):
        if each.owner() == tmp_path.owner():
            each.chmod(0o755)
    (tmp_path / "private").mkdir(mode=0o700)
    (tmp_path / "private/python").touch(mode=0o755)
    with pytest.raises(HostError, match="private is root's alone"):
        _refuse_private(Interpreter(files=(str(tmp_path / "private/python"),)))
    _refuse_private(Interpreter(files=("/usr/bin/env",)))
