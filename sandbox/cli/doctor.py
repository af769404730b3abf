"""`sandbox doctor`: what works on this machine, what does not, and what mends it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING

from sandbox.cli.common import OURS, Parser, say

if TYPE_CHECKING:
    from sandbox.host import Check

__all__ = ["main"]

_DESCRIPTION = """\
Try what sandboxes are made of on this machine, and say of each: whether it works, what was
found, and where it does not, the consequence and the exact commands that mend it.
"""
_EPILOG = "Exit status: 0, or 125 when something is missing that `sandbox run` can't do without."


_INDENT = " " * 21


def main(arguments: list[str]) -> int:
    parser = Parser("doctor", "[--json]", _DESCRIPTION, _EPILOG)
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    if len(arguments) == 4 and arguments[0] in ("--explain", "--tell"):  # for the supervisor, not for people
        if arguments[0] == "--tell":
            say(arguments[3])
        return _explain(*arguments[1:])
    options = parser.parse(arguments)

    from sandbox import host
    from sandbox.launch.doctor import doctor

    checks = doctor()
    if options.json:
        print(host.to_json(checks))
    else:
        print("\n".join(_table(checks)))
    failed = [check.name for check in checks if check.required and not check.ok]
    if failed and not options.json:
        print(f"\n`sandbox run` does not work here: {', '.join(failed)}")
    return OURS if failed else 0


def _table(checks: Iterable[Check]) -> list[str]:
    """What mends several rows is said once."""
    lines: list[str] = []
    mends: dict[str, str] = {}
    for check in checks:
        first = "" if check.ok else mends.setdefault(check.mend, check.name)
        mend = check.mend if first in ("", check.name) else f"as for {first}"
        lines += _lines(check, mend if check.mend else "")
    return lines


def _lines(check: Check, mend: str) -> list[str]:
    """One row of the table, and below it, where something is missing, what follows and what mends it."""
    mark = "ok" if check.ok else ("no" if check.required else "--")
    lines = _wrapped(check.detail, f"{mark:<3} {check.name:<16} ")
    if not check.ok:
        lines += _wrapped(check.consequence, _INDENT)
        for number, line in enumerate(mend.splitlines()):  # not wrapped: it is to be copied
            lines.append(f"{'mend:' if number == 0 else '':>{len(_INDENT) - 1}} {line}")
    return lines


def _wrapped(text: str, begin: str) -> list[str]:
    return textwrap.wrap(text, 100, initial_indent=begin, subsequent_indent=_INDENT, break_on_hyphens=False)


def _explain(operation: str, errno_name: str, message: str) -> int:
    """A set-up failed, and the supervisor has said how: add the row that explains it."""
    from sandbox import host

    check = host.explain(operation, errno_name, message)
    if check is not None:
        say(f"  {check.name}: {check.detail}")
        say(f"  {check.consequence}")
        if check.mend:
            say("  mend: " + check.mend.replace("\n", "\n           "))
    return OURS
