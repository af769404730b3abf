"""The network namespace that is configured is a new one: if none was made, it is the host's.

No kernel of ours does that, so the helper is compiled without the flag that asks for one.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from sandbox.wire import Kind
from tests.conftest import ROOT
from tests.helper import runs
from tests.helper.runs import slot
from tests.helper.test_services import service

pytestmark = pytest.mark.integration

MADE = ".flags = namespaces | K_CLONE_NEWUSER"


@pytest.fixture
def careless(tmp_path: Path, need, monkeypatch: pytest.MonkeyPatch) -> Path:
    need("cc")
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import build_helper

    monkeypatch.setattr(build_helper, "FLAGS", tuple("-O0" if f == "-O2" else f for f in build_helper.FLAGS))
    tree = tmp_path / "tree"
    shutil.copytree(ROOT / "helpers", tree / "helpers")
    source = tree / "helpers/start.c"
    text = source.read_text()
    assert text.count(MADE) == 1
    source.write_text(
        text.replace(MADE, ".flags = (namespaces & ~(uint64_t)K_CLONE_NEWNET) | K_CLONE_NEWUSER")
    )
    target = tmp_path / "sandbox-helper"
    build_helper.build(tree, target)
    tmp_path.chmod(0o755)
    del sys.modules["build_helper"]
    return target


def test_the_hosts_network_is_not_configured(careless: Path) -> None:
    for record in (service("exec sleep 1000"), slot(Kind.ADDRESS, "lo", "127.77.0.1", 32, "")):
        ended = runs.run(careless, ["echo", "ran"], record)
        assert (ended.status, ended.stdout) == (125, b""), ended
        assert "the network namespace is not a new one" in ended.report["message"]
