"""Fixtures for images: registries, a store, options that don't wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from sandbox.image.config import Host, Registries
from sandbox.image.registry.connection import Patience
from sandbox.image.registry.session import Retry
from sandbox.image.transfer import Options
from tests.image import peers
from tests.image.images import DirectoryStore
from tests.image.scripted import Scripted, scripted


@pytest.fixture
def image_store(tmp_path: Path) -> DirectoryStore:
    """An empty store."""
    return DirectoryStore(tmp_path / "store")


@pytest.fixture
def no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's credentials, proxies or registries.toml."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("REGISTRY_AUTH_FILE", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "nobody"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home / "run"))


@pytest.fixture
def registry(
    tmp_path: Path, need: Callable[..., None], no_credentials: None
) -> Iterator[Callable[..., peers.Registry]]:
    """Start docker-registry, with the arguments of `peers.docker_registry`; any number of them."""
    need("docker-registry", "openssl")
    with ExitStack() as stack:
        started: list[peers.Registry] = []

        def start(**arguments: Any) -> peers.Registry:
            directory = arguments.pop("directory", tmp_path / f"registry{len(started)}")
            started.append(stack.enter_context(peers.docker_registry(directory, **arguments)))
            return started[-1]

        yield start


@pytest.fixture
def hostile(no_credentials: None) -> Iterator[Scripted]:
    """A registry that does what the test says."""
    with scripted() as registry:
        yield registry


@pytest.fixture
def options() -> Callable[..., Options]:
    """Options that don't wait long, for registries by plain HTTP: their names, or `Host`s."""

    def make(*hosts: str | Host, **settings: Any) -> Options:
        known = [Host(each, tls="off") if isinstance(each, str) else each for each in hosts]
        registries = Registries(
            "/registries.toml", {each.name: each for each in known}, settings.pop("auth_file", "")
        )
        patience = Patience(connect=5, header=1.0, commit=5, rate=1.0, rate_bytes=1000)
        settings = {"retry": Retry(3, 0.01, 0.5), "patience": patience, **settings}
        return Options(registries, **settings)

    return make
