"""An image on its way: its configuration and layers after each step, in memory.

Nothing is stored before the end: what a step of the configuration does is not worth a file.
"""

from __future__ import annotations

import copy
import json
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from sandbox.image.build import steps, template
from sandbox.image.build.records import Made
from sandbox.image.build.template import Template
from sandbox.image.compose import LAYER_TYPES, document_of, new_document, rfc3339
from sandbox.image.digest import Digest
from sandbox.image.manifest import Descriptor, compression
from sandbox.image.store import Image
from sandbox.image.unpacked import Source

__all__ = ["PROXIES", "State"]

_SHELL = ["/bin/sh", "-c"]
_MAX_TEXT = 4096  # characters of a step in the history
_MOST_STEPS = 9_000  # lines of a history: readers take 10,000
_MOST_LAYERS = 500  # as many as the kernel stacks
_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?", re.IGNORECASE)
_SIGNAL = re.compile(r"\d{1,2}|(?:SIG)?[A-Z][A-Z0-9+-]{1,11}", re.IGNORECASE)
#: arguments that are there without being declared, and count for no key
PROXIES = frozenset(
    name
    for each in ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")
    for name in (each, each.upper())
)


class State:
    """The image *base* and what was done to it.

    `chain` stands for the file system as it is: the key of the last step that changed it. `args`: the values
    of the arguments that are declared. `ran`: some step was not taken from the cache.
    """

    def __init__(self, base: Image | None) -> None:
        self.document: dict[str, Any] = document_of(base) if base else new_document(None)
        self.layers: list[Descriptor] = list(map(_as_oci, base.manifest.layers)) if base else []
        self.args: dict[str, str] = {}
        self.chain = json.dumps(["base", self.document["rootfs"]["diff_ids"]])
        self.ran = False
        self._command_set = False

    def branch(self) -> State:
        """The same for a stage that begins with it."""
        other = copy.copy(self)
        other.document = copy.deepcopy(self.document)
        other.layers = list(self.layers)
        other.args = dict(self.args)
        other.ran = other._command_set = False
        return other

    @property
    def config(self) -> dict[str, Any]:
        """The part of the configuration that steps change."""
        config: dict[str, Any] = self.document["config"]
        return config

    @property
    def diff_ids(self) -> list[Digest]:
        """The digests of the layers, lowest first."""
        return [Digest(each) for each in self.document["rootfs"]["diff_ids"]]

    def sources(self) -> list[Source]:
        """The layers, lowest first."""
        pairs = zip(self.layers, self.diff_ids, strict=True)
        return [Source(layer.digest, diff_id) for layer, diff_id in pairs]

    @property
    def environment(self) -> dict[str, str]:
        """The variables that the image sets."""
        pairs = (each.partition("=") for each in self.config.get("Env") or ())
        return {name: value for name, _, value in pairs}

    @property
    def shell(self) -> list[str]:
        """What commands in words are given to."""
        return list(self.config.get("Shell") or _SHELL)

    @property
    def workdir(self) -> str:
        return str(self.config.get("WorkingDir") or "/")

    @property
    def user(self) -> str:
        return str(self.config.get("User") or "")

    def lookup(self, name: str) -> str | None:
        """The value of a variable: the image's, else an argument's."""
        found = self.environment.get(name)
        return self.args.get(name) if found is None else found

    def filler(self) -> Callable[[Template], str]:
        """Fills in variables as they are now."""
        values = {**self.args, **self.environment}
        return lambda word: template.fill(word, values.get)

    def add(self, step: steps.Step, made: Made | None, created: int | None) -> None:
        """Let the history say of *step* that it *made* a layer, or none.

        Raises:
            BuildError: there are too many.
        """
        history = self.document["history"]
        layer = made.layer if made else None
        if layer is not None:
            assert made is not None
            self.layers.append(layer)
            self.document["rootfs"]["diff_ids"].append(made.diff_id)
        if len(history) >= _MOST_STEPS or len(self.layers) > _MOST_LAYERS:
            what = f"{_MOST_LAYERS} layers" if len(self.layers) > _MOST_LAYERS else f"{_MOST_STEPS} steps"
            step.place.fail(f"an image can't have more than {what}", "do more in one step")
        when = made.created if made else created
        text = step.text if len(step.text) <= _MAX_TEXT else step.text[: _MAX_TEXT - 1] + "…"
        entry: dict[str, Any] = {"created": rfc3339(when), "created_by": text}
        if layer is None:
            entry["empty_layer"] = True
        history.append(entry)

    # --- steps that change the configuration ------------------------------------------------------------

    def apply(self, step: steps.Step) -> None:
        """Do what a step of the configuration says.

        Raises:
            BuildError: a value is wrong.
            template.Bad: a word can't be filled in.
        """
        fill = self.filler()
        match step:
            case steps.Env():
                self._set_environment(step, [(fill(name), fill(value)) for name, value in step.pairs])
            case steps.Label():
                self._merge("Labels", {fill(name): fill(value) for name, value in step.pairs})
            case steps.Cmd():
                self.config["Cmd"] = self._command(step.command, step.shell)
                self._command_set = True
            case steps.Entrypoint():
                self.config["Entrypoint"] = self._command(step.command, step.shell)
                if not self._command_set:
                    self.config.pop("Cmd", None)  # it was meant for another program
            case steps.Shell():
                self.config["Shell"] = list(step.command)
            case steps.User():
                self.config["User"] = fill(step.name)
            case steps.Expose():
                words = [word for port in step.ports for word in fill(port).split()]
                self._merge("ExposedPorts", {port: {} for word in words for port in _ports(step, word)})
            case steps.Volume():
                self._merge("Volumes", {self._path(step, fill(path)): {} for path in step.paths})
            case steps.StopSignal():
                signal = fill(step.signal)
                if not _SIGNAL.fullmatch(signal):
                    step.place.fail(f"{signal!r} is no signal; write one such as SIGTERM or 15")
                self.config["StopSignal"] = signal
            case steps.Healthcheck():
                self.config["Healthcheck"] = dict(step.check)
            case steps.Onbuild():
                self.config["OnBuild"] = [*(self.config.get("OnBuild") or ()), step.instruction]
            case steps.Maintainer():
                self.document["author"] = step.name

    def enter(self, step: steps.Workdir) -> str:
        """Change the working directory; where that is."""
        path = self.filler()(step.path)
        if not path:
            step.place.fail("the working directory has no name")
        self.config["WorkingDir"] = posixpath.normpath(posixpath.join("/", self.workdir, path))
        if self.config["WorkingDir"].startswith("//"):
            self.config["WorkingDir"] = self.config["WorkingDir"][1:]
        return str(self.config["WorkingDir"])

    def _set_environment(self, step: steps.Step, pairs: Iterable[tuple[str, str]]) -> None:
        variables = self.environment
        for name, value in pairs:
            if not name or "=" in name:
                step.place.fail(f"{name!r} is no name of a variable")
            variables[name] = value
        self.config["Env"] = [f"{name}={value}" for name, value in variables.items()]

    def _merge(self, key: str, values: Mapping[str, object]) -> None:
        self.config[key] = {**(self.config.get(key) or {}), **values}

    def _command(self, command: tuple[str, ...], shell: bool) -> list[str]:
        return [*self.shell, *command] if shell and command else list(command)

    def _path(self, step: steps.Step, path: str) -> str:
        if not path.strip():
            step.place.fail("a volume has no name")
        return path


def _as_oci(layer: Descriptor) -> Descriptor:
    """The same layer by OCI's name of its type: manifests of ours are OCI's."""
    kind = layer.media_type
    if not kind.startswith("application/vnd.docker."):
        return layer
    return replace(layer, media_type=LAYER_TYPES[_NAMES[compression(kind, "a layer")]])


#: compressions as manifests and as `compose` call them
_NAMES = {"none": "plain", "gzip": "gzip", "zstd": "zstd"}


def _ports(step: steps.Expose, word: str) -> Iterable[str]:
    match = _PORT.fullmatch(word)
    first = int(match[1]) if match else 0
    last = int(match[2] or match[1]) if match else 0
    if match is None or not 0 < first <= last < 65536:
        step.place.fail(f"{word!r} is no port; write one such as 80, 53/udp or 8000-8010")
    protocol = (match[3] or "tcp").lower()
    return [f"{port}/{protocol}" for port in range(first, last + 1)]
