"""Names and numbers, as far as this machine can tell."""

from __future__ import annotations

import resource
from pathlib import Path

from sandbox.kernel import CAPABILITIES, RLIMITS, capability


def test_resource_limits_are_pythons() -> None:
    known = {
        name[7:].lower(): getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")
    }
    del known["ofile"]  # BSD's name of nofile
    assert known.items() <= RLIMITS.items()
    assert sorted(RLIMITS.values()) == list(range(16))


def test_capabilities_are_the_kernels() -> None:
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    assert last < len(CAPABILITIES) == len(set(CAPABILITIES))
    assert [capability(name) for name in ("CHOWN", "SYS_ADMIN", "CHECKPOINT_RESTORE")] == [
        1,
        1 << 21,
        1 << 40,
    ]
