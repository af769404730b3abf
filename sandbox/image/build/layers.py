"""Layers made by the confined child: what COPY, ADD and WORKDIR change of the layers below them."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, TYPE_CHECKING

from sandbox.errors import ImageError, LayerError
from sandbox.image.bound import Bound
from sandbox.image.compose import Packed, pack
from sandbox.image.layer.select import Line
from sandbox.image.store import Layered, Stack, Store

if TYPE_CHECKING:
    from sandbox.image.confined import Job

__all__ = ["LayerMaker"]

_PIPE = -1  # subprocess.PIPE
_MAX_LINE = 1 << 17

Send = Callable[[IO[bytes]], None]


class LayerMaker:
    """Makes layers in *store*. With *epoch*, in seconds since 1970, no file is younger."""

    def __init__(self, store: Store, epoch: int | None) -> None:
        self._store = store
        self._latest = epoch
        self._now = (epoch if epoch is not None else int(time.time())) * 10**9

    def place(self, lower: Layered | None, request: Mapping[str, object], send: Send) -> Packed | None:
        """A layer that puts what *send* writes, an archive, into *lower*; None when nothing changes.

        Raises:
            LayerError: it can't be put there, or *send* failed.
        """
        failed: list[BaseException] = []
        incoming, outgoing = os.pipe2(os.O_CLOEXEC)

        def feed() -> None:
            try:
                with open(outgoing, "wb", 1 << 18) as out:
                    send(out)
            except BrokenPipeError:
                return  # the child says why
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=feed, daemon=True)
        try:
            with self._binds(lower) as binds, self._start("place", request, binds, incoming) as job:
                os.close(incoming)
                incoming = -1
                thread.start()
                layer = pack(self._store, _output(job))
                thread.join()
        except LayerError:
            if thread.ident is not None:
                thread.join()
            if failed and isinstance(failed[0], ImageError):
                raise failed[0] from None
            raise
        finally:
            if incoming >= 0:
                os.close(incoming)
            if thread.ident is None:
                os.close(outgoing)
        if failed:
            raise failed[0]
        return layer if job.answer.get("entries") else None

    def copy(self, lower: Layered | None, source: Layered, request: Mapping[str, object]) -> Packed | None:
        """A layer that puts what *request* selects of *source* into *lower*."""
        with (
            self._binds(lower) as binds,
            self._binds(source, "/from") as more,
            self._start("copy", request, [*binds, *more]) as job,
        ):
            layer = pack(self._store, _output(job))
        return layer if job.answer.get("entries") else None

    def workdir(self, lower: Layered | None, path: str, owner: str) -> Packed | None:
        """A layer in which the directory *path* is, *owner*'s ("": root's); None when it is there."""
        request = {"destination": path, "owner": owner}
        with self._binds(lower) as binds, self._start("workdir", request, binds) as job:
            layer = pack(self._store, _output(job))
        return layer if job.answer.get("entries") else None

    def commit(self, lower: Layered, upper: str, ours: Sequence[str], driver: str) -> Packed | None:
        """A layer of what the writable one in the directory *upper*, which *driver* mounted, changes; *ours*
        are paths that setting up the sandbox made."""
        with self._binds(lower) as binds:
            request = {"driver": driver, "ours": list(ours)}
            with self._start("commit", request, [Bound(upper, "/layer"), *binds]) as job:
                layer = pack(self._store, _output(job))
        return layer if job.answer.get("entries") else None

    def select(self, source: Layered, request: Mapping[str, object]) -> tuple[str, list[Line]]:
        """The digest of what *request* selects of *source*, and the lines that it is made of."""
        lines: list[Line] = []
        with self._binds(source, "/from") as binds, self._start("select", request, binds) as job:
            while line := _output(job).readline(_MAX_LINE):
                lines.append(_line(line))
        return str(job.answer.get("digest")), lines

    def stack(self, layers: Layered) -> Stack | None:
        """The layers, unpacked; None where there are none."""
        return self._store.stack(layers) if layers.sources() else None

    @contextlib.contextmanager
    def _binds(self, layers: Layered | None, name: str = "/lower") -> Iterator[list[Bound]]:
        stack = self.stack(layers) if layers is not None else None
        if stack is None:
            yield []
            return
        with stack.lease:
            yield [Bound(path, f"{name}/{number}") for number, path in enumerate(stack.lowers)]

    def _start(
        self, command: str, request: Mapping[str, object], binds: Sequence[Bound], stdin: int | None = None
    ) -> contextlib.AbstractContextManager[Job]:
        asked = {"size": self._store.limits.size, "latest": self._latest, "now": self._now, **request}
        return self._store.confined.start(command, asked, binds, stdin=stdin, stdout=_PIPE)


def _output(job: Job) -> IO[bytes]:
    assert job.stdout is not None
    return job.stdout


def _line(data: bytes) -> Line:
    try:
        name, said, content = json.loads(data)
    except (ValueError, TypeError):
        raise ImageError("the list of files makes no sense") from None
    return str(name), str(said), str(content)
