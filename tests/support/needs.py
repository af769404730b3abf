"""What a test needs of the machine.

On a user's own machine a test that can't run is skipped, with the reason. In CI everything
is there, made so by scripts/test, and what is missing is a failure: a skip would hide it.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

IN_CI = bool(os.environ.get("CI"))
CORE_PATTERN = Path("/proc/sys/kernel/core_pattern")


def need(*things: str) -> None:
    """Skip the running test, or fail it in CI, unless all of *things* are there.

    Each is a name of `CHECKS`, or of a program on PATH.
    """
    for thing in things:
        reason = missing(thing)
        if reason and IN_CI and thing not in IDENTITIES:
            pytest.fail(f"CI must have {thing}: {reason}", pytrace=False)
        if reason:
            pytest.skip(f"{thing}: {reason}")


@functools.cache
def missing(thing: str) -> str:
    """Why *thing* can't be used here, or ""."""
    if thing in CHECKS:
        return CHECKS[thing]()
    search = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    return "" if shutil.which(thing, path=search) else f"no {thing} on PATH"


def _userns() -> str:
    """Really made, since five different switches can forbid it."""
    command = ["unshare", "--user", "--map-root-user", "true"]
    done = subprocess.run(command, capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stderr.strip() or "refused"


def _idrange() -> str:
    """newuidmap, newgidmap, and a range for this user in both files."""
    import pwd

    user = pwd.getpwuid(os.getuid()).pw_name
    for program in ("newuidmap", "newgidmap"):
        if not shutil.which(program):
            return f"no {program} on PATH"
    for path in ("/etc/subuid", "/etc/subgid"):
        try:
            with open(path) as file:
                owners = [line.partition(":")[0] for line in file]
        except OSError as error:
            return str(error)
        if user not in owners and str(os.getuid()) not in owners:
            return f"{path} has no range for {user}"
    return ""


def _device(path: str) -> Callable[[], str]:
    return lambda: (
        "" if os.access(path, os.R_OK | os.W_OK) else f"{path} can't be opened for reading and writing"
    )


def _library(name: str) -> Callable[[], str]:
    def check() -> str:
        import ctypes.util

        return "" if ctypes.util.find_library(name) else f"no lib{name}"

    return check


#: what CI has both of, one after the other
IDENTITIES = ("root", "plain user")

CHECKS: dict[str, Callable[[], str]] = {
    "userns": _userns,
    "idrange": _idrange,
    "core_pattern": lambda: "" if os.access(CORE_PATTERN, os.W_OK) else f"{CORE_PATTERN} can't be written",
    "fuse": _device("/dev/fuse"),
    "tun": _device("/dev/net/tun"),
    "libseccomp": _library("seccomp"),
    "root": lambda: "" if os.geteuid() == 0 else "not running as root",
    "plain user": lambda: "" if os.geteuid() != 0 else "running as root",
}
