"""Layers of profiles on top of each other: what each document changes, and what comes out.

Tables merge, scalars and lists replace, `extend-KEY` appends, and false takes an inherited
value away. Every value remembers the document and the place it came from. What the values
mean together is `sandbox.profile.build`'s business.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from sandbox.profile.document import Document, Path
from sandbox.profile.kinds import List, Map, Wrong, nearest
from sandbox.profile.settings import BY_KEY, SETTINGS, TABLES, Setting

__all__ = ["Change", "Merged", "Row", "apply", "read"]

_EXTEND = "extend-"


@dataclass(frozen=True, slots=True)
class Row:
    """A value and where it came from. Of a mount `roots` is the document whose directory it starts from."""

    value: Any
    document: Document
    path: Path
    roots: Document


class Change(NamedTuple):
    """What a document says about one setting, or about one entry (`name`) of a setting that is a table."""

    setting: Setting
    name: str | None
    action: Literal["set", "extend", "clear"]
    value: Any
    path: Path


@dataclass(slots=True)
class Merged:
    """The rows that some document has set: by key, and by key and name for settings that are tables."""

    rows: dict[str, Row] = field(default_factory=dict)
    tables: dict[str, dict[str, Row]] = field(default_factory=dict)

    def value(self, key: str) -> Any:
        """The value of a setting that is no table, or its default."""
        return self.rows[key].value if key in self.rows else BY_KEY[key].default

    def table(self, key: str) -> Mapping[str, Row]:
        return self.tables.get(key, {})


# --- what a document says ------------------------------------------------------------------------------


def read(document: Document) -> list[Change]:
    """All changes of *document*, in its order; not `extends`, which is the loader's.

    Raises:
        ProfileError: an unknown key, a wrong type or value, with its position.
    """
    changes: list[Change] = []
    for name, value in document.data.items():
        if name == "extends":
            continue
        if name in TABLES:
            if not isinstance(value, dict):
                document.fail((name,), f"[{name}] must be a table")
            for key, each in value.items():
                changes += _setting(document, name, key, each)
        else:
            changes += _setting(document, "", name, value)
    _refuse_both(document, changes)
    return changes


def _setting(document: Document, table: str, name: str, value: Any) -> Iterator[Change]:
    path: Path = (table, name) if table else (name,)
    extend = name.startswith(_EXTEND)
    word = name.removeprefix(_EXTEND)
    setting = BY_KEY.get(f"{table}.{word}" if table else word)
    if setting is None or (extend and not isinstance(setting.kind, List)):
        document.fail(path, _unknown(table, name, setting), key=True)
    kind = setting.kind
    if value is False and setting.clear:
        yield Change(setting, None, "clear", None, path)
        return
    try:
        parsed = kind.parse(value)
    except Wrong as error:
        whole = path + error.path
        origin = str(document.origin(whole))
        # An option is no key, and where in the list its value is to be appended is nobody's business.
        option = (setting.key,) if extend and origin.startswith("option ") else path
        document.fail(whole, _about(error, path, option), _mend(setting, error, origin), key=error.key)
    if isinstance(kind, Map):
        written = {kind.key(key): key for key in value}
        for key, each in parsed.items():
            yield Change(setting, key, "clear" if each is False else "set", each, (*path, written[key]))
    else:
        yield Change(setting, None, "extend" if extend else "set", parsed, path)


def _about(error: Wrong, path: Path, option: Path) -> str:
    """The error's text, with the key in front where the text would not say what it is about."""
    text = str(error)
    if option != path:
        return f"{option[0]} {text}" if text.startswith(("must", "has ", "is ")) else text
    within = path + error.path
    if text.startswith("has no key"):
        within = within[:-1]
    if text.startswith(("must", "has ", "is ")):
        return f"{_dotted(within)} {text}"
    return f"{_dotted(within)}: {text}"


def _mend(setting: Setting, error: Wrong, origin: str) -> str | None:
    """The form that a value from *origin* has, where the error does not say it already."""
    if error.mend or "did you mean" in str(error):
        return error.mend
    for option in setting.options:
        if origin == f"option {option.flags[-1]}":
            return option.usage
    kind = setting.kind.item if isinstance(setting.kind, List | Map) else setting.kind
    return None if kind.words in str(error) else f"{setting.key}: {kind.words}"


def _dotted(path: Path) -> str:
    words = ""
    for part in path:
        if isinstance(part, int):
            words += f"[{part}]"
        elif part.replace("_", "").replace("-", "").isalnum() and part.isascii():
            words += f".{part}"
        else:
            words += f'."{part}"'
    return words[1:]


def _unknown(table: str, name: str, setting: Setting | None) -> str:
    where = f" in [{table}]" if table else ""
    if setting is not None:
        return f'"{name}"{where}: only lists can be extended, and {setting.name} is none'
    word = name.removeprefix(_EXTEND)
    return f'unknown key "{name}"{where}' + (_elsewhere(table, word) or _similar(table, name, word))


def _elsewhere(table: str, word: str) -> str:
    """Where the very same word is a key."""
    if table and word in BY_KEY:
        return f"; {word} belongs above all tables"
    if not table and word.startswith(("/", "~", ".")):
        return "; mounts belong in [mounts]"
    return next(
        (f"; it belongs in [{each.table}]" for each in SETTINGS if each.name == word and each.table), ""
    )


def _similar(table: str, name: str, word: str) -> str:
    here = [each.name for each in SETTINGS if each.table == table]
    if not table:
        here += [*TABLES, "extends"]
    hint = nearest(word, here)
    if hint:
        return hint.replace('mean "', f'mean "{_EXTEND}') if word != name else hint
    found = nearest(word, [each.name for each in SETTINGS if each.table]).partition('"')[2].partition('"')[0]
    return next(
        (f'; did you mean "{found}" in [{each.table}]?' for each in SETTINGS if each.name == found), ""
    )


def _refuse_both(document: Document, changes: list[Change]) -> None:
    """A list that is both set and extended in one document: which came first can't be told."""
    for change in changes:
        if change.action == "extend" and any(
            other.setting is change.setting and other.action != "extend" for other in changes
        ):
            name = change.setting.name
            document.fail(
                change.path, f'"{name}" and "{_EXTEND}{name}" in the same table: one is enough', key=True
            )


# --- layers --------------------------------------------------------------------------------------------


def apply(merged: Merged, document: Document, changes: list[Change]) -> None:
    """Put the *changes* of *document* on top of *merged*.

    Raises:
        ProfileError: an entry is to be removed that is not there.
    """
    for change in changes:
        row = Row(change.value, document, change.path, document)
        if isinstance(change.setting.kind, Map):
            _apply_entry(merged, change, row)
        elif change.action == "clear":
            merged.rows.pop(change.setting.key, None)
        elif change.action == "extend":
            inherited = merged.value(change.setting.key) or ()
            joined = change.setting.kind.join((*inherited, *change.value))  # type: ignore[attr-defined]
            merged.rows[change.setting.key] = Row(joined, document, change.path, document)
        else:
            merged.rows[change.setting.key] = row
    _keep_over_set(merged, changes)


def _keep_over_set(merged: Merged, changes: list[Change]) -> None:
    """A variable that *changes* take from the caller is no longer the one that an earlier document set."""
    values = merged.tables.get("env.set", {})
    own = {change.name for change in changes if change.setting.key == "env.set" and change.action == "set"}
    for change in changes:
        if change.setting.key == "env.keep" and change.action != "clear":
            for name in set(change.value) - own:
                values.pop(name, None)


def _apply_entry(merged: Merged, change: Change, row: Row) -> None:
    table = merged.tables.setdefault(change.setting.key, {})
    if change.name is None:
        table.clear()
    elif change.action == "clear":
        if change.name not in table:
            known = nearest(change.name, table)
            row.document.fail(
                change.path, f'there is no inherited "{change.name}" to take away{known}', key=True
            )
        del table[change.name]
    else:
        kind = change.setting.kind
        inherited = table.get(change.name)
        if inherited is not None and isinstance(kind, Map) and kind.merge:
            row = _merge_mount(change.name, inherited, row)
        table[change.name] = row


def _merge_mount(destination: str, old: Row, new: Row) -> Row:
    """A mount on an inherited one: what it does not say is inherited, where the new mode has a use for it.

    A relative destination is another place for a document of another directory, so that nothing of the old
    one is left then.
    """
    relative = not destination.startswith(("/", "~"))
    if relative and old.roots.base != new.roots.base:
        return new
    kept = dict(old.value)
    mode = new.value.get("mode", kept.get("mode"))
    if mode != kept.get("mode"):
        if mode not in ("ro", "rw", "overlay"):
            kept.pop("source", None)
        if mode not in ("tmpfs", "overlay"):
            kept.pop("size", None)
    if mode == "tmpfs":
        kept.pop("optional", None)
    # One that showed nothing of the host had no place there: the new document chooses it.
    own = "source" in new.value or old.value.get("mode") in ("tmpfs", "hide")
    return Row({**kept, **new.value}, new.document, new.path, new.roots if own else old.roots)
