"""A judge for filters: interprets classic BPF as the kernel does for seccomp.

Independent of sandbox.seccomp.bpf. `check` is kernel/seccomp.c's seccomp_check_filter with
bpf_check_classic of net/core/filter.c, restricted to what filters of ours or libseccomp's
contain; anything else is refused, so that a wrong opcode can't pass unseen.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

X86_64, AARCH64, I386, ARM = 0xC000003E, 0xC00000B7, 0x40000003, 0x40000028

LD, AND, JA, JEQ, JGT, JGE, JSET, RET = (
    0x20, 0x54, 0x05, 0x15, 0x25, 0x35, 0x45, 0x06,
)  # fmt: skip
CONDITIONAL = {JEQ, JGT, JGE, JSET}
WORD = 0xFFFFFFFF


class Verdict(NamedTuple):
    """`action` is the value returned; `loaded` are the offsets read on the way; `steps` counts."""

    action: int
    loaded: frozenset[int]
    steps: int


@lru_cache(maxsize=64)  # run many thousand times with few programs
def unpack(program: bytes) -> list[tuple[int, int, int, int]]:
    return list(struct.iter_unpack("<HBBI", program))


def check(program: bytes) -> None:
    """Raise `AssertionError` for a program that the kernel would refuse."""
    code = unpack(program)
    assert 0 < len(code) <= 4096
    assert code[-1][0] == RET
    for at, (op, true, false, k) in enumerate(code):
        left = len(code) - at - 1
        assert op in CONDITIONAL | {LD, AND, JA, RET}, f"opcode {op:#x} at {at}"
        if op == LD:
            assert k % 4 == 0
            assert k < 64
        if op == JA:
            assert k < left
        if op in CONDITIONAL:
            assert true < left
            assert false < left
        else:
            assert (true, false) == (0, 0)


def run(program: bytes, number: int, arguments: Sequence[int] = (), arch: int = X86_64) -> Verdict:
    """What *program* answers to a call; missing *arguments* are 0."""
    full = [value & 0xFFFFFFFFFFFFFFFF for value in (*arguments, 0, 0, 0, 0, 0, 0)[:6]]
    data = struct.pack("<IIQ6Q", number & WORD, arch, 0x7F0000001234, *full)
    code = unpack(program)
    accumulator = at = steps = 0
    loaded = set()
    while True:
        op, true, false, k = code[at]
        at += 1
        steps += 1
        if op == LD:
            loaded.add(k)
            (accumulator,) = struct.unpack_from("<I", data, k)
        elif op == AND:
            accumulator &= k
        elif op == JA:
            at += k
        elif op == RET:
            return Verdict(k, frozenset(loaded), steps)
        else:
            at += true if _hits(op, accumulator, k) else false


def _hits(op: int, accumulator: int, k: int) -> bool:
    if op == JEQ:
        return accumulator == k
    if op == JGT:
        return accumulator > k
    if op == JGE:
        return accumulator >= k
    assert op == JSET, f"opcode {op:#x}"
    return bool(accumulator & k)
