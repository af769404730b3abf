"""Digests, and readers that hold a blob to its digest and size.

The digest of a blob is the hash of its bytes as they were transferred (image-spec, descriptor.md). What was
not read to its end through a `VerifiedReader` was not verified. Nothing here knows where blobs are kept.
"""

from __future__ import annotations

import hashlib
import io
import re
from typing import IO, TYPE_CHECKING

from sandbox.errors import DigestError

if TYPE_CHECKING:
    from hashlib import _Hash

__all__ = ["Digest", "VerifiedReader", "digest_of", "parse_digest"]

#: The algorithms that the image specification registers, with the length of their hexadecimal form.
#: Anything else is refused, since what can't be computed can't be verified.
_HEX_LENGTH = {"sha256": 64, "sha512": 128}
_DIGEST = re.compile(r"(sha256):([0-9a-f]{64})|(sha512):([0-9a-f]{128})")


class Digest(str):
    """A digest such as "sha256:6c3c…", known to be well-formed: it may be a file's name.

    Raises:
        DigestError: the text is no digest, or of an algorithm that isn't supported.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Digest:
        if not isinstance(text, str) or not _DIGEST.fullmatch(text):
            raise DigestError(_complaint(text))
        return super().__new__(cls, text)

    @property
    def algorithm(self) -> str:
        """ "sha256" or "sha512"."""
        return self.partition(":")[0]

    @property
    def hex(self) -> str:
        """The hash itself, in hexadecimal, lower case."""
        return self.partition(":")[2]

    def hasher(self) -> _Hash:
        """A new hash object of this digest's algorithm."""
        return hashlib.new(self.algorithm)


def parse_digest(text: str) -> Digest:
    """*text* as a digest; see `Digest`."""
    return Digest(text)


def _complaint(text: object) -> str:
    shown = ascii(text if isinstance(text, str) else str(text))[1:-1][:160]
    if not isinstance(text, str):
        return f"{shown} is not a digest"
    algorithm, colon, _ = text.partition(":")
    if not colon:
        return f'"{shown}" is not a digest; one is written sha256:HEX'
    if algorithm not in _HEX_LENGTH:
        return f'"{shown}" is a digest by an algorithm that is not supported; those are sha256 and sha512'
    length = _HEX_LENGTH[algorithm]
    return f'"{shown}" is not a digest: {length} lower-case hexadecimal digits follow "{algorithm}:"'


def digest_of(data: bytes, algorithm: str = "sha256") -> Digest:
    """The digest of *data*."""
    return Digest(f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}")


class VerifiedReader(io.RawIOBase):
    """Reads *source* and raises `DigestError` unless it is exactly *size* bytes with *digest*.

    The last bytes are given only if all of them are right, so that nothing wrong is ever passed on whole;
    that nothing follows is known with the end (an empty read). Closing closes *source*.
    """

    def __init__(self, source: IO[bytes], digest: Digest, size: int) -> None:
        super().__init__()
        self._source = source
        self._digest = digest
        self._size = size
        self._seen = 0
        self._hash = digest.hasher()

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """As `io.RawIOBase.readinto`; raises `DigestError`."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int = -1, /) -> bytes:
        """Up to *size* bytes, all that is left for -1, b"" at the end; raises `DigestError`."""
        if size is None or size < 0:
            return self.readall()
        if size == 0:
            return b""
        data = self._source.read(min(size, self._size - self._seen + 1))
        self._seen += len(data)
        if self._seen > self._size:
            raise DigestError(f"{self._digest} goes on after the {self._size} bytes that were announced")
        if not data and self._seen < self._size:
            raise DigestError(f"{self._digest} ends after {self._seen} of {self._size} bytes")
        self._hash.update(data)
        if self._seen == self._size:
            self._verify()
        return data

    def _verify(self) -> None:
        if self._hash.hexdigest() != self._digest.hex:
            found = f"{self._digest.algorithm}:{self._hash.hexdigest()}"
            raise DigestError(f"the content of {self._digest} is another: its digest is {found}")

    def close(self) -> None:
        """Close this reader and its source."""
        if not self.closed:
            self._source.close()
        super().close()
