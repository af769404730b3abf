"""What profiles can say already, but nothing does yet: the one place that knows.

To make a key or a value available, delete its row. The command line's help, the JSON schema and the reference
text follow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sandbox.profile.kinds import nearest

__all__ = ["LATER", "Later", "lacking", "whole"]


@dataclass(frozen=True, slots=True)
class Later:
    """One row. `instead` is what to use; `values` picks those that are not available (None: all but the
    default); `known` are those that a mistyped one may have been meant to be."""

    key: str
    instead: str
    values: Callable[[Any], bool] | None = None
    known: tuple[str, ...] = ()


_ROWS = (
    Later(
        "process.init",
        "init = true: without it nothing would reap, and PID 1 ignores signals",
        lambda value: not value,
    ),
)

LATER: Mapping[str, Later] = {row.key: row for row in _ROWS}


def lacking(key: str, value: Any) -> str:
    """What to use instead of *value*, which is not the default, for *key*; "" when it works."""
    row = LATER.get(key)
    if row is None or (row.values is not None and not row.values(value)):
        return ""
    return row.instead + (nearest(value, row.known) if row.known else "")


def whole(key: str) -> str:
    """What to use instead of *key* at all; "" when it works with some value."""
    row = LATER.get(key)
    return row.instead if row is not None and row.values is None else ""
