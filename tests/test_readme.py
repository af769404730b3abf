"""Every command and every piece of Python in README.md runs, and says what README says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.needs import need

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)

pytestmark = [pytest.mark.integration, pytest.mark.as_root]


def blocks(language: str) -> list[str]:
    found = [text for name, text in BLOCKS if name == language]
    assert found
    return found


def transcript(block: str) -> list[tuple[str, list[str]]]:
    """The commands of a console block, each with the lines that it is said to print."""
    steps: list[tuple[str, list[str]]] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            steps.append((line[2:], []))
        else:
            steps[-1][1].append(line)
    return steps


@pytest.fixture
def project(tmp_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory that README's reader is in, and `sandbox` on PATH."""
    tmp_home.chmod(0o755)
    directory = tmp_home / "project"
    directory.mkdir(mode=0o777)
    directory.chmod(0o777)
    (directory / "solution.py").write_text("n = int(input())\nprint(sum(i * i for i in range(n)))\n")
    (directory / "hello.c").write_text(
        '#include <stdio.h>\nint main(void) { puts("hello from C"); return 0; }\n'
    )
    (directory / "project.toml").write_text(blocks("toml")[0])
    need("busybox")
    programs = tmp_home / "bin"
    programs.mkdir()
    command = programs / "sandbox"
    command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -B -m sandbox "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return directory


def test_the_transcripts(project: Path) -> None:
    """All in one shell, since one step's `$?` and files are the next one's."""
    steps = [step for block in blocks("console") for step in transcript(block)]
    mark = "-- end of step --"
    script = "".join(f"{command}\nstatus=$?; echo '{mark}'; (exit $status)\n" for command, _ in steps)
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=project,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    outputs = done.stdout.split(mark + "\n")
    assert len(outputs) == len(steps) + 1, done.stdout
    for (command, expected), output in zip(steps, outputs, strict=False):
        said = [line.rstrip() for line in output.splitlines()]
        if expected[-1:] == ["..."]:
            expected, said = expected[:-1], said[: len(expected) - 1]
        assert said == expected, command


@pytest.mark.parametrize("code", blocks("python"))
def test_the_python(project: Path, code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
