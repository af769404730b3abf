"""Words with variables: docker's rules, by a table of them, and a shell as the judge of what both have."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.image.build.template import Bad, fill, names, read

VALUES = {"A": "one", "E": "", "P": "/usr/local/lib.tar.gz", "1": "first"}


def filled(text: str, **options: object) -> str:
    return fill(read(text, **options), VALUES.get)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("plain", "plain"),
        ("$A", "one"),
        ("${A}", "one"),
        ("x$A-y", "xone-y"),
        ("$AB", ""),
        ("$NO", ""),
        ("$", "$"),
        ("a$", "a$"),
        ("$.", "$."),
        ("$1x", "firstx"),
        (r"\$A", "$A"),
        (r"\\$A", r"\one"),
        ("'$A'", "$A"),
        ("'it\\'", "it\\"),
        ('"$A"', "one"),
        (r'"\$A\"\\\n"', '$A"\\\\n'),
        ("'a'\"b\"c", "abc"),
        ("${A:-x}", "one"),
        ("${E:-x}", "x"),
        ("${E-x}", ""),
        ("${NO-x}", "x"),
        ("${NO:-$A}", "one"),
        ("${NO:-${NO:-deep}}", "deep"),
        ("${A:+x}", "x"),
        ("${E:+x}", ""),
        ("${E+x}", "x"),
        ("${NO+x}", ""),
        ("${A:?wrong}", "one"),
        ("${P#*/}", "usr/local/lib.tar.gz"),
        ("${P##*/}", "lib.tar.gz"),
        ("${P%.*}", "/usr/local/lib.tar"),
        ("${P%%.*}", "/usr/local/lib"),
        ("${P#nothing}", VALUES["P"]),
        ("${P/l?b/LIB}", "/usr/local/LIB.tar.gz"),
        ("${P//\\//_}", "_usr_local_lib.tar.gz"),
        ("${A:-'}'}", "one"),
        ("${NO:-'}'}", "}"),
    ],
)
def test_forms(text: str, expected: str) -> None:
    assert filled(text) == expected


@pytest.mark.parametrize(
    ("text", "message", "at"),
    [
        ("'x", "not closed", 0),
        ('ab"x', "not closed", 2),
        ("${A", "missing", 0),
        ("x${A:-y", "missing", 6),
        ("${}", "no name", 0),
        ("${A!}", "no form", 0),
        ("${NO:-" * 30 + "}" * 30, "too deeply", None),
    ],
)
def test_mistakes(text: str, message: str, at: int | None) -> None:
    with pytest.raises(Bad, match=message) as caught:
        read(text)
    assert at is None or caught.value.at == at


def test_a_variable_that_must_be_set() -> None:
    with pytest.raises(Bad, match="NO: say it"):
        filled("${NO:?say it}")


def test_another_escape_and_quotes_that_are_none() -> None:
    assert filled("`$A\\$A", escape="`") == "$A\\one"
    assert filled("'$A'\"", quotes=False) == "'one'\""


def test_values_do_not_explode() -> None:
    values = {"A": "x" * 100_000}
    with pytest.raises(Bad, match="more than"):
        fill(read("$A$A"), values.get)
    with pytest.raises(Bad, match="more than"):
        fill(read("${A//x/y}"), values.get)


def test_a_pattern_takes_no_cube_of_its_length() -> None:
    """One that is looked for at each place anew takes ten minutes for this."""
    values = {"A": "a" * 2000}
    assert fill(read(f"${{A//{'*a' * 995}b/x}}"), values.get) == values["A"]


def test_names() -> None:
    assert list(names(read("$A${B:-$C}${D/$E/$F}"))) == ["A", "B", "C", "D", "E", "F"]


@given(st.text(alphabet="ab$A{}:-+?'\"\\#%/*` \n", max_size=30))
@settings(max_examples=400)
def test_any_text_is_read_or_refused(text: str) -> None:
    for quotes in (True, False):
        try:
            fill(read(text, quotes=quotes), VALUES.get)
        except Bad as bad:
            assert 0 <= bad.at <= len(text)


_piece = st.sampled_from(
    [
        "a",
        "b.c",
        "/",
        "$A",
        "${A}",
        "${E:-x}",
        "${NO:-y}",
        "${A:+z}",
        "${P%.*}",
        "${P##*/}",
        "'q$A'",
        '"d$A"',
        r"\$",
    ]
)


@given(st.lists(_piece, max_size=6))
@settings(max_examples=60, deadline=None)
def test_a_shell_agrees(pieces: list[str]) -> None:
    text = "".join(pieces)
    environment = {name: value for name, value in VALUES.items() if name.isalpha()}
    script = f'set -f; IFS=; set -- {text}; printf %s "$*"'
    done = subprocess.run(
        ["/bin/sh", "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert filled(text) == done.stdout
