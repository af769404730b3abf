"""Roots made of layers: what planning has to know of them, and the seam to what knows images.

Images lie above planning and launching, which their own confined programs use; and yet a plan needs the
layers of the image that its profile names. So planning says here what it wants of them, as a `Provider`,
and who that is, by name: `provider()` imports it when a root is of layers, and never else. Nothing
of images is imported by this module, and a host's root costs nothing of theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Protocol, TextIO

if TYPE_CHECKING:
    from sandbox.host.model import Host
    from sandbox.ids import IdPlan

__all__ = ["MOST", "Layered", "Layers", "Lease", "Provider", "Seen", "Settings", "Tree", "Wanted", "provider"]

#: who knows images: a module with the functions of `Provider`
_PROVIDER = "sandbox.image.root"

#: most lower layers of an overlay (Linux: OVL_MAX_STACK)
MOST = 500


class Wanted(NamedTuple):
    """One layer of a root: an image by its reference, or a directory by its real path."""

    kind: str
    name: str


class Lease(NamedTuple):
    """What a launch takes (`sandbox.leases.take`) so that unpacked layers stay: the store's path, the
    lease's name, and the layers. With none, what only one sandbox has: a directory, and a file in it."""

    store: str
    name: str
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Settings:
    """What an image says of the processes that run from it, as written: all of it may be hostile."""

    reference: str
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    user: str = ""
    workdir: str = ""
    volumes: tuple[str, ...] = ()
    stop_signal: str = ""


@dataclass(frozen=True, slots=True)
class Layered:
    """A root of layers. `lowers` are their real paths, uppermost first; `ids` the map that the files of
    images have, None where there are only directories; `directories` those of the layers that are the host's
    own; `looked` the files that decided all this; `image` the digest of its manifest, for boxes."""

    lowers: tuple[str, ...]
    ids: IdPlan | None = None
    leases: tuple[Lease, ...] = ()
    settings: Settings | None = None
    directories: tuple[str, ...] = ()
    looked: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    image: str = ""


@dataclass(frozen=True, slots=True)
class Layers:
    """What a call says of a root of layers besides its profile.

    Attributes:
        given: layers that take the place of the profile's, as a builder has them.
        upper: a directory that has, and keeps, the writable layer; "" for one that goes with the sandbox.
        progress: who is told of a pull.
    """

    given: Layered | None = None
    upper: str = ""
    progress: TextIO | None = None


class Seen(NamedTuple):
    """A directory that layers show: its owner on the host, and its parts in the layers, uppermost first."""

    uid: int
    gid: int
    parts: tuple[str, ...]


class Tree(Protocol):
    """Looking into layers as they will show together, through no link of theirs."""

    def directories(self, path: str) -> Mapping[str, Seen]:
        """The directories on the way to *path*, to the first that is missing, a link, or not ours to see."""

    def text(self, path: str) -> str:
        """A small regular file; "" for anything else."""

    def __enter__(self) -> Tree: ...

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Provider(Protocol):
    """Who knows images."""

    def gather(self, wanted: Sequence[Wanted], host: Host, progress: TextIO | None) -> Layered:
        """Have the layers of *wanted*, lowest first, unpacked; an image that is not here is pulled, and
        *progress* told.

        Raises:
            ImageError: one can't be had or used.
        """

    def tree(self, lowers: Sequence[str]) -> Tree:
        """Look into *lowers*, uppermost first."""


def provider() -> Provider:
    """Who knows images, imported now."""
    module: Provider = import_module(_PROVIDER)
    return module
