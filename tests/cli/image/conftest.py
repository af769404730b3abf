"""Fixtures for the verbs of images: the command with a store of its own, small images, a registry."""

from __future__ import annotations

import contextlib
import io
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from sandbox.cli import app
from tests.image import peers

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def work(tmp_path: Path, tmp_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and nobody's credentials and proxies."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "SOURCE_DATE_EPOCH"):
        monkeypatch.delenv(name, raising=False)
    directory = tmp_path / "work"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture
def image(sandbox_cmd: Command, need: Callable[..., None], tmp_home: Path) -> Iterator[Command]:
    """`sandbox image ARGUMENTS`; with `fails=True` it must fail, else succeed. The store is removed at the
    end: some of its files are not ours to remove."""
    need("userns", "plain user", "idrange")

    def call(*words: str | Path, fails: bool = False, **options: Any) -> subprocess.CompletedProcess[str]:
        done = sandbox_cmd("image", *words, **options)
        assert done.returncode == (125 if fails else 0), done.stderr
        assert "Traceback" not in str(done.stderr)
        return done

    yield call
    store = tmp_home / ".local/share/sandbox/images"
    if store.exists():
        as_owner = ["unshare", "--map-root-user", "--map-auto", "rm", "-rf"]
        subprocess.run([*as_owner, store], check=True)


def here(*words: str | Path) -> str:
    """What `sandbox WORDS` prints, in this process: for what only prepares a test's own command."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert app.main([str(word) for word in words]) == 0, words
    return out.getvalue()


@pytest.fixture
def registry(tmp_path: Path, need: Callable[..., None]) -> Iterator[Callable[..., peers.Registry]]:
    """Start docker-registry, with the arguments of `peers.docker_registry`; any number of them."""
    need("docker-registry", "openssl")
    with ExitStack() as stack:
        started: list[peers.Registry] = []

        def start(**arguments: Any) -> peers.Registry:
            directory = tmp_path / f"registry{len(started)}"
            started.append(stack.enter_context(peers.docker_registry(directory, **arguments)))
            return started[-1]

        yield start


@pytest.fixture
def plain_registry(registry: Callable[..., peers.Registry], tmp_home: Path) -> peers.Registry:
    """A registry by plain HTTP that registries.toml knows."""
    started = registry()
    say(tmp_home, f'[registry."{started.name}"]\ntls = "off"\n')
    return started


def say(home: Path, text: str) -> None:
    """Write registries.toml."""
    (home / ".config/sandbox/registries.toml").write_text(text)


def rootfs(
    path: Path, content: dict[str, bytes] | None = None, *, more: list[tarfile.TarInfo] | None = None
) -> Path:
    """A root file system's archive at *path*: files by their names, owned by several users, and *more*."""
    with tarfile.open(path, "w") as tar:
        for name, uid in (("etc", 0), ("home", 7)):
            member = tarfile.TarInfo(name)
            member.type, member.mode, member.uid = tarfile.DIRTYPE, 0o755, uid
            tar.addfile(member)
        for name, data in (content or {"etc/hello": b"hello\n", "home/mine": b"7\n"}).items():
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.uid = len(data), 0o640, 7
            tar.addfile(member, io.BytesIO(data))
        for member in more or []:
            tar.addfile(member)
    return path


def entries(archive: bytes) -> dict[str, tuple[int, int, bytes | None]]:
    """(uid, mode, content) of what is in an archive, by name."""
    found = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isfile() else None
            found[member.name] = (member.uid, member.mode, file.read() if file else None)
    return found
