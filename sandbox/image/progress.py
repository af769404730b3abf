"""Telling people how far transfers are: bars on a terminal, lines elsewhere, or nothing.

A few lines at the end of the terminal are drawn over and over; what is finished moves up and stays. What is
shown is cut and cleaned, wherever it comes from. Threads may share one. A terminal that goes away is no
reason to end a transfer.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TextIO

from sandbox.units import format_size
from sandbox.words import printable

__all__ = ["Bars", "Lines", "Progress", "open_progress"]

#: Seconds between two drawings.
_INTERVAL = 0.1
_BAR = 30


class Progress:
    """The one that says nothing, and what the others have in common. A context manager."""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def begin(self, key: str, label: str, total: int) -> None:
        """Something of *total* bytes begins; *key* names it in later calls."""

    def at(self, key: str, position: int) -> None:
        """It has come to *position*; it may go back, too."""

    def end(self, key: str, note: str) -> None:
        """It is over: "done", "already there"."""

    def say(self, text: str) -> None:
        """A line of its own."""

    def close(self) -> None:
        """Leave the output tidy: nothing more will come, or an error message will."""


class Lines(Progress):
    """A line when something ends, for logs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._tasks: dict[str, tuple[str, int]] = {}

    def begin(self, key: str, label: str, total: int) -> None:
        with self._lock:
            self._tasks[key] = (label, total)

    def end(self, key: str, note: str) -> None:
        with self._lock:
            label, total = self._tasks.pop(key, (key, 0))
            self._write(f"{label}: {note}, {_size(total)}")

    def say(self, text: str) -> None:
        with self._lock:
            self._write(text)

    def _write(self, text: str) -> None:
        with suppress(OSError):
            self._stream.write(printable(text) + "\n")
            self._stream.flush()


@dataclass(slots=True)
class _Task:
    label: str
    total: int
    position: int = 0
    first: int = -1
    began: float = 0.0

    def moved(self, position: int, now: float) -> None:
        if self.first < 0 or position < self.first:  # the rate is of what comes now, not of an earlier run
            self.first, self.began = position, now
        self.position = position

    def line(self, width: int, now: float) -> str:
        share = min(self.position / self.total, 1.0) if self.total else 1.0
        filled = int(share * _BAR)
        bar = "=" * filled + (">" if filled < _BAR else "") + " " * (_BAR - filled - 1)
        numbers = f"{_size(self.position)} of {_size(self.total)}"
        spent = now - self.began if self.first >= 0 else 0.0
        rate = f"{format_size(int((self.position - self.first) / spent))}/s" if spent > 0.5 else ""
        text = f"{self.label}  [{bar}]  {numbers}  {rate}"
        if len(text.rstrip()) > width:
            text = f"{self.label}  {numbers}"
        return text.rstrip()[:width]


class Bars(Progress):
    """A bar for each thing under way, on a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._tasks: dict[str, _Task] = {}
        self._drawn = 0
        self._last = 0.0

    def begin(self, key: str, label: str, total: int) -> None:
        with self._lock:
            self._tasks[key] = _Task(printable(label)[:40], total)
            self._draw()

    def at(self, key: str, position: int) -> None:
        now = time.monotonic()
        with self._lock:
            task = self._tasks.get(key)
            if task is not None:
                task.moved(position, now)
            if now - self._last >= _INTERVAL:
                self._draw()

    def end(self, key: str, note: str) -> None:
        with self._lock:
            task = self._tasks.pop(key, None)
            if task is not None:
                self._draw(f"{task.label}  {printable(note)}, {_size(task.total)}")

    def say(self, text: str) -> None:
        with self._lock:
            self._draw(printable(text))

    def close(self) -> None:
        with self._lock:
            self._tasks.clear()
            self._draw()

    def _draw(self, above: str | None = None) -> None:
        """Everything anew, in one write; *above* is put over the bars and stays."""
        self._last = time.monotonic()
        try:
            size = os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError):
            size = os.terminal_size((80, 24))
        width, rows = max((size.columns or 80) - 1, 10), max((size.lines or 24) - 2, 1)  # 0: it doesn't know
        lines = [task.line(width, self._last) for task in list(self._tasks.values())[:rows]]
        # up to the first of our lines, and clear from there to the end
        text = (f"\x1b[{self._drawn}A" if self._drawn else "") + "\r\x1b[J"
        text += "".join(f"{line}\n" for line in ([above[: width * 3]] if above else []) + lines)
        self._drawn = len(lines)
        with suppress(OSError):
            self._stream.write(text)
            self._stream.flush()


def _size(n: int) -> str:
    return f"{n} bytes" if n < 1024 else format_size(n)


def open_progress(stream: TextIO, *, quiet: bool = False) -> Progress:
    """What suits *stream*: bars on a terminal that can, lines elsewhere, nothing for *quiet*."""
    if quiet:
        return Progress()
    if stream.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        return Bars(stream)
    return Lines(stream)
