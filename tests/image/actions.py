"""What changes a store, to be done by a process that dies at it: `python actions.py STORE ACTION`."""

from __future__ import annotations

import sys
from collections.abc import Callable

from sandbox.image import garbage, listing
from sandbox.image.store import Store
from tests.image.layer.archives import directory, file, whiteout
from tests.image.stored import put_image

LAYERS = [
    [directory("d", uid=1, mode=0o700), file("d/x", b"1" * 5000), file("y", uid=7)],
    [file("d/z", b"2"), whiteout("y")],
]


def pull(store: Store) -> None:
    with store.hold():
        put_image(store, "one", LAYERS)


def unpack(store: Store) -> None:
    image = listing.lookup(store, "one").image
    assert image
    store.stack(image).lease.close()


def remove(store: Store) -> None:
    garbage.remove(store, "one")


def prune(store: Store) -> None:
    garbage.prune(store, unpacked=True)


ACTIONS: dict[str, Callable[[Store], None]] = {
    "pull": pull,
    "unpack": unpack,
    "remove": remove,
    "prune": prune,
}

if __name__ == "__main__":
    ACTIONS[sys.argv[2]](Store(sys.argv[1]))
