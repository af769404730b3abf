"""TOML with positions: a profile's file as values, and where each key and value stands in it.

tomli reads the values and judges the syntax. It keeps no positions, so that a scanner of our
own goes over the same text again; it may assume that the text is valid, and need not know
what values mean. Errors look as a compiler's do: `file:line:col: message`, the line, a caret.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

from sandbox.errors import ProfileError
from sandbox.profile.model import Origin
from sandbox.words import printable

__all__ = ["MAX_DEPTH", "Document", "Path", "Place", "parse", "point", "scan"]

#: How deep tables and lists may be nested: positions are found by recursion.
MAX_DEPTH = 32
_FLATTER = "write it without tables in tables"

#: A key or value of a document: keys and array indexes from the top.
Path = tuple[str | int, ...]


class Place(NamedTuple):
    """Offsets into the text, from `begin` up to `end`: of a key, and of its value."""

    key: tuple[int, int]
    value: tuple[int, int]


class Document:
    """A profile's file, or what stands in for one.

    Attributes:
        source: its name in messages and origins.
        data: the values.
        file: its real path, "" if there is none.
        base: the directory that its relative paths start from; None: the caller's working directory.
        hostile: a project's own file that is not trusted.
        top: where in the file the profile begins (`("tool", "sandbox")`, or empty).
    """

    def __init__(
        self, source: str, data: Mapping[str, Any], text: str = "", *, file: str = "", base: str | None = None
    ) -> None:
        self.source = source
        self.data = data
        self.file = file
        self.base = base
        self.hostile = False
        self.top: Path = ()
        self._text = text
        self._places: Mapping[Path, Place] | None = None
        self._lines: list[int] | None = None

    def origin(self, path: Path) -> Origin:
        """Where *path* was set."""
        place = self._place(path)
        if place is None:
            return Origin(self.source, hostile=self.hostile)
        if self._lines is None:
            self._lines = [match.end() for match in re.finditer("^", self._text, re.MULTILINE)]
        line = bisect.bisect_right(self._lines, place.key[0])
        column = place.key[0] - self._lines[line - 1] + 1
        return Origin(self.source, line, column, self.hostile)

    def fail(self, path: Path, message: str, mend: str | None = None, *, key: bool = False) -> NoReturn:
        """Raise a `ProfileError` about the value at *path*, or about its *key*."""
        raise self.error(path, message, mend, key=key)

    def error(self, path: Path, message: str, mend: str | None = None, *, key: bool = False) -> ProfileError:
        """The `ProfileError` of `fail`."""
        return ProfileError(self.where(path, message, key=key), mend)

    def where(self, path: Path, message: str, *, key: bool = False) -> str:
        """*message* with the position of *path* before it, and the line and a caret behind."""
        place = self._place(path)
        if place is None:
            return f"{printable(self.source)}: {printable(_cut(message))}"
        return point(self.source, self._text, place.key if key else place.value, message)

    @property
    def text(self) -> str:
        """The file's text."""
        return self._text

    def span(self, path: Path, *, key: bool = False) -> tuple[int, int]:
        """Offsets into `text`: of the value at *path*, its key, or of the nearest thing around it."""
        place = self._place(path)
        return (0, 1) if place is None else place.key if key else place.value

    def has(self, path: Path) -> bool:
        """Whether the document says anything at *path*."""
        if self._places is None:
            self._places = scan(self._text) if self._text else {}
        return self.top + path in self._places

    def _place(self, path: Path) -> Place | None:
        """The place of *path*, or of the nearest thing around it."""
        if self._places is None:
            self._places = scan(self._text) if self._text else {}
        path = self.top + path
        while path:
            if path in self._places:
                return self._places[path]
            path = path[:-1]
        return None


def parse(text: str, source: str, *, file: str = "", base: str | None = None) -> Document:
    """Read TOML *text*.

    Raises:
        ProfileError: a syntax error, with its position.
    """
    import tomli

    text = text.replace("\r\n", "\n")
    try:
        data = tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        at = min(error.pos, len(text))
        message = error.msg[:1].lower() + error.msg[1:]
        raise ProfileError(point(source, text, (at, at + 1), message)) from None
    except RecursionError:
        raise ProfileError(f"{printable(source)}: nested too deeply", _FLATTER) from None
    except ValueError as error:  # a number with thousands of digits
        raise ProfileError(f"{printable(source)}: {error}") from None
    if _deeper(data, MAX_DEPTH):
        raise ProfileError(
            f"{printable(source)}: nested too deeply; a profile has at most {MAX_DEPTH} levels", _FLATTER
        )
    return Document(source, data, text, file=file, base=base)


def _deeper(data: Mapping[str, Any], limit: int) -> bool:
    """Whether tables and lists are nested more than *limit* deep. Not recursive, since that is the danger."""
    level: list[Any] = [data]
    for _ in range(limit):
        inner: list[Any] = []
        for each in level:
            values = each.values() if isinstance(each, dict) else each
            inner += [value for value in values if isinstance(value, dict | list)]
        if not inner:
            return False
        level = inner
    return True


# --- messages --------------------------------------------------------------------------------------


def _position(text: str, at: int) -> tuple[int, int]:
    """Line and column of an offset, from 1; columns are characters."""
    return text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)


#: A message has at most this many characters: it may quote a key or value of any length.
_LONGEST = 800
#: A shown line is cut to this many characters.
_WIDTH = 160


def point(source: str, text: str, span: tuple[int, int], message: str) -> str:
    """*message* with file, line and column before it, and behind it the line with a caret below *span*."""
    message = _cut(message)
    line, column = _position(text, span[0])
    begin = span[0] - column + 1
    end = text.find("\n", begin)
    whole = text[begin : len(text) if end < 0 else end]
    skip = max(0, column - 1 - _WIDTH // 2) if len(whole) > _WIDTH else 0
    shown = whole[skip : skip + _WIDTH]
    before, marked = shown[: column - 1 - skip], shown[column - 1 - skip : span[1] - begin - skip]
    number = f"{line} | "
    blank = "".join("\t" if char == "\t" else " " * _columns(printable(char)) for char in before)
    caret = "^" * max(1, sum(_columns(printable(char)) for char in marked.rstrip()))
    return (
        f"{printable(source)}:{line}:{column}: {printable(message)}\n"
        f"{number}{printable(shown)}\n{' ' * (len(number) - 2)}| {blank}{caret}"
    )


def _cut(message: str) -> str:
    return (
        message if len(message) <= _LONGEST else f"{message[: _LONGEST // 2]} ... {message[-_LONGEST // 2 :]}"
    )


def _columns(text: str) -> int:
    """How many columns of a terminal *text* takes."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text)


# --- positions -------------------------------------------------------------------------------------

_BLANK = re.compile(r"[ \t]*")
_GAP = re.compile(r"(?:[ \t\n]+|#[^\n]*)*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BASIC = re.compile(r'"(?:[^"\\]|\\.)*"')
_LITERAL = re.compile(r"'[^']*'")
# Up to two quotes may stand directly before the three that end it.
_LONG_BASIC = re.compile(r'"""(?:[^\\]|\\.)*?""""{0,2}', re.DOTALL)
_LONG_LITERAL = re.compile(r"'''.*?''''{0,2}", re.DOTALL)
_BARE = re.compile(r"[^,\]}#\n]*")


def scan(text: str) -> dict[Path, Place]:
    """The places of all keys and values of valid TOML *text* (with no \\r\\n in it).

    Array elements are their own key. Of a table the place is its header, or the part of a dotted key.
    """
    return _Scanner(text).document()


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.places: dict[Path, Place] = {}
        #: how many tables each array of tables has
        self.counts: dict[Path, int] = {}

    def document(self) -> dict[Path, Place]:
        table: Path = ()
        self.skip(_GAP)
        while self.at < len(self.text):
            if self.text[self.at] == "[":
                table = self.header()
            else:
                self.pair(table)
            self.skip(_GAP)
        return self.places

    def skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        assert match, f"no {pattern.pattern} at {self.at}"  # tomli has found the text valid
        self.at = match.end()
        return match[0]

    def header(self) -> Path:
        """`[table]` or `[[array of tables]]`."""
        array = self.text.startswith("[[", self.at)
        self.at += 2 if array else 1
        self.skip(_BLANK)
        keys = self.keys()
        self.skip(_BLANK)
        self.at += 2 if array else 1
        path: Path = ()
        for number, (name, span) in enumerate(keys):
            path += (name,)
            last = number == len(keys) - 1
            if last and array:
                self.counts[path] = self.counts.get(path, 0) + 1
            if last or path not in self.places:
                self.places[path] = Place(span, span)
            if path in self.counts:
                path += (self.counts[path] - 1,)
                if last:
                    self.places[path] = Place(span, span)
        return path

    def keys(self) -> list[tuple[str, tuple[int, int]]]:
        """The parts of a dotted key with their spans."""
        parts = []
        while True:
            begin = self.at
            parts.append((self.key(), (begin, self.at)))
            end = self.at
            self.skip(_BLANK)
            if not self.text.startswith(".", self.at):
                self.at = end
                return parts
            self.at += 1
            self.skip(_BLANK)

    def key(self) -> str:
        quote = self.text[self.at]
        if quote == "'":
            return self.skip(_LITERAL)[1:-1]
        if quote != '"':
            return self.skip(_BARE_KEY)
        raw = self.skip(_BASIC)
        if "\\" not in raw:
            return raw[1:-1]
        import tomli

        name: str = tomli.loads("key = " + raw)["key"]
        return name

    def pair(self, table: Path) -> None:
        """`key = value`"""
        keys = self.keys()
        path = table
        for name, span in keys:
            path += (name,)
            self.places.setdefault(path, Place(span, span))
        self.skip(_BLANK)
        self.at += 1  # "="
        self.skip(_BLANK)
        value = self.value(path)
        self.places[path] = Place(keys[-1][1], value)

    def value(self, path: Path) -> tuple[int, int]:
        begin = self.at
        first = self.text[begin]
        if first == "[":
            self.array(path)
        elif first == "{":
            self.inline_table(path)
        elif first in "\"'":
            long = self.text.startswith(first * 3, begin)
            if first == '"':
                self.skip(_LONG_BASIC if long else _BASIC)
            else:
                self.skip(_LONG_LITERAL if long else _LITERAL)
        else:
            self.at = begin + len(self.skip(_BARE).rstrip())
        return begin, self.at

    def array(self, path: Path) -> None:
        self.at += 1
        number = 0
        while True:
            self.skip(_GAP)
            if self.comma_or("]"):
                return
            span = self.value((*path, number))
            self.places[(*path, number)] = Place(span, span)
            number += 1

    def inline_table(self, path: Path) -> None:
        self.at += 1
        while True:
            self.skip(_GAP)
            if self.comma_or("}"):
                return
            self.pair(path)

    def comma_or(self, end: str) -> bool:
        """Go on behind a comma; whether *end* has been reached."""
        if self.text[self.at] == ",":
            self.at += 1
            self.skip(_GAP)
        if self.text[self.at] != end:
            return False
        self.at += 1
        return True
