"""Fixtures for builds: a store, a context, and `build`, which has both."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from sandbox import host as hosts
from sandbox.image import garbage, listing
from sandbox.image.build import instructions, tomlfile
from sandbox.image.build.commands import Command, Runner
from sandbox.image.build.context import Context
from sandbox.image.build.engine import Builder, Built, Means, Settings
from sandbox.image.build.records import Records
from sandbox.image.build.report import Report
from sandbox.image.build.state import State
from sandbox.image.build.steps import Step
from sandbox.image.compose import Packed, export
from sandbox.image.store import Image, Store
from tests.support.needs import need


class Told(Report):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, bool | None, list[str]]] = []
        self.notes: list[str] = []

    def step(self, name: str, number: int, count: int, step: Step, cached: bool | None, reasons: Any) -> None:
        self.steps.append((step.text, cached, list(reasons)))

    def note(self, text: str) -> None:
        self.notes.append(text)

    @property
    def ran(self) -> list[str]:
        """The steps that were not found."""
        return [text for text, cached, _ in self.steps if cached is False]

    @property
    def reasons(self) -> list[list[str]]:
        """Why."""
        return [reasons for _, cached, reasons in self.steps if cached is False]


class NoRunner:
    """For builds that execute nothing; says what they would."""

    def __init__(self) -> None:
        self.commands: list[Command] = []

    def run(self, store: Store, state: State, command: Command, step: Step, report: Report) -> Packed | None:
        self.commands.append(command)
        return None


class Build:
    """`build(text, ...)` builds a Containerfile (or TOML, which begins with its table) from `context`."""

    def __init__(self, store: Store, context: Path) -> None:
        self.store = store
        self.context = context
        self.told = Told()
        self.runner: Runner = NoRunner()
        self.built: Built | None = None

    def __call__(self, text: str, *, tag: str = "", ignore: str = "", **settings: Any) -> Image:
        self.told = Told()
        if ignore:
            (self.context / ".dockerignore").write_text(ignore)
        reader = tomlfile.parse if text.lstrip().startswith("[") else instructions.parse
        recipe = reader("file", text.encode())
        cache = Records(self.store.path).digests
        with self.store.hold(), Context(str(self.context), cache, [".dockerignore"]) as context:
            builder = Builder(
                self.store,
                recipe,
                context,
                Settings(**settings),
                Means(self.find, self.runner, self.told),
                "file",
            )
            self.built = builder.build()
            self.store.set_ref(tag or "built:latest", self.built.image.descriptor)
        return self.built.image

    def find(self, name: str) -> Image:
        """Images are those of the store."""
        image = listing.lookup(self.store, name).image
        assert image is not None
        return image

    def write(self, files: Mapping[str, str | bytes]) -> None:
        """Put files into the context."""
        for name, content in files.items():
            path = self.context / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())

    def tree(self, image: Image) -> dict[str, tarfile.TarInfo]:
        """What an image has, by name."""
        with tarfile.open(fileobj=io.BytesIO(self.exported(image))) as tar:
            return {each.name: each for each in tar if each.name != "."}

    def read(self, image: Image, name: str) -> bytes:
        """The content of a file of an image."""
        with tarfile.open(fileobj=io.BytesIO(self.exported(image))) as tar:
            file = tar.extractfile(name)
            assert file is not None
            return file.read()

    def exported(self, image: Image) -> bytes:
        """All that an image has, as an archive."""
        if not image.manifest.layers:
            empty = io.BytesIO()
            tarfile.open(fileobj=empty, mode="w").close()
            return empty.getvalue()
        with open(self.context.parent / "export.tar", "wb+") as out:
            export(self.store, image, out)
            out.seek(0)
            return out.read()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    need("userns", "plain user", "idrange")
    made = Store(str(tmp_path / "store"), host=hosts.probe())
    yield made
    for name in list(made.refs.all()):
        made.remove_ref(name)
    garbage.prune(made, unpacked=True, builds=True)
    assert made.blobs.all() == [], "everything that a build kept is gone"
    assert made.unpacked.all() == []


@pytest.fixture
def build(store: Store, tmp_path: Path) -> Build:
    context = tmp_path / "context"
    context.mkdir()
    return Build(store, context)


Judge = Callable[[Image], Path]


@pytest.fixture
def judged(store: Store, tmp_path: Path) -> Judge:
    """Hold an image against OCI's validator, skopeo and umoci; where the last unpacked it."""
    need("oci-image-tool", "umoci", "skopeo")

    def judge(image: Image) -> Path:
        from sandbox.image.save import save_directory

        layout = tmp_path / "layout"
        name = next(name for name, each in store.refs.all().items() if each == image.descriptor)
        save_directory(store, [listing.lookup(store, name)], str(layout))
        tag = name
        for command in (
            ["oci-image-tool", "validate", "--type", "image", "--ref", f"name={tag}", str(layout)],
            ["skopeo", "--insecure-policy", "copy", f"oci:{layout}:{tag}", f"dir:{tmp_path}/copied"],
            ["umoci", "unpack", "--rootless", "--image", f"{layout}:{tag}", str(tmp_path / "bundle")],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
        return tmp_path / "bundle/rootfs"

    return judge
