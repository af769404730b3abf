"""Words with variables in them: `$NAME`, `${NAME:-word}` and the other forms that docker knows.

Reading and filling in are two things: a file's words are read once, with their mistakes, before anything is
built; their values are known only when a step's turn has come. The rules are those of BuildKit's
`frontend/dockerfile/shell/lex.go`: quotes as in a shell, no command substitution, no splitting into words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

__all__ = ["Bad", "Lookup", "Template", "Variable", "fill", "literal", "names", "read"]

#: the value of a variable, None where it is not set
Lookup = Callable[[str], str | None]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9]+|[@*#?$!-]")
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9]+|[@*#]")
_OPERATORS = (":-", ":+", ":?", "-", "+", "?", "##", "#", "%%", "%", "//", "/")
_DEEPEST = 20  # `${A:-${B:-...}}`: the reader is recursive
#: characters of a value: execve(2) takes no longer string (MAX_ARG_STRLEN), and `A=$A$A` doubles
LONGEST = 1 << 17
_LONGEST_CUT = 1 << 12  # of one that a pattern is applied to, which takes its square


class Bad(ValueError):
    """A word is wrong; `at` is the offset in it."""

    def __init__(self, message: str, at: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.at = at


class Variable(NamedTuple):
    """`${name}`; with an `operator`, its `word`, and with "/" its `other` word."""

    name: str
    operator: str = ""
    word: Template = ()
    other: Template = ()


#: a word: text and variables in a row
Template = tuple["str | Variable", ...]


def literal(text: str) -> Template:
    """A word that is just *text*."""
    return (text,) if text else ()


def names(template: Template) -> Iterator[str]:
    """The variables in a word, those in the words of others too."""
    for part in template:
        if isinstance(part, Variable):
            yield part.name
            yield from names(part.word)
            yield from names(part.other)


def read(text: str, *, escape: str = "\\", quotes: bool = True) -> Template:
    """Read a word. Without *quotes* those are characters like any other.

    Raises:
        Bad: a quote or a brace is not closed, or there is no such form.
    """
    if not any(char in text for char in ("$", escape, '"', "'")):
        return literal(text)
    return _Reader(text, escape, quotes).until("")


class _Reader:
    def __init__(self, text: str, escape: str, quotes: bool) -> None:
        self._text = text
        self._escape = escape
        self._quotes = quotes
        self._at = 0
        self._depth = 0

    def until(self, stops: str, *, keep_escapes: bool = False) -> Template:
        """Up to one of *stops*, where it stays; "" for the end."""
        begin = self._at
        parts: list[str | Variable] = []
        self._depth += 1
        if self._depth > _DEEPEST:
            raise Bad("variables are nested too deeply", begin)
        while self._at < len(self._text):
            char = self._text[self._at]
            if char in stops and stops:
                self._depth -= 1
                return _joined(parts)
            if char == "$":
                parts.append(self._dollar())
            elif char == "'" and self._quotes:
                parts.append(self._single())
            elif char == '"' and self._quotes:
                parts += self._double()
            elif char == self._escape:
                self._at += 2
                kept = char if keep_escapes else ""
                parts.append(kept + self._text[self._at - 1 : self._at])
            else:
                parts.append(char)
                self._at += 1
        if stops:
            raise Bad(f"a {'}'!r} is missing", begin)
        self._depth -= 1
        return _joined(parts)

    def _single(self) -> str:
        end = self._text.find("'", self._at + 1)
        if end < 0:
            raise Bad("the quote ' is not closed", self._at)
        found = self._text[self._at + 1 : end]
        self._at = end + 1
        return found

    def _double(self) -> list[str | Variable]:
        begin = self._at
        parts: list[str | Variable] = []
        self._at += 1
        while self._at < len(self._text):
            char = self._text[self._at]
            if char == '"':
                self._at += 1
                return parts
            if char == "$":
                parts.append(self._dollar())
                continue
            following = self._text[self._at + 1 : self._at + 2]
            if char == self._escape and following in ('"', "$", self._escape) and following:
                char = following
                self._at += 1
            parts.append(char)
            self._at += 1
        raise Bad('the quote " is not closed', begin)

    def _dollar(self) -> str | Variable:
        begin = self._at
        self._at += 1
        if not self._text.startswith("{", self._at):
            match = _PLAIN.match(self._text, self._at)
            if match is None:
                return "$"
            self._at = match.end()
            return Variable(match[0])
        match = _NAME.match(self._text, self._at + 1)
        if match is None:
            raise Bad("there is no name behind ${", begin)
        self._at = match.end()
        if self._text.startswith("}", self._at):
            self._at += 1
            return Variable(match[0])
        for operator in _OPERATORS:
            if self._text.startswith(operator, self._at):
                self._at += len(operator)
                return self._operation(match[0], operator)
        if self._at == len(self._text):
            raise Bad("a '}' is missing", begin)
        raise Bad(f"${{{match[0]}{self._text[self._at]} is no form of a variable that there is", begin)

    def _operation(self, name: str, operator: str) -> Variable:
        pattern = operator[0] in "#%/"
        word = self.until("/}" if operator[0] == "/" else "}", keep_escapes=pattern)
        other: Template = ()
        if operator[0] == "/" and self._text.startswith("/", self._at):
            self._at += 1
            other = self.until("}")
        self._at += 1
        return Variable(name, operator, word, other)


def _joined(parts: Sequence[str | Variable]) -> Template:
    """The same with neighbouring texts as one, and no empty ones."""
    found: list[str | Variable] = []
    texts: list[str] = []
    for part in (*parts, None):
        if isinstance(part, str):
            texts.append(part)
            continue
        text = "".join(texts)
        texts = []
        if text:
            found.append(text)
        if part is not None:
            found.append(part)
    return tuple(found)


def fill(template: Template, lookup: Lookup, longest: int = LONGEST) -> str:
    """The word with its variables filled in; one that is not set is empty.

    Raises:
        Bad: `${NAME:?word}`, and it is not set; or there are more than *longest* characters.
    """
    if len(template) == 1 and isinstance(template[0], str):
        return template[0]
    parts, length = [], 0
    for part in template:
        text = part if isinstance(part, str) else _value(part, lookup, longest)
        length += len(text)
        if length > longest:
            raise Bad(f"it has more than {longest} characters with its variables filled in")
        parts.append(text)
    return "".join(parts)


def _value(variable: Variable, lookup: Lookup, longest: int) -> str:
    value = lookup(variable.name)
    operator = variable.operator
    if not operator:
        return value or ""
    if operator[0] in "#%/":
        return _changed(variable, value or "", lookup)
    there = bool(value) if operator[0] == ":" else value is not None
    if operator[-1] == "+":
        return fill(variable.word, lookup, longest) if there else ""
    if there:
        return value or ""
    word = fill(variable.word, lookup, longest)
    if operator[-1] == "?":
        raise Bad(f"{variable.name}: {word or 'is not set'}")
    return word


def _changed(variable: Variable, value: str, lookup: Lookup) -> str:
    """`${name#pattern}` and the like."""
    written = fill(variable.word, lookup)
    if max(len(value), len(written)) > _LONGEST_CUT:
        raise Bad(f"{variable.name} has more than {_LONGEST_CUT} characters, and they are cut by a pattern")
    pattern = _pieces(written)
    operator = variable.operator
    if operator[0] == "#":
        ends = _ends(pattern, value)
        return value[(max(ends) if operator == "##" else min(ends)) :] if ends else value
    if operator[0] == "%":
        ends = _ends(pattern[::-1], value[::-1])
        cut = (max(ends) if operator == "%%" else min(ends)) if ends else 0
        return value[: len(value) - cut]
    return _replaced(pattern, value, fill(variable.other, lookup), everywhere=operator == "//")


def _replaced(pattern: Sequence[str | int], value: str, by: str, *, everywhere: bool) -> str:
    """With the longest match that is not empty, at the leftmost place."""
    ends = _longest(pattern, value)
    found, at = "", 0
    while at < len(value):
        if ends[at] <= at:
            found += value[at]
            at += 1
            continue
        found += by
        at = ends[at]
        if not everywhere:
            break
    return found + value[at:]


def _longest(pattern: Sequence[str | int], text: str) -> list[int]:
    """Where the longest match of *pattern* ends that begins at each place of *text*; -1 where there is none.

    For all places at once, from the pattern's end to its beginning: one by one that would take the cube.
    """
    ends = list(range(len(text) + 1))
    for piece in reversed(pattern):
        if piece == _ANY:
            for at in range(len(text) - 1, -1, -1):
                ends[at] = max(ends[at], ends[at + 1])
        else:
            ends = [
                end if piece in (_ONE, char) else -1 for char, end in zip(text, ends[1:], strict=True)
            ] + [-1]
    return ends


_ANY, _ONE = 0, 1


def _pieces(pattern: str) -> list[str | int]:
    """`*` as _ANY, `?` as _ONE, each other character as itself."""
    found: list[str | int] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        if char == "\\" and at + 1 < len(pattern):
            at += 1
            found.append(pattern[at])
        elif char == "*":
            if found[-1:] != [_ANY]:
                found.append(_ANY)
        else:
            found.append(_ONE if char == "?" else char)
        at += 1
    return found


def _ends(pattern: Sequence[str | int], text: str) -> set[int]:
    """Where a match of *pattern* that begins at the beginning of *text* may end."""
    ends = {0}
    for piece in pattern:
        if not ends:
            break
        if piece == _ANY:
            ends = set(range(min(ends), len(text) + 1))
        elif piece == _ONE:
            ends = {end + 1 for end in ends if end < len(text)}
        else:
            ends = {end + 1 for end in ends if text[end : end + 1] == piece}
    return ends
