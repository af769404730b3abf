"""Content that a process copies from where another one put it."""

from __future__ import annotations

import array
import hashlib
import io
import os
import zlib
from pathlib import Path

import pytest

from sandbox.image.layer.apply import apply
from sandbox.image.layer.compress import Budget
from sandbox.image.layer.copied import Ring, open_archive
from tests.image.layer.archives import archive, directory, file

#: Python 3.12 warns of it: the process does no more than C code does without the interpreter
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.mark.parametrize("form", ["gzip", "plain"])
def test_content_larger_than_the_ring(tmp_path: Path, form: str) -> None:
    """And small files before and behind it; no two pieces of it are the same."""
    large = array.array("Q", range(2_000_000)).tobytes()
    files = {"a": b"a", "large": large, **{f"f{n}": large[n * 5000 : n * 5007] for n in range(2000)}}
    data = archive(*(file(name, content) for name, content in files.items()))
    path = tmp_path / "archive"
    path.write_bytes(b"before" + (zlib.compress(data, 1, 31) if form == "gzip" else data))
    (tmp_path / "layer").mkdir()
    root = os.open(tmp_path / "layer", os.O_RDONLY | os.O_DIRECTORY)
    with path.open("rb") as opened:
        opened.seek(6)
        with open_archive(opened, Budget()) as stream:
            apply(stream, root, squash=True)
            assert (stream.format, stream.size) == (form, len(data))
            assert stream.digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
    os.close(root)
    assert sorted(os.listdir(tmp_path / "layer")) == sorted(files)
    for name, content in files.items():
        assert (tmp_path / "layer" / name).read_bytes() == content


def test_nothing_is_inherited_from_the_directory_of_the_layer(tmp_path: Path) -> None:
    """Where a store's directory has the set-group-ID bit."""
    modes = {"d": 0o755, "d/e": 0o500, "d/t": 0o1777, "d/s": 0o2750}
    data = archive(*(directory(name, mode) for name, mode in modes.items()), file("d/e/x", b"x"))
    layer = tmp_path / "layer"
    layer.mkdir()
    layer.chmod(0o2755)
    root = os.open(layer, os.O_RDONLY | os.O_DIRECTORY)
    with Ring(io.BytesIO(data), Budget()) as stream:
        apply(stream, root, squash=True)
    os.close(root)
    assert {name: (layer / name).stat().st_mode & 0o7777 for name in modes} == modes
    assert len({(layer / name).stat().st_mtime_ns for name in modes}) == 1
