"""A Containerfile's instructions, before anything of them is understood: lines joined, here-documents read.

As BuildKit does it (`frontend/dockerfile/parser/parser.go`): directives at the top, comments and empty
lines between continued ones left out, an escape at the end of a line joins it with the next. Each character
still knows where it stands in the file.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from sandbox.image.build import template
from sandbox.image.build.place import Place

__all__ = ["MOST", "Document", "Heredoc", "Logical", "logical_lines", "read_document"]

#: bytes of a file; nobody writes one of a hundredth
MOST = 16 << 20

_DIRECTIVE = re.compile(r"#[ \t]*([A-Za-z][A-Za-z0-9]*)[ \t]*=[ \t]*(.*?)[ \t]*")
_HEREDOC = re.compile(r"(\d*)<<(-?)([^<]*)", re.DOTALL)
_SPACE = " \t\v\f\r"
_MAY_HAVE_DOCUMENTS = ("RUN", "COPY", "ADD")


class Heredoc(NamedTuple):
    """`<<NAME` and the lines up to NAME. `quoted`: variables in it stand for themselves; `chomp`: it is
    `<<-`, tabs at the beginnings of lines don't count. `at` is where `<<` stands in the file, `end` where
    the document ends."""

    name: str
    data: str
    quoted: bool
    chomp: bool
    at: int
    end: int

    @property
    def content(self) -> str:
        """Its lines."""
        return re.sub(r"^\t+", "", self.data, flags=re.MULTILINE) if self.chomp else self.data


class Document(NamedTuple):
    """A file's text, and what the directives at its top say."""

    source: str
    text: str
    escape: str
    begin: int

    def place(self, begin: int, end: int) -> Place:
        return Place(self.source, self.text, begin, max(end, begin + 1))


class Logical:
    """One instruction: its `text` with continued lines joined, and its here-documents."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.text = ""
        self.documents: tuple[Heredoc, ...] = ()
        self._starts: list[int] = []
        self._offsets: list[int] = []
        self._parts: list[str] = []
        self._length = 0

    def add(self, text: str, offset: int) -> None:
        self._starts.append(self._length)
        self._offsets.append(offset)
        self._parts.append(text)
        self._length += len(text)

    def close(self) -> None:
        self.text = "".join(self._parts)

    def offset(self, at: int) -> int:
        """Where the character *at* of `text` stands in the file."""
        part = max(0, bisect_right(self._starts, at) - 1)
        return self._offsets[part] + min(at - self._starts[part], len(self._parts[part]))

    def place(self, begin: int, end: int) -> Place:
        """The place of a part of `text`."""
        first = self.offset(begin)
        last = self.offset(max(begin, end - 1)) + 1
        stop = self.document.text.find("\n", first)
        return self.document.place(first, min(last, stop if stop >= 0 else last))


def read_document(source: str, data: bytes) -> Document:
    """The file *source*, whose content is *data*.

    Raises:
        BuildError: it is too large, no UTF-8, has a null byte or a wrong directive.
    """
    if len(data) > MOST:
        Place(source, "", 0, 0).fail(f"it has more than {MOST >> 20} MiB: that is no file of build steps")
    try:
        text = data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode()
        at = len(before)
        shown = before + data[error.start :].decode("utf-8", "replace")
        Place(source, shown, at, at + 1).fail("it is no UTF-8")
    text = text.replace("\r\n", "\n")
    null = text.find("\0")
    if null >= 0:
        Place(source, text, null, null + 1).fail("a null byte")
    return _directives(source, text)


def _directives(source: str, text: str) -> Document:
    """`# syntax=`, `# escape=`, `# check=`: the comments at the very top."""
    found: dict[str, str] = {}
    at = 0
    while at < len(text):
        end = text.find("\n", at)
        end = len(text) if end < 0 else end
        line = text[at:end].strip(_SPACE) if end - at < 4096 else ""
        match = _DIRECTIVE.fullmatch(line)
        key = match[1].lower() if match else ""
        if match is None or key not in ("syntax", "escape", "check"):
            break
        if key in found:
            Place(source, text, at, end).fail(f"only one {key!r} directive can be there")
        if key == "escape" and match[2] not in ("\\", "`"):
            Place(source, text, at, end).fail(
                f"the escape character can't be {match[2]!r}", r"# escape=\ or `"
            )
        found[key] = match[2]
        at = end + 1
    return Document(source, text, found.get("escape", "\\"), min(at, len(text)))


def logical_lines(document: Document) -> Iterator[Logical]:
    """The instructions of a file, in order.

    Raises:
        BuildError: a here-document has no end.
    """
    lines = _Lines(document)
    while (found := lines.next_instruction()) is not None:
        yield found


class _Lines:
    def __init__(self, document: Document) -> None:
        self._document = document
        self._text = document.text
        self._at = document.begin

    def _line(self) -> tuple[str, int] | None:
        """The next line, and where it begins."""
        if self._at >= len(self._text):
            return None
        begin = self._at
        end = self._text.find("\n", begin)
        end = len(self._text) if end < 0 else end
        self._at = end + 1
        return self._text[begin:end], begin

    def next_instruction(self) -> Logical | None:
        while (read := self._line()) is not None:
            line, begin = read
            stripped = line.lstrip(_SPACE)
            if not stripped or stripped.startswith("#"):
                continue
            return self._instruction(stripped, begin + len(line) - len(stripped))
        return None

    def _instruction(self, line: str, begin: int) -> Logical:
        made = Logical(self._document)
        line, goes_on = self._joined(line)
        made.add(line, begin)
        while goes_on and (read := self._line()) is not None:
            line, begin = read
            stripped = line.strip(_SPACE)
            if not stripped or stripped.startswith("#"):
                continue
            line, goes_on = self._joined(line)
            made.add(line, begin)
        made.close()
        if "<<" in made.text:
            made.documents = tuple(self._documents(made))
        return made

    def _joined(self, line: str) -> tuple[str, bool]:
        """The line without what joins it with the next, and whether that was there. An escape that is
        escaped itself joins nothing."""
        tail = line.rstrip(" \t")
        escape = self._document.escape
        if not tail.endswith(escape) or tail.endswith(escape * 2):
            return line, False
        return tail[:-1], True

    def _documents(self, line: Logical) -> Iterator[Heredoc]:
        text = line.text
        word = text.split(None, 1)[0].upper()
        body = text[len(word) :]
        if word == "ONBUILD":
            word = (body.split(None, 1) or [""])[0].upper()
        if word not in _MAY_HAVE_DOCUMENTS or _is_list(body):
            return
        for at, raw in _raw_words(text):
            match = _HEREDOC.fullmatch(raw)
            named = _name_of(match[3]) if match else None
            if match is None or named is None:
                continue
            name, quoted = named
            data, end = self._document_lines(line, at, len(raw), name, bool(match[2]))
            yield Heredoc(name, data, quoted, bool(match[2]), line.offset(at), end)

    def _document_lines(self, line: Logical, at: int, length: int, name: str, chomp: bool) -> tuple[str, int]:
        begin = self._at
        while (read := self._line()) is not None:
            content, start = read
            if (content.lstrip("\t") if chomp else content) == name:
                return self._text[begin:start], start
        raise line.place(at, at + length).error(f"the document has no end: no line is {name!r} alone")


def _is_list(rest: str) -> bool:
    """Whether the arguments, behind the flags, are a list of JSON, which has no here-documents."""
    words = rest.lstrip()
    while words.startswith("--"):
        words = words.partition(" ")[2].lstrip()
    return words.startswith("[")


def _name_of(rest: str) -> tuple[str, bool] | None:
    """The name behind `<<`, and whether some of it is quoted; None when it is not one word."""
    if not rest or (any(char.isspace() for char in rest) and rest[0] not in "\"'"):
        return None
    try:
        filled = template.read(rest)
    except template.Bad:
        return None
    name = "".join(part if isinstance(part, str) else f"${part.name}" for part in filled)
    return (name, name != rest) if name and "\n" not in name else None


def _raw_words(text: str) -> Iterator[tuple[int, str]]:
    """Words as a shell would split them, with their quotes; and where each begins."""
    at, begin, quote = 0, -1, ""
    while at < len(text):
        char = text[at]
        if begin < 0 and not char.isspace():
            begin = at
        if begin >= 0:
            if quote:
                if char == quote:
                    quote = ""
                elif char == "\\" and quote == '"':
                    at += 1
            elif char in "\"'":
                quote = char
            elif char == "\\":
                at += 1
            elif char.isspace():
                yield begin, text[begin:at]
                begin = -1
        at += 1
    if begin >= 0 and not quote:
        yield begin, text[begin:]
