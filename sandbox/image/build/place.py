"""Where a step stands in its file, for messages and for people."""

from __future__ import annotations

from typing import NamedTuple, NoReturn

from sandbox.errors import BuildError
from sandbox.profile.document import point

__all__ = ["Place"]


class Place(NamedTuple):
    """The characters from `begin` up to `end` of the file *source*, whose text is `text`."""

    source: str
    text: str
    begin: int
    end: int

    @property
    def line(self) -> int:
        """Its line, from 1."""
        return self.text.count("\n", 0, self.begin) + 1

    def error(self, message: str, mend: str | None = None) -> BuildError:
        """An error at this place: file, line and column, the line, a caret."""
        return BuildError(point(self.source, self.text, (self.begin, self.end), message), mend)

    def fail(self, message: str, mend: str | None = None) -> NoReturn:
        """Raise that error."""
        raise self.error(message, mend)
