"""`sandbox doctor` as a value: what works on this machine, and what would hold each limit."""

from __future__ import annotations

from sandbox import host
from sandbox.host.model import Check
from sandbox.plan import mechanisms
from sandbox.plan.resolve import hard_limits

__all__ = ["doctor"]


def doctor() -> tuple[Check, ...]:
    """All rows of `sandbox doctor`, in the order in which they are worth reading. Each thing is really tried
    once: this starts programs, and takes about a second. Raises nothing."""
    rows, machine = host.examine()
    return (*rows, *mechanisms.rows(machine, hard_limits()))
