"""A build, to be done by a process that dies at it: `python actions.py STORE CONTEXT`."""

from __future__ import annotations

import sys

from sandbox.image import listing
from sandbox.image.build import instructions
from sandbox.image.build.context import Context
from sandbox.image.build.engine import Builder, Means, Settings
from sandbox.image.build.report import Report
from sandbox.image.build.running import Sandboxed
from sandbox.image.store import Image, Store
from sandbox.profile import load

TEXT = b"""FROM base:1
COPY d /d
RUN --mount=type=cache,target=/c mkdir -p /made/x && echo 1 > /made/f && chown -R 7 /made && chmod 0 /made/x
RUN rm -r /home && touch /c
"""


def build(store: Store, directory: str) -> None:
    def find(name: str) -> Image:
        image = listing.lookup(store, name).image
        assert image
        return image

    recipe = instructions.parse("file", TEXT)
    with store.hold(), Context(directory) as context:
        builder = Builder(
            store,
            recipe,
            context,
            Settings(),
            Means(find, Sandboxed(load("build")), Report()),
        )
        store.set_ref("built:latest", builder.build().image.descriptor)


if __name__ == "__main__":
    build(Store(sys.argv[1]), sys.argv[2])
