"""The store with the registry client: pushed, pulled by another, unpacked; and what skopeo pushed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox import host as hosts
from sandbox.image import garbage, listing
from sandbox.image.check import check
from sandbox.image.pull import pull
from sandbox.image.push import push
from sandbox.image.reference import parse_reference
from sandbox.image.save import save_directory
from sandbox.image.store import Store
from tests.image.layer.archives import directory, file, hardlink, whiteout
from tests.image.stored import put_image
from tests.support.needs import need

pytestmark = pytest.mark.integration

LAYERS = [
    [directory("d", mode=0o700, uid=1), file("d/x", os.urandom(100_000)), file("old")],
    [hardlink("d/y", "d/x"), whiteout("old")],
]


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Callable[[], Store]]:
    need("userns", "plain user", "idrange")
    made: list[Store] = []

    def new() -> Store:
        made.append(Store(str(tmp_path / f"store{len(made)}"), host=hosts.probe()))
        return made[-1]

    yield new
    for store in made:
        garbage.prune(store, unpacked=True)


def test_pushed_and_pulled_it_is_the_same(stores: Any, registry: Any, options: Any) -> None:
    mine, theirs = stores(), stores()
    server = registry()
    reference = parse_reference(f"{server.name}/team/one:1")
    image = put_image(mine, reference.key, LAYERS)
    push(reference, mine, options(server.name))
    found = pull(reference, theirs, None, options(server.name))
    assert theirs.blobs.all() == mine.blobs.all()
    listed = listing.lookup(theirs, reference.key)
    assert listed.image
    assert listed.image.manifest.raw == image.manifest.raw
    assert found.images[0].descriptor.digest == image.descriptor.digest
    with theirs.stack(listed.image).lease:
        top = Path(theirs.stack(listed.image).lowers[0])
        assert sorted(os.listdir(top)) == ["d", "old"], "the link's directory, and the whiteout"
    assert check(theirs) == []


def test_a_pull_that_was_interrupted_goes_on(stores: Any, registry: Any, options: Any) -> None:
    mine, theirs = stores(), stores()
    server = registry()
    reference = parse_reference(f"{server.name}/one:1")
    image = put_image(mine, reference.key, LAYERS)
    push(reference, mine, options(server.name))
    layer = image.manifest.layers[0]
    with theirs.ingest(layer.digest, layer.size) as ingest, mine.open_blob(layer.digest) as blob:
        ingest.write(blob.read(50_000))
    pull(reference, theirs, None, options(server.name))
    assert theirs.blobs.all() == mine.blobs.all()
    assert os.listdir(Path(theirs.path, "partial")) == []


def test_what_skopeo_pushed(stores: Any, registry: Any, options: Any, tmp_path: Path) -> None:
    need("skopeo")
    mine, theirs = stores(), stores()
    server = registry()
    put_image(mine, "one", LAYERS)
    save_directory(mine, [listing.lookup(mine, "one")], str(tmp_path / "layout"))
    source, target = f"oci:{tmp_path}/layout:one", f"docker://{server.name}/by/skopeo:2"
    tls = "--dest-tls-verify=false"
    subprocess.run(
        ["skopeo", "--insecure-policy", "copy", tls, source, target], check=True, capture_output=True
    )
    reference = parse_reference(f"{server.name}/by/skopeo:2")
    pull(reference, theirs, None, options(server.name))
    image = listing.lookup(theirs, reference.key).image
    assert image
    theirs.stack(image).lease.close()
    assert check(theirs) == []
    shutil.rmtree(tmp_path / "layout")
