"""Kept sandboxes: what changes in one stays under its name, is nobody else's meanwhile, and can go again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import sandbox
from sandbox.box import Boxes
from sandbox.box import boxes as boxmodule
from sandbox.errors import ImageError, SandboxError
from sandbox.image import garbage
from sandbox.image.durable import try_lock
from sandbox.image.store import Store
from tests.image.stored import put_image
from tests.image.test_root import BASE, put
from tests.image.test_root import store as bare
from tests.support.needs import need

__all__ = ["bare"]  # the fixture

pytestmark = [pytest.mark.integration, pytest.mark.as_root]

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def store(bare: Store) -> Iterator[Store]:
    put(bare)
    yield bare
    boxes = Boxes(bare)
    for each in boxes.all():
        boxes.remove(each.name)


@pytest.fixture
def run(store: Store, sandbox_cmd: Command) -> Command:
    def call(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return sandbox_cmd("run", "-p", "test", *words, **options)

    return call


def pin_of(name: str) -> str:
    return Boxes()._pin(name)


def test_changes_stay_under_their_name(run: Command, sandbox_cmd: Command) -> None:
    script = "echo 1 > /root/f; rm /etc/group; touch /home/node/x; chown 1000:1000 /home/node/x"
    made = run("--name", "b", "--keep", "--image", "base", "--", "sh", "-c", script)
    assert made.returncode == 0, made.stderr
    assert run("--name", "b", "--", "cat", "/root/f").stdout == "1\n"
    said = sandbox_cmd("diff", "b").stdout.splitlines()
    added = {"A /home/node/x", "A /root/f", "D /etc/group"}
    assert set(said) == {"C /etc", "C /home", "C /home/node", "C /root", *added}
    assert sandbox_cmd("commit", "b", "next").returncode == 0
    assert run("--image", "next", "--", "stat", "-c", "%u", "/home/node/x").stdout == "1000\n"
    assert "b " in sandbox_cmd("ps").stdout
    assert sandbox_cmd("rm", "b").stdout == "b\n"
    assert sandbox_cmd("ps", "-q").stdout == ""
    assert run("--name", "b", "--image", "base", "--", "true").returncode == 0  # a name, and nothing stays
    assert sandbox_cmd("ps", "-q").stdout == ""


def test_what_setting_up_makes_is_no_change(run: Command, store: Store, sandbox_cmd: Command) -> None:
    os.mkdir("data")
    words = ["--name", "b", "--keep", "--image", "base", "-v", "data:/srv/data"]
    assert run(*words, "--", "true").returncode == 0
    assert run("--name", "b", "-v", "data:/mnt/more", "--", "touch", "/etc/mine").returncode == 0
    assert sandbox_cmd("diff", "b").stdout.splitlines() == ["C /etc", "A /etc/mine"]
    assert sandbox_cmd("commit", "b", "next").returncode == 0
    listed = run("--image", "next", "--", "ls", "/", "/srv", "/mnt").stdout
    assert "etc" in listed and "data" not in listed and "more" not in listed
    assert run("--name", "b", "-v", "data:/srv/data", "--", "touch", "/srv/x", "/dev/null").returncode == 0
    assert {"A /srv", "A /srv/x"} <= set(sandbox_cmd("diff", "b").stdout.splitlines())


def test_without_keep_nothing_stays(run: Command, sandbox_cmd: Command, tmp_home: Path) -> None:
    assert run("--name", "b", "--image", "base", "--", "touch", "/x").returncode == 0
    assert os.listdir(tmp_home / ".local/state/sandbox/boxes") == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--keep", "--image", "base"], "--name"),
        (["--keep", "--name", "b"], "--image REF"),
        (["--name", "mistyped"], "there is no kept sandbox mistyped, and no image to run in"),
        (["--keep", "--name", "../b", "--image", "base"], "no sandbox's name"),
        (["--keep", "--name", ".b", "--image", "base"], "no sandbox's name"),
        (["--keep", "--name", "b", "--image", "localhost:1/none"], "localhost:1/none:latest is not here"),
        (["--keep", "--name", "b", "--image", "base", "-u", "nobody-of-it"], "nobody-of-it"),
        (["--keep", "--name", "b", "--image", "base", "-v", "/nonexistent:/x"], "/nonexistent"),
    ],
    ids=str,
)
def test_wrong_words_leave_no_box(run: Command, words: list[str], said: str, tmp_home: Path) -> None:
    done = run(*words, "--", "true")
    assert done.returncode == 125 and said in done.stderr and "Traceback" not in done.stderr
    boxes = tmp_home / ".local/state/sandbox/boxes"
    assert not boxes.exists() or os.listdir(boxes) == []


@pytest.mark.parametrize("words", [["--dry-run", "--", "true"], []], ids=["dry run", "no command"])
def test_what_runs_nothing_leaves_no_box(run: Command, store: Store, words: list[str]) -> None:
    run("--name", "b", "--keep", "--image", "base", *words)
    assert os.listdir(Boxes(store).path) == []
    assert list(store.refs.all()) == ["docker.io/library/base:latest"]
    assert run("--name", "b", "--keep", "--image", "base", "--", "touch", "/root/f").returncode == 0
    run("--name", "b", *words)
    assert run("--name", "b", "--", "ls", "/root/f").stdout == "/root/f\n"


def test_one_at_a_time(run: Command, store: Store, sandbox_cmd: Command) -> None:
    assert run("--name", "b", "--keep", "--image", "base", "--", "true").returncode == 0
    boxes = Boxes(store)
    with boxes.open("b"):
        assert boxes.running("b")
        for words in (["rm", "b"], ["diff", "b"], ["commit", "b", "x"]):
            done = sandbox_cmd(*words)
            assert done.returncode == 125 and "in use" in done.stderr
        assert "in use" in run("--name", "b", "--", "true").stderr
    assert not boxes.running("b")


@pytest.mark.parametrize("what", ["open", "remove"])
def test_who_only_looks_is_in_nobodys_way(store: Store, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    boxes = Boxes(store)
    boxes.make("b", "base", store.image(store.refs.all()["docker.io/library/base:latest"])).close()
    looking = os.open(f"{boxes.path}/b", os.O_RDONLY)
    assert try_lock(looking, shared=True)
    assert not boxes.running("b"), "two may look at once"

    def enough(seconds: float) -> None:
        os.close(looking)

    monkeypatch.setattr(boxmodule.time, "sleep", enough)
    if what == "remove":
        boxes.remove("b")
        return
    with boxes.open("b"):
        assert boxes.running("b")


def test_another_image_is_refused(run: Command, store: Store) -> None:
    put_image(store, "docker.io/library/other:latest", [BASE])
    assert run("--name", "b", "--keep", "--image", "base", "--", "true").returncode == 0
    done = run("--name", "b", "--image", "other", "--", "true")
    assert done.returncode == 125 and "image:base" in done.stderr


def test_its_image_stays_when_the_name_moves(run: Command, store: Store) -> None:
    assert run("--name", "b", "--keep", "--image", "base", "--", "touch", "/x").returncode == 0
    store.remove_ref("docker.io/library/base:latest")
    garbage.prune(store, unpacked=True)
    assert run("--name", "b", "--", "ls", "/x").stdout == "/x\n"


def test_kill_9_keeps_the_changes_and_gives_up_the_lock(run: Command, store: Store, tmp_home: Path) -> None:
    assert run("--name", "b", "--keep", "--image", "base", "--", "true").returncode == 0
    command = [sys.executable, "-m", "sandbox", "run", "-p", "test", "--name", "b", "--", "sh", "-c"]
    script = "touch /root/f; echo ready; sleep 1000"
    environ = {**os.environ, "PYTHONPATH": os.getcwd() if not sys.path[0] else os.pathsep.join(sys.path)}
    with subprocess.Popen([*command, script], stdout=subprocess.PIPE, env=environ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGKILL)
    assert run("--name", "b", "--", "ls", "/root/f").stdout == "/root/f\n"


def test_what_a_crash_leaves_is_removed(run: Command, store: Store) -> None:
    assert run("--name", "b", "--keep", "--image", "base", "--", "true").returncode == 0
    boxes = Boxes(store)
    os.rename(f"{boxes.path}/b", f"{boxes.path}/.gone-1")  # as if killed in the middle of a removal
    os.mkdir(f"{boxes.path}/.new-1", 0o700)
    assert boxes.all() == []
    assert os.listdir(boxes.path) == []
    assert list(store.refs.all()) == ["docker.io/library/base:latest"]


def test_a_name_that_is_taken_keeps_its_image(store: Store) -> None:
    first = store.image(store.refs.all()["docker.io/library/base:latest"])
    other = put_image(store, "docker.io/library/other:latest", [BASE], {"User": "node"})
    boxes = Boxes(store)
    with boxes.make("b", "base", first), pytest.raises(ImageError, match="already"):
        boxes.make("b", "other", other)
    assert store.refs.all()[pin_of("b")] == first.descriptor
    assert os.listdir(boxes.path) == ["b"]


def test_a_pin_that_was_lost_comes_back(run: Command, store: Store) -> None:
    assert run("--name", "b", "--keep", "--image", "base", "--", "true").returncode == 0
    pin = store.remove_ref(pin_of("b"))
    assert run("--name", "b", "--", "true").returncode == 0
    assert store.refs.all()[pin_of("b")] == pin


def test_boxes_of_two_state_directories_share_a_store(run: Command, store: Store, tmp_path: Path) -> None:
    """A box that goes takes no other's image along, whatever it is called."""
    elsewhere = {"XDG_STATE_HOME": str(tmp_path / "elsewhere")}
    for where in ({}, elsewhere):
        done = run("--name", "b", "--keep", "--image", "base", "--", "touch", "/root/f", env=where)
        assert done.returncode == 0, done.stderr
    Boxes(store).remove("b")
    store.remove_ref("docker.io/library/base:latest")
    garbage.prune(store, unpacked=True)
    assert run("--name", "b", "--", "ls", "/root/f", env=elsewhere).stdout == "/root/f\n"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", elsewhere["XDG_STATE_HOME"])
        Boxes(store).remove("b")
    assert store.refs.all() == {}


@pytest.mark.parametrize("other", ["busybox ln -s /nowhere", "busybox ln -s /bin", "echo x >"])
def test_what_takes_the_place_of_a_directory_is_its_own_affair(
    run: Command, store: Store, other: str, sandbox_cmd: Command
) -> None:
    """Later runs go on, and so does what looks into it."""
    put_image(store, "docker.io/library/base:latest", [BASE], {"Volumes": {"/data": {}}})
    script = f"cd /; mkdir -p var; for d in root var/tmp run data home; do rm -rf /$d; {other} /$d; done"
    done = run("--name", "b", "--keep", "--image", "base", "--", "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    done = run("--name", "b", "-w", "/", "--", "find", "/root", "/run", "/data")
    assert (done.returncode, done.stdout) == (0, "/root\n/run\n/data\n"), done.stderr
    assert {"C /root", "A /run", "A /data"} <= set(sandbox_cmd("diff", "b").stdout.splitlines())
    assert sandbox_cmd("commit", "-q", "b", "next").returncode == 0


def test_a_working_directory_that_was_replaced(run: Command, store: Store) -> None:
    put_image(store, "docker.io/library/base:latest", [BASE], {"WorkingDir": "/srv/app"})
    script = "cd /; rm -rf /srv/app; touch /srv/app"
    assert run("--name", "b", "--keep", "--image", "base", "--", "sh", "-c", script).returncode == 0
    done = run("--name", "b", "--", "true")
    assert done.returncode in (125, 126) and "/srv/app" in done.stderr
    assert run("--name", "b", "-w", "/", "--", "sh", "-c", "rm /srv/app").returncode == 0
    assert run("--name", "b", "--", "pwd").stdout == "/srv/app\n"


def test_a_removal_that_comes_too_late_takes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    image = store.image(store.refs.all()["docker.io/library/base:latest"])
    boxes = Boxes(store)
    boxes.make("b", "base", image).close()
    real = boxmodule.try_lock

    def replaced(fd: int) -> bool:
        monkeypatch.setattr(boxmodule, "try_lock", real)
        boxes.remove("b")
        boxes.make("b", "base", image).close()
        return real(fd)

    monkeypatch.setattr(boxmodule, "try_lock", replaced)
    with pytest.raises(ImageError, match="there is no sandbox b"):
        boxes.remove("b")
    assert boxes.exists("b") and pin_of("b") in store.refs.all()


def test_the_name_that_keeps_its_image_is_no_image(run: Command, store: Store, sandbox_cmd: Command) -> None:
    assert run("--name", "b", "--keep", "--image", "base", "--", "true").returncode == 0
    for words in (["rm", pin_of("b")], ["tag", pin_of("b"), "x"], ["save", "-o", "x.tar", pin_of("b")]):
        assert sandbox_cmd("image", *words).returncode == 125
    number = store.image(store.refs.all()[pin_of("b")]).id.hex
    assert sandbox_cmd("image", "rm", number).stdout == "base:latest\n"
    assert list(store.refs.all()) == [pin_of("b")]
    assert run("--name", "b", "--", "true").returncode == 0


def test_a_damaged_record(run: Command, store: Store, sandbox_cmd: Command) -> None:
    assert run("--name", "b", "--keep", "--image", "base", "--", "true").returncode == 0
    boxes = Boxes(store)
    for data in (b"", b"[]", b'{"version": 2}', b'{"version": 1, "manifest": {}}', b"\xff"):
        Path(boxes.path, "b", "box.json").write_bytes(data)
        done = run("--name", "b", "--", "true")
        assert done.returncode == 125 and "makes no sense" in done.stderr
    assert sandbox_cmd("rm", "b").returncode == 0


def test_two_of_a_name(store: Store) -> None:
    boxes = Boxes(store)
    image = store.image(store.refs.all()["docker.io/library/base:latest"])
    boxes.make("b", "base", image).close()
    with pytest.raises(ImageError, match="already"):
        boxes.make("b", "base", image)
    assert os.listdir(boxes.path) == ["b"]


def test_it_is_mounted_by_its_own_driver(run: Command, sandbox_cmd: Command, tmp_path: Path) -> None:
    need("fuse-overlayfs")
    profile = tmp_path / "fuse.toml"
    profile.write_text('extends = "test"\nroot.driver = "fuse-overlayfs"\n')
    made = sandbox_cmd("run", "-p", profile, "--name", "b", "--keep", "--image", "base", "--", "touch", "/x")
    assert made.returncode == 0, made.stderr
    done = run("--name", "b", "--", "grep", " / ", "/proc/self/mounts")
    assert "fuse" in done.stdout and "overlay " not in done.stdout.split("fuse-overlayfs")[0]


# --- the API ---------------------------------------------------------------------------------------


def _with(**options: Any) -> dict[str, Any]:
    return {"profile": "test", "name": "b", "text": True, **options}


def test_the_api_keeps_a_run(store: Store, sandbox_cmd: Command) -> None:
    done = sandbox.run(["sh", "-c", "echo 1 > /root/f"], image="base", keep=True, **_with())
    assert done.returncode == 0, done.stderr
    assert sandbox.run(["cat", "/root/f"], **_with()).stdout == "1\n"
    with sandbox.Boxes().open("b") as box:  # at once: whoever ran in it is gone
        assert [str(each.path) for each in box.diff()] == ["/root", "/root/f"]
        assert box.commit("docker.io/library/next:latest").id
    assert sandbox.run(["cat", "/root/f"], profile="test", image="next").stdout == b"1\n"
    assert sandbox_cmd("diff", "b").stdout == "C /root\nA /root/f\n"
    sandbox.Boxes().remove("b")
    assert sandbox_cmd("ps", "-q").stdout == ""


def test_the_api_keeps_an_open_sandbox(store: Store, sandbox_cmd: Command) -> None:
    with sandbox.Sandbox("test", image="base", name="b", keep=True) as kept:
        kept.write_file("/root/f", "1\n")
        with pytest.raises(ImageError, match="in use"):
            sandbox.Boxes().open("b")
        with pytest.raises(ImageError, match="in use"):
            sandbox.run(["true"], **_with())
        assert sandbox_cmd("rm", "b").returncode == 125
    assert sandbox.run(["cat", "/root/f"], **_with()).stdout == "1\n"
    with sandbox.Sandbox("test", name="b") as kept:  # from a plan that is made anew: /root/f is known
        assert kept.read_file("/root/f") == b"1\n"


def test_the_api_leaves_no_box_of_a_launch_that_failed(store: Store) -> None:
    with pytest.raises(sandbox.SandboxError, match="nosuch"):
        sandbox.run(["true"], image="base", keep=True, user="nosuch", **_with())
    assert not sandbox.Boxes().exists("b")
    with pytest.raises(ValueError, match="keep=True takes name="):
        sandbox.run(["true"], profile="test", image="base", keep=True)
    with pytest.raises(sandbox.ProfileError, match="what changes in an image can be kept"):
        sandbox.run(["true"], keep=True, **_with())
    done = sandbox.run(["/none"], image="base", keep=True, **_with())
    assert done.verdict == "exec_failed" and sandbox.Boxes().exists("b")
    with pytest.raises(sandbox.ProfileError, match="is kept, and is of image:base") as raised:
        sandbox.run(["true"], image="other", **_with())
    assert raised.value.mend is not None and "sandbox rm b" in raised.value.mend


def test_a_box_is_free_when_its_supervisor_was_killed(store: Store) -> None:
    # with nothing else on disk, which would be there until this process ends
    kept = sandbox.Sandbox("test", image="base", name="b", keep=True, mounts={".": "ro"})
    kept.write_file("/root/f", "1\n")
    kept._channel.helper.kill()
    kept._channel.helper.wait()
    assert sandbox.run(["cat", "/root/f"], **_with()).stdout == "1\n"
    kept.close()


KEPT: dict[str, Any] = {"image": "base", "name": "u", "keep": True}


def test_a_limit_that_can_not_be_held_says_how_to_be_rid_of_it(store: Store, tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="what a kept sandbox changes is on the disk") as caught:
        sandbox.run(["true"], **{**_with(), "profile": "untrusted", **KEPT})
    said = str(caught.value.mend).partition("which says ")[2]
    (tmp_path / "mine.toml").write_text(re.sub(r", (?=[a-z.]+ = )", "\n", said) + "\n")
    own = str(tmp_path / "mine.toml")
    done = sandbox.run(["echo", "ok"], **{**_with(), "profile": own, **KEPT})
    assert done.stdout == "ok\n"


def test_what_a_sandbox_put_where_something_is_to_be_mounted(store: Store, tmp_path: Path) -> None:
    kept = {**_with(), **KEPT}
    sandbox.run(["sh", "-c", "mkdir /d; touch /f"], **kept)
    (tmp_path / "file").touch()
    for at, source, what in (
        ("/f", tmp_path, "is a directory, and what is there is none"),
        ("/d", tmp_path / "file", "is no directory, and what is there is one"),
    ):
        with pytest.raises(SandboxError, match=f"(?s){at}: what is mounted {what}.*`sandbox diff NAME`"):
            sandbox.run(["true"], **kept, mounts={at: {"source": str(source), "mode": "ro"}})
