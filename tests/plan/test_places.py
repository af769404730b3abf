"""Mounts: where they come from and go to, and which are refused."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from pathlib import Path

import pytest

from sandbox.errors import ProfileError, TrustError
from sandbox.profile.model import Mount, MountMode, Origin, Root
from tests.plan.making import Resolve, destinations


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
        with contextlib.chdir(project):  # for the path that a socket can have
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


@pytest.mark.parametrize("mode", ["ro", "rw", "overlay"])
@pytest.mark.parametrize("around", ["ro", "rw", "overlay"])
def test_what_an_earlier_command_may_have_planted(
    resolve: Resolve, home: Path, project: Path, mode: MountMode, around: MountMode
) -> None:
    """A link below the working directory, whatever this profile does with it, or below a writable mount."""
    (home / "keys" / "in").mkdir(parents=True)
    (project / "data").symlink_to("../keys")
    for source, real in (("data", home / "keys"), ("data/in", home / "keys" / "in")):
        with pytest.raises(
            ProfileError, match=r"^p\.toml:9: .*symbolic link .*/project/data, which"
        ) as caught:
            resolve(Mount(".", around), Mount("/x", mode, source=source))
        assert caught.value.mend == f"name its real path, {real}"
    with pytest.raises(ProfileError, match="symbolic link"):
        resolve(Mount(".", around), root=Root("dir:data"))
    with pytest.raises(ProfileError, match="symbolic link"):
        resolve(Mount("/p", "rw", source=str(project)), Mount("/x", mode, source="~/project/data"), cwd=home)


def test_links_that_no_command_planted(resolve: Resolve, home: Path, project: Path) -> None:
    (home / "keys").mkdir()
    (home / "link").symlink_to("keys")
    (project / "data").symlink_to("../keys")
    resolve(Mount(".", "rw"), Mount("/x", "ro", source="~/link"))
    resolve(Mount("/x", "ro", source="data"))  # a working directory that this profile does not show
    resolve(Mount("/y", "ro", source=str(project)), Mount("/x", "ro", source="~/project/data"), cwd=home)


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
    module = sys.modules["sandbox.plan.call"]
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


def test_devices_are_told(resolve: Resolve) -> None:
    invocation = resolve(
        Mount("/a", "ro", source="/dev/null"),
        Mount("/b", "ro", source="/dev/shm"),
        Mount("/c", "ro", source="/usr"),
    )
    assert [place.devices for place in invocation.places] == [True, True, False]
