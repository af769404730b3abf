"""Fixtures for all tests: the helper, the command, a home of one's own, and the check for leaks."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

import sandbox
from sandbox.launch import broker
from tests.support import leaks as leak_check
from tests.support.needs import IN_CI
from tests.support.needs import need as need_now

ROOT = Path(__file__).resolve().parent.parent
#: generous: the machine of a CI job may be busy
COMMAND_TIMEOUT = 60.0

# No deadline, and no judgement of how fast examples are made: what a busy machine needs for one says nothing
# about the code.
_ANY_SPEED = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow], "database": None}
hypothesis.settings.register_profile("local", **_ANY_SPEED)
hypothesis.settings.register_profile("ci", derandomize=True, print_blob=True, **_ANY_SPEED)
hypothesis.settings.load_profile("ci" if IN_CI else "local")


def pytest_configure(config: pytest.Config) -> None:
    leak_check.adopt_orphans()


@pytest.fixture(scope="session")
def helper() -> Path:
    """The helper of this checkout, compiled if a source is newer."""
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import build_helper
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    target: Path = build_helper.in_place(ROOT)
    if not build_helper.is_fresh(ROOT, target):
        build_helper.build(ROOT, target)
    return target


@pytest.fixture
def need() -> Callable[..., None]:
    """`need("pasta")` skips a test that can't run on this machine; in CI it fails it."""
    return need_now


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of the test's own, which holds nothing."""
    directory = tmp_path / "work"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture
def tmp_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """HOME and the XDG directories below the test's own directory, and TMPDIR, too."""
    home = tmp_path / "home"
    for variable, name in {
        "HOME": ".",
        "XDG_CONFIG_HOME": ".config",
        "XDG_CACHE_HOME": ".cache",
        "XDG_DATA_HOME": ".local/share",
        "XDG_STATE_HOME": ".local/state",
        "XDG_RUNTIME_DIR": ".runtime",
        "TMPDIR": ".tmp",
    }.items():
        directory = home / name
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        monkeypatch.setenv(variable, str(directory))
    for name in (".config", ".cache", ".local/share", ".local/state", ".runtime"):
        # Ours are made when a mount would let a payload make them, and stay: no leak.
        (home / name / "sandbox").mkdir(mode=0o700, exist_ok=True)
    (home / ".local/state/sandbox/scratch").mkdir(mode=0o700, exist_ok=True)
    monkeypatch.setattr(tempfile, "tempdir", None)
    return home


@pytest.fixture(autouse=True)
def leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test marked `integration` gets a home of its own and fails when anything outlives it."""
    if request.node.get_closest_marker("integration") is None:
        yield
        return
    request.getfixturevalue("helper")
    home: Path = request.getfixturevalue("tmp_home")
    watched = (home / ".tmp", home / ".runtime", home / ".local" / "state" / "sandbox" / "scratch")
    before = leak_check.State.take(watched)
    yield
    broker.stop()  # this process's own is kept between launches
    left = leak_check.left_since(before, watched)
    if leak_check.only_cgroups(left):  # the test killed a supervisor
        sandbox.run(["true"], profile="untrusted", cwd="/usr")
        broker.stop()
        left = leak_check.left_since(before, watched)
    if left:
        pytest.fail("left behind:\n" + "\n".join(left), pytrace=False)


@pytest.fixture
def sandbox_cmd(helper: Path, tmp_home: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `python -m sandbox ARGUMENTS`: output captured as text, stdin empty, bounded in time.

    Keywords go to subprocess.run; `env` is added to the environment, and None removes a variable.
    """

    def run(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        for name, value in dict(options.pop("env", None) or {}).items():  # type: ignore[call-overload]
            environ.pop(name, None)
            if value is not None:
                environ[name] = value
        settings: dict[str, object] = {"capture_output": True, "text": True, "timeout": COMMAND_TIMEOUT}
        if "input" not in options:
            settings["stdin"] = subprocess.DEVNULL
        settings.update(options)
        if "stdout" in options or "stderr" in options:
            settings.pop("capture_output")
        command = [sys.executable, "-m", "sandbox", *map(str, arguments)]
        return subprocess.run(command, env=environ, **settings)  # type: ignore[call-overload, no-any-return]

    return run
