"""From merged layers to a `Profile`: the last step, and the only one that looks at values together.

Values that contradict each other are refused here, with the place of the one that was set
last; so is the use of what has no mechanism yet.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from sandbox.errors import NotAvailableError
from sandbox.profile.checks import LIMIT_OF_RLIMIT
from sandbox.profile.document import Path
from sandbox.profile.kinds import Map, nearest
from sandbox.profile.later import LATER, lacking, whole
from sandbox.profile.merge import Merged, Row
from sandbox.profile.model import Environment, Limits, Mount, Net, Origin, Process, Profile, Root, User
from sandbox.profile.settings import BY_KEY, SETTINGS, Setting

__all__ = ["DEFAULT", "build", "check", "refuse_unavailable", "value_of"]

DEFAULT = Origin("built-in default")


def build(merged: Merged, name: str = "", files: Iterable[str] = (), looked: Iterable[str] = ()) -> Profile:
    """The profile of *merged* layers, as they are: see `check`."""
    return Profile(
        name=name,
        **_fields(merged, "", "mounts"),
        mounts=tuple(_mount(destination, row) for destination, row in merged.table("mounts").items()),
        root=_root(merged),
        user=User(**_fields(merged, "user")),
        limits=Limits(**_fields(merged, "limits")),
        net=Net(**_fields(merged, "net")),
        env=Environment(**_fields(merged, "env")),
        process=Process(**{**_fields(merged, "process"), "workdir": _workdir(merged)}),
        files=tuple(dict.fromkeys(files)),
        looked=tuple(dict.fromkeys(looked)),
        origins=MappingProxyType(_origins(merged)),
    )


def _fields(merged: Merged, table: str, *leave: str) -> dict[str, Any]:
    found = {}
    for setting in SETTINGS:
        if setting.table == table and setting.name not in leave:
            found[setting.name] = _value(merged, setting)
    return found


def _value(merged: Merged, setting: Setting) -> Any:
    if isinstance(setting.kind, Map):
        return MappingProxyType({name: row.value for name, row in merged.table(setting.key).items()})
    return merged.value(setting.key)


def _root(merged: Merged) -> Root:
    fields = _fields(merged, "root")
    row = merged.rows.get("root.from")
    layers = merged.rows.get("root.layers")
    if layers is not None and layers.roots.base is not None:
        fields["layers"] = tuple(_layer(each, layers.roots.base) for each in fields["layers"])
    return Root(source=fields.pop("from"), base=row.roots.base if row else None, **fields)


def _layer(written: str, base: str) -> str:
    """A layer's directory is found from the file that names it, wherever the root is named."""
    path = written.removeprefix("dir:")
    if path.startswith(("image:", "/", "~")):
        return written
    return os.path.normpath(os.path.join(base, path))


def _workdir(merged: Merged) -> str | None:
    """A project's relative one starts from its directory, as its other paths do."""
    row = merged.rows.get("process.workdir")
    if row is None:
        return None
    path: str = row.value
    if row.document.base is None or path.startswith(("/", "~")):
        return path
    return os.path.normpath(os.path.join(row.document.base, path))


def _mount(destination: str, row: Row) -> Mount:
    value = row.value
    return Mount(
        destination=destination,
        mode=value.get("mode", "ro"),
        source=value.get("source"),
        size=value.get("size"),
        optional=value.get("optional", False),
        base=row.roots.base,
    )


def _origins(merged: Merged) -> dict[str, Origin]:
    origins = {setting.key: DEFAULT for setting in SETTINGS}
    for key, row in merged.rows.items():
        origins[key] = row.document.origin(row.path)
    for key, table in merged.tables.items():
        for name, row in table.items():
            found = row.document.origin(row.path)
            # The paths of a mount are hostile when the document is that they start from.
            hostile = row.roots.hostile
            origins[f'{key}."{name}"'] = Origin(found.source, found.line, found.column, hostile)
            origins[key] = found
    return origins


def value_of(profile: Profile, setting: Setting) -> Any:
    """The value that *profile* has for *setting*."""
    if not setting.table:
        return getattr(profile, setting.name)
    return getattr(getattr(profile, setting.table), "source" if setting.key == "root.from" else setting.name)


# --- values that don't go together -------------------------------------------------------------------


def check(merged: Merged) -> None:
    """Refuse contradictions, and what is not available yet.

    Raises:
        ProfileError: two values contradict each other.
        NotAvailableError: a value's mechanism is not built yet.
    """
    for destination, row in merged.table("mounts").items():
        _check_mount(merged, destination, row)
    _check_root(merged)
    _check_user(merged)
    _check_net(merged)
    _check_require(merged)
    _check_rlimits(merged)
    _check_available(merged)


def _fail(merged: Merged, keys: Iterable[str], message: str, mend: str | None = None) -> None:
    """Raise about the first of *keys* that some document has set."""
    for key in keys:
        row = merged.rows.get(key) or next(iter(merged.table(key).values()), None)
        if row is not None:
            path: Path = row.path if key in merged.rows else row.path[:-1]
            row.document.fail(path, message, mend)
    raise AssertionError(f"defaults contradict each other: {message}")  # a test makes sure that none do


def _check_mount(merged: Merged, destination: str, row: Row) -> None:
    value, mode = row.value, row.value.get("mode")

    def fail(key: str, message: str) -> None:
        # The entry may be merged: its key points to what the last document wrote.
        row.document.fail((*row.path, key), f'mounts."{destination}" {message}')

    if mode is None:
        fail("", 'needs a mode, as in mode = "ro"')
    if mode in ("tmpfs", "hide") and "source" in value:
        fail("source", f"has a source, but {mode} shows nothing of the host")
    if mode in ("ro", "rw", "hide") and "size" in value:
        fail("size", f"has a size, but only tmpfs and overlay hold anything in memory, and this is {mode}")
    if mode == "overlay" and "size" in value and merged.value("root.writable") == "disk":
        fail(
            "size", 'has a size, but root.writable = "disk" keeps its changes on disk, where none can be held'
        )
    if mode == "tmpfs" and "optional" in value:
        fail("optional", "is optional, but a tmpfs has no source that could be missing")


def _check_root(merged: Merged) -> None:
    source, layers = merged.value("root.from"), merged.value("root.layers")
    changes = Root(source=source, layers=layers, writable=merged.value("root.writable")).changes
    if merged.value("root.size") is not None and changes != "memory":
        why = "is read-only" if changes == "no" else "is on disk, where no size can be held"
        _fail(
            merged, ("root.size",), f"root.size has no use: the root {why}", 'writable = "memory" in [root]'
        )
    if layers and source == "host":
        _fail(
            merged,
            ("root.layers",),
            "root.layers has no use: the kernel puts no layers on the host's root",
            'from = "empty", "image:REF" or "dir:PATH" in [root]',
        )
    images = source.startswith("image:") or any(each.startswith("image:") for each in layers)
    if images and merged.value("user.ids") in ("single", "private"):
        _fail(
            merged,
            ("user.ids", "root.from"),
            f'user.ids = "{merged.value("user.ids")}" does not go with an image: its files have many owners',
            'ids = "range" in [user]',
        )


def _check_user(merged: Merged) -> None:
    wanted = merged.value("user.map")
    if merged.value("root.layers") or merged.value("root.from") not in ("host", "empty"):
        return
    user, colon, group = wanted.partition(":")
    if wanted in ("keep", "root") or (colon and user.isdigit() and group.isdigit()):
        return
    hint = nearest(wanted, ("keep", "root"))
    if user.isdigit() and not colon:
        hint = f'; with a group it would be "{wanted}:{wanted}"'
    _fail(
        merged,
        ("user.map",),
        f'user.map = "{wanted}" is looked up in the accounts of an image or a directory, and the root is '
        f'"{merged.value("root.from")}"{hint}',
        'map = "keep", "root" or "UID:GID" in [user]',
    )


def _check_net(merged: Merged) -> None:
    mode = merged.value("net.mode")
    useless = {
        "none": ("there is no network", ("allow", "deny", "dns", "reach", "rate")),
        "host": (
            "the network is the host's own",
            ("publish", "activate", "allow", "deny", "dns", "reach", "rate"),
        ),
        "proxy": ("nothing but a proxy can be reached", ("rate",)),
    }
    why, keys = useless.get(mode, ("", ()))
    for name in keys:
        given = merged.value(f"net.{name}")
        # nothing is also what an empty list of allow says
        if given not in (None, ()) or (name == "allow" and given == () and mode == "host"):
            _fail(
                merged,
                (f"net.{name}",),
                f'net.{name} has no use: {why} (net.mode = "{mode}")',
                f"remove {name}" if lacking("net.mode", "user") else 'mode = "user" in [net]',
            )
    if merged.value("net.backend") != "auto" and mode in useless:
        _fail(merged, ("net.backend",), f'net.backend has no use with net.mode = "{mode}"', "remove backend")


def _check_require(merged: Merged) -> None:
    for name in merged.value("require"):
        if name == "net" and merged.value("net.mode") == "host":
            _fail(
                merged,
                ("require",),
                'require names net, but net.mode = "host" isolates nothing',
                'mode = "none" in [net]',
            )
        elif name == "seccomp" and merged.value("process.seccomp") == "off":
            _fail(
                merged,
                ("require",),
                'require names seccomp, but process.seccomp is "off"',
                "remove one of them",
            )
        elif name not in ("net", "seccomp", "io") and merged.value(f"limits.{name}") is None:
            _fail(
                merged,
                ("require",),
                f"require names {name}, but limits.{name} is not set",
                f"set {name} in [limits]",
            )


def _check_rlimits(merged: Merged) -> None:
    for name, row in merged.table("process.rlimits").items():
        limit = LIMIT_OF_RLIMIT.get(name)
        if limit and merged.value(f"limits.{limit}") is not None:
            row.document.fail(
                row.path,
                f"process.rlimits.{name} and limits.{limit} set the same; limits.{limit} is set "
                f"at {merged.rows[f'limits.{limit}'].document.origin(merged.rows[f'limits.{limit}'].path)}",
                f"change limits.{limit}, or take it away with {limit} = false",
                key=True,
            )


def _check_available(merged: Merged) -> None:
    for setting in SETTINGS:
        rows: Mapping[str, Row] = merged.table(setting.key)
        row = merged.rows.get(setting.key) or next(iter(rows.values()), None)
        if row is None or (not rows and row.value == setting.default):
            continue
        instead = lacking(setting.key, row.value)
        if instead:
            path = row.path if setting.key in merged.rows else row.path[:-1]
            message = row.document.where(path, _not_yet(setting.key, row.value))
            raise NotAvailableError(message, f"use {instead}")


def refuse_unavailable(profile: Profile) -> None:
    """The same for a profile that was made by hand, and may have been checked by nobody.

    Raises:
        NotAvailableError: a value's mechanism is not built yet.
    """
    for key in LATER:
        value, default = value_of(profile, BY_KEY[key]), BY_KEY[key].default
        instead = lacking(key, value) if value != default else ""
        if instead:
            origin = profile.origins.get(key, DEFAULT)
            where = "" if origin == DEFAULT else f"{origin}: "
            raise NotAvailableError(where + _not_yet(key, value), f"use {instead}")


def _not_yet(key: str, value: object) -> str:
    return f"{key if whole(key) else f'{key} = {_shown(value)}'} is not available yet"


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else str(value)
