"""`sandbox build`: its options, what it prints, how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.image.build.rootfs import busybox
from tests.launch.test_terminal import Terminal

pytestmark = pytest.mark.integration

Command = Callable[..., subprocess.CompletedProcess[str]]


def write(work: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text(text)


@pytest.fixture
def base(image: Command, work: Path, need: Callable[..., None]) -> None:
    need("busybox")
    (work / "base.tar").write_bytes(busybox())
    image("import", "base.tar", "base")
    (work / "base.tar").unlink()


def config(image: Command, name: str) -> dict[str, object]:
    (found,) = json.loads(image("inspect", name).stdout)
    return found["config"]["config"]  # type: ignore[no-any-return]


def test_the_usual_way(image: Command, sandbox_cmd: Command, work: Path, base: None) -> None:
    write(work, {"Containerfile": "FROM base\nARG V=1\nCOPY a /\nRUN echo built $V\nENV A=$V\n", "a": "A"})
    done = sandbox_cmd("build", "-t", "tool", "-t", "tool:2", "--iidfile", "id", ".")
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert lines[0] == "[1/4] ARG V=1"
    assert "built 1" in lines
    assert lines[-1] == "built tool:latest, tool:2: 2 steps run, 0 from the cache"
    assert done.stdout.strip() == (work / "id").read_text()
    assert image("ls", "tool").stdout.count("\ntool:") == 2
    again = sandbox_cmd("build", "-t", "tool", "-q", ".")
    assert (again.stdout, again.stderr) == (done.stdout, "")
    why = sandbox_cmd("build", "--explain-cache", "--build-arg", "V=2", "-t", "tool")
    assert "[3/4] RUN echo built $V\n    ARG V is 2, was 1\n" in why.stderr
    assert config(image, "tool")["Env"] == ["A=2"]


def test_a_failed_step(sandbox_cmd: Command, work: Path, base: None) -> None:
    write(work, {"Containerfile": "FROM base\nRUN echo no; exit 9\n"})
    for options in ([], ["-q"]):
        done = sandbox_cmd("build", *options, ".")
        assert done.returncode == 1
        assert done.stdout == ""
        assert "Containerfile:2:1: the step failed: exit status 9\n2 | RUN" in done.stderr
        assert done.stderr.count("\nno\n") + done.stderr.endswith("\nno") == 1


@pytest.fixture
def terminal(work: Path) -> Iterator[Terminal]:
    made = Terminal(work)
    yield made
    os.close(made.fd)
    with contextlib.suppress(ProcessLookupError):
        os.kill(made.pid, signal.SIGKILL)
    os.waitpid(made.pid, 0)


def test_a_failed_step_is_entered(
    sandbox_cmd: Command, work: Path, base: None, tmp_home: Path, terminal: Terminal
) -> None:
    """What it left is there; nothing of it stays."""
    write(work, {"Containerfile": "FROM base\nRUN printf 'it is %s' here > /made && exit 9\n"})
    terminal.expect("READY> ")
    terminal.type(f"{sys.executable} -B -m sandbox build --debug-shell -t d .\n")
    terminal.expect("a shell where line 2 failed")
    terminal.expect("# ")
    terminal.type("cat /made && exit\n")
    terminal.expect("it is here")
    terminal.expect("the step failed: exit status 9")
    terminal.expect("READY> ")
    assert os.listdir(tmp_home / ".local/share/sandbox/images/work") == []
    done = sandbox_cmd("build", "--debug-shell", "-t", "d", ".")
    assert done.returncode == 1
    assert "sandbox: --debug-shell needs a terminal" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none"], "the context none is not there"),
        (["https://example.org/x.git"], "contexts are not fetched"),
        (["file"], "is no directory"),
        (["empty"], "there is no Containerfile, Dockerfile or build.toml"),
        (["-f", "none", "."], "cannot read none"),
        (["-t", "Up", "."], "Up"),
        (["--target", "x", "."], "there is no stage 'x'"),
        (["--secret", "src=x", "."], "it is id=ID,src=FILE"),
        (["--secret", "id=x,src=none", "."], "cannot read none"),
        (["--secret", "id=x,env=NONE", "."], "there is no variable NONE"),
        (["--platform", "linux/s390x", "."], "can't be built here"),
        (["--progress", "x", "."], "auto, plain or quiet"),
        (["--pull", "x", "."], "always, missing or never"),
        (["-p", "none", "."], "there is no profile"),
        (["--disk", "5M", "."], "option --disk: limits.disk can't be held"),
        (["-p", "untrusted", "."], 'extends = "untrusted", require = ["timeout", "pids", "output", '),
        (["--timeout", "x", "."], "--timeout"),
        (["--taget", "x", "."], "did you mean '--target'"),
        (["--iidfile", "/none/x", "."], "cannot write /none/x"),
        (["a", "b"], "unexpected argument 'b'"),
    ],
)
def test_mistakes(sandbox_cmd: Command, image: Command, work: Path, words: list[str], message: str) -> None:
    write(work, {"Containerfile": "FROM scratch\nCOPY file /\n", "file": "", "empty/x": ""})
    done = sandbox_cmd("build", *words)
    assert done.returncode == 125
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_wrong_files(sandbox_cmd: Command, image: Command, work: Path) -> None:
    write(
        work,
        {"Dockerfile": "FROM scratch\nCOPPY a /\n", "x.toml": "[build]\nfrm = 1\n", "y.toml": "[build\n"},
    )
    for words, message in (
        ((), "Dockerfile:2:1: unknown instruction COPPY"),
        (("-f", "x.toml"), "x.toml:2:1: unknown key 'frm'"),
        (("-f", "y.toml"), "y.toml:1:7: "),
    ):
        done = sandbox_cmd("build", *words)
        assert done.returncode == 125
        assert message in done.stderr


def test_files_from_elsewhere(sandbox_cmd: Command, image: Command, work: Path) -> None:
    write(
        work, {"c/a": "A", "c/b": "B", "f/Build": "FROM scratch\nCOPY . /\n", "c/x.containerignore": "b\nx*"}
    )
    write(work, {"c/x": "FROM scratch\nCOPY . /\n", "c/.dockerignore": "x*\n.dockerignore"})
    assert sandbox_cmd("build", "-f", "f/Build", "-t", "one", "c").returncode == 0
    assert sandbox_cmd("build", "-f", "c/x", "-t", "two", "c").returncode == 0
    assert sandbox_cmd("build", "-f", "-", "-t", "three", "c", input="FROM one\nCOPY a /z\n").returncode == 0
    assert sandbox_cmd("build", "-t", "four", "-", input='[build]\nfrom = "three"\n').returncode == 0
    names = {}
    for name in ("one", "two", "four"):
        image("export", name, "-o", f"{name}.tar")
        listed = subprocess.run(
            ["tar", "tf", f"{name}.tar"], capture_output=True, text=True, check=True
        ).stdout
        names[name] = sorted(listed.split())
    assert names == {
        "one": ["./", "a", "b"],
        "two": ["./", ".dockerignore", "a"],
        "four": ["./", "a", "b", "z"],
    }


def test_arguments_labels_and_secrets(
    sandbox_cmd: Command, image: Command, work: Path, base: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(work, {"secret": "sesame"})
    text = (
        "FROM base\nARG A\nARG B\nENV X=$A$B\n"
        "RUN --mount=type=secret,id=f --mount=type=secret,id=e cat /run/secrets/*\n"
    )
    monkeypatch.setenv("B", "from the environment")
    monkeypatch.setenv("E", "open")
    words = ["--build-arg", "A=1", "--build-arg", "B", "--build-arg", "C", "--label", "l=m"]
    words += ["--secret", "id=f,src=secret", "--secret", "id=e,env=E", "-t", "t", "-f", "-", "."]
    done = sandbox_cmd("build", *words, input=text)
    assert done.returncode == 0, done.stderr
    assert "opensesame" in done.stderr
    said = config(image, "t")
    assert (said["Env"], said["Labels"]) == (["X=1from the environment"], {"l": "m"})


def test_limits_and_network(sandbox_cmd: Command, work: Path, base: None) -> None:
    write(work, {"Containerfile": "FROM base\nRUN sleep 60\n"})
    done = sandbox_cmd("build", "--timeout", "0.5s", ".")
    assert done.returncode == 1
    assert "the step failed: killed: timeout 500ms" in done.stderr


def test_without_a_name(sandbox_cmd: Command, image: Command, work: Path) -> None:
    write(work, {"Containerfile": "FROM scratch\nCOPY Containerfile /\n"})
    done = sandbox_cmd("build")
    digest = done.stdout.strip().removeprefix("sha256:")
    assert f"localhost/build:{digest[:12]}" in image("ls").stdout.replace("  ", ":").replace(":::", ":")


def test_habits_of_docker(sandbox_cmd: Command, image: Command, work: Path) -> None:
    write(work, {"c/Dockerfile": "FROM scratch\nCOPY . /\n"})
    for words in (
        ["--pull", "--rm", "c"],
        ["--rm", "--force-rm", "c"],
        ["--pull", "c"],
        ["--pull=false", "c"],
    ):
        done = sandbox_cmd("build", *words)
        assert done.returncode == 0, done.stderr


def test_builds_are_pruned(sandbox_cmd: Command, image: Command, work: Path) -> None:
    write(work, {"Containerfile": "FROM scratch\nCOPY Containerfile /\n"})
    sandbox_cmd("build", "-t", "x")
    image("rm", "x")
    image("prune")
    assert "0 steps run, 1 from the cache" in sandbox_cmd("build", "-t", "x").stderr
    image("rm", "x")
    image("prune", "--builds")
    assert "1 steps run" in sandbox_cmd("build", "-t", "x").stderr
