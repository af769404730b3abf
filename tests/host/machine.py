"""A machine made of files, for functions that take `root`."""

from __future__ import annotations

from pathlib import Path

STATUS = "Name:\tpython3\nCapEff:\t{capabilities:016x}\nNoNewPrivs:\t{no_new_privs}\nSeccomp:\t{seccomp}\n"


class Machine:
    """A directory that looks like / to `facts`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("/proc/self/uid_map", "         0          0 4294967295\n")
        self.write("/proc/self/gid_map", "         0          0 4294967295\n")
        self.write("/proc/sys/kernel/random/boot_id", "c0ffee\n")
        self.write("/proc/sys/kernel/ostype", "Linux\n")
        self.write("/proc/sys/kernel/overflowuid", "65534\n")
        self.status()

    def write(self, path: str, text: str) -> Path:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def status(self, capabilities: int = 0, no_new_privs: int = 0, seccomp: int = 0) -> None:
        self.write(
            "/proc/self/status",
            STATUS.format(capabilities=capabilities, no_new_privs=no_new_privs, seccomp=seccomp),
        )
