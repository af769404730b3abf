"""Out of a repository: manifests and blobs, verified by size and digest (distribution-spec, "Pull").

A manifest comes as bytes with its type, to be parsed and stored by others. A blob is written to a sink that
may have its beginning from an earlier run: only the rest is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from sandbox.errors import DigestError, RegistryError
from sandbox.image.digest import Digest, digest_of
from sandbox.image.manifest import MANIFEST_LIMIT, MANIFEST_TYPES, Descriptor
from sandbox.image.registry.session import Session
from sandbox.image.registry.tokens import error_text
from sandbox.image.registry.transport import Answer, Request, Unreachable

__all__ = [
    "Document",
    "Sink",
    "fetch_blob",
    "fetch_document",
    "fetch_manifest",
    "find_manifest",
    "has_blob",
    "pull_scope",
]

#: So many bytes make up for an attempt that failed.
_PROGRESS = 1 << 20
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/(?:([0-9]{1,19})|\*)")


class Sink(Protocol):
    """Where a blob is written. `offset`: how many bytes are there."""

    @property
    def offset(self) -> int: ...

    def write(self, data: bytes, /) -> object:
        """Append."""

    def reset(self) -> None:
        """Begin again: drop what is there."""


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest or index as it came: the bytes, the announced type, and the digest that they have."""

    raw: bytes
    media_type: str
    digest: Digest


def pull_scope(session: Session) -> tuple[str, ...]:
    """What a token must be good for to read."""
    return (f"repository:{session.endpoint.repository}:pull",)


def fetch_manifest(session: Session, identifier: str, expected: Descriptor | None = None) -> Document:
    """The manifest or index that a tag or digest names; *expected* is what an index says of it.

    Raises:
        RegistryError: it is not there, or can't be had.
        DigestError: it is not what its digest or *expected* says.
    """
    what = f"the manifest {_name(session, identifier)}"
    limit = expected.size if expected else MANIFEST_LIMIT
    if limit > MANIFEST_LIMIT:
        raise RegistryError(f"{what} has {limit} bytes, more than {MANIFEST_LIMIT}")
    request = Request(
        "GET",
        session.url(f"manifests/{identifier}"),
        {"Accept": ", ".join(MANIFEST_TYPES)},
        pull_scope(session),
    )
    with session.ask(request) as answer:
        if answer.status == 404:
            said = error_text(answer)
            raise RegistryError(
                f"there is no {_name(session, identifier)}" + (f": {said}" if said else ""), status=404
            )
        if answer.status != 200:
            raise session.failed(answer, what)
        raw = answer.read(limit)
        media_type = answer.header("Content-Type")
        said = answer.header("Docker-Content-Digest")
        encoding = _encoding(answer)
    wanted = expected.digest if expected else (Digest(identifier) if ":" in identifier else None)
    digest = digest_of(raw, wanted.algorithm if wanted else "sha256")
    if (wanted and digest != wanted) or (expected and len(raw) != expected.size):
        raise DigestError(f"{what} is not what its digest says: what came has the digest {digest}{encoding}")
    # By tag, only the registry knows the digest; what it says of another algorithm can't be compared.
    if said.startswith(f"{digest.algorithm}:") and said != digest:
        raise DigestError(f"{what} is not what the registry says it is: it has the digest {digest}{encoding}")
    return Document(raw, media_type, digest)


def find_manifest(session: Session, identifier: str) -> Digest | None:
    """The digest that the registry says a tag or digest has, without reading the manifest; None: not there.

    Raises:
        RegistryError: the registry does not say.
    """
    request = Request(
        "HEAD",
        session.url(f"manifests/{identifier}"),
        {"Accept": ", ".join(MANIFEST_TYPES)},
        pull_scope(session),
    )
    with session.ask(request) as answer:
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise session.failed(answer, f"looking for the manifest {_name(session, identifier)}")
        said = answer.header("Docker-Content-Digest")
    return Digest(said) if said else None


def fetch_document(session: Session, blob: Descriptor, limit: int) -> bytes:
    """A small blob, such as a configuration, of at most *limit* bytes.

    Raises:
        RegistryError: it is larger, not there, or can't be had.
        DigestError: it is not what its digest says.
    """
    if blob.size > limit:
        raise RegistryError(f"{_name(session, blob.digest)} has {blob.size} bytes, more than {limit}")
    request = Request("GET", session.url(f"blobs/{blob.digest}"), scopes=pull_scope(session))
    with session.ask(request) as answer:
        if answer.status != 200:
            raise session.failed(answer, f"fetching {_name(session, blob.digest)}")
        raw = answer.read(blob.size)
        encoding = _encoding(answer)
    if len(raw) != blob.size or digest_of(raw, blob.digest.algorithm) != blob.digest:
        raise DigestError(f"{_name(session, blob.digest)} is not what its digest says{encoding}")
    return raw


def fetch_blob(session: Session, blob: Descriptor, sink: Sink, at: Callable[[int], None]) -> None:
    """Write what *sink* lacks of *blob*; *at* is told how many bytes are there. The sink verifies the digest.

    A connection that breaks is taken up where it broke, for as long as there is progress.

    Raises:
        RegistryError: it is not there, of another size, or can't be had.
    """
    fetch = _Fetch(session, blob, sink, at)
    failures = 0
    while sink.offset < blob.size:
        before = sink.offset
        problem = fetch.attempt()
        if problem is None:
            continue
        failures = 0 if sink.offset - before >= _PROGRESS else failures
        failures += 1
        if failures >= session.context.retry.tries:
            raise problem
        session.pause(failures - 1)


class _Fetch:
    def __init__(self, session: Session, blob: Descriptor, sink: Sink, at: Callable[[int], None]) -> None:
        self._session = session
        self._blob = blob
        self._sink = sink
        self._at = at
        self._ranges = True

    def attempt(self) -> Unreachable | None:
        """One request; the problem, when the body broke off."""
        if self._sink.offset and not self._ranges:
            self._sink.reset()
        began = self._sink.offset
        headers = {"Range": f"bytes={began}-"} if began else {}
        url = self._session.url(f"blobs/{self._blob.digest}")
        with self._session.ask(Request("GET", url, headers, pull_scope(self._session))) as answer:
            if began and not self._continues(answer, began):
                self._ranges = False
                if answer.status != 200:  # 416, or a range that was not asked for
                    return None
                self._sink.reset()
            elif answer.status not in (200, 206) or (answer.status == 206 and not began):
                raise self._session.failed(answer, f"fetching {_name(self._session, self._blob.digest)}")
            self._check_length(answer)
            return self._copy(answer)

    def _continues(self, answer: Answer, began: int) -> bool:
        if answer.status in (200, 416):
            return False
        if answer.status != 206:
            raise self._session.failed(answer, f"fetching {_name(self._session, self._blob.digest)}")
        match = _CONTENT_RANGE.fullmatch(answer.header("Content-Range"))
        return bool(match) and int(match[1]) == began and int(match[3] or self._blob.size) == self._blob.size  # type: ignore[index]

    def _check_length(self, answer: Answer) -> None:
        left = self._blob.size - self._sink.offset
        if answer.length is not None and answer.length != left:
            raise RegistryError(
                f"{_name(self._session, self._blob.digest)}: {answer.length} bytes are announced, and "
                f"{left} of {self._blob.size} are to come{_encoding(answer)}"
            )

    def _copy(self, answer: Answer) -> Unreachable | None:
        self._at(self._sink.offset)
        try:
            for part in answer.chunks(self._blob.size - self._sink.offset):
                self._sink.write(part)
                self._at(self._sink.offset)
                self._session.context.stop.check()
        except Unreachable as problem:
            self._session.context.stop.check()
            return problem
        if self._sink.offset < self._blob.size:
            name = _name(self._session, self._blob.digest)
            return Unreachable(f"{name} ends after {self._sink.offset} of {self._blob.size} bytes")
        return None


def has_blob(session: Session, digest: Digest, scopes: tuple[str, ...]) -> bool:
    """Whether the repository has a blob.

    Raises:
        RegistryError: the registry does not say.
    """
    with session.ask(Request("HEAD", session.url(f"blobs/{digest}"), scopes=scopes)) as answer:
        if answer.status not in (200, 404):
            raise session.failed(answer, f"looking for {_name(session, digest)}")
        return answer.status == 200


def _name(session: Session, identifier: str) -> str:
    joint = "@" if ":" in identifier else ":"
    return f"{session.endpoint.host.name}/{session.endpoint.repository}{joint}{identifier}"


def _encoding(answer: Answer) -> str:
    """A likely reason for other bytes than there should be."""
    encoding = answer.header("Content-Encoding")
    if encoding in ("", "identity"):
        return ""
    return " (the server compressed it on the way, unasked)"
