"""Settings on the command line: argparse options made from the table, and overrides from what they parsed.

What an option says is the user's own word. A repeated one adds to what the profile has; any other
replaces it. The option's value is checked where all values are, with the option's name as its place.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from sandbox import paths
from sandbox.errors import ProfileError
from sandbox.profile import files
from sandbox.profile.kinds import Wrong, nearest
from sandbox.profile.later import lacking, whole
from sandbox.profile.loader import READ, Given, quote_key
from sandbox.profile.model import Origin
from sandbox.profile.settings import SETTINGS, Option, Setting
from sandbox.words import printable, quote

if TYPE_CHECKING:
    import argparse

__all__ = ["add_options", "env_files", "overrides_from", "parse_bind", "parse_tmpfs"]

_MODES = ("ro", "rw", "overlay")
_ENVIRONMENT = ("--env", "--env-file")


class _Use(NamedTuple):
    """An option as it was used, with its values."""

    setting: Setting
    option: Option
    name: str
    values: list[str]


def _dest(option: Option) -> str:
    """argparse's name for *option*, apart from those of the call."""
    return "profile_" + option.flags[-1].lstrip("-").replace("-", "_")


def add_options(parser: argparse.ArgumentParser, tables: Collection[str] = ()) -> None:
    """Add the options of all settings to *parser*, in a group of their own; or of those of *tables* only."""
    group = parser.add_argument_group("settings of the profile")
    for setting in SETTINGS:
        if tables and setting.key.partition(".")[0] not in tables:
            continue
        for option in setting.options:
            group.add_argument(
                *option.flags,
                dest=_dest(option),
                metavar=option.metavar,
                action="append",
                help=(option.help or setting.help)
                + (" (not available yet)" if _unavailable(setting, option) else ""),
            )


def _unavailable(setting: Setting, option: Option) -> bool:
    return bool(lacking(setting.key, option.prefix) if option.prefix else whole(setting.key))


def overrides_from(namespace: argparse.Namespace) -> dict[str, object]:
    """What the options of `add_options` ask for, as `sandbox.profile.load` takes it.

    Raises:
        ProfileError: a value is wrong, or two options contradict each other; the message names the option.
    """
    found: dict[str, object] = {}
    for setting in SETTINGS:
        for option in setting.options:
            name = option.flags[-1]
            values = getattr(namespace, _dest(option), None)
            make = _SPECIAL.get(name, _plain)
            if values and name not in _ENVIRONMENT:
                with _named(name, option.usage):
                    _add(found, make(_Use(setting, option, name, values)))
    found.update(_environment(namespace))
    return found


@contextlib.contextmanager
def _named(option: str, usage: str) -> Iterator[None]:
    try:
        yield
    except Wrong as error:
        mend = error.mend or (None if "did you mean" in str(error) else usage)
        raise ProfileError(f"option {option}: {printable(str(error))}", mend) from None


def _add(found: dict[str, object], made: Iterator[tuple[str, Given]]) -> None:
    """Add what an option made to *found*; a second value for the same is an error."""
    for key, given in made:
        old = found.get(key)
        if not isinstance(old, Given):
            found[key] = given
        elif old.origin == given.origin and key.startswith("mounts."):
            raise Wrong(f"two mounts on {key.removeprefix('mounts.')}", mend="remove one of them")
        else:
            raise Wrong(f"contradicts {old.origin}", mend="remove one of them")


def _plain(use: _Use) -> Iterator[tuple[str, Given]]:
    """One value for one key; the last one where it was repeated, as command lines have it."""
    origin = Origin(f"option {use.name}")
    if use.option.repeat:
        words = [
            word for value in use.values for word in (value.split(",") if use.option.commas else [value])
        ]
        yield (
            f"{use.setting.table + '.' if use.setting.table else ''}extend-{use.setting.name}",
            Given(words, origin),
        )
        return
    text = use.option.prefix + use.values[-1]
    yield use.setting.key, Given(use.setting.kind.text(text), origin)


def _root(use: _Use) -> Iterator[tuple[str, Given]]:
    text = use.values[-1]
    if text not in ("host", "empty"):
        if not text:
            raise Wrong("needs a directory")
        text = "dir:" + text.removeprefix("dir:")
    yield use.setting.key, Given(text, Origin(f"option {use.name}"))


def _entrypoint(use: _Use) -> Iterator[tuple[str, Given]]:
    """A word, or a JSON list of them; '' for none."""
    text = use.values[-1]
    words: object = [text] if text else []
    if text.startswith("["):
        import json

        try:
            words = json.loads(text)
        except (ValueError, RecursionError):
            raise Wrong(f'"{text}" is no JSON list', mend="""--entrypoint '["sh", "-c"]'""") from None
    yield use.setting.key, Given(words, Origin(f"option {use.name}"))


# --- mounts --------------------------------------------------------------------------------------------


def _split(text: str) -> list[str]:
    """At colons; `\\:` is a colon of a path, and `\\\\` a backslash before one."""
    parts, part, at = [], "", 0
    while at < len(text):
        if text[at] == "\\" and text[at + 1 : at + 2] in (":", "\\"):
            at += 1
            part += text[at]
        elif text[at] == ":":
            parts.append(part)
            part = ""
        else:
            part += text[at]
        at += 1
    return [*parts, part]


def parse_bind(text: str) -> tuple[str, dict[str, object]]:
    """Destination and entry of [mounts] for "SRC:DST[:ro|rw|overlay]"; a colon in a path is written `\\:`.

    Raises:
        ValueError: it is not of that form.
    """
    parts = _split(text)
    if len(parts) not in (2, 3) or not parts[0] or not parts[1]:
        hint = f'; did you mean "{text}:{text}"?' if len(parts) == 1 and text else ""
        raise Wrong(f'"{text}" is not SRC:DST or SRC:DST:MODE{hint}', mend=_escaped(text))
    mode = parts[2] if len(parts) == 3 else "rw"
    if mode not in _MODES:
        known = f"a mode of a mount, which is ro, rw or overlay{nearest(mode, _MODES)}"
        raise Wrong(f'"{mode}" is not {known}', mend=_escaped(text))
    return parts[1], {"source": parts[0], "mode": mode}


def _escaped(text: str) -> str | None:
    """How to write *text*, where the source is likely to have a colon in its name."""
    head, _, mode = text.rpartition(":")
    paths_, mode = (head, f":{mode}") if mode in _MODES else (text, "")
    source, middle, destination = paths_.rpartition(":/")
    if not middle or not _split(source)[1:]:
        return None
    fixed = ":".join(part.replace("\\", "\\\\") for part in _split(source)).replace(":", "\\:")
    return f"write a colon of a path as \\:, in quotes: '{printable(f'{fixed}:/{destination}{mode}')}'"


def parse_tmpfs(text: str) -> tuple[str, dict[str, object]]:
    """Destination and entry of [mounts] for "DST[:SIZE]".

    Raises:
        ValueError: it is not of that form.
    """
    parts = _split(text)
    if len(parts) > 2 or not parts[0]:
        raise Wrong(f'"{text}" is not DST or DST:SIZE')
    if len(parts) == 1:
        return parts[0], {"mode": "tmpfs"}
    return parts[0], {"mode": "tmpfs", "size": parts[1].removeprefix("size=")}


def _mounts(
    parse: Callable[[str], tuple[str, dict[str, object]]],
) -> Callable[[_Use], Iterator[tuple[str, Given]]]:
    def make(use: _Use) -> Iterator[tuple[str, Given]]:
        for text in use.values:
            destination, entry = parse(text)
            key = use.setting.kind.key(destination)  # type: ignore[attr-defined]  # [mounts] is a Map
            yield f"mounts.{quote_key(key)}", Given(entry, Origin(f"option {use.name}"))

    return make


# --- environment -----------------------------------------------------------------------------------------


class _Variable(NamedTuple):
    """VALUE None: the caller's."""

    value: str | None
    origin: Origin


def _environment(namespace: argparse.Namespace) -> dict[str, object]:
    """What --env-file and --env ask for. --env goes over --env-file in whatever order they were written, and
    the later over the earlier, as container tools have it."""
    chosen: dict[str, _Variable] = {}
    files_ = env_files(namespace)
    with _named("--env-file", "one NAME or NAME=VALUE a line"):
        for path in files_:
            chosen.update(_in_file(path))
    with _named("--env", "--env NAME[=VALUE]"):
        for text in getattr(namespace, "profile_env", None) or ():
            name, value = _variable(text, f'"{text}" is')
            chosen[name] = _Variable(value, Origin("option --env"))
    found: dict[str, object] = {}
    for name, variable in chosen.items():
        if variable.value is not None:
            found[f"env.set.{quote_key(name)}"] = Given(variable.value, variable.origin)
    kept = [name for name, variable in chosen.items() if variable.value is None]
    if kept:
        found["env.extend-keep"] = Given(kept, chosen[kept[-1]].origin)
    read = [path for path in files_ if os.path.lexists(os.path.realpath(path))]  # not /dev/fd/N of a pipe
    if read:
        found[READ] = read
    return found


def env_files(namespace: argparse.Namespace) -> list[str]:
    """The absolute paths that --env-file names."""
    given = getattr(namespace, "profile_env_file", None) or ()
    return [os.path.abspath(paths.home() + file[1:] if file.startswith("~/") else file) for file in given]


def _in_file(path: str) -> Iterator[tuple[str, _Variable]]:
    """The variables of a file: one on each line, as they are, without quotes; `#` begins a comment line."""
    for number, line in enumerate(_lines(path), 1):
        text = line.lstrip()
        if text and not text.startswith("#"):
            name, value = _variable(text, f"{path}:{number}:")
            yield name, _Variable(value, Origin(path, number))


def _variable(text: str, where: str) -> tuple[str, str | None]:
    name, equals, value = text.partition("=")
    name = name.rstrip()
    if not name or any(char.isspace() for char in name):
        raise Wrong(f"{where} not NAME or NAME=VALUE")
    return name, value if equals else None


def _lines(path: str) -> list[str]:
    try:
        data = files.read_once(path)
    except OSError as error:
        mend = f"ls -l {quote(path)}   (one NAME or NAME=VALUE a line)"
        raise Wrong(f"cannot read {path}: {error.strerror}", mend=mend) from None
    return data.decode("utf-8", "surrogateescape").replace("\r\n", "\n").split("\n")


_SPECIAL: dict[str, Callable[[_Use], Iterator[tuple[str, Given]]]] = {
    "--bind": _mounts(parse_bind),
    "--tmpfs": _mounts(parse_tmpfs),
    "--root": _root,
    "--entrypoint": _entrypoint,
}


def flags() -> dict[str, Any]:
    """All option strings, with the setting that each is for."""
    return {flag: setting for setting in SETTINGS for option in setting.options for flag in option.flags}
