"""sandbox.profile.reopen: overrides on a loaded profile are what they are when it is loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sandbox.errors import NotAvailableError, ProfileError
from sandbox.profile import Profile, adjust, load, overrides_from
from sandbox.profile.model import Limits, Mount
from tests.profile.test_options import parser

BUILT_IN = ["base", "build", "default", "dev", "test", "untrusted"]

OVERRIDES: list[dict[str, Any]] = [
    {"limits.memory": "77M", "process.nice": 3},
    {"mounts": {"/x": "tmpfs", "~/data": "ro"}},
    {'mounts."/x"': {"source": "/usr", "mode": "ro"}},
    {"mounts": {".": "overlay"}},
    {"env.set": {"A": "1"}, "env.extend-keep": ["B", "C*"]},
    {"env": {"set": {"A": "1"}}},
    {"env.keep": []},
    {"net.hosts": {"db": "127.0.0.1"}},
    {"process.rlimits": {"stack": "64M"}},
    {"root.from": "dir:/srv", "root.writable": "memory"},
    {"user.map": "root"},
    {"process.workdir": "sub"},
    {"limits.timeout": False, "require": []},
    {"require": ["pids"], "limits.pids": 3},
    overrides_from(parser().parse_args(["-e", "A=1", "-e", "B", "-v", "/usr:/y:ro", "--memory", "1G"])),
]

WRONG: list[dict[str, Any]] = [
    {"limits.memory": "77Q"},
    {"limits.foo": 1},
    {"mounts": {"/x": "rx"}},
    {"mounts": {"/nope": False}},
    {"mounts": {"/x": {"mode": "tmpfs", "source": "/y"}}},
    {"root.size": "1M"},
    {"require": ["memory"], "limits.memory": False},
    {"root.layers": ["/a"]},
    {"schema": 2},
]


@pytest.fixture(autouse=True)
def home(tmp_home: Path) -> Path:
    return tmp_home


@pytest.mark.parametrize("overrides", OVERRIDES, ids=repr)
@pytest.mark.parametrize("name", BUILT_IN)
def test_the_same_as_when_it_is_loaded(name: str, overrides: dict[str, Any]) -> None:
    assert adjust(load(name), overrides) == load(name, overrides)


@pytest.mark.parametrize("overrides", WRONG, ids=repr)
def test_the_same_errors(overrides: dict[str, Any]) -> None:
    messages = []
    for change in (lambda: adjust(load("default"), overrides), lambda: load("default", overrides)):
        with pytest.raises((ProfileError, NotAvailableError)) as caught:
            change()
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_what_is_inherited_can_be_taken_away() -> None:
    for overrides in ({"mounts": {".": False}}, {'mounts."."': False}):
        assert adjust(load("default"), overrides) == load("default", overrides)


def test_nothing_changes_nothing() -> None:
    for name in BUILT_IN:
        assert adjust(load(name), {}) == load(name)


def test_a_projects_paths_stay_hostile_and_where_they_start(project: Callable[..., Path]) -> None:
    directory = project('[mounts]\n"sub" = "ro"\n".git" = "hide"\n', cwd="sub")
    loaded = load(None)
    adjusted = adjust(loaded, {"mounts": {"/x": "tmpfs"}, "process.nice": 1})
    assert adjusted == load(None, {"mounts": {"/x": "tmpfs"}, "process.nice": 1})
    for before in loaded.mounts:
        [after] = [each for each in adjusted.mounts if each.destination == before.destination]
        assert after == before
        key = f'mounts."{before.destination}"'
        assert adjusted.origins[key] == loaded.origins[key]
    assert adjusted.origins['mounts."sub"'].hostile
    assert {mount.base for mount in adjusted.mounts} == {str(directory), None}
    # What the caller says of a project's relative mount is another place, as for a name.
    twice = {"mounts": {"sub": "tmpfs"}}
    assert adjust(loaded, twice) == load(None, twice)


def test_profiles_made_by_hand() -> None:
    made = Profile(name="mine", mounts=(Mount("/x", "ro", source="/usr"),), limits=Limits(pids=3))
    adjusted = adjust(made, {"mounts": {"/y": "tmpfs"}, "limits.files": 99})
    assert [mount.destination for mount in adjusted.mounts] == ["/x", "/y"]
    assert (adjusted.limits.pids, adjusted.limits.files, adjusted.name) == (3, 99, "mine")
    with pytest.raises(ProfileError, match="pids"):
        adjust(dataclasses.replace(made, limits=Limits(pids=-1)), {"limits.files": 99})
