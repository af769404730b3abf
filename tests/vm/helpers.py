"""The helpers of the guest's mutants, for `scripts/vm --bring`: python -m tests.vm.helpers DIRECTORY

Each is named by its number in GUEST_MUTANTS. Runs nothing of them.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from tests.security.cgroup_mutants import GUEST_MUTANTS
from tests.security.test_mutants import HELPER, Compiler, changed_sources, make_tree


def main(target: Path) -> None:
    target.mkdir()
    with tempfile.TemporaryDirectory() as scratch:
        compiler = Compiler(Path(scratch, "objects"))
        for number, mutant in enumerate(GUEST_MUTANTS):
            if changed_sources(mutant):
                tree = Path(scratch, str(number))
                tree.mkdir()
                make_tree(tree, mutant)
                compiler.build(tree, mutant)
                shutil.copy(tree / HELPER, target / str(number))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
