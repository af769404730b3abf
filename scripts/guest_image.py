"""Makes and finds the disk of the guest that scripts/vm boots. Standard library only.

A Debian system with systemd, the modules of the user-mode Linux kernel and the Python packages of
the tests, as one ext4 file. It is made once for each set of inputs and never written afterwards:
every guest has a copy-on-write file of its own. Root's is shared with everybody.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import environment

SHARED = Path("/var/cache/sandbox-test/guest")
MODULES = Path("/usr/lib/uml/modules")
#: program -> the Debian package that has it
PROGRAMS = {
    "linux.uml": "user-mode-linux",
    "mke2fs": "e2fsprogs",
    "unshare": "util-linux",
    "setpriv": "util-linux",
}
BUILD_PROGRAMS = {"mmdebstrap": "mmdebstrap", "gcc": "gcc libc6-dev"}
#: of scripts/guest, what decides what is in an image
INPUTS = ("packages", "build", "delegate", "xstate.c")
#: how many images stay when a new one is made: other checkouts may want theirs
KEPT = 3
#: wheels for Debian 12, whatever the Python of this machine is
PIP_OPTIONS = (
    "--only-binary=:all:",
    "--python-version=3.11",
    "--platform=manylinux2014_x86_64",
    "--platform=manylinux_2_28_x86_64",
)


class GuestError(Exception):
    """There is no guest to be had; the text says why and what mends it."""


def say(text: str) -> None:
    print(f"scripts/vm: {text}", file=sys.stderr, flush=True)


def program(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")


def require(programs: dict[str, str]) -> None:
    """Raises GuestError with the packages to install unless all *programs* are there."""
    missing = {name: package for name, package in programs.items() if not program(name)}
    if missing:
        packages = " ".join(sorted(set(missing.values())))
        raise GuestError(f"not installed: {', '.join(sorted(missing))}\n  mend: apt install {packages}")


def kernel_version() -> str:
    asked = ["linux.uml", "--version"]
    version = subprocess.run(asked, stdin=subprocess.DEVNULL, capture_output=True, text=True).stdout.strip()
    if not (MODULES / version / "modules.dep").is_file():
        raise GuestError(
            f"the user-mode kernel {version or '?'} has no modules in {MODULES}\n"
            "  mend: apt install --reinstall user-mode-linux"
        )
    return version


def packages(root: Path) -> list[str]:
    lines = (root / "scripts/guest/packages").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def key(root: Path) -> str:
    """Names an image: everything that decides what is in it."""
    kernel = os.stat(program("linux.uml") or "linux.uml")
    parts = [
        *((root / "scripts/guest" / name).read_text() for name in INPUTS),
        *environment.requirements(root, "tests"),
        *PIP_OPTIONS,
        f"{kernel_version()} {kernel.st_size} {int(kernel.st_mtime)}",
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def preloaded(disk: Path) -> Path:
    """The library that the kernel for this *disk* is started with: scripts/guest/xstate.c."""
    return disk.with_suffix(".so")


def own_cache() -> Path:
    if os.geteuid() == 0:
        return SHARED
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home, "sandbox-test", "guest")


def image(root: Path) -> Path:
    """The guest's disk for the checkout *root*; made, which takes about half a minute, if there is none.

    Raises:
        GuestError: something is not installed, or the system could not be made.
    """
    require(PROGRAMS)
    name = f"{key(root)}.ext4"
    for directory in (SHARED, own_cache()):
        if (directory / name).is_file():
            return directory / name
    require(BUILD_PROGRAMS | ({} if os.geteuid() == 0 else {"newuidmap": "uidmap"}))
    target = own_cache() / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.parent):
        if not target.is_file():
            make(root, target)
    return target


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    with (directory / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another process that makes the guest's disk")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def make(root: Path, target: Path) -> None:
    """With the lock held: what others left unfinished goes, and *target* appears when it is whole."""
    for leftover in target.parent.glob("making-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    say("making the guest's disk, for this once")
    scratch = Path(tempfile.mkdtemp(prefix="making-", dir=target.parent))
    try:
        site, fresh = scratch / "site", scratch / "disk"
        # Without markers: pip would judge them by the Python that runs it.
        wanted = [line.partition(";")[0] for line in environment.requirements(root, "tests")]
        environment.install(sys.executable, site, wanted, *PIP_OPTIONS)
        build(root, scratch, site, fresh)
        compile_preloaded(root, preloaded(target))
        fresh.chmod(0o444)
        with fresh.open("rb") as file:
            os.fsync(file.fileno())
        fresh.rename(target)
    except environment.SetupFailed as error:
        raise GuestError(str(error)) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    images = sorted(target.parent.glob("*.ext4"), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in images[KEPT:]:
        old.unlink(missing_ok=True)
        preloaded(old).unlink(missing_ok=True)


def compile_preloaded(root: Path, target: Path) -> None:
    source = root / "scripts/guest/xstate.c"
    flags = ("-std=gnu11", "-D_GNU_SOURCE", "-O2", "-shared", "-fPIC")
    command = ["gcc", *flags, str(source), "-o", str(target)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise GuestError(f"{source} does not compile:\n{done.stderr}  mend: apt install gcc libc6-dev")


def build(root: Path, scratch: Path, site: Path, fresh: Path) -> None:
    """Run scripts/guest/build in namespaces that end with it, and with us."""
    mount = scratch / "mount"
    mount.mkdir()
    version = kernel_version()
    command = [*contained(ids=os.geteuid() != 0), "--mount", "sh", str(root / "scripts/guest/build")]
    command += [",".join(packages(root)), *map(str, (site, MODULES / version, mount, fresh))]
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    environ = {**os.environ, "KERNEL": version, "LC_ALL": "C.UTF-8", "PATH": path}
    with (scratch / "log").open("w+") as log:
        done = subprocess.run(command, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/")
        if done.returncode != 0:
            log.seek(0)
            lines = "".join(log.readlines()[-25:])
            raise GuestError(f"the guest's disk could not be made:\n{lines}  mend: see the lines above")


def contained(*, ids: bool) -> list[str]:
    """The beginning of a command line whose processes all end when this process does, however it ends.

    The kernel ends the first process of a pid namespace with its parent (PR_SET_PDEATHSIG), and
    with it all others. *ids*: in a user namespace with this user's range, where it is root.
    """
    command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child"]
    return [*command, "--map-root-user", "--map-auto"] if ids else command
