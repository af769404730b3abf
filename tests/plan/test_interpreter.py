"""What programs of ours run with, beside a sandbox."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

from sandbox.plan import interpreter


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sources that are not compiled yet."""
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "module.py").write_text("x = 1\n", encoding="utf-8")
    monkeypatch.setattr(interpreter.paths, "__file__", str(tmp_path / "paths.py"))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    interpreter.compile_package.cache_clear()
    return tmp_path / "part"


def test_a_package_is_compiled(package: Path) -> None:
    interpreter.compile_package("part")
    assert os.path.exists(importlib.util.cache_from_source(str(package / "module.py")))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_one_of_another_user_is_left_alone(package: Path) -> None:
    """A package that root installed without compiling it serves everybody."""
    package.chmod(0o555)
    try:
        interpreter.compile_package("part")
        assert os.listdir(package) == ["module.py"]
    finally:
        package.chmod(0o755)
