"""sandbox.profile.loader: lookup, extends, overrides, and which project files count."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox import paths
from sandbox.errors import NotAvailableError, ProfileError
from sandbox.profile import Given, Profile, from_dict, load
from sandbox.profile.loader import READ, quote_key, split_key
from sandbox.profile.model import Mount, Origin

Write = Callable[..., Path]
BUILT_IN = ("base", "build", "default", "dev", "test", "untrusted")


# --- lookup ------------------------------------------------------------------------------------------


def test_without_a_name_the_default_is_taken(tmp_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_home / "x").mkdir()
    monkeypatch.chdir(tmp_home / "x")
    assert load(None).name == "default"
    assert load(None).mounts == (Mount(".", "rw"),)


def test_a_users_profile_comes_before_a_built_in_one(own_profile: Write) -> None:
    path = own_profile("untrusted", "limits.pids = 3")
    found = load("untrusted")
    assert (found.limits.pids, found.limits.memory) == (3, None)
    assert found.files == (str(path),)
    assert str(found.origins["limits.pids"]) == f"{path}:1"


@pytest.mark.skipif(os.geteuid() == 0, reason="root can look everywhere")
def test_a_users_profile_that_can_not_be_looked_for(own_profile: Write, tmp_home: Path) -> None:
    """The built-in one of that name may grant more."""
    own_profile("untrusted", "limits.pids = 3")
    (tmp_home / ".config").chmod(0)
    try:
        with pytest.raises(ProfileError, match=r"cannot look for the profile .*Permission denied") as caught:
            load("untrusted")
    finally:
        (tmp_home / ".config").chmod(0o700)
    assert caught.value.mend == f"chmod u+rx {tmp_home}/.config"


@pytest.mark.skipif(os.geteuid() == 0, reason="root can look everywhere")
def test_another_users_profiles_are_none(tmp_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/root/.config")  # as after sudo(8)
    assert load("untrusted").limits.pids == 64


def test_a_users_profile_may_extend_its_own_name(own_profile: Write) -> None:
    own_profile("untrusted", 'extends = "untrusted"\nlimits.pids = 3')
    found = load("untrusted")
    assert (found.limits.pids, found.limits.memory) == (3, 512 << 20)
    assert found.process.seccomp == "strict"


def test_a_users_default_is_the_default(own_profile: Write, project: Write) -> None:
    own_profile("default", 'extends = "untrusted"\nlimits.pids = 3')
    project("", "pyproject.toml")
    assert load(None).limits.pids == 3
    project("limits.pids = 2")
    assert load(None).process.seccomp == "strict"


@pytest.mark.parametrize("name", ["", ".", "..", "-x", "a b", "a\0b", "ü", "a" * 65, ".x", "\x1b[2J", "a\n"])
def test_names(name: str, tmp_home: Path) -> None:
    with pytest.raises(ProfileError, match="not the name of a profile") as caught:
        load(name)
    assert "\x1b" not in str(caught.value)
    assert "\0" not in str(caught.value)


def test_unknown_names(tmp_home: Path, own_profile: Write) -> None:
    own_profile("work", "")
    with pytest.raises(ProfileError, match='no profile "untrustd"; did you mean "untrusted"'):
        load("untrustd")
    with pytest.raises(ProfileError, match="there are base, build, default, dev, test, untrusted, work"):
        load("zzz")


@pytest.mark.parametrize("name", ["./x.toml", "x.toml", "../work/x.toml", "~/work/x.toml"])
def test_paths(name: str, profile_file: Write) -> None:
    path = profile_file("limits.pids = 3")
    found = load(name)
    assert (found.limits.pids, found.name, found.files) == (3, name, (str(path),))


def test_relative_paths_of_a_file_start_from_the_caller(profile_file: Write) -> None:
    profile_file('mounts.sub = "ro"\nroot.from = "dir:x"')
    found = load("./x.toml", cwd="/usr") if os.path.exists("/usr/x.toml") else load("./x.toml")
    assert found.mounts == (Mount("sub", "ro", base=None),)
    assert found.root.base is None


def test_a_path_that_is_nothing(tmp_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_home)
    with pytest.raises(ProfileError, match=r"there is no profile \./x\.toml"):
        load("./x.toml")
    with pytest.raises(ProfileError, match="not a regular file"):
        load("./")
    os.mkfifo("fifo.toml")
    with pytest.raises(ProfileError, match="not a regular file"):
        load("fifo.toml")
    Path("big.toml").write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(ProfileError, match="larger than 1 MiB"):
        load("big.toml")
    Path("latin.toml").write_bytes(b"a = 1\n# \xe9\n")
    with pytest.raises(ProfileError, match=r"latin\.toml:2: not UTF-8"):
        load("latin.toml")
    with pytest.raises(ProfileError, match="NUL"):
        load("./a\0b.toml")


def test_an_unreadable_file(profile_file: Write) -> None:
    path = profile_file("")
    path.chmod(0)
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    with pytest.raises(ProfileError, match="Permission denied"):
        load("./x.toml")


def test_a_working_directory_that_is_gone(tmp_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_home / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ProfileError, match="no working directory"):
        load("default")
    os.chdir("/")


# --- extends -----------------------------------------------------------------------------------------


def test_several_parents_from_left_to_right(own_profile: Write) -> None:
    own_profile("a", 'limits.pids = 1\nlimits.files = 10\nenv.keep = ["A"]')
    own_profile("b", 'limits.pids = 2\nenv.extend-keep = ["B"]')
    own_profile("c", 'extends = ["a", "b"]\nenv.extend-keep = ["C"]')
    found = load("c")
    assert (found.limits.pids, found.limits.files, found.env.keep) == (2, 10, ("A", "B", "C"))


def test_a_common_ancestor_counts_once(own_profile: Write) -> None:
    own_profile("root", 'limits.pids = 1\nenv.extend-keep = ["R"]')
    own_profile("a", 'extends = "root"\nlimits.pids = 2')
    own_profile("b", 'extends = "root"\nlimits.files = 20')
    own_profile("c", 'extends = ["a", "b"]')
    found = load("c")
    assert (found.limits.pids, found.limits.files, found.env.keep) == (2, 20, ("R",))


def test_circles_are_named(own_profile: Write) -> None:
    own_profile("a", 'extends = "b"')
    own_profile("b", 'extends = ["base", "c"]')
    own_profile("c", 'extends = "a"')
    with pytest.raises(ProfileError, match=r"circle: .*a\.toml → .*b\.toml → .*c\.toml → .*a\.toml"):
        load("a")


def test_depth_has_an_end(own_profile: Write) -> None:
    for number in range(20):
        own_profile(f"p{number}", f'extends = "p{number + 1}"')
    own_profile("p20", "")
    with pytest.raises(ProfileError, match="more than 16 files in a row"):
        load("p0")
    load("p10")


def test_breadth_has_an_end(own_profile: Write) -> None:
    for number in range(70):
        own_profile(f"p{number}", "")
    own_profile("all", f"extends = {[f'p{number}' for number in range(60)]}")
    load("all")
    own_profile("all", f"extends = {[f'p{number}' for number in range(70)]}")
    with pytest.raises(ProfileError, match="more than 64"):
        load("all")
    own_profile("half", f"extends = {[f'p{number}' for number in range(10, 70)]}")
    own_profile("both", f"extends = ['half', {', '.join(repr(f'p{number}') for number in range(10))}]")
    with pytest.raises(ProfileError, match="more than"):
        load("both")


def test_a_file_extends_files_from_its_own_directory(profile_file: Write, own_profile: Write) -> None:
    own_profile("one", 'extends = "./more/two.toml"')
    two = own_profile("more/two", "limits.pids = 4")
    assert load("one").limits.pids == 4
    assert str(two) in load("one").files


def test_an_error_in_a_parent_is_shown_there(own_profile: Write) -> None:
    parent = own_profile("parent", "\nlimits.pids = 0")
    own_profile("child", 'extends = "parent"')
    with pytest.raises(ProfileError) as caught:
        load("child")
    assert caught.value.message.startswith(f"{parent}:2:15: ")


# --- overrides -----------------------------------------------------------------------------------------


def test_overrides_go_over_the_profile(tmp_home: Path) -> None:
    found = load(
        "untrusted",
        {
            "limits.pids": 5,
            "limits.memory": "64M",
            "net.mode": Given("host", Origin("option --net")),
            "require": [],
            "env.extend-keep": ["X"],
            'env.set."A.B"': "1",
            "env.set": {"C": "2"},
            "mounts": {"/m": "tmpfs"},
            'mounts."/n"': {"mode": "ro", "source": "x"},
            "process": {"nice": 3},
        },
    )
    assert (found.limits.pids, found.limits.memory, found.net.mode, found.require) == (
        5,
        64 << 20,
        "host",
        (),
    )
    assert found.env.keep[-1] == "X"
    assert found.env.set == {"A.B": "1", "C": "2"}
    assert found.mounts[1:] == (Mount("/m", "tmpfs"), Mount("/n", "ro", "x"))
    origins = {key: str(found.origins[key]) for key in ("limits.pids", "net.mode", "require", "process.nice")}
    assert origins == {
        "limits.pids": "argument pids",
        "net.mode": "option --net",
        "require": "argument require",
        "process.nice": "argument process",
    }
    assert str(found.origins['mounts."/n"']) == "argument /n"


def test_arguments_are_called_as_the_api_calls_them(tmp_home: Path) -> None:
    for key, name in (
        ("net.mode", "net"),
        ("root.from", "root"),
        ("user.map", "user"),
        ("limits.pids", "pids"),
    ):
        with pytest.raises(ProfileError, match=f"^argument {name}: "):
            load("default", {key: "no such thing"})


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        ({"limits.memroy": "1M"}, 'unknown key "memroy" in [limits]; did you mean "memory"?'),
        ({"memory": "1M"}, "it belongs in [limits]"),
        ({"limits.pids": "x"}, "must be a whole number"),
        ({"limits.pids": 1, "limits": {"pids": 2}}, "set twice"),
        ({"limits": 5, "limits.pids": 1}, "set twice"),
        ({"limits..pids": 1}, "is not a key"),
        ({"": 1}, "is not a key"),
        ({'mounts."/a': "ro"}, "is not a key"),
        ({"mounts": {1: "ro"}}, "key"),
        ({"limits.memory": object()}, "must be a size"),
        ({"limits": {"memory": b"1M"}}, "must be a size"),
        ({"mounts": {"/a": {"mode": "ro", 5: 6}}}, "key"),
    ],
)
def test_wrong_overrides(overrides: dict[str, object], part: str, tmp_home: Path) -> None:
    with pytest.raises(ProfileError) as caught:
        load("default", overrides)
    assert part in caught.value.message


def test_overrides_are_checked_with_the_rest(tmp_home: Path) -> None:
    with pytest.raises(NotAvailableError, match=r"^option --init: "):
        load("default", {"process.init": Given(False, Origin("option --init"))})


def test_files_of_overrides_are_remembered(tmp_home: Path) -> None:
    assert "/some/file.env" in load("default", {READ: ["/some/file.env"]}).files


@pytest.mark.parametrize(
    "parts", [("a",), ("a", "b"), ("mounts", "/a.b"), ("env", "set", 'a"\\b'), ("a", "", "b")]
)
def test_keys_can_be_split(parts: tuple[str, ...]) -> None:
    assert split_key(".".join(map(quote_key, parts))) == parts


# --- from_dict -----------------------------------------------------------------------------------------


def test_from_dict(tmp_home: Path) -> None:
    data = {"extends": "base", "limits": {"pids": 7}, "mounts": {"/a": "tmpfs"}}
    found = from_dict(data)
    assert (found.limits.pids, found.limits.core, found.mounts) == (7, 0, (Mount("/a", "tmpfs"),))
    assert str(found.origins["limits.pids"]) == "from_dict"
    assert Profile.from_dict(data) == found
    assert from_dict({}).limits.pids is None
    with pytest.raises(ProfileError, match=r"from_dict: unknown key"):
        from_dict({"memroy": 1})


def test_methods_of_the_model(tmp_home: Path) -> None:
    assert Profile.load("test", overrides={"limits.pids": 7}).limits.pids == 7
    load("dev").check()


# --- projects ------------------------------------------------------------------------------------------


def test_the_nearest_project_counts(project: Write, tmp_home: Path) -> None:
    directory = project("limits.pids = 5")
    (directory / "sub/sandbox.toml").write_text("limits.pids = 6")
    (directory / "sub/deeper").mkdir()
    assert load(None).limits.pids == 5
    assert load(None, cwd=str(directory / "sub/deeper")).limits.pids == 6
    assert load(None, cwd="sub").limits.pids == 6
    assert load("default").limits.pids == 4096


def test_a_table_of_pyproject(project: Write) -> None:
    project("[project]\nname = 'x'", "pyproject.toml")
    assert load(None).name == "default"
    project("[tool.sandbox.limits]\npids = 5", "pyproject.toml")
    found = load(None)
    assert found.limits.pids == 5
    assert str(found.origins["limits.pids"]) == "pyproject.toml:2"
    project("limits.pids = 6")
    assert load(None).limits.pids == 6


def test_errors_in_pyproject(project: Write) -> None:
    project("[tool.sandbox]\nmemroy = 1", "pyproject.toml")
    with pytest.raises(ProfileError, match=r"^pyproject\.toml:2:1: unknown key"):
        load(None)
    project("[tool]\nsandbox = 5", "pyproject.toml")
    with pytest.raises(ProfileError, match=r"^pyproject\.toml:2:11: \[tool\.sandbox\] must be a table"):
        load(None)
    project("[tool.sandbox\n", "pyproject.toml")
    with pytest.raises(ProfileError, match=r"^pyproject\.toml:1:14: "):
        load(None)
    # Not about us: somebody else's problem.
    project("[tool.black\n", "pyproject.toml")
    assert load(None).name == "default"


def test_home_and_above_are_no_projects(tmp_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_home / "sandbox.toml").write_text("limits.pids = 5")
    (tmp_home.parent / "sandbox.toml").write_text("limits.pids = 5")
    (tmp_home / "x").mkdir()
    for directory in (tmp_home, tmp_home / "x"):
        monkeypatch.chdir(directory)
        assert load(None).limits.pids == 4096


def test_what_was_looked_for_is_remembered(project: Write, tmp_home: Path) -> None:
    directory = project("limits.pids = 5", cwd="sub")
    found = load(None)
    expected = {directory / "sub/sandbox.toml", directory / "sub/pyproject.toml", directory / "sandbox.toml"}
    expected |= {tmp_home / ".config/sandbox/profiles/default.toml"}
    assert set(map(str, expected)) <= set(found.looked)
    assert any(path.startswith(f"{tmp_home}/.local/state/sandbox/trust/") for path in found.looked)
    assert set(found.files) == {str(directory / "sandbox.toml")} | {
        os.path.join(os.path.realpath(paths.configs()), name) for name in ("base.toml", "default.toml")
    }


def test_a_link_out_of_the_project_is_refused(project: Write, tmp_home: Path) -> None:
    directory = project("")
    (tmp_home / "elsewhere.toml").write_text("limits.pids = 5")
    file = directory / "sandbox.toml"
    for target in ("../elsewhere.toml", str(tmp_home / "elsewhere.toml"), "/dev/zero", "../missing"):
        file.unlink()
        file.symlink_to(target)
        with pytest.raises(ProfileError, match="leads out of the project"):
            load(None)
    file.unlink()
    (directory / "sub/real.toml").write_text("limits.pids = 5")
    file.symlink_to("sub/real.toml")
    assert load(None).limits.pids == 5
    file.unlink()
    file.symlink_to("sandbox.toml")
    with pytest.raises(ProfileError):
        load(None)


def test_what_is_no_file_is_refused(project: Write) -> None:
    directory = project("")
    (directory / "sandbox.toml").unlink()
    os.mkfifo(directory / "sandbox.toml")
    with pytest.raises(ProfileError, match="not a regular file"):
        load(None)
    (directory / "sandbox.toml").unlink()
    (directory / "sandbox.toml").mkdir()
    with pytest.raises(ProfileError, match="not a regular file"):
        load(None)
    (directory / "sandbox.toml").rmdir()
    (directory / "sandbox.toml").write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(ProfileError, match="larger than 1 MiB"):
        load(None)


@pytest.mark.as_root
def test_another_users_file_is_refused(project: Write) -> None:
    directory = project("limits.pids = 5")
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(directory / "sandbox.toml", 12345, 12345)
    with pytest.raises(ProfileError, match="belongs to another user") as caught:
        load(None)
    assert "-p default" in str(caught.value.mend)


def test_another_users_file_is_refused_by_its_owner(project: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    project("limits.pids = 5")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    if os.getuid() == 0:
        assert load(None).limits.pids == 5  # root's own files count for everybody
    else:
        with pytest.raises(ProfileError, match="belongs to another user"):
            load(None)


def test_a_project_names_no_files_elsewhere(project: Write, tmp_home: Path) -> None:
    (tmp_home / "x.toml").write_text("")
    for name in ("../x.toml", f"{tmp_home}/x.toml", "~/x.toml", "sub/../../x.toml", "/etc/passwd.toml", "/"):
        project(f'extends = "{name}"')
        with pytest.raises(ProfileError, match="only extend profiles by name"):
            load(None)
    directory = project('extends = "./sub/link.toml"')
    (directory / "sub/link.toml").symlink_to(tmp_home / "x.toml")
    with pytest.raises(ProfileError, match="leads out of the project"):
        load(None)


def test_a_project_defines_no_names(project: Write, tmp_home: Path) -> None:
    directory = project('extends = "mine"')
    (directory / "mine.toml").write_text("")
    (directory / "profiles").mkdir()
    (directory / "profiles/mine.toml").write_text("")
    with pytest.raises(ProfileError, match='no profile "mine"'):
        load(None)


def test_a_project_extends_files_of_its_own(project: Write) -> None:
    directory = project('extends = ["untrusted", "./sub/ci.toml"]\nlimits.pids = 5')
    (directory / "sub/ci.toml").write_text("limits.pids = 6\nlimits.files = 60")
    found = load(None)
    assert (found.limits.pids, found.limits.files, found.limits.memory) == (5, 60, 512 << 20)
    assert str(directory / "sub/ci.toml") in found.files


def test_paths_of_a_project_start_from_its_directory(project: Write) -> None:
    directory = project('mounts.sub = "ro"\nprocess.workdir = "sub"')
    found = load(None)
    assert found.mounts[1] == Mount("sub", "ro", base=str(directory))
    assert found.process.workdir == f"{directory}/sub"
    assert found.origins['mounts."sub"'].hostile


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_caller_may_be_anywhere(name: str, tmp_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert load(name).name == name
