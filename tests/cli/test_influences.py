"""A plan depends on nothing that its key in the cache does not have: which variables are read on the way."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator, MutableMapping
from pathlib import Path

import pytest

from sandbox.cli import fast
from sandbox.cli.planned import prepared_for
from sandbox.cli.run import build_parser
from sandbox.profile import overrides_from

PACKAGE = Path(fast.__file__).parent.parent

#: Read, but not for a plan: how errors are shown, what `doctor` and `shell` do.
ELSEWHERE = {
    ("SANDBOX_DEBUG", "cli/app.py"),
    ("SHELL", "cli/shell.py"),
    ("TERM", "image/build/running.py"),
    ("XDG_RUNTIME_DIR", "host/cgroups.py"),
}
#: No plan is made from these: they move and make images.
PLANLESS = (
    "cli/image/",
    "image/auth.py",
    "image/bootstrap.py",
    "image/compose.py",
    "image/progress.py",
    "image/registry/",
)
#: Where names are not written out: what they come from is in `INFLUENCES` by the other tests here.
COMPUTED = {
    "cli/fast.py": 2,  # INFLUENCES itself, and the kept ones, which are by value
    "launch/prepare.py": 3,  # the kept ones
    "paths.py": 1,  # the XDG variables
    "plan/guards.py": 1,  # tables.RUNTIME_VARIABLES
}


class Recorder(MutableMapping[str, str]):
    """The environment, with what was asked of it."""

    def __init__(self) -> None:
        self.inner = dict(os.environ)
        self.asked: set[str] = set()
        self.walks = 0

    def __getitem__(self, name: str) -> str:
        self.asked.add(name)
        return self.inner[name]

    def __iter__(self) -> Iterator[str]:
        self.walks += 1
        return iter(self.inner)

    def items(self):  # type: ignore[no-untyped-def, override]
        self.walks += 1
        return self.inner.items()

    def __len__(self) -> int:
        return len(self.inner)

    def __setitem__(self, name: str, value: str) -> None:
        raise AssertionError(f"planning sets {name}")

    def __delitem__(self, name: str) -> None:
        raise AssertionError(f"planning takes away {name}")


@pytest.mark.parametrize("unset", [(), ("HOME",), ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR")])
@pytest.mark.parametrize(
    "words",
    [
        [],
        *(["-p", name] for name in ("base", "dev", "test", "untrusted")),
        ["-u", "root", "-w", "~", "--net", "host"],
        ["--root", "root", "-v", "root:/data", "--env-file", "env", "-e", "KEPT"],
    ],
    ids=" ".join,
)
def test_a_plan_reads_no_variable_that_its_key_lacks(
    tmp_home: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], unset: tuple[str, ...]
) -> None:
    work = tmp_home / "work"
    (work / "root" / "etc").mkdir(parents=True)
    (work / "env").write_text("A=1\n")
    monkeypatch.chdir(work)
    for name in unset:
        monkeypatch.delenv(name)
    monkeypatch.setenv("KEPT", "1")
    options = build_parser().parse(words)
    recorder = Recorder()
    monkeypatch.setattr(os, "environ", recorder)
    try:
        prepared_for(options.profile, overrides_from(options))
    finally:
        monkeypatch.undo()
    assert recorder.asked - set(fast.INFLUENCES) == set()
    assert recorder.asked, "nothing was recorded"
    assert recorder.walks == 1, "one look at all variables, for those that are kept"


def test_no_variable_is_read_that_the_key_lacks() -> None:
    """The same by the source, for ways that no test goes."""
    computed: dict[str, int] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        where = str(path.relative_to(PACKAGE))
        if where.startswith(PLANLESS):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for name in _asked(node):
                if name is None:
                    computed[where] = computed.get(where, 0) + 1
                elif (name, where) not in ELSEWHERE:
                    assert name in fast.INFLUENCES, f"{where} reads {name}: put it into INFLUENCES"
    assert computed == COMPUTED


def _asked(node: ast.AST) -> Iterator[str | None]:
    """Names of variables that an expression reads; None for one that is computed."""
    for is_read, key in _reads(node):
        if is_read:
            yield key.value if isinstance(key, ast.Constant) else None


def _reads(node: ast.AST) -> Iterator[tuple[bool, ast.AST]]:
    match node:
        case ast.Call(func=ast.Attribute(value=owner, attr="get" | "pop"), args=[key, *_]):
            yield _is_environ(owner), key
        case ast.Call(func=ast.Attribute(value=ast.Name(id="os"), attr="getenv"), args=[key, *_]):
            yield True, key
        case ast.Subscript(value=owner, slice=key):
            yield _is_environ(owner), key
        case ast.Compare(left=key, ops=[ast.In() | ast.NotIn()], comparators=[owner]):
            yield _is_environ(owner), key


def _is_environ(node: ast.AST) -> bool:
    return (isinstance(node, ast.Attribute) and node.attr == "environ") or (
        isinstance(node, ast.Name) and node.id == "environ"
    )


def test_the_scan_finds_reads() -> None:
    source = "os.environ['A']; os.getenv('B'); environ.get('C', ''); 'D' in self.environ; os.environ[x]"
    found = [name for node in ast.walk(ast.parse(source)) for name in _asked(node)]
    assert sorted(map(str, found)) == ["A", "B", "C", "D", "None"]
