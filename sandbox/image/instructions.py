"""Instructions that change an image's configuration: `--change 'CMD ["bash"]'`, as docker and podman have it.

The instructions of a Dockerfile that need no file system (docker import's reference; Dockerfile reference for
what each means). Building from a whole Dockerfile is not done here.
"""

from __future__ import annotations

import difflib
import json
import shlex
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sandbox.errors import ImageError
from sandbox.words import printable

__all__ = ["changed"]

Config = dict[str, Any]


def changed(config: Mapping[str, Any], instructions: Iterable[str]) -> Config:
    """The "config" of an image's configuration after *instructions* ("ENV A=1", "USER nobody").

    Raises:
        ImageError: one of them is wrong.
    """
    found = dict(config)
    for text in instructions:
        word, _, rest = text.strip().partition(" ")
        word, rest = word.upper(), rest.strip()
        if word not in _INSTRUCTIONS:
            near = difflib.get_close_matches(word, _INSTRUCTIONS, 1, 0.6)
            hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(_INSTRUCTIONS)}"
            raise ImageError(f"--change {printable(text)[:160]}: unknown instruction{hint}")
        try:
            if not rest:
                raise ValueError("nothing follows")
            _INSTRUCTIONS[word](found, rest)
        except ValueError as error:
            raise ImageError(f"--change {printable(text)[:160]}: {error}") from None
    return found


def _words(text: str) -> list[str]:
    """A list in JSON, or words as a shell splits them."""
    if text.startswith("["):
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
            raise ValueError('it begins like a list, and is none: write ["a", "b"]')
        return found
    return shlex.split(text)


def _command(key: str) -> Callable[[Config, str], None]:
    """A list is the command; else a shell runs the text."""

    def change(config: Config, text: str) -> None:
        shell = config.get("Shell") or ["/bin/sh", "-c"]
        config[key] = _words(text) if text.startswith("[") else [*shell, text]

    return change


def _pairs(text: str) -> dict[str, str]:
    """KEY=VALUE ..., or KEY VALUE with one of them."""
    name, space, value = text.partition(" ")
    if "=" not in name and space:
        return {name: value.strip()}
    found = {}
    for word in shlex.split(text):
        name, equals, value = word.partition("=")
        if not name or not equals:
            raise ValueError("write KEY=VALUE")
        found[name] = value
    return found


def _env(config: Config, text: str) -> None:
    known = dict(each.partition("=")[::2] for each in config.get("Env") or [])
    config["Env"] = [f"{name}={value}" for name, value in {**known, **_pairs(text)}.items()]


def _label(config: Config, text: str) -> None:
    config["Labels"] = {**(config.get("Labels") or {}), **_pairs(text)}


def _set(key: str) -> Callable[[Config, str], None]:
    """Names become the keys of an object, as OCI has it."""

    def change(config: Config, text: str) -> None:
        config[key] = {**(config.get(key) or {}), **{word: {} for word in _words(text)}}

    return change


def _expose(config: Config, text: str) -> None:
    ports: dict[str, object] = {}
    for word in text.split():
        number, _, protocol = word.partition("/")
        if not number.isdigit() or not 0 < int(number) < 65536 or protocol not in ("", "tcp", "udp", "sctp"):
            raise ValueError(f"{word} is no port; write 80 or 53/udp")
        ports[f"{int(number)}/{protocol or 'tcp'}"] = {}
    config["ExposedPorts"] = {**(config.get("ExposedPorts") or {}), **ports}


def _value(key: str) -> Callable[[Config, str], None]:
    def change(config: Config, text: str) -> None:
        config[key] = text

    return change


def _workdir(config: Config, text: str) -> None:
    above = config.get("WorkingDir") or "/"
    config["WorkingDir"] = text if text.startswith("/") else f"{above.rstrip('/')}/{text}"


_INSTRUCTIONS: Mapping[str, Callable[[Config, str], None]] = {
    "CMD": _command("Cmd"),
    "ENTRYPOINT": _command("Entrypoint"),
    "ENV": _env,
    "EXPOSE": _expose,
    "LABEL": _label,
    "STOPSIGNAL": _value("StopSignal"),
    "USER": _value("User"),
    "VOLUME": _set("Volumes"),
    "WORKDIR": _workdir,
}
