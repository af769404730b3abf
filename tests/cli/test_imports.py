"""What `sandbox run` imports: on a cache hit next to nothing, on a miss nothing heavy."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import sandbox

pytestmark = [pytest.mark.integration, pytest.mark.as_root]

ROOT = Path(sandbox.__file__).parent.parent
#: prints the modules that are loaded at the moment of the exec, on descriptor 3
WATCH = """
import os, sys
execve = os.execve
def watching(*arguments):
    os.write(int(sys.argv[1]), "\\n".join(sys.modules).encode())
    return execve(*arguments)
os.execve = watching
before = set(sys.modules)
from sandbox.cli.fast import main
sys.exit(main(sys.argv[2:]))
"""
NEVER = (
    "pyroute2",
    "asyncio",
    "rich",
    "urllib3",
    "importlib.metadata",
    "subprocess",
    "multiprocessing",
    "email",
)


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], set[str]]:
    """Run `sandbox run true`; the modules loaded when the helper was executed."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "work").mkdir()

    def run() -> set[str]:
        read, write = os.pipe()
        try:
            subprocess.run(
                [sys.executable, "-c", WATCH, str(write), "run", "--", "true"],
                pass_fds=[write],
                cwd=tmp_path / "work",
                check=True,
                timeout=60,
            )
            os.close(write)
            write = -1
            with open(read, "rb", closefd=False) as file:
                return set(file.read().decode().split())
        finally:
            os.close(read)
            if write >= 0:
                os.close(write)

    return run


def test_a_hit_imports_next_to_nothing(modules: Callable[[], set[str]]) -> None:
    bare = subprocess.run(
        [sys.executable, "-c", "import sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    miss, hit = modules(), modules()
    ours = {"sandbox", "sandbox.cli", "sandbox.cli.fast"}
    assert hit - set(bare.stdout.split()) - {"os", "sys", "marshal"} == ours
    assert len(miss) > len(hit)


def test_a_miss_imports_nothing_heavy(modules: Callable[[], set[str]]) -> None:
    loaded = modules()
    assert "sandbox.plan.compile" in loaded
    assert [
        name for name in loaded if name in NEVER or name.startswith(tuple(f"{each}." for each in NEVER))
    ] == []


def test_importing_the_package_imports_nothing() -> None:
    code = "import sys; before = set(sys.modules); import sandbox; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "sandbox\n"


def test_public_names_are_there() -> None:
    for name in sandbox.__all__:
        assert getattr(sandbox, name) is not None
    assert set(sandbox.__all__) <= set(dir(sandbox))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = sandbox.nonsense
