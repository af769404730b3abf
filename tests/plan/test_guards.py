"""What is found that must not be written, replaced or seen."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from sandbox.errors import ProfileError, SetupError
from sandbox.plan import files
from sandbox.plan.invocation import Invocation
from sandbox.profile.model import Mount, Root
from tests.plan.making import Resolve


def guarded(invocation: Invocation) -> dict[str, str]:
    return {guard.path: guard.what for guard in invocation.guards}


def test_nothing_is_guarded_or_made_without_a_writable_mount(resolve: Resolve, home: Path) -> None:
    assert resolve(Mount(".", "ro"), Mount("~", "overlay")).guards == ()
    assert sorted(path.name for path in home.iterdir()) == ["project"]


def test_our_directories_are_made_where_they_could_be_planted(resolve: Resolve, home: Path) -> None:
    invocation = resolve(Mount("~", "rw"))
    made = [".config/sandbox", ".cache/sandbox", ".local/state/sandbox", ".local/share/sandbox"]
    assert {str(home / name) for name in made} <= set(guarded(invocation))
    for name in made:
        for each in (home / name, (home / name).parent):
            assert each.stat().st_mode & 0o7777 == 0o700
    assert all(stamp.current() for stamp in invocation.files)


def test_other_names_of_the_same_directory(
    resolve: Resolve, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the host has mounted /data/home on /home, too: here told by a made-up identity."""
    alias = home.parent / "alias"
    (alias / "sub").mkdir(parents=True)
    (home.parent / "installed" / "sub").mkdir()
    real = files.identity
    names = {str(alias): "home", str(alias / "sub"): "installed/sub"}
    monkeypatch.setattr(
        sys.modules["sandbox.plan.guards"],
        "identity",
        lambda path: real(str(home.parent / names[path]) if path in names else path),
    )
    found = guarded(resolve(Mount("/x", "rw", source=str(alias))))
    assert f"{alias}/.config/sandbox" in found and f"{home}/.config/sandbox" in found
    names[str(alias)] = "installed"
    assert str(alias) in guarded(resolve(Mount("/x", "rw", source=f"{alias}/sub")))


def test_our_directories_are_not_made_elsewhere(resolve: Resolve, home: Path) -> None:
    resolve(Mount(".", "rw"))
    assert sorted(path.name for path in home.iterdir()) == ["project"]


def test_our_directories_can_not_be_made(resolve: Resolve, home: Path) -> None:
    (home / ".local").touch()
    with pytest.raises(SetupError, match=r"cannot make .*and the command could") as caught:
        resolve(Mount("~", "rw"))
    assert caught.value.mend


@pytest.mark.parametrize("link", [".config", ".config/sandbox"])
def test_a_link_to_ours_can_not_be_protected(resolve: Resolve, home: Path, link: str) -> None:
    (home / "dotfiles" / "sandbox").mkdir(parents=True)
    (home / link).parent.mkdir(exist_ok=True)
    (home / link).symlink_to(home / "dotfiles" / ("sandbox" if "/" in link else "."))
    with pytest.raises(ProfileError, match="reached through the symbolic link") as caught:
        resolve(Mount("~", "rw"))
    assert caught.value.mend


def test_the_profile_and_the_installation_are_guarded(resolve: Resolve, project: Path) -> None:
    (project / "sandbox.toml").touch()
    found = guarded(resolve(Mount(".", "rw"), files=(str(project / "sandbox.toml"),)))
    assert found[str(project / "sandbox.toml")] == "the profile"
    assert "where sandbox is installed" in found.values()


def test_hidden_paths_are_known_by_their_real_names(resolve: Resolve, home: Path) -> None:
    (home / "real").mkdir()
    (home / ".ssh").symlink_to("real")
    invocation = resolve(Mount("~", "overlay"), Mount("~/.ssh", "hide"))
    assert str(home / "real") in {guard.path for guard in invocation.hidden}


def test_what_is_to_be_hidden_but_missing_could_be_made(resolve: Resolve, home: Path) -> None:
    with pytest.raises(ProfileError, match=r"is to be hidden but does not exist") as caught:
        resolve(Mount("~", "rw"), Mount("~/.ssh", "hide"))
    assert caught.value.mend and f"mkdir -m 700 {home}/.ssh" in caught.value.mend
    resolve(Mount("~", "rw"), Mount("~/.ssh", "hide", optional=True))
    resolve(Mount("~", "ro"), Mount("~/.ssh", "hide"))


def test_runtime_directories_are_hidden(
    resolve: Resolve, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "runtime").mkdir()
    (home / "agent").touch()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home / "runtime"))
    monkeypatch.setenv("SSH_AUTH_SOCK", str(home / "agent"))
    found = {guard.path for guard in resolve().hidden}
    assert {"/run", "/proc", str(home / "runtime"), str(home / "agent")} <= found


def test_runtime_directories_that_come_later_make_a_plan_stale(
    resolve: Resolve, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", str(home / "later"))
    invocation = resolve()
    assert str(home / "later") not in {guard.path for guard in invocation.hidden}
    (home / "later").touch()
    assert not all(stamp.current() for stamp in invocation.files)


def test_what_sandbox_keeps_of_runs_is_hidden(resolve: Resolve, home: Path) -> None:
    """A cached plan holds the values of variables; the state directory what other sandboxes wrote."""
    found = {guard.path for guard in resolve(Mount("~", "ro")).hidden}
    assert {str(home / name / "sandbox") for name in (".cache", ".local/state", ".local/share")} <= found


@pytest.mark.skipif(os.geteuid() == 0, reason="root can look everywhere")
def test_a_closed_directory_is_an_error_with_its_mend(resolve: Resolve, home: Path) -> None:
    closed = home / ".config"
    (closed / "gh").mkdir(parents=True)
    closed.chmod(0)
    try:
        for mount in (
            Mount("~/.config/gh", "hide", optional=True),
            Mount("~/.config/gh", "ro"),
            Mount("/x", "ro", source="~/.config/gh"),
        ):
            with pytest.raises(
                ProfileError, match=r"^p\.toml:9: cannot look at .*Permission denied"
            ) as caught:
                resolve(Mount("~", "overlay"), mount)
            assert caught.value.mend
            assert caught.value.mend.startswith(f"chmod u+rx {closed}")
            assert f'"{mount.destination}" = false' in caught.value.mend
        with pytest.raises(ProfileError, match="cannot look at the root") as caught:
            resolve(root=Root(f"dir:{closed}/gh"))
        assert caught.value.mend == f"chmod u+rx {closed}"
    finally:
        closed.chmod(0o700)


@pytest.mark.skipif(os.geteuid() == 0, reason="root can look everywhere")
def test_what_another_user_keeps_closed_needs_no_look(
    resolve: Resolve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/root/agent/socket")
    hidden = {guard.path for guard in resolve(Mount("/root/.ssh", "hide")).hidden}
    assert {"/root/.ssh", "/root/agent/socket"} <= hidden
