"""Defences that are noticed only where there are controllers, each taken away in a copy of the tree."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.security.cgroup_mutants import GUEST_MUTANTS
from tests.security.mutants import Mutant
from tests.security.test_mutants import HELPER, Builder, Compiler, notice

pytestmark = [pytest.mark.guest, pytest.mark.mutation]

#: a compiler takes long in the guest: the helpers that tests/vm/helpers.py made outside, if they were brought
BROUGHT = Path("/run/host/in/brought")


class Brought:
    def build(self, tree: Path, mutant: Mutant) -> None:
        target = tree / HELPER
        shutil.copy(BROUGHT / str(GUEST_MUTANTS.index(mutant)), target)
        os.utime(target)  # newer than what it is made from
        target.chmod(0o755)


@pytest.fixture(scope="session")
def builder(helper: Path, tmp_path_factory: pytest.TempPathFactory) -> Builder:
    return Brought() if BROUGHT.is_dir() else Compiler(tmp_path_factory.mktemp("objects"))


@pytest.mark.parametrize("mutant", [pytest.param(each, id=each.defence) for each in GUEST_MUTANTS])
def test_a_defence_that_is_gone_is_noticed(mutant: Mutant, tmp_path: Path, builder: Builder) -> None:
    notice(mutant, tmp_path, builder)
