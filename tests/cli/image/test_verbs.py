"""The verbs of images that need no registry, as their users meet them, with right and wrong input."""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sandbox.cli.image import output
from tests.cli.image.conftest import entries, rootfs
from tests.conftest import ROOT

pytestmark = [pytest.mark.integration]

Command = Callable[..., subprocess.CompletedProcess[str]]

BY_DIGEST = f"x@sha256:{'0' * 64}"


@pytest.fixture
def imported(image: Command, work: Path) -> str:
    """An image called tool:1; its ID."""
    done = image("import", "-c", 'CMD ["sh"]', "-m", "by hand", rootfs(work / "root.tar"), "tool:1")
    return str(done.stdout.strip())


def listed(image: Command, *words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(image("ls", "--json", *words).stdout)
    return found


# --- what there is --------------------------------------------------------------------------------------


def test_an_imported_archive_is_listed(image: Command, imported: str, sandbox_cmd: Command) -> None:
    lines = image("ls").stdout.splitlines()
    assert lines[0].split() == ["NAME", "ID", "CREATED", "SIZE", "UNIQUE"]
    assert lines[1].split()[:2] == ["tool:1", imported[7:19]]
    assert sandbox_cmd("images").stdout == image("list").stdout == image("ls").stdout
    assert image("ls", "-q").stdout == imported[7:19] + "\n"
    assert image("ls", "-q", "--no-trunc").stdout == imported + "\n"
    (found,) = listed(image)
    assert (found["name"], found["id"], found["problem"]) == ("docker.io/library/tool:1", imported, None)
    assert found["size"] == found["unique"] > 0
    assert found["digest"] in image("ls", "--digests", "--no-trunc").stdout


def test_names_are_filtered_by_pattern(image: Command, imported: str) -> None:
    image("tag", "tool:1", "other/tool:2")
    for pattern, names in {
        "tool": ["tool:1"],
        "tool:*": ["tool:1"],
        "*tool*": ["other/tool:2", "tool:1"],
        "docker.io/other/*": ["other/tool:2"],
        "nothing": [],
    }.items():
        lines = image("ls", pattern).stdout.splitlines()[1:]
        assert [line.split()[0] for line in lines] == names


def test_what_two_images_share_is_not_unique(image: Command, imported: str, work: Path) -> None:
    image("tag", "tool:1", "same:1")
    image("import", rootfs(work / "b.tar", {"b": os.urandom(5000)}), "b:1")
    found = {each["name"].rpartition("/")[2]: each for each in listed(image, "--disk")}
    assert found["tool:1"]["unique"] == found["same:1"]["unique"] == found["tool:1"]["size"]
    assert found["b:1"]["disk"]["unpacked"] >= 5000
    total = image("ls", "--disk").stdout
    assert "all together: " in total


def test_inspect_and_history_tell_what_is_known(image: Command, imported: str) -> None:
    (found,) = json.loads(image("inspect", "tool:1").stdout)
    assert found["id"] == imported
    assert found["config"]["config"] == {"Cmd": ["sh"]}
    assert found["config"]["rootfs"]["diff_ids"][0].startswith("sha256:")
    lines = image("history", "tool:1").stdout.splitlines()
    assert lines[0].split() == ["LAYER", "CREATED", "SIZE", "BY", "COMMENT"]
    assert "sandbox image import" in lines[1] and lines[1].endswith("by hand")
    (step,) = json.loads(image("history", "--json", "tool:1").stdout)
    assert step["layer"] == found["manifest"]["layers"][0]["digest"]
    assert image("history", "-q", "--no-trunc", "tool:1").stdout.strip() == step["layer"]


def test_an_image_is_found_by_whichever_of_its_names(image: Command, imported: str) -> None:
    digest = listed(image)[0]["digest"]
    for name in (
        "tool:1",
        "library/tool:1",
        "docker.io/library/tool:1",
        imported,
        imported[7:],
        imported[7:15],
        digest,
        digest[:20],
        f"tool@{digest}",
        f"tool:1@{digest}",
    ):
        assert json.loads(image("inspect", name).stdout)[0]["id"] == imported
    image("inspect", f"tool@{digest[:-1]}0" if digest[-1] != "0" else f"tool@{digest[:-1]}1", fails=True)
    assert "did you mean tool:1?" in image("inspect", "tol:1", fails=True).stderr


def test_what_names_say_commands_no_terminal(image: Command, work: Path) -> None:
    image("import", "-m", "\x1b[2J", rootfs(work / "root.tar"), "tool:1")
    assert "\x1b" not in image("history", "tool:1").stdout
    assert "\x1b" not in image("inspect", "tool:1").stdout
    assert "\x1b" not in image("inspect", "\x1b[2J", fails=True).stderr


# --- names ----------------------------------------------------------------------------------------------


def test_tags_are_names_and_the_last_takes_the_image_with_it(
    image: Command, imported: str, tmp_home: Path
) -> None:
    image("tag", imported[7:17], "a", "localhost:5000/b:2")
    names = ["a:latest", "localhost:5000/b:2", "tool:1"]
    assert [line.split()[0] for line in image("ls").stdout.splitlines()[1:]] == names
    refused = image("rm", imported, fails=True)
    assert "has several names: a:latest tool:1 localhost:5000/b:2" in refused.stderr
    assert image("rm", "a", "tool:1").stdout == "a:latest\ntool:1\n"
    blobs = tmp_home / ".local/share/sandbox/images/blobs/sha256"
    assert len(list(blobs.iterdir())) == 3
    assert image("rm", "-q", imported).stdout == ""
    assert list(blobs.iterdir()) == []
    assert listed(image) == []


def test_nothing_is_removed_when_one_name_is_wrong(image: Command, imported: str) -> None:
    assert "there is no image nope" in image("rm", "tool:1", "nope", fails=True).stderr
    assert len(listed(image)) == 1
    assert image("rm", "--force", "nope", "tool:1").stdout == "tool:1\n"
    image("rm", "-f", "nope")


def test_all_names_of_an_id_by_force(image: Command, imported: str) -> None:
    image("tag", "tool:1", "b")
    assert image("rm", "-f", imported[7:]).stdout == "b:latest\ntool:1\n"
    assert listed(image) == []


def test_an_image_that_cannot_be_used_can_be_removed(image: Command, imported: str, tmp_home: Path) -> None:
    blobs = tmp_home / ".local/share/sandbox/images/blobs/sha256"
    (blobs / imported[7:]).unlink()
    assert "unusable" in image("ls").stdout
    assert listed(image)[0]["problem"]
    image("inspect", "tool:1", fails=True)
    assert image("rm", "tool:1").stdout == "tool:1\n"
    assert listed(image) == []
    image("prune")
    assert list(blobs.iterdir()) == []


def test_prune_removes_what_no_name_reaches(image: Command, imported: str, tmp_home: Path) -> None:
    store = tmp_home / ".local/share/sandbox/images"
    lost = store / "blobs/sha256" / ("0" * 64)
    lost.write_bytes(bytes(5000))
    freed = json.loads(image("prune", "--json").stdout)
    assert (freed["blobs"], freed["bytes"], freed["layers"]) == (1, 5000, 0)
    assert not lost.exists()
    assert image("prune").stdout == "0 blobs of 0 and 0 unpacked layers removed\n"
    assert image("prune", "--unpacked").stdout == "0 blobs of 0 and 1 unpacked layers removed\n"
    assert list((store / "layers").iterdir()) == []
    assert image("prune", "-q", "-f").stdout == ""
    assert entries_of(image, "tool:1")["etc/hello"][2] == b"hello\n"  # unpacked again


def entries_of(image: Command, name: str) -> dict[str, tuple[int, int, bytes | None]]:
    return entries(image("export", name, text=False).stdout)  # type: ignore[arg-type]


# --- archives -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["oci", "oci-archive", "docker", "docker-archive"])
def test_what_is_saved_is_loaded(image: Command, imported: str, form: str, work: Path) -> None:
    image("save", "--format", form, "-o", "tool.tar", "tool:1")
    assert sorted(os.listdir(work)) == ["root.tar", "tool.tar"]
    piped = image("save", "--format", form, "tool:1", text=False).stdout
    assert piped == (work / "tool.tar").read_bytes()  # type: ignore[comparison-overlap]
    image("rm", "tool:1")
    assert image("load", "tool.tar").stdout == "tool:1\n"
    assert listed(image)[0]["id"] == imported
    image("rm", "tool:1")
    assert image("load", "-q", "-i", "tool.tar", "--name", "other").stdout == ""
    assert image("load", "-n", "third", input=piped, text=False).stdout == b"third:latest\n"  # type: ignore[comparison-overlap]
    assert {each["id"] for each in listed(image)} == {imported}
    assert {each["name"] for each in listed(image)} == {
        "docker.io/library/other:latest",
        "docker.io/library/third:latest",
    }


def test_a_directory_with_a_layout(image: Command, imported: str, work: Path) -> None:
    image("save", "--format", "dir", "-o", "out", "tool:1")
    assert sorted(os.listdir("out")) == ["blobs", "index.json", "oci-layout"]
    assert "is not empty" in image("save", "--format", "dir", "-o", "out", "tool:1", fails=True).stderr
    image("rm", "tool:1")
    assert image("load", "out").stdout == "tool:1\n"


def test_an_archive_appears_when_it_is_whole(
    image: Command, imported: str, work: Path, tmp_home: Path
) -> None:
    """And one that was there before stays until then."""
    (work / "tool.tar").write_text("before")
    store = tmp_home / ".local/share/sandbox/images"
    layer = max((store / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    layer.write_bytes(bytes(layer.stat().st_size))
    image("save", "-o", "tool.tar", "tool:1", fails=True)
    assert (work / "tool.tar").read_text() == "before"
    assert sorted(os.listdir(work)) == ["root.tar", "tool.tar"]


@pytest.mark.parametrize("flags", [os.O_TMPFILE, os.O_DIRECTORY], ids=["nameless", "named"])
def test_of_an_archive_that_is_not_whole_nothing_stays(
    work: Path, monkeypatch: pytest.MonkeyPatch, flags: int
) -> None:
    """Where a file can be without a name, not even after kill -9."""
    monkeypatch.setattr(os, "O_TMPFILE", flags)
    with output.writing("whole.tar", "image save") as out:
        out.write(b"whole")
        parts = [name for name in os.listdir(work) if name.endswith(".part")]
    assert (len(parts), os.listdir(work)) == (int(flags == os.O_DIRECTORY), ["whole.tar"])
    assert (work / "whole.tar").read_bytes() == b"whole"
    assert (work / "whole.tar").stat().st_mode & 0o777 == 0o644
    with pytest.raises(KeyboardInterrupt), output.writing("whole.tar", "image save") as out:
        out.write(b"half")
        raise KeyboardInterrupt
    assert (os.listdir(work), (work / "whole.tar").read_bytes()) == (["whole.tar"], b"whole")


def test_an_export_is_what_was_imported(image: Command, imported: str, work: Path) -> None:
    assert entries_of(image, "tool:1") == {
        ".": (0, 0o755, None),
        "etc": (0, 0o755, None),
        "home": (7, 0o755, None),
        "etc/hello": (7, 0o640, b"hello\n"),
        "home/mine": (7, 0o640, b"7\n"),
    }
    image("export", "-o", "out.tar", "tool:1")
    assert entries((work / "out.tar").read_bytes()) == entries_of(image, "tool:1")


def test_a_directory_is_imported_as_roots(image: Command, work: Path) -> None:
    (work / "root/etc").mkdir(parents=True, mode=0o755)
    (work / "root/etc/x").write_bytes(b"x")
    (work / "root/etc/x").chmod(0o4755)
    (work / "root/link").symlink_to("/etc/x")
    image("import", "root", "dir:1")
    found = entries_of(image, "dir:1")
    assert found["etc/x"] == (0, 0o4755, b"x")
    assert found["link"][2] is None


def test_directories_that_are_not_ours_to_read(image: Command) -> None:
    assert not os.access("/etc/shadow", os.R_OK)
    told = image("import", "/etc", "dir:1", fails=True).stderr
    assert "can't be read: Permission denied" in told and "mend: read it as whoever may: sudo tar" in told
    assert "b'" not in told
    told = image("import", "/", "dir:1", fails=True).stderr
    assert "something is mounted below /, " in told and "mend: tar -C / --one-file-system" in told


def test_the_same_import_gives_the_same_image(image: Command, work: Path) -> None:
    root = rootfs(work / "root.tar")
    first, second = (
        image("import", root, name, env={"SOURCE_DATE_EPOCH": "1700000000"}).stdout for name in ("a", "b")
    )
    assert first == second
    assert listed(image)[0]["created"] == "2023-11-14T22:13:20Z"
    image("import", root, "a", env={"SOURCE_DATE_EPOCH": "now"}, fails=True)


def test_changes_to_the_configuration(image: Command, work: Path) -> None:
    changes = [
        "ENV A=1 B='2 3'",
        "env C 4 5",
        "ENV A=6",
        "LABEL x=y",
        "EXPOSE 80 53/udp",
        "VOLUME /data /more",
        "USER nobody",
        "WORKDIR /a",
        "WORKDIR b",
        "STOPSIGNAL SIGINT",
        'ENTRYPOINT ["/bin/x"]',
        "CMD echo $A",
    ]
    words = [word for change in changes for word in ("-c", change)]
    image("import", *words, "--platform", "arm64", rootfs(work / "root.tar"), "tool")
    config = json.loads(image("inspect", "tool").stdout)[0]["config"]
    assert (config["os"], config["architecture"]) == ("linux", "arm64")
    assert config["config"] == {
        "Env": ["A=6", "B=2 3", "C=4 5"],
        "Labels": {"x": "y"},
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
        "Volumes": {"/data": {}, "/more": {}},
        "User": "nobody",
        "WorkingDir": "/a/b",
        "StopSignal": "SIGINT",
        "Entrypoint": ["/bin/x"],
        "Cmd": ["/bin/sh", "-c", "echo $A"],
    }
    assert "linux/arm64" in image("ls").stdout


# --- check ----------------------------------------------------------------------------------------------


def test_damage_is_found_and_mended(image: Command, imported: str, work: Path, tmp_home: Path) -> None:
    assert image("check").stderr == "sandbox: everything is as it should be\n"
    image("save", "-o", "tool.tar", "tool:1")
    store = tmp_home / ".local/share/sandbox/images"
    layer = max((store / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    layer.write_bytes(bytes(layer.stat().st_size))
    told = image("check", fails=True).stdout
    assert "a blob is damaged" in told and "mend: sandbox image check --repair" in told
    told = image("check", "--repair", "--json", fails=True).stdout
    assert [each["repaired"] for each in json.loads(told)] == [True, False]
    assert "sandbox image pull docker.io/library/tool:1" in told
    image("load", "tool.tar")
    image("check", "-q")
    (store / "index.json").write_text("{")
    assert "sandbox image check --repair" in image("ls", fails=True).stderr
    assert "localhost/recovered/" in image("check", "--repair").stdout
    assert listed(image)[0]["id"] == imported


def test_another_tag_is_named(image: Command, imported: str) -> None:
    for words in (["rm", "tool"], ["inspect", "tool"], ["tag", "tool", "x"]):
        said = image(*words, fails=True).stderr
        assert "there is no image tool:latest in the image store, but tool:1\n" in said
        assert "name one of these, or sandbox image pull tool\n" in said


def test_nothing_can_be_written_where_an_archive_goes(image: Command, imported: str) -> None:
    for verb in ("export", "save"):
        said = image(verb, "-o", "/dev/full", "tool:1", fails=True).stderr
        assert said.startswith("sandbox: cannot write to /dev/full: No space left on device\n"), said


def test_a_store_that_is_closed(image: Command, imported: str, tmp_home: Path) -> None:
    store = tmp_home / ".local/share/sandbox/images"
    if os.geteuid() == 0:
        pytest.skip("root may everything")
    (store / "layers").chmod(0)
    store.chmod(0)
    try:
        said = image("ls", fails=True).stderr
    finally:
        store.chmod(0o700)
        (store / "layers").chmod(0o700)
    assert f"make {store} yours to write: ls -ld {store}\n" in said


# --- wrong input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "image needs a command"),
        ("lss", "unknown command 'lss'; did you mean 'ls'?"),
        ("pul x", "unknown command 'pul'; did you mean 'pull'?"),
        ("ls --jsn", "unknown option '--jsn'; did you mean '--json'?"),
        ("ls --format {{.ID}}", 'argument --format: only "json" is known'),
        ("ls a b", "unexpected argument 'b'"),
        ("inspect", "the following arguments are required: NAME"),
        ("inspect nope", "there is no image nope in the image store"),
        ("inspect sha256:00ff", "there is no image sha256:00ff in the image store"),
        ("inspect Nope", "Nope: names of images are in lower case"),
        ("history a:b:c", "a:b:c"),
        ("tag nope new", "there is no image nope"),
        ("tag nope", "the following arguments are required: NEW"),
        ("tag nope New", "New: names of images are in lower case"),
        ("rm", "name the images, or say --all"),
        ("rm --all x", "--all, and names?"),
        ("rm nope", "there is no image nope"),
        ("save nope -o x.tar", "there is no image nope"),
        ("save --format ocy nope", "unknown format 'ocy'; did you mean 'oci'?"),
        ("export nope", "there is no image nope"),
        ("load nope.tar", "nope.tar: No such file or directory"),
        ("load .", ".: it has no index.json"),
        ("load text", "text: it is no tar archive"),
        ("load -i text text", "FILE and --input are the same"),
        ("load --name A text", "A: names of images are in lower case"),
        ("import", "import takes FILE and NAME: 0 words"),
        ("import text", "import takes FILE and NAME: 1 words"),
        ("import text x y", "import takes FILE and NAME: 3 words"),
        ("import text x", "text: it is no tar archive"),
        ("import nope x", "nope: No such file or directory"),
        ("import http://localhost/x x", "http://localhost/x is no file"),
        (f"load --name {BY_DIGEST} text", f"{BY_DIGEST}: a new image can't be called by a digest"),
        (f"import text {BY_DIGEST}", f"{BY_DIGEST}: a new image can't be called by a digest"),
        ("import text X", "X: names of images are in lower case"),
        ("import -c RUN=x text x", "--change RUN=x: unknown instruction"),
        ("import -c CMDD text x", "--change CMDD: unknown instruction; did you mean CMD?"),
        ("import -c USER text x", "--change USER: nothing follows"),
        ("import -c 'EXPOSE x' text x", "--change EXPOSE x: x is no port"),
        ("import -c 'CMD [1' text x", "--change CMD [1: it begins like a list"),
        ("import --platform a/b/c/d text x", "a/b/c/d is no platform"),
        ("import text x -- --include=y", "options behind -- are for --debootstrap"),
        ("import --debootstrap bookworm", "import takes --debootstrap SUITE NAME"),
        ("pull", "the following arguments are required: NAME"),
        ("pull https://a.b/c", 'https://a.b/c: an image\'s name has no "https://"'),
        ("pull --platform linux/ localhost:1/x", "linux/ is no platform"),
        ("pull --tls-verify=maybe localhost:1/x", "argument --tls-verify: 'maybe' is neither true nor false"),
        ("pull --authfile nope localhost:1/x", "there is no"),
        ("push nope", "there is no image nope"),
        ("check now", "unexpected argument 'now'"),
        ("prune now", "unexpected argument 'now'"),
    ],
)
def test_wrong_input_gets_one_clear_message(
    image: Command, work: Path, words: str, message: str, tmp_home: Path
) -> None:
    (work / "text").write_text("x" * 2000)
    done = image(*shlex.split(words), fails=True)
    assert done.stdout == ""
    assert done.stderr.replace(f"{work}/", "").partition("sandbox: ")[2].startswith(message)
    assert os.listdir(work) == ["text"]
    blobs = tmp_home / ".local/share/sandbox/images/blobs/sha256"
    assert not blobs.exists() or list(blobs.iterdir()) == []


def test_every_verb_has_a_help(sandbox_cmd: Command) -> None:
    from sandbox.cli.image import COMMANDS

    for command in COMMANDS:
        done = sandbox_cmd("image", command, "--help")
        assert done.returncode == 0
        assert done.stdout.startswith(f"usage: sandbox image {command}")
    for word in ("image", "pull", "push", "images"):
        assert sandbox_cmd(word, "--help").stdout.startswith("usage: sandbox image")
        assert f"\n  {word} " in sandbox_cmd("--help").stdout


@pytest.mark.parametrize("words", ["ls", "ls --json", "inspect tool:1", "history tool:1", "save tool:1"])
def test_a_stdout_that_takes_nothing(image: Command, imported: str, words: str) -> None:
    command = f"{shlex.quote(sys.executable)} -m sandbox image {words} > /dev/full"
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["sh", "-c", command], env=environ, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 125
    assert done.stderr.startswith("sandbox: cannot ") and "No space left on device" in done.stderr


def test_an_archive_does_not_go_to_a_terminal(image: Command, imported: str) -> None:
    ours, theirs = os.openpty()
    try:
        for words in (["save", "tool:1"], ["export", "tool:1"]):
            assert (
                "does not go to a terminal"
                in image(*words, fails=True, stdout=theirs, stderr=subprocess.PIPE).stderr
            )
        for words in (["load"], ["import", "-", "x"]):
            assert "pipe one in" in image(*words, fails=True, stdin=theirs).stderr
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_store_that_cannot_be_written(image: Command, imported: str, work: Path, tmp_home: Path) -> None:
    store = tmp_home / ".local/share/sandbox/images"
    store.chmod(0o500)
    try:
        assert listed(image)[0]["id"] == imported
        done = image("import", work / "root.tar", "new:1", fails=True)
        assert "Permission denied" in done.stderr and "mend: " in done.stderr
        image("tag", "tool:1", "x", fails=True)
    finally:
        store.chmod(0o700)


def test_a_docker_archive_is_what_docker_reads(image: Command, imported: str, work: Path) -> None:
    archive = image("save", "--format", "docker", "tool:1", text=False).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:  # type: ignore[arg-type]
        file = tar.extractfile("manifest.json")
        assert file
        (entry,) = json.loads(file.read())
    assert entry["RepoTags"] == ["tool:1"]
    assert entry["Config"] == f"{imported[7:]}.json"


@pytest.mark.parametrize("verb", ["save", "export"])
def test_nobody_reads_on(image: Command, work: Path, verb: str) -> None:
    image("import", rootfs(work / "root.tar", {"etc/big": os.urandom(3 << 20)}), "big:1")
    ours = f"{shlex.quote(sys.executable)} -m sandbox image {verb} big:1"
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = ["bash", "-c", f"{ours} | head -c 9 > head; echo ${{PIPESTATUS[0]}}"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("141\n", "")
