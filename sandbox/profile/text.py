"""Profiles as text: TOML of a merged one, new files to begin with, the list of what there is."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from sandbox import paths
from sandbox.errors import SandboxError
from sandbox.profile import loader
from sandbox.profile.build import DEFAULT, value_of
from sandbox.profile.kinds import Map
from sandbox.profile.model import Mount, Origin, Profile
from sandbox.profile.settings import SETTINGS, TABLES, Setting
from sandbox.words import printable, quote

__all__ = ["Listed", "check", "check_profile", "new", "profiles", "show", "to_dict", "toml_value"]


class Listed(NamedTuple):
    """A line of `sandbox profile list`. `kind` is "project", "user" or "built-in"; `error` the first line of
    why it can't be used; `hidden` whether a user's profile of the same name takes its place."""

    name: str
    kind: str
    file: str
    description: str
    error: str = ""
    hidden: bool = False


def profiles(*, cwd: str | None = None) -> list[Listed]:
    """All profiles: the project's, then the user's and the built-in ones by name."""
    found = list(_project(cwd))
    built_in = paths.configs() + "/"
    for name, files in sorted(loader.names().items()):
        for number, file in enumerate(files):
            kind = "built-in" if file.startswith(built_in) else "user"
            description, error = _described(file, cwd)
            found.append(Listed(name, kind, file, description, error, hidden=number > 0))
    return found


def _project(cwd: str | None) -> Iterator[Listed]:
    try:
        project = loader.Loader(cwd).project()
    except SandboxError as error:
        yield Listed("", "project", "", "", error.message.splitlines()[0])
        return
    if project is not None:
        try:
            description, problem = loader.load(None, cwd=cwd).description, ""
        except SandboxError as error:
            description, problem = "", error.message.splitlines()[0]
        yield Listed("", "project", project.file, description, problem)


def _described(file: str, cwd: str | None) -> tuple[str, str]:
    try:
        return loader.load(file, cwd=cwd).description, ""
    except SandboxError as error:
        return "", error.message.splitlines()[0]


def check(name: str | None = None, *, cwd: str | None = None) -> Profile:
    """Read and check a profile by name or path, or the project's; the profile when nothing is wrong.

    Raises:
        ProfileError, TrustError, NotAvailableError: as `sandbox.profile.load`.
    """
    return loader.load(name, cwd=cwd)


def check_profile(profile: Profile) -> None:
    """Check a profile that was made or changed by hand; see `Profile.check`."""
    loader.from_dict(to_dict(profile))


# --- a profile as values and as TOML -------------------------------------------------------------------


def to_dict(profile: Profile) -> dict[str, Any]:
    """What a TOML file would hold that gives *profile*; what has its default is left out. Relative paths of
    a project's file come out absolute."""
    data: dict[str, Any] = {}
    for setting in SETTINGS:
        value = _dumped(profile, setting)
        if value is None:
            continue
        table = data.setdefault(setting.table, {}) if setting.table else data
        table[setting.name] = value
    return data


def _dumped(profile: Profile, setting: Setting, *, default: bool = False) -> Any:
    """The value as in a file, or None for none, and for a default one unless with *default*."""
    value = value_of(profile, setting)
    if setting.key == "schema":
        return value
    if setting.key == "mounts":
        return {_absolute(mount.destination, mount.base): _mount(mount) for mount in value} or None
    if value is None or (value == setting.default and not default):
        return None
    if setting.key == "root.from" and value.startswith("dir:"):
        return "dir:" + _absolute(value[4:], profile.root.base)
    return setting.kind.dump(value)


def _mount(mount: Mount) -> Any:
    entry: dict[str, Any] = {}
    if mount.source is not None:
        entry["source"] = _absolute(mount.source, mount.base)
    entry["mode"] = mount.mode
    if mount.size is not None:
        entry["size"] = _size(mount.size)
    if mount.optional:
        entry["optional"] = True
    return mount.mode if list(entry) == ["mode"] else entry


def _size(size: int) -> str | int:
    from sandbox.profile.kinds import Size

    return Size().dump(size)


def _absolute(path: str, base: str | None) -> str:
    if base is None or path.startswith(("/", "~")):
        return path
    return os.path.normpath(os.path.join(base, path))


def show(profile: Profile, *, origins: bool = True) -> str:
    """*profile* as TOML, with all that a file or an option set, be it the default; with *origins* a comment
    on each line says where the value came from."""
    tables: dict[str, list[str]] = {}
    for setting in SETTINGS:
        for line, keys in _lines(profile, setting):
            origin = next((profile.origins[key] for key in keys if key in profile.origins), None)
            if origins and origin is not None:
                line = f"{line.ljust(_COMMENT_COLUMN)}  # {printable(_shown(origin))}"
            table = "mounts" if setting.key == "mounts" else setting.table
            tables.setdefault(table, []).append(line)
    parts = ["\n".join([f"[{table}]", *tables[table]]) for table in (*TABLES, "mounts") if table in tables]
    return "\n\n".join(["\n".join(tables[""]), *parts]) + "\n"


_COMMENT_COLUMN = 44


def _lines(profile: Profile, setting: Setting) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The lines of one setting, each with the keys under which its origin may be."""
    value = _dumped(profile, setting, default=profile.origins.get(setting.key, DEFAULT) != DEFAULT)
    if value is None:
        return
    if setting.key == "mounts":
        # Those of a project are absolute here; their origins go by what was written.
        for mount, (destination, entry) in zip(profile.mounts, value.items(), strict=True):
            yield f"{_key(destination)} = {toml_value(entry)}", (f'mounts."{mount.destination}"',)
    elif isinstance(setting.kind, Map):
        for name, each in value.items():
            yield (
                f"{setting.name}.{_key(name)} = {toml_value(each)}",
                (f'{setting.key}."{name}"', setting.key),
            )
    else:
        yield f"{setting.name} = {toml_value(value)}", (setting.key,)


def _shown(origin: Origin) -> str:
    """An origin in a comment: built-in files by name alone."""
    built_in = paths.configs() + "/"
    if origin.source.startswith(built_in):
        return f"{origin.source[len(built_in) :]}:{origin.line} (built-in)"
    return str(origin)


def toml_value(value: Any) -> str:
    """A value as TOML, on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(key)} = {toml_value(each)}" for key, each in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    return repr(value)


_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def _string(text: str) -> str:
    return (
        '"' + "".join(_ESCAPES.get(char) or (char if _plain(char) else _escape(char)) for char in text) + '"'
    )


def _plain(char: str) -> bool:
    return char.isprintable() and not "\ud800" <= char <= "\udfff"


def _escape(char: str) -> str:
    # A byte that is no UTF-8 has no place in TOML; what it stands for is shown, and can't be read back.
    return f"\\u{ord(char):04X}" if ord(char) < 0x10000 else f"\\U{ord(char):08X}"


def _key(name: str) -> str:
    bare = name.isascii() and name.replace("_", "").replace("-", "").isalnum()
    return name if bare else _string(name)


# --- new files --------------------------------------------------------------------------------------------

_NEW = """\
#:schema {schema}
# `sandbox profile check{name}` checks this file, `sandbox profile show{name}` shows what comes out of it, and
# `sandbox profile schema` lists all keys. {where}

description = ""
extends = {extends}

# command = ["make", "test"]        # what runs when the call names no command

[mounts]
# "." = "rw"                        # the current directory, at the same path: ro, rw or overlay
# "/data" = {{ source = "~/data", mode = "ro" }}
# "~/.config/app" = "hide"          # not to be seen, under any mount
# "/scratch" = {{ mode = "tmpfs", size = "64M" }}

[limits]
# memory = "1G"
# pids = 256
# timeout = "10m"

[net]
# mode = "none"                     # or "host"

[env]
# extend-keep = ["EDITOR"]          # besides what {extends} keeps
# set = {{ CI = "1" }}
"""


def new(name: str | None = None, *, extends: str = "default", cwd: str | None = None) -> str:
    """Write a commented file to begin with, and return its path.

    Args:
        name: a name for a profile of the user's, a path, or None for the project's ./sandbox.toml.
        extends: what it extends; must exist.

    Raises:
        ProfileError: the name is none, or *extends* does not exist.
        SandboxError: the file exists already, or can't be written.
    """
    here = loader.Loader(cwd)
    here.find(extends)
    path = _new_path(name, here)
    schema = os.path.join(paths.configs(), "profile.schema.json")
    own = os.path.basename(path) == "sandbox.toml"
    where = "Relative paths start " + ("from this directory." if own else "where sandbox is called.")
    text = _NEW.format(
        schema=schema,
        name=f" {quote(name)}" if name else "",
        where=where,
        extends=toml_value(extends),
    )
    try:
        os.makedirs(os.path.dirname(path), 0o755 if loader.is_path(name or "./") else 0o700, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        raise SandboxError(
            f"{printable(path)} exists already",
            f"sandbox profile check {quote(name) if name else ''}".rstrip(),
        ) from None
    except OSError as error:
        raise SandboxError(f"cannot write {printable(path)}: {error.strerror}", _elsewhere(name)) from error
    with open(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
    return path


def _elsewhere(name: str | None) -> str:
    """Where else the file could be written to."""
    if name is None:
        return "cd to a directory that you may write in"
    if loader.is_path(name):
        return "name a file in a directory that you may write in"
    return f"set XDG_CONFIG_HOME to a directory of yours, or name a file: sandbox profile new ./{name}.toml"


def _new_path(name: str | None, here: loader.Loader) -> str:
    if name is None:
        return os.path.join(here.cwd, "sandbox.toml")
    if loader.is_path(name):
        return os.path.normpath(os.path.join(here.cwd, os.path.expanduser(name)))
    loader.check_name(name)
    return os.path.join(paths.config_dir(), "profiles", f"{name}.toml")
