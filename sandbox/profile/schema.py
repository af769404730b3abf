"""The settings for editors and for readers: a JSON schema, and a reference in plain text.

    python -m sandbox.profile.schema       writes configs/profile.schema.json anew, in a checkout

A test keeps that file equal to what the table says.
"""

from __future__ import annotations

import os
import textwrap
from typing import Any

from sandbox import paths
from sandbox.profile.kinds import List, Map
from sandbox.profile.later import whole
from sandbox.profile.settings import SETTINGS, TABLES, Setting

__all__ = ["json_schema", "json_text", "reference"]

_TABLE_HELP = {
    "root": "The file system that the command sees, before any mounts.",
    "user": "Users and groups inside.",
    "limits": "What the sandbox may use. Sizes are bytes, or a text with K, M, G or T (1024-based); "
    "times are seconds, or a text with ms, s, m, h or d. false takes an inherited limit away.",
    "net": "The network.",
    "env": "Environment variables. Nothing else of the caller's gets in.",
    "process": "How the command starts.",
    "mounts": "",
}

_EXTENDS = (
    "A profile, or a list of profiles from left to right, that this one goes on top of: names, or paths of "
    "from this file's directory. A project's own file that says nothing extends \"default\"."
)


def json_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a profile's file."""
    name = {"type": "string", "minLength": 1}
    properties: dict[str, Any] = {
        "extends": {"description": _EXTENDS, "anyOf": [name, {"type": "array", "items": name}]},
    }
    for setting in SETTINGS:
        if not setting.table:
            properties.update(_properties(setting))
    for table in TABLES:
        inner: dict[str, Any] = {}
        for setting in SETTINGS:
            if setting.table == table:
                inner.update(_properties(setting))
        properties[table] = {
            "type": "object",
            "description": _TABLE_HELP[table],
            "properties": inner,
            "additionalProperties": False,
        }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A profile of sandbox",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def _properties(setting: Setting) -> dict[str, Any]:
    instead = whole(setting.key)
    help = setting.help + (f" Not available yet; use {instead}." if instead else "")
    schema = setting.kind.schema()
    if setting.clear:
        schema = {"anyOf": [*schema.get("anyOf", [schema]), {"const": False}]}
    default = setting.kind.dump(setting.default) if setting.default not in (None, (), {}) else None
    extra = {"default": default} if default is not None else {}
    found = {setting.name: {"description": help, **extra, **schema}}
    if isinstance(setting.kind, List):
        found[f"extend-{setting.name}"] = {
            "description": f"Added to the inherited {setting.name}.",
            **setting.kind.schema(),
        }
    return found


def json_text() -> str:
    """`json_schema` as the file that editors read."""
    import json

    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def reference(width: int = 100) -> str:
    """All keys with their types, defaults, options and meaning, as plain text."""
    lines = ["Keys of a profile", ""]
    lines += _entry("extends", "a name, or a list of names", "", _EXTENDS, width)
    for table in ("", "mounts", *TABLES):
        rows = [
            each for each in SETTINGS if (each.table == table if table != "mounts" else each.key == table)
        ]
        if not table:
            rows = [each for each in rows if each.key != "mounts"]
        if table:
            lines += [f"[{table}]", *textwrap.wrap(_TABLE_HELP[table], width), ""]
        for setting in rows:
            lines += _row(setting, width)
    lines += [
        *textwrap.wrap(
            "Tables merge, and other values replace inherited ones. extend-KEY adds to an inherited list. "
            "false takes an inherited mount, variable or limit away. A project's file may only narrow the "
            "default profile, until `sandbox profile trust`.",
            width,
        )
    ]
    return "\n".join(lines) + "\n"


def _row(setting: Setting, width: int) -> list[str]:
    notes = []
    if setting.default not in (None, (), {}):
        notes.append(f"default {_plain(setting)}")
    notes += [" ".join((", ".join(option.flags), option.metavar)) for option in setting.options]
    if whole(setting.key):
        notes.append("not available yet")
    name = '"DESTINATION"' if setting.key == "mounts" else setting.name
    words = (
        setting.kind.item.words
        if setting.key == "mounts" and isinstance(setting.kind, Map)
        else setting.kind.words
    )
    return _entry(name, words, "; ".join(notes), setting.help, width)


def _plain(setting: Setting) -> str:
    from sandbox.profile.text import toml_value

    return toml_value(setting.kind.dump(setting.default))


def _entry(name: str, words: str, notes: str, help: str, width: int) -> list[str]:
    lines = textwrap.wrap(f"{name} = {words}", width, subsequent_indent="    ")
    for text in (help, f"({notes})" if notes else ""):
        lines += textwrap.wrap(text, width, initial_indent="    ", subsequent_indent="    ")
    return [*lines, ""]


if __name__ == "__main__":
    with open(os.path.join(paths.configs(), "profile.schema.json"), "w", encoding="utf-8") as file:
        file.write(json_text())
