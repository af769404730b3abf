"""Platforms, and the choice from an index."""

from __future__ import annotations

import subprocess

import pytest

from sandbox.errors import ImageError
from sandbox.image.digest import digest_of
from sandbox.image.manifest import Descriptor
from sandbox.image.platform import Platform, accepts, choose, host_platform, parse_platform


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("linux/amd64", "linux/amd64"),
        ("amd64", "linux/amd64"),
        ("x86_64", "linux/amd64"),
        ("linux/amd64/v1", "linux/amd64"),
        ("linux/amd64/v3", "linux/amd64/v3"),
        ("aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm64/8", "linux/arm64"),
        ("arm", "linux/arm"),
        ("linux/arm/v7", "linux/arm"),
        ("armhf", "linux/arm"),
        ("armel", "linux/arm/v6"),
        ("Linux/ARM/V6", "linux/arm/v6"),
        ("i386", "linux/386"),
        ("riscv64", "linux/riscv64"),
    ],
)
def test_names(text: str, canonical: str) -> None:
    platform = parse_platform(text)
    assert str(platform) == canonical
    assert parse_platform(canonical) == platform


@pytest.mark.parametrize(
    "text", ["", "linux/", "/", "linux/a/b/c", "windows/amd64", "linux/am d64", "x\x1b[0m"]
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(ImageError) as caught:
        parse_platform(text)
    assert caught.value.mend and "linux/" in caught.value.mend


def test_this_machine() -> None:
    debian = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True)
    assert host_platform() == parse_platform(debian.stdout.strip())


def entry(text: str | None) -> Descriptor:
    parts = text.split("/") if text else []
    return Descriptor("m", digest_of(repr(text).encode()), 1, platform=Platform(*parts) if parts else None)


def chosen(wanted: str, *offered: str | None) -> str | None:
    found = choose([entry(each) for each in offered], parse_platform(wanted), "x:1").platform
    return str(found) if found else None


@pytest.mark.parametrize(
    ("wanted", "offered", "expected"),
    [
        ("amd64", ["linux/arm64", "linux/amd64"], "linux/amd64"),
        ("amd64", ["linux/amd64", "linux/amd64/v3"], "linux/amd64"),
        ("linux/amd64/v4", ["linux/amd64", "linux/amd64/v3", "linux/amd64/v2"], "linux/amd64/v3"),
        ("linux/amd64/v2", ["linux/amd64/v3", "linux/amd64"], "linux/amd64"),
        ("arm", ["linux/arm/v5", "linux/arm/v6"], "linux/arm/v6"),
        ("linux/arm/v6", ["linux/arm/v5", "linux/arm"], "linux/arm/v5"),
        ("linux/arm64/v9", ["linux/arm64"], "linux/arm64"),
        ("amd64", ["windows/amd64", None], None),
        ("amd64", ["unknown/unknown", "linux/amd64", "unknown/unknown"], "linux/amd64"),
    ],
)
def test_the_choice(wanted: str, offered: list[str | None], expected: str | None) -> None:
    assert chosen(wanted, *offered) == expected


@pytest.mark.parametrize(
    ("wanted", "offered"),
    [
        ("amd64", ["linux/amd64/v2"]),  # it may not run here
        ("amd64", ["linux/386"]),
        ("arm", ["linux/arm64"]),
        ("linux/arm/v6", ["linux/arm"]),
        ("linux/arm64", ["linux/arm64/v9"]),
        ("amd64", []),
        ("amd64", [None, None]),
    ],
)
def test_no_choice(wanted: str, offered: list[str | None]) -> None:
    with pytest.raises(ImageError, match="x:1 has no image for linux/"):
        chosen(wanted, *offered)


def test_those_there_are_listed() -> None:
    with pytest.raises(ImageError) as caught:
        chosen("riscv64", "linux/amd64", "unknown/unknown", "linux/arm64", "windows/amd64")
    assert caught.value.message == "x:1 has no image for linux/riscv64; it has linux/amd64, linux/arm64"
    assert caught.value.mend == "ask for one of those: --platform linux/amd64"


def test_hostile_names_of_platforms_do_no_harm() -> None:
    offered = [Descriptor("m", digest_of(b""), 1, platform=Platform("linux", "\x1b]0;" + "x" * 1000))] * 100
    with pytest.raises(ImageError) as caught:
        choose(offered, parse_platform("amd64"), "x:1")
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 1000


def test_accepts() -> None:
    assert accepts(parse_platform("linux/arm/v7"), parse_platform("linux/arm/v6"))
    assert not accepts(parse_platform("linux/arm/v6"), parse_platform("linux/arm/v7"))
