"""Unpacked layers: directories that overlayfs can mount, shared by all sandboxes, and made again at will.

A layer is named by its diffID when it means the same on top of any other, else by its chainID
(image-spec, config.md), and by the map of ids whose files it has. It is made in `work/`, by the confined
child, under a lock of its own, and renamed when all of it is on disk: a directory in `layers/`
is always whole. What is to go is renamed into `work/` first. Whatever is found there without somebody
who holds its lock was left by a crash, and is removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from sandbox.errors import DigestError, ImageError, LayerError, SandboxError
from sandbox.image.ahead import Ahead
from sandbox.image.bound import Bound
from sandbox.image.digest import Digest
from sandbox.image.durable import (
    Waiting,
    flush,
    flush_filesystem,
    is_at,
    make_directory,
    take,
    try_lock,
    write_file,
)
from sandbox.image.layer.removal import empty

if TYPE_CHECKING:
    from sandbox.host.model import Host
    from sandbox.ids import IdPlan
    from sandbox.image.confined import Confined

__all__ = ["Ids", "Layer", "Limits", "Source", "Unpacked", "chain_ids"]

#: gives a blob as an open file
OpenBlob = Callable[[Digest], BinaryIO]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_RECORD = 1 << 16  # bytes of layer.json and ids.json


class Limits(NamedTuple):
    """What one layer may have: `entries`; `size`, bytes of all files; and how far it may expand
    (`sandbox.image.layer.compress.Budget`)."""

    entries: int = 900_000
    size: int = 1 << 40
    floor: int = 1 << 30
    ratio: int = 200


class Source(NamedTuple):
    """A layer of an image: the blob that it comes as, and the digest of that uncompressed."""

    blob: Digest
    diff_id: Digest


class Ids(NamedTuple):
    """Whose files a layer has. `squash`: everything belongs to the first id."""

    plan: IdPlan
    squash: bool

    @property
    def tag(self) -> str:
        """A short name of it."""
        return hashlib.sha256(self.record()).hexdigest()[:12]

    def record(self) -> bytes:
        """To be kept with the files, so that they can be removed when the ids here are others."""
        uids, gids = (
            [(line.inside, line.outside, line.count) for line in lines]
            for lines in (self.plan.uids, self.plan.gids)
        )
        return json.dumps({"uids": uids, "gids": gids, "squash": self.squash}).encode()


class Layer(NamedTuple):
    """An unpacked layer. `files` is its directory; `usual_root`: its root directory is root's, 0755,
    without attributes; `alone`: it means the same on any others; `squashed`, `devices`, `xattrs`: how
    many files have another owner than they should, and how much was left out."""

    key: str
    files: str
    usual_root: bool
    own_root: bool
    alone: bool
    squashed: int = 0
    devices: int = 0
    xattrs: int = 0


def chain_ids(diff_ids: Sequence[Digest]) -> list[Digest]:
    """The chainID of each layer with all below it, lowest first (image-spec, config.md, "Layer ChainID")."""
    chain: list[Digest] = []
    for diff_id in diff_ids:
        text = f"{chain[-1]} {diff_id}" if chain else ""
        chain.append(Digest(f"sha256:{hashlib.sha256(text.encode()).hexdigest()}") if text else diff_id)
    return chain


class Unpacked:
    """The unpacked layers below *top*, an existing real path."""

    def __init__(self, top: str, host: Host, confined: Confined, ids: Ids, limits: Limits) -> None:
        self.ids = ids
        self._layers = os.path.join(top, "layers")
        self._work = os.path.join(top, "work")
        self._host = host
        self.confined = confined
        self._limits = limits

    def find(self, sources: Sequence[Source]) -> list[Layer | None]:
        """Each layer of a stack, lowest first, as far as it is unpacked."""
        found: list[Layer | None] = []
        chain = chain_ids([source.diff_id for source in sources])
        for number, source in enumerate(sources):
            usual = number == 0 or found[-1] is None or found[-1].usual_root
            found.append(self._find(source, chain[number], usual, number == 0))
        return found

    def _find(self, source: Source, chain_id: Digest, usual: bool, lowest: bool) -> Layer | None:
        layer = self.load(self._key(source.diff_id))
        if layer and (lowest or (layer.alone and (usual or layer.own_root))):
            return layer
        return None if lowest else self.load(self._key(chain_id))

    def _key(self, digest: Digest) -> str:
        return f"{digest.algorithm}-{digest.hex}.{self.ids.tag}"

    def load(self, key: str) -> Layer | None:
        """An unpacked layer by its name; None when there is none, or a damaged one."""
        path = os.path.join(self._layers, key)
        record = _read_record(os.path.join(path, "layer.json"))
        try:
            flags = [bool(record[name]) for name in ("usual_root", "own_root", "alone")]
            counts = [int(record[name]) for name in ("squashed", "devices", "xattrs")]
        except (KeyError, TypeError, ValueError):
            return None
        return Layer(key, os.path.join(path, "files"), *flags, *counts)

    # --- unpacking ----------------------------------------------------------------------------------

    def ensure(
        self, sources: Sequence[Source], open_blob: OpenBlob, *, waiting: Waiting | None = None
    ) -> list[Layer]:
        """All layers of a stack, lowest first, unpacked where they are not yet.

        *open_blob* gives a blob as an open file. *waiting* is called while another process unpacks the
        same layer; it may raise.

        Raises:
            LayerError: a layer can't be unpacked.
            DigestError: one is not what its image says.
            SandboxError: the confined child can't be started.
        """
        found = self.find(sources)
        if all(found):
            return [layer for layer in found if layer]
        self.recover()
        chain = chain_ids([source.diff_id for source in sources])
        done: list[Layer] = []
        missing = [source for source, layer in zip(sources[1:], found[1:], strict=True) if layer is None]
        with Ahead(missing, lambda source: self._make_alone(source, open_blob)) as ahead:
            for number, source in enumerate(sources):
                ahead.wait(source)
                usual = number == 0 or done[-1].usual_root
                layer = self._find(source, chain[number], usual, number == 0)
                done.append(layer or self._make(source, chain[number], usual, done, open_blob, waiting))
        return done

    def _make_alone(self, source: Source, open_blob: OpenBlob) -> None:
        """Unpack a layer before those below it, if it means the same on any; if not, or if something is wrong
        with it, it is unpacked in its turn."""
        with contextlib.suppress(SandboxError, OSError):
            key = self._key(source.diff_id)
            with self.workplace(f"alone-{key}", self.ids) as work:
                if self.load(key) is None:
                    self._keep(work, source, self.unpack(work, source, (), open_blob, alone=True), key)

    def _make(
        self,
        source: Source,
        chain_id: Digest,
        usual: bool,
        lower: Sequence[Layer],
        open_blob: OpenBlob,
        waiting: Waiting | None,
    ) -> Layer:
        with self.workplace(f"unpack-{self._key(chain_id)}", self.ids, waiting) as work:
            layer = self._find(source, chain_id, usual, not lower)
            if layer is not None:  # somebody else did it while we waited
                return layer
            answer = self.unpack(work, source, lower, open_blob)
            key = self._key(source.diff_id if answer.get("alone") else chain_id)
            self._keep(work, source, answer, key)
        layer = self.load(key)
        if layer is None:
            raise ImageError(f"the unpacked layer {key} is gone again", "sandbox image check --repair")
        return layer

    def _keep(self, work: str, source: Source, answer: Mapping[str, Any], key: str) -> None:
        """Make what was unpacked in *work* the unpacked layer *key*."""
        record = {"blob": source.blob, "diff_id": source.diff_id, **_checked(answer)}
        write_file(os.path.join(work, "layer.json"), json.dumps(record).encode())
        self._finish(work, key)

    def unpack(
        self,
        work: str,
        source: Source,
        lower: Sequence[Layer],
        open_blob: OpenBlob,
        *,
        alone: bool = False,
    ) -> dict[str, Any]:
        """Unpack a layer into `files` of the directory *work*, on top of *lower*; what the child says.

        Raises:
            LayerError, DigestError: as `ensure`; with *alone*, also that it can't be unpacked alone.
        """
        files = os.path.join(work, "files")
        os.mkdir(files, 0o700)
        self.give(files)
        binds = [Bound(files, "/layer", True)]
        binds += [Bound(layer.files, f"/lower/{n}") for n, layer in enumerate(reversed(lower))]
        request = {**self._limits._asdict(), "squash": self.ids.squash, "alone": alone}
        request["known"] = source.blob if source.blob == source.diff_id else ""
        with open_blob(source.blob) as blob:
            stdin = None
            if os.geteuid() == 0:  # the child is another user, whom a blob's mode keeps out
                stdin = blob
            else:  # through stdin it would be a pipe's, and copied once more
                binds.append(Bound(blob.name, "/blob"))
            answer = self.confined.run("unpack", request, binds, stdin=stdin)
        if alone and answer.get("alone") is not True:
            raise LayerError(f"the layer {source.blob} means something only on top of others")
        if answer.get("digest") != source.diff_id:
            raise DigestError(
                f"the layer {source.blob} has another content than its image says: {answer.get('digest')} "
                f"rather than {source.diff_id}",
            )
        return answer

    def give(self, directory: str) -> None:
        """Called by root, the child is another user."""
        plan = self.ids.plan
        if os.geteuid() == 0:
            os.chown(directory, plan.host_uid, plan.host_gid)

    def _finish(self, work: str, key: str) -> None:
        make_directory(self._layers)
        flush_filesystem(work)
        final = os.path.join(self._layers, key)
        if os.path.exists(final) and self.load(key) is None:
            self.discard(self.set_aside(key))  # damaged: nobody could use it
        try:
            os.rename(work, final)
        except OSError:
            if self.load(key) is None:
                raise
            return  # the same layer was unpacked on top of others meanwhile
        flush(self._layers)

    # --- places to work in --------------------------------------------------------------------------

    @contextlib.contextmanager
    def workplace(self, name: str, ids: Ids | None = None, waiting: Waiting | None = None) -> Iterator[str]:
        """A new directory in `work/`, locked; removed at the end unless it was renamed."""
        make_directory(self._work)
        path = os.path.join(self._work, name)
        fd = take(path, _make_and_open, waiting=waiting)
        try:
            while os.listdir(fd):  # of somebody who did not come to an end
                self._remove(path)
                os.close(fd)
                fd = -1
                fd = take(path, _make_and_open, waiting=waiting)
            write_file(os.path.join(path, "ids.json"), (ids or self.ids).record())
            try:
                yield path
            finally:
                if is_at(fd, path):  # once it was renamed, the next who comes makes another there
                    self._remove(path)
        finally:
            if fd >= 0:
                os.close(fd)

    def recover(self) -> int:
        """Remove what crashes left in `work/`; how many directories. What can't be removed stays."""
        before = _names(self._work)
        for name in before:
            with contextlib.suppress(SandboxError, OSError):
                self.discard(os.path.join(self._work, name))
        return len(before) - len(_names(self._work))

    def all(self) -> list[str]:
        """The names of all unpacked layers, damaged ones too."""
        return _names(self._layers)

    def measure(self, layer: Layer) -> int:
        """Bytes on disk of a layer; measured once, for it does not change."""
        record = os.path.join(self._layers, layer.key, "disk.json")
        known = _read_record(record).get("disk")
        if isinstance(known, int):
            return known
        answer = self.confined.run("measure", {"digest": False}, [Bound(layer.files, "/layer")])
        found = int(answer["disk"])
        with contextlib.suppress(FileNotFoundError):  # it was removed meanwhile
            write_file(record, json.dumps({"disk": found}).encode())
        return found

    def compare(self, key: str, sources: Sequence[Source], open_blob: OpenBlob) -> str:
        """Unpack the last layer of a stack again, beside the unpacked layer *key*, and compare: what is
        wrong with that, "" for nothing. Those below it must be unpacked.

        Raises:
            ImageError, SandboxError: as `ensure`.
        """
        lower = [layer for layer in self.find(sources[:-1]) if layer]
        with self.workplace(f"check-{key}", self.ids) as work:
            self.unpack(work, sources[-1], lower, open_blob)
            paths = os.path.join(work, "files"), os.path.join(self._layers, key, "files")
            digests = []
            for path in paths:
                answer = self.confined.run("measure", {"digest": True}, [Bound(path, "/layer")])
                digests.append(answer.get("tree"))
        return "" if digests[0] == digests[1] else "its files are not those of the image's layer"

    def set_aside(self, key: str) -> str:
        """Take an unpacked layer out of reach; where it is now, for `discard`. Nobody may use it: the caller,
        who holds the store's lock, has seen to that."""
        make_directory(self._work)
        aside = os.path.join(self._work, f"gone-{key}-{os.urandom(4).hex()}")
        os.rename(os.path.join(self._layers, key), aside)
        flush(self._layers)
        return aside

    def discard(self, path: str) -> None:
        """Remove what was set aside, unless somebody else does that already.

        Raises:
            ImageError: some of it can't be removed.
        """
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(path, _DIRECTORY)
            try:
                if try_lock(fd) and is_at(fd, path):  # its owner may have renamed it meanwhile
                    self._remove(path)
            finally:
                os.close(fd)

    def _remove(self, path: str) -> None:
        """Remove a directory of ours, whoever its files belong to."""
        record = _read_record(os.path.join(path, "ids.json"))
        files = os.path.join(path, "files")
        if os.path.lexists(files):
            self._empty(files, record)
            os.rmdir(files)
        fd = os.open(path, _DIRECTORY)
        try:
            empty(fd)
        finally:
            os.close(fd)
        os.rmdir(path)

    def _empty(self, files: str, record: Mapping[str, Any]) -> None:
        """As ourselves if that does it; else in the child, with the ids that the files were made with."""
        try:
            fd = os.open(files, _DIRECTORY)
            try:
                empty(fd)
            finally:
                os.close(fd)
            return
        except PermissionError:
            pass
        ids = _recorded_ids(record, self._host) or self.ids
        try:
            self.confined.with_ids(ids.plan).run("remove", {}, [Bound(files, "/layer", True)])
        except LayerError as error:
            raise ImageError(f"cannot remove {files}: {error.message}", f"sudo rm -r {files}") from error
        except SandboxError as error:
            raise ImageError(
                f"cannot remove {files}, which has files of ids that are not yours any more: {error.message}",
                f"sudo rm -r {files}",
            ) from error


def _checked(answer: Mapping[str, Any]) -> dict[str, Any]:
    """What the child says about a layer, as it is recorded."""
    flags = ("alone", "own_root", "usual_root")
    counts = ("entries", "size", "squashed", "devices", "xattrs")
    if not all(isinstance(answer.get(name), bool) for name in flags) or not all(
        type(answer.get(name)) is int for name in counts
    ):
        raise ImageError("the confined program that unpacks gave an answer that makes no sense")
    return {name: answer[name] for name in (*flags, *counts)}


def _recorded_ids(record: Mapping[str, Any], host: Host) -> Ids | None:
    """The ids that a directory's files were made with; None when the record is damaged."""
    from sandbox.ids import IdMap, IdPlan

    try:
        uids, gids = (tuple(IdMap(*map(int, line)) for line in record[name]) for name in ("uids", "gids"))
        squash = bool(record["squash"])
        outside = uids[0].outside, gids[0].outside
    except (KeyError, TypeError, ValueError, IndexError):
        return None
    single = len(uids) == len(gids) == 1 == uids[0].count == gids[0].count
    return Ids(IdPlan(uids, gids, 0, 0, not single and host.uid != 0, single, *outside), squash)


def _make_and_open(path: str) -> int:
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    return os.open(path, _DIRECTORY)


def _read_record(path: str) -> Mapping[str, Any]:
    """A small JSON object of ours; empty when it is missing or damaged."""
    try:
        with open(path, "rb") as file:
            record = json.loads(file.read(_MAX_RECORD))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
