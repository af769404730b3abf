"""Profiles: what a user wants of a sandbox, from TOML files, options and arguments to one frozen `Profile`.

    model      the profile itself                  settings   the table of all keys
    kinds      values and their checks             document   TOML with positions
    merge      layers on top of each other         build      contradictions; the profile
    loader     lookup, extends, overrides          trust      what projects may say
    options    the command line                    schema     JSON schema and reference
    reopen     overrides on a loaded profile
    text       profiles as TOML, new files, lists

Knows nothing of this machine. Everything is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sandbox.profile.loader import Given, from_dict, load
    from sandbox.profile.model import Profile
    from sandbox.profile.options import add_options, overrides_from
    from sandbox.profile.reopen import adjust
    from sandbox.profile.settings import SETTINGS, Setting
    from sandbox.profile.text import Listed, check, new, profiles, show, to_dict

__all__ = [
    "SETTINGS",
    "Given",
    "Listed",
    "Profile",
    "Setting",
    "add_options",
    "adjust",
    "check",
    "from_dict",
    "load",
    "new",
    "overrides_from",
    "profiles",
    "show",
    "to_dict",
]

# No name of a module may be among them: importing that module would take the function's place.
_MODULES = {
    "SETTINGS": "settings",
    "Given": "loader",
    "Listed": "text",
    "Profile": "model",
    "Setting": "settings",
    "add_options": "options",
    "adjust": "reopen",
    "check": "text",
    "from_dict": "loader",
    "load": "loader",
    "new": "text",
    "overrides_from": "options",
    "profiles": "text",
    "show": "text",
    "to_dict": "text",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
