"""A process in a user namespace with a range of ids, in which layers are applied and mounted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.image.layer.archives import Item, archive
from tests.support.needs import need

Stack = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """`stack([items of the lowest layer], [...], ...)` applies layers and says what came of it."""
    need("plain user", "userns", "idrange")
    top = tmp_path_factory.mktemp("stacks")
    numbers = count()
    inside = Path(__file__).parent / "inside.py"
    unshare = ["unshare", "--user", "--map-root-user", "--map-auto", "--mount"]
    process = subprocess.Popen(
        [*unshare, sys.executable, "-B", str(inside)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdin and process.stdout

    def apply(*layers: list[Item] | bytes, **more: Any) -> dict[str, Any]:
        assert process.stdin and process.stdout
        raw = [layer if isinstance(layer, bytes) else archive(*layer) for layer in layers]
        request = {"directory": str(top / str(next(numbers))), "layers": [data.hex() for data in raw], **more}
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        assert line, "the process inside ended"
        answer: dict[str, Any] = json.loads(line)
        return answer

    yield apply
    process.stdin.close()
    process.stdout.close()
    assert process.wait() == 0
