"""Containerfiles: what is read of them, and where mistakes are shown."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.errors import BuildError
from sandbox.image.build import steps
from sandbox.image.build.instructions import parse, parse_instruction
from sandbox.image.build.template import fill


def steps_of(text: str) -> tuple[steps.Step, ...]:
    return parse("Containerfile", f"FROM x\n{text}".encode()).stages[0].steps


def one(text: str) -> steps.Step:
    (step,) = steps_of(text)
    return step


def plain(word: object) -> str:
    return fill(word, {"V": "value"}.get)  # type: ignore[arg-type]


# --- lines ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("RUN a b", "a b"),
        ("run   a", "a"),
        ("  RUN a", "a"),
        ("RUN a \\\n  b", "a   b"),
        ("RUN a \\  \n b", "a  b"),
        ("RUN a \\\n# comment\n  # another\n b", "a  b"),
        ("RUN a \\\n\n\n b", "a  b"),
        ("RUN a # no comment", "a # no comment"),
        ("RUN a \\\\\n", "a \\\\"),
        ("RUN a\\\nb", "ab"),
        ("RUN \\\n a", "a"),
        ("RUN a\r\n", "a"),
        ("RUN\ta", "a"),
        ("RUN a \\", "a"),
    ],
)
def test_lines_are_joined(text: str, command: str) -> None:
    step = one(text)
    assert isinstance(step, steps.Run)
    assert step.command == (command,)
    assert step.shell


def test_directives() -> None:
    text = b"# syntax=docker/dockerfile:1\n#escape=`\nFROM x\nRUN a `\n b\\\nCOPY a\\b `$V /\n"
    stage = parse("f", text).stages[0]
    run, copy = stage.steps
    assert isinstance(run, steps.Run)
    assert isinstance(copy, steps.Copy)
    assert run.command == ("a  b\\",)
    assert [plain(each) for each in copy.sources] == ["a\\b", "$V"]


def test_a_directive_behind_a_comment_is_a_comment() -> None:
    stage = parse("f", b"# hello\n# escape=`\nFROM x\nRUN a \\\n b\n").stages[0]
    assert stage.steps[0].text == "RUN a  b"


def test_a_byte_order_mark() -> None:
    assert len(parse("f", b"\xef\xbb\xbfFROM x\n").stages) == 1


# --- commands ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "command", "shell"),
    [
        ('["a", "b c"]', ("a", "b c"), False),
        ("['a', 'b']", ("['a', 'b']",), True),
        ("[a]", ("[a]",), True),
        ('["a"', ('["a"',), True),
        ('["a\\u0041"]', ("aA",), False),
        ("[NaN]", ("[NaN]",), True),
        ("[ -f x ]", ("[ -f x ]",), True),
    ],
)
def test_lists_and_what_is_none(text: str, command: tuple[str, ...], shell: bool) -> None:
    for name, kind in (("RUN", steps.Run), ("CMD", steps.Cmd), ("ENTRYPOINT", steps.Entrypoint)):
        step = one(f"{name} {text}")
        assert isinstance(step, kind)
        assert (step.command, step.shell) == (command, shell)  # type: ignore[attr-defined]


@given(st.lists(st.text(max_size=8).filter(lambda text: "\0" not in text), min_size=1, max_size=4))
def test_lists_come_back(words: list[str]) -> None:
    step = one(f"CMD {json.dumps(words)}")
    assert isinstance(step, steps.Cmd)
    if not any("\ud800" <= char <= "\udfff" for word in words for char in word):
        assert step.command == tuple(words)


_value = st.text(st.characters(blacklist_characters="\0\n\r", blacklist_categories=("Cs",)), max_size=12)


@given(st.dictionaries(st.from_regex(r"\A[A-Za-z_][A-Za-z0-9_]{0,5}\Z"), _value, min_size=1, max_size=4))
def test_variables_come_back(variables: dict[str, str]) -> None:
    def quoted(value: str) -> str:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$") + '"'

    step = one("ENV " + " ".join(f"{name}={quoted(value)}" for name, value in variables.items()))
    assert isinstance(step, steps.Env)
    assert {plain(name): plain(value) for name, value in step.pairs} == variables


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("A=1", [("A", "1")]),
        ("A=1 B=2", [("A", "1"), ("B", "2")]),
        ("A=\"x y\" B='p q' C=r\\ s", [("A", "x y"), ("B", "p q"), ("C", "r s")]),
        ("A one two  three", [("A", "one two  three")]),
        ("A=", [("A", "")]),
        ("A=b=c", [("A", "b=c")]),
        ("A=$V", [("A", "value")]),
        ('"A B"=1', [("A B", "1")]),
    ],
)
def test_pairs(text: str, pairs: list[tuple[str, str]]) -> None:
    for name in ("ENV", "LABEL"):
        step = one(f"{name} {text}")
        assert isinstance(step, steps.Env | steps.Label)
        assert [(plain(key), plain(value)) for key, value in step.pairs] == pairs


def test_healthcheck() -> None:
    step = one("HEALTHCHECK --interval=1m30s --timeout=1.5s --retries=3 CMD curl x")
    assert isinstance(step, steps.Healthcheck)
    assert step.check == {
        "Test": ["CMD-SHELL", "curl x"],
        "Interval": 90 * 10**9,
        "Timeout": 1_500_000_000,
        "Retries": 3,
    }
    assert one("HEALTHCHECK NONE").check == {"Test": ["NONE"]}  # type: ignore[attr-defined]
    assert one('HEALTHCHECK CMD ["a"]').check == {"Test": ["CMD", "a"]}  # type: ignore[attr-defined]


def test_onbuild() -> None:
    step = one("ONBUILD COPY a /b")
    assert isinstance(step, steps.Onbuild)
    assert isinstance(parse_instruction("x", step.instruction), steps.Copy)


# --- here-documents -----------------------------------------------------------------------------------------


def test_a_document_is_the_command() -> None:
    step = one("RUN <<EOF\necho $V\n  EOF\nEOF\n")
    assert isinstance(step, steps.Run)
    assert (step.command, step.shell, step.script) == (("echo $V\n  EOF\n",), True, False)


def test_a_document_with_an_interpreter() -> None:
    step = one("RUN <<-EOF\n\t#!/usr/bin/python3\n\tprint(1)\n\tEOF\n")
    assert isinstance(step, steps.Run)
    assert step.command == ("#!/usr/bin/python3\nprint(1)\n",)
    assert step.script


def test_documents_for_a_shell() -> None:
    step = one("RUN cat <<A > x && cat <<'B'\n1\nA\n$2\nB\n")
    assert isinstance(step, steps.Run)
    assert step.command == ("cat <<A > x && cat <<'B'\n1\nA\n$2\nB",)


def test_documents_as_files() -> None:
    step = one("COPY <<a.txt <<\"b\" c /d/\n$V 'x' \\$V\na.txt\n$V\nb\n")
    assert isinstance(step, steps.Copy)
    assert [(each.name, plain(each.data)) for each in step.inline] == [
        ("a.txt", "value 'x' $V\n"),
        ("b", "$V\n"),
    ]
    assert [plain(each) for each in step.sources] == ["c"]
    assert plain(step.target) == "/d/"


def test_what_is_no_document() -> None:
    assert one("ENV A=<<EOF").text == "ENV A=<<EOF"
    assert one('RUN ["cat", "<<EOF"]').text == 'RUN ["cat", "<<EOF"]'
    assert len(steps_of("RUN echo $((1 << 2))\nRUN b")) == 2


# --- flags --------------------------------------------------------------------------------------------------


def test_flags() -> None:
    step = one("COPY --from=base --chown=$V:1 --chmod=755 --exclude=*.md --exclude=x --link a b /c/")
    assert isinstance(step, steps.Copy)
    assert step.source == "base"
    assert plain(step.owner) == "value:1"
    assert [plain(each) for each in step.exclude] == ["*.md", "x"]
    assert len(step.sources) == 2


def test_mounts() -> None:
    step = one(
        "RUN --mount=type=cache,target=/c,sharing=locked --mount=source=a,dst=/b,rw "
        "--mount=type=secret,id=s,required --mount=type=tmpfs,target=/t --network=none x"
    )
    assert isinstance(step, steps.Run)
    assert [each.kind for each in step.mounts] == ["cache", "bind", "secret", "tmpfs"]
    assert step.mounts[1].options == {"source": ("a",), "target": ("/b",), "rw": ("true",)}
    assert step.network == "none"
    assert step.command == ("x",)


def test_stages() -> None:
    recipe = parse(
        "f", b"ARG V=1 W\nFROM a:$V AS Base\nFROM --platform=linux/amd64 base\nfrom scratch as x\n"
    )
    assert [stage.name for stage in recipe.stages] == ["base", "", "x"]
    assert plain(recipe.stages[0].base) == "a:value"
    assert recipe.args[0].pairs == ((("V",), ("1",)), (("W",), None))


# --- mistakes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("", "1:1", "no FROM"),
        ("RUN x", "1:1", "before the first FROM"),
        ("FROM", "1:1", "needs one image"),
        ("FROM a AS 1x", "1:11", "no name for a stage"),
        ("FROM a AS b\nFROM c AS B", "2:11", "already"),
        ("FROM a\nRUUN b", "2:1", 'did you mean "RUN"'),
        ("FROM a\nRUN", "2:1", "needs a command"),
        ("FROM a\nRUN []", "2:1", "needs a command"),
        ("FROM a\nRUN [1]", "2:1", "only have texts"),
        ("FROM a\nENV", "2:1", "needs an argument"),
        ("FROM a\nENV A", "2:5", "needs a value"),
        ("FROM a\nENV A=1 B", "2:9", "has no '='"),
        ('FROM a\nENV A=1 \\\n  B="x', "3:5", "not closed"),
        ("FROM a\nCOPY a", "2:1", "needs a source and a destination"),
        ("FROM a\nCOPY --form=b a /", "2:6", 'did you mean "from"'),
        ("FROM a\nCOPY --from a /", "2:6", "needs a value"),
        ("FROM a\nCOPY --from=$A a /", "2:6", "no variables"),
        ("FROM a\nCOPY --chown=1 --chown=2 a /", "2:16", "only once"),
        ("FROM a\nRUN --mount=type=ssh x", "2:5", "ssh is not available"),
        ("FROM a\nRUN --mount=type=cache x", "2:5", "needs a target"),
        ("FROM a\nRUN --mount=type=cahce,target=/x x", "2:5", 'did you mean "cache"'),
        ("FROM a\nRUN --mount=type=tmpfs,target=/x,mode=1 x", "2:5", "has no 'mode'"),
        ("FROM a\nRUN --network=host x", "2:5", "none or default"),
        ("FROM a\nRUN --security=insecure x", "2:5", "can leave its sandbox"),
        ("FROM a\nRUN <<EOF\nx", "2:5", "no line is 'EOF' alone"),
        ("FROM a\nSHELL x", "2:1", "list of JSON"),
        ("FROM a\nHEALTHCHECK x", "2:1", "CMD and a command"),
        ("FROM a\nHEALTHCHECK --interval=1 CMD x", "2:13", "duration"),
        ("FROM a\nONBUILD FROM x", "2:1", "can't be followed"),
        ("FROM a\nADD --checksum=md5:1 a /", "2:5", "64 hexadecimal"),
        ("# escape=x\nFROM a", "1:1", "escape character"),
        ("# escape=`\n# escape=`\nFROM a", "2:1", "only one"),
        ("FROM a\nRUN x\0y", "2:6", "null byte"),
        ("FROM a\nWORKDIR", "2:1", "needs an argument"),
        ("FROM a\nLABEL =x", "2:7", "no name"),
    ],
)
def test_mistakes_are_shown_where_they_are(text: str, where: str, message: str) -> None:
    with pytest.raises(BuildError) as caught:
        parse("Containerfile", text.encode())
    first, *more = caught.value.message.splitlines()
    assert first.startswith(f"Containerfile:{where}: ")
    assert message in first
    assert more[-1].endswith("^")


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(BuildError, match=r"Containerfile:2:5: it is no UTF-8"):
        parse("Containerfile", b"FROM a\nRUN \xff\n")


_line = st.one_of(
    st.sampled_from(
        [
            "FROM a",
            "FROM a AS b",
            "RUN a \\",
            "# c",
            "",
            "COPY --from=x a b",
            "RUN <<E",
            "E",
            "ENV A=1",
            "ARG X",
            "]",
        ]
    ),
    st.text(alphabet="ABRUN COPY<E>$'\"[]{}\\-=,:# \t\n", max_size=25),
)


@given(st.lists(_line, max_size=8))
@settings(max_examples=400)
def test_any_text_is_read_or_refused(lines: list[str]) -> None:
    try:
        parse("f", "\n".join(lines).encode())
    except BuildError as error:
        assert error.message.startswith("f:")


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        parse("f", data)
    except BuildError as error:
        assert error.message.startswith("f:")


# --- size ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        b"FROM a\n" + b"ENV A=1\n" * 100_000,
        b"FROM a\nRUN " + b"x" * (8 << 20),
        b"FROM a\nRUN " + b"\\\n" * 500_000 + b"x",
        b"FROM a\nENV A=" + b"${A:-" * 100_000,
        b"FROM a\nRUN " + b"<<A " * 10_000 + b"\n" + b"A\n" * 10_000,
        b"FROM a\nRUN <<A\n" + b"x\n" * 500_000 + b"A\n",
        b"FROM a\nCMD " + b"[" * 200_000,
        b"FROM a\nCOPY " + b"a " * 500_000,
        b"FROM a\nCOPY " + b"--" * 500_000,
        b"FROM a\nLABEL " + b"a=" * 500_000,
    ],
    ids=range(10),
)
def test_large_files_take_no_more_than_their_size(text: bytes) -> None:
    """Nothing is quadratic: it would take minutes, and the time a test may take ends it."""
    began = time.process_time()
    try:
        parse("f", text)
    except BuildError as error:
        assert len(error.message) < 4000
    assert time.process_time() - began < 60


def test_a_file_that_is_too_large() -> None:
    with pytest.raises(BuildError, match="more than 16 MiB"):
        parse("f", bytes((16 << 20) + 1))
