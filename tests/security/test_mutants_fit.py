"""Mutants are texts of the code that they change: one that fits no longer would take nothing away. That they
are noticed is tested by running them (test_mutants.py); this is for whoever changes the code.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.egress.mutants import MUTANTS as EGRESS_MUTANTS
from tests.image.build.mutants import MUTANTS as BUILD_MUTANTS
from tests.image.mutants import MUTANTS as IMAGE_MUTANTS
from tests.net.mutants import MUTANTS as NET_MUTANTS
from tests.net.private.mutants import MUTANTS as PRIVATE_MUTANTS
from tests.security.cgroup_mutants import GUEST_MUTANTS
from tests.security.cgroup_mutants import MUTANTS as CGROUP_MUTANTS
from tests.security.mutants import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]
ALL = [
    *MUTANTS,
    *IMAGE_MUTANTS,
    *BUILD_MUTANTS,
    *CGROUP_MUTANTS,
    *GUEST_MUTANTS,
    *EGRESS_MUTANTS,
    *NET_MUTANTS,
    *PRIVATE_MUTANTS,
]


@pytest.mark.parametrize("mutant", [pytest.param(each, id=each.defence) for each in ALL])
def test_it_fits(mutant: Mutant) -> None:
    assert mutant.edits
    texts = {name: (ROOT / name).read_text() for name, _, _ in mutant.edits}
    for name, old, new in mutant.edits:
        assert texts[name].count(old) == 1, f"{name} has changed: mend its mutant"
        assert old != new
        texts[name] = texts[name].replace(old, new)  # the next edit finds what this one left
    assert (ROOT / mutant.where).is_file()
