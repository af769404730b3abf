"""What RUN executes, as values; who executes it is a `Runner`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sandbox.image.build import steps
from sandbox.image.build.records import Made
from sandbox.image.build.report import Report
from sandbox.image.build.state import State
from sandbox.image.compose import Packed
from sandbox.image.store import Store

__all__ = ["Command", "Mount", "Runner", "command_of"]

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Mount:
    """What a command sees at `target`, a path in the image, for as long as it runs.

    `kind`: "bind" (the `layer`, or the file `name` in it), "cache" (called `name`), "tmpfs" or "secret"
    (its `content`; with a `name` also as that variable, without a target only so).
    """

    kind: str
    target: str
    name: str = ""
    layer: Made | None = None
    readonly: bool = False
    size: int = 0
    sharing: str = "shared"
    content: bytes = field(default=b"", repr=False)
    owner: tuple[int, int] = (0, 0)
    mode: int | None = None


@dataclass(frozen=True, slots=True)
class Command:
    """`argv` with the variables `environment`, as `user` ("": root) in `workdir`. `script`: the content of a
    file that is executed in place of argv's first word."""

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    user: str
    workdir: str
    network: str
    mounts: tuple[Mount, ...]
    script: bytes | None = None


class Runner(Protocol):
    """Executes commands in sandboxes."""

    def run(
        self, store: Store, state: State, command: Command, step: steps.Step, report: Report
    ) -> Packed | None:
        """Execute *command* in the image *state*; the layer of what it changed, None for nothing.

        Raises:
            BuildError: it failed, or a limit ended it.
            SandboxError: it can't be executed.
        """


def command_of(
    step: steps.Run,
    shell: Sequence[str],
    variables: Mapping[str, str],
    user: str,
    workdir: str,
    network: str,
    mounts: Sequence[Mount],
) -> Command:
    """What RUN executes."""
    environment = {"PATH": DEFAULT_PATH, **variables}
    for mount in mounts:
        if mount.kind == "secret" and mount.name:
            environment[mount.name] = mount.content.decode("utf-8", "surrogateescape")
    script = None
    argv: tuple[str, ...] = step.command
    if step.script:
        script, argv = step.command[0].encode(), ()
    elif step.shell:
        argv = (*shell, *step.command)
    return Command(argv, environment, user, workdir, network, tuple(mounts), script)
