"""Each defence is taken away in a copy of the tree, and its test must notice.

The copy still has to run a plain command: in a tree where nothing works every test fails, whether it
defends something or not.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.image.mutants import MUTANTS as IMAGE_MUTANTS
from tests.security.mutants import MUTANTS, Mutant
from tests.support import leaks
from tests.support.needs import need

ALL = [*MUTANTS, *IMAGE_MUTANTS]

ROOT = Path(__file__).resolve().parent.parent.parent
PARTS = ("sandbox", "helpers", "configs", "scripts", "tests", "pyproject.toml")
HELPER = Path("sandbox", "_helper", "sandbox-helper")
TESTS_FAILED = 1  # pytest's exit status; anything else means that they did not run
PATIENCE = 240.0  # less than faulthandler_timeout

pytestmark = pytest.mark.mutation


class Compiler:
    """Compiles a mutant's helper. What a mutant leaves as it is, which is nearly all, is compiled once."""

    def __init__(self, objects: Path) -> None:
        sys.path.insert(0, str(ROOT / "scripts"))
        try:
            import build_helper
        finally:
            sys.path.remove(str(ROOT / "scripts"))
        found = build_helper.find_compiler()
        assert found, "a C compiler is needed"
        self.command = [*found, *build_helper.FLAGS, "-w"]
        self.objects = objects

    def build(self, tree: Path, changed: set[str]) -> None:
        """Make the helper of *tree*, of whose helpers/ only *changed* differs from ours."""
        headers = any(name.endswith(".h") for name in changed)
        objects = [
            self._compile(source, tree if headers or source.name in changed else self.objects)
            for source in sorted((tree / "helpers").glob("*.c"))
        ]
        self._run(*objects, "-o", tree / HELPER)

    def _compile(self, source: Path, place: Path) -> Path:
        target = place / f"{source.stem}.o"
        if not target.exists():
            self._run("-c", source, "-o", target)
        return target

    def _run(self, *arguments: str | Path) -> None:
        done = subprocess.run([*self.command, *map(str, arguments)], capture_output=True, text=True)
        assert done.returncode == 0, f"the mutant does not compile: {done.stderr[-2000:]}"


@pytest.fixture(scope="session")
def compiler(helper: Path, tmp_path_factory: pytest.TempPathFactory) -> Compiler:
    return Compiler(tmp_path_factory.mktemp("objects"))


def make_tree(target: Path, mutant: Mutant, compiler: Compiler) -> None:
    """A copy of ours, which has a helper that is fresh, with *mutant*'s edits."""
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, target / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target / part)
    target.chmod(0o755)
    for name, old, new in mutant.edits:
        text = (target / name).read_text()
        assert text.count(old) == 1, f"{name} has changed: mend mutants.py"
        (target / name).write_text(text.replace(old, new))
    changed = {Path(name).name for name, _, _ in mutant.edits if name.startswith("helpers/")}
    if changed:
        compiler.build(target, changed)


def run_python(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "PYTHONPATH"))
    }
    return subprocess.run(
        [sys.executable, "-B", *arguments],
        cwd=tree,
        env={**environ, "PYTHONPATH": str(tree)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


@contextmanager
def nothing_left() -> Iterator[None]:
    """End what a mutant leaves running: without the defence that would have ended it, it stays."""
    before = leaks.State.take().processes
    try:
        yield
    finally:
        deadline = time.monotonic() + leaks.GRACE
        while left := leaks.State.take().processes - before:
            assert time.monotonic() < deadline, f"cannot end {left}"
            for each in left:  # descendants of ours
                with suppress(ProcessLookupError):
                    os.kill(int(each.split()[0]), signal.SIGKILL)
            time.sleep(0.02)


@pytest.mark.parametrize(
    "mutant",
    [pytest.param(each, id=each.defence, marks=pytest.mark.as_root if each.as_root else ()) for each in ALL],
)
def test_a_defence_that_is_gone_is_noticed(mutant: Mutant, tmp_path: Path, compiler: Compiler) -> None:
    if mutant.as_root:
        need("root")
    make_tree(tmp_path, mutant, compiler)
    with nothing_left():
        plain = run_python(tmp_path, "-m", "sandbox", "run", "-p", "base", "--", "true")
        assert (plain.returncode, plain.stdout, plain.stderr) == (0, "", ""), "nothing works without it"
        options = ("-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", mutant.tests)
        done = run_python(tmp_path, "-m", "pytest", *options, mutant.where)
    assert done.returncode == TESTS_FAILED, done.stdout[-3000:] + done.stderr[-2000:]
