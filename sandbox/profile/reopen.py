"""A profile that is loaded already, with overrides on top: what giving them to `load` would have made.

Every value keeps the place it came from, and the directory that its paths start from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sandbox.profile import merge
from sandbox.profile.build import DEFAULT, value_of
from sandbox.profile.document import Document, Path
from sandbox.profile.kinds import Map
from sandbox.profile.loader import Loader
from sandbox.profile.model import Mount, Origin, Profile
from sandbox.profile.settings import SETTINGS, Setting
from sandbox.words import printable

__all__ = ["adjust"]


def adjust(profile: Profile, overrides: Mapping[str, object], *, cwd: str | None = None) -> Profile:
    """*profile* with *overrides*, as `sandbox.profile.load` takes them.

    Raises:
        ProfileError, NotAvailableError: as `load`; also for values of a profile made by hand.
    """
    loader = Loader(cwd)
    loader.files += profile.files
    loader.looked += profile.looked
    adjusted = loader.finish(_merged(profile), profile.name, overrides)
    adjusted.check()
    return adjusted


class _Place(Document):
    """Stands in for the document that set one value."""

    def __init__(self, origin: Origin, base: str | None = None) -> None:
        super().__init__(origin.source, {}, base=base)
        self.hostile = origin.hostile
        self._origin = origin

    def origin(self, path: Path) -> Origin:
        return self._origin

    def where(self, path: Path, message: str, *, key: bool = False) -> str:
        return f"{printable(str(self._origin))}: {printable(message)}"


def _merged(profile: Profile) -> merge.Merged:
    merged = merge.Merged()
    for setting in SETTINGS:
        if isinstance(setting.kind, Map):
            merged.tables[setting.key] = dict(_entries(profile, setting))
            continue
        value, origin = value_of(profile, setting), profile.origins.get(setting.key, DEFAULT)
        if value != setting.default or origin != DEFAULT:
            base = profile.root.base if setting.key == "root.from" else None
            merged.rows[setting.key] = _row(value, origin, (*setting.key.split("."),), base)
    return merged


def _entries(profile: Profile, setting: Setting) -> Iterator[tuple[str, merge.Row]]:
    values = value_of(profile, setting)
    entries: Mapping[str, Any] = values
    bases: dict[str, str | None] = {}
    if setting.key == "mounts":
        entries = {mount.destination: _entry(mount) for mount in values}
        bases = {mount.destination: mount.base for mount in values}
    for name, value in entries.items():
        origin = profile.origins.get(f'{setting.key}."{name}"', DEFAULT)
        yield name, _row(value, origin, (*setting.key.split("."), name), bases.get(name))


def _entry(mount: Mount) -> dict[str, Any]:
    found = {"mode": mount.mode, "source": mount.source, "size": mount.size, "optional": mount.optional}
    return {key: value for key, value in found.items() if value is not None and value is not False}


def _row(value: Any, origin: Origin, path: Path, base: str | None) -> merge.Row:
    place = _Place(Origin("argument profile") if origin == DEFAULT else origin, base)
    return merge.Row(value, place, path, place)
