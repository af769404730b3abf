"""resolve: what it gathers from real files, and what it refuses."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from sandbox import paths
from sandbox.errors import ProfileError, SetupError, TrustError
from sandbox.plan import Invocation, files
from sandbox.plan.resolve import is_below
from sandbox.profile.model import Environment, Mount, MountMode, Net, Origin, Profile, Root
from tests.plan.making import resolved


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with nothing in it, whose XDG directories do not exist yet, beside an installation."""
    real = Path(os.path.realpath(tmp_path))
    directory = real / "home"
    directory.mkdir()
    for name in ("CONFIG", "CACHE", "DATA", "STATE"):
        monkeypatch.delenv(f"XDG_{name}_HOME", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setenv("HOME", str(directory))
    monkeypatch.setattr(paths, "installation", lambda: (str(real / "installed"),))
    (real / "installed").mkdir()
    return directory


@pytest.fixture
def project(home: Path) -> Path:
    directory = home / "project"
    directory.mkdir()
    return directory


Resolve = Callable[..., Invocation]


@pytest.fixture
def resolve(project: Path) -> Resolve:
    def call(*mounts: Mount, cwd: Path = project, root: Root | None = None, **more: object) -> Invocation:
        origins = more.pop(
            "origins", {f'mounts."{each.destination}"': Origin("p.toml", 9) for each in mounts}
        )
        profile = Profile(mounts=mounts, root=root or Root(), origins=origins, **more)  # type: ignore[arg-type]
        return resolved(profile, str(cwd))

    return call


def destinations(invocation: Invocation) -> dict[str, str]:
    return {place.destination: place.source for place in invocation.places}


def test_the_working_directory_is_its_real_path(resolve: Resolve, project: Path, home: Path) -> None:
    (home / "link").symlink_to("project")
    invocation = resolve(Mount(".", "rw"), cwd=home / "link")
    assert invocation.cwd == str(project)
    assert destinations(invocation) == {str(project): str(project)}
    assert str(home / "link") in {stamp.path for stamp in invocation.files}


def test_a_working_directory_that_is_gone(resolve: Resolve, home: Path) -> None:
    with pytest.raises(SetupError, match=r"working directory .*gone: No such file"):
        resolve(cwd=home / "gone")


def test_relative_paths_start_at_their_base(resolve: Resolve, project: Path, home: Path) -> None:
    (home / "other" / "data").mkdir(parents=True)
    (project / "data").mkdir()
    one = resolve(Mount("/data", "ro", source="data"))
    other = resolve(Mount("/data", "ro", source="data", base=str(home / "other")))
    assert destinations(one) == {"/data": str(project / "data")}
    assert destinations(other) == {"/data": str(home / "other" / "data")}


def test_tilde_is_the_home_as_written(resolve: Resolve, home: Path) -> None:
    (home / "data").mkdir()
    assert destinations(resolve(Mount("~/data", "ro"))) == {str(home / "data"): str(home / "data")}


def test_sources_are_followed_to_their_end(resolve: Resolve, home: Path) -> None:
    (home / "real").mkdir()
    (home / "one").symlink_to("two")
    (home / "two").symlink_to(home / "real")
    invocation = resolve(Mount("/x", "ro", source="~/one"))
    assert destinations(invocation) == {"/x": str(home / "real")}
    assert {str(home / "one"), str(home / "two"), str(home / "real")} <= {s.path for s in invocation.files}
    assert all(stamp.current() for stamp in invocation.files)
    (home / "two").unlink()
    (home / "two").symlink_to(home)
    assert not all(stamp.current() for stamp in invocation.files)


def test_a_missing_source_is_an_error_with_its_line(resolve: Resolve, home: Path) -> None:
    with pytest.raises(ProfileError, match=r"^p\.toml:9: the mount source .*/gone does not exist") as caught:
        resolve(Mount("/x", "ro", source="~/gone"))
    assert caught.value.mend and f"mkdir -p {home}/gone" in caught.value.mend


def test_a_missing_optional_source_is_left_out_and_watched(resolve: Resolve, home: Path) -> None:
    invocation = resolve(Mount("/x", "ro", source="~/gone", optional=True))
    assert invocation.places == ()
    [stamp] = [stamp for stamp in invocation.files if stamp.path == f"{home}/gone"]
    assert stamp.inode == 0 and stamp.current()
    (home / "gone").mkdir()
    assert not stamp.current()


def test_a_loop_of_links(resolve: Resolve, home: Path) -> None:
    (home / "a").symlink_to("b")
    (home / "b").symlink_to("a")
    with pytest.raises(ProfileError, match="Too many levels of symbolic links"):
        resolve(Mount("/x", "ro", source="~/a"))


def test_files_and_sockets_are_told_from_directories(resolve: Resolve, project: Path) -> None:
    import socket

    (project / "f").touch()
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(project)
        server.bind("s")
        invocation = resolve(
            Mount("/f", "ro", source="f"), Mount("/s", "rw", source="s"), Mount("/d", "ro", source=".")
        )
    kinds = {place.destination: (place.directory, place.socket) for place in invocation.places}
    assert kinds == {"/f": (False, False), "/s": (False, True), "/d": (True, False)}


@pytest.mark.parametrize(
    "destination", ["/", "/dev", "/proc", "/proc/sys", "/dev/null", "/dev/pts", "/proc/1/x", "//"]
)
def test_reserved_destinations(resolve: Resolve, destination: str) -> None:
    with pytest.raises(ProfileError, match="a mount can't replace"):
        resolve(Mount(destination, "tmpfs"))


def test_the_hosts_proc_is_no_source(resolve: Resolve) -> None:
    with pytest.raises(ProfileError, match="show the processes of the host"):
        resolve(Mount("/x", "ro", source="/proc"))


def test_the_same_destination_twice(resolve: Resolve, project: Path) -> None:
    with pytest.raises(ProfileError, match="two mounts on"):
        resolve(Mount(".", "rw"), Mount(str(project), "ro"))


# --- what may not be given away ------------------------------------------------------------------


@pytest.mark.parametrize("mount", [Mount(".", "rw"), Mount("/work", "rw", source=".")])
def test_a_working_directory_that_holds_the_home(resolve: Resolve, home: Path, mount: Mount) -> None:
    for cwd, what in ((home, "your home"), (home.parent, "above your home"), (Path("/"), "the root of")):
        if mount.destination == "." and cwd == Path("/"):
            continue
        with pytest.raises(ProfileError, match=re.escape(f"the working directory {cwd} is {what}")) as caught:
            resolve(mount, cwd=cwd)
        assert caught.value.mend and "cd to" in caught.value.mend


def test_a_working_directory_at_the_root(resolve: Resolve) -> None:
    with pytest.raises(ProfileError, match="root of the file system") as caught:
        resolve(Mount(".", "ro"), cwd=Path("/"))
    assert caught.value.mend and "cd to" in caught.value.mend


def test_a_home_behind_a_link_is_still_home(
    resolve: Resolve, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home.parent / "link").symlink_to("home")
    monkeypatch.setenv("HOME", str(home.parent / "link"))
    with pytest.raises(ProfileError, match="your home directory"):
        resolve(Mount(".", "rw"), cwd=home)


def test_home_may_be_read_or_written_when_it_is_asked_for(resolve: Resolve, home: Path) -> None:
    assert destinations(resolve(Mount("~", "ro"), cwd=home)) == {str(home): str(home)}
    assert destinations(resolve(Mount("~", "rw"))) == {str(home): str(home)}


@pytest.mark.parametrize("mode", ["ro", "overlay"])
def test_home_is_not_shown_by_accident(resolve: Resolve, home: Path, mode: MountMode) -> None:
    with pytest.raises(ProfileError, match="is your home directory, and would be readable"):
        resolve(Mount(".", mode), cwd=home)


# --- mount points ----------------------------------------------------------------------------------


def test_no_mount_point_is_made_on_the_host(resolve: Resolve, project: Path) -> None:
    with pytest.raises(ProfileError, match="makes nothing") as caught:
        resolve(Mount(".", "rw"), Mount(f"{project}/cache", "tmpfs"))
    assert caught.value.mend == f"mkdir -p {project}/cache"
    assert not (project / "cache").exists()
    with pytest.raises(ProfileError, match="there is no /usr/nowhere to mount on"):
        resolve(Mount("/usr/nowhere", "tmpfs"))


def test_mount_points_that_exist_or_that_are_ours(resolve: Resolve, project: Path, home: Path) -> None:
    (project / "cache").mkdir()
    resolve(Mount(".", "rw"), Mount(f"{project}/cache", "tmpfs"))
    resolve(Mount(".", "overlay"), Mount(f"{project}/other/deep", "tmpfs"))
    resolve(Mount("~", "tmpfs"), Mount("~/x/y", "ro", source="."))
    resolve(Mount(".", "rw"), Mount(f"{project}/cache/inner", "hide", optional=True))
    # the nearest one counts
    resolve(
        Mount(".", "rw"), Mount(f"{project}/cache", "tmpfs"), Mount(f"{project}/cache/x", "ro", source="/usr")
    )


def test_a_mount_point_of_the_wrong_kind(resolve: Resolve, project: Path) -> None:
    (project / "f").touch()
    (project / "d").mkdir()
    with pytest.raises(ProfileError, match=r"cannot mount a directory on .*which is a file"):
        resolve(Mount(".", "rw"), Mount(f"{project}/f", "tmpfs"))
    with pytest.raises(ProfileError, match=r"cannot mount a file on .*which is a directory"):
        resolve(Mount(".", "rw"), Mount(f"{project}/d", "ro", source="/etc/hosts"))


def test_a_mount_point_behind_a_link(resolve: Resolve, project: Path) -> None:
    (project / "real").mkdir()
    (project / "link").symlink_to("real")
    with pytest.raises(ProfileError, match="leads through the link"):
        resolve(Mount(".", "rw"), Mount(f"{project}/link", "tmpfs"))


def test_links_of_a_host_root_are_resolved_in_destinations(resolve: Resolve) -> None:
    if not os.path.islink("/bin"):
        pytest.skip("/bin is no link here")
    [place] = resolve(Mount("/bin/true", "ro", source="/usr/bin/false")).places
    assert place.destination == "/usr/bin/true"


def test_nothing_below_what_is_hidden(resolve: Resolve, home: Path) -> None:
    (home / "secret" / "in").mkdir(parents=True)
    with pytest.raises(ProfileError, match=r"below .*secret, which is hidden"):
        resolve(Mount("~/secret", "hide"), Mount("~/secret/in", "ro"))


def test_an_overlay_needs_a_directory_without_mounts_below(
    resolve: Resolve, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "f").touch()
    with pytest.raises(ProfileError, match="no directory"):
        resolve(Mount("/x", "overlay", source="f"))
    module = sys.modules["sandbox.plan.resolve"]
    monkeypatch.setattr(module, "mount_points", lambda: ["/", str(project), f"{project}/deep"])
    with pytest.raises(ProfileError, match=f"{project}/deep is a mount below it") as caught:
        resolve(Mount("/x", "overlay", source="."))
    assert caught.value.mend and f"umount {project}/deep" in caught.value.mend


# --- untrusted projects ----------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["/etc", "~/x", "..", "../project", "a/../../x", "link", "link/in"])
def test_an_untrusted_project_stays_in_its_directory(resolve: Resolve, project: Path, source: str) -> None:
    (project / "in").mkdir()
    (project / "link").symlink_to(".")
    origins = {'mounts."/x"': Origin("sandbox.toml", 2, hostile=True)}
    with pytest.raises(TrustError, match=r"^sandbox\.toml:2: ") as caught:
        resolve(Mount("/x", "ro", source=source, base=str(project)), origins=origins)
    assert caught.value.mend == "sandbox profile trust"


def test_an_untrusted_projects_paths_are_opened_beneath_it(resolve: Resolve, project: Path) -> None:
    (project / "in" / "deep").mkdir(parents=True)
    origins = {'mounts."/x"': Origin("sandbox.toml", 2, hostile=True)}
    [place] = resolve(Mount("/x", "ro", source="in/deep", base=str(project)), origins=origins).places
    assert (place.beneath, place.source) == (str(project), "in/deep")
    with pytest.raises(TrustError, match="can't choose the root"):
        resolve(
            root=Root("dir:in", base=str(project)),
            origins={"root.from": Origin("sandbox.toml", 1, hostile=True)},
        )


# --- protections -----------------------------------------------------------------------------------


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
        sys.modules["sandbox.plan.resolve"],
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


def test_devices_are_told(resolve: Resolve) -> None:
    invocation = resolve(
        Mount("/a", "ro", source="/dev/null"),
        Mount("/b", "ro", source="/dev/shm"),
        Mount("/c", "ro", source="/usr"),
    )
    assert [place.devices for place in invocation.places] == [True, True, False]


# --- the rest --------------------------------------------------------------------------------------


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


def test_host_entries(resolve: Resolve) -> None:
    entries = resolve().entries
    assert entries["/usr"].kind == "dir"
    assert set(entries) == {path for path in entries if os.path.lexists(path)}
    assert resolve(root=Root("empty")).entries == {}


def test_shell_is_one_that_is_there(project: Path) -> None:
    def shell(value: str) -> str:
        return resolved(Profile(), str(project), {"HOME": "/h", "SHELL": value}).shell

    assert shell("/bin/bash") == "/bin/bash"
    assert shell("/bin/nothing") == shell("/tmp/x") == shell("") == "/bin/sh"


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


def test_defaults_have_no_origin() -> None:
    from sandbox.plan.resolve import at, origin_of
    from sandbox.profile.build import DEFAULT

    profile = Profile(origins={"a": DEFAULT, "b": Origin("p.toml", 3), "c": Origin("option --c")})
    assert [str(origin_of(profile, key)) for key in "abcd"] == ["", "p.toml:3", "option --c", ""]
    assert [at(origin_of(profile, key)) for key in "ab"] == ["", "p.toml:3: "]


def test_is_below() -> None:
    assert is_below("/a/b", "/a") and is_below("/a", "/a") and is_below("/a", "/")
    assert not is_below("/ab", "/a") and not is_below("/", "/a")
