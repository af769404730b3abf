"""What a build does, as values: the one thing that both readers write and the engine reads.

Words with variables are `Template`s: their values are known when the step's turn comes. `text` is how a step
is shown, and what the image's history says of it. There is no comparing: of two dozen classes each method
that is generated takes time at every start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sandbox.image.build.place import Place
from sandbox.image.build.template import Template

__all__ = [
    "Arg",
    "Cmd",
    "Copy",
    "Entrypoint",
    "Env",
    "Expose",
    "Healthcheck",
    "Inline",
    "Label",
    "Maintainer",
    "Mounted",
    "Onbuild",
    "Recipe",
    "Run",
    "Shell",
    "Stage",
    "Step",
    "StopSignal",
    "User",
    "Volume",
    "Workdir",
]

Pairs = tuple[tuple[Template, Template], ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Step:
    """Any of them."""

    place: Place
    text: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Arg(Step):
    """Names that `--build-arg` may set, with the values that they have otherwise (None: none)."""

    pairs: tuple[tuple[Template, Template | None], ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Env(Step):
    pairs: Pairs


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Label(Step):
    pairs: Pairs


@dataclass(frozen=True, slots=True)
class Mounted:
    """What RUN sees for as long as it runs. `options` by name: target, source, from, id, sharing, mode,
    uid, gid, size, ro, required, env."""

    kind: str
    options: Mapping[str, Template] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Run(Step):
    """`command` is executed; with `shell` it is one word, which the stage's shell is given. `script`: the
    command is a file of that content, which says itself by what it is run. `network`: "" as the build
    says, "none" or "default"."""

    command: tuple[str, ...]
    shell: bool
    script: bool = False
    mounts: tuple[Mounted, ...] = ()
    network: str = ""


@dataclass(frozen=True, slots=True)
class Inline:
    """A file that stands in the build file itself."""

    name: str
    data: Template


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Copy(Step):
    """`source` is the stage or image to copy from, "" the context. `unpack`: it is ADD, for which a local
    archive stands for what is in it. `checksum` is of an URL."""

    sources: tuple[Template, ...]
    target: Template
    source: str = ""
    owner: Template | None = None
    mode: Template | None = None
    unpack: bool = False
    inline: tuple[Inline, ...] = ()
    exclude: tuple[Template, ...] = ()
    parents: bool = False
    checksum: str = ""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Workdir(Step):
    path: Template


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class User(Step):
    name: Template


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Cmd(Step):
    command: tuple[str, ...]
    shell: bool


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Entrypoint(Step):
    command: tuple[str, ...]
    shell: bool


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Shell(Step):
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Expose(Step):
    ports: tuple[Template, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Volume(Step):
    paths: tuple[Template, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class StopSignal(Step):
    signal: Template


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Healthcheck(Step):
    """As the configuration has it: Test, and Interval, Timeout, StartPeriod in nanoseconds, Retries."""

    check: Mapping[str, object]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Onbuild(Step):
    """An instruction for builds that begin with the image."""

    instruction: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Maintainer(Step):
    name: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Stage:
    """An image that is built: from `base` (an image, "scratch", or another stage), by `steps`."""

    place: Place
    name: str
    base: Template
    platform: Template | None
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Recipe:
    """A whole file: the arguments that the bases' names may use, and its stages; the last is what is
    wanted. `ordered`: a stage can only use those before it."""

    args: tuple[Arg, ...]
    stages: tuple[Stage, ...]
    ordered: bool = True
