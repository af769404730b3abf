"""A home with a project in it, and resolving from there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandbox import paths
from sandbox.plan import Invocation
from sandbox.profile.model import Mount, Origin, Profile, Root
from tests.plan.making import Resolve, resolved


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with nothing in it, whose XDG directories do not exist yet, beside an installation."""
    real = Path(os.path.realpath(tmp_path))
    directory = real / "home"
    directory.mkdir()
    for name in ("CONFIG", "CACHE", "DATA", "STATE"):
        monkeypatch.delenv(f"XDG_{name}_HOME", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setenv("HOME", str(directory))
    monkeypatch.setattr(paths, "installation", lambda: (str(real / "installed"),))
    (real / "installed").mkdir()
    return directory


@pytest.fixture
def project(home: Path) -> Path:
    directory = home / "project"
    directory.mkdir()
    return directory


@pytest.fixture
def resolve(project: Path) -> Resolve:
    def call(*mounts: Mount, cwd: Path = project, root: Root | None = None, **more: object) -> Invocation:
        origins = more.pop(
            "origins", {f'mounts."{each.destination}"': Origin("p.toml", 9) for each in mounts}
        )
        profile = Profile(mounts=mounts, root=root or Root(), origins=origins, **more)  # type: ignore[arg-type]
        return resolved(profile, str(cwd))

    return call
