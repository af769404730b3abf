"""sandbox.paths: the user's directories, and what is ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox import paths

FUNCTIONS = {
    paths.config_dir: ("XDG_CONFIG_HOME", ".config", "user_config_dir"),
    paths.cache_dir: ("XDG_CACHE_HOME", ".cache", "user_cache_dir"),
    paths.state_dir: ("XDG_STATE_HOME", ".local/state", "user_state_dir"),
    paths.data_dir: ("XDG_DATA_HOME", ".local/share", "user_data_dir"),
}


@pytest.fixture(params=FUNCTIONS, ids=lambda function: function.__name__)
def function(request: pytest.FixtureRequest) -> object:
    return request.param


def test_variable_counts_when_absolute(function: object, monkeypatch: pytest.MonkeyPatch) -> None:
    variable, below, _ = FUNCTIONS[function]
    monkeypatch.setenv("HOME", "/h")
    monkeypatch.setenv(variable, "/x/y")
    assert function() == "/x/y/sandbox"
    for ignored in ("", "x/y", "~/x"):
        monkeypatch.setenv(variable, ignored)
        assert function() == f"/h/{below}/sandbox"


@pytest.mark.parametrize("value", ["/x/y", "", None])
def test_same_as_platformdirs(function: object, value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    import platformdirs

    variable, _, name = FUNCTIONS[function]
    monkeypatch.setenv("HOME", "/h")
    monkeypatch.delenv(variable, raising=False)
    if value is not None:
        monkeypatch.setenv(variable, value)
    assert function() == getattr(platformdirs, name)("sandbox")


def test_without_home_still_absolute(function: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv(FUNCTIONS[function][0], raising=False)
    assert function().startswith("/")
    monkeypatch.setenv("HOME", "not/absolute")
    assert function().startswith("/")


def test_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/h//x/")
    assert paths.home() == "/h/x"
    monkeypatch.setenv("HOME", "relative")
    assert paths.home().startswith("/")


def test_runtime_directory_must_be_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "run"
    own.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(own))
    assert paths.runtime_dir() == f"{own}/sandbox"
    own.chmod(0o755)
    assert paths.runtime_dir() != f"{own}/sandbox"
    own.chmod(0o700)
    link = tmp_path / "link"
    link.symlink_to(own)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(link))
    assert not paths.runtime_dir().startswith(str(tmp_path / "link"))


def test_no_variable_changes_the_helper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDBOX_HELPER", "/tmp/evil")
    assert paths.helper() == os.path.join(
        os.path.dirname(os.path.realpath(paths.__file__)), "_helper/sandbox-helper"
    )


def test_configs_has_the_built_in_profiles() -> None:
    assert os.path.exists(os.path.join(paths.configs(), "default.toml"))


def test_installation_covers_what_runs_next() -> None:
    covered = paths.installation()
    for file in (paths.__file__, paths.helper(), paths.configs()):
        real = os.path.realpath(file)
        assert any(real == each or real.startswith(each + "/") for each in covered), file
    assert not {"/", "/usr", "/usr/local"} & set(covered)
    assert all(each == os.path.realpath(each) for each in covered)


def test_installation_has_the_virtual_environment_even_without_site(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    checkout = str(Path(paths.__file__).parent.parent)
    code = (
        f"import sys; sys.path[:0] = [{checkout!r}]; from sandbox import paths; print(paths.installation())"
    )
    done = subprocess.run([venv / "bin/python", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert str(venv.resolve()) in done.stdout


def test_installation_has_all_of_a_checkout_whose_package_is_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout, private = tmp_path / "checkout", tmp_path / "cache" / ".sandbox-env"
    (checkout / "scripts").mkdir(parents=True)
    (private / "venv").mkdir(parents=True)
    for file in (
        checkout / "scripts/sandbox",
        checkout / "scripts/environment.py",
        private / "venv/pyvenv.cfg",
    ):
        file.touch()
    monkeypatch.setattr(sys, "prefix", str(private / "venv"))
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path / "pycache"))
    monkeypatch.setattr(sys, "argv", [str(checkout / "scripts/sandbox")])
    real = tmp_path.resolve()
    covered = set(paths.installation())
    assert {str(real / "checkout"), str(real / "cache/.sandbox-env"), str(real / "pycache")} <= covered
    (checkout / "scripts/environment.py").unlink()  # just a directory of that name
    assert str(real / "checkout") not in paths.installation()
    assert str(real / "checkout/scripts/sandbox") in paths.installation()


def test_cheap_to_import() -> None:
    code = (
        "import sys; before = set(sys.modules); from sandbox import paths, units; paths.cache_dir();"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"HOME": "/h", "PYTHONPATH": str(Path(paths.__file__).parent.parent)},
    )
    assert not {"platformdirs", "dataclasses", "typing", "tomli", "argparse"} & set(done.stdout.split())
