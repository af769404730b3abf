"""Private networks for tests, in a home of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import sandbox
from sandbox.net.private import store
from sandbox.net.private.store import PrivateNetwork
from tests.net.private.inside import ASK, PYTHON, SERVER
from tests.support.needs import need

Make = Callable[..., PrivateNetwork]


@pytest.fixture
def network(helper: Path, tmp_home: Path) -> Iterator[Make]:
    """Makes networks without a way out."""
    need("userns", "nft")

    def make(name: str = "lab", *, internal: bool = True) -> PrivateNetwork:
        return store.create(PrivateNetwork(name, "", "", internal))

    yield make


class Box:
    """A sandbox on a network, in which a server can run."""

    def __init__(self, network: str, name: str, **overrides: object) -> None:
        values = {"process.hostname": name, **overrides}
        self.sandbox = sandbox.Sandbox("default", cwd="/usr", net=network, overrides=values)
        self.name = name
        self._server: sandbox.Process | None = None

    def serve(self) -> Box:
        self._server = self.sandbox.popen(
            [PYTHON, "-c", SERVER, self.name], stdin=sandbox.PIPE, stdout=sandbox.PIPE, text=True
        )
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == "up\n"
        return self

    def ask(self, *words: str) -> dict[str, str | None]:
        """What each KIND:HOST says, None where nothing does."""
        done = self.sandbox.run([PYTHON, "-c", ASK, *words], text=True)
        found: dict[str, str | None] = {}
        for line in done.stdout.splitlines():
            word, _, said = line.partition(" ")
            found[word] = None if said.startswith("- ") else said
        assert len(found) == len(words), done.stderr
        return found

    def addresses(self) -> list[str]:
        """Of its device, IPv4 and IPv6."""
        script = "ip -o address show dev eth0 | tr -s ' ' | cut -d' ' -f4"
        done = self.sandbox.run(["sh", "-c", f"PATH=$PATH:/usr/sbin:/sbin; {script}"], text=True)
        return [line.partition("/")[0] for line in done.stdout.split()]

    def close(self) -> None:
        if self._server is not None and self._server.stdin and self._server.stdout:
            self._server.stdin.close()
            self._server.stdout.close()
        self.sandbox.close()


@pytest.fixture
def box() -> Iterator[Callable[..., Box]]:
    """Makes sandboxes, which end with the test."""
    made: list[Box] = []

    def make(network: str, name: str, **overrides: object) -> Box:
        made.append(Box(network, name, **overrides))
        return made[-1]

    yield make
    for each in made:
        each.close()
