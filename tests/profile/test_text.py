"""sandbox.profile.text: profiles as TOML, new files, the list."""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st

from sandbox import paths
from sandbox.errors import NotAvailableError, ProfileError, SandboxError
from sandbox.profile import Profile, check, from_dict, load, new, profiles, show, to_dict
from sandbox.profile.model import Limits, Mount, Net, Process
from sandbox.profile.text import toml_value
from tests.profile.toml_texts import KEYS, VALUES

Write = Callable[..., Path]
NOTHING: Any = MappingProxyType({})


def bare(profile: Profile) -> Profile:
    """Without what a text can't hold."""
    return replace(profile, name="", files=(), looked=(), origins=NOTHING)


RICH = {
    "description": 'say "hi"\n\ttwice',
    "command": ["a", ""],
    "require": ["pids"],
    "root": {"from": "dir:~/r", "writable": "memory", "size": 12345},
    "mounts": {
        "/a b": "ro",
        "~": {"source": "~/x", "mode": "overlay", "size": "1M"},
        ".": {"mode": "rw", "optional": True},
    },
    "user": {"map": "5:6", "ids": "range"},
    "limits": {
        "memory": "1.5G",
        "pids": 5,
        "timeout": 0.1234567,
        "cpu_time": "1h1m1s",
        "core": 0,
        "enforce": "kernel",
    },
    "net": {"mode": "host", "hosts": {"a.b": "::1"}},
    "env": {"keep": ["A", "LC_*"], "set": {"a b": "é", "Q": '"\\'}},
    "process": {
        "rlimits": {"stack": ["8M", "unlimited"]},
        "umask": "027",
        "capabilities": [],
        "nested": True,
        "nice": -3,
    },
}


@pytest.mark.parametrize("origins", [True, False])
@pytest.mark.parametrize(
    "data", [{}, RICH, *({"extends": name} for name in ("default", "untrusted", "dev", "build"))]
)
def test_what_is_shown_can_be_read_again(data: dict[str, Any], origins: bool, tmp_home: Path) -> None:
    profile = from_dict(data)
    text = show(profile, origins=origins)
    assert bare(from_dict(tomli.loads(text))) == bare(profile)
    assert bare(from_dict(to_dict(profile))) == bare(profile)


def test_origins_are_shown(own_profile: Write) -> None:
    path = own_profile("x", 'extends = "base"\n[mounts]\n"/a" = "tmpfs"\n[env]\nset.A = "1"')
    lines = show(load("x", {"limits.files": 64})).splitlines()
    found = {line.split(" =")[0]: line.split("# ")[1] for line in lines if " # " in line}
    assert found['"/a"'] == f"{path}:3"
    assert found["set.A"] == f"{path}:5"
    assert found["core"].startswith("base.toml:")
    assert found["core"].endswith(" (built-in)")
    assert found["files"] == "argument files"
    assert found["schema"] == "built-in default"


def test_paths_of_a_project_come_out_absolute(project: Write) -> None:
    directory = project('mounts.sub = { source = "sub", mode = "ro" }')
    assert to_dict(load(None))["mounts"][f"{directory}/sub"] == {"source": f"{directory}/sub", "mode": "ro"}


@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_values_are_toml(data: dict[str, Any]) -> None:
    assert tomli.loads(f"value = {toml_value(data)}")["value"] == data


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_any_text_is_toml(text: str) -> None:
    written = toml_value(text)
    assert tomli.loads(f"value = {written}")["value"] == text
    assert written.isprintable()


def test_check_of_profiles_made_by_hand(tmp_home: Path) -> None:
    profile = load("default")
    profile.check()
    for wrong in (
        replace(profile, limits=Limits(pids=-1)),
        replace(profile, limits=Limits(memory=5)),
        replace(profile, net=Net(mode="host", publish=("80:80",))),
        replace(profile, process=Process(hostname="a b")),
        replace(profile, mounts=(Mount("/", "ro"),)),
        replace(profile, mounts=(Mount("/a", "ro", size=5000),)),
        replace(profile, mounts=(Mount("/a", "ro"), Mount("/a/", "rw"))),
        replace(profile, process=Process(rlimits={"nofile": (5, 1)})),
        replace(profile, process=Process(capabilities=("NOPE",))),
        replace(profile, require=("memory",)),
    ):
        with pytest.raises(ProfileError):
            wrong.check()
    with pytest.raises(NotAvailableError):
        replace(profile, process=Process(init=False)).check()


def test_check_by_name(project: Write) -> None:
    assert check("untrusted").name == "untrusted"
    project("limits.pids = 3")
    assert check().limits.pids == 3
    project("memroy = 3")
    with pytest.raises(ProfileError, match=r"^sandbox\.toml:1:1: "):
        check()


# --- list ------------------------------------------------------------------------------------------------


def test_list(own_profile: Write, project: Write) -> None:
    own = own_profile("default", 'description = "mine"\nextends = "default"')
    own_profile("broken", "memroy = 1")
    own_profile("not a name", "")
    directory = project('description = "theirs"')
    found = {(each.kind, each.name): each for each in profiles()}
    assert [each.name for each in profiles()] == [
        "",
        "base",
        "broken",
        "build",
        "default",
        "default",
        "dev",
        "test",
        "untrusted",
    ]
    assert found["project", ""].description == "theirs"
    assert found["project", ""].file == str(directory / "sandbox.toml")
    assert (found["user", "default"].description, found["user", "default"].file) == ("mine", str(own))
    assert not found["user", "default"].hidden
    assert found["built-in", "default"].hidden
    assert 'unknown key "memroy"' in found["user", "broken"].error
    assert all(each.description for each in profiles() if each.kind == "built-in")


def test_list_with_a_project_that_cannot_be_used(project: Write) -> None:
    project('net.mode = "host"')
    assert "would widen" in profiles()[0].error
    project("= 1")
    assert profiles()[0].error.startswith("sandbox.toml:1:1: ")


# --- new files ---------------------------------------------------------------------------------------------


def test_new_project(project: Write) -> None:
    directory = project("")
    (directory / "sandbox.toml").unlink()
    path = new()
    assert path == str(directory / "sandbox.toml")
    text = Path(path).read_text()
    assert text.startswith(f"#:schema {paths.configs()}/profile.schema.json\n")
    assert load(None).mounts == load("default").mounts
    with pytest.raises(SandboxError, match="exists already"):
        new()
    assert Path(path).read_text() == text


def test_all_that_is_commented_out_is_right(tmp_home: Path) -> None:
    """What somebody gets by taking the comment signs away."""
    path = Path(new("mine", extends="untrusted"))
    assert path == tmp_home / ".config/sandbox/profiles/mine.toml"
    assert stat.S_IMODE(path.parent.stat().st_mode) & 0o077 == 0 or path.parent.stat().st_mode & 0o022 == 0
    assert load("mine").limits.pids == 64
    lines = path.read_text().splitlines()
    keys = [line[2:] if line.startswith("# ") and " = " in line else line for line in lines]
    assert keys != lines
    path.write_text("\n".join(keys))
    assert load("mine").limits.memory == 1 << 30


def test_new_by_path(tmp_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_home)
    assert new("sub/x y.toml") == f"{tmp_home}/sub/x y.toml"
    assert "sandbox profile check 'sub/x y.toml'" in (tmp_home / "sub/x y.toml").read_text()
    assert new("~/z.toml") == f"{tmp_home}/z.toml"
    (tmp_home / "link.toml").symlink_to("nothing")
    with pytest.raises(SandboxError, match="exists already"):
        new("./link.toml")
    with pytest.raises(SandboxError, match=r"cannot write|exists"):
        new("z.toml/x.toml")
    for name in ("", ".", "a b", "-x"):
        with pytest.raises(ProfileError, match="not the name"):
            new(name)
    with pytest.raises(ProfileError, match='no profile "nope"'):
        new("other", extends="nope")
    assert not (tmp_home / ".config/sandbox/profiles/other.toml").exists()


def test_what_is_set_to_its_default_is_shown_too(own_profile: Write) -> None:
    path = own_profile("x", 'extends = "base"\n[process]\ninit = true\n[net]\ndns = []\n')
    lines = show(load("x", {"user.map": "keep"})).splitlines()
    found = {line.split(" #")[0].strip(): line.split("# ")[1] for line in lines if " # " in line}
    assert found["init = true"] == f"{path}:3"
    assert found["dns = []"] == f"{path}:5"
    assert found['map = "keep"'] == "argument user"
    for each in ('from = "host"', 'mode = "none"'):
        assert found[each].startswith("base.toml:")
    assert not any(line.startswith(("seccomp", "umask", "backend")) for line in lines)  # nobody set these


def test_origins_of_a_projects_mounts_are_shown(project: Write) -> None:
    directory = project('mounts.sub = "ro"')
    assert f'"{directory}/sub" = "ro"' in show(load(None))
    assert "# sandbox.toml:1" in show(load(None))
