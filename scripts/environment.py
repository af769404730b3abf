"""Makes virtual environments where little is installed, for scripts/sandbox and scripts/test.

    environment.py checkout ROOT HOME      what scripts/sandbox needs to run the checkout ROOT, in HOME
    environment.py tests ROOT HOME         the checkout's dependencies and those of its tests, in HOME

HOME then holds `venv`, `site` (the dependencies) and, last of all, `stamp`: a set-up that was
interrupted has no stamp and is redone. Two at once wait for each other. Nothing outside HOME is
written, but for the helper of a checkout that is the caller's own. Needs no root, no pip, no
ensurepip and no C compiler; progress goes to stderr. Standard library only.
"""

from __future__ import annotations

import compileall
import contextlib
import fcntl
import glob
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import venv
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import build_helper

# Where distributions that cut pip out of their Python keep its wheel (Debian: python3-pip-whl).
WHEEL_DIRECTORIES = ("/usr/share/python-wheels", "/usr/share/python3-wheels")
WAITED = 3  # exit status: look again


class SetupFailed(Exception):
    """The environment could not be made; the text says why and what mends it."""


def say(text: str) -> None:
    print(f"sandbox: {text}", file=sys.stderr, flush=True)


def run(command: list[str], what: str, **options: object) -> None:
    """Run a command without output; its last lines are the reason if it fails."""
    done = subprocess.run(  # type: ignore[call-overload]
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )
    if done.returncode != 0:
        reason = "\n".join(done.stdout.strip().splitlines()[-12:])
        raise SetupFailed(f"cannot {what}:\n{reason}\n  the command was: {shlex.join(command)}")


# --- pip, wherever it is ---------------------------------------------------------------------


def origin_of(module: str) -> str | None:
    """Where *module* would be imported from; None where this Python has no such module."""
    spec = importlib.util.find_spec(module)
    return spec.origin if spec else None


def bundled_wheel() -> str | None:
    """The wheel of pip that came with this Python, or with the distribution."""
    directories = [*WHEEL_DIRECTORIES]
    if origin := origin_of("ensurepip"):
        directories.insert(0, str(Path(origin).parent / "_bundled"))
    for directory in directories:
        if wheels := sorted(glob.glob(f"{glob.escape(directory)}/pip-*.whl")):
            return wheels[-1]
    return None


def downloaded_wheel(scratch: Path) -> str | None:
    """The wheel of pip out of a Debian package, from the machine's own apt sources.

    `apt-get download` installs nothing and needs no root when it keeps its lists in a directory
    of the caller; the package is verified by apt as always.
    """
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return None
    for directory in ("state/lists/partial", "cache/archives/partial"):
        (scratch / directory).mkdir(parents=True)
    private = ["-q", "-o", f"Dir::State={scratch}/state", "-o", f"Dir::Cache={scratch}/cache"]
    private += ["-o", "Dir::State::status=/var/lib/dpkg/status", "-o", "APT::Sandbox::User="]
    say("downloading pip with apt-get (nothing is installed)")
    try:
        run(["apt-get", *private, "update"], "read the apt sources")
        run(["apt-get", *private, "download", "python3-pip-whl"], "download python3-pip-whl", cwd=scratch)
        [package] = scratch.glob("python3-pip-whl*.deb")
        run(["dpkg-deb", "-x", str(package), str(scratch / "unpacked")], "unpack python3-pip-whl")
    except (SetupFailed, ValueError) as error:
        say(str(error))
        return None
    wheels = sorted(scratch.glob("unpacked/usr/share/python-wheels/pip-*.whl"))
    return str(wheels[-1]) if wheels else None


@contextlib.contextmanager
def pip(python: str) -> Iterator[list[str]]:
    """The beginning of a command line that runs pip for the interpreter *python*.

    A wheel of pip can be run as it is: its path with `/pip` appended is a program for Python.
    """
    with tempfile.TemporaryDirectory(prefix="sandbox-pip-") as scratch:
        if wheel := bundled_wheel():
            yield [python, f"{wheel}/pip"]
        elif origin_of("pip"):
            yield [sys.executable, "-m", "pip", "--python", python]
        elif wheel := downloaded_wheel(Path(scratch)):
            yield [python, f"{wheel}/pip"]
        else:
            raise SetupFailed(
                f"{sys.executable} has neither ensurepip nor pip, and none could be downloaded\n"
                "  mend: apt install python3-venv    or set PATH to a Python that has ensurepip"
            )


def install(python: str, target: Path, requirements: list[str], *options: str) -> None:
    """Install into a new directory that then takes the place of *target*; *options* are pip's."""
    fresh = target.with_name(target.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    say("installing " + ", ".join(requirements))
    with pip(python) as command:
        command += ["install", "--quiet", "--no-input", "--disable-pip-version-check"]
        command += ["--no-warn-script-location", "--target", str(fresh), *options, *requirements]
        run(command, "install the dependencies")
    replace(fresh, target)


def replace(fresh: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)


# --- the parts of HOME -----------------------------------------------------------------------


def requirements(root: Path, *groups: str) -> list[str]:
    with (root / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)
    wanted = list(project["project"]["dependencies"])
    for group in groups:
        wanted += project["dependency-groups"][group]
    return wanted


def make_venv(directory: Path, paths: list[str]) -> str:
    """A virtual environment without pip that sees *paths* (relative ones survive a move of HOME)."""
    python = directory / "bin" / "python"
    if not python.exists():  # false, too, for a link to an interpreter that is gone
        say(f"making a virtual environment in {directory}")
        venv.EnvBuilder(with_pip=False, symlinks=True, clear=True).create(directory)
    [packages] = directory.glob("lib/python3*/site-packages")
    (packages / "sandbox-checkout.pth").write_text("".join(f"{path}\n" for path in paths))
    return str(python)


def dependencies(home: Path, python: str, wanted: list[str]) -> None:
    """Install what the checkout asks for, unless HOME has just that, for the same interpreter."""
    record = home / "installed"
    key = "\n".join([os.path.realpath(python), *wanted])
    with contextlib.suppress(FileNotFoundError):
        if record.read_text() == key and (home / "site").is_dir():
            return
    record.unlink(missing_ok=True)
    install(python, home / "site", wanted)
    record.write_text(key)


def helper(root: Path, target: Path, python: str) -> None:
    if build_helper.is_fresh(root, target):
        return
    if build_helper.find_compiler():
        say("compiling the helper")
        build_helper.build(root, target)
        return
    say("no C compiler here that links static executables: taking one from the package index, for this once")
    with tempfile.TemporaryDirectory(prefix="sandbox-zig-") as scratch:
        install(python, Path(scratch, "site"), ["ziglang"])
        # Zig keeps caches; they are of no use afterwards.
        environ = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": scratch, "ZIG_LOCAL_CACHE_DIR": scratch}
        environ["PYTHONPATH"] = f"{scratch}/site{os.pathsep}{Path(__file__).resolve().parent}"
        say("compiling the helper")
        code = "import sys, build_helper as b; b.build(*map(b.Path, sys.argv[1:]), b.zig_compiler())"
        run([python, "-B", "-c", code, str(root), str(target)], "compile the helper", env=environ)


def copy_package(root: Path, target: Path) -> None:
    """A copy of the package, as a wheel would install it, for those who can't write to the checkout."""
    fresh = target.with_name(target.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    ignore = shutil.ignore_patterns("__pycache__", "_helper", "_configs")
    shutil.copytree(root / "sandbox", fresh / "sandbox", ignore=ignore)
    shutil.copytree(root / "configs", fresh / "sandbox" / "_configs")
    built = build_helper.in_place(target)
    if built.exists():
        build_helper.in_place(fresh).parent.mkdir()
        shutil.copy2(built, build_helper.in_place(fresh))
    replace(fresh, target)


# --- the two environments --------------------------------------------------------------------


def checkout(root: Path, home: Path) -> None:
    """HOME inside the checkout: everything is used where it lies. HOME elsewhere: `HOME/lib` gets a copy."""
    inside = home.parent == root
    library = root if inside else home / "lib"
    python = make_venv(home / "venv", ["../../../../site", "../../../../.." if inside else "../../../../lib"])
    dependencies(home, python, requirements(root))
    if not inside:
        copy_package(root, library)
    helper(root, build_helper.in_place(library), python)


def tests(root: Path, home: Path) -> None:
    """The checkout under test comes onto the path later; byte code is made here, for all users."""
    python = make_venv(home / "venv", ["../../../../site"])
    dependencies(home, python, requirements(root, "tests", "dev"))
    compileall.compile_dir(home / "site", quiet=2, workers=0)


def make(kind: str, root: Path, home: Path) -> int:
    """Returns 0, or `WAITED` when another process held the lock: its work may be all that was wanted."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another process that is setting up")
            fcntl.flock(file, fcntl.LOCK_EX)
            return WAITED
        stamp = home / "stamp"
        stamp.unlink(missing_ok=True)
        began = time.time_ns()  # an edit during the set-up is newer than the stamp
        {"checkout": checkout, "tests": tests}[kind](root, home)
        partial = home / "stamp.new"
        partial.touch()
        os.utime(partial, ns=(began, began))
        partial.rename(stamp)
    return 0


def main() -> int:
    kind, root, home = sys.argv[1:]
    try:
        return make(kind, Path(root), Path(home))
    except (SetupFailed, build_helper.BuildError) as error:
        say(f"cannot set up: {error}")
        return 125
    except OSError as error:
        say(f"cannot set up: {error}\n  mend: make {home} writable and make sure that its disk is not full")
        return 125
    except KeyboardInterrupt:
        say("interrupted; the next start begins again")
        return 130


if __name__ == "__main__":
    sys.exit(main())
