"""A full disk under every verb that writes to the image store: one clear error, nothing is left, and the same
command works once there is room. (Pulling: test_registries.py.)"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.image.conftest import rootfs
from tests.conftest import ROOT

pytestmark = [pytest.mark.integration]

#: In namespaces of its own: the store on a tmpfs with half a megabyte to spare, then with enough. No range of
#: ids is left there, and that is told: `-q` or not, stderr has it.
SCRIPT = """
sandbox() { "$PYTHON" -m sandbox "$@"; }
files() { (cd "$XDG_DATA_HOME" && find . -type f -size +32k -o -path '*/work/*' | sort); }
mount -t tmpfs -o size=64m none "$XDG_DATA_HOME"
sandbox image import -q base.tar base:1
[ -z "$BEFORE" ] || sandbox run --image base:1 --name k --keep -- sh -c "$BEFORE"
before=$(files)
used=$(df -k --output=used "$XDG_DATA_HOME" | tail -n 1)
mount -o remount,size=$((used + 500))k "$XDG_DATA_HOME"
sandbox "$@" > said 2>&1; echo $?
[ "$(files)" = "$before" ]; echo $?
mount -o remount,size=64m "$XDG_DATA_HOME"
sandbox "$@" > again 2>&1; echo $?
sandbox image inspect x > inspected 2>&1; echo $?
"""
FILL = "busybox head -c 3000000 /dev/urandom > /x"


@pytest.mark.parametrize(
    ("words", "before", "status", "said"),
    [
        ("image import big.tar x", "", "125", "cannot store a layer: No space left on device ({store}/"),
        ("image import zero.tar x", "", "125", "cannot unpack zero: No space left on device"),
        (
            "build -f copy -t x .",
            "",
            "125",
            "copy:2:1: cannot store a layer: No space left on device ({store}/",
        ),
        ("build -f run -t x .", "", "1", "mend: {store} has "),
        (
            "build -f fits -t x .",
            "",
            "125",
            "fits:2:1: cannot store a layer: No space left on device ({store}/",
        ),
        ("commit k x", FILL, "125", "cannot store a layer: No space left on device ({store}/"),
    ],
)
def test_a_full_disk(
    work: Path, tmp_home: Path, need: Callable[..., None], words: str, before: str, status: str, said: str
) -> None:
    need("userns", "plain user", "busybox")
    noise = os.urandom(3 << 20)
    (work / "big").write_bytes(noise)
    rootfs(work / "big.tar", {"big": noise})
    rootfs(work / "zero.tar", {"zero": bytes(3 << 20)})
    base = work / "base/bin"
    base.mkdir(parents=True)
    shutil.copy("/bin/busybox", base)
    (base / "sh").symlink_to("busybox")
    subprocess.run(["tar", "-C", work / "base", "-cf", work / "base.tar", "."], check=True)
    (work / "copy").write_text("FROM base:1\nCOPY big /x\n")
    (work / "run").write_text(f"FROM base:1\nRUN {FILL}\n")
    (work / "fits").write_text("FROM base:1\nRUN busybox head -c 400000 /dev/urandom > /x\n")
    data = tmp_home / ".local/share"
    environ = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "BEFORE": before}
    within = ["unshare", "--user", "--map-current-user", "--keep-caps", "--mount", "sh", "-c", SCRIPT, "sh"]
    done = subprocess.run(
        [*within, *words.split()],
        env={**environ, "XDG_DATA_HOME": str(data)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    told = (work / "said").read_text()
    assert done.stdout.split()[-4:] == [status, "0", "0", "0"], (done, told, (work / "again").read_text())
    assert said.format(store=data / "sandbox/images") in told
    assert "sandbox image prune" in told and "Traceback" not in told
