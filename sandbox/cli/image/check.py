"""`sandbox image check`: whether the store is as it should be, and what mends it."""

from __future__ import annotations

from sandbox.cli.common import OURS, Parser, say
from sandbox.cli.image.common import json_options, print_json, quiet_option, store
from sandbox.image import check as checking
from sandbox.words import printable

__all__ = ["check"]


def check(arguments: list[str]) -> int:
    parser = Parser(
        "image check",
        "[--repair]",
        "Read everything that is kept of images, hold it against its digests, and unpack every layer again\n"
        "to compare: this takes as long as that does.",
        "Exit status: 0 when nothing is wrong, or everything was mended; else 125.",
    )
    parser.add_argument(
        "--repair",
        action="store_true",
        help="remove what is damaged, so that it can be fetched or made again",
    )
    quiet_option(parser, "only the exit status")
    json_options(parser)
    options = parser.parse(arguments)
    problems = checking.check(store(), repair=options.repair)
    left = [each for each in problems if not each.repaired]
    if options.json:
        print_json([each._asdict() for each in problems])
    elif not options.quiet:
        for each in problems:
            print(printable(f"{'mended: ' if each.repaired else ''}{each.what}"))
            if each.mend and not each.repaired:
                print(printable(f"  mend: {each.mend}"))
        if not problems:
            say("everything is as it should be")
    return OURS if left else 0
