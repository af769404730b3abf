"""Into a repository: blobs and manifests (distribution-spec, "Push").

A blob that is there is not sent, and one that another repository of the registry has is mounted from it.
Else it is sent in one request; where that fails, because the registry limits a request or the line a
connection, in chunks, each taken up from what the registry says it has.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import IO, Literal
from urllib.parse import urlencode

from sandbox.errors import DigestError, ImageError, RegistryError
from sandbox.image.digest import Digest, VerifiedReader, digest_of
from sandbox.image.registry.client import has_blob
from sandbox.image.registry.session import Session
from sandbox.image.registry.transport import Answer, Body, Request, Unreachable

__all__ = ["CHUNK", "Outgoing", "Pushed", "push_blob", "push_manifest", "push_scope"]

#: Bytes of a chunk, where a registry doesn't ask for more.
CHUNK = 16 << 20
#: The largest chunk that a registry may ask for.
_LARGEST_CHUNK = 1 << 30
_RANGE = re.compile(r"(?:bytes=)?0-([0-9]{1,19})")

#: What became of a blob.
Pushed = Literal["there", "mounted", "sent"]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A blob to send. *open* gives it from its beginning, seekable, as often as it is called; *at* is told
    how many bytes were sent."""

    digest: Digest
    size: int
    open: Callable[[], IO[bytes]]
    at: Callable[[int], None]


def push_scope(session: Session) -> tuple[str, ...]:
    """What a token must be good for to write."""
    return (f"repository:{session.endpoint.repository}:pull,push",)


def push_blob(session: Session, blob: Outgoing, mount_from: str = "") -> Pushed:
    """See that the repository has *blob*; *mount_from* is a repository of the registry that may have it, too.

    Raises:
        RegistryError: the registry refuses, or can't be reached.
        ImageError: the blob can't be read, or is not what its digest says.
    """
    if has_blob(session, blob.digest, push_scope(session)):
        return "there"
    if mount_from and _mount(session, blob.digest, mount_from):
        return "mounted"
    try:
        _send_whole(session, blob)
    except RegistryError as error:
        if not _worth_chunks(error):
            raise
        _Chunks(session, blob).send()
    return "sent"


def push_manifest(session: Session, identifier: str, raw: bytes, media_type: str) -> None:
    """Put a manifest or index under a tag or its digest; what it names must be there.

    Raises:
        RegistryError: the registry refuses, or can't be reached.
    """
    headers = {"Content-Type": media_type, "Content-Length": str(len(raw))}
    request = Request(
        "PUT", session.url(f"manifests/{identifier}"), headers, push_scope(session), lambda: io.BytesIO(raw)
    )
    with session.ask(request) as answer:
        if not 200 <= answer.status < 300:
            raise session.failed(answer, f"pushing the manifest {identifier}")
        said = answer.header("Docker-Content-Digest")
    digest = digest_of(raw)
    if said.startswith("sha256:") and said != digest:
        raise DigestError(
            f"{session.endpoint.host.name} took the manifest {digest} for another, {said[:80]!a}"
        )


# --- one request -----------------------------------------------------------------------------------------


def _mount(session: Session, digest: Digest, source: str) -> bool:
    """Whether the registry took the blob from its repository *source*."""
    query = urlencode({"mount": digest, "from": source})
    scopes = (*push_scope(session), f"repository:{source}:pull")
    request = Request("POST", session.url(f"blobs/uploads/?{query}"), {"Content-Length": "0"}, scopes)
    try:
        with session.ask(request) as answer:
            return answer.status == 201
    except RegistryError as error:
        if error.status in (401, 403):  # it may be ours to write here, and not to read there
            return False
        raise


def _start(session: Session) -> tuple[str, int]:
    """Begin an upload: where to send, and how many bytes a chunk should have."""
    request = Request("POST", session.url("blobs/uploads/"), {"Content-Length": "0"}, push_scope(session))
    with session.ask(request) as answer:
        if answer.status != 202:
            raise session.failed(answer, f"pushing to {session.endpoint.repository}")
        least = answer.header("OCI-Chunk-Min-Length")
        size = int(least) if re.fullmatch(r"[0-9]{1,10}", least) else 0
        return session.located(answer), min(max(CHUNK, size), _LARGEST_CHUNK)


def _finish(session: Session, location: str, blob: Outgoing, body: Body, size: int) -> None:
    url = location + ("&" if "?" in location else "?") + urlencode({"digest": blob.digest})
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
    request = Request(
        "PUT", url, headers, push_scope(session), body, session.context.patience.commit, again=False
    )
    with session.ask(request) as answer:
        if not 200 <= answer.status < 300:
            raise session.failed(answer, f"pushing {blob.digest}")


def _send_whole(session: Session, blob: Outgoing) -> None:
    location, _ = _start(session)
    _finish(session, location, blob, lambda: _Whole(session, blob), blob.size)


def _worth_chunks(error: RegistryError) -> bool:
    if isinstance(error, Unreachable):
        return error.transient
    return error.status == 413 or error.status >= 500


class _Whole(io.RawIOBase):
    """A blob on its way out: verified, counted, and stopped when the transfer is."""

    def __init__(self, session: Session, blob: Outgoing) -> None:
        super().__init__()
        self._stop = session.context.stop
        self._blob = blob
        self._source = VerifiedReader(_opened(blob), blob.digest, blob.size)
        self._sent = 0

    def read(self, size: int = -1, /) -> bytes:
        self._stop.check()
        try:
            data = self._source.read(size)
        except OSError as error:
            raise _unreadable(self._blob, error) from None
        self._sent += len(data)
        self._blob.at(self._sent)
        return data

    def close(self) -> None:
        self._source.close()
        super().close()


class _Part(io.RawIOBase):
    """The bytes of a blob from *begin* up to *end*; only the registry can verify them, when it has all."""

    def __init__(self, session: Session, blob: Outgoing, begin: int, end: int) -> None:
        super().__init__()
        self._stop = session.context.stop
        self._blob = blob
        self._at, self._end = begin, end
        self._source = _opened(blob)
        self._source.seek(begin)

    def read(self, size: int = -1, /) -> bytes:
        self._stop.check()
        left = self._end - self._at
        try:
            data = self._source.read(left if size < 0 else min(size, left))
        except OSError as error:
            raise _unreadable(self._blob, error) from None
        if left and not data:
            raise DigestError(f"{self._blob.digest} ends after {self._at} of {self._blob.size} bytes")
        self._at += len(data)
        self._blob.at(self._at)
        return data

    def close(self) -> None:
        self._source.close()
        super().close()


def _opened(blob: Outgoing) -> IO[bytes]:
    try:
        return blob.open()
    except OSError as error:
        raise _unreadable(blob, error) from None


def _unreadable(blob: Outgoing, error: OSError) -> ImageError:
    return ImageError(f"{blob.digest} can't be read: {error.strerror}", "sandbox image check --repair")


# --- chunks ------------------------------------------------------------------------------------------------


class _Chunks:
    """An upload in chunks, taken up again where it broke, or begun anew where the registry has lost it."""

    def __init__(self, session: Session, blob: Outgoing) -> None:
        self._session = session
        self._blob = blob
        self._failures = 0
        self._furthest = 0

    def send(self) -> None:
        location, chunk = _start(self._session)
        offset = 0
        while True:
            try:
                while offset < self._blob.size:
                    location, offset = self._patch(location, offset, chunk)
                    self._went(offset)
                _finish(self._session, location, self._blob, io.BytesIO, 0)
                return
            except RegistryError as problem:
                self._failed(problem)
            state = self._state(location)
            if state is None:
                location, chunk = _start(self._session)
                offset = 0
            else:
                location, offset = state

    def _went(self, offset: int) -> None:
        """Only what goes further than before makes up for failures: a registry may lose it again."""
        self._blob.at(offset)
        if offset > self._furthest:
            self._furthest, self._failures = offset, 0

    def _failed(self, problem: RegistryError) -> None:
        self._failures += 1
        retryable = _worth_chunks(problem) or problem.status in (404, 416)
        if not retryable or self._failures >= self._session.context.retry.tries:
            raise problem
        self._session.pause(self._failures - 1)

    def _patch(self, location: str, offset: int, chunk: int) -> tuple[str, int]:
        """Send what begins at *offset*; where to go on, and from which offset."""
        end = min(offset + chunk, self._blob.size)
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(end - offset),
            "Content-Range": f"{offset}-{end - 1}",
        }
        scopes, seconds = push_scope(self._session), self._session.context.patience.commit
        body = partial(_Part, self._session, self._blob, offset, end)
        request = Request("PATCH", location, headers, scopes, body, seconds, again=False)
        with self._session.ask(request) as answer:
            if answer.status not in (202, 204):
                raise self._session.failed(answer, f"pushing a chunk of {self._blob.digest}")
            taken = _taken(answer, end)
            if not offset < taken <= end:
                raise RegistryError(f"{self._session.endpoint.host.name} loses what it is sent", status=416)
            return self._session.located(answer), taken

    def _state(self, location: str) -> tuple[str, int] | None:
        """Where to go on, and how many bytes the registry has; None: it no longer knows of the upload."""
        with self._session.ask(Request("GET", location, scopes=push_scope(self._session))) as answer:
            if not 200 <= answer.status < 300:
                return None
            taken = _taken(answer, 0)
            if taken > self._blob.size:
                return None
            return (self._session.located(answer) if answer.header("Location") else location), taken


def _taken(answer: Answer, default: int) -> int:
    """How many bytes a registry has, by its Range header: "0-N"; *default* if it doesn't say."""
    match = _RANGE.fullmatch(answer.header("Range"))
    if not match:
        return default
    # "0-0" is a single byte, and what some say that have nothing
    return int(match[1]) + 1 if match[1] != "0" else min(default, 1)
