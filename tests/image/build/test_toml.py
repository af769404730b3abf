"""Builds in TOML: what they mean, and where mistakes are shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.errors import ProfileError, SandboxError
from sandbox.image.build import steps, tomlfile
from sandbox.image.build.instructions import parse
from sandbox.image.build.template import fill

ROOT = Path(__file__).resolve().parents[3]


def one(text: str) -> steps.Step:
    stage = tomlfile.parse("b.toml", f'[build]\nfrom = "x"\nsteps = [{text}]\n'.encode()).stages[-1]
    (step,) = stage.steps
    return step


@pytest.mark.parametrize(
    ("toml", "line"),
    [
        ('{ run = "a $b" }', "RUN a $b"),
        ('{ run = ["a", "b"] }', 'RUN ["a", "b"]'),
        ('{ run = "a", network = "none" }', "RUN --network=none a"),
        (
            '{ run = "a", mounts = [{ type = "cache", target = "/c", mode = "0700" }] }',
            "RUN --mount=type=cache,target=/c,mode=0700 a",
        ),
        (
            '{ run = "a", mounts = [{ source = "s", dst = "/d" }] }',
            None,
        ),
        ('{ copy = "a", to = "/b" }', "COPY a /b"),
        ('{ copy = ["a", "$B*"], to = "/c/", from = "d", owner = "1:2", mode = "0644" }',
         "COPY --from=d --chown=1:2 --chmod=0644 a $B* /c/"),
        ('{ add = "a.tar", to = "/" }', "ADD a.tar /"),
        ('{ args = { A = "1", B = false } }', "ARG A=1 B"),
        ('{ env = { A = "$B", C = 2 } }', "ENV A=$B C=2"),
        ('{ labels = { "a.b" = "c" } }', "LABEL a.b=c"),
        ('{ workdir = "/w" }', "WORKDIR /w"),
        ('{ user = "u:g" }', "USER u:g"),
        ('{ shell = ["/bin/bash", "-c"] }', 'SHELL ["/bin/bash", "-c"]'),
    ],
)  # fmt: skip
def test_steps_mean_what_instructions_mean(toml: str, line: str | None) -> None:
    if line is None:
        with pytest.raises(SandboxError, match="has no 'dst'"):
            one(toml)
        return
    (expected,) = parse("f", f"FROM x\n{line}".encode()).stages[0].steps
    found = one(toml)
    for name in {*expected.__slots__} - {"place", "text"}:
        assert getattr(found, name) == getattr(expected, name), name


def test_the_end_of_a_stage() -> None:
    text = """
[build]
from = "x"
cmd = ["a"]
entrypoint = "b"
expose = [80, "53/udp"]
volumes = ["/v"]
labels = { l = "1" }
stop_signal = "SIGINT"
healthcheck = ["c"]
"""
    kinds = [type(step).__name__ for step in tomlfile.parse("f", text.encode()).stages[0].steps]
    assert sorted(kinds) == ["Cmd", "Entrypoint", "Expose", "Healthcheck", "Label", "StopSignal", "Volume"]


def test_what_is_written_is_taken_as_it_stands() -> None:
    step = one('{ write = "$A \\\\ \'q\'", to = "/$B" }')
    assert isinstance(step, steps.Copy)
    assert fill(step.inline[0].data, lambda name: "no") == "$A \\ 'q'"
    assert fill(step.target, {"B": "b"}.get) == "/b"


def test_the_examples_of_documentation() -> None:
    readme = (ROOT / "README.md").read_text()
    blocks = [
        text for text in re.findall(r"```toml\n(.*?)```", readme, re.DOTALL) if text.startswith("[build]")
    ]
    help_text = (ROOT / "sandbox/cli/image/build.py").read_text()
    blocks += [re.search(r"(  \[build\]\n.*?)\n\nExit", help_text, re.DOTALL)[1].replace("\\\\n", "\\n")]  # type: ignore[index]
    blocks += [
        tomlfile.__doc__.partition("\n\n")[2].partition("\n\nVariables")[0].replace("steps = [...]", "")
    ]
    assert len(blocks) == 3
    for text in blocks:
        assert tomlfile.parse("example", text.encode()).stages[-1].steps


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("", "", "there is no [build]"),
        ("[bild]", "1:2", "did you mean"),
        ("schema = 2\n[build]", "1:10", "only schema 1"),
        ("build = 1", "1:9", "it is a table"),
        ("[build]", "1:2", "does not say what it begins with"),
        ("[build]\nfrom = 1.5", "2:8", "it is a text"),
        ('[build]\nfrom = "${A"', "2:8", "missing"),
        ('[build]\nfrom = "x"\nstep = []', "3:1", "did you mean 'steps'" ),
        ('[build]\nfrom = "x"\nsteps = 1', "3:9", "list of tables"),
        ('[build]\nfrom = "x"\nsteps = ["a"]', "3:10", "it is a table"),
        ('[build]\nfrom = "x"\nsteps = [{ rnu = "a" }]', "3:12", "unknown step 'rnu'"),
        ('[build]\nfrom = "x"\nsteps = [{ run = "a", copy = "b" }]', "3:10", "does one thing"),
        ('[build]\nfrom = "x"\nsteps = [{ run = "" }]', "3:18", "no command"),
        ('[build]\nfrom = "x"\nsteps = [{ run = 1 }]', "3:18", "a command is"),
        ('[build]\nfrom = "x"\nsteps = [{ run = "a", network = "host" }]', "3:33", "network is"),
        ('[build]\nfrom = "x"\nsteps = [{ copy = "a" }]', "3:10", "'to' is missing"),
        ('[build]\nfrom = "x"\nsteps = [{ copy = [], to = "/" }]', "3:19", "a list of texts"),
        ('[build]\nfrom = "x"\nsteps = [{ copy = "a", to = "/", mode = 644 }]', "3:41", "it is a text"),
        ('[build]\nfrom = "x"\nsteps = [{ write = "a", to = "/x/" }]', "3:30", "names a directory"),
        ('[build]\nfrom = "x"\nsteps = [{ env = { "a b" = "1" } }]', "3:20", "no name of a variable"),
        ('[build]\nfrom = "x"\nsteps = [{ run = "a", mounts = [{ type = "x" }] }]', "3:33", "no mount of"),
        ('[build]\nfrom = "x"\n[build.stage.X]\nfrom = "y"', "3:14", "no name for a stage"),
        ('[build]\nfrom = "x"\n[build.stage.a]\nsteps = []', "3:14", "does not say what it begins with"),
        ('[build]\nfrom = "x"\nshell = "a"', "3:1", "unknown key"),
    ],
)  # fmt: skip
def test_mistakes_are_shown_where_they_are(text: str, where: str, message: str) -> None:
    with pytest.raises(SandboxError) as caught:
        tomlfile.parse("b.toml", text.encode())
    assert caught.value.message.startswith(f"b.toml:{where}:" if where else "b.toml:")
    assert message.strip("'\"") in caught.value.message.replace('"', "'") or message in caught.value.message


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(ProfileError, match="not UTF-8"):
        tomlfile.parse("b.toml", b"\xff")


_value = st.recursive(
    st.sampled_from(['"a"', '"$A"', '"${"', "1", "true", "1.5"]),
    lambda inner: st.lists(inner, max_size=3).map(lambda each: f"[{', '.join(each)}]")
    | st.dictionaries(
        st.sampled_from(["run", "copy", "to", "from", "env", "mounts", "type", "write", "args"]),
        inner,
        max_size=3,
    ).map(lambda each: "{" + ", ".join(f"{key} = {value}" for key, value in each.items()) + "}"),
    max_leaves=8,
)  # fmt: skip


@given(
    st.dictionaries(st.sampled_from(["from", "steps", "args", "stage", "cmd", "labels", "expose"]), _value)
)
def test_any_values_are_read_or_refused(values: dict[str, str]) -> None:
    text = "[build]\n" + "".join(f"{key} = {value}\n" for key, value in values.items())
    try:
        tomlfile.parse("f", text.encode())
    except SandboxError as error:
        assert error.message.startswith("f:")


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        tomlfile.parse("f", text.encode("utf-8", "surrogatepass"))
    except SandboxError as error:
        assert error.message.startswith("f")
