"""sandbox.profile.options: what the command line says about settings."""

from __future__ import annotations

import argparse
import os
import subprocess
import threading
from pathlib import Path

import pytest

from sandbox.errors import NotAvailableError, ProfileError
from sandbox.profile import Profile, add_options, files, load, overrides_from
from sandbox.profile.model import Mount
from sandbox.profile.options import flags, parse_bind, parse_tmpfs


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(exit_on_error=False)
    add_options(found)
    return found


def run(*arguments: str, profile: str = "default") -> Profile:
    return load(profile, overrides_from(parser().parse_args(arguments)))


def wrong(*arguments: str) -> str:
    with pytest.raises((ProfileError, NotAvailableError)) as caught:
        run(*arguments)
    return caught.value.message


def test_nothing_asked_for_is_nothing_changed() -> None:
    assert overrides_from(parser().parse_args([])) == {}
    assert overrides_from(argparse.Namespace()) == {}


def test_limits(tmp_home: Path) -> None:
    found = run(
        "-m", "256M", "--pids", "5", "--timeout=2", "--cpu-time", "1.5s", "--output", "1M", "--disk", "1G"
    )
    limits = found.limits
    assert (limits.memory, limits.pids, limits.timeout, limits.cpu_time) == (256 << 20, 5, 2.0, 1.5)
    assert (limits.output, limits.disk) == (1 << 20, 1 << 30)
    assert str(found.origins["limits.memory"]) == "option --memory"


def test_the_last_of_a_repeated_one_counts(tmp_home: Path) -> None:
    assert run("-m", "1M", "--memory", "2M").limits.memory == 2 << 20


def test_others(tmp_home: Path) -> None:
    found = run("-u", "root", "-w", "sub", "--hostname", "h", "--net", "host", "--root", "/srv")
    assert (found.user.map, found.process.workdir, found.process.hostname) == ("root", "sub", "h")
    assert (found.net.mode, found.root.source, found.root.base) == ("host", "dir:/srv", None)
    assert run("--root", "empty").root.source == "empty"
    assert run("--root", "dir:x").root.source == "dir:x"
    assert run("--root", "./host").root.source == "dir:./host"


def test_lists_are_added_to(tmp_home: Path) -> None:
    found = run("--require", "core,net", "--require", "files", profile="untrusted")
    assert found.require == ("timeout", "pids", "disk", "output", "net", "seccomp", "core", "files")


def test_mounts(tmp_home: Path) -> None:
    found = run(
        "-v",
        ".:/work",
        "--bind=~/x:/y:ro",
        "-v",
        r"/a\:b\\c:/z:overlay",
        "--tmpfs",
        "/t:64M",
        "--tmpfs",
        "/u",
    )
    assert found.mounts == (
        Mount(".", "rw"),
        Mount("/work", "rw", "."),
        Mount("/y", "ro", "~/x"),
        Mount("/z", "overlay", r"/a:b\c"),
        Mount("/t", "tmpfs", size=64 << 20),
        Mount("/u", "tmpfs"),
    )
    assert str(found.origins['mounts."/work"']) == "option --bind"
    assert str(found.origins['mounts."/u"']) == "option --tmpfs"


def test_a_mount_replaces_one_of_the_profile(tmp_home: Path) -> None:
    assert run("-v", ".:.:ro").mounts == (Mount(".", "ro", "."),)
    assert run("--tmpfs", ".").mounts == (Mount(".", "tmpfs"),)


def test_environment(tmp_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_home)
    Path("e").write_text("# no\n\nA=1\n  B = x 'y' # z\r\nC\nD=\nA=2\n")
    Path("f").write_text("D=4\nE=5")
    found = run("-e", "B=9", "--env-file", "e", "-e", "F", "--env-file", "~/f", "-e", "G==", "-e", "E")
    assert found.env.set == {"A": "2", "B": "9", "D": "4", "G": "="}
    assert found.env.keep[-3:] == ("C", "E", "F")
    assert str(found.origins['env.set."A"']) == f"{tmp_home}/e:7"
    assert str(found.origins['env.set."B"']) == "option --env"
    assert {f"{tmp_home}/e", f"{tmp_home}/f"} <= set(found.files)


def test_what_is_taken_from_the_caller_goes_over_what_the_profile_sets(tmp_home: Path) -> None:
    (tmp_home / "p.toml").write_text('extends = "default"\n[env.set]\nA = "1"\nB = "2"\n')
    profile = str(tmp_home / "p.toml")
    found = run("-e", "A", "-e", "C=3", profile=profile).env
    assert found.set == {"B": "2", "C": "3"}
    assert found.keep[-1] == "A"
    assert run("-e", "A", "-e", "A=4", profile=profile).env.set == {"A": "4", "B": "2"}
    assert run("-e", "A=4", "-e", "A", profile=profile).env.set == {"B": "2"}


def test_an_environment_file_may_be_a_pipe(tmp_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.write(write, b"A=1\n")
    writer = threading.Timer(0.2, lambda: (os.write(write, b"B=2\n"), os.close(write)))
    writer.start()
    try:
        found = run("--env-file", f"/dev/fd/{read}")
    finally:
        writer.join()
        os.close(read)
    assert found.env.set == {"A": "1", "B": "2"}
    assert [path for path in found.files if "fd" in path] == []


def test_an_environment_file_that_is_a_fifo(tmp_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fifo = tmp_home / "fifo"
    os.mkfifo(fifo)
    writer = threading.Timer(0.2, fifo.write_text, ["A=1\n"])
    writer.start()
    try:
        found = run("--env-file", str(fifo))
    finally:
        writer.join()
    assert found.env.set == {"A": "1"}
    assert str(fifo) in found.files  # to be protected
    monkeypatch.setattr(files, "PATIENCE", 50)
    assert wrong("--env-file", str(fifo)) == f"option --env-file: cannot read {fifo}: nobody writes to it"
    # One that has come, and thinks: not given up.
    silent = os.open(fifo, os.O_RDWR)
    writer = threading.Timer(0.3, lambda: (os.write(silent, b"A=2\n"), os.close(silent)))
    writer.start()
    try:
        assert run("--env-file", str(fifo)).env.set == {"A": "2"}
    finally:
        writer.join()


def test_an_endless_environment_file(tmp_home: Path) -> None:
    with subprocess.Popen(["yes", "A=1"], stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert "larger than 1 MiB" in wrong("--env-file", f"/dev/fd/{process.stdout.fileno()}")
        process.kill()
    assert "neither a regular file nor a pipe" in wrong("--env-file", "/dev/zero")


def test_names_that_need_quotes(tmp_home: Path) -> None:
    assert run("-e", 'a.b"c=1').env.set == {'a.b"c': "1"}
    assert run("--tmpfs", '/a.b"c').mounts[1] == Mount('/a.b"c', "tmpfs")


def test_an_empty_environment_file_is_remembered_too(tmp_home: Path) -> None:
    (tmp_home / "e").write_text("")
    assert f"{tmp_home}/e" in run("--env-file", str(tmp_home / "e")).files


def test_bytes_that_are_no_text(tmp_home: Path) -> None:
    name = os.fsdecode(b"/\xff")
    assert run("-v", f"{name}:/x").mounts[1] == Mount("/x", "rw", name)
    assert run("-e", f"A={name}").env.set["A"] == name


@pytest.mark.parametrize(
    ("arguments", "begin", "part"),
    [
        ("-m 256", "option --memory: ", 'did you mean "256M"'),
        ("-m lots", "option --memory: ", "not a size"),
        ("--pids x", "option --pids: ", "not a whole number"),
        ("--pids 1e3", "option --pids: ", "not a whole number"),
        ("--pids 0", "option --pids: ", "at least 1|from 1"),
        ("--cpus 1.5.1", "option --cpus: ", "not a number"),
        ("--cpus 0.001", "option --cpus: ", "from 0.01"),
        ("--cgroup-parent judge", "option --cgroup-parent: ", "absolute path"),
        ("--timeout 0", "option --timeout: ", "more than 0"),
        ("--image :x", "option --image: ", "not the reference of an image"),
        ("--image debian --root /srv", "option --root: ", "contradicts option --image"),
        ("-v /a", "option --bind: ", 'did you mean "/a:/a"'),
        ("-v /a:/b:ro:z", "option --bind: ", "not SRC:DST"),
        ("-v :/b", "option --bind: ", "not SRC:DST"),
        ("-v /a:", "option --bind: ", "not SRC:DST"),
        ("-v /a:/b:wr", "option --bind: ", "not a mode"),
        ("-v /a:/b:overly", "option --bind: ", 'did you mean "overlay"'),
        ("-v /a:/", "option --bind: ", "whole root"),
        ("-v /a:/x -v /b:/x/", "option --bind: ", 'two mounts on "/x"'),
        ("-v /a:/x --tmpfs /x", "option --tmpfs: ", "contradicts option --bind"),
        ("-v a/../b:/x", "option --bind: ", '".."'),
        ("--tmpfs /x:many", "option --tmpfs: ", "not a size"),
        ("--tmpfs /x:1M:1", "option --tmpfs: ", "not DST"),
        ("--tmpfs /", "option --tmpfs: ", "whole root"),
        ("-e =x", "option --env: ", "not NAME"),
        ("-e *", "option --env: ", "whole environment"),
        ("--env-file /nonexistent", "option --env-file: ", "No such file"),
        ("--env-file /dev/null", "option --env-file: ", "neither a regular file nor a pipe"),
        ("--require memry", "option --require: ", 'did you mean "memory"'),
        ("--require memory", "option --require: ", "is not set"),
        ("--require pids,,net", "option --require: ", "can't be required"),
        ("--net a/b", "option --net: ", "name of a network"),
        ("--net host --publish 80:80", "option --publish: ", "the host's own"),
        ("--allow a.b", "option --allow: ", "there is no network"),
        ("-u 1000", "option --user: ", '"1000:1000"'),
        ("--hostname a_b", "option --hostname: ", "not a host name"),
    ],
)
def test_wrong(arguments: str, begin: str, part: str, tmp_home: Path) -> None:
    import re

    message = wrong(*arguments.split(" "))
    assert message.startswith(begin)
    assert re.search(part, message), message
    assert "\n" not in message


def test_a_wrong_line_of_an_environment_file(tmp_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_home)
    Path("e").write_text("A=1\nexport B=2\n")
    assert f"{tmp_home}/e:2: not NAME" in wrong("--env-file", "e")
    Path("e").write_text("A=1\nB=\0\n")
    assert "NUL" in wrong("--env-file", "e")


def test_no_control_characters_in_messages(tmp_home: Path) -> None:
    for arguments in (["-v", "\x1b[2J"], ["--net", "\x1b[2J"], ["-e", "\x1b[2J\x00=1"], ["--pids", "\x1b"]):
        assert "\x1b" not in wrong(*arguments)


@pytest.mark.parametrize(
    ("text", "mend"),
    [
        ("/a:b:/c:ro", "'/a\\:b:/c:ro'"),
        ("a:b:/c", "'a\\:b:/c'"),
        ("/a:/b:/c:overlay", "'/a\\:/b:/c:overlay'"),
        ("/a:/b:x", ""),
        ("/a:/b:wr", ""),
    ],
)
def test_a_colon_in_a_path(text: str, mend: str) -> None:
    with pytest.raises(ValueError, match="is not") as caught:
        parse_bind(text)
    said = getattr(caught.value, "mend", None)
    assert (said or "").endswith(mend)
    assert bool(said) == bool(mend)
    if mend:  # what it says is right
        parse_bind(mend[1:-1])


def test_parsing_for_the_api() -> None:
    assert parse_bind("a:b") == ("b", {"source": "a", "mode": "rw"})
    assert parse_tmpfs("/x:size=1M") == ("/x", {"mode": "tmpfs", "size": "1M"})
    for text in ("", "a", "a:b:c", "a:b:ro:x"):
        with pytest.raises(ValueError, match="not"):
            parse_bind(text)


def test_help_has_every_option() -> None:
    text = parser().format_help()
    assert all(flag in text for flag in flags())
    assert "not available yet" not in text
