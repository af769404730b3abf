"""Fixtures for profiles: a home, a project in it, and shorthands for loading."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.profile import Profile, load


@pytest.fixture
def profile_file(tmp_home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Write TOML text to work/x.toml; the working directory is work."""
    work = tmp_home / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def write(text: str) -> Path:
        path = work / "x.toml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def loaded(profile_file: Callable[[str], Path]) -> Callable[[str], Profile]:
    """The profile of TOML text, as a file that is named by its path."""

    def from_text(text: str) -> Profile:
        profile_file(text)
        return load("./x.toml")

    return from_text


@pytest.fixture
def own_profile(tmp_home: Path) -> Callable[[str, str], Path]:
    """Write a profile of the user's, by name."""

    def write(name: str, text: str) -> Path:
        path = tmp_home / ".config/sandbox/profiles" / f"{name}.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


@pytest.fixture
def project(tmp_home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write a file of the project ~/project, by default sandbox.toml, and go there; returns its directory."""
    directory = tmp_home / "project"
    (directory / "sub").mkdir(parents=True)

    def write(text: str, name: str = "sandbox.toml", *, cwd: str = "") -> Path:
        (directory / name).write_text(text)
        monkeypatch.chdir(os.path.join(directory, cwd))
        return directory

    return write
