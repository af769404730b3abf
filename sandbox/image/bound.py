"""A directory that the confined child sees. Not in `sandbox.image.confined`, which imports what launches."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Bound"]


class Bound(NamedTuple):
    """A real path on the host, and its name inside."""

    source: str
    inside: str
    writable: bool = False
