"""Each defence is taken away in a copy of the tree, and its test must notice."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.security.mutants import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parent.parent.parent
PARTS = ("sandbox", "helpers", "configs", "scripts", "tests", "pyproject.toml")
TESTS_FAILED = 1  # pytest's exit status; anything else means that they did not run

pytestmark = pytest.mark.mutation


def copy_tree(target: Path) -> None:
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, target / part, ignore=shutil.ignore_patterns("__pycache__", "_helper"))
        else:
            shutil.copy(source, target / part)
    target.chmod(0o755)


def run_tests(tree: Path, mutant: Mutant) -> subprocess.CompletedProcess[str]:
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "PYTHONPATH"))
    }
    return subprocess.run(
        [
            sys.executable,
            "-B",
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            "-k",
            mutant.tests,
            mutant.where,
        ],
        cwd=tree,
        env=environ,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.defence for mutant in MUTANTS])
def test_a_defence_that_is_gone_is_noticed(mutant: Mutant, tmp_path: Path) -> None:
    copy_tree(tmp_path)
    for name, old, new in mutant.edits:
        text = (tmp_path / name).read_text()
        assert text.count(old) == 1, f"{name} has changed: mend mutants.py"
        (tmp_path / name).write_text(text.replace(old, new))
    done = run_tests(tmp_path, mutant)
    assert done.returncode == TESTS_FAILED, done.stdout[-3000:] + done.stderr[-2000:]
