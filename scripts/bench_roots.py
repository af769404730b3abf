"""scripts/bench image, its part about roots: how long a sandbox takes to start on 1, 10, 100 and 500 layers.

Whole runs of `true` by the API, with a root of directories as layers, and changes in memory; for the kernel's
overlays and for fuse-overlayfs, in turns.
"""

from __future__ import annotations

import os
import shutil
import statistics
import time
from pathlib import Path

__all__ = ["COUNTS", "starts"]

COUNTS = (1, 10, 100, 500)
DRIVERS = ("overlay", "fuse-overlayfs")


def starts(top: Path, times: int) -> dict[str, float]:
    """The median of *times* starts for each number of layers and each driver that is here, in seconds by
    name; layers are made in *top*."""
    import sandbox

    layers = _layers(top / "layers", max(COUNTS))
    drivers = [each for each in DRIVERS if each == "overlay" or shutil.which(each)]
    taken: dict[str, list[float]] = {}
    for _ in range(times + 1):  # the first one plans, and is left out
        for count in COUNTS:
            for driver in drivers:
                began = time.perf_counter()
                done = sandbox.run(
                    ["/bin/busybox", "true"],
                    profile="untrusted",
                    root="empty",
                    layers=layers[:count],
                    driver=driver,
                    writable="memory",
                    cwd="/usr",
                )
                taken.setdefault(f"start {driver} {count}", []).append(time.perf_counter() - began)
                if not done.ok:
                    raise RuntimeError(f"{count} layers by {driver}: {done.message or done.stderr!r}")
    return {name: statistics.median(each[1:]) for name, each in taken.items()}


def _layers(top: Path, count: int) -> list[str]:
    """Directories with a file each; the lowest has busybox."""
    busybox = shutil.which("busybox")
    if busybox is None:
        raise RuntimeError("there is no busybox; mend: apt install busybox-static")
    for number in range(count):
        (top / f"{number}" / "etc").mkdir(parents=True, exist_ok=True)
        (top / f"{number}" / "etc" / f"layer{number}").write_text("")
    (top / "0" / "bin").mkdir(exist_ok=True)
    shutil.copy(os.path.realpath(busybox), top / "0" / "bin" / "busybox")
    return [str(top / f"{number}") for number in range(count)]
