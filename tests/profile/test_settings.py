"""sandbox.profile.settings: the table, compared with everything that must agree with it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import MappingProxyType

import pytest

from sandbox.errors import NotAvailableError
from sandbox.kernel import RLIMITS
from sandbox.profile import checks, from_dict, later, narrows
from sandbox.profile.build import build, refuse_unavailable, value_of
from sandbox.profile.kinds import Map
from sandbox.profile.merge import Merged
from sandbox.profile.model import Environment, Limits, Mount, Net, Process, Profile, Root, User
from sandbox.profile.settings import BY_KEY, SETTINGS, TABLES, Setting
from sandbox.root import tables

MODEL = {"root": Root, "user": User, "limits": Limits, "net": Net, "env": Environment, "process": Process}


def test_every_field_of_the_model_has_a_row_and_no_other() -> None:
    ours = {"name", "files", "looked", "origins", *MODEL}
    keys = {each.name for each in dataclasses.fields(Profile)} - ours
    for table, model in MODEL.items():
        names = {each.name for each in dataclasses.fields(model)} - {"base"}
        keys |= {f"{table}.{'from' if (table, name) == ('root', 'source') else name}" for name in names}
    assert keys == set(BY_KEY)
    assert len(BY_KEY) == len(SETTINGS)


def test_defaults_are_those_of_the_model() -> None:
    empty = build(Merged())
    assert dataclasses.replace(empty, origins=MappingProxyType({})) == Profile()
    assert set(empty.origins) == set(BY_KEY)
    assert {str(origin) for origin in empty.origins.values()} == {"built-in default"}


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.key)
def test_rows(setting: Setting) -> None:
    assert setting.help.endswith(".")
    assert setting.kind.schema()
    assert setting.kind.words
    if setting.default not in (None, (), {}, ""):
        assert setting.kind.parse(setting.kind.dump(setting.default)) == setting.default
    assert value_of(Profile(), setting) == setting.default


def test_false_clears_what_may_be_absent() -> None:
    """Whatever has no value by default can be taken away again."""
    for setting in SETTINGS:
        if setting.default is None:
            assert setting.clear, setting.key


def test_option_strings_are_there_once() -> None:
    flags = [flag for setting in SETTINGS for option in setting.options for flag in option.flags]
    assert len(flags) == len(set(flags))
    assert set(flags) == {
        "--image",
        "--root",
        "-m",
        "--memory",
        "--cpus",
        "--pids",
        "--disk",
        "--timeout",
        "--cpu-time",
        "--output",
        "-v",
        "--bind",
        "--tmpfs",
        "--net",
        "--allow",
        "--publish",
        "--activate",
        "-e",
        "--env",
        "--env-file",
        "-w",
        "--workdir",
        "-u",
        "--user",
        "--hostname",
        "--entrypoint",
        "--require",
        "--cgroup-parent",
    }


def test_only_these_narrow() -> None:
    """A row that a project may change is on purpose."""
    assert {setting.key for setting in SETTINGS if setting.narrows is not narrows.never} == {
        "schema",
        "description",
        "command",
        "require",
        "root.from",
        "root.writable",
        "root.size",
        "limits.memory",
        "limits.memory_high",
        "limits.swap",
        "limits.pids",
        "limits.cpus",
        "limits.cpu_weight",
        "limits.timeout",
        "limits.cpu_time",
        "limits.disk",
        "limits.files",
        "limits.file_size",
        "limits.output",
        "limits.core",
        "limits.enforce",
        "net.mode",
        "net.publish",
        "net.activate",
        "net.allow",
        "net.deny",
        "net.reach",
        "env.keep",
        "process.workdir",
        "process.hostname",
        "process.nested",
        "process.seccomp",
        "process.capabilities",
        "process.rlimits",
        "process.tty",
        "process.umask",
        "process.nice",
    }


def test_tables_are_the_design() -> None:
    assert TABLES == ("root", "user", "limits", "net", "env", "process")
    assert [setting.key for setting in SETTINGS if isinstance(setting.kind, Map)] == [
        "mounts",
        "limits.io",
        "net.hosts",
        "env.set",
        "process.rlimits",
    ]


def test_names_agree_with_the_plan() -> None:
    assert set(checks.LIMIT_OF_RLIMIT) <= set(RLIMITS)
    assert {f"limits.{name}" for name in checks.LIMIT_OF_RLIMIT.values()} <= set(BY_KEY)
    assert set(checks.REQUIREMENTS) - {"net", "seccomp"} == {
        each.name for each in dataclasses.fields(Limits) if each.name not in ("enforce", "cgroup_parent")
    }


def test_whatever_a_root_shows_counts_as_shown() -> None:
    for path in (*tables.HOST_TREES, *(f"/etc/{name}" for name in tables.ETC)):
        assert path.startswith(narrows.SYSTEM), path


def test_what_comes_later_is_a_setting_whose_default_works() -> None:
    for key, row in later.LATER.items():
        setting = BY_KEY[key]
        assert row.values is None or not row.values(setting.default)
        assert not setting.options or later.whole(key) == (row.instead if row.values is None else "")


def test_deleting_a_row_makes_a_key_available(monkeypatch: pytest.MonkeyPatch, tmp_home: Path) -> None:
    data = {"process": {"init": False}}
    with pytest.raises(NotAvailableError):
        from_dict(data)
    monkeypatch.delitem(later.LATER, "process.init")  # type: ignore[arg-type]
    refuse_unavailable(from_dict(data))


def test_mount_modes_are_known_to_the_gate() -> None:
    context = narrows.Context(Profile(), Profile(), "/p", "/p", "/h")
    for mode in ("ro", "rw", "overlay"):
        assert narrows.mount(None, Mount("/x", mode, "/x"), context)
