"""What imports what: reading names and documents costs little, and urllib3 comes with a transfer only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def loaded(module: str) -> set[str]:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {module}; print(*sys.modules)"
    command = [sys.executable, "-S", "-c", code]  # what .pth files load is not ours
    if module.endswith(("pull", "push")):
        command.remove("-S")
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module", ["reference", "digest", "platform", "manifest", "strict_json", "progress", "config", "auth"]
)
def test_light(module: str) -> None:
    heavy = {"urllib3", "http.client", "ssl", "email", "asyncio", "concurrent.futures", "multiprocessing"}
    assert not heavy & loaded(f"sandbox.image.{module}")


@pytest.mark.parametrize("module", ["pull", "push"])
def test_heavy(module: str) -> None:
    modules = loaded(f"sandbox.image.{module}")
    assert "urllib3" in modules
    assert not {"asyncio", "multiprocessing", "requests"} & modules


def test_unpacking_is_lighter_still() -> None:
    """Each layer has a process of its own, and its start is what the smallest of them wait for."""
    names = ("worker", "compress", "copied", "apply", "tar")
    modules = loaded(", ".join(f"sandbox.image.layer.{name}" for name in names))
    assert not {"json", "re", "enum", "typing", "dataclasses", "threading"} & modules
