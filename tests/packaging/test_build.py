"""Wheels, source distributions and editable installs, built for real with hatchling."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.packaging.copies import QUICK, compiler, copy_tree

pytestmark = pytest.mark.integration


def hatch(tree: Path, hook: str, *arguments: object, **environ: str) -> str:
    """Call a hook of the build backend (PEP 517, PEP 660) in a process of its own; its result as text."""
    code = f"import sys; from hatchling import build; print(build.{hook}(*sys.argv[1:]))"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=tree, env={**os.environ, **environ}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.fixture(autouse=True)
def compiler_of_builds(tmp_path: Path, compiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "quick").mkdir()
    monkeypatch.setenv("CC", str(compiler(tmp_path / "quick", QUICK, compiled)))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return copy_tree(tmp_path / "my tree")


def leave_a_small_helper(tree: Path) -> None:
    for source in (tree / "helpers").iterdir():
        source.unlink()
    (tree / "helpers" / "main.c").write_text("int main(void) { return 0; }\n")


def members(wheel: Path) -> dict[str, zipfile.ZipInfo]:
    with zipfile.ZipFile(wheel) as archive:
        return {info.filename: info for info in archive.infolist()}


def test_wheel_has_helper_configs_and_command(tree: Path, tmp_path: Path) -> None:
    name = hatch(tree, "build_wheel", tmp_path)
    platform = sysconfig.get_platform().replace("-", "_")
    assert name.startswith("rootless_sandbox-")
    assert name.endswith(f"-py3-none-{platform}.whl")
    files = members(tmp_path / name)
    assert files["sandbox/_helper/sandbox-helper"].external_attr >> 16 & 0o111 == 0o111
    for config in (tree / "configs").iterdir():
        assert f"sandbox/_configs/{config.name}" in files
    assert "sandbox/py.typed" in files
    assert any(name.endswith(".data/scripts/sandbox") for name in files)
    tops = {name.split("/")[0] for name in files}
    assert {top for top in tops if not top.startswith("rootless_sandbox-")} == {"sandbox"}
    assert not (tree / "sandbox" / "_helper").exists(), "a wheel is not built in the tree"


def test_helper_of_a_wheel_is_static_and_runs(tree: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / hatch(tree, "build_wheel", tmp_path)) as archive:
        helper = Path(archive.extract("sandbox/_helper/sandbox-helper", tmp_path))
    helper.chmod(0o755)
    segments = subprocess.run(["readelf", "-lW", helper], capture_output=True, text=True, check=True).stdout
    assert "LOAD" in segments
    assert "INTERP" not in segments
    assert subprocess.run([helper, "true"], env={}).returncode == 0


def test_sdist_builds_the_same_wheel(tree: Path, tmp_path: Path) -> None:
    direct = members(tmp_path / hatch(tree, "build_wheel", tmp_path))
    shutil.unpack_archive(tmp_path / hatch(tree, "build_sdist", tmp_path), tmp_path / "sdist")
    [unpacked] = (tmp_path / "sdist").iterdir()
    (tmp_path / "again").mkdir()
    again = members(tmp_path / "again" / hatch(unpacked, "build_wheel", tmp_path / "again"))
    assert direct.keys() == again.keys()


def test_editable_builds_the_helper_in_the_tree_and_only_when_stale(tree: Path, tmp_path: Path) -> None:
    helper = tree / "sandbox" / "_helper" / "sandbox-helper"
    files = members(tmp_path / hatch(tree, "build_editable", tmp_path))
    assert not any(name.startswith("sandbox/") for name in files), "it must use the files in the tree"
    with zipfile.ZipFile(tmp_path / next(tmp_path.glob("*.whl")).name) as archive:
        [pth] = [name for name in files if name.endswith(".pth")]
        assert archive.read(pth).decode().strip() == str(tree)
    first = helper.stat().st_ino
    hatch(tree, "build_editable", tmp_path)
    assert helper.stat().st_ino == first
    (tree / "helpers" / "helper.h").touch()
    hatch(tree, "build_editable", tmp_path)
    assert helper.stat().st_ino != first


def test_a_compiler_from_the_index_is_asked_for_only_where_there_is_none(tree: Path) -> None:
    assert "ziglang" not in hatch(tree, "get_requires_for_build_wheel")
    assert "ziglang" in hatch(tree, "get_requires_for_build_wheel", CC="/nonexistent/cc")
    assert "ziglang" in hatch(tree, "get_requires_for_build_editable", CC="/nonexistent/cc")


def test_a_compiler_that_cannot_link_statically_does_not_count(tree: Path, tmp_path: Path) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text(
        f'#!/bin/sh\nfor a; do [ "$a" = -static ] && exit 1; done\nexec {shutil.which("cc")} "$@"\n'
    )
    compiler.chmod(0o755)
    assert "ziglang" in hatch(tree, "get_requires_for_build_wheel", CC=str(compiler))


def test_a_failed_compilation_keeps_the_old_helper(tree: Path) -> None:
    leave_a_small_helper(tree)
    command = [sys.executable, "scripts/build_helper.py"]
    subprocess.run(command, cwd=tree, check=True, capture_output=True)
    helper = tree / "sandbox" / "_helper" / "sandbox-helper"
    before = helper.read_bytes()
    (tree / "helpers" / "broken.c").write_text("int broken(void) { return }\n")
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    assert done.returncode == 1
    assert "broken.c:1" in done.stderr
    assert helper.read_bytes() == before
    assert os.listdir(helper.parent) == [helper.name]


def test_an_edit_during_the_compilation_is_compiled_next(tree: Path, tmp_path: Path) -> None:
    """As by `git pull` in another terminal: what was made of both states must not stay."""
    leave_a_small_helper(tree)
    compiler = tmp_path / "cc"
    edit = f"echo >> '{tree}/helpers/main.c'"
    compiler.write_text(
        f"""#!/bin/sh\n{shutil.which("cc")} "$@" || exit\ncase $* in *main.c*) {edit} ;; esac\n"""
    )
    compiler.chmod(0o755)
    command = [sys.executable, "scripts/build_helper.py"]
    helper = tree / "sandbox" / "_helper" / "sandbox-helper"
    subprocess.run(
        command, cwd=tree, check=True, capture_output=True, env={**os.environ, "CC": str(compiler)}
    )
    torn = helper.stat().st_ino
    subprocess.run(command, cwd=tree, check=True, capture_output=True)
    made = helper.stat().st_ino
    assert made != torn
    subprocess.run(command, cwd=tree, check=True, capture_output=True)
    assert helper.stat().st_ino == made


def test_no_compiler_at_all_says_what_mends_it(tree: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-S", "scripts/build_helper.py"],
        cwd=tree,
        env={**os.environ, "CC": "/nonexistent/cc"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "no C compiler" in done.stderr
    assert "mend: " in done.stderr
    assert "Traceback" not in done.stderr
