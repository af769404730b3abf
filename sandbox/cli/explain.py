"""`sandbox explain`: the merged profile, where each value came from, and the plan."""

from __future__ import annotations

from collections.abc import Sequence

from sandbox.cli.common import LINES, Parser, profile_option
from sandbox.cli.planned import prepared_for
from sandbox.launch.prepare import Prepared
from sandbox.words import printable, quote

__all__ = ["main", "show"]

_DESCRIPTION = """\
Show what `sandbox run` with the same options would do, and run nothing: the merged profile with
the place each value came from, then the plan, step by step.
"""


def main(arguments: list[str]) -> int:
    from sandbox.profile import add_options, overrides_from

    parser = Parser("explain", "[options] [--] [COMMAND ...]", _DESCRIPTION)
    profile_option(parser)
    add_options(parser)
    words, command = parser.split(arguments)
    options = parser.parse_options(words)
    prepared = prepared_for(options.profile, overrides_from(options))
    return show(prepared, prepared.argv(command))


def show(prepared: Prepared, command: Sequence[str]) -> int:
    """Print the profile and the plan of *prepared*."""
    from sandbox.profile import show as profile_text

    profile = prepared.profile
    print(f"# profile {printable(profile.name)}")
    print(printable(profile_text(profile), LINES))
    print("# plan")
    for line in prepared.plan.describe():
        print(printable(line))
    if command:
        print(f"run: {' '.join(map(quote, command))}")
    return 0
