"""One instruction of a Containerfile: its name, its flags and its words, and where each of them stands.

What the instructions mean is `instructions`' matter; this is how they are written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import NamedTuple

from sandbox.errors import BuildError
from sandbox.image.build import template
from sandbox.image.build.containerfile import Logical
from sandbox.image.build.place import Place
from sandbox.image.build.template import Template
from sandbox.profile.kinds import nearest

__all__ = ["SPACE", "Flag", "Line", "Word", "shell_words"]

#: what stands between words
SPACE = re.compile(r"[\t\v\f\r ]+")
#: flags of each instruction that are known
_FLAGS: Mapping[str, tuple[str, ...]] = {
    "FROM": ("platform",),
    "RUN": ("mount", "network", "security"),
    "COPY": ("from", "chown", "chmod", "link", "parents", "exclude"),
    "ADD": ("chown", "chmod", "link", "checksum", "keep-git-dir", "exclude", "unpack"),
    "HEALTHCHECK": ("interval", "timeout", "start-period", "start-interval", "retries"),
}
_REPEATED = ("mount", "exclude")


class Flag(NamedTuple):
    name: str
    value: str | None
    begin: int
    end: int


class Line:
    """An instruction with its name, flags and the rest of it, and where they stand."""

    def __init__(self, logical: Logical) -> None:
        self._logical = logical
        self.text = logical.text.rstrip()
        self.documents = logical.documents
        self.escape = logical.document.escape
        match = SPACE.search(self.text)
        end = match.start() if match else len(self.text)
        self.name = self.text[:end].upper()
        self.place = logical.place(0, len(self.text))
        self.flags: list[Flag] = []
        if self.name in _FLAGS:
            self.flags, end = _flags(self.text, end)
        self.begin = end + len(self.text[end:]) - len(self.text[end:].lstrip())
        self.rest = self.text[self.begin :]
        self._check_flags()

    def _check_flags(self) -> None:
        known = _FLAGS.get(self.name, ())
        seen = set()
        for flag in self.flags:
            if flag.name not in known:
                self.fail(f"unknown flag --{flag.name} of {self.name}{nearest(flag.name, known)}", flag)
            if flag.name in seen and flag.name not in _REPEATED:
                self.fail(f"--{flag.name} can be there only once", flag)
            if flag.value is None and flag.name not in ("link", "parents", "keep-git-dir", "unpack"):
                self.fail(f"--{flag.name} needs a value: --{flag.name}=...", flag)
            seen.add(flag.name)

    def at(self, begin: int, end: int) -> Place:
        """The place of a part of `text`."""
        return self._logical.place(begin, end)

    def fail(self, message: str, part: Flag | Word | None = None, mend: str | None = None) -> BuildError:
        """Raise an error about a part of the line, or about all of it; the type is for `raise` to end
        what a checker follows."""
        place = self.at(part.begin, part.end) if part else self.place
        raise place.error(message, mend)

    def flag(self, name: str) -> Flag | None:
        return next((flag for flag in self.flags if flag.name == name), None)

    def value(self, name: str) -> str:
        flag = self.flag(name)
        return (flag.value or "") if flag else ""

    def is_set(self, name: str) -> bool:
        """A flag that is true or false."""
        flag = self.flag(name)
        if flag is None or flag.value not in (None, "true", "false"):
            if flag:
                self.fail(f"--{name} is true or false", flag)
            return False
        return flag.value != "false"

    def word(self, word: Word | Flag, *, quotes: bool = True) -> Template:
        """A word with its variables."""
        text = word.text if isinstance(word, Word) else word.value or ""
        try:
            return template.read(text, escape=self.escape, quotes=quotes)
        except template.Bad as bad:
            begin = min(word.begin + bad.at, word.end - 1)
            raise self.at(begin, word.end).error(bad.message) from None

    def flag_word(self, name: str) -> Template | None:
        flag = self.flag(name)
        return self.word(flag) if flag else None

    def words(self) -> list[Word]:
        """The rest, split at blanks."""
        found, at = [], 0
        for part in SPACE.split(self.rest):
            at = self.rest.index(part, at)
            if part:
                found.append(Word(part, self.begin + at, self.begin + at + len(part)))
            at += len(part)
        return found

    def whole(self) -> Word:
        """The rest as one word."""
        if not self.rest:
            self.fail(f"{self.name} needs an argument")
        return Word(self.rest, self.begin, self.begin + len(self.rest))

    def list(self) -> list[str] | None:
        """The rest as a list of JSON; None when it is none, and so means itself.

        Raises:
            BuildError: it is a list of other things than text.
        """
        if not self.rest.startswith("["):
            return None
        try:
            found, _ = _JSON.raw_decode(self.rest)
        except (ValueError, RecursionError):
            return None
        if not all(isinstance(each, str) for each in found):
            self.fail("a list of JSON can only have texts in it, in double quotes")
        return list(found)


class Word(NamedTuple):
    text: str
    begin: int
    end: int


def _no_constant(name: str) -> object:
    raise ValueError(name)


_JSON = json.JSONDecoder(parse_constant=_no_constant)


def _flags(text: str, at: int) -> tuple[list[Flag], int]:
    """The flags from *at* on, and where they end. A backslash and quotes do there what they always do."""
    found: list[Flag] = []
    while True:
        begin = at + len(text[at:]) - len(text[at:].lstrip())
        if not text.startswith("--", begin):
            return found, begin
        word, at = _flag_word(text, begin)
        if word == "--":
            return found, at
        name, equals, value = word[2:].partition("=")
        found.append(Flag(name, value if equals else None, begin, at))


def _flag_word(text: str, at: int) -> tuple[str, int]:
    word, quote = [], ""
    while at < len(text):
        char = text[at]
        if not quote and char.isspace():
            break
        if char == "\\" and at + 1 < len(text):
            at += 1
            word.append(text[at])
        elif char == quote:
            quote = ""
        elif not quote and char in "\"'":
            quote = char
        else:
            word.append(char)
        at += 1
    return "".join(word), at


def shell_words(line: Line) -> list[Word]:
    """The rest, split at blanks that are not quoted or escaped; those characters stay."""
    text, escape = line.rest, line.escape
    found: list[Word] = []
    at, begin, quote = 0, -1, ""
    while at < len(text):
        char = text[at]
        if begin < 0:
            if char.isspace():
                at += 1
                continue
            begin = at
        if char == escape and quote != "'":
            at += 1
        elif quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char.isspace():
            found.append(Word(text[begin:at], line.begin + begin, line.begin + at))
            begin = -1
        at += 1
    if begin >= 0:
        found.append(Word(text[begin:], line.begin + begin, line.begin + len(text)))
    return found
