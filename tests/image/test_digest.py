"""Digests and verified readers."""

from __future__ import annotations

import hashlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.errors import DigestError
from sandbox.image.digest import Digest, VerifiedReader, digest_of, parse_digest


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_digest(algorithm: str) -> None:
    encoded = hashlib.new(algorithm, b"x").hexdigest()
    digest = parse_digest(f"{algorithm}:{encoded}")
    assert (digest.algorithm, digest.hex) == (algorithm, encoded)
    assert digest == f"{algorithm}:{encoded}" == digest_of(b"x", algorithm)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a digest"),
        ("sha256", "not a digest"),
        ("sha256:", "64 lower-case"),
        ("sha256:" + "A" * 64, "64 lower-case"),
        ("sha256:" + "a" * 63, "64 lower-case"),
        ("sha256:" + "a" * 64 + "\n", "64 lower-case"),
        ("sha256:" + "a" * 128, "64 lower-case"),
        ("sha512:" + "a" * 64, "128 lower-case"),
        ("sha256:../../" + "a" * 58, "64 lower-case"),
        ("md5:" + "a" * 32, "not supported"),
        (None, "not a digest"),
    ],
)
def test_what_is_none(text: str, said: str) -> None:
    with pytest.raises(DigestError, match=said):
        Digest(text)


def reader(data: bytes, digest: Digest | None = None, size: int | None = None) -> VerifiedReader:
    return VerifiedReader(io.BytesIO(data), digest or digest_of(data), len(data) if size is None else size)


@given(st.binary(max_size=300), st.integers(1, 50))
def test_what_is_right_is_read(data: bytes, block: int) -> None:
    verified = reader(data)
    assert b"".join(iter(lambda: verified.read(block), b"")) == data
    assert reader(data).read() == data
    assert io.BufferedReader(reader(data)).read() == data


@given(st.binary(max_size=100), st.binary(max_size=100), st.integers(1, 40))
def test_other_content_is_never_taken_for_it(wanted: bytes, given_: bytes, block: int) -> None:
    verified = reader(given_, digest_of(wanted), len(wanted))
    if wanted == given_:
        return
    with pytest.raises(DigestError):
        while verified.read(block):
            pass


def test_excess_is_told_without_reading_on() -> None:
    class Endless(io.RawIOBase):
        asked = 0

        def read(self, size: int = -1, /) -> bytes:
            self.asked += size
            return b"x" * size

    source = Endless()
    with pytest.raises(DigestError, match="goes on after the 10 bytes"):
        VerifiedReader(source, digest_of(b""), 10).read()  # type: ignore[arg-type]
    assert source.asked == 11


def test_the_source_is_closed_with_it() -> None:
    source = io.BytesIO(b"x")
    with VerifiedReader(source, digest_of(b"x"), 1):
        pass
    assert source.closed


@given(st.binary(min_size=1, max_size=100), st.integers(0, 99), st.integers(1, 40))
def test_the_last_bytes_are_withheld_until_all_are_right(data: bytes, at: int, block: int) -> None:
    wrong = bytearray(data)
    wrong[at % len(data)] ^= 1
    verified, given_ = reader(bytes(wrong), digest_of(data)), 0
    with pytest.raises(DigestError, match="the content of"):
        while True:
            given_ += len(verified.read(block))
    assert given_ < len(data)
