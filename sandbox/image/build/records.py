"""What was built before: records in the image store, by key.

    build/records/KEY    the layer that a step made, an image, or a digest of what COPY --from takes
    build/last/NAME      the steps of the last build of a file, for `--explain-cache`
    build/mounts/        what RUN --mount=type=cache keeps
    build/digests/       digests of contexts' files (`sandbox.image.build.context`)

A record may go at any time, and then a step runs again. While it is there, garbage collection keeps the
layer that it names.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from sandbox.errors import ImageError
from sandbox.image.digest import Digest
from sandbox.image.durable import make_directory
from sandbox.image.manifest import Descriptor
from sandbox.image.refs import to_json

__all__ = ["Made", "Reached", "Records"]

_MAX_RECORD = 1 << 20
_DAY = 86400
#: days without use after which `prune` forgets a record
KEEP_DAYS = 14


class Made(NamedTuple):
    """What a step made: a layer with its two digests, or None when it changed nothing; and when, in seconds
    since 1970."""

    layer: Descriptor | None
    diff_id: Digest | None
    created: int


class Reached(NamedTuple):
    """What records keep: blobs, and names of unpacked layers."""

    blobs: set[Digest]
    layers: set[Digest]


class Records:
    """The records of the image store *store*, a path."""

    def __init__(self, store: str) -> None:
        self._top = os.path.join(store, "build")
        self.digests = os.path.join(self._top, "digests")

    # --- reading and writing --------------------------------------------------------------------------

    def get(self, key: str) -> Made | None:
        """What the step *key* made, if that is known. It counts as used now."""
        record = self._read("records", key)
        try:
            created, layer = int(record["created"]), dict(record["layer"] or {})
            if not layer:
                return Made(None, None, created)
            descriptor = Descriptor(str(layer["mediaType"]), Digest(layer["digest"]), int(layer["size"]))
            return Made(descriptor, Digest(record["diff_id"]), created)
        except (KeyError, TypeError, ValueError, ImageError):
            return None

    def put(self, key: str, made: Made, chain_id: Digest | None) -> None:
        """Remember it. *chain_id* is that of the layer with all below it."""
        layer = to_json(made.layer) if made.layer else None
        record = {"layer": layer, "diff_id": made.diff_id, "chain_id": chain_id, "created": made.created}
        self._write("records", key, record)

    def get_text(self, key: str) -> str:
        """A text that was remembered; "" for none."""
        found = self._read("records", key).get("text")
        return found if isinstance(found, str) else ""

    def put_text(self, key: str, text: str) -> None:
        """Remember a text."""
        self._write("records", key, {"text": text})

    def get_image(self, key: str) -> Descriptor | None:
        """The image that was made of the same layers and configuration."""
        record = self._read("records", key).get("image") or {}
        try:
            return Descriptor(str(record["mediaType"]), Digest(record["digest"]), int(record["size"]))
        except (KeyError, TypeError, ValueError, ImageError):
            return None

    def put_image(self, key: str, descriptor: Descriptor) -> None:
        """Remember an image."""
        self._write("records", key, {"image": to_json(descriptor)})

    def last(self, name: str) -> Mapping[str, Any]:
        """What was said of the last build called *name*."""
        return self._read("last", name, 64 << 20)

    def put_last(self, name: str, said: Mapping[str, Any]) -> None:
        """Remember what is to be said of this one."""
        self._write("last", name, said)

    def _read(self, kind: str, name: str, limit: int = _MAX_RECORD) -> Mapping[str, Any]:
        path = os.path.join(self._top, kind, name)
        try:
            with open(path, "rb") as file:
                found = json.loads(file.read(limit))
            with contextlib.suppress(OSError):
                os.utime(path)
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _write(self, kind: str, name: str, value: Mapping[str, Any]) -> None:
        """Durable it need not be: it is whole, or not there."""
        directory = os.path.join(self._top, kind)
        make_directory(directory)
        path = os.path.join(directory, name)
        new = f"{path}.{os.urandom(4).hex()}.new"
        try:
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with open(fd, "wb") as file:
                file.write(json.dumps(value).encode())
            os.rename(new, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(new)
            raise

    # --- keeping and forgetting -----------------------------------------------------------------------

    def reached(self) -> Reached:
        """What all records name."""
        found = Reached(set(), set())
        for name in self._names("records"):
            record = self._peek(name)
            with contextlib.suppress(KeyError, TypeError, ImageError):
                if record.get("layer"):
                    found.blobs.add(Digest(record["layer"]["digest"]))
                    found.layers.update(Digest(record[key]) for key in ("diff_id", "chain_id") if record[key])
        return found

    def _peek(self, name: str) -> Mapping[str, Any]:
        """A record, without using it."""
        with contextlib.suppress(OSError, ValueError):
            with open(os.path.join(self._top, "records", name), "rb") as file:
                found = json.loads(file.read(_MAX_RECORD))
            return found if isinstance(found, dict) else {}
        return {}

    def forget(self, days: float = KEEP_DAYS) -> int:
        """Forget what was not used for so many days, 0: all; how many records."""
        before = time.time() - days * _DAY if days else float("inf")
        count = 0
        for kind in ("records", "last", "digests"):
            for name in self._names(kind):
                path = os.path.join(self._top, kind, name)
                with contextlib.suppress(FileNotFoundError):
                    old = os.stat(path).st_mtime < before
                    torn = name.endswith(".new") and os.stat(path).st_mtime < time.time() - 3600
                    if old or torn:
                        os.unlink(path)
                        count += 1
        return count

    def mounts(self, name: str) -> str:
        """The directory of the cache mount called *name*, there or not: `files` in it, and whose they are."""
        return os.path.join(self._top, "mounts", hashlib.sha256(os.fsencode(name)).hexdigest()[:32])

    def old_mounts(self, days: float = KEEP_DAYS) -> list[str]:
        """The directories of cache mounts that were not used for so many days, 0: all."""
        before = time.time() - days * _DAY if days else float("inf")
        found = []
        for name in self._names("mounts"):
            path = os.path.join(self._top, "mounts", name)
            with contextlib.suppress(FileNotFoundError):
                if os.stat(path).st_mtime < before:
                    found.append(path)
        return found

    def _names(self, kind: str) -> Iterator[str]:
        with contextlib.suppress(FileNotFoundError):
            yield from sorted(os.listdir(os.path.join(self._top, kind)))
