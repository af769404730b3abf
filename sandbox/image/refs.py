"""Names of images: the store's `index.json`, which is that of an OCI image layout.

So the store can be read by any other tool that knows layouts (image-spec, image-layout.md). The file is
replaced as a whole, under the store's lock; who reads it sees one state or the other. Beside it lies a file
of its size that is given up where the disk is full: what makes room begins with another list.
"""

from __future__ import annotations

import contextlib
import errno
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
_MORE = 1 << 14  # bytes of the spare file beyond what is needed now


class Refs:
    """The names in the file *path*. Only who holds the store's lock may change them."""

    def __init__(self, path: str) -> None:
        self._path, self._spare = path, f"{path}.spare"
        self._where = f"the image store's list of names, {path},"

    def all(self) -> dict[str, Descriptor]:
        """Every name with what it stands for.

        Raises:
            ImageError: the file is damaged, or gone: that is not the same as no names, for then all that is
                in the store would be garbage.
        """
        try:
            with open(self._path, "rb") as file:
                raw = file.read()
        except FileNotFoundError:
            raise ImageError(f"{self._where} is gone", "sandbox image check --repair") from None
        try:
            index = parse_manifest(raw, OCI_INDEX, self._where)
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
        """Replace all names.

        Raises:
            ImageError: they are too many to be read again.
        """
        entries = [{**to_json(refs[name]), "annotations": {NAME: name}} for name in sorted(refs)]
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
        data = json.dumps(index, indent=1).encode()
        try:
            parse_manifest(data, OCI_INDEX, self._where)
        except ImageError as error:
            raise ImageError(
                f"there is no room for more names: {error.message}", "sandbox image rm NAME..."
            ) from error
        try:
            write_file(self._path, data)
        except OSError as error:
            shorter = os.path.exists(self._path) and len(data) < os.stat(self._path).st_size
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not (
                shorter and os.path.exists(self._spare)
            ):
                raise
            os.unlink(self._spare)
            write_file(self._path, data)
        self._keep_spare(len(data))

    def _keep_spare(self, size: int) -> None:
        """Have at least *size* bytes in reserve, if there is room."""
        with contextlib.suppress(OSError):
            fd = os.open(self._spare, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                if os.fstat(fd).st_size < size:
                    os.posix_fallocate(fd, 0, size + _MORE)
            finally:
                os.close(fd)

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
