"""A payload that would leave its cgroup or raise its limits, also without nsdelegate; sandboxes inside it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sandbox
from tests.vm.limits import HOGS, PLAIN, PYTHON, ROOT, TOP, M, no_broker, python

__all__ = ["no_broker"]


pytestmark = [pytest.mark.guest, pytest.mark.integration]
if not os.path.isdir("/run/systemd/system"):
    pytest.skip("only in the guest of scripts/vm", allow_module_level=True)


ESCAPE = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def attempt(what, act):
    try:
        act()
    except OSError as error:
        print(what, error.errno)
    else:
        print(what, "worked")
def write(path, text):
    with open(path, "w", 0 if "b" in "w" else 1) as file:
        file.write(text)
top = "/sys/fs/cgroup"
for name in ("memory.max", "pids.max", "cgroup.procs", "cgroup.subtree_control", "cgroup.freeze"):
    attempt(name, lambda: write(f"{top}/{name}", "max"))
attempt("mkdir", lambda: os.mkdir(f"{top}/mine"))
attempt("above", lambda: write(f"{top}/../cgroup.procs", "0"))
def mount():
    if libc.mount(b"x", b"/tmp", b"cgroup2", 0, None) != 0:
        raise OSError(ctypes.get_errno(), "mount")
attempt("mount", mount)
attempt("read above", lambda: os.listdir("/tmp/../sys/fs/cgroup/../../fs/cgroup/system.slice"))
"""


@pytest.fixture(params=["nsdelegate", "plain"])
def tree(request: pytest.FixtureRequest) -> Iterator[None]:
    """The machine's mount of cgroup v2, with and without nsdelegate."""
    if request.param == "nsdelegate":
        yield
        return
    subprocess.run(["sudo", "mount", "-o", "remount,rw", "-t", "cgroup2", "none", TOP], check=True)
    assert (
        "nsdelegate"
        not in subprocess.run(["findmnt", "-no", "OPTIONS", TOP], capture_output=True, text=True).stdout
    )
    yield
    subprocess.run(["sudo", "mount", "-o", "remount,rw,nsdelegate", "-t", "cgroup2", "none", TOP], check=True)


@pytest.mark.usefixtures("tree")
def test_a_payload_of_our_own_uid_gets_at_nothing() -> None:
    result = python(ESCAPE, user="keep", **PLAIN)
    assert result.verdict == "ok", result.stderr
    assert "worked" not in result.stdout, result.stdout


@pytest.mark.usefixtures("tree")
def test_a_nested_payload_raises_no_limit_of_ours() -> None:
    """It may write in its own cgroup, the top of what it sees; the limits are one above."""
    code = (
        "import os\n"
        "for name in ('memory.max', 'memory.high', 'pids.max', 'memory.swap.max'):\n"
        "    try: open('/sys/fs/cgroup/' + name, 'w').write('max')\n"
        "    except OSError: pass\n"
        "open('/sys/fs/cgroup/main/cgroup.procs').read()\n"
        "os.mkdir('/sys/fs/cgroup/b'); open('/sys/fs/cgroup/b/cgroup.procs', 'w').write('0')\n"
        + HOGS["anonymous"]
    )
    result = python(code, profile="base", user="keep", nested=True, memory="64M")
    assert (result.verdict, result.usage.memory_peak) == ("memory", 64 * M), result.stderr


def test_sandboxes_inside_have_limits_below_ours(tmp_path: Path) -> None:
    inner = f"cd {ROOT} && HOME=/tmp PYTHONPATH=. {sys.executable} -B -m sandbox run -p base"
    script = (
        f"{inner} -m 32M -- {PYTHON} -c '{HOGS['anonymous']}'; echo $?; "
        f"{inner} -m 512M -- {PYTHON} -c '{HOGS['anonymous']}'; echo not reached"
    )
    options = {"nested": True, "memory": "160M", "binds": [f"{ROOT}:{ROOT}:ro"], "profile": "base"}
    result = sandbox.run(["sh", "-c", script], text=True, **options)
    assert result.stdout == "137\n", result.stderr
    assert "memory limit 32M" in result.stderr
    assert result.verdict == "memory" and result.limit is not None and result.limit.value == 160 * M
