"""Names of images: the store's `index.json`, which is that of an OCI image layout.

So the store can be read by any other tool that knows layouts (image-spec, image-layout.md). The file is
replaced as a whole, under the store's lock; who reads it sees one state or the other.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace

from sandbox.errors import ImageError
from sandbox.image.durable import write_file
from sandbox.image.manifest import OCI_INDEX, Descriptor, Index, parse_manifest

__all__ = ["FULL_NAME", "NAME", "Refs", "to_json"]

#: The annotation that says a manifest's name (image-spec, annotations.md).
NAME = "org.opencontainers.image.ref.name"
#: A whole name, as containerd and docker write it beside that.
FULL_NAME = "io.containerd.image.name"


class Refs:
    """The names in the file *path*. Only who holds the store's lock may change them."""

    def __init__(self, path: str) -> None:
        self._path = path

    def all(self) -> dict[str, Descriptor]:
        """Every name with what it stands for.

        Raises:
            ImageError: the file is damaged.
        """
        try:
            with open(self._path, "rb") as file:
                raw = file.read()
        except FileNotFoundError:
            return {}
        where = f"the image store's list of names, {self._path},"
        try:
            index = parse_manifest(raw, OCI_INDEX, where)
        except ImageError as error:
            raise ImageError(error.message, "sandbox image check --repair") from error
        assert isinstance(index, Index)
        found = {}
        for entry in index.manifests:
            name = entry.annotations.get(NAME)
            if name is not None:
                found[name] = replace(entry, annotations={})
        return found

    def write(self, refs: Mapping[str, Descriptor]) -> None:
        """Replace all names."""
        entries = [{**to_json(refs[name]), "annotations": {NAME: name}} for name in sorted(refs)]
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
        write_file(self._path, json.dumps(index, indent=1).encode())

    def make(self) -> None:
        """An empty list, where there is none."""
        if not os.path.exists(self._path):
            self.write({})


def to_json(descriptor: Descriptor) -> dict[str, object]:
    """A descriptor as JSON has it (image-spec, descriptor.md)."""
    found: dict[str, object] = {
        "mediaType": descriptor.media_type,
        "digest": str(descriptor.digest),
        "size": descriptor.size,
    }
    if descriptor.annotations:
        found["annotations"] = dict(descriptor.annotations)
    platform = descriptor.platform
    if platform is not None:
        found["platform"] = {"os": platform.os, "architecture": platform.architecture}
        if platform.variant:
            found["platform"] |= {"variant": platform.variant}  # type: ignore[operator]
    return found
