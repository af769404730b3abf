"""The assembler: what it assembles means what was asked, for any verdicts and rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.seccomp import bpf
from tests.seccomp import machine

ACTIONS = st.sampled_from([bpf.ALLOW, bpf.KILL, bpf.PRETEND, bpf.errno(1), bpf.errno(38)])
WORDS = st.one_of(st.sampled_from([0, 1, 4, 0x80000000, 0xFFFFFFFF]), st.integers(0, 0xFFFFFFFF))
ARGUMENTS = st.lists(
    st.builds(lambda high, low: high << 32 | low, st.sampled_from([0, 1, 0xFFFFFFFF]), WORDS),
    min_size=6,
    max_size=6,
)
COMPARES = st.builds(
    bpf.Compare,
    st.integers(0, 5),
    st.lists(WORDS, min_size=1, max_size=9).map(tuple),
    st.one_of(st.just(0xFFFFFFFF), WORDS),
    st.booleans(),
    st.booleans(),
)
CLAUSES = st.builds(bpf.Clause, st.lists(COMPARES, min_size=1, max_size=4).map(tuple), ACTIONS)
RULES = st.builds(bpf.Rule, st.lists(CLAUSES, max_size=5).map(tuple), ACTIONS, st.just(""))


def meaning(rule: bpf.Action | bpf.Rule, arguments: list[int]) -> bpf.Action:
    """What the docstrings of bpf say about *rule*."""
    if not isinstance(rule, bpf.Rule):
        return rule
    for clause in rule.clauses:
        for test in clause.tests:
            word = arguments[test.argument] >> (32 if test.high else 0) & 0xFFFFFFFF
            if ((word & test.mask) in test.values) == test.negate:
                break
        else:
            return clause.action
    return rule.otherwise


@given(
    st.dictionaries(st.integers(0, 700), st.one_of(ACTIONS, RULES), max_size=40),
    st.one_of(ACTIONS, RULES),
    st.dictionaries(st.integers(800, 0xFFFFFFFF), ACTIONS, max_size=3),
    st.lists(st.tuples(WORDS, ARGUMENTS), max_size=10),
)
def test_program_means_its_verdicts(verdicts, otherwise, above, calls):
    program = bpf.assemble(machine.AARCH64, verdicts, otherwise, above)
    machine.check(program)
    edges = [n + d for n in (*verdicts, *above) for d in (-1, 0, 1) if 0 <= n + d <= 0xFFFFFFFF]
    for number, arguments in [*calls, *((n, [1, 2, 3, 4, 5, 6]) for n in edges)]:
        begun = [first for first in sorted(above) if first <= number]
        rule = verdicts.get(number, above[begun[-1]] if begun else otherwise)
        verdict = machine.run(program, number, arguments, machine.AARCH64)
        assert verdict.action == meaning(rule, arguments)


@given(RULES, ARGUMENTS)
def test_rule_means_its_clauses(rule, arguments):
    program = bpf.assemble(machine.X86_64, {7: rule}, bpf.KILL, {})
    assert machine.run(program, 7, arguments).action == meaning(rule, arguments)


def test_long_distances():
    """More alternating runs than an 8-bit jump can cross."""
    verdicts = {n: bpf.errno(1 + n % 3) for n in range(2000)}
    program = bpf.assemble(machine.X86_64, verdicts, bpf.ALLOW, {})
    machine.check(program)
    for number in range(2001):
        expected = verdicts.get(number, bpf.ALLOW)
        assert machine.run(program, number).action == expected
    # and it is a search, not a list: two comparisons a level, and the prologue
    assert machine.run(program, 1999).steps <= 3 + 2 * 11 + 1


@pytest.mark.parametrize("arch", [machine.I386, machine.ARM, machine.AARCH64, 0, 0xFFFFFFFF])
def test_other_architectures_are_killed(arch):
    program = bpf.assemble(machine.X86_64, {1: bpf.ALLOW}, bpf.ALLOW, {})
    assert machine.run(program, 1, arch=arch).action == bpf.KILL
    assert machine.run(program, 1).action == bpf.ALLOW


def test_equal_neighbours_are_one_run():
    one = bpf.assemble(machine.X86_64, dict.fromkeys(range(500), bpf.ALLOW), bpf.KILL, {})
    assert len(one) // 8 == 4 + 3


@pytest.mark.parametrize("number", [0, -1, 4096])
def test_bad_errno(number):
    with pytest.raises(ValueError, match=str(number)):
        bpf.errno(number)
