"""sandbox.profile.document: positions, judged by tomli; and messages."""

from __future__ import annotations

from typing import Any

import pytest
import tomli
from hypothesis import given, settings

from sandbox.errors import ProfileError
from sandbox.profile.document import Document, Path, parse, scan
from tests.profile.toml_texts import documents


def paths_of(value: Any, path: Path = ()) -> set[Path]:
    found = {path} if path else set()
    if isinstance(value, dict):
        for name, each in value.items():
            found |= paths_of(each, (*path, name))
    elif isinstance(value, list):
        for number, each in enumerate(value):
            found |= paths_of(each, (*path, number))
    return found


def value_at(data: Any, path: Path) -> Any:
    for part in path:
        data = data[part]
    return data


@settings(max_examples=250)
@given(documents())
def test_every_key_and_value_has_its_place(made: tuple[dict[str, Any], str]) -> None:
    data, text = made
    assert tomli.loads(text) == data
    places = scan(text)
    assert set(places) == paths_of(data)
    for path, place in places.items():
        written = text[slice(*place.value)]
        if isinstance(path[-1], str):
            assert tomli.loads(f"{text[slice(*place.key)]} = 1") == {path[-1]: 1}
        valued = place.value != place.key or isinstance(path[-1], int)
        if valued and (not isinstance(value_at(data, path), dict) or written.startswith("{")):
            assert tomli.loads(f"value = {written}")["value"] == value_at(data, path)


@pytest.mark.parametrize(
    ("text", "path", "key", "value"),
    [
        ("a=1", ("a",), "a", "1"),
        ("a . 'b' = 2 # c", ("a", "b"), "'b'", "2"),
        ("a . 'b' = 2 # c", ("a",), "a", "a"),
        ('"\\u0061" = [1, "]", # ]\n 3]', ("a", 2), "3", "3"),
        ("x = { a = { b.c = 5 }, d = 1979-05-27 07:32:00 }", ("x", "d"), "d", "1979-05-27 07:32:00"),
        ("x = { a = { b.c = 5 }, d = 1 }", ("x", "a", "b", "c"), "c", "5"),
        ("x = { a = 1, # comment }\n b = 2,\n}", ("x", "b"), "b", "2"),
        ('s = """a"b\\"""" # """', ("s",), "s", '"""a"b\\""""'),
        ("s = '''a'''''", ("s",), "s", "'''a'''''"),
        ('s = """"""', ("s",), "s", '""""""'),
        ("[[t]]\n[[t]]\n[t.u]\nv = 1", ("t", 1, "u", "v"), "v", "1"),
        ("[[t]]\n[[t.u]]\n[[t]]\n[[t.u]]\nv=1\n[[t.u]]\nv=2", ("t", 1, "u", 1, "v"), "v", "2"),
        ("[a.b]\n[a]\nc = 1", ("a",), "a", "a"),
    ],
)
def test_places(text: str, path: Path, key: str, value: str) -> None:
    tomli.loads(text)
    place = scan(text)[path]
    assert (text[slice(*place.key)], text[slice(*place.value)]) == (key, value)


def message(text: str) -> str:
    with pytest.raises(ProfileError) as caught:
        parse(text, "f.toml")
    return caught.value.message


@pytest.mark.parametrize(
    ("text", "begin"),
    [
        ("a = 1\nb =", "f.toml:2:4: "),
        ("a = 1\na = 2", "f.toml:2:"),
        ("[x\n", "f.toml:1:3: "),
        ("a = 1\r\nb = = 2", "f.toml:2:5: "),
        ("\n\n\tx", "f.toml:3:"),
        ('a = """\nb', "f.toml:2:2: "),
        ("a = " + "[" * 100_000, "f.toml"),
        ("a = " + "9" * 10_000, "f.toml"),
        ("a = 2021-13-01", "f.toml"),
        ("a = " + "{a=" * 5000, "f.toml"),
    ],
)
def test_syntax_errors_have_a_position(text: str, begin: str) -> None:
    assert message(text).startswith(begin)


def test_the_line_and_a_caret_are_shown() -> None:
    document = parse('[limits]\nmemroy = "2G"\n', "sandbox.toml")
    assert document.where(("limits", "memroy"), "unknown key", key=True) == (
        'sandbox.toml:2:1: unknown key\n2 | memroy = "2G"\n  | ^^^^^^'
    )
    assert document.where(("limits", "memroy"), "wrong").endswith('\n2 | memroy = "2G"\n  |          ^^^^')


def test_tabs_and_wide_letters_keep_the_caret_in_place() -> None:
    document = parse('\t"日本" = 1\n', "f")
    *_, shown, caret = document.where(("日本",), "x").split("\n")
    assert shown == '1 | \t"日本" = 1'
    assert caret == "  | \t" + " " * 9 + "^"


def test_long_lines_are_cut_around_the_place() -> None:
    document = parse("a = [" + "1, " * 5000 + "2]", "f")
    *_, shown, caret = document.where(("a", 5000), "x").split("\n")
    assert len(shown) < 200
    assert shown[caret.index("^")] == "2"


def test_a_value_of_many_lines_is_marked_on_its_first() -> None:
    document = parse("a = [\n1,\n2]", "f")
    assert document.where(("a",), "x") == "f:1:5: x\n1 | a = [\n  |     ^"


def test_what_is_missing_points_to_what_is_around_it() -> None:
    document = parse("[a]\nb = { c = 1 }", "f")
    assert document.where(("a", "b", "d"), "x").startswith("f:2:5: x")
    assert document.where(("z",), "x") == "f: x"


@pytest.mark.parametrize("evil", ["\x1b[2J", "\u202e", "\x9b31m", "\x00", "\x7f"])
def test_no_control_characters_reach_the_terminal(evil: str) -> None:
    for text in (
        f"a = {evil}",
        f"# {evil}\na = = 1",
        f'x = "{evil}"\nx = 1',
        f'"{evil}" = 1\nb = = 2 # {evil}',
    ):
        with pytest.raises(ProfileError) as caught:
            document = parse(text, f"dir{evil}/f.toml")
            document.fail((next(iter(document.data)),), "x")
        assert evil not in str(caught.value)


def test_origin() -> None:
    document = parse("[a]\nb = 1", "f")
    document.hostile = True
    origin = document.origin(("a", "b"))
    assert (str(origin), origin.line, origin.column, origin.hostile) == ("f:2", 2, 1, True)
    assert str(Document("x", {}).origin(("a",))) == "x"


def test_a_document_within_a_document() -> None:
    document = parse("[tool.sandbox.limits]\npids = 1", "pyproject.toml")
    document.top = ("tool", "sandbox")
    assert document.where(("limits", "pids"), "x").startswith("pyproject.toml:2:8: x")
    assert document.has(("limits", "pids"))
    assert not document.has(("limits", "memory"))


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("a = [" + "1," * 300_000 + "]", 300_001),
        ("".join(f"k{number} = 1\n" for number in range(60_000)), 60_000),
        ("".join("[[t]]\na=1\n" for _ in range(60_000)), 120_001),
        ('a = """' + '""\\"' * 200_000 + '"""', 1),
    ],
    ids=["array", "keys", "tables", "quotes"],
)
def test_large_documents(text: str, places: int) -> None:
    """A scan that were quadratic would not end while anybody waits."""
    tomli.loads(text)
    assert len(scan(text)) == places


@pytest.mark.parametrize(
    "text",
    [
        ".".join("a" * 5000) + " = 1",
        "[" + ".".join("a" * 5000) + "]",
        "a = " + "[" * 200 + "]" * 200,
        "a = " + "{ a = " * 200 + "1" + " }" * 200,
    ],
    ids=["dotted", "header", "array", "inline"],
)
def test_deep_documents_are_refused(text: str) -> None:
    assert "nested too deeply" in message(text)


def test_messages_have_an_end() -> None:
    document = parse(f'"{"a" * 500_000}" = 1', "f")
    assert len(document.where((next(iter(document.data)),), "unknown key " + "a" * 500_000, key=True)) < 2000
