"""Which stages a build needs, and in which order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sandbox.errors import BuildError
from sandbox.image.build import steps, template
from sandbox.image.build.place import Place
from sandbox.image.platform import host_platform
from sandbox.profile.kinds import nearest

__all__ = ["Graph"]


class Graph:
    """The stages of *recipe* and what they use of each other. `bases` has for each what it begins with: the
    number of a stage, or an image's name.

    *args* are the values of the command line.

    Raises:
        BuildError: an image's name can't be filled in.
    """

    def __init__(self, recipe: steps.Recipe, args: Mapping[str, str]) -> None:
        self._recipe = recipe
        self._args = args
        self._global = _platform_arguments()
        for arg in recipe.args:
            for word, default in arg.pairs:
                name = self.fill(word, arg.place)
                value = args.get(name)
                if value is None and default is not None:
                    value = self.fill(default, arg.place)
                if value is not None:
                    self._global[name] = value
        self.bases = [self._base(index) for index in range(len(recipe.stages))]

    def fill(self, word: template.Template, place: Place) -> str:
        """A word of the recipe's top or of FROM."""
        try:
            return template.fill(word, self._global.get)
        except template.Bad as bad:
            raise place.error(bad.message) from None

    def argument(self, name: str, has_default: bool) -> str | None:
        """The value of an argument that a stage declares, but for its own default."""
        given = self._args.get(name)
        if given is not None or has_default:
            return given
        return self._global.get(name)

    def _base(self, index: int) -> int | str:
        stage = self._recipe.stages[index]
        name = self.fill(stage.base, stage.place)
        if not name:
            stage.place.fail(
                "the image's name is empty", "give its variables values: ARG NAME=... before FROM"
            )
        at = self.stage_called(name, index, numbers=False)
        return name if at is None else at

    def stage_called(self, name: str, index: int, *, numbers: bool = True) -> int | None:
        """The stage that *name* means in the stage *index*; None: an image."""
        stages = self._recipe.stages
        usable = range(index) if self._recipe.ordered else range(len(stages))
        for at in reversed(usable):
            if stages[at].name and stages[at].name == name.lower():
                return at
        if numbers and self._recipe.ordered and _is_number(name) and int(name) < index:
            return int(name)
        return None

    def find(self, target: str) -> int:
        """The stage that is wanted: by name, by number, or the last.

        Raises:
            BuildError: there is none.
        """
        stages = self._recipe.stages
        if not target:
            return len(stages) - 1
        for index, stage in enumerate(stages):
            if stage.name == target.lower() or (self._recipe.ordered and target == str(index)):
                return index
        known = [stage.name for stage in stages if stage.name]
        listed = ", ".join(known[:20]) or "none has a name"
        raise BuildError(f"there is no stage {target!r}{nearest(target, known)}", f"stages: {listed}")

    def needed(self, wanted: int) -> list[int]:
        """The stages to build for *wanted*, in order.

        Raises:
            BuildError: they use each other in a circle.
        """
        order: list[int] = []
        state: dict[int, int] = {}  # 1: what it uses is being looked at, 2: done
        todo = [wanted]
        while todo:
            index = todo[-1]
            if state.get(index) == 2:
                todo.pop()
                continue
            if state.get(index) == 1:
                state[index] = 2
                order.append(index)
                todo.pop()
                continue
            state[index] = 1
            for each in self._uses(index):
                if state.get(each) == 1:
                    stages = self._recipe.stages
                    names = f"{stages[index].name or 'the last'} and {stages[each].name or 'the last'}"
                    stages[index].place.fail(f"the stages {names} need each other")
                if each not in state:
                    todo.append(each)
        return order

    def _uses(self, index: int) -> Iterator[int]:
        base = self.bases[index]
        if isinstance(base, int):
            yield base
        for step in self._recipe.stages[index].steps:
            for name in _sources(step):
                at = self.stage_called(name, index)
                if at is not None:
                    yield at
                elif self._recipe.ordered and _is_number(name):
                    which = (
                        f"the stages before this one are 0 to {index - 1}" if index else "this is the first"
                    )
                    step.place.fail(f"--from={name} means a stage, and there is none of that number: {which}")


def _is_number(name: str) -> bool:
    """Whether *name* is a stage's number: no image is called so."""
    return name.isascii() and name.isdigit() and len(name) < 6


def _sources(step: steps.Step) -> Iterator[str]:
    if isinstance(step, steps.Copy) and step.source:
        yield step.source
    if isinstance(step, steps.Run):
        for mount in step.mounts:
            if "from" in mount.options:
                yield "".join(part for part in mount.options["from"] if isinstance(part, str))


def _platform_arguments() -> dict[str, str]:
    """What is there without being declared (docker: "Automatic platform ARGs in the global scope")."""
    here = host_platform()
    found: dict[str, str] = {}
    for prefix in ("BUILD", "TARGET"):
        found |= {
            f"{prefix}PLATFORM": str(here),
            f"{prefix}OS": here.os,
            f"{prefix}ARCH": here.architecture,
            f"{prefix}VARIANT": here.variant,
        }
    return found
