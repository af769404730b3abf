"""Text of others: what a terminal, a shell and a JSON parser make of it."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.words import printable, quote, to_json

names = st.binary(max_size=30).map(lambda data: os.fsdecode(data.replace(b"\0", b"")))


@given(names)
def test_printable_is_nothing_that_a_terminal_obeys(name: str) -> None:
    shown = printable(name, "")
    assert shown.isprintable()
    assert shown.encode() or not name
    assert (shown == name) == name.isprintable()


@pytest.mark.parametrize(
    ("text", "shown"),
    [("für", "für"), ("\udcff\x1b[2J", "\\xff\\x1b[2J"), ("a\nb\tc", "a\\nb\tc"), ("\ud800", "\\ud800")],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_printable_keeps_what_it_is_told_to() -> None:
    assert printable("a\nb\t\x07", "\n") == "a\nb\\t\\x07"


@settings(max_examples=30)
@given(names)
def test_a_shell_reads_back_what_is_quoted(name: str) -> None:
    assert quote(name).isprintable()
    done = subprocess.run(["bash", "-c", f"printf %s {quote(name)}"], capture_output=True, check=True)
    assert done.stdout == os.fsencode(name)


@given(names, st.text(max_size=20))
def test_json_is_ascii_and_valid(name: str, text: str) -> None:
    data = to_json({"name": name, "text": text})
    assert data.isascii()
    expected = os.fsencode(name).decode("utf-8", "replace")
    assert json.loads(data) == {"name": expected, "text": text}
