"""scripts/sandbox: the command from a checkout, on a machine where nothing was prepared."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.packaging.copies import QUICK, ROOT, STUCK, compiler, copy_tree, wheel_of

pytestmark = pytest.mark.integration

Environ = dict[str, str]


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheels")
    for name in ("tomli", "platformdirs", "urllib3"):
        wheel_of(name, directory)
    return directory


def environ_of(directory: Path, wheels: Path, compiled: Path) -> Environ:
    """`python3` is the interpreter of the tests, for which the wheels are."""
    programs = directory / "bin"
    programs.mkdir()
    (programs / "python3").symlink_to(os.path.realpath(sys.executable))
    compiler(programs, QUICK, compiled)
    path = f"{programs}:/usr/local/bin:/usr/bin:/bin"
    scratch = directory / "scratch"  # what is killed leaves its temporary files here, and may
    scratch.mkdir()
    return {
        **os.environ,
        "TMPDIR": str(scratch),
        "PATH": path,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
        "PIP_CONFIG_FILE": os.devnull,
    }


@pytest.fixture
def environ(tmp_path: Path, tmp_home: Path, wheels: Path, compiled: Path) -> Environ:
    return environ_of(tmp_path, wheels, compiled)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return copy_tree(tmp_path / "my checkout")


@pytest.fixture(scope="session")
def set_up_once(tmp_path_factory: pytest.TempPathFactory, wheels: Path, compiled: Path) -> Path:
    directory = tmp_path_factory.mktemp("checkout")
    tree = copy_tree(directory / "tree")
    assert worked(command(tree / "scripts" / "sandbox", environ_of(directory, wheels, compiled)))
    return tree


@pytest.fixture
def ready(tmp_path: Path, environ: Environ, set_up_once: Path) -> Path:
    """A checkout that has set itself up, and was moved here."""
    return Path(shutil.copytree(set_up_once, tmp_path / "my checkout", symlinks=True))


def command(program: Path | str, environ: Environ, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [program, "--version"],
        env=environ,
        text=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
        **options,
    )


def worked(done: subprocess.CompletedProcess[str]) -> bool:
    assert done.returncode == 0, done.stderr
    return re.fullmatch(r"sandbox \d+\.\d+\.\d+\n", done.stdout) is not None


def set_up_steps(done: subprocess.CompletedProcess[str]) -> list[str]:
    return re.findall(r"^sandbox: (making|installing|compiling)", done.stderr, re.MULTILINE)


def test_sets_itself_up_once(checkout: Path, environ: Environ) -> None:
    first = command(checkout / "scripts" / "sandbox", environ)
    assert worked(first)
    assert set_up_steps(first) == ["making", "installing", "compiling"]
    second = command(checkout / "scripts" / "sandbox", environ)
    assert worked(second)
    assert second.stderr == ""


def test_from_anywhere_and_through_links(ready: Path, environ: Environ, tmp_path: Path) -> None:
    link = tmp_path / "bin" / "sandbox"
    link.symlink_to("../my checkout/scripts/sandbox")
    other = tmp_path / "bin" / "other"
    other.symlink_to(link)
    for call, cwd in (
        ("scripts/sandbox", ready),
        ("./sandbox", ready / "scripts"),
        ("../scripts/sandbox", ready / "helpers"),
        (f"{ready}/helpers/../scripts/sandbox", Path("/")),
        (str(link), Path("/")),
        (str(other), Path("/")),
        ("sandbox", Path("/")),
    ):
        # A shell, so that PATH is the one in `environ`.
        done = subprocess.run(
            ["/bin/sh", "-c", 'exec "$0" --version', call],
            cwd=cwd,
            env=environ,
            capture_output=True,
            text=True,
        )
        assert worked(done), call
        assert done.stderr == "", call


def test_two_at_once(checkout: Path, environ: Environ) -> None:
    running = [
        subprocess.Popen(
            [checkout / "scripts" / "sandbox", "--version"],
            env=environ,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(3)
    ]
    outputs = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], outputs
    assert sum(stderr.count("compiling the helper") for _, stderr in outputs) == 1


@pytest.mark.parametrize("at", ["making", "installing", "compiling"])
def test_an_interrupted_set_up_is_redone(checkout: Path, environ: Environ, compiled: Path, at: str) -> None:
    if at == "compiling":
        compiler(checkout.parent / "bin", STUCK)
    process = subprocess.Popen(
        [checkout / "scripts" / "sandbox", "--version"],
        env=environ,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stderr
    for line in process.stderr:
        if at in line:
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.stderr.close()
    process.wait()
    compiler(checkout.parent / "bin", QUICK, compiled)
    assert not (checkout / ".sandbox-env" / "stamp").exists()
    again = command(checkout / "scripts" / "sandbox", environ)
    assert worked(again)
    assert "compiling" in set_up_steps(again)


def test_edits_are_seen(ready: Path, environ: Environ) -> None:
    program = ready / "scripts" / "sandbox"
    (ready / "helpers" / "helper.h").touch()
    assert set_up_steps(command(program, environ)) == ["compiling"]
    project = ready / "pyproject.toml"
    project.write_text(project.read_text().replace('"platformdirs>=4"', '"platformdirs>=3"'))
    assert set_up_steps(command(program, environ)) == ["installing"]
    assert command(program, environ).stderr == ""


def test_a_moved_checkout_works(checkout: Path, environ: Environ, tmp_path: Path) -> None:
    assert worked(command(checkout / "scripts" / "sandbox", environ))
    moved = checkout.rename(tmp_path / "moved")
    assert worked(command(moved / "scripts" / "sandbox", environ))
    python = moved / ".sandbox-env" / "venv" / "bin" / "python"
    code = "import sandbox, tomli; print(sandbox.__file__)"
    found = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(moved / "sandbox" / "__init__.py")


def test_an_interpreter_that_is_gone_is_replaced(ready: Path, environ: Environ) -> None:
    python = ready / ".sandbox-env" / "venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/nonexistent/python3.11")
    assert worked(command(ready / "scripts" / "sandbox", environ))


@pytest.mark.as_root
def test_a_checkout_of_another_is_left_alone(checkout: Path, environ: Environ, tmp_home: Path) -> None:
    """root's checkout used by a user: nothing is written there, edits are seen all the same."""
    if os.geteuid() == 0:
        os.chown(checkout, 12345, 12345)
    else:
        checkout.chmod(0o555)
    try:
        program = checkout / "scripts" / "sandbox"
        before = sorted(checkout.rglob("*"))
        assert worked(command(program, environ))
        assert command(program, environ).stderr == ""
        assert sorted(checkout.rglob("*")) == before
        assert list(tmp_home.glob(".cache/sandbox/checkouts/**/stamp"))
        init = checkout / "sandbox" / "__init__.py"
        init.write_text(re.sub(r"(?m)^__version__ = .*$", '__version__ = "77.0.0"', init.read_text()))
        assert command(program, environ).stdout == "sandbox 77.0.0\n"
    finally:
        checkout.chmod(0o755)


PARTS = (
    "scripts/sandbox",
    "scripts/environment.py",
    "sandbox/paths.py",
    "sandbox/_helper/sandbox-helper",
    "helpers/main.c",
    "configs/default.toml",
    "pyproject.toml",
    ".sandbox-env/stamp",
    ".sandbox-env/site/tomli/__init__.py",
    ".sandbox-env/venv/bin/python",
)
PLANT = """
for file in "$@"; do
    chmod u+w "$file" "${file%/*}"
    (echo planted >> "$file") && echo "wrote $file"
    mv "$file" "$file.old" && echo "moved $file"
    mv "${file%/*}" "${file%/*}.old" && echo "moved ${file%/*}"
done 2> /dev/null
touch "$OUTSIDE" && echo end
"""


@pytest.mark.parametrize("whose", ["own", "another's"])
def test_what_the_next_call_executes_is_protected(
    checkout: Path, environ: Environ, tmp_path: Path, need: Callable[..., None], whose: str
) -> None:
    """Also where the package is a copy: edits of the original would be taken over."""
    need("plain user")
    if whose == "another's":
        checkout.chmod(0o555)  # in it everything can be written, as where a group may
    program = checkout / "scripts" / "sandbox"
    try:
        assert worked(command(program, environ))
        copies = [path for path in (tmp_path / "home/.cache/sandbox").rglob("*") if path.is_file()]
        assert bool(copies) == (whose == "another's")
        files = [checkout / part for part in PARTS if (checkout / part).exists()]
        outside = tmp_path / "outside"
        words = ["-p", "base", "-v", f"{tmp_path}:{tmp_path}", "-e", f"OUTSIDE={outside}"]
        words += ["--", "sh", "-c", PLANT, "plant", *map(str, (*files, *copies))]
        before = {path: path.read_bytes() for path in (*files, *copies)}
        done = subprocess.run([program, "run", *words], env=environ, capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")
        assert {path: path.read_bytes() for path in before} == before
        assert outside.exists()
    finally:
        checkout.chmod(0o755)


def test_no_home_for_a_copy(checkout: Path, environ: Environ, need: Callable[..., None]) -> None:
    need("plain user")
    checkout.chmod(0o555)
    try:
        lost = {name: value for name, value in environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
        done = command(checkout / "scripts" / "sandbox", lost)
        assert done.returncode == 125
        assert "mend: set HOME" in done.stderr
    finally:
        checkout.chmod(0o755)


def test_no_python(checkout: Path, environ: Environ, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = command(checkout / "scripts" / "sandbox", {**environ, "PATH": str(tmp_path / "empty")})
    assert done.returncode == 125
    assert "no Python 3.11" in done.stderr
    assert "mend: " in done.stderr


def test_a_failing_install_says_why(checkout: Path, environ: Environ, tmp_path: Path) -> None:
    done = command(checkout / "scripts" / "sandbox", {**environ, "PIP_FIND_LINKS": str(tmp_path / "bin")})
    assert done.returncode == 125
    assert "cannot install the dependencies" in done.stderr
    assert "tomli" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (checkout / ".sandbox-env" / "stamp").exists()
    assert worked(command(checkout / "scripts" / "sandbox", environ))


def test_the_steady_path_starts_no_process(
    ready: Path, environ: Environ, tmp_path: Path, need: Callable[..., None]
) -> None:
    need("strace")
    program = ready / "scripts" / "sandbox"
    log = tmp_path / "strace"
    trace = ["strace", "-f", "-o", str(log), "-e", "trace=process", str(program), "--version"]
    assert worked(subprocess.run(trace, env=environ, capture_output=True, text=True))
    lines = log.read_text()
    assert not re.search(r"\b(fork|vfork|clone|clone3)\(", lines), lines
    assert lines.count("execve(") == 2, lines


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> object:
    """scripts/environment.py as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    import environment

    return environment


def test_without_pip_anywhere_the_mend_is_named(environment: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "bundled_wheel", lambda: None)
    monkeypatch.setattr(environment, "origin_of", lambda module: None)
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(environment.SetupFailed, match="mend: apt install python3-venv"):  # type: ignore[attr-defined]
        environment.pip("python3").__enter__()  # type: ignore[attr-defined]


def test_pip_of_the_interpreter_serves_where_no_wheel_is(
    environment: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "bundled_wheel", lambda: None)
    monkeypatch.setattr(environment, "origin_of", lambda module: "/x/pip/__init__.py")
    with environment.pip("/venv/python") as beginning:  # type: ignore[attr-defined]
        assert beginning == [sys.executable, "-m", "pip", "--python", "/venv/python"]
