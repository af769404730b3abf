"""Progress: what a terminal shows in the end, and what a log gets."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import re
import struct
import termios
from collections.abc import Callable, Iterator
from typing import TextIO

import pytest

from sandbox.image import progress
from sandbox.image.progress import Bars, Lines, Progress, open_progress


def screen(data: str, columns: int) -> list[str]:
    """The lines that a terminal shows after *data*: of what we send it, no more."""
    lines = [""]
    row = column = 0
    for token in re.findall(r"\x1b\[\d*[AJ]|[\s\S]", data):
        if token == "\n":
            row, column = row + 1, 0
        elif token == "\r":
            column = 0
        elif token.endswith("A") and token.startswith("\x1b"):
            row = max(0, row - int(token[2:-1]))
        elif token == "\x1b[J":
            lines[row:] = [lines[row][:column]]
        else:
            assert token.isprintable(), token
            lines[row] = lines[row][:column].ljust(column) + token + lines[row][column + 1 :]
            column += 1
            assert column < columns, "it would wrap"
        while len(lines) <= row:
            lines.append("")
    return [line for line in lines if line]


@pytest.fixture
def terminal() -> Iterator[Callable[..., tuple[TextIO, Callable[[], str]]]]:
    """Make a terminal: a stream on it, and a function that gives what was written."""
    opened: list[object] = []

    def make(columns: int = 100, rows: int = 24) -> tuple[TextIO, Callable[[], str]]:
        master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        settings = termios.tcgetattr(slave)
        settings[1] &= ~termios.OPOST
        termios.tcsetattr(slave, termios.TCSANOW, settings)
        stream = os.fdopen(slave, "w")
        opened.extend([master, stream])

        def written() -> str:
            stream.write("\0")  # a terminal passes things on when it likes
            stream.flush()
            data = b""
            while not data.endswith(b"\0"):
                data += os.read(master, 65536)
            return data[:-1].decode()

        return stream, written

    yield make
    for each in opened:
        if isinstance(each, int):
            os.close(each)
        else:
            each.close()  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def no_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_INTERVAL", 0.0)


def test_bars(terminal: Callable[..., tuple[TextIO, Callable[[], str]]]) -> None:
    stream, written = terminal()
    with Bars(stream) as bars:
        bars.begin("a", "aaaa", 2 << 20)
        bars.begin("b", "bbbb", 500)
        bars.at("a", 1 << 20)
        data = written()
        shown = screen(data, 100)
        assert shown[0].startswith("aaaa  [===============>              ]  1M of 2M")
        assert shown[1].startswith("bbbb  [>                             ]  0 bytes of 500 bytes")
        bars.say("something else")
        bars.end("b", "done")
        bars.at("a", 2 << 20)
        data += written()
        shown = screen(data, 100)
        assert shown[:2] == ["something else", "bbbb  done, 500 bytes"]
        assert shown[2].startswith("aaaa  [==============================]  2M of 2M")
        bars.end("a", "done")
    assert screen(data + written(), 100) == ["something else", "bbbb  done, 500 bytes", "aaaa  done, 2M"]


def test_what_was_under_way_is_gone_in_the_end(
    terminal: Callable[..., tuple[TextIO, Callable[[], str]]],
) -> None:
    stream, written = terminal()
    with Bars(stream) as bars:
        bars.begin("a", "aaaa", 10)
        bars.at("a", 5)
    assert screen(written(), 100) == []


@pytest.mark.parametrize("columns", [20, 40, 60, 200])
@pytest.mark.parametrize("rows", [3, 8])
def test_it_fits_the_terminal(
    terminal: Callable[..., tuple[TextIO, Callable[[], str]]], columns: int, rows: int
) -> None:
    stream, written = terminal(columns, rows)
    data = ""
    with Bars(stream) as bars:
        for number in range(20):
            bars.begin(str(number), f"{number:012}", 10**9)
            bars.at(str(number), 5 * 10**8)
            data += written()
        assert len(screen(data, columns)) == max(rows - 2, 1)


def test_a_terminal_that_does_not_know_its_size(
    terminal: Callable[..., tuple[TextIO, Callable[[], str]]],
) -> None:
    stream, written = terminal(0, 0)
    with Bars(stream) as bars:
        bars.begin("a", "aaaa", 10)
        assert "[>" in screen(written(), 80)[0]


def test_odd_calls_do_no_harm(terminal: Callable[..., tuple[TextIO, Callable[[], str]]]) -> None:
    stream, written = terminal()
    with Bars(stream) as bars:
        bars.at("unknown", 5)
        bars.end("unknown", "done")
        bars.begin("a", "\x1b[31mred\n", 0)
        bars.at("a", 5)
        bars.at("a", 0)
        bars.end("a", "do\x1b[2Jne")
    [line] = screen(written(), 100)
    assert line.startswith(r"\x1b[31mred\n  do\x1b[2Jne")


def test_lines() -> None:
    stream = io.StringIO()
    with Lines(stream) as lines:
        lines.begin("a", "aaaa", 2048)
        lines.at("a", 5)
        lines.say("hel\x1blo")
        lines.end("a", "done")
        lines.end("unknown", "done")
    assert stream.getvalue() == "hel\\x1blo\naaaa: done, 2K\nunknown: done, 0 bytes\n"


@pytest.mark.parametrize("kind", [Lines, Bars])
def test_nobody_reads(kind: type[Lines] | type[Bars]) -> None:
    read, write = os.pipe()
    os.close(read)
    stream = os.fdopen(write, "w")
    with kind(stream) as shown:
        shown.begin("a", "aaaa", 10)
        shown.say("x")
        shown.end("a", "done")
    with contextlib.suppress(BrokenPipeError):
        stream.close()


def test_the_choice(
    terminal: Callable[..., tuple[TextIO, Callable[[], str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, _ = terminal()
    monkeypatch.setenv("TERM", "xterm")
    assert type(open_progress(stream)) is Bars
    assert type(open_progress(stream, quiet=True)) is Progress
    assert type(open_progress(io.StringIO())) is Lines
    monkeypatch.setenv("TERM", "dumb")
    assert type(open_progress(stream)) is Lines
