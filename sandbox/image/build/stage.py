"""One stage: its steps, being done."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sandbox.errors import BuildError, ImageError
from sandbox.image.build import steps, template
from sandbox.image.build.commands import Command, command_of
from sandbox.image.build.context import written
from sandbox.image.build.keys import is_octal, key_of
from sandbox.image.build.records import Made
from sandbox.image.build.report import why
from sandbox.image.build.runmounts import Mounts
from sandbox.image.build.state import PROXIES, State
from sandbox.image.compose import Packed
from sandbox.image.layer.select import Line
from sandbox.image.layer.writer import Writer
from sandbox.image.unpacked import chain_ids

if TYPE_CHECKING:
    from sandbox.image.build.engine import Builder

__all__ = ["Stage"]


class Stage:
    """The steps *listed* of the stage *index*, which begins with *state*."""

    def __init__(
        self, builder: Builder, stage: steps.Stage, index: int, state: State, listed: Sequence[steps.Step]
    ) -> None:
        self._builder = builder
        self._stage = stage
        self._index = index
        self._state = state
        self._listed = listed
        self._settings = builder.settings
        self._records = builder.records
        self._layers = builder.layers
        self._number = 0
        name = f"{builder.file}\0{stage.name or index}"
        self._name = hashlib.sha256(os.fsencode(name)).hexdigest()
        self._before: dict[str, Any] | None = None
        self._said: list[dict[str, Any]] = []
        self._now = self._settings.epoch if self._settings.epoch is not None else int(time.time())

    def run(self) -> State:
        """Do all of them."""
        for number, step in enumerate(self._listed, 1):
            self._number = number
            try:
                self._step(step)
            except template.Bad as bad:
                raise step.place.error(bad.message) from None
            except BuildError:
                raise
            except ImageError as error:
                raise step.place.error(error.message, error.mend) from error
            except OSError as error:
                raise step.place.error(f"{error.strerror} ({error.filename})") from error
        if self._said:
            self._records.put_last(self._name, {"steps": self._said})
        return self._state

    def _step(self, step: steps.Step) -> None:
        match step:
            case steps.Arg():
                self._arg(step)
            case steps.Run():
                self._run(step)
            case steps.Copy():
                self._copy(step)
            case steps.Workdir():
                path = self._state.enter(step)
                user = self._state.user
                inputs = {"verb": "WORKDIR", "target": path, "user": user}
                self._layer(step, inputs, lambda: self._layers.workdir(self._state, path, user))
            case _:
                self._state.apply(step)
                self._tell(step, cached=None)
                self._state.add(step, None, self._now)

    def _arg(self, step: steps.Arg) -> None:
        """An argument has the value of the command line, else its own, else that of the recipe's top."""
        fill = self._state.filler()
        for word, default in step.pairs:
            name = fill(word)
            self._builder.used.add(name)
            value = self._builder.graph.argument(name, default is not None)
            if value is None and default is not None:
                value = fill(default)
            if value is not None:
                self._state.args[name] = value
        self._tell(step, cached=None)
        self._state.add(step, None, self._now)

    def _tell(self, step: steps.Step, *, cached: bool | None, reasons: Sequence[str] = ()) -> None:
        name = self._stage.name or (str(self._index) if len(self._builder.recipe.stages) > 1 else "")
        self._builder.report.step(name, self._number, len(self._listed), step, cached, reasons)

    def _layer(
        self,
        step: steps.Step,
        inputs: dict[str, Any],
        make: Callable[[], Packed | None],
        files: Sequence[Line] = (),
    ) -> None:
        """Do *step*, unless what these *inputs* give is known. *files* are what its digest is made of."""
        state = self._state
        inputs = {**inputs, "parent": state.chain, "epoch": self._settings.epoch}
        key = key_of(inputs)
        made = None
        if self._settings.cache and not state.ran:
            made = self._records.get(key)
            if made and made.layer and not self._builder.store.has_blob(made.layer.digest):
                made = None
        said = {**inputs, "files": [list(line) for line in files], "step": step.text}
        if made is not None:
            self._tell(step, cached=True)
            self._builder.counts[1] += 1
        else:
            reasons = why(self._last(said), said, above=state.ran, forced=not self._settings.cache)
            self._tell(step, cached=False, reasons=reasons)
            self._builder.recover()
            made = self._made(make())
            chain = chain_ids([*state.diff_ids, made.diff_id])[-1] if made.diff_id else None
            self._records.put(key, made, chain)
            self._builder.counts[0] += 1
            state.ran = True
        state.chain = key
        state.add(step, made, None)
        self._said.append(said)

    def _made(self, packed: Packed | None) -> Made:
        if packed is None:
            return Made(None, None, self._now)
        return Made(packed.descriptor, packed.diff_id, self._now)

    def _last(self, said: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The same step when it was last built: by its text, else by its number."""
        if self._before is None:
            self._before = dict(self._records.last(self._name))
        before = self._before.get("steps")
        if not isinstance(before, list):
            return None
        listed = [each for each in before if isinstance(each, dict)]
        same = [each for each in listed if each.get("step") == said["step"]]
        number = len(self._said)
        if len(same) == 1:
            return same[0]
        there = listed[number] if number < len(listed) else None
        return there if there and there.get("verb") == said.get("verb") else None

    # --- COPY and ADD -----------------------------------------------------------------------------------

    def _copy(self, step: steps.Copy) -> None:
        fill = self._state.filler()
        target = fill(step.target)
        if not target:
            step.place.fail("there is no destination")
        if not target.startswith("/"):
            target = f"{self._state.workdir.rstrip('/')}/{target}"
        sources = [fill(each) for each in step.sources]
        if len(sources) + len(step.inline) > 1 and not target.endswith("/") and not step.parents:
            step.place.fail("with several sources the destination is a directory, and ends with a slash")
        owner = fill(step.owner) if step.owner is not None else ""
        request: dict[str, Any] = {"destination": target, "owner": owner, "mode": _mode(step, fill)}
        exclude = [fill(each) for each in step.exclude]
        inputs = {"verb": "ADD" if step.unpack else "COPY", "target": target, "owner": owner}
        inputs["mode"] = request["mode"]
        if step.source:
            if step.inline:
                step.place.fail("what stands in the file itself can't be --from something")
            self._copy_from(step, sources, exclude, inputs, request)
            return
        self._copy_context(step, sources, exclude, inputs, request)

    def _copy_context(
        self,
        step: steps.Copy,
        sources: list[str],
        exclude: list[str],
        inputs: dict[str, Any],
        request: dict[str, Any],
    ) -> None:
        for source in sources:
            if source.startswith(("http://", "https://", "ftp://", "git://", "ssh://", "git@")):
                step.place.fail(
                    f"{source}: files from the network are not available in a build",
                    "download it into the context beforehand, and COPY it",
                )
        context, taken = self._builder.context, None
        if sources:
            if context is None:
                step.place.fail("there is no context to copy from")
            taken = context.take(sources, exclude, parents=step.parents, unpack=step.unpack)
        longest = 16 << 20
        texts = [
            (each.name, template.fill(each.data, self._state.lookup, longest).encode())
            for each in step.inline
        ]
        inputs["content"] = [taken.digest if taken else "", [[name, _sha(data)] for name, data in texts]]
        inputs["archives"] = list(taken.archives) if taken else []
        single = len(texts) == 1 if taken is None else taken.selection.single and not texts
        request |= {"single": single, "archives": inputs["archives"]}

        def send(out: Any) -> None:
            writer = Writer(out, latest=self._settings.epoch)
            for name, data in texts:
                item = written(os.fsencode(name.rpartition("/")[2] or name), data)
                item.mtime = self._now * 10**9
                writer.add(item, [data])
            if taken is not None and context is not None:
                context.send(taken, out, self._settings.epoch)
            else:
                writer.finish()

        lines = taken.lines if taken else []
        self._layer(step, inputs, lambda: self._layers.place(self._state, request, send), lines)

    def _copy_from(
        self,
        step: steps.Copy,
        sources: list[str],
        exclude: list[str],
        inputs: dict[str, Any],
        request: dict[str, Any],
    ) -> None:
        """Keyed by what is copied, not by where it comes from: a stage that was built again and came out
        the same changes nothing. Which digest a selection has is remembered, too."""
        source = self._builder.source(step.source, self._index, step.place)
        asked = {"sources": sources, "exclude": exclude, "parents": step.parents, "where": step.source}
        known = key_of(
            {"select": asked, "of": source.chain, "layers": [str(each) for each in source.diff_ids]}
        )
        digest, lines = self._records.get_text(known), list[Line]()
        if not digest:
            if not source.layers:
                step.place.fail(f"{step.source} is empty")
            digest, lines = self._layers.select(source, asked)
            self._records.put_text(known, digest)
        inputs["content"] = digest
        request |= asked
        self._layer(step, inputs, lambda: self._layers.copy(self._state, source, request), lines)

    # --- RUN --------------------------------------------------------------------------------------------

    def _run(self, step: steps.Run) -> None:
        state = self._state
        network = "none" if step.network == "none" else self._settings.network
        proxies = {name: value for name, value in self._settings.args.items() if name in PROXIES}
        args = {name: value for name, value in state.args.items() if name not in PROXIES}
        mounts, said = Mounts(self._builder, self._index, state, step).all()
        inputs = {
            "verb": "RUN",
            "command": list(step.command),
            "shell": state.shell if step.shell else None,
            "script": step.script,
            "env": state.environment,
            "args": args,
            "user": state.user,
            "workdir": state.workdir,
            "network": network,
            "mounts": said,
        }
        variables = {**proxies, **args, **state.environment}
        command = command_of(step, state.shell, variables, state.user, state.workdir, network, mounts)
        self._layer(step, inputs, lambda: self._executed(step, command))

    def _executed(self, step: steps.Run, command: Command) -> Packed | None:
        return self._builder.runner.run(self._builder.store, self._state, command, step, self._builder.report)


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _mode(step: steps.Copy, fill: Callable[[template.Template], str]) -> int | None:
    if step.mode is None:
        return None
    text = fill(step.mode)
    if not is_octal(text):
        step.place.fail(f"--chmod={text} can't be; it is an octal number such as 0755")
    return int(text, 8)
