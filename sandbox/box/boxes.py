"""The boxes of a user, on disk (see the package)."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sandbox import paths
from sandbox.box import log
from sandbox.errors import ImageError, SandboxError
from sandbox.image import root as roots
from sandbox.image.compose import Changed, commit, diff
from sandbox.image.digest import Digest
from sandbox.image.durable import (
    flush,
    is_at,
    make_directory,
    take,
    telling,
    try_lock,
    wait_for_lock,
    write_file,
)
from sandbox.image.manifest import Descriptor
from sandbox.image.store import Image, Store
from sandbox.plan.layers import Layered

__all__ = ["Box", "Boxes", "Record"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", re.ASCII)
_MAX_RECORD = 1 << 16  # bytes
_VERSION = 1
_MADE = "made.json"
_MOMENT = 0.01  # seconds


class Record(NamedTuple):
    """What box.json says. `reference` is how its image was asked for, `manifest` what that was; `driver` what
    mounts its writable layer, and always will; `created` seconds since 1970."""

    name: str
    reference: str
    manifest: Descriptor
    driver: str = "overlay"
    created: int = 0

    def to_json(self) -> bytes:
        manifest = self.manifest
        said = {"media_type": manifest.media_type, "digest": str(manifest.digest), "size": manifest.size}
        fields = {"version": _VERSION, **self._asdict(), "manifest": said}
        return json.dumps(fields, sort_keys=True, indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes, where: str) -> Record:
        """Raises `ImageError` when *data* is no record of this version."""
        try:
            said = json.loads(data)
            if said["version"] != _VERSION:
                raise ValueError(said["version"])
            described = said["manifest"]
            manifest = Descriptor(
                str(described["media_type"]), Digest(described["digest"]), int(described["size"])
            )
            return cls(
                str(said["name"]),
                str(said["reference"]),
                manifest,
                str(said["driver"]),
                int(said["created"]),
            )
        except (ValueError, KeyError, TypeError, SandboxError) as error:
            raise ImageError(f"{where} makes no sense", f"sandbox rm {os.path.basename(where)}") from error


class Box:
    """A box in use: nobody else has it until `close`, or until whoever was given `fd` ends. `new` says that
    it was made just now, and nothing ran in it."""

    def __init__(self, record: Record, path: str, fd: int, store: Store) -> None:
        self.record = record
        self.path = path
        self.fd = fd
        self.new = False
        self._store = store

    @property
    def upper(self) -> str:
        """The directory in which its writable layer is."""
        return os.path.join(self.path, "files")

    @property
    def image(self) -> Image:
        """What it was made of."""
        return self._store.image(self.record.manifest, self.record.reference)

    def layered(self) -> Layered:
        """Its image as a root."""
        return roots.layered(self._store, self.record.reference, self.image)

    @telling("use a box")
    def expect(self, made: Sequence[str]) -> None:
        """Remember that setting up a run makes the paths *made* in it, which are no changes of anybody's.
        What is told of the last run (`sandbox.box.log`) is forgotten."""
        log.forget(self.path)
        known = self._made()
        if not known.issuperset(made):
            text = json.dumps(sorted(known.union(made))).encode()
            write_file(os.path.join(self.path, _MADE), text)

    def _made(self) -> set[str]:
        try:
            with open(os.path.join(self.path, _MADE), "rb") as file:
                return set(map(str, json.loads(file.read())))
        except (FileNotFoundError, ValueError, TypeError):  # only what `diff` shows depends on it
            return set()

    @telling("use a box")
    def diff(self) -> list[Changed]:
        """What changed in it."""
        return diff(self._store, self.image, self._layer(), self.record.driver, sorted(self._made()))

    def commit(self, name: str, **options: object) -> Image:
        """Make what changed in it a layer of an image called *name*; *options* are `compose.commit`'s."""
        return commit(
            self._store,
            self.image,
            self._layer(),
            name,
            driver=self.record.driver,
            ours=sorted(self._made()),
            **options,  # type: ignore[arg-type]
        )

    def _layer(self) -> str:
        layer = os.path.join(self.upper, "upper")
        if not os.path.isdir(layer):
            raise ImageError(
                f"nothing ran in {self.record.name} yet", f"sandbox run --name {self.record.name}"
            )
        return layer

    def close(self) -> None:
        """Let others have it; again is no error."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Box:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Boxes:
    """The boxes of this user.

    Raises:
        ImageError: their directory can't be made or used.
    """

    def __init__(self, store: Store | None = None) -> None:
        self.path = os.path.join(paths.state_dir(), "boxes")
        self.store = store or Store()
        with telling(f"use {self.path}"):
            make_directory(os.path.abspath(self.path))
            self.path = os.path.realpath(self.path)

    @telling("list boxes")
    def all(self) -> list[Record]:
        """All of them, by name; those whose record is damaged are left out."""
        self._sweep()
        found = []
        for name in sorted(os.listdir(self.path)):
            with contextlib.suppress(ImageError):
                if _NAME.fullmatch(name):
                    found.append(self._record(name))
        return found

    def exists(self, name: str) -> bool:
        """Whether there is one.

        Raises:
            ImageError: *name* can't be a box's.
        """
        return os.path.isdir(self._at(name))

    @telling("look at a box")
    def look(self, name: str) -> tuple[Record, str]:
        """What *name* is, and its directory, whoever uses it.

        Raises:
            ImageError: there is none.
        """
        if not self.exists(name):
            raise _missing(name)
        return self._record(name), self._at(name)

    def running(self, name: str) -> bool:
        """Whether somebody uses it now."""
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(self._at(name), _DIRECTORY)
            try:
                return not try_lock(fd, shared=True)  # as who only looks, see `_take`
            finally:
                os.close(fd)
        return False

    @telling("open a box")
    def open(self, name: str) -> Box:
        """The box *name*, for nobody else meanwhile.

        Raises:
            ImageError: there is none, or it is in use.
        """
        self._sweep()
        fd = self._taken(name)
        try:
            if not is_at(fd, self._at(name)):  # removed, or replaced, meanwhile
                raise _missing(name)
            record = self._record(name)
            self._pin_again(record)
            return Box(record, self._at(name), fd, self.store)
        except BaseException:
            os.close(fd)
            raise

    @telling("make a box")
    def make(self, name: str, reference: str, image: Image, driver: str = "overlay") -> Box:
        """A new box of *image*, which was asked for as *reference*.

        Raises:
            ImageError: there is one of that name.
        """
        final = self._at(name)
        self._sweep()
        record = Record(name, reference, image.descriptor, driver, int(time.time()))
        new = os.path.join(self.path, f".new-{os.urandom(8).hex()}")
        fd = take(new, _make_and_open)
        unpacked = self.store.unpacked
        try:
            os.mkdir(os.path.join(new, "files"), 0o700)
            write_file(os.path.join(new, "ids.json"), unpacked.ids.record())
            unpacked.give(os.path.join(new, "files"))
            write_file(os.path.join(new, "box.json"), record.to_json())
            with self._changing():
                if os.path.lexists(final):
                    raise ImageError(f"there is a sandbox {name} already", f"go on in it: run --name {name}")
                with self.store.hold():
                    self.store.set_ref(self._pin(name), image.descriptor)
                    os.rename(new, final)
            flush(self.path)
        except BaseException:
            os.close(fd)
            unpacked.discard(new)
            raise
        box = Box(record, final, fd, self.store)
        box.new = True
        return box

    @telling("remove a box")
    def remove(self, name: str) -> None:
        """Remove *name* and what changed in it.

        Raises:
            ImageError: there is none, it is in use, or some of it can't be removed.
        """
        fd = self._taken(name)
        try:
            gone = os.path.join(self.path, f".gone-{os.urandom(8).hex()}")
            with self._changing():
                if not is_at(fd, self._at(name)):  # removed, or replaced, meanwhile
                    raise _missing(name)
                os.rename(self._at(name), gone)
                flush(self.path)
                self.store.remove_ref(self._pin(name))
        finally:
            os.close(fd)
        self.store.unpacked.discard(gone)

    def _at(self, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ImageError(
                f"{name!a} is no sandbox's name: up to 63 letters, digits, _ . -, a letter or digit first",
                "choose one such as my-box.1",
            )
        return os.path.join(self.path, name)

    def _taken(self, name: str) -> int:
        """The directory of a box, locked for nobody else."""
        try:
            fd = os.open(self._at(name), _DIRECTORY)
        except FileNotFoundError:
            raise _missing(name) from None
        try:
            if not _take(fd):
                raise _in_use(name)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _record(self, name: str) -> Record:
        path = self._at(name)
        try:
            with open(os.path.join(path, "box.json"), "rb") as file:
                return Record.from_json(file.read(_MAX_RECORD), path)
        except FileNotFoundError:
            raise ImageError(f"{path} has no box.json", f"sandbox rm {name}") from None

    def _pin(self, name: str) -> str:
        """The name in the store that keeps what a box is made of; there may be boxes elsewhere with the
        same store."""
        whose = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]
        return f"@box/{whose}/{name}"

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """While a name and its pin, which keeps the image, come and go: for moments."""
        fd = os.open(self.path, _DIRECTORY)
        try:
            wait_for_lock(fd)
            yield
        finally:
            os.close(fd)

    def _sweep(self) -> None:
        """Remove what crashes left: what nobody has a lock on, and its pin."""
        for name in _unfinished(self.path):
            with contextlib.suppress(SandboxError, OSError):
                path = os.path.join(self.path, name)
                fd = os.open(path, _DIRECTORY)
                try:
                    if not try_lock(fd):
                        continue
                    self._unpin(path)
                finally:
                    os.close(fd)
                self.store.unpacked.discard(path)

    def _pin_again(self, record: Record) -> None:
        """Keep the image again, where a repair of the store's names has lost the pin, or the state directory
        was moved."""
        pin = self._pin(record.name)
        if self.store.get_ref(pin) is None and self.store.has_blob(record.manifest.digest):
            with self._changing(), self.store.hold():
                self.store.set_ref(pin, record.manifest)

    def _unpin(self, path: str) -> None:
        """Forget the pin of the box that *path* was, or was to be, unless there is another of its name."""
        try:
            with open(os.path.join(path, "box.json"), "rb") as file:
                name = Record.from_json(file.read(_MAX_RECORD), path).name
        except (OSError, ImageError):
            return
        with self._changing():
            if not os.path.lexists(self._at(name)):
                self.store.remove_ref(self._pin(name))


def _take(fd: int) -> bool:
    """Lock a box, or say that somebody uses it. Who only looks whether somebody does has the lock, too, for a
    moment, but shared: that is waited for."""
    while not try_lock(fd):
        if not try_lock(fd, shared=True):
            return False
        fcntl.flock(fd, fcntl.LOCK_UN)  # or two who wait would keep each other waiting
        time.sleep(_MOMENT)
    return True


def _missing(name: str) -> ImageError:
    return ImageError(f"there is no sandbox {name}", "sandbox ps -a")


def _in_use(name: str) -> ImageError:
    return ImageError(f"{name} is in use: it runs, or is being looked at", f"wait for {name} to end")


def _make_and_open(path: str) -> int:
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    return os.open(path, _DIRECTORY)


def _unfinished(path: str) -> Iterator[str]:
    for name in os.listdir(path):
        if name.startswith((".new-", ".gone-")):
            yield name
