"""What the tests of wheels and of checkouts share: a helper that is compiled once for all of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with what was compiled, which the workers share."""
    own = tmp_path_factory.getbasetemp()
    directory = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "compiled"
    directory.mkdir(exist_ok=True)
    return directory
