"""What a filter must know of a machine: its audit architecture and its system call numbers."""

from __future__ import annotations

from typing import NamedTuple

from sandbox.seccomp.tables import TABLES

__all__ = ["MACHINES", "Machine", "load"]

# AUDIT_ARCH_* of linux/audit.h: the ELF machine, 64 bits, little endian.
_ARCHITECTURES = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}

#: Names of the machines we have tables for, as uname(2) writes them.
MACHINES = tuple(sorted(_ARCHITECTURES))


class Machine(NamedTuple):
    """`architecture` is the kernel's AUDIT_ARCH_* value; `calls` maps names to numbers."""

    architecture: int
    calls: dict[str, int]


def load(name: str) -> Machine:
    """The machine that uname(2) calls *name*. Raises `KeyError` for one we have no table for."""
    calls: dict[str, int] = {}
    for line in TABLES[name].splitlines():
        if line:
            first, *names = line.split()
            calls.update(zip(names, range(int(first), int(first) + len(names)), strict=True))
    return Machine(_ARCHITECTURES[name], calls)
