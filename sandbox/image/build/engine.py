"""The engine: a recipe's stages become images, one step after the other.

Only the stages that the wanted one needs are built. Each step that changes files has a key, made of what it
is done to, what it does, and the content that it copies or sees; what was made for that key before is taken
again. Steps of the configuration have none: what they say is part of the keys of those that it is of
consequence to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from sandbox.errors import BuildError, ImageError
from sandbox.image.build import steps
from sandbox.image.build.commands import Runner
from sandbox.image.build.context import Context
from sandbox.image.build.graph import Graph
from sandbox.image.build.instructions import parse_instruction
from sandbox.image.build.keys import key_of
from sandbox.image.build.layers import LayerMaker
from sandbox.image.build.place import Place
from sandbox.image.build.records import Records
from sandbox.image.build.report import Report
from sandbox.image.build.stage import Stage
from sandbox.image.build.state import PROXIES, State
from sandbox.image.compose import store_image
from sandbox.image.store import Image, Store

__all__ = ["Builder", "Built", "FindImage", "Means", "Settings"]


class FindImage(Protocol):
    """Finds an image by the name that a recipe has for it, and brings it where it is not there."""

    def __call__(self, name: str, /) -> Image: ...


@dataclass(frozen=True, slots=True)
class Settings:
    """How to build.

    Attributes:
        target: the stage that is wanted, by name or number; "" for the last.
        args: values for the arguments that the recipe declares.
        secrets: contents by id, for RUN --mount=type=secret.
        cache: whether to take what was made before.
        epoch: SOURCE_DATE_EPOCH: no file and no document is younger; seconds since 1970.
        network: what steps are given besides a loopback: "none", "host", "user" ...
    """

    target: str = ""
    args: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, bytes] = field(default_factory=dict)
    cache: bool = True
    epoch: int | None = None
    network: str = "none"


@dataclass(frozen=True, slots=True)
class Built:
    """What came of it: the image, and how many steps that change files were `run` or found `cached`."""

    image: Image
    run: int
    cached: int


class Means(NamedTuple):
    """What a build is done with: who finds images, who executes commands, and who is told."""

    find_image: FindImage
    runner: Runner
    report: Report


class Builder:
    """Builds *recipe*, the file *file*, from *context*, into *store*."""

    def __init__(
        self,
        store: Store,
        recipe: steps.Recipe,
        context: Context | None,
        settings: Settings,
        means: Means,
        file: str = "",
    ) -> None:
        self.store = store
        self.recipe = recipe
        self.context = context
        self.settings = settings
        self._find_image, self.runner, self.report = means
        self.file = file
        self.records = Records(store.path)
        self.layers = LayerMaker(store, settings.epoch)
        self.graph = Graph(recipe, settings.args)
        self._states: dict[int, State] = {}
        self._images: dict[str, State] = {}
        self.used: set[str] = set()
        self.counts = [0, 0]
        self._recovered = False

    def build(self) -> Built:
        """Build the wanted stage. The store must be held.

        Raises:
            BuildError: a step is wrong, or failed.
            ImageError, SandboxError: an image, the store or a sandbox can't be used.
        """
        wanted = self.graph.find(self.settings.target)
        for index in self.graph.needed(wanted):
            self._states[index] = self._stage(index)
        unused = [name for name in self.settings.args if name not in self.used and name not in PROXIES]
        if unused:
            self.report.note(f"note: no ARG that was needed is called {', '.join(sorted(unused))}")
        image = self._image(self._states[wanted])
        return Built(image, *self.counts)

    def recover(self) -> None:
        """Before something is made: what crashes left goes."""
        if not self._recovered:
            self._recovered = True
            self.store.unpacked.recover()

    def _image(self, state: State) -> Image:
        """The image of a state; the one of before, when only times would differ."""
        document = state.document
        undated = {
            **document,
            "created": None,
            "history": [{**each, "created": None} for each in document["history"]],
        }
        layers = [layer.digest for layer in state.layers]
        key = key_of({"image": undated, "layers": layers, "epoch": self.settings.epoch})
        known = self.records.get_image(key)
        if known is not None and self.settings.cache:
            try:
                return self.store.image(known)
            except ImageError:
                pass  # it was removed
        document["created"] = (
            document["history"][-1]["created"] if document["history"] else "1970-01-01T00:00:00Z"
        )
        image = store_image(self.store, document, state.layers)
        self.records.put_image(key, image.descriptor)
        return image

    # --- stages -----------------------------------------------------------------------------------------

    def _stage(self, index: int) -> State:
        stage = self.recipe.stages[index]
        state, triggers = self._base(index)
        listed = (*triggers, *stage.steps)
        return Stage(self, stage, index, state, listed).run()

    def _base(self, index: int) -> tuple[State, Sequence[steps.Step]]:
        """What a stage begins with, and what that says is to be done first."""
        stage = self.recipe.stages[index]
        name = self.graph.bases[index]
        if isinstance(name, int):
            return self._states[name].branch(), ()
        self._check_platform(stage)
        state = State(None) if name == "scratch" else self._found(name, stage.place).branch()
        triggers = state.config.pop("OnBuild", None) or ()
        return state, [parse_instruction(f"ONBUILD of {name}", text) for text in triggers]

    def _check_platform(self, stage: steps.Stage) -> None:
        if stage.platform is None:
            return
        from sandbox.image.platform import accepts, host_platform, parse_platform

        text = self.graph.fill(stage.platform, stage.place)
        if text and not accepts(host_platform(), parse_platform(text)):
            stage.place.fail(f"{text} can't be built here: this machine runs {host_platform()}")

    def _found(self, name: str, place: Place) -> State:
        if name not in self._images:
            try:
                self._images[name] = State(self._find_image(name))
            except BuildError:
                raise
            except ImageError as error:
                raise place.error(error.message, error.mend) from error
        return self._images[name]

    def source(self, name: str, index: int, place: Place) -> State:
        """What `--from=`*name* in the stage *index* means."""
        at = self.graph.stage_called(name, index)
        return self._states[at] if at is not None else self._found(name, place)
