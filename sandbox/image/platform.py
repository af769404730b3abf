"""Platforms: what an image runs on, what this machine is, and the choice from an index.

The names are Go's, as the image specification asks for; a variant is the version of an architecture
("v7" of arm). An image of another architecture is chosen only when it was asked for.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandbox.errors import ImageError
from sandbox.words import printable

if TYPE_CHECKING:
    from sandbox.image.manifest import Descriptor

__all__ = ["Platform", "accepts", "choose", "host_platform", "parse_platform"]

#: What people and uname(2) write -> architecture and variant.
_ARCHITECTURES = {
    "aarch64": ("arm64", ""),
    "armel": ("arm", "v6"),
    "armhf": ("arm", "v7"),
    "armv5l": ("arm", "v5"),
    "armv6l": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv8l": ("arm", "v7"),
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "loongarch64": ("loong64", ""),
    "x86-64": ("amd64", ""),
    "x86_64": ("amd64", ""),
}
#: The variant that is meant where none is written.
_USUAL_VARIANT = {"arm": "v7", "arm64": "v8", "amd64": "v1"}
_WORD = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class Platform:
    """An operating system, an architecture and a variant of it, by their canonical names.

    A variant is "" where it is the usual one; `os_version` is Windows's.
    """

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""

    def __str__(self) -> str:
        """For people and options; what an image says of itself may be anything, and is cleaned and cut."""
        parts = (self.os, self.architecture, self.variant)
        return "/".join(printable(part)[:32] for part in parts if part)


def platform_of(system: str, architecture: str, variant: str = "", os_version: str = "") -> Platform:
    """A platform by whichever names, in canonical ones."""
    name = architecture.lower()
    name, implied = _ARCHITECTURES.get(name, (name, ""))
    variant = variant.lower() or implied
    if variant.isdigit():
        variant = "v" + variant
    if variant == _USUAL_VARIANT.get(name):
        variant = ""
    return Platform(system.lower(), name, variant, os_version)


def parse_platform(text: str) -> Platform:
    """The platform of "linux/arm64/v8", "linux/amd64", or of an architecture alone, as "arm64".

    Raises:
        ImageError: it isn't one.
    """
    parts = text.split("/")
    if len(parts) == 1:
        parts.insert(0, "linux")
    if len(parts) > 3 or not all(_WORD.fullmatch(part) for part in parts):
        raise ImageError(
            f"{printable(text)[:160]} is no platform; one is written OS/ARCHITECTURE[/VARIANT]",
            "write one such as linux/arm64",
        )
    if parts[0].lower() != "linux":
        raise ImageError(f"{text}: only images for linux can be run", f"write linux/{'/'.join(parts[1:])}")
    return platform_of(*parts)


def host_platform() -> Platform:
    """This machine's, as uname(2) tells it."""
    machine = os.uname().machine
    if machine in ("mips", "mips64") and sys.byteorder == "little":
        machine += "le"
    return platform_of("linux", machine)


def _acceptable(wanted: Platform) -> list[Platform]:
    """What can stand in for *wanted*, best first: itself, and older versions of the same architecture."""
    usual = _USUAL_VARIANT.get(wanted.architecture, "")
    match = re.fullmatch(r"v(\d{1,2})", wanted.variant or usual)
    if not match:
        return [wanted]
    lowest = 5 if wanted.architecture == "arm" else int(usual[1:] or match[1])
    versions = range(int(match[1]), min(lowest, int(match[1])) - 1, -1)
    return [platform_of(wanted.os, wanted.architecture, f"v{version}") for version in versions]


def accepts(wanted: Platform, offered: Platform) -> bool:
    """Whether an image for *offered* will do where *wanted* was asked for."""
    return any(_same(offered, platform) for platform in _acceptable(wanted))


def choose(descriptors: Iterable[Descriptor], wanted: Platform, where: str) -> Descriptor:
    """The entry of an index for *wanted*; *where* names the index in messages.

    An entry that names no platform is taken if it is the only one and none matches.

    Raises:
        ImageError: none is for that platform; the message lists those there are.
    """
    entries = list(descriptors)
    for platform in _acceptable(wanted):
        for entry in entries:
            offered = entry.platform
            if offered is not None and _same(offered, platform):
                return entry
    unnamed = [entry for entry in entries if entry.platform is None]
    if len(unnamed) == 1:
        return unnamed[0]
    # Attestations stand in an index as "unknown/unknown".
    offers = {str(entry.platform): entry.platform for entry in entries if entry.platform is not None}
    names = sorted(name for name, offered in offers.items() if offered.os == "linux")
    listed = ", ".join(names[:20]) + (" ..." if len(names) > 20 else "")
    raise ImageError(
        f"{where} has no image for {wanted}; it has {listed or 'none for linux'}",
        f"ask for one of those: --platform {names[0]}" if names else None,
    )


def _same(one: Platform, other: Platform) -> bool:
    return (one.os, one.architecture, one.variant) == (other.os, other.architecture, other.variant)
