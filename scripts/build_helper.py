"""Compiles helpers/*.c into one static executable. Standard library only.

Used by the build hook (hatch_build.py), by the set-up of a checkout (environment.py), by the
tests and by hand: `python3 scripts/build_helper.py`. It decides which compiler does the work
and when there is nothing to do; it installs nothing.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FLAGS = ("-std=gnu11", "-D_GNU_SOURCE", "-O2", "-static", "-s", "-Wall", "-Wextra")
COMPILERS = ("cc", "gcc", "clang")
PROBE = '#include <stdio.h>\nint main(void) { return printf("") < 0; }\n'


class BuildError(Exception):
    """The helper could not be compiled; the text says why and what mends it."""


def in_place(root: Path) -> Path:
    """Where the helper of a checkout (and of an editable install) lies."""
    return root / "sandbox" / "_helper" / "sandbox-helper"


def sources(root: Path) -> list[Path]:
    found = sorted((root / "helpers").glob("*.c"))
    if not found:
        raise BuildError(f"no C sources in {root / 'helpers'}: this tree is incomplete, get a whole one")
    return found


def is_fresh(root: Path, target: Path) -> bool:
    """Whether *target* is newer than everything it is made from (the directory tells of removed files)."""
    try:
        built = target.stat().st_mtime_ns
    except FileNotFoundError:
        return False
    headers = (root / "helpers").glob("*.h")
    inputs = [*sources(root), *headers, root / "helpers", Path(__file__)]
    return all(path.stat().st_mtime_ns < built for path in inputs)


def links_statically(compiler: list[str]) -> bool:
    """Try it: many systems have a compiler but no static C library."""
    with tempfile.TemporaryDirectory(prefix="sandbox-cc-") as scratch:
        source = Path(scratch, "probe.c")
        source.write_text(PROBE)
        command = [*compiler, *FLAGS, str(source), "-o", str(Path(scratch, "probe"))]
        try:
            return subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL).returncode == 0
        except OSError:
            return False


def find_compiler() -> list[str] | None:
    """The machine's own compiler as an argument list: $CC, else cc, gcc or clang; None where none will do."""
    wanted = os.environ.get("CC")
    for candidate in [shlex.split(wanted)] if wanted else [[name] for name in COMPILERS]:
        if candidate and shutil.which(candidate[0]) and links_statically(candidate):
            return candidate
    return None


def zig_compiler() -> list[str] | None:
    """The compiler of the `ziglang` distribution, if this interpreter has it. It brings its own C library."""
    if importlib.util.find_spec("ziglang") is None:
        return None
    return [sys.executable, "-m", "ziglang", "cc", "-target", f"{platform.machine()}-linux-musl"]


def build(root: Path, target: Path, compiler: list[str] | None = None) -> None:
    """Compile to *target*, which is replaced at once: running sandboxes and other builds don't notice.
    It is as old as the beginning, so that what was edited meanwhile, and may be half in it, is newer.

    Raises:
        BuildError: there is no compiler, or it failed.
    """
    compiler = compiler or find_compiler() or zig_compiler()
    if compiler is None:
        raise BuildError(
            "no C compiler that can link a static executable was found ($CC, cc, gcc, clang)\n"
            "  mend: apt install gcc libc6-dev    or: python3 -m pip install ziglang"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(prefix=".sandbox-helper.", dir=target.parent)
    began = os.fstat(handle).st_mtime_ns  # by the file system's clock, as edits are
    os.close(handle)
    try:
        command = [*compiler, *FLAGS, *map(str, sources(root)), "-o", scratch]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            raise BuildError(f"{shlex.join(command)}\n{done.stderr.rstrip()}")
        os.chmod(scratch, 0o755)
        os.utime(scratch, ns=(began, began))
        os.replace(scratch, target)
    finally:
        Path(scratch).unlink(missing_ok=True)


def main() -> int:
    root = Path(__file__).resolve().parent.parent
    target = in_place(root)
    if not is_fresh(root, target):
        try:
            build(root, target)
        except BuildError as error:
            print(f"build_helper: {error}", file=sys.stderr)
            return 1
    print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
