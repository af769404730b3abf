"""Keys: digests of everything that a step's result depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

__all__ = ["is_octal", "key_of"]

_DIGITS = frozenset("01234567")


def key_of(inputs: Mapping[str, Any]) -> str:
    """The key of a step with these *inputs*, values of JSON."""
    text = json.dumps(inputs, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def is_octal(text: str) -> bool:
    """Whether *text* is a file's mode."""
    return 0 < len(text) <= 5 and set(text) <= _DIGITS and int(text, 8) <= 0o7777
