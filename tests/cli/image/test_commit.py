"""`sandbox commit` and `diff` as users type them; what a box is, is tested in tests/box."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration]

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def box(image: Command, sandbox_cmd: Command, work: Path, need: Callable[..., None]) -> Iterator[Command]:
    """`sandbox WORDS`, where a kept sandbox called box has made /new and removed /etc/old."""
    need("busybox")
    (work / "root/bin").mkdir(parents=True)
    (work / "root/etc").mkdir()
    (work / "root/etc/old").write_text("old\n")
    shutil.copy(shutil.which("busybox") or "", work / "root/bin/busybox")
    image("import", "-q", "-c", "ENV A=1 B=2", "root", "base:1")
    change = "echo hello > /new; busybox rm /etc/old; >'/new\nline'"
    words = ["run", "--image", "base:1", "--name", "box", "--keep", "--", "busybox", "sh", "-c", change]
    assert sandbox_cmd(*words).returncode == 0
    yield sandbox_cmd
    sandbox_cmd("rm", "-f", "box")


def test_a_commit_says_what_it_is(box: Command, image: Command) -> None:
    words = ["-c", "ENV A=3 C=4", "-c", 'CMD ["busybox", "cat", "/new"]', "-m", "a file", "-a", "ali"]
    done = box("commit", *words, "box", "new:1")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(image("inspect", "new:1").stdout)
    assert found["id"] == done.stdout.strip()
    assert found["config"]["config"]["Env"] == ["A=3", "B=2", "C=4"]
    step = json.loads(image("history", "--json", "new:1").stdout)[0]
    assert (step["comment"], step["author"], step["created_by"]) == ("a file", "ali", "sandbox commit")
    assert box("run", "--image", "new:1").stdout == "hello\n"
    assert box("run", "--image", "new:1", "--", "busybox", "ls", "/etc/old").returncode == 1
    assert box("commit", "-q", "box", "again:1").stdout == ""


def test_the_same_changes_give_the_same_image(box: Command) -> None:
    ids = {box("commit", "box", name, env={"SOURCE_DATE_EPOCH": "1700000000"}).stdout for name in ("a", "b")}
    assert len(ids) == 1 and ids.pop().startswith("sha256:")


def test_the_changes_are_told(box: Command) -> None:
    lines = box("diff", "box").stdout.splitlines()
    assert {"A /new", "C /etc", "D /etc/old", "A /new\\nline"} <= set(lines)
    found = json.loads(box("diff", "--json", "box").stdout)
    assert {"kind": "A", "path": "/new\nline"} in found


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["commit", "nope", "x"], "nope"),
        (["commit", "box", "X"], "X: names of images are in lower case"),
        (["commit", "box"], "the following arguments are required: IMAGE"),
        (["commit", "-c", "RUN x", "box", "y"], "--change RUN x: unknown instruction"),
        (["diff", "nope"], "nope"),
        (["diff"], "the following arguments are required: NAME"),
    ],
)
def test_wrong_input(box: Command, image: Command, words: list[str], message: str) -> None:
    done = box(*words)
    assert (done.returncode, done.stdout) == (125, "")
    assert message in done.stderr and "Traceback" not in done.stderr
    assert len(image("ls").stdout.splitlines()) == 2
