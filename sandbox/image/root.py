"""Images as roots of sandboxes: what planning asks of us (`sandbox.plan.layers.Provider`).

An image that is not here is pulled; its layers are unpacked where they are not yet. What an image says of
its processes is passed on as it is: planning decides what of it may count.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TextIO

from sandbox.errors import ImageError
from sandbox.host.model import Host
from sandbox.image.layer.merged import DIRECTORY, Merged, Shown
from sandbox.image.store import Image, Store, lease_of
from sandbox.plan.layers import MOST, Layered, Lease, Seen, Settings, Wanted

__all__ = ["find", "gather", "layered", "tree"]

#: bytes of a file that is read, and directories deep that are looked into
_MAX_TEXT, _MAX_DEPTH = 1 << 20, 100


def gather(wanted: Sequence[Wanted], host: Host, progress: TextIO | None) -> Layered:
    """See `sandbox.plan.layers.Provider`."""
    store = Store(host=host)
    lowers: list[str] = []
    leases: list[Lease] = []
    settings: Settings | None = None
    notes: list[str] = []
    image = ""
    for number, each in enumerate(wanted):
        if each.kind == "dir":
            lowers.append(each.name)
            continue
        one = layered(store, each.name, find(store, each.name, progress))
        if settings is None or number == 0:
            settings, image = one.settings, one.image
        lowers += reversed(one.lowers)
        leases += one.leases
        notes += one.notes
    if len(lowers) > MOST:
        raise ImageError(f"the root has {len(lowers)} layers, and the kernel takes {MOST}")
    return Layered(
        lowers=tuple(reversed(lowers)),
        ids=store.unpacked.ids.plan if leases else None,
        leases=tuple(dict.fromkeys(leases)),
        settings=settings,
        directories=tuple(each.name for each in wanted if each.kind == "dir"),
        looked=(os.path.join(store.path, "index.json"),) if leases else (),
        notes=tuple(dict.fromkeys(notes)),
        image=image,
    )


def layered(store: Store, name: str, image: Image) -> Layered:
    """One *image* as a root, its layers unpacked; it was asked for as *name*.

    Raises:
        ImageError: it can't be unpacked.
    """
    stack = store.stack(image)
    with stack.lease:
        return Layered(
            lowers=stack.lowers,
            ids=stack.ids,
            leases=(Lease(store.path, *lease_of(stack.layers)),),
            settings=_settings(name, image),
            looked=(os.path.join(store.path, "index.json"),),
            notes=tuple(stack.notes),
            image=str(image.descriptor.digest),
        )


def find(store: Store, name: str, progress: TextIO | None) -> Image:
    """The image called *name*, pulled when it is not here.

    Raises:
        ImageError: it can't be had.
    """
    from sandbox.image import listing
    from sandbox.image.reference import parse_reference

    try:
        return store.image(listing.resolve(store, name)[1], name)
    except ImageError as missing:
        try:
            reference = parse_reference(name)
        except ImageError:
            raise missing from None
        if reference.key in store.refs.all():
            raise
    from sandbox.image.config import load_registries
    from sandbox.image.progress import Progress, open_progress
    from sandbox.image.pull import pull
    from sandbox.image.transfer import Options

    registries = load_registries()
    with open_progress(progress) if progress is not None else Progress() as told:
        told.say(f"pulling {reference.familiar}")
        options = Options(registries, told, registries.parallel, registries.max_image)
        try:
            pulled = pull(reference, store, None, options)
        except ImageError as error:
            error.message = f"{reference.familiar} is not here, and can't be pulled: {error.message}"
            error.mend = error.mend or f"sandbox images    (what is here); sandbox pull {reference.familiar}"
            raise
    return store.image(pulled.descriptor, name)


def _settings(name: str, image: Image) -> Settings:
    said = image.config.config
    return Settings(
        reference=name,
        entrypoint=said.entrypoint,
        cmd=said.cmd,
        env=said.env,
        user=said.user,
        workdir=said.workdir,
        volumes=tuple(said.volumes),
        stop_signal=said.stop_signal,
    )


def tree(lowers: Sequence[str]) -> Tree:
    """See `sandbox.plan.layers.Provider`."""
    return Tree(lowers)


class Tree:
    """See `sandbox.plan.layers.Tree`."""

    def __init__(self, lowers: Sequence[str]) -> None:
        self._lowers = tuple(lowers)
        self._roots: list[int] = []

    def __enter__(self) -> Tree:
        try:
            for lower in self._lowers:
                self._roots.append(os.open(lower, DIRECTORY))
        except OSError as error:
            self._close()
            raise ImageError(f"cannot look into the layer {lower}: {error.strerror}") from error
        self._merged = Merged(self._roots)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._merged.close()
        self._close()

    def _close(self) -> None:
        while self._roots:
            os.close(self._roots.pop())

    def directories(self, path: str) -> dict[str, Seen]:
        found = {}
        for shown in self._walk(path):
            if shown.is_directory:
                inside = os.fsdecode(b"/" + b"/".join(shown.path))
                parts = tuple(self._lowers[layer] + inside for layer in shown.layers)
                found[inside] = Seen(shown.status.st_uid, shown.status.st_gid, parts)
        return found

    def _walk(self, path: str) -> Iterator[Shown]:
        """What is on the way to *path*, in order; nothing behind what is no directory."""
        shown = self._merged.root()
        for name in path.strip("/").split("/")[:_MAX_DEPTH]:
            try:
                inner = self._merged.look(shown, os.fsencode(name))
            except OSError:  # another id's, and closed; or too long a name
                return
            if inner is None:
                return
            yield inner
            if not inner.is_directory:
                return
            shown = inner

    def text(self, path: str) -> str:
        names = path.strip("/").split("/")
        walked = list(self._walk(path))
        if len(walked) != len(names) or not stat.S_ISREG(walked[-1].status.st_mode):
            return ""
        try:
            fd = self._merged.open(walked[-1])
        except OSError:
            return ""
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return ""
            data = file.read(_MAX_TEXT + 1)
        return data.decode("utf-8", "surrogateescape") if len(data) <= _MAX_TEXT else ""
