"""The kinds of values that settings have: each checks a TOML value and turns it into the model's.

A kind knows its JSON schema and how it is called in messages, and reads the text of a command
line option. It knows nothing of keys, files or other settings.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sandbox import units

__all__ = [
    "Choice",
    "Duration",
    "Flag",
    "Free",
    "Integer",
    "Kind",
    "List",
    "Map",
    "MountEntry",
    "Number",
    "Record",
    "Resource",
    "Size",
    "Text",
    "Umask",
    "Wrong",
    "nearest",
]


class Wrong(ValueError):
    """A value is wrong; `path` leads from it to the part that is, `key` when that part's key is meant.
    `mend` is what helps where the message does not say it."""

    def __init__(
        self,
        message: str,
        path: tuple[str | int, ...] = (),
        *,
        key: bool = False,
        mend: str | None = None,
    ) -> None:
        super().__init__(message)
        self.mend = mend
        self.path = path
        self.key = key


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean "x"?` for the known word nearest to *word*, or ""."""
    import difflib

    found = difflib.get_close_matches(word, list(known), 1, 0.6) or difflib.get_close_matches(
        word.lower().replace("-", "_"), list(known), 1, 0.6
    )
    return f'; did you mean "{found[0]}"?' if found else ""


_TYPES: Mapping[type, str] = {
    str: "a text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "a table",
}


def _what(value: object) -> str:
    return _TYPES.get(type(value), "a date or time")


class Kind:
    """A kind of values. `words` says in messages what is wanted."""

    words = "a value"

    def parse(self, value: Any) -> Any:
        """The model's value for a TOML value. Raises `Wrong`."""
        raise NotImplementedError

    def text(self, text: str) -> Any:
        """The TOML value that a command line option's *text* stands for. Raises `Wrong`."""
        return text

    def dump(self, value: Any) -> Any:
        """The TOML value for one of the model's, so that `parse` gives it back."""
        return value

    def schema(self) -> dict[str, Any]:
        """JSON schema, draft 2020-12."""
        raise NotImplementedError

    def refuse(self, value: object) -> Wrong:
        return Wrong(f"must be {self.words}, not {_what(value)}")


class Text(Kind):
    """A text that *check*, which raises `ValueError`, accepts. Control characters are never accepted."""

    def __init__(
        self, words: str = "a text", check: Callable[[str], str | None] | None = None, pattern: str = ""
    ) -> None:
        self.words = words
        self._check = check
        self._pattern = pattern

    def parse(self, value: Any) -> str:
        if not isinstance(value, str):
            raise self.refuse(value)
        refuse_control(value)
        try:
            changed = self._check(value) if self._check else None
        except ValueError as error:
            raise Wrong(str(error)) from None
        return value if changed is None else changed

    def schema(self) -> dict[str, Any]:
        return {"type": "string", **({"pattern": self._pattern} if self._pattern else {})}


def refuse_control(text: str) -> None:
    """Raise `Wrong` for control characters and half surrogates; those that stand for bytes of a file name
    that is not UTF-8 (PEP 383) are none."""
    for char in text:
        if (
            char < " "
            or char == "\x7f"
            or ("\ud800" <= char <= "\udfff" and not "\udc80" <= char <= "\udcff")
        ):
            raise Wrong(f"has the control character \\x{ord(char):02x} in it")


class Free(Text):
    """A text for people or programs, in which line ends and tabs are welcome; only NUL is not."""

    def parse(self, value: Any) -> str:
        if not isinstance(value, str):
            raise self.refuse(value)
        if "\0" in value:
            raise Wrong("has a NUL character in it, which no program can be given")
        return value


class Choice(Kind):
    """One of some words."""

    def __init__(self, *values: str) -> None:
        self.values = values
        self.words = _either([f'"{value}"' for value in values])

    def parse(self, value: Any) -> str:
        if not isinstance(value, str):
            raise self.refuse(value)
        if value not in self.values:
            raise Wrong(f'"{value}" is not one of {self.words}{nearest(value, self.values)}')
        return value

    def schema(self) -> dict[str, Any]:
        return {"enum": list(self.values)}


def _either(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


class Flag(Kind):
    words = "true or false"

    def parse(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise self.refuse(value)
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


class Integer(Kind):
    """A whole number from *low* to *high*."""

    def __init__(self, low: int, high: int = 2**31 - 1) -> None:
        self.low, self.high = low, high
        self.words = f"a whole number from {low} to {high}"
        if low == high:
            self.words = str(low)
        elif high == 2**31 - 1:
            self.words = f"a whole number, at least {low}"

    def parse(self, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.refuse(value)
        if not self.low <= value <= self.high:
            raise Wrong(f"must be {self.words}, and {_short(value)} is not")
        return value

    def text(self, text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,18}", text, re.ASCII):
            raise Wrong(f'"{text}" is not a whole number')
        return int(text)

    def schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": self.low, "maximum": self.high}


def _short(value: int) -> str:
    return str(value) if value.bit_length() < 100 else "such a number"


class Number(Kind):
    """A number from *low* to *high*."""

    def __init__(self, high: float, low: float) -> None:
        self.high = high
        self.low = low
        self.words = f"a number from {low:g} to {high:g}"

    def parse(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.refuse(value)
        if not self.low <= value <= self.high:
            raise Wrong(f"must be {self.words}")
        return float(value)

    def text(self, text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,18}(\.[0-9]{1,18})?", text, re.ASCII):
            raise Wrong(f'"{text}" is not a number')
        return float(text)

    def schema(self) -> dict[str, Any]:
        return {"type": "number", "minimum": self.low, "maximum": self.high}


class Size(Kind):
    """Bytes, at least *low*."""

    words = 'a size such as "512M"'

    def __init__(self, low: int = 0) -> None:
        self.low = low

    def parse(self, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise self.refuse(value)
        try:
            size = units.parse_size(value)
        except ValueError as error:
            raise Wrong(str(error)) from None
        if size < self.low:
            hint = (
                f'; did you mean "{value}M"? A number alone is bytes'
                if 0 < size < 65536 and str(value).isdigit()
                else ""
            )
            raise Wrong(f'must be at least "{units.format_size(self.low)}"{hint}')
        return size

    def dump(self, value: int) -> str | int:
        text = units.format_size(value)
        return text if units.parse_size(text) == value and not text.isdigit() else value

    def schema(self) -> dict[str, Any]:
        text = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)? ?([KMGTPEkmgtpe](i?[Bb])?|[Bb])?$"}
        return {"anyOf": [text, {"type": "integer", "minimum": self.low}]}


class Duration(Kind):
    """Seconds, at least a thousandth."""

    words = 'a duration such as "10s" or "500ms"'
    _least = 0.001

    def parse(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise self.refuse(value)
        try:
            seconds = units.parse_duration(value)
        except ValueError as error:
            raise Wrong(str(error)) from None
        if seconds < self._least:
            raise Wrong('must be at least "1ms"')
        return seconds

    def dump(self, value: float) -> str | float:
        text = units.format_duration(value)
        return text if units.parse_duration(text) == value else value

    def schema(self) -> dict[str, Any]:
        text = {"type": "string", "pattern": r"^([0-9]+(\.[0-9]+)? ?(ms|s|m|h|d))+$|^[0-9]+(\.[0-9]+)?$"}
        return {"anyOf": [text, {"type": "number", "exclusiveMinimum": 0}]}


class List(Kind):
    """A list of one kind; *unique* ones are sets, in which a value counts once."""

    def __init__(self, item: Kind, words: str, *, unique: bool = True) -> None:
        self.item = item
        self.words = words
        self.unique = unique

    def parse(self, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            hint = f"; write [{_quoted(value)}]" if isinstance(value, str) and len(value) < 60 else ""
            raise Wrong(f"must be {self.words}, not {_what(value)}{hint}")
        found = []
        for number, each in enumerate(value):
            try:
                found.append(self.item.parse(each))
            except Wrong as error:
                raise Wrong(str(error), (number, *error.path)) from None
        return self.join(found)

    def join(self, values: Iterable[Any]) -> tuple[Any, ...]:
        return tuple(dict.fromkeys(values)) if self.unique else tuple(values)

    def dump(self, value: Iterable[Any]) -> list[Any]:
        return [self.item.dump(each) for each in value]

    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": self.item.schema()}


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


class Map(Kind):
    """A table of free keys, which *check* accepts (and may change), and values of one kind. Of an inherited
    one each key can be replaced, and removed with false."""

    def __init__(self, item: Kind, words: str, check: Callable[[str], str], *, merge: bool = False) -> None:
        self.item = item
        self.words = words
        #: whether an entry that is a table merges with an inherited one
        self.merge = merge
        self._check = check

    def parse(self, value: Any) -> dict[str, Any]:
        """All entries; False for those that are to be removed."""
        if not isinstance(value, dict):
            raise self.refuse(value)
        found: dict[str, Any] = {}
        for name, each in value.items():
            key = self.key(name)
            if key in found:
                raise Wrong(f'"{name}" is there twice', (name,), key=True)
            try:
                found[key] = False if each is False else self.item.parse(each)
            except Wrong as error:
                raise Wrong(str(error), (name, *error.path), key=error.key) from None
        return found

    def key(self, name: str) -> str:
        """The key as it is kept. Raises `Wrong`, with the key's path."""
        try:
            refuse_control(name)
            return self._check(name)
        except ValueError as error:
            raise Wrong(str(error), (name,), key=True) from None

    def dump(self, value: Mapping[str, Any]) -> dict[str, Any]:
        return {key: self.item.dump(each) for key, each in value.items()}

    def schema(self) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": {"anyOf": [self.item.schema(), {"const": False}]}}


class Record(Kind):
    """A table of known keys, of which none must be there."""

    def __init__(self, words: str, **fields: Kind) -> None:
        self.words = words
        self.fields = fields

    def parse(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.refuse(value)
        found = {}
        for name, each in value.items():
            if name not in self.fields:
                known = _either([f'"{field}"' for field in self.fields])
                hint = nearest(name, self.fields) or f"; it has {known}"
                raise Wrong(f'has no key "{name}"{hint}', (name,), key=True)
            try:
                found[name] = self.fields[name].parse(each)
            except Wrong as error:
                raise Wrong(str(error), (name, *error.path)) from None
        return found

    def dump(self, value: Mapping[str, Any]) -> dict[str, Any]:
        return {key: self.fields[key].dump(each) for key, each in value.items()}

    def schema(self) -> dict[str, Any]:
        fields = {name: kind.schema() for name, kind in self.fields.items()}
        return {"type": "object", "properties": fields, "additionalProperties": False}


class MountEntry(Record):
    """A mount: a table, or its mode alone. What contradicts itself is refused when all is merged."""

    modes = Choice("ro", "rw", "overlay", "tmpfs", "hide")

    def __init__(self) -> None:
        super().__init__(
            f'a mode ({self.modes.words}), a table such as {{ source = ".", mode = "rw" }}, or false',
            mode=self.modes,
            source=Text("a path", check_source),
            size=Size(4096),
            optional=Flag(),
        )

    def parse(self, value: Any) -> dict[str, Any]:
        if isinstance(value, str):
            return {"mode": self.modes.parse(value)}
        return super().parse(value)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [self.modes.schema(), super().schema()]}


def check_path(path: str) -> str:
    """A path of the profile: absolute, below "~", or relative. Raises `ValueError`."""
    if not path:
        raise ValueError("is empty, and should be a path")
    if path.startswith("~") and path != "~" and not path.startswith("~/"):
        raise ValueError(
            f'"{path}": only your own home can be written with ~; for a file of that name write "./{path}"'
        )
    if len(os.fsencode(path)) > 4000:
        raise ValueError("is longer than the kernel takes a path")
    return path


def check_source(path: str) -> str:
    """A path on the host; `..` only at its beginning: behind a link it would lead elsewhere than written."""
    check_path(path)
    parts = [part for part in path.split("/") if part not in ("", ".")]
    climbing = 0
    while climbing < len(parts) and parts[climbing] == ".." and path[0] not in "/~":
        climbing += 1
    if ".." in parts[climbing:]:
        raise ValueError(f'"{path}" has ".." in it; write the path without')
    return path


def check_destination(path: str) -> str:
    """A path inside, in normal form; relative ones are the same place as on the host."""
    check_path(path)
    if ".." in path.split("/"):
        raise ValueError(f'"{path}" has ".." in it; write where it leads')
    normal = os.path.normpath(path)
    if normal.startswith("/"):
        normal = "/" + normal.lstrip("/")
    if normal == "/":
        raise ValueError(
            'a mount can\'t replace the whole root; that is what from = "dir:PATH" in [root] is for'
        )
    # "./~" is a file of that name, and must not become the home.
    return f"./{normal}" if normal.startswith("~") and not path.startswith("~") else normal


class Umask(Kind):
    """A umask: text, since nobody could tell what the number 22 was meant to be."""

    words = 'three octal digits in quotes, as in "022"'

    def parse(self, value: Any) -> int:
        if not isinstance(value, str):
            raise self.refuse(value)
        if not re.fullmatch(r"0?[0-7]{3}", value, re.ASCII):
            raise Wrong(f'"{value}" is not a umask; it has {self.words}')
        return int(value, 8)

    def dump(self, value: int) -> str:
        return f"{value:03o}"

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": "^0?[0-7]{3}$"}


class Resource(Kind):
    """A resource limit: one value, or a soft and a hard one; -1 is unlimited."""

    words = 'a number, a size, "unlimited", or a list of two (soft, hard)'

    def parse(self, value: Any) -> tuple[int, int]:
        pair = value if isinstance(value, list | tuple) else [value, value]
        if len(pair) != 2:
            raise Wrong(f"must be {self.words}")
        soft, hard = (self._one(each, number if pair is value else None) for number, each in enumerate(pair))
        if hard != -1 and not 0 <= soft <= hard:
            raise Wrong("the soft limit is above the hard one")
        return soft, hard

    def _one(self, value: Any, number: int | None) -> int:
        path = () if number is None else (number,)
        if value == "unlimited":
            return -1
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise Wrong(f"must be {self.words}, not {_what(value)}", path)
        try:
            return units.parse_size(value)
        except ValueError as error:
            raise Wrong(str(error), path) from None

    def dump(self, value: tuple[int, int]) -> Any:
        soft, hard = ("unlimited" if each == -1 else each for each in value)
        return soft if soft == hard else [soft, hard]

    def schema(self) -> dict[str, Any]:
        one = {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string"}]}
        return {"anyOf": [*one["anyOf"], {"type": "array", "items": one, "minItems": 2, "maxItems": 2}]}
