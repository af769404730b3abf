"""Each defence is taken away in a copy of the tree, and its test must notice.

The copy still has to run a plain command: in a tree where nothing works every test fails, whether it
defends something or not.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

import pytest

from tests.egress.mutants import MUTANTS as EGRESS_MUTANTS
from tests.image.build.mutants import MUTANTS as BUILD_MUTANTS
from tests.image.mutants import MUTANTS as IMAGE_MUTANTS
from tests.net.mutants import MUTANTS as NET_MUTANTS
from tests.net.private.mutants import MUTANTS as PRIVATE_MUTANTS
from tests.security.cgroup_mutants import MUTANTS as CGROUP_MUTANTS
from tests.security.mutants import MUTANTS, Mutant
from tests.support import leaks
from tests.support.forked import Forked
from tests.support.needs import need

ALL = [
    *MUTANTS,
    *IMAGE_MUTANTS,
    *BUILD_MUTANTS,
    *CGROUP_MUTANTS,
    *EGRESS_MUTANTS,
    *NET_MUTANTS,
    *PRIVATE_MUTANTS,
]

ROOT = Path(__file__).resolve().parent.parent.parent
PARTS = ("sandbox", "helpers", "configs", "scripts", "tests", "pyproject.toml")
HELPER = Path("sandbox", "_helper", "sandbox-helper")
TESTS_FAILED = 1  # pytest's exit status; anything else means that they did not run
PATIENCE = 240.0  # less than faulthandler_timeout

pytestmark = pytest.mark.mutation


class Compiler:
    """Compiles a mutant's helper. What a mutant leaves as it is, which is nearly all, is compiled once, into
    the directory *objects*, which several processes may share."""

    def __init__(self, objects: Path) -> None:
        sys.path.insert(0, str(ROOT / "scripts"))
        try:
            import build_helper
        finally:
            sys.path.remove(str(ROOT / "scripts"))
        found = build_helper.find_compiler()
        assert found, "a C compiler is needed"
        self.command = [*found, *build_helper.FLAGS, "-w", "-O0"]  # optimizing takes most of the time
        self.objects = objects
        objects.mkdir(exist_ok=True)
        with (objects / "lock").open("w") as lock, ThreadPoolExecutor(os.cpu_count()) as threads:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for _ in threads.map(lambda source: self._compile(source, objects), self._sources(ROOT)):
                pass

    def build(self, tree: Path, mutant: Mutant) -> None:
        """Make the helper of *tree*, which differs from ours by *mutant*'s edits."""
        changed = changed_sources(mutant)
        headers = any(name.endswith(".h") for name in changed)
        objects = [
            self._compile(source, tree if headers or source.name in changed else self.objects)
            for source in self._sources(tree)
        ]
        (tree / HELPER).parent.mkdir(exist_ok=True)
        self._run(*objects, "-o", tree / HELPER)

    @staticmethod
    def _sources(tree: Path) -> list[Path]:
        return sorted((tree / "helpers").glob("*.c"))

    def _compile(self, source: Path, place: Path) -> Path:
        target = place / f"{source.stem}.o"
        if not target.exists():
            self._run("-c", source, "-o", target)
        return target

    def _run(self, *arguments: str | Path) -> None:
        done = subprocess.run([*self.command, *map(str, arguments)], capture_output=True, text=True)
        assert done.returncode == 0, f"the mutant does not compile: {done.stderr[-2000:]}"


def changed_sources(mutant: Mutant) -> set[str]:
    return {Path(name).name for name, _, _ in mutant.edits if name.startswith("helpers/")}


@pytest.fixture(scope="session")
def compiler(helper: Path, tmp_path_factory: pytest.TempPathFactory) -> Compiler:
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    return Compiler(shared / "objects")


def make_tree(target: Path, mutant: Mutant) -> None:
    """A copy of ours, which has a helper that is fresh, with *mutant*'s edits. What is compiled is as old as
    there, and is of use where nothing was edited."""
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, target / part, ignore=shutil.ignore_patterns("*-pytest-*"))
        else:
            shutil.copy2(source, target / part)
    target.chmod(0o755)
    edit(target, mutant)


def edit(tree: Path, mutant: Mutant) -> None:
    for name, old, new in mutant.edits:
        text = (tree / name).read_text()
        assert text.count(old) == 1, f"{name} has changed: mend mutants.py"
        (tree / name).write_text(text.replace(old, new))


class Builder(Protocol):
    def build(self, tree: Path, mutant: Mutant) -> None: ...


class Tree:
    """A copy of ours for one mutant after another: to make one takes longer than most of their tests. When
    anything in it is not as it was made, the next has another."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._made: State = {}

    @contextmanager
    def changed(self, mutant: Mutant, place: Path, compiler: Builder) -> Iterator[Path]:
        """The tree with *mutant*'s edits; *place* is a directory of the test's own."""
        tree = self._path or self._make(place / "tree")
        self._path = None
        files = [tree / name for name in {name for name, _, _ in mutant.edits}]
        before = [(file, file.read_bytes(), file.stat()) for file in files]
        built = bool(changed_sources(mutant))
        if built:
            (tree / HELPER).rename(place / HELPER.name)
        try:
            edit(tree, mutant)
            if built:
                compiler.build(tree, mutant)
            yield tree
        finally:
            with suppress(OSError):
                for file, data, status in before:
                    file.write_bytes(data)
                    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
                if built:
                    (place / HELPER.name).replace(tree / HELPER)
                for compiled in tree.glob("*.o"):
                    compiled.unlink()
                if state_of(tree) == self._made:
                    self._path = tree

    def _make(self, path: Path) -> Path:
        path.mkdir()
        make_tree(path, Mutant("", (), "", ""))
        self._made = state_of(path)
        return path


State = dict[str, tuple[int, ...]]


def state_of(tree: Path) -> State:
    """What tells that something below *tree* was changed."""
    found = [path for path in tree.rglob("*") if not path.is_dir()]
    return {
        str(path): (each.st_ino, each.st_mode, each.st_size, each.st_mtime_ns)
        for path in found
        for each in [path.lstat()]
    }


tree_of_mutants = Tree()
pytest_of_a_tree = Forked(SANDBOX_TEST_PATIENCE="18")


def run_plainly(tree: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """*home* is a new one: plans of the mutant before are in none."""
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST_", "PYTHONPATH", "XDG_CACHE"))
    }
    return subprocess.run(
        [sys.executable, "-B", "-m", "sandbox", "run", "-p", "base", "--", "true"],
        cwd=tree,
        env={**environ, "PYTHONPATH": str(tree), "HOME": str(home)},
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
    notice(mutant, tmp_path, compiler)


def notice(mutant: Mutant, tmp_path: Path, compiler: Builder) -> None:
    pytest_of_a_tree.start()
    with tree_of_mutants.changed(mutant, tmp_path, compiler) as tree, nothing_left():
        plain = run_plainly(tree, tmp_path)
        assert (plain.returncode, plain.stdout, plain.stderr) == (0, "", ""), "nothing works without it"
        # That it fails is of interest, not how: rewritten assertions cost more than they tell.
        options = ("-q", "-x", "--assert=plain", "-p", "no:cacheprovider", "-p", "no:xdist")
        output = tmp_path / "output"
        status = pytest_of_a_tree.run(tree, [*options, "-k", mutant.tests, mutant.where], output, PATIENCE)
    assert status == TESTS_FAILED, output.read_text(errors="replace")[-5000:]
