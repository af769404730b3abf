"""The rows of `doctor` about programs and devices that some profiles use: FUSE, tun, pasta,
slirp4netns, nftables. Each is opened or started here; nothing of this is needed for a launch.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence

from sandbox.host.causes import options
from sandbox.host.model import Check, Network

__all__ = [
    "PASTA_DATE",
    "Runner",
    "fuse",
    "network",
    "nft",
    "output",
    "pasta",
    "pasta_date",
    "slirp4netns",
    "tun",
]

#: The pasta that `net.backend = "auto"` takes: with --map-host-loopback and --map-guest-addr.
PASTA_DATE = "2024-08"

_TIMEOUT = 10.0  # seconds, for a program to print its version

#: Runs a program; (exit status, stdout and stderr together), or None when it can't be started.
Runner = Callable[[Sequence[str]], "tuple[int, str] | None"]


def output(args: Sequence[str]) -> tuple[int, str] | None:
    """Run a program that exists on this machine, as `Runner` says; one that hangs has not started."""
    path = shutil.which(args[0]) or shutil.which(args[0], path="/usr/sbin:/sbin:/usr/local/sbin")
    if path is None:
        return None
    try:
        done = subprocess.run(
            [path, *args[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_environment(),
            timeout=_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.returncode, done.stdout.decode(errors="replace")


def _environment() -> dict[str, str]:
    """What such a program gets of the caller's environment: what plans may depend on, and no LD_PRELOAD."""
    environ = os.environ
    found = {
        "DBUS_SESSION_BUS_ADDRESS": environ.get("DBUS_SESSION_BUS_ADDRESS", ""),
        "HOME": environ.get("HOME", ""),
        "PATH": environ.get("PATH", ""),
        "XDG_RUNTIME_DIR": environ.get("XDG_RUNTIME_DIR", ""),  # where the user's systemd is asked
    }
    return {"LC_ALL": "C", **{name: value for name, value in found.items() if value}}


def _version(text: str) -> str:
    """The first thing in *text* that looks like a version, "" when there is none."""
    found = re.search(r"\d+\.\d+[\w.~+-]*", text)
    return found.group() if found else ""


def _open_device(path: str) -> str:
    """The name of the error of opening the device for reading and writing; "" when it can be."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error.errno))
    return ""


def _device_mend(path: str, problem: str, module: str, container: str) -> str:
    # udev gives both devices mode 0666
    if problem in ("EACCES", "EPERM") and not container:
        return f"sudo chmod 0666 {path}"
    if options(container, module):
        return options(container, module) + f", and in it: chmod 0666 {path}" * (problem == "EACCES")
    return f"sudo modprobe {module}\nfor good: echo {module} | sudo tee /etc/modules-load.d/{module}.conf"


def fuse(container: str, *, run: Runner = output, device: str = "/dev/fuse") -> Check:
    """/dev/fuse and fuse-overlayfs."""
    problem = _open_device(device)
    done = run(["fuse-overlayfs", "--version"])
    found = re.search(r"fuse-overlayfs: version (\S+)", done[1]) if done else None
    parts = [f"{device}: {problem or 'can be opened'}"]
    parts.append(f"fuse-overlayfs {found.group(1)}" if found else "no working fuse-overlayfs")
    mends = [_device_mend(device, problem, "fuse", container)] if problem else []
    mends += [] if found else ["sudo apt install fuse-overlayfs"]
    return Check(
        "fuse",
        not mends,
        False,
        "; ".join(parts),
        "no overlay where the kernel's can't be used (on NFS and the like)",
        "\n".join(mends),
    )


def tun(container: str, *, device: str = "/dev/net/tun") -> Check:
    """/dev/net/tun, which pasta and slirp4netns open."""
    problem = _open_device(device)
    mend = _device_mend(device, problem, "tun", container) if problem else ""
    detail = f"{device}: {problem or 'can be opened'}"
    return Check("tun", not problem, False, detail, 'no `net = "user"`', mend)


def pasta_date(text: str) -> str:
    """The month of a build ("2024-08" of "pasta 2024_08_21.1d6142f" or of "0.0~git20240821.1d6142f-1"),
    "" when it isn't told."""
    found = re.search(r"(20\d\d)_(\d\d)_\d\d", text) or re.search(r"git(20\d\d)(\d\d)\d\d", text)
    return "-".join(found.groups()) if found else ""


def pasta(*, run: Runner = output) -> Check:
    """pasta, new enough for `auto`. Some distributions' builds don't know their own version: those
    are asked for an option that came with 2024-08."""
    done = run(["pasta", "--version"])
    lines = done[1].strip().splitlines() if done else []
    first = next(filter(pasta_date, lines), lines[0] if lines else "")
    date = pasta_date(first)
    usage = run(["pasta", "--help"]) if done and not date else None
    new = date >= PASTA_DATE if date else bool(usage and "--map-guest-addr" in usage[1])
    if not done:
        detail = "not installed"
    elif date:
        detail = first
    else:
        detail = f"{first or 'pasta'}; by its options {'not ' * (not new)}{PASTA_DATE} or newer"
    return Check(
        "pasta",
        new,
        False,
        detail,
        f'`net = "user"` takes slirp4netns instead: `auto` takes pasta from {PASTA_DATE} on',
        "" if new else f"sudo apt install passt  (of {PASTA_DATE} or newer, as in Debian 13)",
    )


def slirp4netns(*, run: Runner = output) -> Check:
    """slirp4netns, with what it was built with."""
    done = run(["slirp4netns", "--version"])
    found = re.search(r"slirp4netns version (\S+)", done[1]) if done else None
    library = re.search(r"libslirp: (\S+)", done[1]) if done else None
    detail = f"slirp4netns {found.group(1)}" if found else "not installed"
    if library:
        detail += f", libslirp {library.group(1)}"
    mend = "" if found else "sudo apt install slirp4netns"
    consequence = 'no `net = "user"` where pasta is missing or old'
    return Check("slirp4netns", bool(found), False, detail, consequence, mend)


def nft(*, run: Runner = output) -> Check:
    """nftables: the program, and a kernel that takes a table in a namespace of ours."""
    done = run(["nft", "--version"])
    found = bool(done and done[0] == 0)
    mend = "" if found else "sudo apt install nftables"
    detail = f"nft {_version(done[1])}" if found and done else "not installed"
    unshare = ["unshare", "--user", "--map-root-user", "--net"]
    tried = None
    if found and run([*unshare, "true"]) == (0, ""):
        tried = run([*unshare, "nft", "add table inet t"])
    if tried and tried[0] != 0:
        mend = "sudo modprobe nf_tables  (or a kernel with CONFIG_NF_TABLES_INET)"
        detail += f"; the kernel takes no table: {' '.join(tried[1].split())[:200]}"
    elif tried:
        detail += "; a table can be made in a namespace"
    return Check("nft", not mend, False, detail, 'no `net = "user"`: nothing keeps it from the host', mend)


def network(found: Network) -> Check:
    """What `net.backend = "auto"` takes here, and why. *found* is `sandbox.host.network.discover("auto")`."""
    if found.reason:
        detail = found.reason
    elif found.backend == "pasta":
        detail = f"{found.path}, of {PASTA_DATE} or newer"
    elif found.old:
        detail = f"{found.path}; {found.old} is older than {PASTA_DATE}"
    else:
        detail = f"{found.path}; pasta is not installed"
    return Check("net-user", not found.reason, False, detail, 'no `net = "user"`', found.mend)
