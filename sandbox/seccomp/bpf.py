"""A small assembler for seccomp filters: from "what happens to which call" to `struct sock_filter[]`.

It knows classic BPF as seccomp(2) allows it, and nothing of which calls are good or bad (that
is policy.py). The program is a binary search over runs of call numbers; its leaves are
actions, or short chains of comparisons for calls judged by their arguments. Blocks contain
relative jumps only, so that they can be put together without labels. Since Linux 5.11 the
kernel runs the program once per number at load and remembers what is allowed whatever the
arguments are; a leaf must therefore not load an argument without need.

Sources: seccomp(2); linux/filter.h, linux/seccomp.h; kernel/seccomp.c of Linux 5.14 to 6.18.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

__all__ = ["ALLOW", "KILL", "PRETEND", "Action", "Clause", "Compare", "Rule", "assemble", "errno"]

#: What the filter answers: a SECCOMP_RET_* value with its data.
Action: TypeAlias = int

KILL: Action = 0x8000_0000  # SECCOMP_RET_KILL_PROCESS
ALLOW: Action = 0x7FFF_0000  # SECCOMP_RET_ALLOW
_ERRNO = 0x0005_0000  # SECCOMP_RET_ERRNO
#: The call is not made, and its caller is told that it succeeded.
PRETEND: Action = _ERRNO

_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
_JUMP = 0x05  # BPF_JMP | BPF_JA
_IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_IF_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K, unsigned
_RETURN = 0x06  # BPF_RET | BPF_K

# Offsets in struct seccomp_data; arguments are 64 bits, little endian on all our machines.
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_LONGEST = 255  # conditional jumps have 8 bits
_WORD = 0xFFFF_FFFF

_Instruction: TypeAlias = tuple[int, int, int, int]  # code, jump if true, jump if false, operand
_Block: TypeAlias = list[_Instruction]


class Compare(NamedTuple):
    """True when 32 bits of an argument, masked, are (or with `negate` are not) among `values`.

    Only the low word is looked at unless `high`: for an argument that the kernel takes as an
    int this is exact, and comparing 64 bits is a hole (CVE-2019-10063).
    """

    argument: int
    values: tuple[int, ...]
    mask: int = _WORD
    negate: bool = False
    high: bool = False


class Clause(NamedTuple):
    """`action` when all of `tests` are true."""

    tests: tuple[Compare, ...]
    action: Action


class Rule(NamedTuple):
    """The first of `clauses` that applies decides, else `otherwise`. `purpose` is for people."""

    clauses: tuple[Clause, ...]
    otherwise: Action
    purpose: str


def errno(number: int) -> Action:
    """The action that makes a call fail with the error *number*, 1 to 4095."""
    if not 0 < number < 4096:
        raise ValueError(f"not an error number: {number}")
    return _ERRNO | number


def assemble(
    architecture: int,
    verdicts: Mapping[int, Action | Rule],
    otherwise: Action,
    above: Mapping[int, Action | Rule],
) -> bytes:
    """The filter, as `struct sock_filter[]` in little endian byte order.

    *architecture* is an AUDIT_ARCH_* value; calls of every other one are killed. *verdicts*
    says what happens to call numbers (unsigned 32 bits), *otherwise* to all that it lacks.
    *above* says the same for all numbers from its keys on, which are greater than those of *verdicts*.
    """
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_IF_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, KILL),
        (_LOAD, 0, 0, _NUMBER),
        *_search(_runs(verdicts, otherwise, above)),
    ]
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in program)


def _runs(
    verdicts: Mapping[int, Action | Rule], otherwise: Action, above: Mapping[int, Action | Rule]
) -> list[tuple[int, Action | Rule]]:
    """The first number of every run of equal verdicts, and that verdict; covers all numbers."""
    runs: list[tuple[int, Action | Rule]] = [(0, otherwise)]

    def begin(number: int, verdict: Action | Rule) -> None:
        if runs[-1][0] == number:
            runs.pop()
        if not runs or runs[-1][1] != verdict:
            runs.append((number, verdict))

    for number in sorted(verdicts):
        begin(number, verdicts[number])
        begin(number + 1, otherwise)
    for number in sorted(above):
        begin(number, above[number])
    return runs


def _search(runs: list[tuple[int, Action | Rule]]) -> _Block:
    if len(runs) == 1:
        verdict = runs[0][1]
        return _chain(verdict) if isinstance(verdict, Rule) else [(_RETURN, 0, 0, verdict)]
    middle = len(runs) // 2
    first = runs[middle][0]
    below, above = _search(runs[:middle]), _search(runs[middle:])
    if len(below) <= _LONGEST:
        return [(_IF_AT_LEAST, len(below), 0, first), *below, *above]
    return [(_IF_AT_LEAST, 0, 1, first), (_JUMP, 0, 0, len(below)), *below, *above]


def _chain(rule: Rule) -> _Block:
    block: _Block = [(_RETURN, 0, 0, rule.otherwise)]
    for clause in reversed(rule.clauses):
        block = _clause(clause) + block
    return block


def _clause(clause: Clause) -> _Block:
    """Returns the action, or runs off its end when a test is false."""
    block: _Block = [(_RETURN, 0, 0, clause.action)]
    for test in reversed(clause.tests):
        block = _test(test, len(block)) + block
    return block


def _test(test: Compare, skip: int) -> _Block:
    """Runs off its end when *test* is true, else jumps over the *skip* instructions after that."""
    block: _Block = [(_LOAD, 0, 0, _ARGUMENTS + 8 * test.argument + 4 * test.high)]
    if test.mask != _WORD:
        block.append((_AND, 0, 0, test.mask))
    equal, different = (skip, 0) if test.negate else (0, skip)
    for left in range(len(test.values) - 1, -1, -1):
        value = test.values[len(test.values) - 1 - left]
        block.append((_IF_EQUAL, left + equal, different if left == 0 else 0, value))
    return block
