"""sandbox.profile.schema: the JSON schema and the reference follow the table."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import tomli

from sandbox import paths
from sandbox.errors import NotAvailableError, ProfileError
from sandbox.profile import SETTINGS, Profile
from sandbox.profile.schema import json_schema, json_text, reference
from tests.profile.test_build import NOT_YET, WRONG

CONFIGS = Path(paths.configs())


def validator() -> Any:
    return jsonschema.Draft202012Validator(json_schema())


def test_the_file_is_current() -> None:
    assert (CONFIGS / "profile.schema.json").read_text(encoding="utf-8") == json_text(), (
        "write it anew: python -m sandbox.profile.schema"
    )


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())
    assert json.loads(json_text()) == json_schema()


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.toml")), ids=lambda file: file.stem)
def test_built_in_profiles_are_valid(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.startswith("#:schema profile.schema.json\n")
    validator().validate(tomli.loads(text))


def test_every_key_is_there() -> None:
    properties = json_schema()["properties"]
    for setting in SETTINGS:
        where = properties[setting.table]["properties"] if setting.table else properties
        assert setting.help in where[setting.name]["description"]


RIGHT = [
    'extends = ["a", "./b.toml"]\nextend-require = ["net"]',
    'limits = { memory = "1.5G", swap = false, timeout = "1m30s", cpu_time = 5 }',
    'limits = { output = "64 KiB", disk = "1m" }',
    'mounts = { "/a" = "ro", "/b" = false, "/c" = { source = ".", mode = "rw", optional = true } }',
    'env = { keep = ["A"], extend-keep = ["B"], set = { A = "1", B = false } }',
    'process = { rlimits = { stack = ["8M", "unlimited"], nofile = 5 }, capabilities = false }',
    'process.umask = "022"',
    'limits.io."/dev/sda" = { rbps = "1M", riops = 5 }',
]


@pytest.mark.parametrize("text", RIGHT)
def test_right(text: str) -> None:
    validator().validate(tomli.loads(text))


@pytest.mark.parametrize(
    "text",
    [
        "memroy = 1",
        "[limits]\nmemroy = 1",
        "[limit]",
        "limits.pids = '5'",
        "limits.memory = '1 X'",
        "schema = 2",
        "mounts.'/a' = 'wr'",
        "mounts.'/a' = { mod = 'ro' }",
        "process.umask = 18",
        "command = 'make'",
        "limits = []",
        "limits.extend-memory = ['1G']",
        "env.set.A = 1",
        "limits.enforce = 'never'",
        "limits.timeout = 0",
    ],
)
def test_wrong(text: str) -> None:
    assert not validator().is_valid(tomli.loads(text))


def test_no_stricter_than_the_parser(loaded: Callable[[str], Profile]) -> None:
    """What the schema refuses, the parser refuses: an editor may not cry wolf."""
    texts = [*RIGHT, *(text for text, _, _ in WRONG), *(text for text, _, _ in NOT_YET)]
    for text in texts:
        try:
            data = tomli.loads(text)
        except tomli.TOMLDecodeError:
            continue
        if validator().is_valid(data):
            continue
        with pytest.raises((ProfileError, NotAvailableError)):
            loaded(text)


def test_reference() -> None:
    text = reference(80)
    for setting in SETTINGS:
        assert f"\n{setting.name} = " in text or setting.key == "mounts"
        for option in setting.options:
            assert option.flags[-1] in text
    assert max(map(len, text.splitlines())) <= 80
    assert "extend-KEY" in text
